"""The example of a worker process: told to stop in the middle, killed, started again, each order has one invoice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from batpak import Coordinate, EventKind, Region, Store

WORKER = Path(__file__).parents[2] / "examples" / "worker.py"
PLACED, INVOICED = EventKind(0x1, 0x001), EventKind(0x2, 0x001)
IMPOSSIBLE = 1
PATIENCE_SECONDS = 60
MANY = 2000
"""Orders whose lines fill a pipe several times: while nobody reads on, the process is in the middle of them."""


class Process:
    """The example at work, and the lines that it has printed."""

    def __init__(self, journal: Path, orders: int) -> None:
        arguments = ["--journal", str(journal), *(("--orders", str(orders)) if orders else ())]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(WORKER), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []

    def read_until(self, event: str, count: int = 1) -> None:
        assert self._process.stdout is not None
        while self.events()[event] < count:
            line = self._process.stdout.readline()
            assert line, f"found no {event} in {self.lines}"
            self.lines.append(line)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        """Read the rest; the exit code."""
        with self._process as process:
            assert process.stdout is not None
            assert process.stderr is not None
            self.lines += process.stdout.readlines()
            assert process.stderr.read() == ""
            return process.wait(PATIENCE_SECONDS)

    def parsed(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def events(self) -> Counter[str]:
        return Counter(line["event"] for line in self.parsed())


def invoices(journal: Path) -> Counter[int]:
    """Return how many invoices there are for each order, by its place among the orders."""
    with Store.open_read_only(journal) as store:
        placed = {event.event_id: number for number, event in enumerate(store.query(Region(kind=PLACED)), 1)}
        return Counter(placed[event.causation_id] for event in store.query(Region(kind=INVOICED)) if event.causation_id)


def one_each(orders: int) -> Counter[int]:
    return Counter(number for number in range(1, orders + 1) if number != 4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_the_next_run_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    first = Process(tmp_path, MANY)
    first.read_until("order.answered", 20)
    first.send(number)
    assert first.end() == 0
    assert 20 <= first.events()["order.answered"] < MANY - IMPOSSIBLE
    assert first.parsed()[-1]["event"] == "store.close"
    assert [first.events()[event] for event in ("worker.started", "worker.stopped", "worker.failed")] == [1, 1, 0]
    assert invoices(tmp_path) == one_each(len(invoices(tmp_path)) + IMPOSSIBLE)

    second = Process(tmp_path, MANY)
    assert second.end() == 0
    assert second.events()["orders.answered"] == 1
    assert first.events()["order.answered"] + second.events()["order.answered"] == MANY - IMPOSSIBLE
    assert invoices(tmp_path) == one_each(MANY)


def test_a_kill_leaves_nothing_half_done_and_the_next_run_goes_on(tmp_path: Path) -> None:
    first = Process(tmp_path, MANY)
    first.read_until("order.answered", 20)
    first.send(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    assert len(invoices(tmp_path)) >= 20 - IMPOSSIBLE
    assert set(invoices(tmp_path).values()) == {1}

    second = Process(tmp_path, MANY)
    assert second.end() == 0
    assert invoices(tmp_path) == one_each(MANY)


def test_what_cannot_be_answered_is_set_aside_and_the_others_are_answered(tmp_path: Path) -> None:
    process = Process(tmp_path, 6)
    assert process.end() == 0
    (parked,) = [line for line in process.parsed() if line["event"] == "order.parked"]
    assert (parked["level"], parked["error"], parked["attempts"]) == ("warning", "ValueError", 3)
    assert invoices(tmp_path) == one_each(6)
    with Store.open(tmp_path) as store:
        assert [str(each.event_id) for each in store.parked("invoices")] == [parked["event_id"]]


def test_without_orders_it_works_until_it_is_told_to_stop(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        for number in range(1, 4):
            store.append(Coordinate(f"order:{number}", "shop"), PLACED, {"number": number, "cents": 100})
    process = Process(tmp_path, 0)
    process.read_until("order.answered", 3)
    process.send(signal.SIGTERM)
    assert process.end() == 0
    assert process.events()["worker.stopped"] == 1
    assert invoices(tmp_path) == Counter({1: 1, 2: 1, 3: 1})
