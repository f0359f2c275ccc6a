"""Workers on an event loop: how they begin and end, what an error means, and that nothing is handled too seldom."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from threading import Event, Lock, get_ident
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from batpak import (
    Continue,
    InvalidRequestError,
    OnError,
    PlaceConflictError,
    RestartPolicy,
    Stop,
    StopAndRollback,
    Store,
    StoreClosedError,
    StoredEvent,
)
from batpak.aio import AsyncStore, AsyncWorker
from batpak.delivery.course import Verdict
from batpak.delivery.places import PlaceBook
from batpak.delivery.worker import Job
from tests.aio.calls import PATIENCE_SECONDS, run_beside, start, until
from tests.aio.consumers import (
    ALL,
    NATIVE,
    Handled,
    Hold,
    assert_nobody_waits,
    cancelled_at,
    fill,
    in_time,
    listeners,
    place_of,
    until_waiting,
)
from tests.store.journals import Journal

pytestmark = pytest.mark.anyio

NEVER = RestartPolicy.never()


class Failing(Handled):
    """Fails at some payloads, so many times each."""

    def __init__(self, **times: int) -> None:
        super().__init__(self._fail)
        self.left = Counter({int(payload[1:]): number for payload, number in times.items()})

    def _fail(self, batch: list[Any]) -> None:
        for payload in batch:
            if self.left[payload] > 0:
                self.left[payload] -= 1
                raise LookupError(payload)


async def join(worker: AsyncWorker) -> bool:
    """Wait for a worker's end."""
    return await worker.join(PATIENCE_SECONDS)


# How it runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "awaited"])
async def test_a_block_has_a_worker_beside_it_and_waits_for_its_end(
    kind: str, facade: AsyncStore, store: Store
) -> None:
    handled = Handled()
    fill(store, 100)
    async with facade.cursor_worker(ALL, getattr(handled, kind), name="mail", batch_size=7) as worker:
        assert (worker.name, worker.state) == ("mail", "running")
        assert repr(worker) == "<AsyncWorker 'mail' running>"
        await handled.until(100)
        run_beside(lambda: fill(store, 50, first=100))
        await handled.until(150)
    assert handled.payloads == list(range(150))
    assert max(map(len, handled.batches)) <= 7
    assert worker.state == "stopped"
    assert await worker.join()
    assert place_of(store, "mail") == 149
    assert store._places._held == {}
    await assert_nobody_waits(facade)


async def test_a_task_group_runs_it_too(facade: AsyncStore, store: Store) -> None:
    handled = Handled()
    fill(store, 3)
    async with anyio.create_task_group() as tasks:
        worker = facade.cursor_worker(ALL, handled.awaited)
        assert (worker.name, worker.state) == ("unnamed", "running")
        assert not await worker.join(0)
        tasks.start_soon(worker.run)
        await handled.until(3)
        worker.stop()
        assert await join(worker)
    assert worker.state == "stopped"
    await assert_nobody_waits(facade)


async def test_a_plain_handler_runs_in_a_thread_and_any_other_on_the_loop(facade: AsyncStore, store: Store) -> None:
    class Object:
        async def __call__(self, events: list[StoredEvent]) -> Verdict | None:
            return here.plain(events)

    def returns_a_coroutine(events: list[StoredEvent]) -> Awaitable[Verdict | None]:
        there.plain(events)
        return here.awaited(events)

    here, there = Handled(), Handled()
    fill(store, 3)
    for handler in (there.plain, here.awaited, Object(), returns_a_coroutine):
        before = len(here.payloads) + len(there.payloads)
        async with facade.cursor_worker(ALL, handler):
            await until(lambda before=before: len(here.payloads) + len(there.payloads) > before, "call")  # type: ignore[misc]
    assert here.threads == {get_ident()}
    assert get_ident() not in there.threads


async def test_a_plain_handler_that_waits_does_not_hold_up_the_loop(facade: AsyncStore, store: Store) -> None:
    wait, begun = Event(), Event()

    def slow(_: list[StoredEvent]) -> None:
        begun.set()
        assert wait.wait(PATIENCE_SECONDS)

    fill(store, 1)
    async with facade.cursor_worker(ALL, slow):
        await until(begun.is_set, "handler")
        for _ in range(20):
            await checkpoint()
        wait.set()


async def test_a_worker_that_is_not_entered_holds_nothing(facade: AsyncStore, store: Store) -> None:
    fill(store, 1)
    facade.cursor_worker(ALL, Handled().awaited, name="mail")
    facade.react_loop(ALL, print, name="letters")
    assert store._places._held == {}
    assert store.places() == []
    assert listeners(store) == 0


async def test_a_worker_serves_once(facade: AsyncStore) -> None:
    worker = facade.cursor_worker(ALL, Handled().awaited)
    async with worker:
        with pytest.raises(RuntimeError, match="expected a new one"):
            await worker.run()
        with pytest.raises(RuntimeError, match="expected a new one"):
            await worker.__aenter__()
    with pytest.raises(RuntimeError, match="expected a new one"):
        async with worker:
            raise AssertionError


async def test_wrong_arguments_are_refused_at_once(facade: AsyncStore, store: Store) -> None:
    loose: Any = facade
    calls: list[Callable[[], object]] = [
        lambda: loose.cursor_worker(ALL, None),
        lambda: loose.cursor_worker(ALL, print, batch_size=0),
        lambda: loose.cursor_worker(ALL, print, on_error=OnError.park),
        lambda: loose.cursor_worker(ALL, print, restart=1),
        lambda: loose.react_loop(ALL, "reactor", name="letters"),
        lambda: loose.react_loop(ALL, print, name=""),
        lambda: loose.react_loop("order", print, name="letters"),
    ]
    for call in calls:
        with pytest.raises(InvalidRequestError):
            call()
    assert store._places._held == {}


# Stopping --------------------------------------------------------------------------------------------------------


async def test_a_thread_may_stop_it(facade: AsyncStore, store: Store) -> None:
    handled = Handled()
    async with anyio.create_task_group() as tasks:
        worker = facade.cursor_worker(ALL, handled.awaited, name="mail")
        tasks.start_soon(worker.run)
        fill(store, 1)
        await handled.until(1)
        await until_waiting(facade, 1)
        run_beside(worker.stop)
        assert await join(worker)
        worker.stop()
    assert store._places._held == {}


async def test_what_is_stopped_before_it_runs_handles_nothing(facade: AsyncStore, store: Store) -> None:
    fill(store, 1)
    handled = Handled()
    worker = facade.cursor_worker(ALL, handled.awaited, name="mail")
    worker.stop()
    await in_time(worker.run())
    assert (handled.batches, worker.state) == ([], "stopped")


async def test_stop_ends_a_pause_between_attempts(facade: AsyncStore, store: Store) -> None:
    failing = Failing(_0=9)
    fill(store, 1)
    retry = OnError.retry(3, 3600.0)
    async with facade.cursor_worker(ALL, failing.awaited, name="mail", on_error=retry, restart=NEVER) as worker:
        await failing.until(1)
        await until_waiting(facade, 1)
        worker.stop()
        assert await join(worker)
    assert (failing.payloads, place_of(store, "mail")) == ([0], -1)
    await assert_nobody_waits(facade)


@pytest.mark.parametrize("kind", ["plain", "awaited"])
async def test_the_verdict_decides_what_is_committed(kind: str, facade: AsyncStore, store: Store) -> None:
    fill(store, 9)
    for verdict, name, place in ((Stop, "stop", 5), (StopAndRollback, "rollback", 2), (Continue, "go on", 8)):
        handled = Handled(lambda batch, verdict=verdict: verdict if 5 in batch else None)  # type: ignore[misc]
        worker = facade.cursor_worker(ALL, getattr(handled, kind), name=name, batch_size=3)
        async with worker:
            if verdict is Continue:
                await handled.until(9)
            else:
                assert await join(worker)
        assert (worker.state, place_of(store, name)) == ("stopped", place)
        assert handled.payloads == list(range(9 if verdict is Continue else 6))


async def test_another_result_is_an_error(facade: AsyncStore, store: Store) -> None:
    fill(store, 1)

    async def handler(_: list[StoredEvent]) -> Any:
        return "done"

    with pytest.raises(InvalidRequestError, match="found str, expected Continue"):
        await in_time(facade.cursor_worker(ALL, handler, restart=NEVER).run())


# Errors ----------------------------------------------------------------------------------------------------------


async def test_a_block_raises_at_its_end_what_ended_the_worker(facade: AsyncStore, store: Store) -> None:
    failing = Failing(_1=9)
    worker = facade.cursor_worker(ALL, failing.awaited, name="mail", batch_size=1, restart=NEVER)
    gone_on = False

    async def block() -> None:
        nonlocal gone_on
        async with worker:
            with pytest.raises(LookupError):
                await join(worker)
            assert worker.state == "failed"
            await checkpoint()
            gone_on = True

    fill(store, 3)
    with pytest.raises(LookupError):
        await block()
    assert gone_on
    assert failing.payloads == [0, 1]
    assert place_of(store, "mail") == 0
    assert store._places._held == {}


async def test_the_error_of_the_block_goes_before_the_workers(facade: AsyncStore, store: Store) -> None:
    async def block(worker: AsyncWorker, *, fails: bool) -> None:
        async with worker:
            await until(lambda: (worker.state == "failed") == fails, "state")
            raise ZeroDivisionError

    fill(store, 1)
    failing = facade.cursor_worker(ALL, Failing(_0=9).awaited, restart=NEVER)
    with pytest.raises(ZeroDivisionError):
        await block(failing, fails=True)
    running = facade.cursor_worker(ALL, Handled().awaited, name="mail")
    with pytest.raises(ZeroDivisionError):
        await block(running, fails=False)
    assert running.state == "stopped"
    assert store._places._held == {}
    await assert_nobody_waits(facade)


async def test_an_error_of_run_cancels_the_group_it_runs_in(facade: AsyncStore, store: Store) -> None:
    async def group() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(facade.cursor_worker(ALL, Failing(_0=9).awaited, restart=NEVER).run)
            await anyio.sleep_forever()

    fill(store, 1)
    with pytest.raises(ExceptionGroup) as caught:
        await in_time(group())
    assert [type(error) for error in caught.value.exceptions] == [LookupError]


@pytest.mark.parametrize("kind", ["plain", "awaited"])
async def test_a_restart_begins_behind_the_last_commit(kind: str, facade: AsyncStore, store: Store) -> None:
    fill(store, 6)
    failing = Failing(_3=2)
    restart = RestartPolicy.bounded(2, 3600.0)
    async with facade.cursor_worker(ALL, getattr(failing, kind), name="mail", batch_size=2, restart=restart) as worker:
        await failing.until(10)
        assert worker.state == "running"
    assert place_of(store, "mail") == 5
    assert failing.batches == [[0, 1], [2, 3], [2, 3], [2, 3], [4, 5]]


async def test_a_retry_hands_over_the_same_again(facade: AsyncStore, store: Store) -> None:
    fill(store, 4)
    failing = Failing(_1=2)
    async with facade.cursor_worker(
        ALL, failing.awaited, name="mail", batch_size=2, on_error=OnError.retry(3, 0.0), restart=NEVER
    ):
        await failing.until(8)
    assert failing.batches == [[0, 1], [0, 1], [0, 1], [2, 3]]


@pytest.mark.parametrize("kind", ["plain", "awaited"])
async def test_what_fails_alone_is_parked_and_can_be_tried_again(kind: str, facade: AsyncStore, store: Store) -> None:
    fill(store, 6)
    failing = Failing(_1=2, _4=3)
    async with facade.cursor_worker(
        ALL, getattr(failing, kind), name="mail", batch_size=3, on_error=OnError.park
    ) as worker:
        await facade.wait_for("mail", 5, PATIENCE_SECONDS)
        assert [each.global_sequence for each in await facade.parked("mail")] == [1, 4]
        first, second = [each.event_id for each in await facade.parked("mail")]
        assert await facade.retry_parked("mail", [first]) == 1
        await until(lambda: len(store.parked("mail")) == 1, "settled event")
        assert await facade.retry_parked("mail") == 1
        await until(lambda: store.parked("mail")[0].attempts == 2, "second attempt")
        assert await facade.drop_parked("mail", [second]) == 1
        assert await facade.parked("mail") == []
        assert worker.state == "running"
    assert failing.batches == [[0, 1, 2], [0], [1], [2], [3, 4, 5], [3], [4], [5], [1], [4]]


async def test_a_name_that_is_held_is_told_of_at_the_beginning(facade: AsyncStore, store: Store) -> None:
    with store.cursor(ALL, name="mail"):
        worker = facade.cursor_worker(ALL, Handled().awaited, name="mail")
        with pytest.raises(PlaceConflictError):
            async with worker:
                raise AssertionError
        assert worker.state == "failed"
        with pytest.raises(PlaceConflictError):
            await worker.join()
        with pytest.raises(PlaceConflictError):
            await facade.cursor_worker(ALL, Handled().awaited, name="mail").run()
    await assert_nobody_waits(facade)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # elsewhere nobody can await a task that was cancelled
async def test_a_cancellation_of_something_else_is_an_error_of_the_handler_that_awaits_it(
    facade: AsyncStore, store: Store
) -> None:
    handled = Handled()

    async def handler(events: list[StoredEvent]) -> None:
        handled.plain(events)
        if events[0].payload == 1:
            other = asyncio.ensure_future(anyio.sleep_forever())
            other.cancel()
            await other

    fill(store, 3)
    async with facade.cursor_worker(ALL, handler, name="mail", batch_size=1, on_error=OnError.park) as worker:
        await facade.wait_for("mail", 2, PATIENCE_SECONDS)
        assert [(each.global_sequence, each.error) for each in await facade.parked("mail")] == [(1, "RuntimeError")]
        assert worker.state == "running"
    assert handled.payloads == [0, 1, 2]


# Cancelling ------------------------------------------------------------------------------------------------------


@NATIVE
async def test_what_was_being_handled_when_it_was_cancelled_is_handled_again(
    native: bool, facade: AsyncStore, store: Store
) -> None:
    fill(store, 5)
    handled = Handled()
    ended: list[str] = []

    async def hang(events: list[StoredEvent]) -> None:
        handled.plain(events)
        if events[0].payload == 2:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append("handler")

    async with anyio.create_task_group() as tasks:
        worker = facade.cursor_worker(ALL, hang, name="mail", batch_size=2)
        call = start(tasks, worker.run, native=native)
        await handled.until(4)
        assert (await call.cancel().end()).was_cancelled
        assert ended == ["handler"]
        assert worker.state == "stopped"
        assert await worker.join()
    assert store._places._held == {}
    assert place_of(store, "mail") == 1
    again = Handled()
    async with facade.cursor_worker(ALL, again.awaited, name="mail"):
        await again.until(3)
    assert again.payloads == [2, 3, 4]
    await assert_nobody_waits(facade)


@NATIVE
async def test_a_plain_handler_is_waited_for_when_it_is_cancelled(
    native: bool, facade: AsyncStore, store: Store
) -> None:
    fill(store, 2)
    gate, begun, ended = Lock(), Event(), Event()

    def handler(_: list[StoredEvent]) -> None:
        begun.set()
        with gate:
            pass
        ended.set()
        raise LookupError

    async with anyio.create_task_group() as tasks:
        with gate:
            call = start(tasks, facade.cursor_worker(ALL, handler, name="mail").run, native=native)
            await until(begun.is_set, "handler")
            call.cancel()
            for _ in range(20):
                await checkpoint()
            assert not call.is_done
            assert set(store._places._held) == {"mail"}
        assert (await call.end()).was_cancelled
        assert ended.is_set()
    assert store._places._held == {}
    assert place_of(store, "mail") == -1
    await assert_nobody_waits(facade)


@NATIVE
async def test_cancelled_while_it_looks_its_place_up_it_holds_nothing(
    native: bool, facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def enter() -> None:
        async with facade.cursor_worker(ALL, Handled().awaited, name="mail"):
            raise AssertionError

    for act in (enter, facade.cursor_worker(ALL, Handled().awaited, name="mail").run):
        async with anyio.create_task_group() as tasks:
            hold = Hold(monkeypatch, PlaceBook, "hold")
            with hold:
                call = start(tasks, act, native=native)
                await hold.until_called()
                call.cancel()
                for _ in range(20):
                    await checkpoint()
            assert (await call.end()).was_cancelled
        monkeypatch.undo()
        assert store._places._held == {}
    await assert_nobody_waits(facade)


@NATIVE
async def test_cancelled_at_any_await_a_block_ends_cleanly_and_nothing_is_skipped(
    native: bool, facade: AsyncStore, store: Store
) -> None:
    fill(store, 6)
    handled = Handled()

    async def work() -> None:
        async with facade.cursor_worker(ALL, handled.awaited, name="mail", batch_size=1):
            await handled.until(6)

    for steps in count(1):
        before = len(handled.payloads)
        reached = await cancelled_at(steps, work, native=native)
        assert store._places._held == {}
        if store.places():
            assert place_of(store, "mail") < 6
        new = handled.payloads[before:]
        assert new == list(range(6))[len(new) and new[0] :][: len(new)]
        if not reached or len(set(handled.payloads)) == 6:
            break
    assert set(handled.payloads) == set(range(6))
    assert steps > 2
    await assert_nobody_waits(facade)


async def test_a_scope_that_is_cancelled_ends_a_worker_that_is_never_out_of_work(
    facade: AsyncStore, store: Store
) -> None:
    fill(store, 1)

    def feed(_: list[StoredEvent]) -> None:
        fill(store, 1)

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(facade.cursor_worker(ALL, feed, batch_size=1).run)
            await until(lambda: store.stats().events > 5, "events")
            scope.cancel()
    assert scope.cancelled_caught


# The store is closed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "awaited"])
async def test_a_store_that_is_closed_ends_a_worker_that_waits(kind: str, facade: AsyncStore, store: Store) -> None:
    handled = Handled()
    worker = facade.cursor_worker(ALL, getattr(handled, kind), name="mail")

    async def block() -> None:
        async with worker:
            await handled.until(1)
            await until_waiting(facade, 1)
            await in_time(facade.close())
            with pytest.raises(StoreClosedError):
                await join(worker)

    fill(store, 1)
    with pytest.raises(StoreClosedError):
        await block()
    assert worker.state == "failed"
    await assert_nobody_waits(facade)


@pytest.mark.parametrize("kind", ["plain", "awaited"])
async def test_a_handler_may_close_the_store(kind: str, facade: AsyncStore, store: Store, journal: Journal) -> None:
    fill(store, 1)

    def plain(_: list[StoredEvent]) -> None:
        store.close()

    async def awaited(_: list[StoredEvent]) -> None:
        await facade.close()

    handler = plain if kind == "plain" else awaited
    with pytest.raises(StoreClosedError):
        await in_time(facade.cursor_worker(ALL, handler, name="mail").run())
    assert place_of(journal.reopen(), "mail") == -1


async def test_closing_waits_for_no_handler_and_no_handler_for_it(facade: AsyncStore, store: Store) -> None:
    fill(store, 1)
    gate, begun = Lock(), Event()

    def handler(_: list[StoredEvent]) -> None:
        begun.set()
        with gate:
            pass

    async with anyio.create_task_group() as tasks:
        with gate:
            call = start(tasks, facade.cursor_worker(ALL, handler, name="mail").run)
            await until(begun.is_set, "handler")
            await in_time(facade.close())
            assert not call.is_done
        assert type(await call.error()) is StoreClosedError


async def test_a_worker_lets_go_of_its_place_whatever_happens_at_its_end(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = Hold(monkeypatch, Job, "end", before=True)
    async with anyio.create_task_group() as tasks:
        with hold:
            call = start(tasks, facade.cursor_worker(ALL, Handled().awaited, name="mail").run)
            await until_waiting(facade, 1)
            call.cancel()
            await hold.until_called()
            call.cancel()
        assert (await call.end()).was_cancelled
    assert store._places._held == {}


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellation_counts_more_than_the_error_of_a_handler(facade: AsyncStore, store: Store) -> None:
    fill(store, 1)
    gate, begun = Lock(), Event()

    def handler(_: list[StoredEvent]) -> None:
        begun.set()
        with gate:
            pass
        raise LookupError

    with gate:
        task = asyncio.ensure_future(facade.cursor_worker(ALL, handler, on_error=OnError.retry(1000, 0.0)).run())
        await until(begun.is_set, "handler")
        task.cancel()
        await checkpoint()
    with pytest.raises(asyncio.CancelledError):
        await in_time(task)
