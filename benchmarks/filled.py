"""Stores that are filled once: closed when nothing is left to be merged, read from, and copied for what writes.

Those of batpak come in special ways too: all events keyed, as many entities as events, and the older format.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

from batpak import Coordinate, NewEvent, Store, StoreConfig
from benchmarks import fresh
from benchmarks.case import US
from benchmarks.events import Item, entity_name, make_items
from benchmarks.rivals import load
from benchmarks.rivals.ours import EVENT_KINDS

KEYED = "keyed"
MANY = "many entities"
FORMAT_1 = "format 1"

BATCH = 1_000
QUIET_SECONDS = 0.25
QUIET_DEADLINE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Filled:
    """A store that holds its events, is closed, and is only read or copied; the ids of some of them."""

    directory: Path
    ids: Sequence[object]

    @property
    def middle(self) -> str:
        """The id of an event from the middle, as a fresh process takes it."""
        return fresh.id_text(self.ids[len(self.ids) // 2])


class Stores:
    """Every store that is measured, filled when it is first asked for."""

    def __init__(self, scratch: Path) -> None:
        """Make all of them below *scratch*."""
        self._scratch = scratch
        self._filled: dict[tuple[str, int], Filled] = {}
        self._numbers = count()

    def filled(self, contender: str, events: int) -> Filled:
        """Return the store of *contender*, or of batpak in a special way, that holds so many events."""
        found = self._filled.get((contender, events))
        if found is None:
            found = self._filled[contender, events] = _fill(contender, self.new_directory(), events)
        return found

    def new_directory(self) -> Path:
        """Return a directory that nobody else uses; it is not there yet."""
        return self._scratch / f"growing-{next(self._numbers):04d}"

    @contextmanager
    def copy(self, contender: str, events: int) -> Iterator[tuple[Filled, Path]]:
        """Give a filled store and a copy of it to write to."""
        filled = self.filled(contender, events)
        with self.new() as directory:
            shutil.copytree(filled.directory, directory)
            yield filled, directory

    @contextmanager
    def new(self) -> Iterator[Path]:
        """Give a directory that is removed behind its use."""
        directory = self.new_directory()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _fill(contender: str, directory: Path, events: int) -> Filled:
    """Make a store of *events* events and close it."""
    kept = _Kept(events)
    if contender in {KEYED, MANY, FORMAT_1}:
        _fill_ours(contender, directory, events, kept)
    else:
        with closing(load(contender).open(directory)) as store:
            for first in range(0, events, BATCH):
                kept.take(store.append_batch(make_items(first, min(BATCH, events - first))))
            if contender == US:
                wait_until_quiet(directory)
    return Filled(directory, kept.ids)


class _Kept:
    """Some of the ids of a store, in random order; all of them would be a burden to every garbage collection."""

    def __init__(self, events: int) -> None:
        drawn = random.Random(1)
        self._wanted = set(drawn.sample(range(events), min(events, fresh.READS)))
        self._drawn = drawn
        self._seen = 0
        self._ids: list[object] = []

    def take(self, ids: Sequence[object]) -> None:
        """Keep those of the next *ids* that are wanted."""
        self._ids += [each for at, each in enumerate(ids, self._seen) if at in self._wanted]
        self._seen += len(ids)

    @property
    def ids(self) -> list[object]:
        """What was kept, shuffled."""
        return self._drawn.sample(self._ids, len(self._ids))


def _fill_ours(kind: str, directory: Path, events: int, kept: _Kept) -> None:
    """Make a store of ours whose events are keyed, or of as many entities, or that writes the older format."""
    order = _shuffled(events) if kind == MANY else []
    with Store.open(directory, config=StoreConfig(segment_format=1 if kind == FORMAT_1 else 2)) as store:
        for first in range(0, events, BATCH):
            items = make_items(first, min(BATCH, events - first))
            if order:
                items = [replace(item, entity=order[at]) for at, item in enumerate(items, first)]
            batch = [new_event(item, uuid4() if kind == KEYED else None) for item in items]
            kept.take([receipt.event_id for receipt in store.append_batch(batch)])
        wait_until_quiet(directory)


def new_event(item: Item, key: UUID | None) -> NewEvent:
    """Return *item* as an append or a batch takes it."""
    coordinate = Coordinate(item.entity, item.scope)
    return NewEvent(coordinate, EVENT_KINDS[item.kind], item.payload, idempotency_key=key)


def _shuffled(entities: int) -> list[str]:
    """Return the names of so many entities, in an order that is the same each time."""
    numbers = list(range(entities))
    random.Random(2).shuffle(numbers)
    return [entity_name(number) for number in numbers]


def wait_until_quiet(directory: Path) -> None:
    """Return when no run has been written or merged for a while."""
    deadline = time.monotonic() + QUIET_DEADLINE_SECONDS
    seen, since = _index_files(directory), time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        time.sleep(QUIET_SECONDS / 20)
        now = _index_files(directory)
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() > deadline:
            raise TimeoutError(f"found runs still being written after {QUIET_DEADLINE_SECONDS} s, expected an end")


def _index_files(directory: Path) -> list[tuple[str, int]]:
    """Return names and lengths of what the index has on disk."""
    found = []
    for entry in os.scandir(directory / "index") if (directory / "index").exists() else ():
        try:
            found.append((entry.name, entry.stat().st_size))
        except FileNotFoundError:
            continue  # merged and removed meanwhile
    return sorted(found)
