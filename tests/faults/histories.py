"""Stores of ten segments and their other selves: another store, an earlier moment, a copy that went on differently."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple
from unittest.mock import patch

from batpak import NewEvent, Place, Store, StoreConfig
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.directories import Content, directory, segments, shown
from tests.faults.images import FIRST, PAID, PLACED, PLACES, RESERVED, SECOND, Format, Image, whole

SEGMENTS = 10
EVENTS = 30
FORK = 13
TURN = 15
"""So many events a copy of the store has in common with it: the fork lies within a segment."""


class Moment(NamedTuple):
    """A store as it was left by a kill, or closed, when it had so many events."""

    events: int
    held: Content


class History:
    """A store that grows, event by event, and everything that it has been on the way."""

    def __init__(self, segment_format: Format, word: str, *, start: Moment | None = None, until: int = EVENTS) -> None:
        """Write ten segments, or *until* so many events, from *start* on; *word* tells one history from another."""
        self.clock = HandClock()
        self.clock.advance(1.0 + len(word))
        self.moments: list[Moment] = []
        self.places: dict[str, list[Place]] = {}
        self._files = MemoryFiles() if start is None else directory(start.held)
        self._config = StoreConfig(
            driver="stepped", segment_format=segment_format, segment_bytes=4096, clock=self.clock
        )
        self._word = word
        self.segment_format = segment_format
        self._pad = 1150 if segment_format == 2 else 550  # three events fill a segment
        done = 0 if start is None else start.events
        with patch("batpak.actors.index.RUN_EVENTS", 4), patch("batpak.actors.index.CLOSE_EVENTS", 1):
            self.events = self._live(range(done, until))
        self.moments.append(Moment(until, whole(self._files)))

    def _live(self, numbers: range) -> list[tuple[object, ...]]:
        drivers = SteppedDrivers()
        with Store(self._files.beside(), self._config, drivers) as store:
            for number in numbers:
                self.clock.advance(0.25)
                self._write(store, number)
                while drivers.step("index") or drivers.step("writer"):
                    pass
                store.sync()
                if number % 5 == 4:
                    self._commit(store, number)
                self.moments.append(Moment(number + 1, left(self._files)))
            return shown(store)

    def _write(self, store: Store, number: int) -> None:
        coordinate, kind = (FIRST, PLACED) if number % 3 else (SECOND, PAID)
        pad = f"{self._word} {number} ".ljust(self._pad, "x")
        if number % 4 == 2:
            store.append_batch([NewEvent(coordinate, kind, pad)])
        else:
            store.append(coordinate, kind, pad, idempotency_key=f"key {number}")

    def _commit(self, store: Store, number: int) -> None:
        for name in PLACES:
            with store.cursor(PLACES[name], name=name) as cursor:
                cursor.poll_batch(3)
                cursor.commit()
                if cursor.committed is not None:
                    self.places.setdefault(name, []).append(cursor.committed)

    def closed(self) -> Content:
        """Return the store as it was closed."""
        return self.moments[-1].held

    def at(self, events: int) -> Content:
        """Return the store as it was when it had so many events."""
        return next(moment.held for moment in self.moments if moment.events >= events)

    def image(self, name: str) -> Image:
        """Return what a store that shows this history must answer."""
        return Image(name, self.closed(), self.events, EVENTS, {}, self.places)


@cache
def history(segment_format: Format, word: str = "this") -> History:
    """Return a history; "fork" begins as "this" does, and goes on differently from the `FORK`th event on.

    "turn" does too, and is closed in the segment of the fork, so that a run of it ends there.
    """
    if word in {"fork", "turn"}:
        before = next(moment for moment in history(segment_format).moments if moment.events == FORK)
        return History(segment_format, word, start=before, until=EVENTS if word == "fork" else TURN)
    made = History(segment_format, word)
    assert len(segments(made.closed())) == SEGMENTS, len(segments(made.closed()))
    return made


def left(files: MemoryFiles) -> Content:
    """Return what a kill leaves, with a little of the reserved space."""
    held = _unlocked(whole(files.copy()))
    last = segments(held)[-1]
    return held | {last: held[last][: len(held[last].rstrip(b"\0")) + RESERVED]}


def _unlocked(held: Content) -> Content:
    return {name: data for name, data in held.items() if not name.startswith(".batpak")}


def without_index(held: Content) -> Content:
    """Return a directory whose index is gone, so that every frame is read when it is opened."""
    return {name: data for name, data in held.items() if not name.startswith("index/")}


def files_of(held: Content, folder: str) -> Content:
    """Return the files in one folder."""
    return {name: data for name, data in held.items() if name.startswith(folder + "/")}


def versions(past: History, name: str) -> Iterator[bytes]:
    """Yield what a file was at earlier moments, other than what it is at last."""
    seen = {past.closed()[name]}
    for moment in past.moments:
        data = moment.held.get(name)
        if data is not None and data not in seen:
            seen.add(data)
            yield data
