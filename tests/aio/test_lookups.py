"""Gets that are awaited together are read together, each with its own event or error."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock, get_ident
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from anyio import to_thread

from batpak import ActorFailedError, Coordinate, CorruptStoreError, EventNotFoundError, Store, StoreClosedError
from batpak.aio import AsyncStore, lookup
from batpak.aio.lookup import MAX_SEARCHES, MAX_TOGETHER
from tests.aio.calls import PLACED, Call, NoThreads, start, until

pytestmark = pytest.mark.anyio

COUNT = 200


@pytest.fixture
def ids(store: Store) -> list[UUID]:
    """The ids of events whose payload is their place among them."""
    return [store.append(Coordinate(f"order:{number % 3}", "shop"), PLACED, number).event_id for number in range(COUNT)]


class Reads:
    """How many records each read of frames was for, and a hold on reading."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hold = Lock()
        self.sizes: list[int] = []
        self.threads: set[int] = set()
        load = store.load_records

        def held(records: Any) -> Any:
            self.sizes.append(len(records))
            self.threads.add(get_ident())
            with self.hold:
                return load(records)

        monkeypatch.setattr(store, "load_records", held)


@pytest.fixture
def reads(store: Store, ids: list[UUID], monkeypatch: pytest.MonkeyPatch) -> Reads:
    del ids  # they are there before
    return Reads(store, monkeypatch)


def getting(facade: AsyncStore, event_id: UUID) -> Callable[[], Any]:
    """Return a call that gets one event."""
    return lambda: facade.get(event_id)


def searches(facade: AsyncStore) -> int:
    """Return how many searches wait or have a thread."""
    lookups = facade._lookups.get()
    return len(lookups._queue) + lookups._aloft


async def until_quiet(facade: AsyncStore) -> None:
    """Every thread is back."""
    await until(lambda: not searches(facade), "end of all searches")
    assert facade._lookups.get()._newest is None


async def found(call: Call) -> Any:
    return (await call.outcome()).payload


async def test_a_lone_get_is_one_read(facade: AsyncStore, ids: list[UUID], reads: Reads) -> None:
    assert (await facade.get(ids[7])).payload == 7
    assert reads.sizes == [1]
    assert get_ident() not in reads.threads
    await until_quiet(facade)


async def test_gets_that_are_awaited_together_are_read_together(
    facade: AsyncStore, ids: list[UUID], reads: Reads
) -> None:
    async with anyio.create_task_group() as tasks:
        with NoThreads(facade) as sent:
            calls = [start(tasks, getting(facade, event_id)) for event_id in ids]
            await until(lambda: searches(facade) == -(-COUNT // MAX_TOGETHER), "searches for all")
            await sent.until(MAX_SEARCHES)
        assert [await found(call) for call in calls] == list(range(COUNT))
    assert sorted(reads.sizes) == [COUNT % MAX_TOGETHER, MAX_TOGETHER, MAX_TOGETHER, MAX_TOGETHER]
    assert get_ident() not in reads.threads
    await until_quiet(facade)


async def test_what_is_not_there_is_the_error_of_who_asked_for_it(facade: AsyncStore, ids: list[UUID]) -> None:
    unknown = [uuid4(), uuid4()]
    async with anyio.create_task_group() as tasks:
        with NoThreads(facade) as sent:
            calls = [start(tasks, getting(facade, each)) for each in (ids[0], unknown[0], ids[1], unknown[1], ids[2])]
            wrong = start(tasks, getting(facade, "id"))  # type: ignore[arg-type]
            await sent.until(1)
        assert [await found(call) for call in calls[::2]] == [0, 1, 2]
        for event_id, call in zip(unknown, calls[1::2], strict=True):
            error = await call.error()
            assert isinstance(error, EventNotFoundError)
            assert str(event_id) in str(error)
        assert type(await wrong.error()).__name__ == "InvalidRequestError"
    await until_quiet(facade)


async def test_an_error_of_the_whole_read_is_everybodys_own(
    facade: AsyncStore, store: Store, ids: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_: object) -> Any:
        raise CorruptStoreError("file", 0, "nothing", "something", "all else")

    with monkeypatch.context() as patch:
        patch.setattr(store, "load_records", damaged)
        async with anyio.create_task_group() as tasks:
            calls = [start(tasks, getting(facade, event_id)) for event_id in ids[:5]]
            errors = [await call.error() for call in calls]
    assert {type(error) for error in errors} == {CorruptStoreError}
    assert len({id(error) for error in errors}) == 5
    store.close()
    with pytest.raises(StoreClosedError):
        await facade.get(ids[0])
    await until_quiet(facade)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, MemoryError])
async def test_whatever_is_sent_into_the_thread_is_an_error_of_those_who_wait(
    raised: type[BaseException], facade: AsyncStore, store: Store, ids: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> Any:
        raise raised

    with monkeypatch.context() as patch:
        patch.setattr(store, "load_records", interrupted)
        async with anyio.create_task_group() as tasks:
            calls = [start(tasks, getting(facade, event_id)) for event_id in ids[:3]]
            errors = [await call.error() for call in calls]
    expected = raised if issubclass(raised, Exception) else ActorFailedError
    assert {type(error) for error in errors} == {expected}
    assert (await facade.get(ids[0])).payload == 0


async def test_where_no_thread_can_be_had_everybody_is_told(
    facade: AsyncStore, ids: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(to_thread, "run_sync", refuse)
        async with anyio.create_task_group() as tasks:
            calls = [start(tasks, getting(facade, event_id)) for event_id in ids[:3]]
            assert {type(await call.error()) for call in calls} == {ActorFailedError}
    assert (await facade.get(ids[0])).payload == 0
    await until_quiet(facade)


async def test_whoever_is_cancelled_leaves_the_others_their_events(
    facade: AsyncStore, ids: list[UUID], reads: Reads
) -> None:
    async with anyio.create_task_group() as tasks:
        with reads.hold:
            with NoThreads(facade) as sent:
                calls = [start(tasks, getting(facade, event_id)) for event_id in ids[:6]]
                await sent.until(1)
                assert (await calls[0].cancel().end()).was_cancelled
            await until(lambda: reads.sizes == [6], "read under way")
            assert (await calls[3].cancel().end()).was_cancelled
        assert [await found(calls[number]) for number in (1, 2, 4, 5)] == [1, 2, 4, 5]
    await until_quiet(facade)


async def test_what_nobody_waits_for_any_more_and_no_thread_has_begun_is_not_read(
    facade: AsyncStore, ids: list[UUID], reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "MAX_TOGETHER", 2)
    async with anyio.create_task_group() as tasks:
        with NoThreads(facade) as sent:
            calls = [start(tasks, getting(facade, event_id)) for event_id in ids[:10]]
            await until(lambda: searches(facade) == 5, "five searches")
            await sent.until(MAX_SEARCHES)
            for call in calls:
                call.cancel()
            for call in calls:
                assert (await call.end()).was_cancelled
            assert not facade._lookups.get()._queue
            assert sent.count == 0
        await until_quiet(facade)
        assert reads.sizes == []
        assert (await facade.get(ids[3])).payload == 3


async def test_behind_a_disk_that_hangs_no_threads_pile_up(facade: AsyncStore, ids: list[UUID], reads: Reads) -> None:
    async with anyio.create_task_group() as tasks:
        with reads.hold:
            for number in range(20):
                call = start(tasks, getting(facade, ids[number]))
                await until(
                    lambda number=number: len(reads.sizes) == min(number + 1, MAX_SEARCHES),  # type: ignore[misc]
                    "read under way",
                )
                await until(lambda: searches(facade) > 0, "search")
                await call.cancel().end()
            assert reads.sizes == [1] * MAX_SEARCHES
        await until_quiet(facade)
    assert (await facade.get(ids[0])).payload == 0
