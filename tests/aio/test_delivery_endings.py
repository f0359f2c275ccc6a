"""However consumers on an event loop end, together or alone: in time, by a typed error, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from queue import SimpleQueue
from random import Random
from threading import enumerate as living_threads
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from batpak import Coordinate, EventKind, OnError, Reactions, Region, Store, StoreClosedError, StoreConfig, StoredEvent
from batpak.aio import AsyncReadOnlyStore, AsyncStore
from batpak.aio.reading import MAX_READS
from tests.aio.calls import PATIENCE_SECONDS, Call, NativeCall, run_beside, start, until
from tests.aio.consumers import ALL, append, assert_nobody_waits, fill, in_time, listeners, until_waiting, waiting_tasks
from tests.conftest import open_files, store_threads
from tests.store.journals import Journal, Task

pytestmark = pytest.mark.anyio

ORDERS = Region(entity="order")
BACKENDS = ["asyncio", "trio"]

Consumer = Callable[[], Awaitable[object]]


def living_tasks() -> int:
    """Return how many tasks this event loop has."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        import trio

        return trio.lowlevel.current_statistics().tasks_living


async def handle(_: list[StoredEvent]) -> None:
    await checkpoint()


def handle_in_thread(_: list[StoredEvent]) -> None:
    """Do nothing, elsewhere."""


async def react(event: StoredEvent, reactions: Reactions) -> None:
    await checkpoint()
    reactions.append(event.coordinate, EventKind(2, 2), event.payload)


async def iterate(consumer: Any) -> None:
    """Iterate over *consumer* to its end."""
    async with consumer:
        async for _ in consumer:
            await checkpoint()


def consumers(facade: AsyncStore, name: str = "") -> dict[str, Consumer]:
    """Return a consumer of each kind, which goes on until something ends it."""
    letters = Region(entity="letter")
    return {
        "subscription": lambda: iterate(facade.subscribe(ALL)),
        "operators": lambda: iterate(facade.subscribe(ALL).map(lambda item: item).filter(bool)),
        "follower": lambda: iterate(facade.follow(ALL)),
        "durable follower": lambda: iterate(facade.follow(ORDERS, durable=True)),
        "cursor": lambda: iterate(facade.cursor(ALL)),
        "named cursor": lambda: iterate(facade.cursor(ORDERS, name=f"cursor{name}")),
        "worker": facade.cursor_worker(ALL, handle, name=f"worker{name}").run,
        "worker in threads": facade.cursor_worker(ALL, handle_in_thread).run,
        "parking worker": facade.cursor_worker(ALL, handle, name=f"parking{name}", on_error=OnError.park).run,
        "reactor": facade.react_loop(letters, react, name=f"reactor{name}", may_feed_itself=True).run,
        "wait": lambda: facade.wait_for("nowhere", 1_000_000, 3600.0),
    }


@asynccontextmanager
async def all_of_them(facade: AsyncStore, tasks: TaskGroup) -> AsyncIterator[dict[str, Call]]:
    """Have a consumer of each kind wait for more."""
    facade._store.cursor(ALL, name="nowhere").close()
    calls = {kind: start(tasks, act) for kind, act in consumers(facade).items()}
    await until_waiting(facade, len(calls))
    assert not any(call.is_done for call in calls.values())
    yield calls


# All kinds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True], ids=["waiting", "busy"])
@pytest.mark.parametrize("how", ["awaited", "by a thread", "twice"])
async def test_a_store_that_is_closed_ends_every_kind_with_a_typed_error(how: str, busy: bool, tmp_path: Path) -> None:
    living, files = living_tasks(), open_files()
    facade = await AsyncStore.open(tmp_path)
    store = facade._store
    fill(store, 50)
    async with anyio.create_task_group() as tasks, all_of_them(facade, tasks) as calls:
        if busy:
            run_beside(lambda: fill_until_closed(store))
            for _ in range(20):
                await checkpoint()
        if how == "by a thread":
            run_beside(store.close)
        else:
            await in_time(facade.close())
        for kind, call in calls.items():
            assert type(await call.error()) is StoreClosedError, kind
        if how == "twice":
            await facade.close()
    await in_time(facade.close())
    await assert_nobody_waits(facade)
    assert living_tasks() == living
    assert store._places._held == {}
    assert open_files() <= files


def fill_until_closed(store: Store) -> None:
    """Append until somebody closes the store."""
    try:
        while True:
            fill(store, 1)
    except StoreClosedError:
        pass


async def test_every_kind_is_cancelled_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    living, files = living_tasks(), open_files()
    async with AsyncStore.open(tmp_path) as facade:
        store = facade._store
        fill(store, 50)
        with anyio.fail_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as tasks, all_of_them(facade, tasks):
                tasks.cancel_scope.cancel()
        await assert_nobody_waits(facade)
        assert living_tasks() == living
        assert store._places._held == {}
        fill(store, 50)
    assert open_files() <= files


@pytest.mark.parametrize("seed", range(3))
async def test_every_kind_is_cancelled_at_random_while_threads_append_and_leaves_nothing(
    seed: int, tmp_path: Path
) -> None:
    random = Random(seed)
    living, files = living_tasks(), open_files()
    async with AsyncStore.open(tmp_path) as facade:
        store = facade._store
        store.cursor(ALL, name="nowhere").close()
        writing = [run_beside(lambda: fill(store, 200)) for _ in range(2)]
        for number in range(8):
            async with anyio.create_task_group() as tasks:
                calls = [start(tasks, act) for act in consumers(facade, str(number % 2)).values()]
                random.shuffle(calls)
                for call in calls:
                    for _ in range(random.randrange(30)):
                        await checkpoint()
                    call.cancel()
                for call in calls:
                    assert (await call.end()).was_cancelled
            assert store._places._held == {}
        for thread in writing:
            await anyio.to_thread.run_sync(thread.join)
        await assert_nobody_waits(facade)
        assert living_tasks() == living
        places = [place for place in store.places() if place.name != "nowhere"]
        assert {place.name for place in places} >= {"worker0", "worker1"}
        assert [place.damage for place in places] == [None] * len(places)
    assert open_files() <= files


async def test_a_block_that_is_left_by_an_error_or_a_break_closes_what_it_entered(
    facade: AsyncStore, store: Store
) -> None:
    fill(store, 5)

    async def leave(consumer: Any) -> None:
        async with consumer:
            async for _ in consumer:
                raise LookupError

    for make in (
        lambda: facade.follow(ALL),
        lambda: facade.cursor(ALL, name="mail"),
        lambda: facade.cursor(ALL),
    ):
        with pytest.raises(LookupError):
            await leave(make())
        consumer: Any = make()
        async with aclosing(consumer):
            async for _ in consumer:
                break
        assert await consumer.poll() is None
        assert store._places._held == {}
    await assert_nobody_waits(facade)


async def test_what_is_dropped_without_a_close_leaves_no_warning_and_nothing_else(
    facade: AsyncStore, store: Store
) -> None:
    fill(store, 5)
    living = living_tasks()
    for _ in range(2):
        await facade.subscribe(ALL).poll()
        await facade.follow(ALL).poll()
        await facade.cursor(ALL, name="mail").poll()
        facade.cursor(ALL, name="mail")
        facade.cursor_worker(ALL, handle, name="mail")
        facade.react_loop(ORDERS, react, name="mail", may_feed_itself=True)
        gc.collect()
        await until(lambda: store._places._held == {}, "free name")
    await assert_nobody_waits(facade)
    assert living_tasks() == living


# Event loops -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_event_loop_that_ends_takes_its_consumers_with_it(backend: str, tmp_path: Path) -> None:
    async def leave(store: Store) -> None:
        facade = AsyncStore.wrap(store)
        async with anyio.create_task_group() as tasks, all_of_them(facade, tasks):
            raise LookupError

    with Store.open(tmp_path) as store:
        threads = store_threads()
        for _ in range(3):
            fill(store, 20)
            with pytest.raises(ExceptionGroup) as caught:
                anyio.run(leave, store, backend=backend)
            assert caught.value.subgroup(LookupError) is not None
            assert listeners(store) == 0
            assert store._places._held == {}
            assert store_threads() <= threads


def test_the_tasks_that_asyncio_cancels_at_its_end_leave_nothing(tmp_path: Path) -> None:
    async def leave(store: Store) -> list[asyncio.Task[None]]:
        facade = AsyncStore.wrap(store)
        store.cursor(ALL, name="nowhere").close()
        left = [NativeCall(act)._task for act in consumers(facade).values()]
        await until_waiting(facade, len(left))
        return left

    with Store.open(tmp_path) as store:
        fill(store, 20)
        left = asyncio.run(leave(store))
        assert all(task.cancelled() for task in left)
        assert listeners(store) == 0
        assert store._places._held == {}
        fill(store, 20)


def test_an_event_loop_that_is_closed_under_its_consumers_does_not_disturb_whoever_appends(tmp_path: Path) -> None:
    async def wait(facade: AsyncStore, waiting: list[Any]) -> None:
        waiting.append(asyncio.ensure_future(facade.subscribe(ALL).pull()))
        await until_waiting(facade, 1)

    with Store.open(tmp_path) as store:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        waiting: list[Any] = []
        loop.run_until_complete(wait(AsyncStore.wrap(store), waiting))
        loop.close()
        append(store, 1)
        subscription = store.subscribe(ALL)
        append(store, 2)
        assert subscription.poll() is not None
        waiting[0]._log_destroy_pending = False


def test_a_close_on_one_event_loop_ends_those_who_wait_on_another(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    facade = AsyncStore.wrap(store)
    store.cursor(ALL, name="nowhere").close()
    ready: SimpleQueue[None] = SimpleQueue()

    async def wait(number: int) -> Counter[str]:
        async with anyio.create_task_group() as tasks:
            calls = [start(tasks, act) for act in consumers(facade, str(number)).values()]
            await until_waiting(facade, len(calls))
            ready.put(None)
            errors = Counter([type(await call.error()).__name__ for call in calls])
        assert waiting_tasks(facade) == 0
        return errors

    loops = [
        Task(lambda number=number, backend=backend: anyio.run(wait, number, backend=backend))  # type: ignore[misc]
        for number, backend in enumerate(BACKENDS * 2)
    ]
    for _ in loops:
        ready.get(timeout=PATIENCE_SECONDS)
    anyio.run(facade.close)
    for loop in loops:
        assert loop.outcome() == {"StoreClosedError": 11}
    assert listeners(store) == 0


# What adds up ----------------------------------------------------------------------------------------------------


async def test_consumers_that_come_and_go_do_not_add_up(facade: AsyncStore, store: Store) -> None:
    kept = []
    for number in range(300):
        durable = number % 2 == 0
        follower = facade.follow(ALL, after=store.stats().visible_sequence, durable=durable)
        subscription = facade.subscribe(Region(entity=f"order:{number}"))
        assert await follower.pull(1, 0) == []
        assert await subscription.pull(0) is None
        await follower.close()
        await subscription.close()
        kept.append((follower, subscription))  # so that no two of them have the same address
        append(store, 1)
    for _ in range(40):
        append(store, 1)
    assert store._announcer._forgotten == {}
    assert all(not table for table in store._announcer._tables)
    await assert_nobody_waits(facade)


async def test_no_thread_is_kept_by_those_who_wait(facade: AsyncStore, store: Store) -> None:
    fill(store, 3)
    before = set(living_threads())  # other tests leave some behind on purpose
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(iterate, facade.follow(ALL))
            tasks.start_soon(iterate, facade.subscribe(ALL))
        await until_waiting(facade, 200)
        threads = facade._threads.get()
        await until(lambda: threads._places._free == MAX_READS, "idle threads")
        assert len(set(living_threads()) - before) < 20
        append(store, 3)
        await until_waiting(facade, 200)
        tasks.cancel_scope.cancel()
    await assert_nobody_waits(facade)


# Read-only stores ------------------------------------------------------------------------------------------------


async def test_who_follows_a_read_only_store_leaves_nothing_however_it_ends(tmp_path: Path) -> None:
    living, files = living_tasks(), open_files()
    random = Random(7)
    async with AsyncStore.open(tmp_path, config=StoreConfig()) as writer:
        await writer.sync()
        async with AsyncReadOnlyStore.open(tmp_path) as reader:
            found: list[Any] = []

            async def follow() -> None:
                follower = reader.follow(ALL, after=len(found) - 1, poll_seconds=0.001)
                while True:
                    found.append((await anext(follower)).payload)

            thread = run_beside(lambda: fill(writer._store, 300))
            with anyio.fail_after(PATIENCE_SECONDS):
                while len(found) < 300:
                    async with anyio.create_task_group() as tasks:
                        call = start(tasks, follow)
                        for _ in range(random.randrange(400)):
                            await checkpoint()
                        call.cancel()
                        await call.end()
            await anyio.to_thread.run_sync(thread.join)
            assert found == list(range(300))
            threads = reader._threads.get()
            await until(lambda: threads._places._free == MAX_READS, "idle threads")
            assert listeners(reader._store) == 0  # type: ignore[arg-type]
    assert living_tasks() == living
    assert open_files() <= files


# In memory -------------------------------------------------------------------------------------------------------


async def test_a_power_cut_under_consumers_leaves_no_place_ahead_of_its_events(journal: Journal) -> None:
    facade = AsyncStore.wrap(journal.store)
    journal.store.cursor(ALL, name="nowhere").close()
    async with anyio.create_task_group() as tasks:
        for act in consumers(facade).values():
            start(tasks, act)
        for number in range(100):
            await facade.append(*WHAT, number)
        for _ in range(50):
            await checkpoint()
        tasks.cancel_scope.cancel()
    store = journal.cut_power()
    last = store.stats().visible_sequence
    for place in store.places():
        assert place.damage is None
        assert place.place is None or place.place.global_sequence <= last
    again = AsyncStore.wrap(store)
    async with again.cursor_worker(ALL, handle, name="worker"):
        if last >= 0:
            await again.wait_for("worker", last, PATIENCE_SECONDS)
    await assert_nobody_waits(again)


WHAT = (Coordinate("order:1", "shop"), EventKind(1, 1))
