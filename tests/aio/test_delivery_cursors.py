"""Followers and cursors on an event loop: no gap, no duplicate, a place that is never ahead, whatever is cancelled."""

from __future__ import annotations

import gc
from itertools import count
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from batpak import (
    CorruptStoreError,
    InvalidRequestError,
    Place,
    PlaceConflictError,
    StalePlaceError,
    StorageError,
    Store,
    StoreClosedError,
    StoreConfig,
)
from batpak.aio import AsyncCursor, AsyncFollower, AsyncStore
from batpak.delivery.places import PlaceBook
from batpak.storage import place_file
from tests.aio.calls import PATIENCE_SECONDS, start, until
from tests.aio.consumers import (
    ALL,
    NATIVE,
    ORDER_42,
    Hold,
    append,
    assert_nobody_waits,
    cancelled_at,
    fill,
    in_time,
    names,
    numbers,
    take,
    until_waiting,
)
from tests.store.journals import Journal, Task

pytestmark = pytest.mark.anyio


# Cancelling ------------------------------------------------------------------------------------------------------


@NATIVE
async def test_cancelled_at_any_await_it_goes_on_without_gap_or_duplicate(
    native: bool, facade: AsyncStore, store: Store
) -> None:
    fill(store, 600)
    follower = facade.follow(ALL)
    found: list[int] = []

    async def some() -> None:
        found.extend(numbers(await follower.pull(7)))

    with anyio.fail_after(PATIENCE_SECONDS):
        for step in count():
            if len(found) == 600:
                break
            await cancelled_at(step % 6 + 1, some, native=native)
        for number in range(600, 660, 2):
            assert await cancelled_at(1, some, native=native)
            fill(store, 2, first=number)
            await cancelled_at(number % 3 + 1, some, native=native)
    found += numbers(await follower.poll_batch(100))
    assert found == list(range(660))
    await assert_nobody_waits(facade)


@NATIVE
async def test_cancelled_at_the_moment_when_it_is_woken_it_loses_nothing(
    native: bool, facade: AsyncStore, store: Store
) -> None:
    follower = facade.follow(ALL)
    found: list[int] = []

    async def some() -> None:
        found.extend(numbers(await follower.pull(7)))

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            call = start(tasks, some, native=native)
            await until_waiting(facade, 1)
            append(store, number)
            for _ in range(number % 5):
                await checkpoint()
            await call.cancel().end()
            found += numbers(await follower.poll_batch(100))
            assert found == list(range(number + 1))
    await assert_nobody_waits(facade)


async def test_what_a_thread_read_for_a_cancelled_task_comes_next(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 600)
    follower = facade.follow(ALL)
    hold = Hold(monkeypatch, store, "load_records")
    async with anyio.create_task_group() as tasks:
        with hold:
            call = start(tasks, lambda: follower.pull(600))
            await hold.until_called()
            assert (await call.cancel().end()).was_cancelled
            again = start(tasks, lambda: follower.pull(300))
        assert numbers(await again.outcome()) == list(range(300))
    assert await take(follower, 300) == list(range(300, 600))


async def test_a_rollback_waits_for_what_a_thread_reads_for_a_cancelled_task(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 600)
    cursor = facade.cursor(ALL)
    assert len(await cursor.poll_batch(16)) == 16
    hold = Hold(monkeypatch, store, "load_records")
    async with anyio.create_task_group() as tasks:
        with hold:
            call = start(tasks, cursor.poll)
            await hold.until_called()
            await call.cancel().end()
            back = start(tasks, cursor.rollback)
            for _ in range(20):
                await checkpoint()
        await back.outcome()
    assert await take(cursor, 600) == list(range(600))


@NATIVE
@pytest.mark.parametrize("config", [StoreConfig(sync_every_events=1_000_000)])
async def test_a_cursor_that_is_cancelled_at_any_await_frees_its_name_and_is_never_ahead(
    native: bool, facade: AsyncStore, store: Store
) -> None:
    fill(store, 40)
    handled = -1
    steps = 0

    async def work() -> None:
        nonlocal handled
        async with facade.cursor(ALL, name="mail") as cursor:
            for limit in (3, 4):
                events = await cursor.pull(limit, 0)
                if events:
                    handled = max(handled, events[-1].global_sequence)
                await cursor.commit()
            await cursor.pull(2, 0)
            await cursor.rollback()

    for steps in count(1):
        reached = await cancelled_at(steps, work, native=native)
        assert store._places._held == {}
        place = names(store).get("mail")
        assert (-1 if place is None else place.global_sequence) <= handled
        if not reached:
            break
    assert steps > 4
    await assert_nobody_waits(facade)
    async with facade.cursor(ALL, name="mail") as cursor:
        assert cursor.committed == names(store)["mail"]


async def test_a_block_that_was_not_entered_leaves_nothing_held_and_can_be_entered(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    cursor = facade.cursor(ALL, name="mail")
    hold = Hold(monkeypatch, PlaceBook, "hold", first=True)

    async def enter() -> None:
        async with cursor:
            raise AssertionError

    async with anyio.create_task_group() as tasks:
        with hold:
            call = start(tasks, enter)
            await hold.until_called()
            call.cancel()
            for _ in range(20):
                await checkpoint()
        assert (await call.end()).was_cancelled
    assert store._places._held == {}
    async with cursor:
        assert await take(cursor, 3) == [0, 1, 2]
    assert store._places._held == {}


# Named places ----------------------------------------------------------------------------------------------------


async def test_a_cursor_begins_when_it_is_first_used(facade: AsyncStore, store: Store) -> None:
    cursor = facade.cursor(ALL, name="mail")
    assert (cursor.name, cursor.place, cursor.committed) == ("mail", None, None)
    await cursor.commit()
    await cursor.rollback()
    assert names(store) == {}
    store.cursor(ALL, name="mail").close()
    assert await cursor.poll() is None
    with pytest.raises(PlaceConflictError):
        store.cursor(ALL, name="mail")
    await cursor.close()
    store.cursor(ALL, name="mail").close()


async def test_a_commit_is_where_the_next_one_begins(facade: AsyncStore, store: Store, journal: Journal) -> None:
    fill(store, 10)
    async with facade.cursor(ALL, name="mail") as cursor:
        await take(cursor, 4)
        assert cursor.committed is None
        await cursor.commit()
        assert cursor.committed == cursor.place == names(store)["mail"]
        await take(cursor, 3)
        await cursor.rollback()
        assert cursor.place == cursor.committed
        assert await take(cursor, 2) == [4, 5]
    for life in list(journal.lives()):
        if life._closed is None:
            async with AsyncStore.wrap(life).cursor(ALL, name="mail", start="end") as again:
                assert await take(again, 6) == [4, 5, 6, 7, 8, 9]


async def test_an_unnamed_cursor_commits_for_its_rollback(facade: AsyncStore, store: Store) -> None:
    fill(store, 5)
    async with facade.cursor(ALL, start=1) as cursor:
        assert cursor.name is None
        assert await take(cursor, 2) == [2, 3]
        await cursor.commit()
        await take(cursor, 1)
        await cursor.rollback()
        assert await take(cursor, 1) == [4]
    assert names(store) == {}


async def test_what_is_wrong_with_a_name_is_raised_where_it_is_first_used(
    facade: AsyncStore, store: Store, journal: Journal
) -> None:
    with store.cursor(ALL, name="mail"):
        for use in (facade.cursor(ALL, name="mail").poll, facade.cursor(ALL, name="mail").__aenter__):
            with pytest.raises(PlaceConflictError) as caught:
                await use()
            assert caught.value.name == "mail"
    with pytest.raises(PlaceConflictError):
        await anext(facade.cursor(ORDER_42, name="mail"))
    for wrong in ("", "a/b", 1):
        with pytest.raises(InvalidRequestError):
            await facade.cursor(ALL, name=wrong).poll()  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError):
        await facade.cursor(ALL, start=7).poll()
    with pytest.raises(StalePlaceError):
        await facade.cursor(ALL, name="other", start=Place(7, bytes(32))).poll()
    journal.disk.open_write(place_file.file_name("mail")).pwrite(b"damage", 0)
    with pytest.raises(CorruptStoreError):
        await facade.cursor(ALL, name="mail").poll()
    assert store._places._held == {}


async def test_a_name_that_was_taken_can_be_tried_again(facade: AsyncStore, store: Store) -> None:
    fill(store, 2)
    cursor = facade.cursor(ALL, name="mail")
    with store.cursor(ALL, name="mail"), pytest.raises(PlaceConflictError):
        async with cursor:
            pass
    async with cursor:
        assert await take(cursor, 2) == [0, 1]


async def test_a_commit_that_fails_leaves_the_place_before(facade: AsyncStore, store: Store, journal: Journal) -> None:
    fill(store, 4)
    async with facade.cursor(ALL, name="mail") as cursor:
        await take(cursor, 1)
        await cursor.commit()
        before = cursor.committed
        await take(cursor, 1)
        journal.files.fail("pwrite", OSError(28, "full"), name="cursors/*")
        with pytest.raises(StorageError):
            await cursor.commit()
        assert cursor.committed == before
        journal.files.heal()
        await cursor.commit()
        assert cursor.committed == cursor.place == names(store)["mail"]


@NATIVE
async def test_a_commit_that_was_cancelled_is_over_when_the_cursor_is_closed(
    native: bool, facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 4)
    cursor = await facade.cursor(ALL, name="mail", start="beginning").__aenter__()
    await take(cursor, 2)
    hold = Hold(monkeypatch, store, "_cover_everything", before=True, first=True)
    async with anyio.create_task_group() as tasks:
        with hold:
            call = start(tasks, cursor.commit, native=native)
            await hold.until_called()
            assert (await call.cancel().end()).was_cancelled
            closing = start(tasks, cursor.close, native=native)
            for _ in range(20):
                await checkpoint()
            assert not closing.is_done
            closing.cancel()
            for _ in range(20):
                await checkpoint()
            assert not closing.is_done
        await closing.end()
    assert store._places._held == {}
    async with facade.cursor(ALL, name="mail") as again:
        assert await take(again, 1) in ([0], [2])


async def test_commits_are_made_in_order_whoever_was_cancelled(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 20)
    async with facade.cursor(ALL, name="mail") as cursor, anyio.create_task_group() as tasks:
        hold = Hold(monkeypatch, store, "_cover_everything", before=True, first=True)
        await take(cursor, 1)
        with hold:
            first = start(tasks, cursor.commit)
            await hold.until_called()
            await first.cancel().end()
            second = start(tasks, cursor.commit)
        await second.outcome()
        assert cursor.committed == cursor.place == names(store)["mail"]
        await take(cursor, 5)
        await cursor.commit()
        assert cursor.committed == cursor.place == names(store)["mail"]


def test_a_place_is_not_let_go_of_while_a_thread_saves_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, 2)
    cursor = store.cursor(ALL, name="mail")
    cursor.poll()
    hold = Hold(monkeypatch, store, "_cover_everything", before=True)
    with hold:
        saving = Task(cursor.commit)
        until_called(hold)
        cursor.close()
        assert set(store._places._held) == {"mail"}
    assert isinstance(saving.error(), InvalidRequestError)
    assert store._places._held == {}
    assert names(store) == {"mail": None}


def until_called(hold: Hold) -> None:
    """Wait until a thread is held."""
    from tests.store.journals import until

    until(lambda: hold.calls > 0, "call")


async def test_a_cursor_that_nobody_refers_to_any_more_frees_its_name_at_once(facade: AsyncStore, store: Store) -> None:
    fill(store, 1)
    gc.collect()
    gc.disable()
    try:
        cursor = facade.cursor(ALL, name="mail")
        await take(cursor, 1)
        del cursor
        await until(lambda: store._places._held == {}, "free name")
    finally:
        gc.enable()


# The end ---------------------------------------------------------------------------------------------------------


async def test_a_close_ends_the_task_that_waits(facade: AsyncStore, store: Store) -> None:
    fill(store, 3)
    for make in (lambda: facade.follow(ALL), lambda: facade.cursor(ALL), lambda: facade.cursor(ALL, name="mail")):
        async with anyio.create_task_group() as tasks:
            follower: AsyncFollower | AsyncCursor = make()

            async def consume(follower: AsyncFollower | AsyncCursor = follower) -> list[Any]:
                return [event.payload async for event in follower]

            call = start(tasks, consume)
            await until_waiting(facade, 1)
            await follower.close()
            assert await call.outcome() == [0, 1, 2]
            await follower.aclose()
            assert await follower.poll() is None
            assert await follower.pull(1) == []
            with pytest.raises(StopAsyncIteration):
                await anext(follower)
    await assert_nobody_waits(facade)


async def test_a_cursor_that_is_closed_commits_no_more(facade: AsyncStore, store: Store) -> None:
    fill(store, 1)
    for name in (None, "mail"):
        cursor = facade.cursor(ALL, name=name)
        await take(cursor, 1)
        await cursor.close()
        with pytest.raises(InvalidRequestError):
            await cursor.commit()


async def test_a_cursor_that_is_closed_while_its_name_is_looked_up_holds_nothing(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = facade.cursor(ALL, name="mail")
    hold = Hold(monkeypatch, PlaceBook, "hold", first=True)
    async with anyio.create_task_group() as tasks:
        with hold:
            call = start(tasks, lambda: cursor.pull(1))
            await hold.until_called()
            closing = start(tasks, cursor.close)
            for _ in range(20):
                await checkpoint()
        await closing.outcome()
        assert store._places._held == {}
        assert await call.outcome() == []


async def test_a_store_that_is_closed_ends_all_who_wait_with_a_typed_error(facade: AsyncStore, store: Store) -> None:
    fill(store, 3)
    followers: list[AsyncFollower | AsyncCursor] = [
        *(facade.follow(region) for region in (ALL, ORDER_42) for _ in range(10)),
        *(facade.follow(ALL, after=2, durable=True) for _ in range(10)),
        *(facade.cursor(ALL, name=f"mail{number}") for number in range(10)),
    ]

    async def consume(follower: AsyncFollower | AsyncCursor) -> None:
        async for _ in follower:
            pass

    async with anyio.create_task_group() as tasks:
        calls = [start(tasks, lambda each=each: consume(each)) for each in followers]  # type: ignore[misc]
        await until_waiting(facade, 40)
        await in_time(facade.close())
        for call in calls:
            assert type(await call.error()) is StoreClosedError
    for follower in followers:
        with pytest.raises(StoreClosedError):
            await follower.poll()
        await follower.close()
    await assert_nobody_waits(facade)
