"""Subscriptions on an event loop: every item once, one wake-up for all who wait, and a clean end whatever ends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from itertools import count
from queue import SimpleQueue
from random import Random
from threading import get_ident
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from batpak import Coordinate, EventKind, Notification, Region, Store, StoreClosedError, SubscriptionOverflowError
from batpak.aio import AsyncStore, AsyncSubscription
from batpak.aio.loops import Callback
from batpak.delivery.feed import BLOCK, Feed
from tests.aio.calls import PATIENCE_SECONDS, PLACED, run_beside, start, until
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
    told,
    until_waiting,
    waiting_tasks,
)
from tests.store.journals import Journal, Task, new_events

pytestmark = pytest.mark.anyio


def sequences(items: list[Notification]) -> list[int]:
    return [item.global_sequence for item in items]


async def take(subscription: AsyncSubscription[Any], wanted: int) -> list[Any]:
    """Return the next items, which must come."""
    with anyio.fail_after(PATIENCE_SECONDS):
        return [await anext(subscription) for _ in range(wanted)]


# What is delivered -----------------------------------------------------------------------------------------------


async def test_what_is_appended_from_now_on_comes_once_and_in_order(facade: AsyncStore, store: Store) -> None:
    fill(store, 3)
    async with facade.subscribe(ALL) as subscription:
        thread = run_beside(lambda: fill(store, 1000))
        assert sequences(await take(subscription, 1000)) == list(range(3, 1003))
        await anyio.to_thread.run_sync(thread.join)
        assert await subscription.poll() is None
        assert await subscription.pull(0) is None
    await assert_nobody_waits(facade)


async def test_an_item_is_the_notification_that_a_thread_gets(facade: AsyncStore, store: Store) -> None:
    here, there = facade.subscribe(ALL), store.subscribe(ALL)
    append(store, 1)
    assert await here.poll() == there.poll()


async def test_an_event_can_be_read_when_its_notification_comes(facade: AsyncStore, store: Store) -> None:
    subscription = facade.subscribe(ALL)
    run_beside(lambda: fill(store, 200))
    for item in await take(subscription, 200):
        assert (await facade.get(item.event_id)).global_sequence == item.global_sequence


async def test_the_operators_do_what_they_do_on_a_thread(facade: AsyncStore, store: Store) -> None:
    def total(state: int, each: int) -> int | None:
        return None if each % 5 == 0 else state + each

    here = (
        facade.subscribe(ALL)
        .map(lambda item: item.global_sequence)
        .filter(lambda number: number % 3)
        .scan(0, total)
        .take(20)
    )
    there = (
        store.subscribe(ALL)
        .map(lambda item: item.global_sequence)
        .filter(lambda number: number % 3)
        .scan(0, total)
        .take(20)
    )
    fill(store, 100)
    assert [item async for item in here] == list(there)
    assert await here.poll() is None
    assert await here.pull() is None


async def test_a_pull_gives_up_when_its_time_is_up(facade: AsyncStore, store: Store) -> None:
    subscription = facade.subscribe(ORDER_42)
    append(store, 1, "order:7")
    assert await subscription.pull(0.01) is None
    append(store, 2)
    item = await subscription.pull(0.01)
    assert item is not None
    assert item.global_sequence == 1
    await assert_nobody_waits(facade)


async def test_who_is_too_slow_gets_what_there_was_room_for_and_a_typed_error(facade: AsyncStore, store: Store) -> None:
    slow, fast = facade.subscribe(ALL, capacity=300), facade.subscribe(ALL)
    fill(store, 301)
    assert sequences(await take(slow, 300)) == list(range(300))
    for _ in range(2):
        with pytest.raises(SubscriptionOverflowError) as caught:
            await anext(slow)
        assert caught.value.capacity == 300
    assert sequences(await take(fast, 301)) == list(range(301))
    await assert_nobody_waits(facade)


async def test_who_waited_and_was_too_slow_after_that_is_told_of_it(facade: AsyncStore, store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        subscription = facade.subscribe(ALL, capacity=1)
        call = start(tasks, lambda: take(subscription, 2))
        await until_waiting(facade, 1)
        store.append_batch(new_events(1, 2))
        assert isinstance(await call.error(), SubscriptionOverflowError)
    await assert_nobody_waits(facade)


# Cancelling ------------------------------------------------------------------------------------------------------


@NATIVE
async def test_cancelled_at_any_await_it_goes_on_without_gap_or_duplicate(
    native: bool, facade: AsyncStore, store: Store
) -> None:
    subscription = facade.subscribe(ALL)
    fill(store, 2 * BLOCK)  # a thread looks at these, the event loop at those that come later
    found: list[int] = []

    async def one() -> None:
        found.append((await anext(subscription)).global_sequence)

    with anyio.fail_after(PATIENCE_SECONDS):
        for step in count():
            if len(found) == 2 * BLOCK:
                break
            await cancelled_at(step % 6 + 1, one, native=native)
        for number in range(50):
            assert await cancelled_at(1, one, native=native)
            append(store, number)
            await cancelled_at(number % 3 + 1, one, native=native)
    await take_the_rest(subscription, found)
    assert found == list(range(2 * BLOCK + 50))
    await assert_nobody_waits(facade)


async def take_the_rest(subscription: AsyncSubscription[Notification], found: list[int]) -> None:
    """Take what is there by now."""
    while item := await subscription.poll():
        found.append(item.global_sequence)


@NATIVE
async def test_cancelled_at_the_moment_when_it_is_woken_it_loses_nothing(
    native: bool, facade: AsyncStore, store: Store
) -> None:
    subscription = facade.subscribe(ALL)
    found: list[int] = []

    async def one() -> None:
        found.append((await anext(subscription)).global_sequence)

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            call = start(tasks, one, native=native)
            await until_waiting(facade, 1)
            append(store, number)
            for _ in range(number % 5):
                await checkpoint()
            await call.cancel().end()
            await take_the_rest(subscription, found)
            assert found == list(range(number + 1))
    await assert_nobody_waits(facade)


@NATIVE
async def test_a_cancelled_wait_is_over_at_once_and_leaves_nothing(
    native: bool, facade: AsyncStore, store: Store
) -> None:
    async with anyio.create_task_group() as tasks:
        subscription = facade.subscribe(ALL)
        call = start(tasks, lambda: anext(subscription), native=native)
        await until_waiting(facade, 1)
        assert (await call.cancel().end()).was_cancelled
        await assert_nobody_waits(facade)
        append(store, 1)
        assert sequences(await take(subscription, 1)) == [0]


async def test_what_a_thread_took_for_a_cancelled_task_comes_next(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = facade.subscribe(ALL)
    fill(store, 600)
    hold = Hold(monkeypatch, Feed, "notifications")
    async with anyio.create_task_group() as tasks:
        with hold:
            call = start(tasks, lambda: anext(subscription))
            await hold.until_called()
            assert (await call.cancel().end()).was_cancelled
            again = start(tasks, lambda: anext(subscription))
        assert (await again.outcome()).global_sequence == 0
    assert sequences(await take(subscription, 599)) == list(range(1, 600))


async def test_what_a_thread_is_about_to_hand_over_is_not_taken_for_nothing(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = facade.subscribe(ORDER_42)
    for _ in range(BLOCK + 1):
        append(store, 0, "order:7")
    append(store, 1)
    hold = Hold(monkeypatch, Feed, "notifications")
    async with anyio.create_task_group() as tasks:
        with hold:  # the thread has looked at everything, and has not handed anything over
            call = start(tasks, lambda: anext(subscription))
            await hold.until_called()
            await call.cancel().end()
            again = start(tasks, lambda: anext(subscription))
            for _ in range(20):
                await checkpoint()
            assert not again.is_done
        assert (await again.outcome()).global_sequence == BLOCK + 1


# Waking ----------------------------------------------------------------------------------------------------------


async def test_a_publication_wakes_the_loop_once_whoever_waits(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions = [ALL, ORDER_42, Region(scope="shop"), Region(kind=PLACED)]
    got: list[int] = []

    async def consume(region: Region) -> None:
        async with facade.subscribe(region) as subscription:
            got.extend([(await anext(subscription)).global_sequence for _ in range(1)])
            got.extend([(await anext(subscription)).global_sequence for _ in range(10)])

    posted: list[Callback] = []
    hub = facade._hubs.get()
    post = hub.post

    def counted(callback: Callback) -> None:
        posted.append(callback)
        post(callback)

    monkeypatch.setattr(hub, "post", counted)
    with told(store, monkeypatch) as calls:
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(consume, regions[number % 4])
            await until_waiting(facade, 200)
            append(store, 0)
            assert len(calls) == len(posted) == 1
            await until(lambda: len(got) == 200, "woken tasks")
            await until_waiting(facade, 200)
            store.append_batch(new_events(*range(10)))
            assert len(calls) == len(posted) == 2
    assert Counter(got) == dict.fromkeys(range(11), 200)
    await assert_nobody_waits(facade)


async def test_who_waits_for_another_entity_is_left_alone(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Region] = []
    look = AsyncSubscription._look

    async def counted(subscription: AsyncSubscription[Any]) -> tuple[object, ...]:
        looks.append(subscription._source.live.feed.region)
        return await look(subscription)

    monkeypatch.setattr(AsyncSubscription, "_look", counted)
    with told(store, monkeypatch) as calls:
        async with anyio.create_task_group() as tasks:
            idle = facade.subscribe(Region(entity="order:7"))
            start(tasks, lambda: anext(idle))
            await until_waiting(facade, 1)
            fill(store, 100)
            assert calls == []
            busy = facade.subscribe(ORDER_42)
            call = start(tasks, lambda: anext(busy))
            await until_waiting(facade, 2)
            looks.clear()
            fill(store, 1)
            await call.outcome()
            assert len(calls) == 1
            assert set(looks) == {ORDER_42}
            tasks.cancel_scope.cancel()
    await assert_nobody_waits(facade)


async def test_who_has_something_left_costs_an_append_nothing(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with facade.subscribe(ALL) as subscription:
        fill(store, 10)
        await take(subscription, 1)
        with told(store, monkeypatch) as calls:
            fill(store, 10)
            assert calls == []


class Posted:
    """Keeps what is posted to the event loop until `arrive`."""

    def __init__(self, facade: AsyncStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.callbacks: list[Callback] = []
        monkeypatch.setattr(facade._hubs.get(), "post", self.callbacks.append)

    def arrive(self) -> None:
        while self.callbacks:
            self.callbacks.pop(0)()


async def test_a_wake_up_that_is_on_its_way_loses_nobody_who_comes_meanwhile(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted = Posted(facade, monkeypatch)
    async with anyio.create_task_group() as tasks:
        first = facade.subscribe(ALL)
        one = start(tasks, lambda: anext(first))
        await until_waiting(facade, 1)
        append(store, 0)
        second = facade.subscribe(ALL)
        two = start(tasks, lambda: anext(second))
        await until_waiting(facade, 2)
        assert len(posted.callbacks) == 1
        posted.arrive()
        assert (await one.outcome()).global_sequence == 0
        await until_waiting(facade, 1)
        append(store, 1)
        assert len(posted.callbacks) == 1
        posted.arrive()
        assert (await two.outcome()).global_sequence == 1
    await assert_nobody_waits(facade)


async def test_who_is_woken_for_nothing_and_ends_leaves_no_listener(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted = Posted(facade, monkeypatch)
    async with anyio.create_task_group() as tasks:
        first = facade.subscribe(ALL)
        one = start(tasks, lambda: anext(first))
        await until_waiting(facade, 1)
        append(store, 0)
        second = facade.subscribe(ALL)
        two = start(tasks, second.pull)
        await until_waiting(facade, 2)
        posted.arrive()
        await second.close()
        assert (await one.outcome()).global_sequence == 0
        assert await two.outcome() is None
    await assert_nobody_waits(facade)


async def test_no_wake_up_is_lost_where_each_append_waits_for_the_one_before_to_be_seen(
    facade: AsyncStore, store: Store
) -> None:
    seen: SimpleQueue[int] = SimpleQueue()

    def answer() -> None:
        while seen.get(timeout=PATIENCE_SECONDS) < 999:
            append(store, 0)

    async with facade.subscribe(ALL) as subscription:
        thread = run_beside(answer)
        for number in range(-1, 999):
            seen.put(number)
            await take(subscription, 1)
        seen.put(999)
        await anyio.to_thread.run_sync(thread.join)
    await assert_nobody_waits(facade)


LAST = EventKind(0x1, 0x0FF)


class Crowd:
    """Subscribers that are cancelled at random and go on, each until its entity's last event."""

    def __init__(self, facade: AsyncStore, seed: int) -> None:
        self._facade = facade
        self._random = Random(seed)
        self._stops: list[anyio.CancelScope] = []
        self.got: list[tuple[int, str, list[int]]] = []

    async def consume(self, entity: str) -> None:
        subscription = self._facade.subscribe(Region(entity=entity))
        found: list[int] = []
        self.got.append((subscription._source.live.feed.looked, entity, found))
        over = False
        while not over:
            with anyio.CancelScope() as scope:
                self._stops.append(scope)
                item = await anext(subscription)
                found.append(item.global_sequence)
                over = item.kind == LAST

    async def disturb(self) -> None:
        while True:
            for _ in range(self._random.randrange(1, 8)):
                await checkpoint()
            if self._stops:
                self._stops.pop(self._random.randrange(len(self._stops))).cancel()


@pytest.mark.parametrize("seed", range(2))
async def test_a_crowd_that_comes_and_goes_while_threads_append_misses_nothing(
    seed: int, facade: AsyncStore, store: Store
) -> None:
    def produce(seed: int) -> None:
        random = Random(seed)
        for number in range(250):
            append(store, number, f"order:{random.randrange(5)}")

    crowd = Crowd(facade, seed)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(crowd.disturb)
        with anyio.fail_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as subscribers:
                threads = [run_beside(partial(produce, seed)) for seed in range(3)]
                for number in range(100):
                    subscribers.start_soon(crowd.consume, f"order:{number % 5}")
                    await checkpoint()
                for thread in threads:
                    await anyio.to_thread.run_sync(thread.join)
                for number in range(5):
                    store.append(Coordinate(f"order:{number}", "shop"), LAST, None)
        tasks.cancel_scope.cancel()
    for looked, entity, found in crowd.got:
        assert found == [each.global_sequence for each in store.stream(entity) if each.global_sequence > looked]
    await assert_nobody_waits(facade)


# More than one event loop ----------------------------------------------------------------------------------------


def test_two_event_loops_in_two_threads_are_both_told(journal: Journal) -> None:
    store = journal.store
    facade = AsyncStore.wrap(store)
    ready: SimpleQueue[None] = SimpleQueue()

    async def consume() -> list[int]:
        async with facade.subscribe(ALL) as subscription:
            ready.put(None)
            found = sequences(await take(subscription, 500))
        await assert_nobody_waits_here()
        return found

    async def assert_nobody_waits_here() -> None:
        assert waiting_tasks(facade) == 0

    loops = [Task(lambda backend=backend: anyio.run(consume, backend=backend)) for backend in BACKENDS]  # type: ignore[misc]
    for _ in loops:
        ready.get(timeout=PATIENCE_SECONDS)
    for number in range(500):
        append(store, number)
    assert [loop.outcome() for loop in loops] == [list(range(500))] * 3


BACKENDS = ["asyncio", "trio", "asyncio"]


def test_a_subscription_goes_on_on_another_event_loop(journal: Journal) -> None:
    store = journal.store
    facade = AsyncStore.wrap(store)

    async def subscribe() -> AsyncSubscription[Notification]:
        subscription = facade.subscribe(ALL)
        append(store, 0)
        await take(subscription, 1)
        return subscription

    async def go_on(subscription: AsyncSubscription[Notification]) -> list[int]:
        async with anyio.create_task_group() as tasks:
            call = start(tasks, lambda: take(subscription, 1))
            await until_waiting(facade, 1)
            thread = run_beside(lambda: append(store, 1))
            found = sequences(await call.outcome())
            await anyio.to_thread.run_sync(thread.join)
        return found

    for backend, other in (("asyncio", "asyncio"), ("asyncio", "trio"), ("trio", "asyncio")):
        subscription = anyio.run(subscribe, backend=backend)
        last = store.stats().visible_sequence
        assert anyio.run(go_on, subscription, backend=other) == [last + 1]


# The event loop is not held up -----------------------------------------------------------------------------------


async def test_a_few_new_events_are_looked_at_on_the_loop_and_many_by_a_thread(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    real = Feed.notifications

    def noted(feed: Feed, limit: int) -> list[Notification]:
        threads.append(get_ident())
        return real(feed, limit)

    monkeypatch.setattr(Feed, "notifications", noted)
    subscription = facade.subscribe(ALL)
    fill(store, BLOCK)
    await take(subscription, BLOCK)
    assert threads == [get_ident()]
    fill(store, BLOCK + 1)
    threads.clear()
    await take(subscription, 1)
    assert len(threads) == 1
    assert get_ident() not in threads


# The end ---------------------------------------------------------------------------------------------------------


async def test_a_close_ends_the_task_that_waits(facade: AsyncStore, store: Store) -> None:
    ends: list[Callable[[AsyncSubscription[Notification]], Awaitable[None]]] = [
        AsyncSubscription.close,
        AsyncSubscription.aclose,
    ]
    for end in ends:
        async with anyio.create_task_group() as tasks:
            subscription = facade.subscribe(ALL)

            async def consume(subscription: AsyncSubscription[Notification] = subscription) -> list[Notification]:
                return [item async for item in subscription]

            call = start(tasks, consume)
            other = start(tasks, subscription.pull)
            await until_waiting(facade, 2)
            await end(subscription)
            assert await call.outcome() == []
            assert await other.outcome() is None
            await end(subscription)
            append(store, 1)
            assert await subscription.poll() is None
            with pytest.raises(StopAsyncIteration):
                await anext(subscription)
    await assert_nobody_waits(facade)


async def test_a_block_closes_what_its_operators_made_too(facade: AsyncStore, store: Store) -> None:
    async with facade.subscribe(ALL) as subscription, aclosing(subscription.map(lambda item: item)) as mapped:
        append(store, 1)
        async for _ in mapped:
            break
    assert await mapped.poll() is None
    assert await subscription.poll() is None


@pytest.mark.parametrize("how", ["awaited", "by a thread"])
async def test_a_store_that_is_closed_ends_all_who_wait_with_a_typed_error(
    how: str, facade: AsyncStore, store: Store
) -> None:
    subscriptions = [facade.subscribe(region) for region in (ALL, ORDER_42, Region(scope="shop")) for _ in range(20)]
    async with anyio.create_task_group() as tasks:
        calls = [start(tasks, lambda each=each: anext(each)) for each in subscriptions]  # type: ignore[misc]
        await until_waiting(facade, 60)
        if how == "awaited":
            await in_time(facade.close())
        else:
            run_beside(store.close)
        for call in calls:
            assert type(await call.error()) is StoreClosedError
    for subscription in subscriptions:
        with pytest.raises(StoreClosedError):
            await subscription.poll()
    await assert_nobody_waits(facade)


async def test_what_is_left_unread_is_refused_by_a_closed_store(facade: AsyncStore, store: Store) -> None:
    subscription = facade.subscribe(ALL)
    fill(store, 600)
    await take(subscription, 1)
    await facade.close()
    with pytest.raises(StoreClosedError):
        await take(subscription, 600)
    with pytest.raises(StoreClosedError):
        facade.subscribe(ALL)


def test_an_event_loop_that_ends_leaves_no_listener(journal: Journal) -> None:
    facade = AsyncStore.wrap(journal.store)

    async def wait_and_leave() -> None:
        async with anyio.create_task_group() as tasks:
            start(tasks, facade.subscribe(ALL).pull)
            await until_waiting(facade, 1)
            raise LookupError

    for backend in ("asyncio", "trio"):
        with suppress(ExceptionGroup):
            anyio.run(wait_and_leave, backend=backend)
        assert sum(len(bucket) for table in journal.store._announcer._tables for bucket in table.values()) == 0
        append(journal.store, 1)
