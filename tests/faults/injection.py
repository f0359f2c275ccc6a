"""Faults in system calls: a program lives in a process of its own, and strace strikes it at chosen calls.

A `Farm` has two processes that have imported everything and opened nothing. Each is told of a `Case` by a line, makes
the directory, forks, has strace attach to the child, lets it live, and looks at what it left: what the child was
promised came through a pipe, outside the process that is struck and in the order of its calls. Counts of calls begin
anew in each thread: the k-th call of a kind is struck in whichever threads come that far.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, Literal, Self

import pytest

from tests.faults import aftermath
from tests.faults.program import Life, Program
from tests.store.processes import start_python, tell, told

PATIENCE_SECONDS = 30.0
_MEMORY = "/dev/shm"
WHERE = (tempfile.gettempdir(), _MEMORY if os.access(_MEMORY, os.W_OK) else tempfile.gettempdir())
"""Where the two workers have their directories: on a disk, and where a sync takes no time."""
ATTACHED = "attached"
_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)
_CALL = re.compile(r"^(\d+) +([a-z0-9_]+)\(")


@dataclass(frozen=True)
class Case:
    """One life and the fault in it: at calls of *syscall* as strace's `when` says, *what* is injected.

    Without a *syscall* nothing is struck. *begins* says what the directory is like before: "empty", or "torn" by an
    earlier life that was killed while it wrote.
    """

    syscall: str
    what: str = ""
    when: str = "1"
    segment_format: Literal[1, 2] = 2
    begins: str = "empty"
    seed: int = 1
    opens: int = 2
    lies: bool = False
    """Whether the fault does what the system never says it does: then a refusal to open is an answer as well."""
    told: bool = False
    """Whether what the program tells stands in strace's log as well, in the order of all calls."""


@dataclass
class Outcome:
    """How a case came out: whether it was *struck*, *how* it ended, and what was *wrong*, if anything was."""

    case: Case
    struck: int = 0
    how: str = ""
    wrong: str = ""
    facts: list[list[Any]] = field(default_factory=list)
    log: str = ""


def require_strace() -> None:
    """Skip the test where strace cannot attach; fail it in CI, which has to install it."""
    reason = ""
    if sys.platform != "linux" or shutil.which("strace") is None:
        reason = "strace is not installed"
    else:
        with subprocess.Popen(["sleep", "60"]) as sleeper:
            tracer = subprocess.Popen(["strace", "-p", str(sleeper.pid)], stderr=subprocess.PIPE, text=True)
            assert tracer.stderr is not None
            line = tracer.stderr.readline()
            sleeper.kill()
            tracer.communicate()
            if ATTACHED not in line:
                reason = f"strace cannot attach: {line.strip()}"
    if not reason:
        return
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


# The test's side ------------------------------------------------------------------------------------------------------


class Farm:
    """Processes that live through cases; use it in a ``with`` block."""

    def __init__(self) -> None:
        self._workers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        program = "from tests.faults.injection import serve; serve()"
        self._workers = [start_python(program, where) for where in WHERE]
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            try:
                worker.communicate(timeout=PATIENCE_SECONDS)  # it ends with its input, and tidies up
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.communicate()

    def live(self, cases: Sequence[Case]) -> list[Outcome]:
        """Live through *cases*; the outcomes in the same order."""
        waiting: SimpleQueue[int | None] = SimpleQueue()
        for number in range(len(cases)):
            waiting.put(number)
        outcomes: list[Outcome | None] = [None] * len(cases)

        def work(worker: subprocess.Popen[str]) -> None:
            while not waiting.empty():
                number = waiting.get()
                if number is None:
                    return
                outcomes[number] = live(worker, cases[number])

        for _ in self._workers:
            waiting.put(None)
        threads = [Thread(target=work, args=(worker,), daemon=True) for worker in self._workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS * (len(cases) + 1))
        assert not any(thread.is_alive() for thread in threads), "a worker hangs"
        done = [outcome for outcome in outcomes if outcome is not None]
        assert len(done) == len(cases), "a worker died"
        return done

    def counted(self, case: Case, calls: Iterable[str]) -> dict[str, int]:
        """Return how often a thread makes each of *calls* in a life without a fault, at most."""
        outcome = self.live([Case(",".join(calls), begins=case.begins, segment_format=case.segment_format)])[0]
        assert not outcome.wrong, outcome.wrong
        counts: Counter[tuple[str, str]] = Counter()
        for line in outcome.log.splitlines():
            found = _CALL.match(line)
            if found:
                counts[found[1], found[2]] += 1
        most: dict[str, int] = {}
        for (_, name), count in counts.items():
            most[name] = max(most.get(name, 0), count)
        return most


def live(worker: subprocess.Popen[str], case: Case) -> Outcome:
    """Have *worker* live through *case*."""
    tell(worker, json.dumps(asdict(case)))
    found = json.loads(told(worker))
    return Outcome(**{**found, "case": case})


def check(outcomes: Iterable[Outcome]) -> Counter[str]:
    """Fail with the first case that came out wrong; the others counted by how they came out, unreached calls not."""
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.wrong:
            raise AssertionError(f"{outcome.case}\n{outcome.wrong}\ntold: {outcome.facts}\n{outcome.log[-3000:]}")
        if outcome.struck:
            counts[outcome.how] += 1
    return counts


# The worker's side ----------------------------------------------------------------------------------------------------


def serve() -> None:
    """Live through the cases that lines on the standard input tell of."""
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())  # for log lines, which nobody reads
    with tempfile.TemporaryDirectory(prefix="batpak-faults-", dir=sys.argv[1]) as scratch:
        worker = Worker(Path(scratch))
        for line in sys.stdin:
            lines.write(json.dumps(worker.outcome(Case(**json.loads(line)))) + "\n")
            lines.flush()


class Worker:
    """Lives through cases in *scratch*."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._number = 0
        self._torn: dict[tuple[int, int], tuple[Path, list[list[Any]]]] = {}
        os.environ["TZ"] = "UTC"
        # Once without a fault, so that nothing is imported under one.
        Program(scratch / "warm", Life(1, 2), lambda _: None).run()

    def outcome(self, case: Case) -> dict[str, Any]:
        """Live through *case* and look at what it left."""
        outcome = Outcome(case)
        self._number += 1
        place = self._scratch / f"{self._number}"
        place.mkdir()
        try:
            self._live(case, place, outcome)
        except BaseException:
            outcome.wrong = traceback.format_exc()
        shutil.rmtree(place, ignore_errors=True)
        found = asdict(outcome)
        del found["case"]
        if not outcome.wrong:
            found["facts"] = []
        return found

    def _live(self, case: Case, place: Path, outcome: Outcome) -> None:
        directory = place / "store"
        before: list[list[Any]] = []
        if case.begins == "torn":
            torn, before = self._torn_directory(case)
            shutil.copytree(torn, directory)
        first = max((number for fact in before if fact[0] == "try" for number in fact[1]), default=-1) + 1
        life = Life(case.seed, case.segment_format, case.opens, first)
        with Child(directory, life, aftermath.promised(before)) as child:
            with traced(child, case, place / "log"):
                child.begin()
                child.listen(outcome.facts)
            outcome.log = (place / "log").read_text(errors="replace")
            if child.ended:
                child.check_nothing_is_left(but_files=case.syscall == "close")  # which strace keeps from being closed
                outcome.struck = outcome.log.count("(INJECTED)")
            else:
                assert child.status() == signal.SIGKILL, f"it ended by signal {child.status()}"
                outcome.struck = int("signal=KILL" in case.what)
            after = aftermath.Aftermath(directory, life, before + outcome.facts, lies=case.lies, killed=not child.ended)
            outcome.how = after.check()
        if case.what and not case.told:
            outcome.log = "\n".join(line for line in outcome.log.splitlines() if "INJECTED" in line or "+++" in line)

    def _torn_directory(self, case: Case) -> tuple[Path, list[list[Any]]]:
        """Return a directory that a killed process left with half a write at its end, and what that had promised."""
        known = (case.segment_format, case.seed)
        if known not in self._torn:
            directory = self._scratch / f"torn-{case.segment_format}-{case.seed}"
            life = Life(case.seed + 1, case.segment_format, 1, leaves=True)
            facts: list[list[Any]] = []
            with Child(directory, life, set()) as child:
                child.begin()
                child.listen(facts)
            aftermath.tear(directory)
            self._torn[known] = directory, facts
        return self._torn[known]


@contextmanager
def traced(child: Child, case: Case, log: Path) -> Iterator[None]:
    """Have strace look at a process and inject what *case* says; ends when the process has ended."""
    if not case.syscall:
        log.touch()
        yield
        return
    command = [
        "strace",
        "-f",
        "-y",
        "-o",
        str(log),
        "-e",
        f"trace={case.syscall}{',write' * case.told}",
        "-e",
        "signal=none",
    ]
    if case.what:
        command += ["-e", f"inject={case.syscall}:{case.what}:when={case.when}"]
    with subprocess.Popen([*command, "-p", str(child.pid)], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        if ATTACHED not in line:
            raise AssertionError(f"strace: found {line + tracer.stderr.read()!r}, expected it to attach")
        try:
            yield
        finally:
            if child.ended:
                tracer.terminate()  # it lets go of who is alive, and ends by itself with who is not
            tracer.communicate(timeout=PATIENCE_SECONDS)


class Child:
    """A fork of this process that lives *life* when it is told to begin."""

    def __init__(self, directory: Path, life: Life, acknowledged: set[int]) -> None:
        self._directory = directory
        self._life = life
        self._acknowledged = acknowledged
        self.ended = False
        self.signal = 0
        self._waited = False

    def __enter__(self) -> Self:
        hearing, telling = os.pipe()
        beginning, begin = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(hearing)
            os.close(begin)
            self._be(telling, beginning)
        os.close(telling)
        os.close(beginning)
        self._hearing, self._begin = hearing, begin
        return self

    def __exit__(self, *_: object) -> None:
        if not self._waited:
            os.kill(self.pid, signal.SIGKILL)
            self.status()
        os.close(self._hearing)
        os.close(self._begin)

    def _be(self, telling: int, beginning: int) -> None:
        """Live, in the child; then wait to be killed, so that what is left open can be looked at."""
        code = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
            os.read(beginning, 1)
            program = Program(self._directory, self._life, lambda fact: tell_it(telling, fact))
            program._acknowledged = self._acknowledged
            program.run()
            if not self._life.leaves:
                os.read(beginning, 1)
            code = 0
        except BaseException:
            tell_it(telling, ["untyped", "the program", traceback.format_exc()])
        finally:
            os._exit(code)

    def begin(self) -> None:
        """Let it live."""
        os.write(self._begin, b"x")

    def listen(self, facts: list[list[Any]]) -> None:
        """Hear what it tells, until it has ended or is dead."""
        give_up = monotonic() + PATIENCE_SECONDS
        rest = b""
        while True:
            ready, _, _ = select.select([self._hearing], [], [], max(0.0, give_up - monotonic()))
            assert ready, f"it hangs; told: {facts}"
            data = os.read(self._hearing, 65536)
            *lines, rest = (rest + data).split(b"\n")
            facts += [json.loads(line) for line in lines]
            if facts and facts[-1] == ["end"]:
                self.ended = True
                return
            if not data:
                return

    def check_nothing_is_left(self, *, but_files: bool) -> None:
        """Look at what it has open and which threads it has, now that its store is closed."""
        tasks = Path(f"/proc/{self.pid}/task")
        give_up = monotonic() + 2.0
        while len(list(tasks.iterdir())) > 1:
            assert monotonic() < give_up, "threads are left running"
        left = []
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            target = str(entry.readlink())
            if target.startswith(str(self._directory)):
                left.append(target)
        assert but_files or not left, f"descriptors are left open: {left}"

    def status(self) -> int:
        """Wait until it is dead; the signal that killed it, 0 for none."""
        if not self._waited:
            _, status = os.waitpid(self.pid, 0)
            self._waited = True
            self.signal = -min(0, os.waitstatus_to_exitcode(status))
        return self.signal


def tell_it(descriptor: int, fact: list[Any]) -> None:
    """Write one line, whole."""
    os.write(descriptor, json.dumps(fact).encode() + b"\n")
