"""`python -m benchmarks.delivery`: how soon and how many, beside the bare hand-over and a polled SQLite table.

Latency is the time from an append's receipt (for the bare hand-over: from the put) until the consumer, which slept,
has the item. The rounds of all rows alternate; figures are medians with least and greatest of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from time import perf_counter, sleep
from typing import TypeAlias

from batpak import Coordinate, EventKind, Region, Store
from batpak.aio import AsyncStore, AsyncSubscription
from batpak.event import Notification
from batpak.payload import Payload

ORDER = Coordinate("order:1", "shop")
PLACED = EventKind(category=0x1, type_id=0x001)
ORDERS = Region(entity="order")
PAYLOAD: dict[str, Payload] = {
    "order_id": 1,
    "customer": "customer-0001",
    "total": 9.99,
    "currency": "EUR",
    "status": "placed",
}
PAUSE_SECONDS = 0.001
"""Between two items of a measurement of latency, so that the consumer is asleep."""

Figures: TypeAlias = dict[str, list[float]]


def _latencies(put: Callable[[], float], delivered: SimpleQueue[float], count: int) -> list[float]:
    """Put *count* items, one at a time; the microseconds until each was delivered."""
    found = []
    for _ in range(count):
        sleep(PAUSE_SECONDS)
        sent = put()
        found.append((delivered.get() - sent) * 1e6)
    return found


def _append(store: Store) -> float:
    store.append(ORDER, PLACED, PAYLOAD)
    return perf_counter()


@contextmanager
def _beside(work: Callable[[Event], None]) -> Iterator[None]:
    """Run *work* in a thread beside the block; it says by an event that it is ready, and ends by itself."""
    ready = Event()
    thread = Thread(target=work, args=(ready,), daemon=True)
    thread.start()
    ready.wait()
    yield
    thread.join(10)


def thread_latency(store: Store, count: int) -> list[float]:
    """From a receipt to a thread that iterates over a subscription."""
    delivered: SimpleQueue[float] = SimpleQueue()
    subscription = store.subscribe(ORDERS).take(count)

    def consume(ready: Event) -> None:
        ready.set()
        for _ in subscription:
            delivered.put(perf_counter())

    with _beside(consume):
        return _latencies(partial(_append, store), delivered, count)


def thread_hand_over(_: Store, count: int) -> list[float]:
    """From a put into a `SimpleQueue` to the thread that waits for it."""
    delivered: SimpleQueue[float] = SimpleQueue()
    queue: SimpleQueue[float] = SimpleQueue()

    def consume(ready: Event) -> None:
        ready.set()
        for _ in range(count):
            queue.get()
            delivered.put(perf_counter())

    def put() -> float:
        sent = perf_counter()
        queue.put(sent)
        return sent

    with _beside(consume):
        return _latencies(put, delivered, count)


def loop_latency(store: Store, count: int) -> list[float]:
    """From a receipt in another thread to a task that iterates over a subscription."""
    delivered: SimpleQueue[float] = SimpleQueue()

    async def consume(ready: Event) -> None:
        async with AsyncStore.wrap(store) as facade, facade.subscribe(ORDERS) as subscription:
            ready.set()
            async for _ in subscription.take(count):
                delivered.put(perf_counter())

    with _beside(lambda ready: asyncio.run(consume(ready))):
        return _latencies(partial(_append, store), delivered, count)


def loop_follow_latency(store: Store, count: int) -> list[float]:
    """The same for `follow`, which reads the event with its payload."""
    delivered: SimpleQueue[float] = SimpleQueue()
    after = store.stats().visible_sequence

    async def consume(ready: Event) -> None:
        left = count
        async with AsyncStore.wrap(store) as facade, facade.follow(ORDERS, after=after) as follower:
            ready.set()
            async for event in follower:
                assert event.payload
                delivered.put(perf_counter())
                left -= 1
                if not left:
                    break

    with _beside(lambda ready: asyncio.run(consume(ready))):
        return _latencies(partial(_append, store), delivered, count)


def loop_hand_over(_: Store, count: int) -> list[float]:
    """From a put by another thread into an `asyncio.Queue` to the task that waits for it."""
    delivered: SimpleQueue[float] = SimpleQueue()
    loops: SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Queue[float]]] = SimpleQueue()

    async def consume(ready: Event) -> None:
        queue: asyncio.Queue[float] = asyncio.Queue()
        loops.put((asyncio.get_running_loop(), queue))
        ready.set()
        for _ in range(count):
            await queue.get()
            delivered.put(perf_counter())

    with _beside(lambda ready: asyncio.run(consume(ready))):
        loop, queue = loops.get()

        def put() -> float:
            sent = perf_counter()
            loop.call_soon_threadsafe(queue.put_nowait, sent)
            return sent

        return _latencies(put, delivered, count)


LATENCIES = {
    "thread: `subscribe`": thread_latency,
    "thread: bare `SimpleQueue`": thread_hand_over,
    "asyncio: `subscribe`": loop_latency,
    "asyncio: `follow`, with payload": loop_follow_latency,
    "asyncio: bare `asyncio.Queue`": loop_hand_over,
}
BARE = {"thread": "thread: bare `SimpleQueue`", "asyncio": "asyncio: bare `asyncio.Queue`"}


# Many subscribers ------------------------------------------------------------------------------------------------


async def _take_all(subscription: AsyncSubscription[Notification], count: int) -> None:
    async for _ in subscription.take(count):
        pass


def fan_out(store: Store, subscribers: int, events: int) -> float:
    """Deliveries a second to so many live subscribers on one event loop."""

    async def run() -> float:
        async with AsyncStore.wrap(store) as facade:
            tasks = [
                asyncio.create_task(_take_all(facade.subscribe(ORDERS, capacity=events), events))
                for _ in range(subscribers)
            ]
            await asyncio.sleep(0)
            started = perf_counter()
            for _ in range(events):
                await facade.append(ORDER, PLACED, PAYLOAD)
            await asyncio.gather(*tasks)
            return subscribers * events / (perf_counter() - started)

    return asyncio.run(run())


async def _poll_table(table: sqlite3.Connection, events: int) -> None:
    """Ask for what has come since, let the others have their turn, until all has come."""
    seen = 0
    while seen < events:
        for number, *_ in table.execute("SELECT id, entity, payload FROM events WHERE id > ?", (seen,)):
            seen = number
        await asyncio.sleep(0)


def polled_table(subscribers: int, events: int) -> float:
    """Deliveries a second to so many tasks that poll a SQLite table, as often as they get their turn."""

    async def run(table: sqlite3.Connection) -> float:
        tasks = [asyncio.create_task(_poll_table(table, events)) for _ in range(subscribers)]
        await asyncio.sleep(0)
        started = perf_counter()
        for _ in range(events):
            table.execute("INSERT INTO events (entity, payload) VALUES (?, ?)", (ORDER.entity, str(PAYLOAD)))
            table.commit()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        return subscribers * events / (perf_counter() - started)

    with tempfile.TemporaryDirectory() as directory:
        table = sqlite3.connect(Path(directory) / "events.db")
        table.execute("PRAGMA journal_mode = WAL")
        table.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, entity TEXT, payload TEXT)")
        try:
            return asyncio.run(run(table))
        finally:
            table.close()


@contextmanager
def _idle_subscribers(store: Store, count: int) -> Iterator[None]:
    """Have so many subscribers wait on an event loop for events that do not come."""
    end = Event()

    async def wait(ready: Event) -> None:
        async with AsyncStore.wrap(store) as facade:
            tasks = [
                asyncio.create_task(_take_all(facade.subscribe(Region(entity=f"idle:{number}")), 1))
                for number in range(count)
            ]
            await asyncio.sleep(0.05)
            ready.set()
            await asyncio.to_thread(end.wait)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    with _beside(lambda ready: asyncio.run(wait(ready))):
        yield
        end.set()


@contextmanager
def _stalled_subscriber(store: Store) -> Iterator[None]:
    """Have a subscriber that takes nothing."""
    subscription = store.subscribe(ORDERS, capacity=16)
    yield
    subscription.close()


@contextmanager
def _nobody(_: Store) -> Iterator[None]:
    yield


Beside: TypeAlias = Callable[[Store], AbstractContextManager[None]]

BESIDE: dict[str, Beside] = {
    "without subscribers": _nobody,
    "beside 1,000 idle subscribers": partial(_idle_subscribers, count=1000),
    "beside a stalled subscriber": _stalled_subscriber,
}


def append_cost(store: Store, beside: Beside, count: int) -> float:
    """Return the microseconds of an append, the median of *count*."""
    with beside(store):
        found = []
        for _ in range(count):
            started = perf_counter()
            store.append(ORDER, PLACED, PAYLOAD)
            found.append(perf_counter() - started)
    return statistics.median(found) * 1e6


# The tables ------------------------------------------------------------------------------------------------------


def measure(store: Store, rounds: int, count: int, subscribers: int) -> tuple[Figures, Figures, Figures]:
    """Return the figures of every row: latencies as p50 and p99 by turns, deliveries a second, costs of an append."""
    latencies: Figures = {name: [] for name in LATENCIES}
    rates: Figures = {f"{subscribers:,} subscribers": [], f"{subscribers:,} tasks that poll a SQLite table": []}
    costs: Figures = {name: [] for name in BESIDE}
    for number in range(rounds):
        _say(f"round {number + 1} of {rounds}")
        for name, row in LATENCIES.items():
            found = sorted(row(store, count))
            latencies[name] += [found[len(found) // 2], found[len(found) * 99 // 100]]
        live, polled = rates.values()
        live.append(fan_out(store, subscribers, max(1, count // 10)))
        polled.append(polled_table(subscribers, max(1, count // 10)))
        for name, beside in BESIDE.items():
            costs[name].append(append_cost(store, beside, count * 5))
    return latencies, rates, costs


def markdown(latencies: Figures, rates: Figures, costs: Figures) -> str:
    """Return the three tables."""
    lines = ["| from receipt to delivery | p50 us | p99 us | p50 : bare | p99 : bare |", "|---|---:|---:|---:|---:|"]
    for name, figures in latencies.items():
        bare = latencies[BARE[name.partition(":")[0]]]
        ratios = [f"{statistics.median(figures[at::2]) / statistics.median(bare[at::2]):.2f} x" for at in (0, 1)]
        lines.append(f"| {name} | {_spread(figures[::2])} | {_spread(figures[1::2])} | {' | '.join(ratios)} |")
    lines += ["", "| fan-out | deliveries/s |", "|---|---:|"]
    lines += [f"| {name} | {_spread(figures)} |" for name, figures in rates.items()]
    first = statistics.median(next(iter(costs.values())))
    lines += ["", "| one append | us | ratio |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {_spread(figures)} | {statistics.median(figures) / first:.2f} x |"
        for name, figures in costs.items()
    ]
    return "\n".join(lines)


def _spread(figures: Sequence[float]) -> str:
    """Return the median with least and greatest behind it."""
    return f"**{statistics.median(figures):,.1f}** ({min(figures):,.1f} to {max(figures):,.1f})"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delivery", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each figure (%(default)s)")
    parser.add_argument("--count", type=int, default=1000, help="items of each measurement (%(default)s)")
    parser.add_argument("--subscribers", type=int, default=1000, help="live subscribers (%(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, Store.open(directory) as store:
        print(markdown(*measure(store, options.rounds, options.count, options.subscribers)))


if __name__ == "__main__":
    main()
