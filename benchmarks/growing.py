"""What grows with a store and what does not: the same figures at several sizes.

The largest size has the contender's own name; the others say theirs: "batpak at 10,000".
"""

from __future__ import annotations

import gc
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

from batpak import NewEvent, Store
from benchmarks import fresh
from benchmarks.case import US, Bound, Case, Figures, Line, Measure, Outcome
from benchmarks.events import entity_name, make_items
from benchmarks.filled import BATCH, FORMAT_1, KEYED, MANY, Stores, new_event, wait_until_quiet
from benchmarks.rivals import load
from benchmarks.sizes import Sizes

T = TypeVar("T")

FAIR = "fair SQLite"
BASE = 1_000
"""Events of the store that an open and its memory are compared with."""

OPENS = 5
APPENDS = 5_000
"""Appends to a store that is filled, in one run at most."""

SHORT = 6_000
"""Appends to a new store before there is anything to write out or to merge, at most."""

LONG = 1_000_000
"""Appends while runs are merged, at most."""

PAGES = 200
MIDDLE = 1_000
"""Pages begin somewhere in so many events around the middle."""


@dataclass(frozen=True, slots=True)
class Growing:
    """The stores, their sizes, and what makes a contender of a store at a size."""

    stores: Stores
    sizes: Sequence[int]
    written: int
    """Appends one by one, where nothing else says how many."""

    @property
    def appends(self) -> int:
        """Appends to a store that is filled, in one run."""
        return min(APPENDS, self.written)

    @property
    def largest(self) -> int:
        """The size that has no word in its contender's name."""
        return self.sizes[-1]

    def name(self, contender: str, events: int) -> str:
        """Return what *contender* is called at a size."""
        return contender if events == self.largest else f"{contender} at {events:,}"

    def contenders(self, names: Sequence[str], work: Callable[[str, int], Figures]) -> dict[str, Measure]:
        """Return *work* for each of *names* at each size, largest first."""
        return {self.name(name, events): partial(work, name, events) for name in names for events in self.sizes[::-1]}


def cases(sizes: Sizes, scratch: Path) -> list[Case]:
    """Return what is measured at each size."""
    growing = Growing(Stores(scratch), sorted(sizes.growth), sizes.written)
    return [
        _opening(growing),
        _opening_after_kill(growing),
        _reading(growing),
        _disk(growing),
        _memory(growing),
        _keyed(growing),
        _entities(growing, sizes.entities),
        _merging(growing),
    ]


def points(outcome: Outcome, line: str, largest: int) -> dict[str, list[tuple[int, float]]]:
    """Return the medians of a line by size, for each contender that has more than one size; for a plot."""
    found: dict[str, list[tuple[int, float]]] = {}
    for contender, figures in outcome.figures.items():
        name, _, size = contender.partition(" at ")
        if line in figures:
            events = int(size.replace(",", "")) if size else largest
            found.setdefault(name, []).append((events, statistics.median(figures[line])))
    return {name: sorted(each) for name, each in found.items() if len(each) > 1}


# Opening ---------------------------------------------------------------------------------------------------------


def _opening(growing: Growing) -> Case:
    def work(contender: str, events: int) -> Figures:
        filled, base = (growing.stores.filled(contender, each) for each in (events, BASE))
        figures = dict(fresh.ask("open", contender, filled.directory, filled.middle, OPENS))
        less = fresh.ask("open", contender, base.directory, base.middle, OPENS)
        for name in ("open", "memory"):
            figures[f"{name}, more than at {BASE:,}"] = figures[name] - less[name]
        return figures

    lines = [
        Line("open", "ms", more_is_better=False),
        Line(f"open, more than at {BASE:,}", "ms", (_floor(most=20), _goal(most=5)), more_is_better=False),
        Line("memory", "MiB", more_is_better=False),
        Line(f"memory, more than at {BASE:,}", "MiB", (_floor(most=30), _goal(most=10)), more_is_better=False),
        Line("close", "ms", (_floor(most=200), _goal(most=50)), more_is_better=False),
    ]
    name = f"open, read one event and close, in a fresh process, at {growing.largest:,} events"
    return Case(name, lines, growing.contenders((US, FAIR), work))


def _opening_after_kill(growing: Growing) -> Case:
    killed: dict[tuple[str, int], Path] = {}

    def work(contender: str, events: int) -> Figures:
        filled = growing.stores.filled(contender, events)
        left = killed.get((contender, events))
        if left is None:
            left = killed[contender, events] = growing.stores.new_directory()
            shutil.copytree(filled.directory, left)
            fresh.kill(contender, left, events, growing.written)
        with growing.stores.new() as directory:
            shutil.copytree(left, directory)
            return fresh.ask("open", contender, directory, filled.middle, 1)

    lines = [
        Line("open", "ms", (_goal(most=200),), more_is_better=False),
        Line("read again", "MiB", (_floor(most=8),), more_is_better=False),
    ]
    name = f"open behind a kill, after {growing.written:,} more appends, at {growing.largest:,} events"
    return Case(name, lines, growing.contenders((US, FAIR), work))


# Reading, disk, memory -------------------------------------------------------------------------------------------


def _reading(growing: Growing) -> Case:
    def work(contender: str, events: int) -> Figures:
        filled = growing.stores.filled(contender, events)
        drawn = random.Random(3)
        first, last = max(0, (events - MIDDLE) // 2), (events + MIDDLE) // 2
        places = [drawn.randrange(first, max(first + 1, min(last, events - 300))) for _ in range(PAGES)]
        with closing(load(contender).open(filled.directory)) as store:
            for part in ("entity prefix", "kind"):
                store.page(part, places[0], 64)
            store.get(filled.ids[0])
            return {
                "page of 64, by entity prefix": _each(lambda at: store.page("entity prefix", at, 64), places),
                "page of 64, by kind": _each(lambda at: store.page("kind", at, 64), places),
                "one event by id": _each(store.get, filled.ids),
            }

    flat = (_floor(growing.name(US, growing.sizes[0]), most=1.2),)
    lines = [
        Line("page of 64, by entity prefix", "us", flat, more_is_better=False),
        Line("page of 64, by kind", "us", flat, more_is_better=False),
        Line("one event by id", "us", more_is_better=False),
    ]
    name = f"pages from the middle and single events, at {growing.largest:,} events"
    return Case(name, lines, growing.contenders((US, FAIR), work))


def _disk(growing: Growing) -> Case:
    def work(contender: str, events: int) -> Figures:
        files = [path for path in growing.stores.filled(contender, events).directory.rglob("*") if path.is_file()]
        return {"on disk": sum(path.stat().st_size for path in files) / events}

    lines = [Line("on disk", "bytes", (_floor(FAIR, most=1.0), _goal(FAIR, most=0.65)), more_is_better=False)]
    contenders = growing.contenders((US, FAIR), work)
    contenders[f"batpak, {FORMAT_1}, at {growing.sizes[0]:,}"] = partial(work, FORMAT_1, growing.sizes[0])
    return Case(f"bytes an event on disk, everything counted, at {growing.largest:,} events", lines, contenders)


def _memory(growing: Growing) -> Case:
    def work() -> Figures:
        with growing.stores.new() as plain, growing.stores.new() as keyed:
            tails = fresh.ask("tail", plain, "plain"), fresh.ask("tail", keyed, KEYED)
        runs = fresh.ask("runs", growing.stores.filled(US, growing.largest).directory)
        names = ("in the tail", "in the tail, keyed", "in runs")
        return {name: figures["bytes"] for name, figures in zip(names, (*tails, runs), strict=True)}

    lines = [
        Line("in the tail", "bytes", (_floor(most=100),), more_is_better=False),
        Line("in the tail, keyed", "bytes", (_floor(most=250),), more_is_better=False),
        Line("in runs", "bytes", (_goal(most=5),), more_is_better=False),
    ]
    return Case(f"memory an event, in runs at {growing.largest:,} events", lines, {US: work})


# Appending -------------------------------------------------------------------------------------------------------


def _keyed(growing: Growing) -> Case:
    def work(contender: str, events: int) -> Figures:
        with growing.stores.copy(contender, events) as (_, directory), Store.open(directory) as store:
            wait_until_quiet(directory)
            batch = [new_event(item, None) for item in make_items(events, growing.appends)]
            keys = [uuid4() if contender == KEYED else None for _ in batch]
            return {"one append": _seconds_each(store, batch, keys) * 1e6}

    contenders: dict[str, Measure] = {}
    bounds: list[Bound] = []
    for events in growing.sizes[::-1]:
        ours, without = growing.name(US, events), growing.name("batpak without keys", events)
        contenders |= {ours: partial(work, KEYED, events), without: partial(work, US, events)}
        bounds += [_floor(without, most=2.0, figure=ours), _goal(without, most=1.5, figure=ours)]
    lines = [Line("one append", "us", bounds, more_is_better=False)]
    return Case(f"keyed append where all events are keyed, at {growing.largest:,} events", lines, contenders)


def _entities(growing: Growing, sizes: Sequence[int]) -> Case:
    few, many = min(sizes), max(sizes)

    def ours(contender: str, entities: int) -> Figures:
        drawn = random.Random(4)
        known = [entity_name(drawn.randrange(entities)) for _ in range(growing.appends)]
        unknown = [entity_name(many + number) for number in range(growing.appends)]
        figures = {}
        with growing.stores.copy(contender, many) as (_, directory), Store.open(directory) as store:
            wait_until_quiet(directory)
            for name, names in (("one append", known), ("the first of its entity", unknown)):
                items = [
                    replace(item, entity=each) for item, each in zip(make_items(0, growing.appends), names, strict=True)
                ]
                batch = [new_event(item, None) for item in items]
                figures[name] = _seconds_each(store, batch, [None] * len(batch)) * 1e6
        return figures

    reference = f"batpak with {few:,} entities"
    contenders = {US: partial(ours, MANY, many), reference: partial(ours, US, few)}
    lines = [
        Line("one append", "us", (_floor(reference, most=2.0), _goal(reference, most=1.5)), more_is_better=False),
        Line("the first of its entity", "us", more_is_better=False),
    ]
    return Case(f"append in random order to {many:,} entities that have one event each", lines, contenders)


def _merging(growing: Growing) -> Case:
    """The rate without is that of stores so new that there is nothing to merge, one after the other."""
    without = "batpak, nothing to merge"
    appends = min(growing.largest, LONG)

    def merging() -> Figures:
        with growing.stores.new() as directory, Store.open(directory) as store:
            return _latencies(_times(store, appends))

    def quiet() -> Figures:
        taken: list[float] = []
        while len(taken) < min(appends, 10 * SHORT):
            with growing.stores.new() as directory, Store.open(directory) as store:
                taken += _times(store, min(SHORT, appends))
        return _latencies(taken)

    lines = [
        Line("appends", "/s", (_floor(without, least=0.85),)),
        Line("p50", "us", more_is_better=False),
        Line("p99.9", "us", more_is_better=False),
        Line("longest", "ms", (_floor(most=10),), more_is_better=False),
    ]
    return Case(f"{appends:,} appends, one by one, while runs are merged", lines, {US: merging, without: quiet})


def _times(store: Store, appends: int) -> list[float]:
    """Return the seconds from one append's end to the next one's, behind some to warm up.

    The events are made before and used again and again, so that nothing but appends is in between.
    """
    batch = [new_event(item, None) for item in make_items(0, BATCH)]
    taken = [0.0] * appends
    append, now = store.append, time.perf_counter
    with _frozen():
        for item in batch:
            append(item.coordinate, item.kind, item.payload)
        before = now()
        for number, item in zip(range(appends), cycle(batch), strict=False):
            append(item.coordinate, item.kind, item.payload)
            ended = now()
            taken[number] = ended - before
            before = ended
    return taken


def _latencies(taken: Sequence[float]) -> Figures:
    """Return what the seconds of many appends say."""
    ordered = sorted(taken)
    return {
        "appends": len(taken) / sum(taken),
        "p50": ordered[len(taken) // 2] * 1e6,
        "p99.9": ordered[len(taken) * 999 // 1000] * 1e6,
        "longest": ordered[-1] * 1e3,
    }


def _seconds_each(store: Store, batch: Sequence[NewEvent], keys: Sequence[UUID | None]) -> float:
    """Append one by one and return the seconds that one took."""
    with _frozen():
        started = time.perf_counter()
        for item, key in zip(batch, keys, strict=True):
            store.append(item.coordinate, item.kind, item.payload, idempotency_key=key)
        return (time.perf_counter() - started) / len(batch)


@contextmanager
def _frozen() -> Iterator[None]:
    """Keep what is there out of the garbage collections meanwhile: what was made to be appended is not the store's."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _each(work: Callable[[T], object], arguments: Sequence[T]) -> float:
    """Return the median of how many microseconds *work* takes."""
    taken, now = [], time.perf_counter
    for argument in arguments:
        started = now()
        work(argument)
        taken.append(now() - started)
    return statistics.median(taken) * 1e6


def _floor(
    against: str | None = None, *, least: float | None = None, most: float | None = None, figure: str = US
) -> Bound:
    return Bound("floor", against, least, most, figure)


def _goal(
    against: str | None = None, *, least: float | None = None, most: float | None = None, figure: str = US
) -> Bound:
    return Bound("goal", against, least, most, figure)
