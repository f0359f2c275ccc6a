"""Appends that are awaited together travel together, each with its own outcome."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
import structlog
from anyio import to_thread

from batpak import (
    NO_STREAM,
    ActorFailedError,
    BackpressureError,
    BatpakError,
    Coordinate,
    IdempotencyConflictError,
    InvalidRequestError,
    NewEvent,
    PayloadError,
    Receipt,
    SequenceConflictError,
    StorageError,
    Store,
    StoreClosedError,
    StoreConfig,
    WriterFailedError,
)
from batpak.actors.messages import Append, AppendBatch, Flight
from batpak.aio import AsyncStore, gathering
from tests.aio.calls import (
    ORDER,
    PLACED,
    Commands,
    appending,
    flights,
    start,
    until,
    until_accepted,
    until_written_to,
)
from tests.store.journals import Held, Journal, new_events, payloads

pytestmark = pytest.mark.anyio


# What one offload carries ----------------------------------------------------------------------------------------


async def test_a_lone_append_is_one_append(facade: AsyncStore, store: Store, commands: Commands) -> None:
    receipt = await facade.append(ORDER, PLACED, {"total": 10})
    assert [type(command) for command in commands.all] == [Append]
    assert receipt == Receipt(
        receipt.event_id, 0, 0, store.get(receipt.event_id).event_hash, durable=False, duplicate=False
    )


async def test_64_appends_at_once_travel_together(facade: AsyncStore, commands: Commands) -> None:
    async with anyio.create_task_group() as tasks:
        calls = [start(tasks, appending(facade, number)) for number in range(64)]
    receipts = [await call.outcome() for call in calls]
    assert sorted(receipt.global_sequence for receipt in receipts) == list(range(64))
    assert len(commands.all) <= 4
    assert sum(commands.sizes) == 64


async def test_64_tasks_that_go_on_appending_travel_together(facade: AsyncStore, commands: Commands) -> None:
    async def append_ten(task: int) -> list[Receipt]:
        return [await facade.append(Coordinate(f"task:{task}", "test"), PLACED, number) for number in range(10)]

    async with anyio.create_task_group() as tasks:
        calls = [start(tasks, lambda task=task: append_ten(task)) for task in range(64)]  # type: ignore[misc]
    for call in calls:
        assert [receipt.sequence for receipt in await call.outcome()] == list(range(10))
    assert len(commands.all) <= 64  # of 640, and without gathering as many


async def test_64_durable_appends_at_once_share_their_fsyncs(facade: AsyncStore, journal: Journal) -> None:
    await facade.append(ORDER, PLACED, 0, durable=True)
    before = journal.files.calls["sync_data"]
    async with anyio.create_task_group() as tasks:
        calls = [start(tasks, appending(facade, number, durable=True)) for number in range(64)]
    assert all([(await call.outcome()).durable for call in calls])
    assert 1 <= journal.files.calls["sync_data"] - before <= 4
    assert sorted(payloads(journal.cut_power(), after=0)) == list(range(64))


async def test_what_comes_while_a_flight_is_under_way_goes_with_the_next(
    facade: AsyncStore, store: Store, commands: Commands
) -> None:
    async with anyio.create_task_group() as tasks:
        with Held(store):
            first = start(tasks, appending(facade, 0))
            await until_written_to(facade)
            rest = [start(tasks, appending(facade, number)) for number in range(1, 20)]
            await until_accepted(facade, 20)
        await first.outcome()
        for call in rest:
            await call.outcome()
    assert commands.sizes == [1, 19]


async def test_a_flight_has_an_end(
    facade: AsyncStore, store: Store, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MAX_FLIGHT_EVENTS", 8)
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, "first"))]
            await until_written_to(facade)
            calls += [start(tasks, appending(facade, number)) for number in range(20)]
            await until_accepted(facade, 21)
            batch = new_events(*range(9))
            calls.append(start(tasks, lambda: facade.append_batch(batch)))
            await until_accepted(facade, 22)
        for call in calls:
            await call.outcome()
    assert commands.sizes == [1, 8, 8, 4, 1]


@pytest.mark.parametrize("config", [StoreConfig(max_batch_bytes=1000)])
async def test_a_flight_is_bounded_in_bytes(facade: AsyncStore, store: Store, commands: Commands) -> None:
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, "first"))]
            await until_written_to(facade)
            sizes = [400, 400, 400, 2000, 100]
            for number, size in enumerate(sizes):
                calls.append(start(tasks, appending(facade, bytes(size))))
                await until_accepted(facade, number + 2)
        for call in calls:
            await call.outcome()
    assert commands.sizes == [1, 2, 1, 1, 1]
    assert [len(payload) for payload in payloads(store)[1:]] == sizes


# Order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_events", [1, 3, 512])
async def test_appends_are_written_in_the_order_in_which_they_were_awaited(
    max_events: int, facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MAX_FLIGHT_EVENTS", max_events)
    awaited: list[tuple[int, int]] = []

    async def append_some(task: int) -> None:
        for number in range(8):
            awaited.append((task, number))
            await facade.append(ORDER, PLACED, [task, number], durable=number % 3 == 0)

    async with anyio.create_task_group() as tasks:
        for task in range(16):
            tasks.start_soon(append_some, task)
    assert [tuple(payload) for payload in payloads(store)] == awaited


async def test_what_a_cancelled_append_has_begun_comes_before_what_its_task_appends_next(
    facade: AsyncStore, store: Store
) -> None:
    async with anyio.create_task_group() as tasks:
        with Held(store):
            first = start(tasks, appending(facade, "cancelled"))
            await until_written_to(facade)
            await first.cancel().end()
            second = start(tasks, appending(facade, "after it"))
            await until_accepted(facade, 2)
        await second.outcome()
    assert payloads(store) == ["cancelled", "after it"]


# Neighbours ------------------------------------------------------------------------------------------------------


async def test_an_append_that_fails_leaves_its_neighbours_unharmed(
    facade: AsyncStore, store: Store, commands: Commands
) -> None:
    key = uuid4()
    await facade.append(ORDER, PLACED, "known", idempotency_key=key)
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, "first"))]
            await until_written_to(facade)
            for number in range(30):
                options: dict[str, Any] = {}
                if number % 3 == 1:
                    options = {"expected_sequence": NO_STREAM}
                elif number % 3 == 2:
                    options = {"idempotency_key": key}
                calls.append(start(tasks, appending(facade, number, **options)))
                await until_accepted(facade, number + 2)
        for number, call in enumerate(calls[1:]):
            if number % 3 == 1:
                conflict = await call.error()
                assert isinstance(conflict, SequenceConflictError)
                assert conflict.actual == 1 + number // 3 + 1
            elif number % 3 == 2:
                assert isinstance(await call.error(), IdempotencyConflictError)
            else:
                receipt = await call.outcome()
                assert store.get(receipt.event_id).payload == number
    assert commands.sizes == [1, 1, 30]
    assert payloads(store) == ["known", "first", *range(0, 30, 3)]


async def test_a_payload_that_cannot_be_packed_never_gets_a_place(facade: AsyncStore, commands: Commands) -> None:
    with pytest.raises(PayloadError):
        await facade.append(ORDER, PLACED, {"when": object()})  # type: ignore[dict-item]
    assert commands.all == []
    assert flights(facade)._newest is None


async def test_an_error_of_the_whole_flight_is_everybodys_own(
    facade: AsyncStore, store: Store, journal: Journal
) -> None:
    await facade.append(ORDER, PLACED, "before")
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, "first"))]
            await until_written_to(facade)
            calls += [start(tasks, appending(facade, number)) for number in range(5)]
            await until_accepted(facade, 6)
            journal.files.fail("pwrite", errno.ENOSPC, call=2, name="*.fbat")
        await calls[0].outcome()
        errors = [await call.error() for call in calls[1:]]
    assert {type(error) for error in errors} == {StorageError}
    assert len({id(error) for error in errors}) == 5
    assert {error.errno for error in errors if isinstance(error, StorageError)} == {errno.ENOSPC}
    await facade.append(ORDER, PLACED, "after")
    assert payloads(store) == ["before", "first", "after"]


async def test_a_store_that_was_closed_underneath_says_so_to_everybody(facade: AsyncStore, store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        calls = [start(tasks, appending(facade, number)) for number in range(3)]
        store.close()
        for call in calls:
            assert isinstance(await call.error(), StoreClosedError)


async def test_a_failed_fsync_is_told_to_those_who_asked_for_one(
    facade: AsyncStore, store: Store, journal: Journal
) -> None:
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, "first"))]
            await until_written_to(facade)
            for number in range(6):
                calls.append(start(tasks, appending(facade, number, durable=number % 2 == 0)))
                await until_accepted(facade, number + 2)
            journal.files.fail("sync_data", errno.EIO)
        for number, call in enumerate(calls[1:]):
            if number % 2 == 0:
                assert isinstance(await call.error(), WriterFailedError)
            else:
                assert (await call.outcome()).sequence == number + 1
    with pytest.raises(WriterFailedError):
        await facade.append(ORDER, PLACED, "after")


async def test_where_no_thread_can_be_had_everybody_is_told_and_nothing_is_written(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(to_thread, "run_sync", refuse)
        async with anyio.create_task_group() as tasks:
            calls = [start(tasks, appending(facade, number)) for number in range(3)]
            errors = [await call.error() for call in calls]
        assert {type(error) for error in errors} == {ActorFailedError}
        with pytest.raises(ActorFailedError):
            await facade.latest("order:42")
    await facade.append(ORDER, PLACED, "after")
    assert payloads(store) == ["after"]


async def test_an_interrupt_sent_into_the_thread_is_an_error_of_those_who_wait(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "_write", interrupted)
        async with anyio.create_task_group() as tasks:
            calls = [start(tasks, appending(facade, number)) for number in range(3)]
            for call in calls:
                error = await call.error()
                assert isinstance(error, ActorFailedError)
                assert isinstance(error.__cause__, KeyboardInterrupt)
    await facade.append(ORDER, PLACED, "after")


# Durable and not -------------------------------------------------------------------------------------------------


async def test_an_append_that_is_not_durable_waits_for_no_fsync(facade: AsyncStore, store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        with store._gate.device:
            lone = start(tasks, appending(facade, 0, durable=True))
            await until(lambda: store.stats().events == 1, "written event")
            await facade.append(ORDER, PLACED, 1)
            with Held(store):
                first = start(tasks, appending(facade, 2, durable=True))
                await until_written_to(facade)
                calls = []
                for number in range(3, 9):
                    calls.append(start(tasks, appending(facade, number, durable=number % 2 == 1)))
                    await until_accepted(facade, number)
            for call in calls[1::2]:
                assert not (await call.outcome()).durable
            assert not any(call.is_done for call in [lone, first, *calls[::2]])
            assert payloads(store) == list(range(9))
        for call in [lone, first, *calls[::2]]:
            assert (await call.outcome()).durable


async def test_an_append_waits_for_no_fsync_of_a_flight_before_it(
    facade: AsyncStore, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MAX_FLIGHT_EVENTS", 2)
    async with anyio.create_task_group() as tasks:
        with store._gate.device:
            with Held(store):
                calls = [start(tasks, appending(facade, "first"))]
                await until_written_to(facade)
                for number in range(6):
                    calls.append(start(tasks, appending(facade, number, durable=number < 4)))
                    await until_accepted(facade, number + 2)
            for call in calls[5:]:
                await call.outcome()
            assert not any(call.is_done for call in calls[1:5])
        for call in calls[1:5]:
            assert (await call.outcome()).durable
    assert payloads(store) == ["first", *range(6)]


async def test_one_that_is_not_durable_waits_for_no_fsync_of_those_who_joined_it(
    facade: AsyncStore, store: Store
) -> None:
    async with anyio.create_task_group() as tasks:
        with store._gate.device:
            with Held(store):
                calls = [start(tasks, appending(facade, "first"))]
                await until_written_to(facade)
                for number in range(4):
                    calls.append(start(tasks, appending(facade, number, durable=number > 0)))
                    await until_accepted(facade, number + 2)
            for call in calls[:2]:
                await call.outcome()
            assert not any(call.is_done for call in calls[2:])
        for call in calls[2:]:
            assert (await call.outcome()).durable
    assert payloads(store) == ["first", 0, 1, 2, 3]


@pytest.mark.parametrize("config", [StoreConfig(durable=True)])
async def test_the_configuration_says_what_is_durable_by_default(facade: AsyncStore, journal: Journal) -> None:
    assert (await facade.append(ORDER, PLACED, 1)).durable
    assert [receipt.durable for receipt in await facade.append_batch(new_events(2, 3))] == [True, True]
    assert not (await facade.append(ORDER, PLACED, 4, durable=False)).durable
    assert payloads(journal.cut_power()) == [1, 2, 3]


# Batches and reactions -------------------------------------------------------------------------------------------


async def test_batches_travel_with_the_others_and_stay_whole(
    facade: AsyncStore, store: Store, commands: Commands
) -> None:
    good, bad = new_events(1, 2, 3), [*new_events(4), *new_events(5, expected_sequence=77)]
    async with anyio.create_task_group() as tasks:
        with Held(store):
            first = start(tasks, appending(facade, 0))
            await until_written_to(facade)
            whole = start(tasks, lambda: facade.append_batch(good, durable=True))
            await until_accepted(facade, 2)
            none = start(tasks, lambda: facade.append_batch(bad))
            await until_accepted(facade, 3)
            last = start(tasks, appending(facade, 6))
            await until_accepted(facade, 4)
        await first.outcome()
        assert [(receipt.sequence, receipt.durable) for receipt in await whole.outcome()] == [
            (1, True),
            (2, True),
            (3, True),
        ]
        error = await none.error()
        assert isinstance(error, SequenceConflictError)
        assert error.item_index == 1
        assert (await last.outcome()).sequence == 4
    assert commands.sizes == [1, 3]
    assert payloads(store) == [0, 1, 2, 3, 6]


async def test_a_lone_batch_is_one_command_and_an_empty_one_none(facade: AsyncStore, commands: Commands) -> None:
    assert await facade.append_batch([]) == []
    receipts = await facade.append_batch(new_events(1, 2))
    assert [receipt.sequence for receipt in receipts] == [0, 1]
    assert [type(command) for command in commands.all] == [AppendBatch]
    await facade.close()
    with pytest.raises(StoreClosedError):
        await facade.append_batch([])


async def test_an_item_of_a_batch_that_is_wrong_names_itself(facade: AsyncStore) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await facade.append_batch([NewEvent(ORDER, PLACED, 1), NewEvent(ORDER, PLACED, object())])  # type: ignore[arg-type]
    assert refused.value.item_index == 1


async def test_a_reaction_takes_over_what_its_cause_belongs_to(facade: AsyncStore, store: Store) -> None:
    belongs_to = uuid4()
    receipt = await facade.append(ORDER, PLACED, 1, correlation_id=belongs_to)
    for cause in (receipt, await facade.get(receipt.event_id), await facade.latest("order:42")):
        assert cause is not None
        reaction = store.get((await facade.append_reaction(ORDER, PLACED, 2, cause=cause)).event_id)
        assert (reaction.correlation_id, reaction.causation_id) == (belongs_to, cause.event_id)
        receipt = await facade.append(ORDER, PLACED, 3, correlation_id=belongs_to)
    unknown = Receipt(UUID(int=1), 0, 0, bytes(32), durable=False, duplicate=False)
    with pytest.raises(LookupError):
        await facade.append_reaction(ORDER, PLACED, 2, cause=unknown)


# A full queue ----------------------------------------------------------------------------------------------------

small = pytest.mark.parametrize("config", [StoreConfig(mailbox_capacity=4)])


@small
async def test_a_full_queue_refuses_who_does_not_want_to_wait(facade: AsyncStore, store: Store) -> None:
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, number)) for number in range(4)]
            await until_accepted(facade, 4)
            with pytest.raises(BackpressureError) as refused:
                await facade.append(ORDER, PLACED, "no", max_wait_seconds=0)
            assert refused.value.retry_after_seconds > 0
            with pytest.raises(BackpressureError):
                await facade.append_batch(new_events("no", "no"), max_wait_seconds=0.01)
        for call in calls:
            await call.outcome()
        await facade.append(ORDER, PLACED, "yes", max_wait_seconds=0)
    assert Counter(map(str, payloads(store))) == Counter(["0", "1", "2", "3", "yes"])


@small
async def test_a_full_queue_suspends_who_waits_in_the_order_of_coming(facade: AsyncStore, store: Store) -> None:
    waiting = flights(facade)._places._waiting
    async with anyio.create_task_group() as tasks:
        with Held(store):
            calls = [start(tasks, appending(facade, number)) for number in range(4)]
            await until_accepted(facade, 4)
            for number in range(4, 12):
                options = {"max_wait_seconds": 20.0} if number % 2 else {}
                calls.append(start(tasks, appending(facade, number, **options)))
                await until(lambda number=number: len(waiting) == number - 3, "waiter")  # type: ignore[misc]
            for number in (5, 8):
                await calls[number].cancel().end()
        left = [number for number in range(12) if number not in (5, 8)]
        for number in left:
            await calls[number].outcome()
    found = payloads(store)
    assert [set(found[:4]), set(found[4:8]), set(found[8:])] == [{0, 1, 2, 3}, {4, 6, 7, 9}, {10, 11}]
    assert flights(facade)._places._free == 4


# The context of who asks -----------------------------------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []

    def keep(_: object, __: str, fields: Any) -> Any:
        found.append(dict(fields))
        raise structlog.DropEvent

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, keep],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        cache_logger_on_first_use=False,
    )
    yield found
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "config",
    [
        StoreConfig(driver="assisted", slow_command_seconds=3600),
        StoreConfig(driver="threaded", slow_command_seconds=3600),
    ],
    ids=["assisted", "threaded"],
)
async def test_each_item_of_a_flight_is_logged_in_the_context_of_who_asked(
    lines: list[dict[str, Any]], facade: AsyncStore, store: Store
) -> None:
    async def request(number: int) -> None:
        with structlog.contextvars.bound_contextvars(request_id=number):
            if number == 3:
                await facade.append_batch(new_events("a", "b"))
            else:
                with pytest.raises(BatpakError) if number == 2 else anyio.CancelScope():
                    await facade.append(ORDER, PLACED, number, expected_sequence=77 if number == 2 else None)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request, 0)
        with Held(store):
            await until_written_to(facade)
            for number in range(1, 5):
                tasks.start_soon(request, number)
            await until_accepted(facade, 5)

    def told() -> list[tuple[Any, ...]]:
        return [
            (line.get("request_id"), line["command"], line["outcome"])
            for line in lines
            if line["event"] == "actor.command" and line["actor"] == "writer"
        ]

    await until(lambda: len(told()) == 6, "six lines")  # the writer's thread answers first
    assert Counter(told()) == Counter(
        [
            (0, "Append", "ok"),
            (None, "Flight", "ok"),
            (1, "Append", "ok"),
            (2, "Append", "SequenceConflictError"),
            (3, "AppendBatch", "ok"),
            (4, "Append", "ok"),
        ]
    )


async def test_a_read_is_logged_in_the_context_of_who_asked(lines: list[dict[str, Any]], facade: AsyncStore) -> None:
    receipt = await facade.append(ORDER, PLACED, 1)
    with structlog.contextvars.bound_contextvars(request_id="r-17"):
        await facade.get(receipt.event_id)
    told = [line for line in lines if line["event"] == "actor.command" and line["actor"] == "reader"]
    assert [line.get("request_id") for line in told] == ["r-17"]


async def test_no_context_is_kept_where_nobody_looks(facade: AsyncStore, commands: Commands) -> None:
    async with anyio.create_task_group() as tasks:
        calls = [start(tasks, appending(facade, number)) for number in range(5)]
    for call in calls:
        await call.outcome()
    assert [command.contexts for command in commands.all if isinstance(command, Flight)] == [()]
