"""Places are bounded, handed on in order, and never lost to a cancellation."""

from __future__ import annotations

from threading import Lock

import anyio
import pytest
from anyio import to_thread
from anyio.abc import TaskGroup

from batpak.aio.places import Places, Tokens
from tests.aio.calls import Call, start, until

pytestmark = pytest.mark.anyio


async def wait_for(places: Places, tasks: TaskGroup, count: int, *, native: bool = False) -> list[Call]:
    """Let *count* tasks wait for a place, one after the other."""
    calls = []
    for number in range(count):
        calls.append(start(tasks, places.take, native=native))
        await until(lambda number=number: len(places._waiting) == number + 1, "waiter")  # type: ignore[misc]
    return calls


async def test_there_are_as_many_as_said() -> None:
    places = Places(2)
    assert [places.take_nowait() for _ in range(3)] == [True, True, False]
    assert not await places.take(0)
    assert not await places.take(0.001)
    places.give()
    assert await places.take()
    assert not places.take_nowait()


async def test_who_waits_longest_is_served_first() -> None:
    places = Places(0)
    async with anyio.create_task_group() as tasks:
        calls = await wait_for(places, tasks, 5)
        for number, call in enumerate(calls):
            places.give()
            assert not places.take_nowait()
            assert await call.outcome()
            assert not any(other.is_done for other in calls[number + 1 :])


async def test_a_waiter_that_is_cancelled_takes_none() -> None:
    places = Places(0)
    async with anyio.create_task_group() as tasks:
        first, second = await wait_for(places, tasks, 2)
        await first.cancel().end()
        places.give(2)
        assert await second.outcome()
    assert places.take_nowait()
    assert not places.take_nowait()


@pytest.mark.parametrize(
    ("anyio_backend", "native"),
    [("asyncio", False), ("trio", False), ("asyncio", True)],
    ids=["asyncio", "trio", "asyncio-task"],
)
async def test_a_place_given_to_one_who_is_being_cancelled_is_not_lost(native: bool) -> None:
    places = Places(0)
    async with anyio.create_task_group() as tasks:
        first, second = await wait_for(places, tasks, 2, native=native)
        places.give()
        first.cancel()  # both before it runs again
        await first.end()
        if not first.was_cancelled:  # the place came first
            places.give()
        assert await second.outcome()
    assert not places.take_nowait()


# Threads ---------------------------------------------------------------------------------------------------------


async def test_no_more_threads_are_at_work_than_there_are_tokens() -> None:
    tokens, hold, begun = Tokens(2), Lock(), []

    def work(number: int) -> int:
        begun.append(number)
        with hold:
            return number

    async with anyio.create_task_group() as tasks:
        with hold:
            calls = [
                start(tasks, lambda number=number: to_thread.run_sync(work, number, limiter=tokens))  # type: ignore[misc]
                for number in range(5)
            ]
            await until(lambda: len(begun) == 2 and len(tokens._places._waiting) == 3, "two at work")
            waiting = next(number for number in range(5) if number not in begun)
            await calls[waiting].cancel().end()
        assert [number for number in range(5) if number != waiting] == [
            await call.outcome() for number, call in enumerate(calls) if number != waiting
        ]
    assert tokens._places._free == 2


async def test_a_token_comes_back_from_a_thread_that_was_left_behind() -> None:
    tokens, hold, begun = Tokens(1), Lock(), []

    def work() -> None:
        begun.append(1)
        with hold:
            pass

    async with anyio.create_task_group() as tasks:
        with hold:
            call = start(tasks, lambda: to_thread.run_sync(work, abandon_on_cancel=True, limiter=tokens))
            await until(lambda: len(begun) == 1, "thread")
            assert (await call.cancel().end()).was_cancelled
        await to_thread.run_sync(work, limiter=tokens)
        await until(lambda: tokens._places._free == 1, "free token")
