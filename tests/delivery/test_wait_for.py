"""Reading one's own writes: waiting until a worker has come so far."""

from __future__ import annotations

from threading import Event

import pytest

from batpak import InvalidRequestError, Store, StoreClosedError, WaitTimeoutError
from tests.delivery.working import NAME, ORDERS, Handler, caught_up, place_orders
from tests.store.journals import ORDER, PAID, PATIENCE_SECONDS, Journal, Loose, Task, until

pytestmark = pytest.mark.usefixtures("no_backstop")


@pytest.fixture
def journal(driven: Journal) -> Journal:
    return driven


# wait_for ---------------------------------------------------------------------------------------------------------


def test_wait_for_returns_when_the_event_has_been_handled(store: Store) -> None:
    go_on = Event()
    handler = Handler(lambda batch: go_on.wait(PATIENCE_SECONDS) and None)
    with store.cursor_worker(ORDERS, handler, name=NAME):
        (receipt,) = place_orders(store, 1)
        waits = Task(lambda: store.wait_for(NAME, receipt.global_sequence, PATIENCE_SECONDS))
        with pytest.raises(WaitTimeoutError):
            store.wait_for(NAME, receipt.global_sequence, 0)
        assert not waits.finished
        go_on.set()
        waits.outcome()
        store.wait_for(NAME, receipt.global_sequence, 0)


def test_wait_for_gives_up_after_its_time() -> None:
    with Journal() as journal:
        journal.store.cursor(ORDERS, name=NAME).close()
        (receipt,) = place_orders(journal.store, 1)
        with pytest.raises(WaitTimeoutError) as caught:
            journal.store.wait_for(NAME, receipt.global_sequence, 0.05)
    error = caught.value
    assert (error.name, error.global_sequence, error.timeout_seconds) == (NAME, receipt.global_sequence, 0.05)
    assert isinstance(error, TimeoutError)
    assert error.retryable


def test_wait_for_does_not_wait_for_events_outside_the_region(store: Store) -> None:
    store.cursor(ORDERS, name=NAME).close()
    paid = store.append(ORDER, PAID, 1)
    store.wait_for(NAME, paid.global_sequence, 0)
    place_orders(store, 2)
    store.wait_for(NAME, paid.global_sequence, 0)


def test_wait_for_waits_for_events_that_are_not_there_yet(store: Store) -> None:
    with store.cursor_worker(ORDERS, Handler(), name=NAME):
        waits = Task(lambda: store.wait_for(NAME, 1, 3600))
        place_orders(store, 1)
        caught_up(store)
        assert not waits.finished
        store.append(ORDER, PAID, "outside, but in its place")
        waits.outcome()


def test_wait_for_an_unknown_name_is_refused(store: Store) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        store.wait_for("nobody", 0, 0)
    assert str(caught.value) == "name: found no place 'nobody', expected one that places() lists"


@pytest.mark.parametrize(("sequence", "seconds"), [(-1, 0), (True, 0), ("1", 0), (0, -1), (0, "1")])
def test_wait_for_refuses_what_is_no_sequence_or_no_time(sequence: Loose, seconds: Loose, store: Store) -> None:
    store.cursor(ORDERS, name=NAME).close()
    with pytest.raises(InvalidRequestError):
        store.wait_for(NAME, sequence, seconds)


def test_wait_for_ends_when_the_store_is_closed(store: Store) -> None:
    store.cursor(ORDERS, name=NAME).close()
    (receipt,) = place_orders(store, 1)
    waits = Task(lambda: store.wait_for(NAME, receipt.global_sequence, PATIENCE_SECONDS))
    until(lambda: any(store._announcer._tables[7]), "somebody who waits")
    store.close()
    assert type(waits.error()) is StoreClosedError
