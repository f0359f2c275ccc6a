"""Followers on an event loop: history, then what comes, without gap or duplicate, and no loop that is held up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from threading import get_ident
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from batpak import (
    InvalidRequestError,
    Place,
    Region,
    StalePlaceError,
    Store,
    StoreClosedError,
    StoredEvent,
)
from batpak.aio import AsyncFollower, AsyncReadOnlyStore, AsyncStore
from batpak.aio.cursor import HOT_BYTES, HOT_EVENTS
from batpak.delivery.cursor import Follower
from tests.aio.calls import PATIENCE_SECONDS, run_beside, start, until
from tests.aio.consumers import (
    ALL,
    SELDOM,
    append,
    assert_nobody_waits,
    fill,
    in_time,
    listeners,
    numbers,
    take,
    until_waiting,
)
from tests.store.journals import Held, Journal
from tests.store.processes import start_python, tell
from tests.store.processes import told as told_by

pytestmark = pytest.mark.anyio


# Following -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    """What is there before somebody follows, what comes meanwhile, and how it is asked for."""

    before: list[int]
    beside: list[int]
    limits: list[int]
    looks: int
    region: Region
    back: int | None
    durable: bool

    @property
    def after(self) -> int | None:
        """Behind which event it is followed: some way back from the last one that is there."""
        return None if self.back is None else len(self.before) - 1 - self.back


LENGTHS = st.lists(st.integers(0, 3), max_size=12)
HISTORIES = st.builds(
    History,
    before=LENGTHS,
    beside=LENGTHS,
    limits=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    looks=st.integers(0, 4),
    region=st.sampled_from([ALL, Region(entity="order:0"), Region(scope="shop"), Region(entity="order")]),
    back=st.none() | st.integers(0, 12),
    durable=st.booleans(),
)


async def follow_to_the_end(store: Store, history: History) -> list[StoredEvent]:
    """Follow while a thread appends."""

    def produce() -> None:
        for entity in history.beside:
            append(store, 0, f"order:{entity}")
        append(store, "end", "order:0")
        store.sync()

    found: list[StoredEvent] = []
    follower = AsyncStore.wrap(store).follow(history.region, after=history.after, durable=history.durable)
    limits = cycle(history.limits)
    for _ in range(history.looks):
        found += await follower.poll_batch(next(limits))
    thread = run_beside(produce)
    with anyio.fail_after(PATIENCE_SECONDS):
        while not found or found[-1].payload != "end":
            found += await follower.pull(next(limits))
    await anyio.to_thread.run_sync(thread.join)
    assert await follower.poll_batch(10) == []
    await follower.close()
    assert listeners(store) == 0
    return found


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_to_follow_is_to_read_and_then_to_get_what_comes_whatever_comes_at_the_seam(backend: str) -> None:
    @settings(max_examples=500)
    @given(HISTORIES)
    def check(history: History) -> None:
        with Journal() as journal:
            for entity in history.before:
                append(journal.store, 0, f"order:{entity}")
            found = anyio.run(follow_to_the_end, journal.store, history, backend=backend)
            assert found == list(journal.store.read(history.region, after=history.after))

    check()


async def test_history_comes_first_then_what_comes(facade: AsyncStore, store: Store) -> None:
    fill(store, 700)
    async with facade.follow(ALL) as follower:
        thread = run_beside(lambda: fill(store, 300, first=700))
        assert await take(follower, 1000) == list(range(1000))
        await anyio.to_thread.run_sync(thread.join)
        assert await follower.poll() is None
    await assert_nobody_waits(facade)


async def test_a_page_goes_on_behind_the_place_it_was_sent(facade: AsyncStore, store: Store) -> None:
    fill(store, 5)
    async with facade.follow(ALL) as first:
        last_event_id = str([await anext(first) for _ in range(2)][-1].place)
    async with facade.follow(ALL, after=Place.parse(last_event_id)) as second:
        assert await take(second, 3) == [2, 3, 4]


async def test_a_place_of_another_event_is_refused_in_the_task_that_follows(facade: AsyncStore, store: Store) -> None:
    fill(store, 5)
    stale = Place(3, bytes(32))
    follower = facade.follow(ALL, after=stale)
    for _ in range(2):
        with pytest.raises(StalePlaceError) as caught:
            await anext(follower)
        assert caught.value.given == stale
    with pytest.raises(StalePlaceError):
        await follower.__aenter__()
    with pytest.raises(StalePlaceError):
        await facade.follow(ALL, after=Place(99, bytes(32))).poll()


@pytest.mark.parametrize("config", [SELDOM])
async def test_what_is_not_durable_is_not_shown_to_who_asked_for_that(facade: AsyncStore, store: Store) -> None:
    everything = facade.follow(ALL)
    async with facade.follow(ALL, durable=True) as durable, anyio.create_task_group() as tasks:
        assert await durable.poll() is None
        assert await durable.poll() is None
        fill(store, 3)
        assert await take(everything, 3) == [0, 1, 2]
        assert await durable.pull(1, 0) == []
        call = start(tasks, lambda: durable.pull(10))
        await until_waiting(facade, 1)
        for _ in range(50):
            await checkpoint()
        assert not call.is_done
        await facade.sync()
        assert numbers(await call.outcome()) == [0, 1, 2]
    await assert_nobody_waits(facade)


async def test_a_poll_returns_as_many_as_there_are_up_to_what_was_asked_for(facade: AsyncStore, store: Store) -> None:
    fill(store, 1000)
    follower = facade.follow(ALL)
    assert numbers(await follower.poll_batch(1)) == [0]
    assert numbers(await follower.poll_batch(400)) == list(range(1, 401))
    assert numbers(await follower.pull(1000)) == list(range(401, 1000))
    assert await follower.poll_batch(1) == []
    assert await follower.pull(1, 0.01) == []


async def test_wrong_arguments_are_refused(facade: AsyncStore) -> None:
    follower: Any = facade.follow(ALL)
    for limit in (0, -1, True, "1"):
        with pytest.raises(InvalidRequestError):
            await follower.poll_batch(limit)
        with pytest.raises(InvalidRequestError):
            await follower.pull(limit)
    with pytest.raises(InvalidRequestError):
        await follower.pull(1, -1)


# Another process writes ------------------------------------------------------------------------------------------

WRITER = """
    import sys
    from batpak import Coordinate, EventKind, Store
    with Store.open(sys.argv[1]) as store:
        print("open", flush=True)
        for line in sys.stdin:
            first, stop = map(int, line.split())
            for number in range(first, stop):
                store.append(Coordinate(f"order:{number % 3}", "shop"), EventKind(1, 1), number)
            print("written", flush=True)
"""


@asynccontextmanager
async def writer(directory: Path) -> AsyncIterator[Callable[[int, int], None]]:
    """A process that appends the numbers that it is told."""
    process = start_python(WRITER, directory)
    try:
        assert told_by(process) == "open"
        yield lambda first, stop: tell(process, f"{first} {stop}")
    finally:
        process.kill()
        process.communicate()


async def test_a_read_only_store_follows_a_process_that_writes(tmp_path: Path) -> None:
    async with (
        writer(tmp_path) as write,
        AsyncReadOnlyStore.open(tmp_path) as reader,
        reader.follow(ALL, poll_seconds=0.005) as follower,
        reader.follow(Region(entity="order:2"), poll_seconds=0.005) as narrow,
    ):
        write(0, 300)
        assert await take(follower, 300) == list(range(300))
        async with anyio.create_task_group() as tasks:
            calls = [start(tasks, lambda: take(follower, 300)), start(tasks, lambda: take(narrow, 200))]
            for _ in range(20):
                await checkpoint()
            write(300, 600)
            assert await calls[0].outcome() == list(range(300, 600))
            assert await calls[1].outcome() == list(range(2, 600, 3))
            waiting = start(tasks, lambda: anext(follower))
            for _ in range(20):
                await checkpoint()
            assert (await waiting.cancel().end()).was_cancelled


async def test_a_read_only_store_that_is_closed_ends_who_follows(tmp_path: Path) -> None:
    async with AsyncStore.open(tmp_path) as store:
        await store.sync()
        reader = await AsyncReadOnlyStore.open(tmp_path)
        async with anyio.create_task_group() as tasks:
            calls = [
                start(tasks, lambda poll=poll: anext(reader.follow(ALL, poll_seconds=poll)))  # type: ignore[misc]
                for poll in (0.001, 3600.0)
            ]
            await until_waiting_on(reader, 2)
            await in_time(reader.close())
            for call in calls:
                assert type(await call.error()) is StoreClosedError


async def until_waiting_on(reader: AsyncReadOnlyStore, wanted: int) -> None:
    """Let tasks run until so many wait to be told."""
    hub = reader._hubs.get()
    await until(lambda: len({told for each in hub._waiting.values() for told in each}) == wanted, "waiting tasks")


# The event loop is not held up -----------------------------------------------------------------------------------


def readers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list of the threads that read blocks from now on."""
    threads: list[int] = []
    real = Follower._look

    def noted(follower: Follower, wanted: int = 1) -> bool:
        threads.append(get_ident())
        return real(follower, wanted)

    monkeypatch.setattr(Follower, "_look", noted)
    return threads


async def begun(facade: AsyncStore) -> AsyncFollower:
    """Return a follower that has nothing left to deliver."""
    follower = facade.follow(ALL)
    while await follower.poll_batch(256):
        pass
    return follower


async def test_a_few_new_events_are_read_on_the_loop_and_many_by_a_thread(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = await begun(facade)
    threads = readers(monkeypatch)
    fill(store, HOT_EVENTS)
    await take(follower, HOT_EVENTS)
    assert set(threads) == {get_ident()}
    threads.clear()
    fill(store, HOT_EVENTS + 1)
    await take(follower, 1)
    assert get_ident() not in threads


async def test_long_events_are_read_by_a_thread_however_few(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = await begun(facade)
    threads = readers(monkeypatch)
    append(store, bytes(HOT_BYTES))
    await take(follower, 1)
    assert get_ident() not in threads
    threads.clear()
    append(store, bytes(HOT_BYTES // 2))
    await take(follower, 1)
    assert set(threads) == {get_ident()}


async def test_where_another_thread_reads_the_loop_does_not_wait_for_it(facade: AsyncStore, store: Store) -> None:
    follower = await begun(facade)
    append(store, 1)
    async with anyio.create_task_group() as tasks:
        with store._reader.turn:
            call = start(tasks, lambda: anext(follower))
            for _ in range(100):
                await checkpoint()
            assert not call.is_done
        assert (await call.outcome()).payload == 1


async def test_a_writer_that_is_held_holds_up_nobody_who_follows(facade: AsyncStore, store: Store) -> None:
    fill(store, 600)
    with Held(store):
        assert await take(facade.follow(ALL), 600) == list(range(600))
