"""Journals to try things on: a directory in memory, the store that is open on it, and what may become of both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from threading import Lock, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeAlias
from uuid import UUID

import pytest

from batpak import BatpakError, Coordinate, EventKind, NewEvent, Receipt, Region, Store, StoreConfig, StoredEvent
from batpak.testing.clock import HandClock
from batpak.testing.faulty import FaultyFiles
from batpak.testing.memory import MemoryFiles

ORDER = Coordinate("order:42", "shop")
PLACED = EventKind(0x1, 0x001)
PAID = EventKind(0x1, 0x002)
SHIPPED = EventKind(0x2, 0x001)
EVERYTHING = Region(include_system=True)
PATIENCE_SECONDS = 20.0
LONG = bool(os.environ.get("BATPAK_LONG"))
"""Whether to run what takes minutes in full."""
patient = pytest.mark.timeout(7200 if LONG else 120)
"""For tests that take minutes then."""

Facts: TypeAlias = tuple[object, ...]
Loose: TypeAlias = Any
"""What a test passes on although its type may be wrong, or hands back from a thread."""


class Journal:
    """A directory in memory and the store on it; `files` takes faults, which the store meets."""

    def __init__(self, config: StoreConfig | None = None) -> None:
        self.config = config or StoreConfig()
        self.disk = MemoryFiles()
        self.files = FaultyFiles(self.disk)
        self.store = Store(self.files, self.config)

    def reopen(self, **changes: Loose) -> Store:
        """Close and open again, the configuration changed as told."""
        self.store.close()
        return self._open(self.disk.beside(), changes)

    def kill(self, **changes: Loose) -> Store:
        """Go on with what a killed process leaves: everything written, synced or not."""
        return self._go_on_with(self.disk.copy(), changes)

    def cut_power(self, **changes: Loose) -> Store:
        """Go on with what a power cut leaves at worst: what was synced."""
        return self._go_on_with(self.disk.crashed(), changes)

    def lives(self) -> Iterator[Store]:
        """Yield the store as it is, then closed and opened again, then killed and opened again."""
        yield self.store
        yield self.reopen()
        yield self.kill()

    def _go_on_with(self, disk: MemoryFiles, changes: dict[str, Loose]) -> Store:
        self.files.heal()
        close_anyhow(self.store)
        return self._open(disk, changes)

    def _open(self, disk: MemoryFiles, changes: dict[str, Loose]) -> Store:
        self.disk = disk
        self.files = FaultyFiles(disk)
        self.config = replace(self.config, **changes)
        self.store = Store(self.files, self.config)
        return self.store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        close_anyhow(self.store)


def close_anyhow(store: Store) -> None:
    """Close a store whose disk or whose writer may be at fault."""
    with suppress(BatpakError):
        store.close()


def hand_clock(store_or_journal: Store | Journal) -> HandClock:
    """Return the clock driven by hand that a journal was made with."""
    store = store_or_journal if isinstance(store_or_journal, Store) else store_or_journal.store
    clock = store._config.clock
    assert isinstance(clock, HandClock)
    return clock


def new_events(*payloads: Loose, entity: str = "order:42", **options: Loose) -> list[NewEvent]:
    """Return items of a batch that differ in their payload."""
    return [NewEvent(Coordinate(entity, "shop"), PLACED, payload, **options) for payload in payloads]


def payloads(store: Loose, region: Region = EVERYTHING, **options: Loose) -> list[Loose]:
    """Return the payloads of a region, in global order."""
    return [event.payload for event in store.read(region, **options)]


def facts(event: StoredEvent) -> Facts:
    """Return everything that a read tells of an event."""
    return (event.entry, event.timestamp_us, event.raw, event.prev_hash, event.event_hash, event.content_hash)


def all_facts(store: Loose) -> list[Facts]:
    """Return everything that a store holds."""
    return [facts(event) for event in store.read(EVERYTHING)]


def receipt_facts(receipt: Receipt) -> tuple[UUID, int, int, bytes]:
    """Return what every receipt for one event has in common."""
    return receipt.event_id, receipt.global_sequence, receipt.sequence, receipt.event_hash


class Task(Thread):
    """A thread whose outcome, value or error, is asked for by `outcome`."""

    def __init__(self, act: Callable[[], Loose]) -> None:
        super().__init__(name="task", daemon=True)
        self._act = act
        self._value: Loose = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._act()
        except BaseException as error:
            self._error = error

    @property
    def finished(self) -> bool:
        return not self.is_alive()

    def outcome(self) -> Loose:
        """Return what came out, or raise it."""
        self.join(PATIENCE_SECONDS)
        assert not self.is_alive(), "the call hangs"
        if self._error is not None:
            raise self._error
        return self._value

    def error(self) -> BaseException:
        """Return the error that came out."""
        try:
            value = self.outcome()
        except BaseException as error:
            return error
        raise AssertionError(f"found {value!r}, expected an error")


def race(count: int, act: Callable[[int], Loose]) -> list[Loose]:
    """Run *act* with 0 to *count* - 1 in as many threads, released together; the outcomes, errors as values."""
    gate = Lock()
    gate.acquire()

    def run(number: int) -> Loose:
        with gate:
            pass
        try:
            return act(number)
        except Exception as error:
            return error

    tasks = [Task(lambda number=number: run(number)) for number in range(count)]  # type: ignore[misc]
    gate.release()
    return [task.outcome() for task in tasks]


def until(condition: Callable[[], bool], waiting_for: str) -> None:
    """Look until *condition* holds; fails after a while."""
    give_up = monotonic() + PATIENCE_SECONDS
    pause = Lock()
    pause.acquire()
    while not condition():
        assert monotonic() < give_up, f"found no {waiting_for} in {PATIENCE_SECONDS} s"
        pause.acquire(timeout=0.001)


class Held:
    """Holds the writer's turn until `release`; queued commands wait."""

    def __init__(self, store: Store) -> None:
        self._turn = store._writer.turn
        self._turn.acquire()
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._turn.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def waiting(store: Store, call: Callable[[], Loose]) -> Task:
    """Start *call* in a thread and wait until its command lies in the writer's mailbox."""
    queued = len(store._writer.mailbox.items)
    task = Task(call)
    until(lambda: len(store._writer.mailbox.items) > queued, "queued command")
    return task
