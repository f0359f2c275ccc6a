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
IN_ORDERS = Region(entity="order")
END_BYTES = 65_536
PATIENCE_SECONDS = 10.0
QUIET = {"slow_command_seconds": 86_400, "sync_every_seconds": 3600}
"""No actor's thread wakes by itself: what is not rung for stays lying."""
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
        self.config = StoreConfig(**QUIET | {"clock": HandClock()} | options)
        self.store = Store.open(directory, config=self.config)
        self.acknowledged: dict[int, Receipt] = {}
        self.open_calls: list[range] = []
        self.not_written: list[range] = []
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

    def check(self, *, settled: bool = True) -> None:
        """No lock is held, the next append works, and what has come since the last check is what may have come.

        If it is *settled*, nothing was left lying for that next append either.
        """
        self.check_locks()
        if settled:
            self.check_settled()
        numbers = self.numbers()
        self.account(numbers, self.append(numbers[0]))
        self.check_locks()
        self._look(self.store.read(EVERYTHING, after=self._after))
        self._check_seen()

    def check_settled(self) -> None:
        """Nothing is left lying: no command, no repair, no bytes."""
        writer = self.store._system.writer
        mailboxes = [driver.mailbox for driver in self.store._system.drivers]
        until(lambda: not any(each.items for each in mailboxes), "run of a command that was left lying")
        until(lambda: writer.mark is None, "repair of a turn that was cut short")
        self.check_locks()
        self._check_end()

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
        self.check_against_file()
        live = facts(self.store)
        self.store.close()
        self._check_end_of_closed()
        self.reopen()
        assert self.store.diagnostics().open_report.quarantined == ()
        assert facts(self.store) == live
        self._seen, self._after = {}, None
        self._look(self.store.read(EVERYTHING))
        self._check_seen()

    def reopen(self) -> None:
        """Open the store again; it has been closed."""
        self.store = Store.open(self.directory, config=self.config)

    def check_against_file(self) -> None:
        """Whoever reads the file alone sees what the index shows, by whichever way it is asked."""
        store, verified = self.store, self.store.verify_chain(EVERYTHING)
        with Store.open_read_only(self.directory) as reader:
            live, read = list(store.read(EVERYTHING)), list(reader.read(EVERYTHING))
            assert [facts_of(each) for each in live] == [facts_of(each) for each in read]
            assert verified.intact
            assert reader.verify_chain(EVERYTHING) == verified
            entries = [each.entry for each in live]
            assert store.query(EVERYTHING) == entries
            assert store.by_scope("shop") == store.by_fact(PLACED) == store.query(IN_ORDERS) == entries
            for coordinate in {each.coordinate for each in entries}:
                assert store.stream(coordinate.entity) == [each for each in entries if each.coordinate == coordinate]
            assert store.latest(ORDER.entity) == reader.latest(ORDER.entity)

    def _check_end(self) -> None:
        """Behind the last event of an active segment there is nothing but zeros."""
        written = self.store._system.writer.journal.written
        if written.file is not None:
            rest = written.file.pread(END_BYTES, written.offset)
            assert rest.count(0) == len(rest), "there is something behind the last event"

    def _check_end_of_closed(self) -> None:
        """A closed segment of format 2 that is not sealed ends with its last frame."""
        with Store.open_read_only(self.directory) as reader:
            last = reader._catalog.metas()[-1]
            records = [each for each in reader._view().select(EVERYTHING, None, None) if each.segment == last.segment]
        if last.version == 2 and last.footer is None:
            end = max((each.offset + each.length for each in records), default=last.frames_start)
            assert (self.directory / last.name).stat().st_size == end

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
        for numbers in self.not_written:
            assert not self._seen.keys() & set(numbers), f"of the events {list(numbers)} some were written"
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
    return [facts_of(event) for event in store.read(EVERYTHING)]


def facts_of(event: StoredEvent) -> Facts:
    return event.entry, event.raw, event.prev_hash, event.event_hash


def until(condition: Callable[[], bool], waiting_for: str) -> None:
    """Look until *condition* holds; fails after a while."""
    give_up = monotonic() + PATIENCE_SECONDS
    pause = Lock()
    pause.acquire()
    while not condition():
        assert monotonic() < give_up, f"found no {waiting_for} in {PATIENCE_SECONDS} s"
        pause.acquire(timeout=0.001)
