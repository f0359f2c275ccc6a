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
    Coordinate,
    EventKind,
    InvalidRequestError,
    OnError,
    PlaceConflictError,
    Reactions,
    ReactorError,
    Region,
    RestartPolicy,
    Stop,
    StopAndRollback,
    Store,
    StoreClosedError,
    StoredEvent,
    WaitTimeoutError,
)
from batpak.aio import AsyncStore, AsyncWorker
from batpak.delivery.course import Verdict
from batpak.delivery.places import PlaceBook
from batpak.delivery.worker import Job
from tests.aio.calls import PATIENCE_SECONDS, run_beside, start, until
from tests.aio.consumers import (
    NATIVE,
    Hold,
    append,
    assert_nobody_waits,
    cancelled_at,
    fill,
    in_time,
    listeners,
    until_waiting,
)
from tests.store.journals import Journal

pytestmark = pytest.mark.anyio

ALL = Region()
ORDERS = Region(entity="order")
REACTED = EventKind(0x2, 0x001)
LETTER = Coordinate("letter:1", "post")
NEVER = RestartPolicy.never()


class Handled:
    """A handler that keeps what it has been given; *act* decides what comes of a batch."""

    def __init__(self, act: Callable[[list[Any]], Verdict | None] = lambda _: None) -> None:
        self.batches: list[list[Any]] = []
        self.threads: set[int] = set()
        self._act = act

    @property
    def payloads(self) -> list[Any]:
        return [payload for batch in self.batches for payload in batch]

    def plain(self, events: list[StoredEvent]) -> Verdict | None:
        self.threads.add(get_ident())
        self.batches.append([event.payload for event in events])
        return self._act(self.batches[-1])

    async def awaited(self, events: list[StoredEvent]) -> Verdict | None:
        await checkpoint()
        return self.plain(events)

    async def until(self, wanted: int) -> None:
        """Wait until so many events have been handled."""
        await until(lambda: len(self.payloads) >= wanted, f"{wanted} handled events")


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


def place_of(store: Store, name: str) -> int:
    """Return how far a name has come, -1 for nowhere."""
    (place,) = [place.place for place in store.places() if place.name == name]
    return -1 if place is None else place.global_sequence


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
    facade.react_loop(ORDERS, Reactor().awaited, name="letters")
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


# Reactors --------------------------------------------------------------------------------------------------------


class Reactor:
    """Answers each order with two letters."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.threads: set[int] = set()

    def plain(self, event: StoredEvent, reactions: Reactions) -> None:
        self.threads.add(get_ident())
        self.seen.append(event.global_sequence)
        reactions.append(LETTER, REACTED, [event.payload, 1])
        reactions.append(LETTER, REACTED, [event.payload, 2])

    async def awaited(self, event: StoredEvent, reactions: Reactions) -> None:
        self.seen.append(event.global_sequence)
        await checkpoint()
        reactions.append(LETTER, REACTED, [event.payload, 1])
        await checkpoint()
        reactions.append(LETTER, REACTED, [event.payload, 2])


def letters(store: Store) -> list[Any]:
    return [event.payload for event in store.read(Region(entity="letter"))]


def expected_letters(orders: int) -> list[Any]:
    return [[order, number] for order in range(orders) for number in (1, 2)]


@pytest.mark.parametrize("kind", ["plain", "awaited"])
async def test_each_event_is_answered_once(kind: str, facade: AsyncStore, store: Store) -> None:
    reactor = Reactor()
    fill(store, 5)
    async with facade.react_loop(ORDERS, getattr(reactor, kind), name="letters"):
        receipt = await facade.append(Coordinate("order:42", "shop"), EventKind(1, 1), 5)
        await facade.wait_for("letters", receipt.global_sequence, PATIENCE_SECONDS)
        assert letters(store) == expected_letters(6)
    assert get_ident() not in reactor.threads
    for letter in store.read(Region(entity="letter")):
        assert letter.causation_id is not None
        cause = store.get(letter.causation_id)
        assert letter.correlation_id == cause.correlation_id
        assert letter.payload in ([cause.payload, 1], [cause.payload, 2])
    await assert_nobody_waits(facade)


@NATIVE
@pytest.mark.parametrize("kind", ["plain", "awaited"])
async def test_cancelled_at_any_await_and_opened_again_each_event_has_exactly_one_set_of_reactions(
    kind: str, native: bool, journal: Journal
) -> None:
    store = journal.store
    orders = 0
    for steps in count(1):
        orders += len(fill(store, 2, first=orders))
        facade = AsyncStore.wrap(store)
        reactor = Reactor()

        async def react(facade: AsyncStore = facade, reactor: Reactor = reactor, store: Store = store) -> None:
            last = [event.global_sequence for event in store.read(ORDERS)][-1]
            async with facade.react_loop(ORDERS, getattr(reactor, kind), name="letters", batch_size=2):
                await facade.wait_for("letters", last, PATIENCE_SECONDS)

        reached = await cancelled_at(steps, react, native=native)
        await assert_nobody_waits(facade)
        assert store._places._held == {}
        found = letters(store)
        assert found == expected_letters(len(found) // 2)
        store = journal.kill() if steps % 2 else journal.reopen()
        if not reached:
            break
    assert letters(store) == expected_letters(orders)
    assert steps > 4


async def test_reactions_that_a_cancelled_worker_left_on_their_way_are_written_once(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 1)
    hold = Hold(monkeypatch, store, "append_batch", before=True)
    async with anyio.create_task_group() as tasks:
        with hold:
            call = start(tasks, facade.react_loop(ORDERS, Reactor().awaited, name="letters").run)
            await hold.until_called()
            call.cancel()
        assert (await call.end()).was_cancelled
    assert letters(store) == expected_letters(1)
    assert place_of(store, "letters") == -1
    reactor = Reactor()
    async with facade.react_loop(ORDERS, reactor.awaited, name="letters"):
        await facade.wait_for("letters", 0, PATIENCE_SECONDS)
    assert reactor.seen == []
    assert letters(store) == expected_letters(1)


@pytest.mark.parametrize("kind", ["plain", "awaited"])
async def test_what_a_reactor_raises_is_the_cause_of_the_error(kind: str, facade: AsyncStore, store: Store) -> None:
    (receipt,) = [append(store, 0)]

    def plain(_event: StoredEvent, reactions: Reactions) -> None:
        reactions.append(LETTER, REACTED, None)
        raise LookupError

    async def awaited(event: StoredEvent, reactions: Reactions) -> None:
        plain(event, reactions)

    reactor = plain if kind == "plain" else awaited
    with pytest.raises(ReactorError) as caught:
        await in_time(facade.react_loop(ORDERS, reactor, name="letters", restart=NEVER).run())
    assert (caught.value.name, caught.value.event_id) == ("letters", receipt.event_id)
    assert isinstance(caught.value.__cause__, LookupError)
    assert letters(store) == []


async def test_a_reactor_that_would_feed_itself_is_refused_unless_it_is_asked_for(
    facade: AsyncStore, store: Store
) -> None:
    async def echo(event: StoredEvent, reactions: Reactions) -> None:
        number: Any = event.payload
        if number < 3:
            reactions.append(event.coordinate, event.kind, number + 1)

    append(store, 0)
    with pytest.raises(ReactorError) as caught:
        await in_time(facade.react_loop(ORDERS, echo, name="echo", restart=NEVER).run())
    assert isinstance(caught.value.__cause__, InvalidRequestError)
    async with facade.react_loop(ORDERS, echo, name="echo", may_feed_itself=True):
        await until(lambda: store.stats().events == 4, "echoes")
        await facade.wait_for("echo", 3, PATIENCE_SECONDS)
    assert [event.payload for event in store.read(ORDERS)] == [0, 1, 2, 3]


# Waiting for a worker --------------------------------------------------------------------------------------------


async def test_a_request_waits_until_its_own_write_has_been_handled(facade: AsyncStore) -> None:
    seen: set[Any] = set()

    async def handler(events: list[StoredEvent]) -> None:
        await checkpoint()
        seen.update(event.payload for event in events)

    async def request(number: int) -> None:
        receipt = await facade.append(Coordinate(f"order:{number % 7}", "shop"), EventKind(1, 1), number)
        await facade.wait_for("view", receipt.global_sequence, PATIENCE_SECONDS)
        assert number in seen

    async with facade.cursor_worker(ALL, handler, name="view"), anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(request, number)
    await assert_nobody_waits(facade)


async def test_what_nobody_has_to_handle_is_not_waited_for(facade: AsyncStore, store: Store) -> None:
    async with facade.cursor_worker(ORDERS, Handled().awaited, name="view"):
        receipt = append(store, 1, "letter:1")
        await facade.wait_for("view", receipt.global_sequence, PATIENCE_SECONDS)


@NATIVE
async def test_a_wait_ends_when_its_time_is_up_or_it_is_cancelled(
    native: bool, facade: AsyncStore, store: Store
) -> None:
    store.cursor(ALL, name="view").close()
    fill(store, 1)
    with pytest.raises(WaitTimeoutError) as caught:
        await facade.wait_for("view", 0, 0.01)
    assert (caught.value.name, caught.value.global_sequence) == ("view", 0)
    with pytest.raises(WaitTimeoutError):
        await facade.wait_for("view", 7, 0)
    async with anyio.create_task_group() as tasks:
        for sequence in (0, 7):
            call = start(tasks, lambda sequence=sequence: facade.wait_for("view", sequence, 3600.0), native=native)  # type: ignore[misc]
            await until_waiting(facade, 1)
            assert (await call.cancel().end()).was_cancelled
    with pytest.raises(InvalidRequestError):
        await facade.wait_for("nobody", 0, 1.0)
    await assert_nobody_waits(facade)


async def test_a_wait_hears_of_a_commit_in_a_thread_and_of_a_place_that_was_reset(
    facade: AsyncStore, store: Store
) -> None:
    async with anyio.create_task_group() as tasks:
        with store.cursor(ALL, name="view") as cursor:
            fill(store, 2)
            call = start(tasks, lambda: facade.wait_for("view", 0, PATIENCE_SECONDS))
            await until_waiting(facade, 1)
            cursor.poll()
            await anyio.to_thread.run_sync(cursor.commit)
            await call.outcome()
        call = start(tasks, lambda: facade.wait_for("view", 1, PATIENCE_SECONDS))
        await until_waiting(facade, 1)
        await facade.reset_place("view", 1)
        await call.outcome()
    assert [place.lag_events for place in await facade.places()] == [0]
    assert await facade.delete_place("view")
    assert not await facade.delete_place("view")
    assert await facade.places() == []


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


async def test_native_cancellation_counts_more_than_the_error_of_a_handler(
    facade: AsyncStore, store: Store, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        return
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
