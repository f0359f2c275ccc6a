"""The web example as a process of its own, and clients that talk to it over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType
from typing import Any, Self

import httpx

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "web.py"
PATIENCE_SECONDS = 30.0

Json = dict[str, Any]
Sent = tuple[str, Json]
"""The id and the data of a server-sent event."""


def environment() -> dict[str, str]:
    """Return the environment in which a script finds the packages that this process has."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}


class Board:
    """A running server; it is killed at the end of the block, unless it has ended by itself."""

    def __init__(self, journal: Path, *options: str, port: int = 0) -> None:
        self.journal = journal
        self.log: list[Json] = []
        self._told = Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", EXAMPLE, "--journal", journal, "--port", str(port), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self._listener = Thread(target=self._listen, daemon=True)
        self._listener.start()
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()  # which it prints when it listens
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    # Notes -------------------------------------------------------------------------------------------------------

    def post(self, text: str, topic: str = "general", *, key: str | None = None, **more: object) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.client.post("/notes", json={"topic": topic, "text": text, **more}, headers=headers)

    def write(self, *texts: str) -> list[Json]:
        """Write notes and return their receipts."""
        answers = [self.post(text) for text in texts]
        assert {answer.status_code for answer in answers} == {201}
        return [answer.json() for answer in answers]

    def texts(self, **query: str) -> list[str]:
        """Return the texts of a page of notes."""
        return [note["text"] for note in self.client.get("/notes", params=query).json()["notes"]]

    @contextmanager
    def live(self, *, last: str | None = None, **query: str) -> Iterator[Iterator[Sent]]:
        """Listen to the live stream, as a browser that has seen *last* does."""
        headers = {} if last is None else {"Last-Event-ID": last}
        with self.client.stream("GET", "/live", params=query, headers=headers) as response:
            assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            yield server_sent(response.iter_lines())

    # The process -------------------------------------------------------------------------------------------------

    def wait_for_line(self, matches: Callable[[Json], bool]) -> Json:
        """Return the first line of the log that *matches*, as soon as there is one."""

        def found() -> Json | None:
            return next((line for line in self.log if matches(line)), None)

        with self._told:
            line = self._told.wait_for(found, PATIENCE_SECONDS)
        assert line is not None, self.log
        return line

    def kill(self) -> None:
        """End it as a power switch does."""
        self.process.kill()
        self.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and return its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Return its exit code, after the last line of its log."""
        code = self.process.wait(PATIENCE_SECONDS)
        self._listener.join(PATIENCE_SECONDS)
        return code

    def _listen(self) -> None:
        """Collect the log, which is JSON line by line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._told:
                self.log.append(json.loads(line))
                self._told.notify_all()

    def __enter__(self) -> Self:
        try:
            assert self.client.get("/healthz").status_code == 200, self.log
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.kill()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def server_sent(lines: Iterator[str]) -> Iterator[Sent]:
    """Yield the events of a stream; comments and other fields are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            yield fields["id"], json.loads(fields["data"])
            fields = {}
