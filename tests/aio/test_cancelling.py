"""Cancelling ends the waiting at once, loses nothing of anybody else's, and leaves the order as it was."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from uuid import uuid4

import anyio
import pytest
from anyio.lowlevel import checkpoint

from batpak import Coordinate, Receipt, Store, StoreConfig
from batpak.aio import AsyncStore, gathering
from batpak.aio.journey import Journey
from tests.aio.calls import (
    ORDER,
    PLACED,
    Call,
    Commands,
    NoThreads,
    accepted,
    appending,
    assert_quiet,
    flights,
    start,
    until,
    until_accepted,
    until_written_to,
    waits_its_turn,
)
from tests.store.journals import Held, payloads

pytestmark = pytest.mark.anyio


# One at a time ---------------------------------------------------------------------------------------------------


async def test_whoever_waits_for_a_flight_can_be_cancelled_at_once(facade: AsyncStore, store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, 0))]
            await until_written_to(facade)
            calls += [start(tasks, appending(facade, number)) for number in range(1, 8)]
            await until_accepted(facade, 8)
            for call in calls[2:5]:
                assert (await call.cancel().end()).was_cancelled
        left = [call for call in calls if not call.was_cancelled]
        for call in left:
            receipt = await call.outcome()
            assert store.get(receipt.event_id).sequence == receipt.sequence
    assert len(left) == 5
    assert set(payloads(store)) <= set(range(8))
    await assert_quiet(facade)


async def test_whoever_a_thread_was_sent_for_can_be_cancelled_at_once(facade: AsyncStore, store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        with Held(store):
            with NoThreads(facade) as sent:
                first = start(tasks, appending(facade, "first"))
                await sent.until(1)
                riders = [start(tasks, appending(facade, number)) for number in range(3)]
                await until_accepted(facade, 4)
            await until_written_to(facade)
            assert (await first.cancel().end()).was_cancelled
            later = start(tasks, appending(facade, "later"))
            await until_accepted(facade, 5)
            assert not any(call.is_done for call in [*riders, later])
        for call in [*riders, later]:
            await call.outcome()
    found = payloads(store)
    assert (found[0], sorted(found[1:4]), found[4:]) == ("first", [0, 1, 2], ["later"])
    await assert_quiet(facade)


async def test_whoever_is_cancelled_before_its_thread_begins_leaves_it_to_the_others(
    facade: AsyncStore, store: Store, commands: Commands
) -> None:
    async with anyio.create_task_group() as tasks:
        with NoThreads(facade) as sent:
            first = start(tasks, appending(facade, "first"))
            await sent.until(1)
            riders = [start(tasks, appending(facade, number)) for number in range(4)]
            await until_accepted(facade, 5)
            await first.cancel().end()
            joined = start(tasks, appending(facade, "joined"))
            await until_accepted(facade, 6)
            await sent.until(1)
        for call in [*riders, joined]:
            await call.outcome()
    assert commands.sizes == [6]
    assert len(payloads(store)) == 6
    await assert_quiet(facade)


async def test_of_many_that_are_cancelled_one_after_the_other_the_last_is_answered(
    facade: AsyncStore, store: Store
) -> None:
    async with anyio.create_task_group() as tasks:
        with NoThreads(facade):
            calls = [start(tasks, appending(facade, number)) for number in range(6)]
            await until_accepted(facade, 6)
            for call in calls[:5]:
                await call.cancel().end()
            assert not calls[5].is_done
        await calls[5].outcome()
    assert len(payloads(store)) == 6
    await assert_quiet(facade)


async def test_what_nobody_waits_for_any_more_and_no_thread_has_begun_is_not_written(
    facade: AsyncStore, store: Store, commands: Commands
) -> None:
    async with anyio.create_task_group() as tasks:
        with NoThreads(facade):
            calls = [start(tasks, appending(facade, number)) for number in range(4)]
            await until_accepted(facade, 4)
            for call in calls:
                call.cancel()
            for call in calls:
                assert (await call.end()).was_cancelled
            await assert_quiet(facade)
    assert commands.all == []
    await facade.append(ORDER, PLACED, "after")
    assert payloads(store) == ["after"]


async def test_a_gathering_that_waits_for_the_one_before_can_lose_who_began_it(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MAX_FLIGHT_EVENTS", 3)
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, 0))]
            await until_written_to(facade)
            for number in range(1, 10):
                calls.append(start(tasks, appending(facade, number)))
                await until_accepted(facade, number + 1)
            for number in (1, 4, 5, 6):  # who began one; who began one and all who joined
                await calls[number].cancel().end()
        for number in (0, 2, 3, 7, 8, 9):
            await calls[number].outcome()
    assert payloads(store) == [0, 1, 2, 3, 7, 8, 9]
    await assert_quiet(facade)


@pytest.mark.parametrize(
    ("anyio_backend", "native"),
    [("asyncio", False), ("trio", False), ("asyncio", True)],
    ids=["asyncio", "trio", "asyncio-tasks"],
)
async def test_whoever_is_cancelled_beforehand_begins_nothing(native: bool, facade: AsyncStore, store: Store) -> None:
    receipt = await facade.append(ORDER, PLACED, "before")

    async def call_cancelled(act: Callable[[], Awaitable[object]]) -> None:
        if native:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await act()

    with NoThreads(facade) as sent:
        for act in (appending(facade, "never"), lambda: facade.get(receipt.event_id), facade.stats):
            async with anyio.create_task_group() as tasks:
                call = start(tasks, lambda act=act: call_cancelled(act), native=native)  # type: ignore[misc]
                if not native:
                    call.scope.cancel()
                assert (await call.end()).was_cancelled
        assert sent.count == 0
    assert payloads(store) == ["before"]
    await assert_quiet(facade)


@pytest.mark.parametrize("everybody", [False, True], ids=["one", "everybody"])
@pytest.mark.parametrize(
    ("anyio_backend", "native"),
    [("asyncio", False), ("trio", False), ("asyncio", True)],
    ids=["asyncio", "trio", "asyncio-tasks"],
)
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
async def test_whoever_is_called_to_carry_it_can_be_cancelled_at_that_moment(
    before: bool, native: bool, everybody: bool, facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_one = Journey._call
    calls: list[Call] = []

    def call_and_cancel(self: Journey) -> None:
        if self.waiting and not before:
            call_one(self)
        for call in calls[1:] if everybody else calls[1:3]:
            call.cancel()
        if self.waiting and before:
            call_one(self)

    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls.append(start(tasks, appending(facade, 0), native=native))
            await until_written_to(facade)
            for number in range(1, 6):
                calls.append(start(tasks, appending(facade, number), native=native))
                await until_accepted(facade, number + 1)
            monkeypatch.setattr(Journey, "_call", call_and_cancel)
        await calls[0].outcome()
        for call in calls[1:] if everybody else calls[1:3]:
            assert (await call.end()).was_cancelled
        for call in [] if everybody else calls[3:]:
            await call.outcome()
    monkeypatch.undo()
    await assert_quiet(facade)
    await facade.append(ORDER, PLACED, "after")
    assert payloads(store) == [0, "after"] if everybody else [*range(6), "after"]


@pytest.mark.parametrize(
    ("anyio_backend", "native"),
    [("asyncio", False), ("trio", False), ("asyncio", True)],
    ids=["asyncio", "trio", "asyncio-tasks"],
)
async def test_the_last_one_can_be_cancelled_at_the_moment_of_landing(
    native: bool, facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    wake = gathering.Gathering.wake
    calls: list[Call] = []

    def wake_and_cancel(self: gathering.Gathering) -> None:
        wake(self)
        calls[1].cancel()

    async with anyio.create_task_group() as tasks:
        with Held(store):
            with NoThreads(facade) as sent:
                for number in range(3):
                    calls.append(start(tasks, appending(facade, number), native=native))
                    await until_accepted(facade, number + 1)
                await sent.until(1)
            await until_written_to(facade)
            for number in (0, 2):
                assert (await calls[number].cancel().end()).was_cancelled
            monkeypatch.setattr(gathering.Gathering, "wake", wake_and_cancel)
        assert (await calls[1].end()).was_cancelled == native
    monkeypatch.undo()
    await assert_quiet(facade)
    assert payloads(store) == [0, 1, 2]


async def test_for_those_who_want_no_fsync_none_is_made_when_those_who_did_are_gone(
    facade: AsyncStore, store: Store
) -> None:
    async with anyio.create_task_group() as tasks:
        with store._gate.device:
            with NoThreads(facade) as sent:
                durable = start(tasks, appending(facade, "durable", durable=True))
                await sent.until(1)
                rider = start(tasks, appending(facade, "rider"))
                await until_accepted(facade, 2)
                assert (await durable.cancel().end()).was_cancelled
            assert not (await rider.outcome()).durable
            await assert_quiet(facade)
    assert payloads(store) == ["durable", "rider"]


async def test_a_lone_append_that_was_left_behind_is_written_and_lands(facade: AsyncStore, store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        with Held(store):
            call = start(tasks, appending(facade, "left"))
            await until_written_to(facade)
            await call.cancel().end()
            assert accepted(facade) == 1
        await until_accepted(facade, 0)
    assert payloads(store) == ["left"]
    await assert_quiet(facade)


async def test_behind_a_disk_that_hangs_no_threads_pile_up(facade: AsyncStore, store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        with store._gate.device:
            for number in range(40):
                call = start(tasks, appending(facade, number, durable=True))
                await until(
                    lambda number=number: store.stats().events > number or waits_its_turn(facade),  # type: ignore[misc]
                    "append that is written, or waits",
                )
                await call.cancel().end()
            assert flights(facade)._aloft == accepted(facade) == 8
        await until_accepted(facade, 0)
    assert payloads(store) == list(range(8))
    await assert_quiet(facade)


async def test_a_retry_with_the_same_key_gives_exactly_one_event(facade: AsyncStore, store: Store) -> None:
    key = uuid4()
    async with anyio.create_task_group() as tasks:
        with Held(store):
            first = start(tasks, appending(facade, "once", idempotency_key=key))
            await until_written_to(facade)
            await first.cancel().end()
            retry = start(tasks, appending(facade, "once", idempotency_key=key, durable=True))
            await until_accepted(facade, 2)
        receipt = await retry.outcome()
    assert (receipt.event_id, receipt.duplicate, receipt.durable) == (key, True, True)
    assert payloads(store) == ["once"]


@pytest.mark.parametrize("config", [StoreConfig(mailbox_capacity=2)])
async def test_whoever_waits_for_a_place_can_be_cancelled(facade: AsyncStore, store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, number)) for number in range(2)]
            await until_accepted(facade, 2)
            third = start(tasks, appending(facade, "third"))
            await until(lambda: len(flights(facade)._places._waiting) == 1, "waiter")
            await third.cancel().end()
        for call in calls:
            await call.outcome()
    assert sorted(payloads(store)) == [0, 1]
    await assert_quiet(facade)


# At random -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("anyio_backend", "native"),
    [("asyncio", False), ("trio", False), ("asyncio", True)],
    ids=["asyncio", "trio", "asyncio-tasks"],
)
async def test_cancelled_at_random_every_acknowledged_append_is_there_exactly_once(
    seed: int, native: bool, facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MAX_FLIGHT_EVENTS", 7)
    random = Random(seed)
    acknowledged: list[tuple[str, Receipt]] = []
    stops: list[Callable[[], object]] = []
    issued: list[list[str]] = []

    def ignore() -> None:
        """Cancel nothing: however often the others are cancelled, some appends come to their end."""

    async def append_some(task: int) -> None:
        mine: list[str] = []
        issued.append(mine)
        for number in range(40):
            name = f"{task}.{number}"
            mine.append(name)
            call = facade.append(Coordinate(f"task:{number % 5}", "test"), PLACED, name, durable=random.random() < 0.3)
            if native:
                append = asyncio.ensure_future(call)
                stops.append(append.cancel if number % 4 else ignore)
                with suppress(asyncio.CancelledError):
                    acknowledged.append((name, await append))
            else:
                with anyio.CancelScope() as scope:
                    stops.append(scope.cancel if number % 4 else ignore)
                    acknowledged.append((name, await call))

    async def cancel_some(ended: anyio.Event) -> None:
        while not ended.is_set():
            for _ in range(random.randrange(1, 6)):
                await checkpoint()
            if stops:
                stops.pop(random.randrange(max(0, len(stops) - 24), len(stops)))()

    async with anyio.create_task_group() as tasks:
        ended = anyio.Event()
        tasks.start_soon(cancel_some, ended)
        async with anyio.create_task_group() as appenders:
            for task in range(24):
                appenders.start_soon(append_some, task)
        ended.set()
    await assert_quiet(facade)
    events = list(store.read())
    assert set(Counter(event.payload for event in events).values()) == {1}
    for name, receipt in acknowledged:
        assert store.get(receipt.event_id).payload == name
    assert 24 * 10 <= len(acknowledged) < 24 * 40
    place = {event.payload: event.global_sequence for event in events}
    for mine in issued:
        places = [place[name] for name in mine if name in place]
        assert places == sorted(places)
    assert store.verify_chain().intact
