"""Reads from one store: events by id, entities, everything, pages of regions; and what that store takes up."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from benchmarks.case import Bound, Case, Figures, Line, Measure
from benchmarks.events import entity_name, make_items
from benchmarks.rivals import Rival, installed, load
from benchmarks.rivals.regions import PARTS
from benchmarks.sizes import Sizes
from benchmarks.timing import RATE, bytes_of, gaps, latency_lines, told

FILLING_BATCH = 100
PAGE_LENGTHS = (64, 1_000)
PER_ENTITY = 1_000
SEED = 15
SINGLE_PARTS = 3
"""So many of the regions have one part; the others are intersections."""


class Filled:
    """The store of one contender that all reads are from: filled when it is first asked for, then only opened."""

    def __init__(self, name: str, sizes: Sizes, scratch: Path) -> None:
        self.name = name
        self.count = sizes.stored
        self.entities = max(1, sizes.stored // PER_ENTITY)
        self.ids: list[object] = []
        self.bytes = 0
        self._directory = scratch / name.replace(" ", "-")

    def fill(self) -> None:
        """Put the events in, in batches, and close it; nothing if that is done."""
        if self.ids:
            return
        with closing(load(self.name).open(self._directory)) as store:
            for first in range(0, self.count, FILLING_BATCH):
                count = min(FILLING_BATCH, self.count - first)
                self.ids += store.append_batch(make_items(first, count, self.entities))
        self.bytes = bytes_of(self._directory)

    @contextmanager
    def opened(self) -> Iterator[Rival[object]]:
        """Give the open store; it has read an event already."""
        self.fill()
        with closing(load(self.name).open(self._directory)) as store:
            store.get(self.ids[0])
            yield store


def cases(sizes: Sizes, scratch: Path) -> list[Case]:
    """Return what is read."""
    names = installed("batpak", "fair SQLite", "plain SQLite", "indexed SQLite", "LMDB", "rocksdict", "eventsourcing")
    filled = {name: Filled(name, sizes, scratch / "reads") for name in names}
    by_entity = {name: of for name, of in filled.items() if name != "plain SQLite"}
    once = {name: of for name, of in filled.items() if name != "indexed SQLite"}  # which is the plain one there
    paged = {name: filled[name] for name in ("batpak", "fair SQLite")}
    half = [Bound("floor", "fair SQLite", least=0.5), Bound("goal", "fair SQLite", least=0.75)]
    point = [Bound("floor", "fair SQLite", least=1.5), Bound("goal", "fair SQLite", least=2)]
    return [
        Case(
            "point read by id",
            latency_lines(rate=point),
            {name: partial(point_reads, of, sizes.point_reads) for name, of in once.items()},
        ),
        Case(
            f"one entity's {PER_ENTITY:,} events",
            [Line(RATE, "events/s", half)],
            {name: partial(entity_reads, of, sizes.streams) for name, of in by_entity.items()},
        ),
        Case(
            f"replay of all {sizes.stored:,} events",
            [Line(RATE, "events/s", half)],
            {name: partial(replay, of) for name, of in once.items()},
        ),
        *(_pages(length, sizes, paged) for length in PAGE_LENGTHS),
        Case(
            f"bytes per event on disk, at {sizes.stored:,} events",
            [Line("bytes", "B", more_is_better=False)],
            {name: partial(bytes_per_event, of) for name, of in filled.items()},
        ),
    ]


def _pages(length: int, sizes: Sizes, paged: dict[str, Filled]) -> Case:
    goal = [Bound("goal", "fair SQLite", least=0.5)]
    measures: dict[str, Measure] = {name: partial(pages, of, length, sizes.pages) for name, of in paged.items()}
    lines = [Line(part, "pages/s", goal if number < SINGLE_PARTS else ()) for number, part in enumerate(PARTS)]
    return Case(f"page of {length:,} from the middle", lines, measures)


def point_reads(of: Filled, count: int) -> Figures:
    """Read single events by id, in random order, behind as many that each store may warm up with."""
    clock = time.perf_counter
    with of.opened() as store:
        drawn = random.Random(SEED)
        for event_id in drawn.choices(of.ids, k=count):
            store.get(event_id)
        wanted = drawn.choices(of.ids, k=count)
        working = time.process_time()
        stamps = [clock()]
        for event_id in wanted:
            store.get(event_id)
            stamps.append(clock())
        working = time.process_time() - working
    return told(gaps(stamps), stamps[-1] - stamps[0], working)


def entity_reads(of: Filled, count: int) -> Figures:
    """Read entities whole, with their payloads, in random order."""
    wanted = random.Random(SEED).choices(range(of.entities), k=count)
    with of.opened() as store:
        store.stream(entity_name(wanted[0]))
        started = time.perf_counter()
        found = sum(len(store.stream(entity_name(number))) for number in wanted)
        taken = time.perf_counter() - started
    _check(found, count * of.count // of.entities)
    return {RATE: found / taken}


def replay(of: Filled) -> Figures:
    """Read every event with its payload, in global order."""
    with of.opened() as store:
        started = time.perf_counter()
        found = store.replay()
        taken = time.perf_counter() - started
    _check(found, of.count)
    return {RATE: found / taken}


def pages(of: Filled, length: int, count: int) -> Figures:
    """Read pages of each region, each from another place in the middle fifth."""
    figures = {}
    with of.opened() as store:
        for part in PARTS:
            starts = random.Random(SEED).choices(range(of.count * 2 // 5, of.count * 3 // 5), k=count)
            store.page(part, starts[0], length)
            started = time.perf_counter()
            found = [len(store.page(part, start, length)) for start in starts]
            figures[part] = count / (time.perf_counter() - started)
            _check_pages(found, length, of)
    return figures


def bytes_per_event(of: Filled) -> Figures:
    """Tell what the files take up after a close, everything counted."""
    of.fill()
    return {"bytes": of.bytes / of.count}


def _check_pages(found: Iterable[int], length: int, of: Filled) -> None:
    """Refuse pages that are not full, where there is enough to fill them."""
    if of.count >= 100 * length:
        _check(min(found), length)


def _check(found: int, expected: int) -> None:
    if found != expected:
        raise RuntimeError(f"found {found} events, expected {expected}")
