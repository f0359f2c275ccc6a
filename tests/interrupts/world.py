"""A store to be interrupted, and the oracle that knows afterwards what it may hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Self
from uuid import UUID

from batpak import Coordinate, EventKind, NewEvent, Receipt, Region, Store, StoreConfig, StoredEvent
from batpak.testing.clock import HandClock

ORDER = Coordinate("order:1", "shop")
PLACED = EventKind(0x1, 0x001)
EVERYTHING = Region(include_system=True)
PATIENCE_SECONDS = 10.0
NEVER_SLOW = 86_400.0
LONG = bool(os.environ.get("BATPAK_LONG"))
"""Whether to run what takes minutes in full."""

Facts = tuple[object, ...]


class World:
    """A store in *directory*, the events that have been acknowledged, and those whose outcome is open.

    Every event is told from all others by a number in its payload. Those of one call stand together: what is open is
    there as a whole or not at all.
    """

    def __init__(self, directory: Path, *, text: int = 20, **options: Any) -> None:
        self.directory = directory
        self._text = "x" * text
        self.config = StoreConfig(**{"clock": HandClock(), "slow_command_seconds": NEVER_SLOW} | options)
        self.store = Store.open(directory, config=self.config)
        self.acknowledged: dict[int, Receipt] = {}
        self.open_calls: list[range] = []
        self._next = 0
        self._seen: dict[int, StoredEvent] = {}
        self._after: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    # What is done to it ------------------------------------------------------------------------------------------

    def numbers(self, count: int = 1) -> range:
        """Take the numbers of new events."""
        first = self._next
        self._next += count
        return range(first, first + count)

    def claim(self, first: int) -> None:
        """Leave the numbers below *first* to others, who know what they did with them."""
        self._next = first

    def append(self, number: int, **options: Any) -> list[Receipt]:
        return [self.store.append(self.coordinate(number), PLACED, self.payload(number), **options)]

    def append_batch(self, numbers: Sequence[int], **options: Any) -> list[Receipt]:
        items = [NewEvent(self.coordinate(number), PLACED, self.payload(number)) for number in numbers]
        return self.store.append_batch(items, **options)

    def coordinate(self, number: int) -> Coordinate:
        """Most events go to one entity, so that its chain is long; every fourth to one of its own."""
        return ORDER if number % 4 else Coordinate(f"order:{number}", "shop")

    def payload(self, number: int) -> dict[str, Any]:
        """The number that tells an event from all others, and as much text as the world wants."""
        return {"number": number, "text": self._text}

    def account(self, numbers: range, outcome: object) -> None:
        """Note what came of a call: receipts, or an interrupt that leaves it open."""
        if isinstance(outcome, list):
            self.acknowledged.update(zip(numbers, outcome, strict=True))
        else:
            self.open_calls.append(numbers)

    # What must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """No lock is held, the next append works, and what has come since the last check is what may have come."""
        self.check_locks()
        numbers = self.numbers()
        self.account(numbers, self.append(numbers[0]))
        self.check_locks()
        self._look(self.store.read(EVERYTHING, after=self._after))
        self._check_seen()

    def check_locks(self) -> None:
        """Every lock gets free and nobody is left as an owner."""
        system, log = self.store._system, self.store._log
        gate, generation = system.gate, system.gate._generation

        def held() -> list[str]:
            found = []
            for driver in system.drivers:
                mailbox = driver.mailbox
                found += [f"{driver.name}.turn"] * (driver.turn.locked() or driver.owner != 0)
                found += [f"{driver.name}.guard"] * (mailbox.guard.locked() or mailbox.guard_owner != 0)
            found += ["device"] * (gate.device.locked() or gate.owner != 0)
            found += ["generation"] * (generation.lock.locked() or generation.owner != 0)
            return found + ["emitting"] * bool(log.emitting)

        until(lambda: not held(), f"end of {', '.join(held())}")

    def check_all(self) -> None:
        """The index equals the file, chains hold, and all of it is there after a close, its end clean."""
        self.check()
        self._check_against_file()
        live = facts(self.store)
        self.store.close()
        self._check_end()
        self.reopen()
        assert self.store.diagnostics().open_report.quarantined == ()
        assert facts(self.store) == live
        self._seen, self._after = {}, None
        self._look(self.store.read(EVERYTHING))
        self._check_seen()

    def reopen(self) -> None:
        """Open the store again; it has been closed."""
        self.store = Store.open(self.directory, config=self.config)

    def _check_against_file(self) -> None:
        """Whoever reads the file alone sees what the index shows; twice, because background work may come between."""
        assert self.store.verify_chain(EVERYTHING).intact
        with Store.open_read_only(self.directory) as reader:
            assert facts(reader) == facts(self.store)
            assert reader.verify_chain(EVERYTHING).intact
            view, other = self.store._system.index.view, reader._view()
            everything = (EVERYTHING, None, None)
            assert [strip(each) for each in view.select(*everything)] == [strip(each) for each in other.select(*everything)]

    def _check_end(self) -> None:
        """A closed segment of format 2 that is not sealed ends with its last frame."""
        with Store.open_read_only(self.directory) as reader:
            last = reader._catalog.metas()[-1]
            ends = [each.offset + each.length for each in reader._view().select(EVERYTHING, None, None) if each.segment == last.segment]
        if last.version == 2 and last.footer is None:
            assert (self.directory / last.name).stat().st_size == max(ends, default=last.frames_start)

    def _look(self, events: Iterator[StoredEvent]) -> None:
        for event in events:
            number = number_of(event)
            assert number not in self._seen, f"event {number} is there twice"
            assert self._after is None or event.global_sequence == self._after + 1
            self._seen[number] = event
            self._after = event.global_sequence

    def _check_seen(self) -> None:
        for number, receipt in self.acknowledged.items():
            event = self._seen.get(number)
            assert event is not None, f"event {number} was acknowledged and is not there"
            found = (event.event_id, event.global_sequence, event.sequence, event.event_hash)
            assert found == (receipt.event_id, receipt.global_sequence, receipt.sequence, receipt.event_hash), number
        for numbers in self.open_calls:
            there = [number for number in numbers if number in self._seen]
            assert there in ([], list(numbers)), f"of the events {list(numbers)} only {there} are there"
        known = set(self.acknowledged).union(*self.open_calls)
        assert known >= set(self._seen), "there are events that nobody has appended"


def number_of(event: StoredEvent) -> int:
    found = event.payload
    assert isinstance(found, dict)
    number = found["number"]
    assert isinstance(number, int)
    return number


def key_of(number: int) -> UUID:
    """The idempotency key of an event that has one."""
    return UUID(int=(0xBA7 << 100) + number)


def facts(store: Any) -> list[Facts]:
    """Everything that a store tells of its events."""
    return [(event.entry, event.raw, event.prev_hash, event.event_hash) for event in store.read(EVERYTHING)]


def strip(record: Any) -> Facts:
    """A row of the index but for its hash, which a run does not hold."""
    return tuple(getattr(record, name) for name in record.__slots__ if name != "event_hash")


def until(condition: Callable[[], bool], waiting_for: str) -> None:
    """Look until *condition* holds; fails after a while."""
    give_up = monotonic() + PATIENCE_SECONDS
    pause = Lock()
    pause.acquire()
    while not condition():
        assert monotonic() < give_up, f"found no {waiting_for} in {PATIENCE_SECONDS} s"
        pause.acquire(timeout=0.001)
