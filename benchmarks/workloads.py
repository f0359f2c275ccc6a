"""What is measured: seven workloads, each the same lines for both contenders.

A workload is given a trial, runs once and returns one figure: events a second, or milliseconds. Stores that are
written to are new each time; those that are read from and opened are filled once for each contender.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol

from benchmarks.contenders import AsyncAppend, Contender, Id
from benchmarks.events import Item, make_items

BATCH = 100
FILLING_BATCH = 1_000
TASKS = 64
WARM_UP = 200


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many events each workload handles."""

    written: int = 20_000
    durable: int = 500
    point_reads: int = 20_000
    stored: int = 200_000


class Trial(Generic[Id]):
    """One contender, its directories, and its filled store."""

    def __init__(self, contender: type[Contender[Id]], directory: Path, sizes: Sizes) -> None:
        self.contender = contender
        self.sizes = sizes
        self.filled = directory / "filled"
        self.ids: list[Id] = []
        self._directory = directory
        self._rounds = 0

    def fill(self) -> None:
        """Make the store that is read from, with `sizes.stored` events."""
        with closing(self.contender.open(self.filled)) as store:
            for first in range(0, self.sizes.stored, FILLING_BATCH):
                count = min(FILLING_BATCH, self.sizes.stored - first)
                self.ids += store.append_batch(make_items(first, count))

    def new_directory(self) -> Path:
        """Return a directory that no other measurement uses."""
        self._rounds += 1
        return self._directory / f"{self._rounds:04d}"

    @contextmanager
    def new_store(self, *, durable: bool = False) -> Iterator[Contender[Id]]:
        """Open a new store that has taken its first appends already."""
        with closing(self.contender.open(self.new_directory(), durable=durable)) as store:
            for item in make_items(0, WARM_UP):
                store.append(item)
            yield store


def seconds(work: Callable[[], object]) -> float:
    """Run *work* once, behind a garbage collection, and return how long it took."""
    gc.collect()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _append_each(store: Contender[Id], items: list[Item]) -> None:
    for item in items:
        store.append(item)


def single_append(trial: Trial[Id]) -> float:
    """One append after the other."""
    items = make_items(WARM_UP, trial.sizes.written)
    with trial.new_store() as store:
        return len(items) / seconds(lambda: _append_each(store, items))


def batch_append(trial: Trial[Id]) -> float:
    """Batches of 100, each all or nothing."""
    items = make_items(WARM_UP, trial.sizes.written)
    batches = [items[first : first + BATCH] for first in range(0, len(items), BATCH)]
    with trial.new_store() as store:
        return len(items) / seconds(lambda: [store.append_batch(batch) for batch in batches])


def durable_append(trial: Trial[Id]) -> float:
    """One append after the other, each answered behind its fsync."""
    items = make_items(WARM_UP, trial.sizes.durable)
    with trial.new_store(durable=True) as store:
        return len(items) / seconds(lambda: _append_each(store, items))


def append_from_tasks(trial: Trial[Id]) -> float:
    """Sixty-four tasks of one event loop, each awaiting one append after the other."""
    return asyncio.run(_append_from_tasks(trial))


async def _append_from_tasks(trial: Trial[Id]) -> float:
    async with trial.contender.appending(trial.new_directory()) as append:
        for item in make_items(0, WARM_UP):
            await append(item)
        items = make_items(WARM_UP, trial.sizes.written)
        gc.collect()
        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number in range(TASKS):
                tasks.create_task(_await_each(append, items[number::TASKS]))
        return len(items) / (time.perf_counter() - started)


async def _await_each(append: AsyncAppend, items: list[Item]) -> None:
    for item in items:
        await append(item)


def point_read(trial: Trial[Id]) -> float:
    """Single events by id, in random order, from the filled store."""
    wanted = random.Random(1).choices(trial.ids, k=trial.sizes.point_reads)
    with closing(trial.contender.open(trial.filled)) as store:
        store.get(wanted[0])
        return len(wanted) / seconds(lambda: [store.get(event_id) for event_id in wanted])


def replay(trial: Trial[Id]) -> float:
    """Every payload of the filled store in global order."""
    with closing(trial.contender.open(trial.filled)) as store:
        store.get(trial.ids[0])
        counted = 0

        def count() -> None:
            nonlocal counted
            counted = sum(1 for _ in store.read())

        taken = seconds(count)
    if counted != len(trial.ids):
        message = f"replayed {counted} events of {len(trial.ids)}"
        raise RuntimeError(message)
    return counted / taken


def open_and_read(trial: Trial[Id]) -> float:
    """Milliseconds from nothing open to the first event read; what the file system has cached stays cached."""
    opened: list[Contender[Id]] = []

    def open_store() -> None:
        opened.append(trial.contender.open(trial.filled))
        opened[0].get(trial.ids[len(trial.ids) // 2])

    try:
        return seconds(open_store) * 1_000
    finally:
        for store in opened:
            store.close()


class Measure(Protocol):
    """One workload's function."""

    def __call__(self, trial: Trial[Id], /) -> float:
        """Run once and return the figure."""
        ...


@dataclass(frozen=True, slots=True)
class Workload:
    """One line of the table."""

    name: str
    unit: str
    measure: Measure
    more_is_better: bool = True


def workloads(sizes: Sizes) -> list[Workload]:
    """Return the lines of the table in order."""
    return [
        Workload("single append", "events/s", single_append),
        Workload(f"append in batches of {BATCH}", "events/s", batch_append),
        Workload("durable single append", "events/s", durable_append),
        Workload(f"append from {TASKS} tasks", "events/s", append_from_tasks),
        Workload("point read by id", "events/s", point_read),
        Workload("replay with payloads", "events/s", replay),
        Workload(f"open at {sizes.stored:,} events and read one", "ms", open_and_read, more_is_better=False),
    ]
