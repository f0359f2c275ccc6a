"""Opening and closing go on to their end whatever cancels, and an event loop can end at any time."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path
from threading import Event as ThreadEvent
from threading import get_ident
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from batpak import BatpakError, Receipt, Store, StoreClosedError, StoreConfig, StoreLockedError
from batpak.aio import AsyncStore, flight
from batpak.aio.errand import Errand, finish
from batpak.aio.flight import MAX_ON_LOOP
from batpak.aio.loops import post_to, running_loop
from batpak.testing.clock import HandClock
from tests.aio.calls import (
    ORDER,
    PATIENCE_SECONDS,
    PLACED,
    accepted,
    appending,
    assert_quiet,
    flights,
    run_beside,
    start,
    until,
    until_accepted,
    until_written_to,
)
from tests.store.journals import Held, Journal, payloads

pytestmark = pytest.mark.anyio

both_ways = pytest.mark.parametrize(
    ("anyio_backend", "native"),
    [("asyncio", False), ("trio", False), ("asyncio", True)],
    ids=["asyncio", "trio", "asyncio-task"],
)
"""Cancelled by a scope, and, where there is such a thing, by cancelling the task itself."""
BACKENDS = ["asyncio", "trio"]


async def let_others_run() -> None:
    for _ in range(10):
        await checkpoint()


# Opening ---------------------------------------------------------------------------------------------------------


class SlowOpen:
    """An open that has *begun* and waits until it may *go_on*."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = ThreadEvent(), ThreadEvent()
        really = Store.open

        def slow(directory: Any, *, config: StoreConfig | None = None) -> Store:
            self.begun.set()
            assert self.go_on.wait(PATIENCE_SECONDS)
            return really(directory, config=config)

        monkeypatch.setattr(Store, "open", slow)


async def test_an_open_that_is_cancelled_ends_and_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, entered = SlowOpen(monkeypatch), False

    async def use() -> None:
        nonlocal entered
        async with AsyncStore.open(tmp_path) as store:
            entered = True
            await store.append(ORDER, PLACED, "never")

    async with anyio.create_task_group() as tasks:
        call = start(tasks, use)
        await until(slow.begun.is_set, "open")
        call.cancel()
        await let_others_run()
        assert not call.is_done
        slow.go_on.set()
        assert (await call.end()).was_cancelled
    assert entered
    async with AsyncStore.open(tmp_path) as store:
        assert (await store.stats()).events == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_of_asyncio_that_is_cancelled_while_it_opens_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowOpen(monkeypatch)

    async def use() -> None:
        await AsyncStore.open(tmp_path)

    task = asyncio.create_task(use())
    await until(slow.begun.is_set, "open")
    for _ in range(3):
        task.cancel()
        await let_others_run()
    assert not task.done()
    slow.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with AsyncStore.open(tmp_path) as store:
        assert (await store.stats()).events == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_open_that_fails_and_is_cancelled_raises_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(tmp_path):
        slow = SlowOpen(monkeypatch)

        async def use() -> None:
            await AsyncStore.open(tmp_path)

        task = asyncio.create_task(use())
        await until(slow.begun.is_set, "open")
        task.cancel()
        slow.go_on.set()
        with pytest.raises(StoreLockedError):
            await task


async def test_an_errand_is_done_once_and_its_end_is_known() -> None:
    post = post_to(running_loop())
    done: list[int] = []
    first = Errand(lambda: done.append(1), post)
    first.run()
    first.run()
    assert (done, first.ended, first.withdraw(), first.leave(lambda: None)) == ([1], True, False, False)
    second = Errand(lambda: done.append(2), post)
    assert second.withdraw()
    second.run()
    assert done == [1]
    third = Errand(lambda: done.append(3), post)
    told = anyio.Event()
    assert third.leave(told.set)
    run_beside(third.run)
    with anyio.fail_after(PATIENCE_SECONDS):
        await told.wait()
    assert done == [1, 3]


async def test_what_is_finished_raises_its_own_error() -> None:
    def fail() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        await finish(fail, post_to(running_loop()))


# Closing ---------------------------------------------------------------------------------------------------------


@both_ways
async def test_a_close_that_is_cancelled_ends_first(native: bool, tmp_path: Path) -> None:
    facade = await AsyncStore.open(tmp_path)
    store = facade._store
    async with anyio.create_task_group() as tasks:
        with Held(store):
            append = start(tasks, appending(facade, 1))
            await until_written_to(facade)
            close = start(tasks, facade.close, native=native)
            for _ in range(3):
                await let_others_run()
                close.cancel()
            await let_others_run()
            assert not close.is_done
        await close.end()
        assert close.was_cancelled or not native
        await append.outcome()
    assert repr(store).endswith("closed>")


@both_ways
async def test_the_end_of_a_block_waits_for_what_is_on_its_way(native: bool, facade: AsyncStore, store: Store) -> None:
    async def use() -> None:
        async with facade:
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        with Held(store):
            append = start(tasks, appending(facade, 1))
            await until_written_to(facade)
            block = start(tasks, use, native=native)
            await let_others_run()
            block.cancel()
            await let_others_run()
            assert not block.is_done
        await block.end()
        assert not flights(facade)._aloft
        await append.outcome()
    assert store.stats().events == 1


@pytest.mark.parametrize("config", [StoreConfig(mailbox_capacity=6)])
async def test_close_answers_what_is_on_its_way_and_refuses_the_rest(facade: AsyncStore, store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, 0))]
            await until_written_to(facade)
            calls += [start(tasks, appending(facade, number, durable=number % 2 == 0)) for number in range(1, 6)]
            await until_accepted(facade, 6)
            too_late = [start(tasks, appending(facade, "late", max_wait_seconds=limit)) for limit in (None, 20)]
            await until(lambda: len(flights(facade)._places._waiting) == 2, "waiters")
            closes = [start(tasks, facade.close), start(tasks, facade.aclose)]
            for call in too_late:
                assert isinstance(await call.error(), StoreClosedError)
            with pytest.raises(StoreClosedError):
                await facade.append(ORDER, PLACED, "late")
            assert not any(call.is_done for call in [*calls, *closes])
        for call in calls:
            await call.outcome()
        for call in closes:
            await call.outcome()
    with pytest.raises(StoreClosedError):
        await facade.get(calls[0]._value.event_id)
    assert (await facade.diagnostics()).state == "closed"


async def test_a_close_in_the_midst_of_appends_leaves_nobody_waiting(journal: Journal) -> None:
    facade, other = AsyncStore.wrap(journal.store), AsyncStore.wrap(journal.store)
    written: list[int] = []

    async def append_until_closed(store: AsyncStore, number: int) -> None:
        with suppress(StoreClosedError):
            while True:
                written.append((await store.append(ORDER, PLACED, number)).global_sequence)

    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for number in range(32):
                tasks.start_soon(append_until_closed, other if number % 2 else facade, number)
            await until(lambda: len(written) > 100, "hundred appends")
            await facade.close()
    assert sorted(written) == list(range(len(written)))
    assert len(payloads(journal.reopen())) == len(written)


# The end of an event loop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_event_loop_can_end_while_appends_are_on_their_way(backend: str, journal: Journal) -> None:
    store = journal.store
    facade = AsyncStore.wrap(store)

    async def leave_behind() -> None:
        async with anyio.create_task_group() as tasks:
            start(tasks, appending(facade, 0))
            await until_written_to(facade)
            for number in range(1, 10):
                start(tasks, appending(facade, number, durable=number % 2 == 0))
            await until_accepted(facade, 10)
            tasks.cancel_scope.cancel()

    async def go_on() -> None:
        await facade.append(ORDER, PLACED, "after")
        await assert_quiet(facade)

    with Held(store):
        anyio.run(leave_behind, backend=backend)  # it ends, although the writer stands still
    anyio.run(go_on, backend=backend)
    assert payloads(store) == [0, "after"]


def test_tasks_of_asyncio_that_append_while_the_loop_ends_are_answered(journal: Journal) -> None:
    store = journal.store
    facade = AsyncStore.wrap(store)
    cleaned_up: list[Receipt] = []

    async def append(number: int) -> None:
        try:
            await facade.append(ORDER, PLACED, number)
        finally:
            cleaned_up.append(await facade.append(ORDER, PLACED, "cleaned up", durable=number % 2 == 0))

    async def leave_behind(held: Held) -> None:
        running = {asyncio.create_task(append(number)) for number in range(10)}
        await until_written_to(facade)
        await until_accepted(facade, 10)
        run_beside(held.release)
        assert len(running) == 10

    with Held(store) as held:
        asyncio.run(leave_behind(held))
    assert len(cleaned_up) == 10
    assert Counter(map(str, payloads(store)))["cleaned up"] == 10


@pytest.mark.parametrize("config", [StoreConfig(sync_every_events=50)])
def test_many_event_loops_share_one_store(journal: Journal) -> None:
    store = journal.store
    shared = AsyncStore.wrap(store)
    errors: list[BaseException] = []

    def serve(thread: int) -> None:
        facade = shared if thread % 2 else AsyncStore.wrap(store)

        async def append_some(task: int) -> None:
            for number in range(10):
                receipt = await facade.append(ORDER, PLACED, [thread, task, number], durable=number == 5)
                assert (await facade.get(receipt.event_id)).payload == [thread, task, number]

        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                for task in range(8):
                    tasks.start_soon(append_some, task)

        try:
            anyio.run(main, backend=BACKENDS[thread // 2 % 2])
        except BaseException as error:
            errors.append(error)

    threads = [run_beside(lambda thread=thread: serve(thread)) for thread in range(8)]  # type: ignore[misc]
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    assert errors == []
    found = [tuple(payload) for payload in payloads(store)]
    assert len(set(found)) == len(found) == 640
    for thread_and_task in {each[:2] for each in found}:
        assert [each[2] for each in found if each[:2] == thread_and_task] == list(range(10))


async def test_a_thread_that_speaks_to_a_loop_that_has_ended_is_not_heard() -> None:
    posts = []

    async def remember() -> None:
        posts.append(post_to(running_loop()))
        await checkpoint()

    def run_them() -> None:
        for backend in BACKENDS:
            anyio.run(remember, backend=backend)
            posts[-1](lambda: None)

    thread = run_beside(run_them)
    await until(lambda: not thread.is_alive(), "end of both loops")
    for post in posts:
        post(lambda: None)


def test_without_an_event_loop_the_facade_says_so(journal: Journal) -> None:
    facade = AsyncStore.wrap(journal.store)
    with pytest.raises(RuntimeError):
        facade.append(ORDER, PLACED, 1).send(None)
    assert journal.store.stats().events == 0


# On the loop's own thread ----------------------------------------------------------------------------------------

on_loop = pytest.mark.parametrize("config", [StoreConfig(append_on_loop=True)])


class Asking:
    """The threads in which a store's writer was asked."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here = get_ident()
        self.threads: list[int] = []
        asked = store._write

        def write(*arguments: Any) -> Any:
            self.threads.append(get_ident())
            return asked(*arguments)

        monkeypatch.setattr(store, "_write", write)

    @property
    def were_here(self) -> list[bool]:
        return [thread == self.here for thread in self.threads]


@on_loop
async def test_an_append_that_is_not_durable_can_run_on_the_loop(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking(store, monkeypatch)
    receipt = await facade.append(ORDER, PLACED, 1)
    assert store.get(receipt.event_id).payload == 1
    assert (await facade.append(ORDER, PLACED, 2, durable=True)).durable
    await facade.append_batch([])
    assert asking.were_here == [True, False]


@pytest.mark.parametrize("config", [StoreConfig(append_on_loop=True, clock=HandClock())])
async def test_on_the_loop_other_tasks_get_their_turn(facade: AsyncStore) -> None:
    turns: list[str] = []

    async def append_many(name: str) -> None:
        for _ in range(100):
            await facade.append(ORDER, PLACED, name)
            turns.append(name)

    async with anyio.create_task_group() as tasks:
        for name in "ab":
            tasks.start_soon(append_many, name)
    longest = max(len(run) for run in "".join(turns).replace("ab", "a b").replace("ba", "b a").split())
    assert len(turns) == 200
    assert longest <= 64


class _Turns(HandClock):
    """A clock by which the turn of other tasks takes a while; it counts their turns."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self.count = 0

    async def take(self, over: anyio.Event) -> None:
        while not over.is_set():
            self.count += 1
            self.advance(self._seconds)
            await checkpoint()


@pytest.mark.parametrize(("seconds", "longer"), [(0.0, False), (1.0, True)])
async def test_on_the_loop_appends_stay_longer_where_the_turn_of_others_takes_long(
    seconds: float, longer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight, "worked_seconds", lambda: 0.0)
    monkeypatch.setattr(flight, "MAX_STAY", 16 * MAX_ON_LOOP)
    clock = _Turns(seconds)
    with Journal(StoreConfig(append_on_loop=True, clock=clock)) as journal:
        facade = AsyncStore.wrap(journal.store)
        over = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.take, over)
            await until(lambda: clock.count > 0, "other task")
            clock.count = 0
            for number in range(64 * MAX_ON_LOOP):
                await facade.append(ORDER, PLACED, number)
            # Some that met the writer's own thread went by a thread, and others got their turn meanwhile.
            assert clock.count >= 3
            assert (clock.count < 32) is longer
            over.set()


@on_loop
async def test_nothing_waits_for_the_writer_on_the_loop(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking(store, monkeypatch)
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, number)) for number in range(5)]
            await until_accepted(facade, 5)
        for call in calls:
            await call.outcome()
    assert not any(asking.were_here)
    await facade.append(ORDER, PLACED, 5)
    assert asking.were_here[-1]
    assert accepted(facade) == 0


@pytest.mark.parametrize("config", [StoreConfig(append_on_loop=True, sync_every_events=10, sync_every_seconds=3600)])
async def test_no_fsync_runs_on_the_loop(facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking(store, monkeypatch)
    for number in range(100):
        before = store._gate.syncs
        await facade.append(ORDER, PLACED, number)
        if asking.were_here[-1]:
            assert store._gate.durable <= number
            assert store._gate.syncs - before <= 1  # by the writer's own thread
    assert payloads(store) == list(range(100))


@on_loop
async def test_on_the_loop_an_error_is_an_error_and_a_closed_store_is_closed(facade: AsyncStore) -> None:
    await facade.append(ORDER, PLACED, 1)
    with pytest.raises(BatpakError):
        await facade.append(ORDER, PLACED, 2, expected_sequence=77)
    await facade.close()
    with pytest.raises(StoreClosedError):
        await facade.append(ORDER, PLACED, 3)
