"""Reactors on an event loop: one set of reactions for each event, whatever is cancelled; and waiting for a worker."""

from __future__ import annotations

from itertools import count
from threading import get_ident
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from batpak import (
    Coordinate,
    EventKind,
    InvalidRequestError,
    Reactions,
    ReactorError,
    Region,
    RestartPolicy,
    Store,
    StoredEvent,
    WaitTimeoutError,
)
from batpak.aio import AsyncStore
from tests.aio.calls import PATIENCE_SECONDS, start, until
from tests.aio.consumers import (
    ALL,
    NATIVE,
    Handled,
    Hold,
    append,
    assert_nobody_waits,
    cancelled_at,
    fill,
    in_time,
    place_of,
    until_waiting,
)
from tests.store.journals import Journal

pytestmark = pytest.mark.anyio

ORDERS = Region(entity="order")
REACTED = EventKind(0x2, 0x001)
LETTER = Coordinate("letter:1", "post")
NEVER = RestartPolicy.never()


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
