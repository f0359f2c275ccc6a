"""What the sections share: stores of their own, clocks around calls, and what is told of many latencies."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

from benchmarks.case import Bound, Figures, Line
from benchmarks.events import Item, make_items
from benchmarks.rivals import Rival, load

RATE = "rate"
MEAN = "mean"
P50 = "p50"
P99 = "p99"
PROCESSOR = "processor time"
"""Of all threads, what works in the background included."""


@contextmanager
def fresh_directory(scratch: Path) -> Iterator[Path]:
    """Give a directory that nobody else uses and that is gone afterwards."""
    scratch.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=scratch))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def new_store(name: str, scratch: Path, warm_up: int, *, durable: bool = False) -> Iterator[Rival[object]]:
    """Give a new store that has taken its first appends already, and remove it afterwards."""
    with (
        fresh_directory(scratch) as directory,
        closing(load(name).open(directory / "store", durable=durable)) as store,
    ):
        store.settle()
        for item in make_items(0, warm_up):
            store.append(item)
        yield store


def stamped(append: Callable[[Item], object], items: Iterable[Item]) -> list[float]:
    """Append one item after the other; the moments between them, the first and the last included."""
    clock = time.perf_counter
    stamps = [clock()]
    add = stamps.append
    for item in items:
        append(item)
        add(clock())
    return stamps


def gaps(stamps: Sequence[float]) -> list[float]:
    """Return the seconds from each moment to the next."""
    return [later - earlier for earlier, later in pairwise(stamps)]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the smallest figure of an ascending sequence that *percent* of them do not exceed."""
    return ordered[max(0, -int(-len(ordered) * percent // 100) - 1)]


def told(latencies: Iterable[float], taken: float, processor: float | None = None) -> Figures:
    """Return the figures of calls that took *latencies* seconds each, and *taken* and *processor* seconds together."""
    ordered = sorted(latencies)
    found = {
        RATE: len(ordered) / taken,
        MEAN: sum(ordered) / len(ordered) * 1e6,
        P50: percentile(ordered, 50) * 1e6,
        P99: percentile(ordered, 99) * 1e6,
    }
    if processor is not None:
        found[PROCESSOR] = processor / len(ordered) * 1e6
    return found


def latency_lines(
    rate: Sequence[Bound] = (), mean: Sequence[Bound] = (), p50: Sequence[Bound] = (), p99: Sequence[Bound] = ()
) -> list[Line]:
    """Return the lines of what `told` tells, with their bounds."""
    return [
        Line(RATE, "events/s", rate),
        Line(MEAN, "us", mean, more_is_better=False),
        Line(P50, "us", p50, more_is_better=False),
        Line(P99, "us", p99, more_is_better=False),
        Line(PROCESSOR, "us an event", more_is_better=False),
    ]


def bytes_of(directory: Path) -> int:
    """Return what the files below *directory* take up on the disk; what was never written to is not counted."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
