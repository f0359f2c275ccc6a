"""Iterating reads a block at a time, and stops, fails and is cancelled cleanly."""

from __future__ import annotations

import errno
from collections.abc import Callable
from threading import Lock, get_ident
from typing import Any

import anyio
import pytest

from batpak import (
    Coordinate,
    CorruptStoreError,
    Place,
    Region,
    StalePlaceError,
    StorageError,
    Store,
    StoreClosedError,
)
from batpak.aio import AsyncEvents, AsyncStore
from batpak.aio.reading import MAX_READS
from tests.aio.calls import PLACED, start, until
from tests.store.journals import Journal

pytestmark = pytest.mark.anyio

COUNT = 600


@pytest.fixture
def full(store: Store) -> Store:
    """A store with some events."""
    for number in range(COUNT):
        store.append(Coordinate(f"order:{number % 3}", "shop"), PLACED, number)
    return store


class Loads:
    """How often frames were loaded, and a hold on it."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hold = Lock()
        self.begun = 0
        self.ended = 0
        self.threads: set[int] = set()
        load = store.load_records

        def held(records: Any) -> Any:
            self.begun += 1
            self.threads.add(get_ident())
            try:
                with self.hold:
                    return load(records)
            finally:
                self.ended += 1

        monkeypatch.setattr(store, "load_records", held)


def assert_no_thread_reads(facade: AsyncStore) -> None:
    assert facade._threads.get()._places._free == MAX_READS


async def until_no_thread_reads(facade: AsyncStore) -> None:
    threads = facade._threads.get()
    await until(lambda: threads._places._free == MAX_READS, "idle threads")


async def test_a_block_is_read_at_a_time_and_never_on_the_loop(
    full: Store, facade: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(full, monkeypatch)
    offloads = 0
    really = facade._offload

    async def count(act: Callable[[], Any]) -> Any:
        nonlocal offloads
        offloads += 1
        return await really(act)

    monkeypatch.setattr(facade, "_offload", count)
    assert [event.payload async for event in facade.read()] == list(range(COUNT))
    assert loads.begun == offloads == 4  # 16, then 256 at a time
    assert get_ident() not in loads.threads
    loads.begun = 0
    events = facade.read()
    assert loads.begun == 0
    assert (await anext(events)).payload == 0
    assert loads.begun == 1
    assert_no_thread_reads(facade)


@pytest.mark.parametrize("limit", [0, 1, 15, 16, 17, 271, 272, 273, COUNT, COUNT + 1])
async def test_a_page_ends_where_it_ends(limit: int, full: Store, facade: AsyncStore) -> None:
    found = [event async for event in facade.read(limit=limit, reverse=True)]
    assert found == list(full.read(limit=limit, reverse=True))


async def test_one_moment_is_seen_that_of_the_call(full: Store, facade: AsyncStore) -> None:
    events = [
        facade.read(),
        facade.read(after=full.get(full.query(Region(), limit=1)[0].event_id).place),
        facade.read_stream("order:0"),
    ]
    await facade.append(Coordinate("order:0", "shop"), PLACED, "later")
    for each in events:
        assert "later" not in [event.payload async for event in each]


async def test_a_place_is_compared_when_the_reading_begins(full: Store, facade: AsyncStore) -> None:
    stale = facade.read(after=Place(3, bytes(32)))
    with pytest.raises(StalePlaceError):
        await anext(stale)
    with pytest.raises(StopAsyncIteration):
        await anext(stale)
    assert full.stats().events == COUNT


async def test_an_iteration_can_be_ended_early(full: Store, facade: AsyncStore) -> None:
    del full
    async for event in facade.read():
        if event.payload == 3:
            break
    async with facade.read() as events:
        async for event in events:
            assert event.payload == 0
            break
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    await events.aclose()
    await events.aclose()
    assert_no_thread_reads(facade)


async def test_a_cancelled_iteration_goes_on_where_it_was(
    full: Store, facade: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(full, monkeypatch)
    events = facade.read()
    found = [(await anext(events)).payload for _ in range(16)]
    async with anyio.create_task_group() as tasks:
        with loads.hold:
            call = start(tasks, lambda: anext(events))
            await until(lambda: loads.begun == 2, "second block")
            assert (await call.cancel().end()).was_cancelled
            again = start(tasks, lambda: anext(events))
            await until(lambda: facade._threads.get()._places._free == MAX_READS - 2, "second reader")
        found.append((await again.outcome()).payload)
    found += [event.payload async for event in events]
    assert found == list(range(COUNT))
    await until_no_thread_reads(facade)


async def test_an_iteration_closed_while_a_thread_reads_gives_nothing_more(
    full: Store, facade: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(full, monkeypatch)
    events = facade.read()
    async with anyio.create_task_group() as tasks:
        with loads.hold:
            call = start(tasks, lambda: anext(events))
            await until(lambda: loads.begun == 1, "block")
            await call.cancel().end()
            await events.aclose()
        await until(lambda: loads.ended == 1, "end of the thread")
    await until_no_thread_reads(facade)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_a_damaged_frame_is_an_error_where_it_stands_and_the_end(
    full: Store, facade: AsyncStore, journal: Journal
) -> None:
    journal.files.fail("pread", errno.EIO, call=1, repeat=True, name="*.fbat")
    journal.files.fail("map", errno.EIO, call=1, repeat=True, name="*.fbat")
    del full
    events = facade.read()
    with pytest.raises((StorageError, CorruptStoreError)):
        async for _ in events:
            pass
    journal.files.heal()
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_an_error_that_nobody_waited_for_is_raised_to_the_next_who_asks(
    full: Store, facade: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, begun = Lock(), Lock()
    begun.acquire()

    def fail(_: object) -> Any:
        begun.release()
        with hold:
            raise CorruptStoreError("file", 0, "nothing", "something", "all else")

    monkeypatch.setattr(full, "load_records", fail)
    events = facade.read()
    async with anyio.create_task_group() as tasks:
        with hold:
            call = start(tasks, lambda: anext(events))
            await until(lambda: begun.acquire(blocking=False), "block")
            await call.cancel().end()
        await until_no_thread_reads(facade)
    with pytest.raises(CorruptStoreError):
        await anext(events)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_an_iteration_over_a_store_that_is_closed_meanwhile_says_so(full: Store, facade: AsyncStore) -> None:
    del full
    events = facade.read()
    await anext(events)
    await facade.close()
    with pytest.raises(StoreClosedError):
        async for _ in events:
            pass
    with pytest.raises(StoreClosedError):
        facade.read()


async def test_two_tasks_can_share_an_iteration(full: Store, facade: AsyncStore) -> None:
    del full
    events = facade.read()
    found: list[Any] = []

    async def collect() -> None:
        found.extend([event.payload async for event in events])

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(collect)
    assert sorted(found) == list(range(COUNT))
    assert isinstance(events, AsyncEvents)


async def test_reads_are_cancelled_at_once_and_their_threads_are_bounded(
    full: Store, facade: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(full, monkeypatch)
    event_id = full.query(Region(), limit=1)[0].event_id
    async with anyio.create_task_group() as tasks:
        with loads.hold:
            for _ in range(5 * MAX_READS):
                call = start(tasks, lambda: facade.get(event_id))
                await until(
                    lambda: loads.begun == MAX_READS or not facade._threads.get()._places._waiting, "read under way"
                )
                await until(lambda: call.is_done or loads.begun > 0, "read under way")  # noqa: B023
                await call.cancel().end()
            assert loads.begun <= MAX_READS
        await until_no_thread_reads(facade)
        assert (await facade.get(event_id)).payload == 0


# Checking chains -------------------------------------------------------------------------------------------------


async def test_the_progress_of_a_check_is_told_on_the_loop(full: Store, facade: AsyncStore) -> None:
    told: list[tuple[int, int]] = []
    threads: set[int] = set()

    def show(done: int, total: int) -> None:
        told.append((done, total))
        threads.add(get_ident())

    report = await facade.verify_chain(progress=show)
    assert report == full.verify_chain()
    assert told == [(512, COUNT), (COUNT, COUNT)]
    assert threads == {get_ident()}


@pytest.mark.parametrize("block", [512, COUNT])
async def test_what_progress_raises_ends_the_check_and_is_raised(block: int, full: Store, facade: AsyncStore) -> None:
    def show(done: int, _: int) -> None:
        if done == block:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        await facade.verify_chain(progress=show)
    assert_no_thread_reads(facade)
    del full


async def test_a_check_that_is_cancelled_stops(
    full: Store, facade: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = 0
    hold = Lock()
    load: Callable[[Any], Any] = full.load_contents

    def held(records: Any) -> Any:
        nonlocal blocks
        blocks += 1
        with hold:
            return load(records)

    monkeypatch.setattr(full, "load_contents", held)
    async with anyio.create_task_group() as tasks:
        with hold:
            call = start(tasks, facade.verify_chain)
            await until(lambda: blocks == 1, "first block")
            await call.cancel().end()
        await until_no_thread_reads(facade)
    assert blocks == 1
