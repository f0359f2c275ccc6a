"""One thread: appends written and durable, batches of 100, and what the structured log costs."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

import structlog

from benchmarks.case import Bound, Case, Figures, Line, Measure
from benchmarks.events import Item, make_items
from benchmarks.rivals import installed
from benchmarks.sizes import Sizes
from benchmarks.timing import PROCESSOR, RATE, fresh_directory, gaps, latency_lines, new_store, stamped, told

BATCH = 100
OFF = "rate, level off"
RATIO = "rate at info : off"
PROCESSOR_LINE = Line(PROCESSOR, "us an event", more_is_better=False)
BLOCKS = 40
"""With logging and without, in turns, on one store."""

SETTLING = 128
"""Appends until a store has noticed that the level changed."""

SLOW = {"salamander-db": 10}
"""Whose durable appends take so long that a tenth of them has to do."""


def cases(sizes: Sizes, scratch: Path) -> list[Case]:
    """Return what one thread does."""
    return [
        _written(sizes, scratch),
        _durable(sizes, scratch),
        *_batches(sizes, scratch),
        Case(
            "structured logging at info, as JSON into a file",
            [
                Line(RATE, "events/s"),
                Line(OFF, "events/s"),
                Line(RATIO, "", [Bound("floor", least=0.97)]),
            ],
            {"batpak": partial(logging_cost, sizes, scratch)},
        ),
    ]


def _written(sizes: Sizes, scratch: Path) -> Case:
    names = installed(
        "batpak",
        "fair SQLite",
        "plain SQLite",
        "indexed SQLite",
        "LMDB",
        "rocksdict",
        "eventsourcing",
        "salamander-db",
        "LMDB put",
        "rocksdict put",
        "raw write",
    )
    bounds = [Bound("floor", "fair SQLite", least=3), Bound("goal", "fair SQLite", least=5)]
    bounds.append(Bound("goal", "plain SQLite", least=3))
    if "LMDB" in names:
        bounds.append(Bound("goal", "LMDB", least=1))
    return Case(
        "append, one thread, acknowledged after the write",
        latency_lines(
            rate=bounds,
            p50=[Bound("floor", most=12), Bound("goal", most=8)],
            p99=[Bound("goal", most=40)],
        ),
        {name: partial(one_by_one, name, sizes.written, sizes, scratch) for name in names},
    )


def _durable(sizes: Sizes, scratch: Path) -> Case:
    names = installed(
        "batpak",
        "fdatasync",
        "growing fdatasync",
        "fair SQLite",
        "plain SQLite",
        "LMDB",
        "rocksdict",
        "eventsourcing",
        "salamander-db",
    )
    bounds = [
        Bound("floor", "fdatasync", least=0.8),
        Bound("floor", "plain SQLite", least=1),
        Bound("floor", "fair SQLite", least=1),
        Bound("goal", "fdatasync", least=0.87),
    ]
    measures: dict[str, Measure] = {}
    for name in names:
        count = max(1, sizes.durable // SLOW.get(name, 1))
        measures[name] = partial(one_by_one, name, count, sizes, scratch, durable=True)
    return Case("append durable, one thread", latency_lines(rate=bounds), measures)


def _batches(sizes: Sizes, scratch: Path) -> list[Case]:
    names = installed("batpak", "fair SQLite", "plain SQLite", "indexed SQLite", "LMDB", "rocksdict", "eventsourcing")
    written = [
        Bound("floor", "fair SQLite", least=2),
        Bound("goal", "fair SQLite", least=2.5),
        Bound("goal", "plain SQLite", least=1),
    ]
    durable = [Bound("floor", "fair SQLite", least=1.5), Bound("goal", "fair SQLite", least=1.7)]
    return [
        Case(
            f"batches of {BATCH}, written",
            [Line(RATE, "events/s", written), PROCESSOR_LINE],
            {name: partial(in_batches, name, sizes.batched, sizes, scratch) for name in [*names, "raw write"]},
        ),
        Case(
            f"batches of {BATCH}, durable",
            [Line(RATE, "events/s", durable), PROCESSOR_LINE],
            {
                name: partial(in_batches, name, sizes.durable * 10, sizes, scratch, durable=True)
                for name in [*names, "fdatasync"]
            },
        ),
    ]


def one_by_one(name: str, count: int, sizes: Sizes, scratch: Path, *, durable: bool = False) -> Figures:
    """Append one event after the other."""
    items = make_items(sizes.warm_up, count)
    with new_store(name, scratch, sizes.warm_up, durable=durable) as store:
        working = time.process_time()
        stamps = stamped(store.append, items)
        working = time.process_time() - working
    return told(gaps(stamps), stamps[-1] - stamps[0], working)


def in_batches(name: str, count: int, sizes: Sizes, scratch: Path, *, durable: bool = False) -> Figures:
    """Append batches, each all or nothing."""
    items = make_items(sizes.warm_up, count)
    batches = [items[first : first + BATCH] for first in range(0, count, BATCH)]
    with new_store(name, scratch, sizes.warm_up, durable=durable) as store:
        write: Callable[[Sequence[Item]], object] = getattr(store, "write_batch", store.append_batch)
        write(make_items(0, BATCH))
        started, working = time.perf_counter(), time.process_time()
        for batch in batches:
            write(batch)
        taken, working = time.perf_counter() - started, time.process_time() - working
    return {RATE: count / taken, PROCESSOR: working / count * 1e6}


def logging_cost(sizes: Sizes, scratch: Path) -> Figures:
    """Append to one store with the log at info and with it off, block by block in turns."""
    size = max(SETTLING, sizes.written // BLOCKS)
    quiet: list[float] = []
    noisy: list[float] = []
    with fresh_directory(scratch) as directory, (directory / "log").open("w", encoding="utf-8") as log:
        try:
            _configure_log(log, logging.CRITICAL)
            with new_store("batpak", directory, sizes.warm_up) as store:
                for number in range(BLOCKS):
                    # Which of the two comes first changes, because a store gets a little slower as it fills.
                    for level in (logging.INFO, logging.CRITICAL)[:: 1 if number % 2 else -1]:
                        _configure_log(log, level)
                        items = make_items(sizes.warm_up, SETTLING + size)
                        _append_each(store.append, items[:SETTLING])
                        (noisy if level == logging.INFO else quiet).append(_append_each(store.append, items[SETTLING:]))
        finally:
            structlog.reset_defaults()
    ratio = statistics.median(off / on for on, off in zip(noisy, quiet, strict=True))
    return {RATE: size / statistics.median(noisy), OFF: size / statistics.median(quiet), RATIO: ratio}


def _append_each(append: Callable[[Item], object], items: Sequence[Item]) -> float:
    """Append one event after the other; the seconds it took."""
    started = time.perf_counter()
    for item in items:
        append(item)
    return time.perf_counter() - started


def _configure_log(file: TextIO, level: int) -> None:
    """Have structlog write what *level* lets through, as a program in production does."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file),
    )
