"""The tasks of an event loop: awaited appends and reads, sixty-four at once and one alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

from anyio import to_thread

from batpak import Coordinate, Receipt, Store, StoreConfig
from batpak.aio import AsyncStore
from benchmarks.case import US, Bound, Case, Figures, Line
from benchmarks.events import Item, make_items
from benchmarks.loops import ASYNCIO, TASKS, installed_loops, on, run, share_out
from benchmarks.reads import SEED, Filled
from benchmarks.rivals.actor import FairActor, PlainActor
from benchmarks.rivals.fair import FairSqlite
from benchmarks.rivals.ours import EVENT_KINDS, Batpak
from benchmarks.sizes import Sizes
from benchmarks.timing import RATE, latency_lines, new_store

OFFLOAD: Final = "to_thread"
BARE: Final = "bare to_thread"
ON_LOOP: Final = f"{US}, append_on_loop"
SYNC: Final = "Store.read"
FAIR_OFFLOAD: Final = "fair SQLite"
ACTORS: Final = ("fair SQLite actor", "plain SQLite actor")

NOTES: Final = {
    OFFLOAD: "batpak's own synchronous call, each sent to a thread by `anyio.to_thread.run_sync`",
    BARE: "`anyio.to_thread.run_sync` of a function that does nothing, on the event loop named",
    ON_LOOP: "the setting of that name: appends run on the event loop's own thread",
    SYNC: "the same iteration without an event loop",
}

Append: TypeAlias = Callable[[Item], Awaitable[object]]


def cases(sizes: Sizes, scratch: Path) -> list[Case]:
    """Return what tasks do."""
    filled = Filled(US, sizes, scratch / "ours")
    fair = Filled(FAIR_OFFLOAD, sizes, scratch / "fair")
    return [_many(sizes, scratch, durable=durable) for durable in (False, True)] + [
        _one(sizes, scratch),
        _gets(sizes, filled, fair),
        _iteration(filled),
    ]


def _many(sizes: Sizes, scratch: Path, *, durable: bool) -> Case:
    floor, goal = (1.4, 1.2) if durable else (2, 1.4)
    bounds = [
        Bound("floor", "fair SQLite actor", least=floor),
        Bound("goal", "plain SQLite actor", least=goal),
        Bound("goal", OFFLOAD, least=8),
    ]
    count = sizes.durable_from_tasks if durable else sizes.from_tasks
    measured = partial(appends, sizes=sizes, scratch=scratch, tasks=TASKS, durable=durable)
    return Case(
        f"await append, {TASKS} tasks, {'durable' if durable else 'written'}",
        latency_lines(rate=bounds),
        {
            **{on(loop): partial(measured, ours, loop, US, count) for loop in installed_loops()},
            **{name: partial(measured, by_actor, ASYNCIO, name, count) for name in ACTORS},
            OFFLOAD: partial(measured, offloaded, ASYNCIO, US, max(TASKS, count // 5)),
        },
    )


def _one(sizes: Sizes, scratch: Path) -> Case:
    count = sizes.offloaded
    measured = partial(appends, sizes=sizes, scratch=scratch, tasks=1)
    bounds = []
    for loop in installed_loops():
        bounds.append(Bound("floor", on(loop, BARE), most=1.3, figure=on(loop)))
        bounds.append(Bound("goal", on(loop, BARE), most=1.15, figure=on(loop)))
    return Case(
        "await append, one task",
        latency_lines(mean=bounds),
        {
            **{on(loop): partial(measured, ours, loop, US, count) for loop in installed_loops()},
            **{on(loop, BARE): partial(bare_offloads, loop, count) for loop in installed_loops()},
            OFFLOAD: partial(measured, offloaded, ASYNCIO, US, count),
            ON_LOOP: partial(measured, on_loop, ASYNCIO, US, count),
            **{name: partial(measured, by_actor, ASYNCIO, name, count) for name in ACTORS},
        },
    )


def _gets(sizes: Sizes, filled: Filled, fair: Filled) -> Case:
    bounds = [Bound("floor", OFFLOAD, least=3), Bound("goal", OFFLOAD, least=5)]
    each = max(TASKS, sizes.from_tasks // 5)
    return Case(
        f"await get, {TASKS} tasks",
        latency_lines(rate=bounds),
        {
            **{on(loop): partial(gets, loop, filled, sizes.from_tasks) for loop in installed_loops()},
            OFFLOAD: partial(offloaded_gets, filled, each),
            FAIR_OFFLOAD: partial(offloaded_gets, fair, each),
        },
    )


def _iteration(filled: Filled) -> Case:
    bounds = [Bound("floor", SYNC, least=0.4), Bound("goal", SYNC, least=0.6)]
    return Case(
        "async for over read",
        [Line(RATE, "events/s", bounds)],
        {
            **{on(loop): partial(iteration, loop, filled) for loop in installed_loops()},
            SYNC: partial(sync_iteration, filled),
        },
    )


# Appends ---------------------------------------------------------------------------------------------------------


def appends(
    appending: Callable[[object], Any],
    loop: str,
    name: str,
    count: int,
    *,
    sizes: Sizes,
    scratch: Path,
    tasks: int,
    durable: bool = False,
) -> Figures:
    """Have tasks append to a new store of the contender *name*, by what *appending* makes of it."""
    with new_store(name, scratch, sizes.warm_up, durable=durable) as store:

        async def work() -> Figures:
            async with appending(store) as append:
                await share_out(append, make_items(sizes.warm_up, max(tasks, sizes.warm_up)), tasks)
                return await share_out(append, make_items(sizes.warm_up, count), tasks)

        return run(loop, work)


@asynccontextmanager
async def ours(store: object) -> AsyncIterator[Append]:
    """Give the facade's append."""
    async with AsyncStore.wrap(cast("Batpak", store).store) as facade:
        yield appending_to(facade)


@asynccontextmanager
async def on_loop(store: object) -> AsyncIterator[Append]:
    """Give the append of a facade that stays on its event loop, on a store beside the one that was given."""
    directory = Path(f"{cast('Batpak', store).store.diagnostics().directory}-on-loop")
    async with AsyncStore.open(directory, config=StoreConfig(append_on_loop=True)) as facade:
        yield appending_to(facade)


@asynccontextmanager
async def offloaded(store: object) -> AsyncIterator[Append]:
    """Give an append that sends each event to a thread."""
    append = cast("Batpak", store).append

    async def offload(item: Item) -> Receipt:
        return await to_thread.run_sync(append, item)

    yield offload


@asynccontextmanager
async def by_actor(store: object) -> AsyncIterator[Append]:
    """Give the append of a table that has a thread."""
    yield cast("FairActor | PlainActor", store).append_async


def appending_to(facade: AsyncStore) -> Append:
    """Return what appends one event by the facade."""

    async def append(item: Item) -> Receipt:
        return await facade.append(Coordinate(item.entity, item.scope), EVENT_KINDS[item.kind], item.payload)

    return append


def bare_offloads(loop: str, count: int) -> Figures:
    """Have one task cross to a thread and back, where nothing is done."""

    async def cross(_: int) -> None:
        await to_thread.run_sync(_nothing)

    async def work() -> Figures:
        await share_out(cross, range(min(count, 100)), 1)
        return await share_out(cross, range(count), 1)

    return run(loop, work)


def _nothing() -> None:
    """Do nothing."""


# Reads -----------------------------------------------------------------------------------------------------------


def gets(loop: str, filled: Filled, count: int) -> Figures:
    """Have tasks get single events by id, in random order, with their payloads."""
    with filled.opened() as store:
        facade = AsyncStore.wrap(_store(store))

        async def get(event_id: object) -> object:
            return (await facade.get(cast("UUID", event_id))).payload

        return run(loop, partial(share_out, get, _wanted(filled, count)))


def offloaded_gets(filled: Filled, count: int) -> Figures:
    """Have tasks send the synchronous call for each event to a thread."""
    with filled.opened() as store:
        get = cast("Batpak | FairSqlite", store).get

        async def offload(event_id: object) -> object:
            return await to_thread.run_sync(get, cast("Any", event_id))

        return run(ASYNCIO, partial(share_out, offload, _wanted(filled, count)))


def iteration(loop: str, filled: Filled) -> Figures:
    """Iterate over everything with ``async for``, with payloads."""
    with filled.opened() as store:
        facade = AsyncStore.wrap(_store(store))

        async def work() -> Figures:
            started, count = time.perf_counter(), 0
            async for event in facade.read():
                event.payload  # noqa: B018 - decoding is the work
                count += 1
            return {RATE: count / (time.perf_counter() - started)}

        return run(loop, work)


def sync_iteration(filled: Filled) -> Figures:
    """Iterate over everything without an event loop, with payloads."""
    with filled.opened() as store:
        started = time.perf_counter()
        count = cast("Batpak", store).replay()
        return {RATE: count / (time.perf_counter() - started)}


def _wanted(filled: Filled, count: int) -> list[object]:
    return Random(SEED).choices(filled.ids, k=count)


def _store(store: object) -> Store:
    return cast("Batpak", store).store
