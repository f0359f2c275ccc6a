"""The index's work between turns: it keeps up, tails come first, and what it does is done in pieces."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from batpak import Store, StoreConfig
from batpak.actors import index
from batpak.actors.index import EASE_EVENTS, MAX_EASE_SECONDS, Index
from batpak.storage import run_builder
from batpak.storage.files import Files
from batpak.storage.run import Run
from batpak.storage.tail import Tail
from batpak.testing.clock import HandClock
from batpak.testing.faulty import FaultyFiles
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.store.journals import ORDER, PLACED, close_anyhow, payloads


class Relief:
    """In the place of the lock that an append waits for: notes how long that would be."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Note a wait."""
        if blocking:
            self.waits.append(timeout)
        return False

    def release(self) -> None:
        """Wake nobody."""


@contextmanager
def stepped(
    files: Files, run_events: int = 100, sync_every: int = 1000
) -> Iterator[tuple[Store, Index, SteppedDrivers]]:
    """Open a store of which no thread does anything by itself."""
    drivers = SteppedDrivers()
    with patch.object(index, "RUN_EVENTS", run_events):
        store = Store(files, StoreConfig(driver="stepped", clock=HandClock(), sync_every_events=sync_every), drivers)
        try:
            yield store, store._system.index, drivers
        finally:
            close_anyhow(store)


def fill(store: Store, count: int) -> None:
    """Append *count* events one by one."""
    for number in range(count):
        store.append(ORDER, PLACED, number)


def frozen(actor: Index) -> int:
    """Return how many frozen tails wait."""
    return sum(isinstance(part, Tail) for part in actor.view.parts) - 1


def is_merging(actor: Index) -> bool:
    """Whether a merge has been begun."""
    return actor._merging is not None


def test_appends_wait_where_tails_have_piled_up_and_only_there() -> None:
    with stepped(MemoryFiles()) as (store, actor, drivers):
        relief = Relief()
        actor._relief = relief  # type: ignore[assignment]
        fill(store, 201)
        assert frozen(actor) == 2
        assert len(relief.waits) == 1
        fill(store, 2 * EASE_EVENTS)
        assert len(relief.waits) == 3
        fill(store, 600)
        assert frozen(actor) > 4
        assert relief.waits[1] < relief.waits[-1] <= MAX_EASE_SECONDS
        while frozen(actor):
            drivers["index"].step()
        waits = len(relief.waits)
        fill(store, EASE_EVENTS * 2 - 90)
        assert len(relief.waits) == waits


def test_nobody_waits_for_work_that_rests_after_a_failure() -> None:
    files = FaultyFiles(MemoryFiles())
    with stepped(files) as (store, actor, drivers):
        relief = Relief()
        actor._relief = relief  # type: ignore[assignment]
        fill(store, 101)
        files.fail("create", errno.ENOSPC, name="index/*", repeat=True)
        assert not drivers["index"].step()
        fill(store, 500)
        assert (frozen(actor), actor.pressed, relief.waits) == (6, 0, [])
        files.heal()
        while drivers["index"].step():
            pass
        assert (frozen(actor), actor.pressed) == (0, 0)


def test_a_merge_waits_for_tails_that_come_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SLICES", 1)
    monkeypatch.setattr(run_builder, "MERGED_RUNS", 2)
    with stepped(MemoryFiles()) as (store, actor, drivers):
        fill(store, 201)
        while not is_merging(actor):
            drivers["index"].step()
        drivers["index"].step()
        fill(store, 100)
        assert (frozen(actor), len(actor.view.parts)) == (1, 4)
        while frozen(actor):
            drivers["index"].step()
            assert is_merging(actor)
        assert [type(part) for part in actor.view.parts] == [Run, Run, Run, Tail]
        while is_merging(actor):
            drivers["index"].step()
        assert len(actor.view.parts) < 4
        assert payloads(store) == [*range(201), *range(100)]


def test_a_merge_of_a_run_that_was_damaged_meanwhile_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SLICES", 1)
    monkeypatch.setattr(run_builder, "MERGED_RUNS", 2)
    files = MemoryFiles()
    with stepped(files) as (store, actor, drivers):
        fill(store, 201)
        while not is_merging(actor):
            drivers["index"].step()
        first = actor.view.parts[0]
        assert isinstance(first, Run)
        actor._replace(first)
        while drivers["index"].step():
            pass
        assert payloads(store) == list(range(201))
        assert sum(part.count for part in actor.view.parts[:-1]) == 200
        names = {f"index/{name}" for name in files.list("index")}
        assert names == {part.name for part in actor.view.parts if isinstance(part, Run)}


def test_the_fsync_begins_when_a_quarter_of_what_it_may_cover_is_written() -> None:
    with stepped(MemoryFiles(), sync_every=8) as (store, _, drivers):
        fill(store, 1)
        assert not drivers["writer"].step()
        assert store.stats().durable_sequence == -1
        fill(store, 1)
        drivers["writer"].step()
        assert store.stats().durable_sequence == 1
        fill(store, 8)  # nobody steps the writer: who reaches the limit waits
        assert store.stats().durable_sequence == 9


def test_a_report_counts_all_that_was_read_again() -> None:
    files = MemoryFiles()
    with stepped(files, 10) as (store, *_):
        fill(store, 35)
        copy = files.copy()
    with patch("batpak.storage.opening.SPILL_EVENTS", 8), stepped(copy) as (store, *_):
        report = store.diagnostics().open_report
        assert (report.path, report.runs, report.tail_events) == ("rebuild", 0, 35)
