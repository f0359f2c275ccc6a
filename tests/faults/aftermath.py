"""What a program left, held against what it was promised: nothing acknowledged is lost, nothing is there by halves.

The oracles O1 to O4 and O6: what was acknowledged is recovered, what is recovered stands in the order in which it was
issued and holds no part of a call, chains verify, a second open changes nothing, and the index, keys and places say
what the events say.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from batpak import CorruptStoreError, Region, Store
from tests.directories import answers, load, segments
from tests.faults.program import EVERYTHING, NAME, PLACED, Life, coordinate, key, number_of

NEVER = ("missing", "untyped", "slow")
GARBAGE = bytes(range(1, 200))
RETRYABLE = ("StorageError", "BackpressureError", "StoreLockedError")


def promised(facts: list[list[Any]]) -> set[int]:
    """Return the numbers of all events that were acknowledged."""
    return {number for fact in facts if fact[0] == "ack" for number in fact[1]}


def tear(directory: Path) -> None:
    """Put half a write behind the end of what a killed process wrote, and a file that it was about to rename."""
    with Store.open_read_only(directory) as store:
        last = store.query(EVERYTHING)[-1]
        record = store._find(last.event_id)
    path = directory / f"{record.segment:06}.fbat"
    with path.open("r+b") as file:
        file.seek(record.offset + record.length)
        file.write(GARBAGE)
    (directory / ".tmp-0-durable.position").write_bytes(GARBAGE)


class Aftermath:
    """The directory that a life left, and what that life was told."""

    def __init__(self, directory: Path, life: Life, facts: list[list[Any]], *, lies: bool, killed: bool) -> None:
        self._directory = directory
        self._life = life
        self._facts = facts
        self._lies = lies
        self._killed = killed

    def check(self) -> str:
        """Hold what is there against the oracles; how the case came out, in a word or two."""
        for fact in self._facts:
            assert fact[0] not in NEVER, fact
        if not self._directory.exists():
            assert not promised(self._facts)
            return "no directory yet"
        try:
            self._check_store()
        except CorruptStoreError:
            if self._lies:
                return "found out"
            raise
        return self._how()

    def _check_store(self) -> None:
        """Open the store three times: as it was left, once more, and without its index."""
        with Store.open(self._directory, config=self._life.config) as store:
            self._check_events(store)
            self._check_keys(store)
            self._check_places(store)
            before = dict(answers(store))
        held = load(self._directory)
        with Store.open(self._directory, config=self._life.config) as store:
            assert dict(answers(store)) == before, "a second open shows the same"
            assert store._system.report.quarantined == ()
        again = load(self._directory)
        assert {name: again[name] for name in segments(again)} == {name: held[name] for name in segments(held)}
        shutil.rmtree(self._directory / "index", ignore_errors=True)
        with Store.open(self._directory, config=self._life.config) as store:
            assert dict(answers(store)) == before, "an index made anew shows the same"
            self._check_goes_on(store)

    def _how(self) -> str:
        if self._killed:
            return "killed, nothing lost"
        told = {fact[0] for fact in self._facts}
        if "poisoned" in told:
            return "poisoned"
        return "typed error" if told & {"error", "unread"} else "unnoticed"

    def _check_events(self, store: Store) -> None:
        """O1, O2, O3."""
        found = [number_of(event) for event in store.read(EVERYTHING)]
        assert found == sorted(set(found)), "the order in which they were issued, each once"
        there = set(found)
        unfinished: set[int] = set()
        for fact in self._facts:
            if fact[0] == "try":
                unfinished = set(fact[1])
                assert not there & unfinished or unfinished <= there, "a call is there whole or not at all"
            elif fact[0] == "ack" and (fact[2] or not self._lies):
                assert set(fact[1]) <= there, f"{fact[1]} was acknowledged"
            elif fact[0] == "refused" and fact[2] in RETRYABLE:
                assert not there & set(fact[1]), f"{fact[1]} was refused and may be tried again"
        assert there <= {number for fact in self._facts if fact[0] == "try" for number in fact[1]}
        assert store.verify_chain().intact

    def _check_keys(self, store: Store) -> None:
        """O6: a key that was used gives the first receipt."""
        events = {number_of(event): event for event in store.read(EVERYTHING)}
        singles = [fact[1][0] for fact in self._facts if fact[0] == "ack" and len(fact[1]) == 1]
        for number in singles[-2:]:
            event = events.get(number)
            if event is None:
                assert self._lies
                continue
            receipt = store.append(coordinate(number), PLACED, event.payload, idempotency_key=key(number))
            assert receipt.duplicate
            assert receipt.event_id == event.event_id

    def _check_places(self, store: Store) -> None:
        """A place is where it was committed, or where it was about to be."""
        placed, placing = -1, -1
        for fact in self._facts:
            if fact[0] == "placed":
                placed = placing = fact[1]
            elif fact[0] == "placing":
                placing = fact[1]
        places = store.places()
        if not places:
            assert placed == -1 or self._lies
            return
        if self._lies and places[0].damage is not None:
            return  # it says so, and whoever wants the place is refused
        assert places[0].damage is None, places[0].damage
        found = -1 if places[0].place is None else places[0].place.global_sequence
        assert found <= store.stats().visible_sequence
        if not self._lies:
            assert found in {placed, placing}, f"{found}: committed was {placed}, {placing} was begun"
        with store.cursor(Region(entity="order"), name=NAME) as cursor:
            event = cursor.poll()
            assert event is None or event.global_sequence > found

    def _check_goes_on(self, store: Store) -> None:
        """Events go behind those that are there."""
        last = store.stats().visible_sequence
        latest = store.latest("order:0")
        expected = -1 if latest is None else latest.sequence
        number = 3 * 10**6
        receipt = store.append(coordinate(number), PLACED, {"n": number}, durable=True, expected_sequence=expected)
        assert receipt.durable
        assert receipt.global_sequence == last + 1
