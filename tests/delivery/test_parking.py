"""What becomes of what a worker fails at: it is tried again, or set aside until somebody decides."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from batpak import (
    Continue,
    Coordinate,
    EventKind,
    InvalidConfigError,
    InvalidRequestError,
    OnError,
    Region,
    RestartPolicy,
    Stop,
    StopAndRollback,
    Store,
    Verdict,
    WaitTimeoutError,
    Worker,
)
from tests.delivery.working import (
    NAME,
    ORDERS,
    FailedError,
    Handler,
    Lines,
    caught_up,
    committed,
    ended,
    error_of,
    failing_at,
    of,
    park_at,
    place_orders,
)
from tests.store.journals import PATIENCE_SECONDS, PLACED, Journal, Loose, hand_clock, payloads, until


@pytest.fixture
def journal(driven: Journal) -> Journal:
    return driven


@pytest.mark.parametrize(
    ("attempts", "wait_seconds", "message"),
    [
        (0, 1, "setting attempts: found 0, expected an int from 1 to 1000"),
        (1001, 1, "setting attempts: found 1001, expected an int from 1 to 1000"),
        (True, 1, "setting attempts: found True, expected an int from 1 to 1000"),
        (2, -1, "setting wait_seconds: found -1, expected a number from 0 to"),
        (2, float("nan"), "setting wait_seconds: found nan, expected a number from 0 to"),
        (2, "1", "setting wait_seconds: found '1', expected a number from 0 to"),
    ],
)
def test_retries_have_limits(attempts: Loose, wait_seconds: Loose, message: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        OnError.retry(attempts, wait_seconds)
    assert str(caught.value).startswith(message)


# Retries ----------------------------------------------------------------------------------------------------------


def test_what_fails_is_tried_again_as_often_as_told(store: Store) -> None:
    place_orders(store, 1, 2)
    handler = Handler(failing_at(2, times=3))
    with store.cursor_worker(ORDERS, handler, name=NAME, batch_size=1, on_error=OnError.retry(4, 0)):
        caught_up(store)
    assert handler.seen == [1, 2, 2, 2, 2]


def test_after_the_last_retry_the_error_counts_against_the_restarts(store: Store) -> None:
    place_orders(store, 1)
    handler = Handler(failing_at(1))
    worker = store.cursor_worker(ORDERS, handler, on_error=OnError.retry(3, 0), restart=RestartPolicy(1))
    assert type(error_of(worker)) is FailedError
    assert handler.batches == [[1]] * 6


def test_a_retry_waits_as_long_as_told(store: Store) -> None:
    place_orders(store, 1)
    handler = Handler(failing_at(1, times=1))
    with store.cursor_worker(ORDERS, handler, name=NAME, on_error=OnError.retry(2, 30)) as worker:
        until(lambda: worker._job.course._failures == [] and len(handler.batches) == 1, "first attempt")
        hand_clock(store).advance(29.9)
        with pytest.raises(WaitTimeoutError):
            store.wait_for(NAME, 0, 0)
        assert len(handler.batches) == 1
        hand_clock(store).advance(0.1)
        caught_up(store)
    assert handler.batches == [[1], [1]]


@pytest.mark.parametrize("then", [None, OnError.park])
def test_a_worker_that_is_stopped_before_a_retry_leaves_the_event_for_the_next_start(
    then: OnError | None, store: Store
) -> None:
    receipts = place_orders(store, 1, 2)
    handler = Handler(failing_at(2))
    on_error = OnError.retry(3, 3600, then=then)
    worker = store.cursor_worker(ORDERS, handler, name=NAME, batch_size=1, on_error=on_error)
    until(lambda: len(handler.batches) == 2, "attempt")
    worker.stop()
    ended(worker)
    assert (handler.seen, worker.state) == ([1, 2], "stopped")
    assert committed(store) == receipts[0].global_sequence
    assert store.parked(NAME) == []


# Parking ----------------------------------------------------------------------------------------------------------


def test_what_fails_is_set_aside_and_the_worker_goes_on(store: Store) -> None:
    receipts = place_orders(store, 1, 2, 3)
    handler = park_at(store, 2, batch_size=1)
    assert handler.seen == [1, 2, 3]
    (parked,) = store.parked(NAME)
    assert (parked.event_id, parked.global_sequence) == (receipts[1].event_id, receipts[1].global_sequence)
    assert (parked.error, parked.attempts, parked.retrying) == ("FailedError", 1, False)
    assert committed(store) == receipts[2].global_sequence


def test_a_batch_that_fails_as_a_whole_is_handled_event_by_event(store: Store) -> None:
    receipts = place_orders(store, 1, 2, 3, 4)
    handler = park_at(store, 2, 4)
    assert handler.batches == [[1, 2, 3, 4], [1], [2], [3], [4]]
    assert [each.event_id for each in store.parked(NAME)] == [receipts[1].event_id, receipts[3].event_id]


def test_a_batch_that_is_split_may_be_stopped_in_the_middle(store: Store) -> None:
    receipts = place_orders(store, 1, 2, 3)

    def act(batch: list[Any]) -> Verdict:
        if len(batch) > 1:
            raise FailedError
        return Stop if batch == [2] else Continue

    worker = store.cursor_worker(ORDERS, handler := Handler(act), name=NAME, on_error=OnError.park)
    ended(worker)
    assert handler.batches == [[1, 2, 3], [1], [2]]
    assert committed(store) == receipts[1].global_sequence


def test_parking_may_come_after_retries(store: Store) -> None:
    place_orders(store, 1)
    handler = park_at(store, 1, on_error=OnError.retry(3, 0, then=OnError.park))
    assert handler.batches == [[1]] * 3
    assert [each.attempts for each in store.parked(NAME)] == [3]


def test_parked_events_are_events_that_only_those_see_who_ask_for_ours(store: Store) -> None:
    (receipt,) = place_orders(store, 1)
    park_at(store, 1)
    assert [event.kind for event in store.read()] == [PLACED]
    assert [event.kind for event in store.read(Region(entity="batpak.parked"))] == []
    (event,) = store.read(Region(entity="batpak.parked", include_system=True))
    assert event.coordinate == Coordinate("batpak.parked:mailer", "batpak")
    assert event.kind == EventKind.from_value(0x0010)
    assert (event.causation_id, event.correlation_id) == (receipt.event_id, store.get(receipt.event_id).correlation_id)
    assert [each.event_id for each in store.effects(receipt.event_id)] == [event.event_id]


def test_a_region_with_ours_in_it_may_be_worked_on_when_what_is_parked_lies_outside(store: Store) -> None:
    region = Region(entity="order", include_system=True)
    with store.cursor_worker(region, Handler(failing_at(1)), name=NAME, on_error=OnError.park):
        place_orders(store, 1)
        caught_up(store)
    assert len(store.parked(NAME)) == 1


def test_a_retry_that_succeeds_settles_it(store: Store) -> None:
    place_orders(store, 1, 2)
    park_at(store, 1)
    assert store.retry_parked(NAME) == 1
    assert [each.retrying for each in store.parked(NAME)] == [True]
    with store.cursor_worker(ORDERS, handler := Handler(), name=NAME):
        until(lambda: store.parked(NAME) == [], "settled event")
    assert handler.batches == [[1]]


def test_a_retry_that_fails_stays_parked_with_its_attempts(store: Store) -> None:
    place_orders(store, 1)
    park_at(store, 1)
    handler = Handler(failing_at(1))
    with store.cursor_worker(ORDERS, handler, name=NAME):
        assert store.retry_parked(NAME) == 1
        until(lambda: [(each.attempts, each.retrying) for each in store.parked(NAME)] == [(2, False)], "attempt")
        place_orders(store, 2)
        caught_up(store)
    assert handler.seen == [1, 2]


@pytest.mark.usefixtures("no_backstop")
def test_a_worker_that_waits_makes_the_attempt_at_once(store: Store) -> None:
    place_orders(store, 1)
    handler = Handler(failing_at(1, times=1))
    with store.cursor_worker(ORDERS, handler, name=NAME, on_error=OnError.park):
        caught_up(store)
        until(lambda: store.retry_parked(NAME) == 1, "parked event")
        until(lambda: store.parked(NAME) == [], "settled event")
    assert handler.batches == [[1], [1]]


def test_a_retry_that_is_not_handled_stays_parked(store: Store) -> None:
    place_orders(store, 1)
    park_at(store, 1)
    store.retry_parked(NAME)
    ended(store.cursor_worker(ORDERS, Handler(lambda batch: StopAndRollback), name=NAME))
    assert [each.retrying for each in store.parked(NAME)] == [True]
    ended(store.cursor_worker(ORDERS, Handler(lambda batch: Stop), name=NAME))
    assert store.parked(NAME) == []


def test_a_worker_that_is_stopped_leaves_the_other_retries_for_the_next_start(store: Store) -> None:
    place_orders(store, 1, 2)
    park_at(store, 1, 2)
    store.retry_parked(NAME)
    workers: list[Worker] = []
    ready = Event()

    def act(batch: list[Any]) -> None:
        assert ready.wait(PATIENCE_SECONDS)
        workers[0].stop()

    workers.append(store.cursor_worker(ORDERS, handler := Handler(act), name=NAME))
    ready.set()
    ended(workers[0])
    assert handler.batches == [[1]]
    assert [(each.global_sequence, each.retrying) for each in store.parked(NAME)] == [(1, True)]


def test_some_of_the_parked_events_are_retried_or_dropped(store: Store) -> None:
    first, second, third = place_orders(store, 1, 2, 3)
    park_at(store, 1, 2, 3)
    assert store.drop_parked(NAME, [second.event_id]) == 1
    assert store.retry_parked(NAME, [third.event_id]) == 1
    found = [(each.event_id, each.retrying) for each in store.parked(NAME)]
    assert found == [(first.event_id, False), (third.event_id, True)]
    assert store.drop_parked(NAME) == 2
    assert store.parked(NAME) == []
    assert payloads(store, ORDERS) == [1, 2, 3]


@pytest.mark.parametrize("call", [Store.retry_parked, Store.drop_parked])
def test_what_is_not_parked_is_neither_retried_nor_dropped(call: Callable[..., int], store: Store) -> None:
    first, second = place_orders(store, 1, 2)
    park_at(store, 1)
    with pytest.raises(InvalidRequestError) as caught:
        call(store, NAME, [first.event_id, second.event_id])
    assert str(caught.value) == f"event_ids: found {second.event_id}, expected one that 'mailer' has parked"
    assert [each.retrying for each in store.parked(NAME)] == [False]
    assert call(store, "another") == 0


def test_parked_events_are_there_after_a_kill(journal: Journal) -> None:
    place_orders(journal.store, 1)
    park_at(journal.store, 1)
    before = journal.store.parked(NAME)
    assert len(before) == 1
    assert journal.kill().parked(NAME) == before


def test_the_log_tells_what_was_set_aside(lines: Lines, store: Store) -> None:
    (receipt,) = place_orders(store, 1)
    park_at(store, 1)
    (line,) = of(lines, "worker.parked")
    assert line == {
        "level": "warning",
        "event": "worker.parked",
        "name": NAME,
        "event_id": str(receipt.event_id),
        "error": "FailedError",
        "attempts": 1,
    }
