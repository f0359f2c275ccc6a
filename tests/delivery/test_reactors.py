"""Reactors on threads: events that answer events, whole or not at all, once for each."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from threading import Event
from typing import Any, NoReturn
from uuid import UUID

import pytest

from batpak import (
    Coordinate,
    EncryptedPayloadError,
    EventFlags,
    EventKind,
    InvalidRequestError,
    OnError,
    PayloadError,
    Reactions,
    ReactorError,
    Region,
    ReservedKindError,
    RestartPolicy,
    StorageError,
    Store,
    StoreClosedError,
    StoredEvent,
    Worker,
)
from batpak.delivery.reactor import reaction_key
from tests.delivery.working import (
    NAME,
    ORDERS,
    FailedError,
    Lines,
    caught_up,
    committed,
    ended,
    error_of,
    failing_at,
    of,
    place_orders,
)
from tests.store.journals import (
    ORDER,
    PAID,
    PATIENCE_SECONDS,
    PLACED,
    SHIPPED,
    Journal,
    Loose,
    all_facts,
    payloads,
    until,
)

PAYMENT = Coordinate("payment:1", "shop")
GOLDEN = Path(__file__).parents[1] / "golden"


pytestmark = pytest.mark.usefixtures("no_backstop")


@pytest.fixture
def journal(driven: Journal) -> Journal:
    return driven


class Answering:
    """Answers each event with so many payments as its payload says, and keeps what it was handed."""

    def __init__(self, act: Callable[[Any], None] = lambda payload: None) -> None:
        self.seen: list[Any] = []
        self._act = act

    def __call__(self, event: StoredEvent, reactions: Reactions) -> None:
        count: Any = event.payload
        self.seen.append(count)
        for number in range(count):
            reactions.append(PAYMENT, PAID, [count, number])
        self._act(count)


def failing(payload: object, times: int = 1000) -> Callable[[Any], None]:
    """Return what raises when it is handed *payload*, so many times."""
    fail = failing_at(payload, times=times)
    return lambda found: fail([found])


def answers(store: Store) -> list[Loose]:
    return payloads(store, Region(kind=PAID))


# Answers ----------------------------------------------------------------------------------------------------------


def test_each_event_is_answered_by_a_set_of_reactions(store: Store) -> None:
    place_orders(store, 2, 0, 3)
    with store.react_loop(ORDERS, Answering(), name=NAME):
        caught_up(store)
        place_orders(store, 1)
        caught_up(store)
    assert answers(store) == [[2, 0], [2, 1], [3, 0], [3, 1], [3, 2], [1, 0]]


def test_a_reaction_has_its_cause_its_correlation_its_flags_and_a_key_of_its_own(store: Store) -> None:
    correlation = UUID(int=7)
    order = store.append(ORDER, PLACED, 2, correlation_id=correlation)

    def react(event: StoredEvent, reactions: Reactions) -> None:
        reactions.append(PAYMENT, PAID, "first", flags=EventFlags.REPLAY)
        reactions.append(ORDER, SHIPPED, "second")
        assert len(reactions) == 2

    with store.react_loop(ORDERS, react, name=NAME):
        caught_up(store)
    event = store.get(order.event_id)
    first, second = store.effects(order.event_id)
    assert [(each.coordinate, each.kind, each.flags) for each in (first, second)] == [
        (PAYMENT, PAID, EventFlags.REPLAY),
        (ORDER, SHIPPED, EventFlags(0)),
    ]
    for number, each in enumerate((first, second)):
        assert (each.causation_id, each.correlation_id) == (order.event_id, correlation)
        assert each.event_id == reaction_key(NAME, event, number)


def test_what_has_been_answered_is_not_handed_over_again(journal: Journal) -> None:
    place_orders(journal.store, 2, 0, 1)
    with journal.store.react_loop(ORDERS, Answering(), name=NAME):
        caught_up(journal.store)
    journal.store.reset_place(NAME, None)
    for store in journal.lives():
        reactor = Answering()
        with store.react_loop(ORDERS, reactor, name=NAME):
            caught_up(store)
        assert reactor.seen in ([0], [])
        assert answers(store) == [[2, 0], [2, 1], [1, 0]]


def test_reactors_of_other_names_answer_for_themselves(store: Store) -> None:
    place_orders(store, 1)
    for name in (NAME, "another"):
        with store.react_loop(ORDERS, Answering(), name=name):
            caught_up(store, name)
    assert answers(store) == [[1, 0], [1, 0]]


def test_the_place_moves_after_each_batch_of_events_that_were_answered(store: Store) -> None:
    place_orders(store, 1, 1, 1)
    found: list[tuple[int | None, int]] = []
    reactor = Answering(lambda payload: found.append((committed(store), len(answers(store)))))
    with store.react_loop(ORDERS, reactor, name=NAME, batch_size=2):
        caught_up(store)
    assert found == [(None, 0), (None, 1), (1, 2)]


def test_a_reactor_that_is_stopped_commits_what_it_has_answered(store: Store) -> None:
    receipts = place_orders(store, 1, 1, 1)
    workers: list[Worker] = []
    ready = Event()

    def act(payload: object) -> None:
        assert ready.wait(PATIENCE_SECONDS)
        workers[0].stop()

    workers.append(store.react_loop(ORDERS, reactor := Answering(act), name=NAME))
    ready.set()
    ended(workers[0])
    assert (len(reactor.seen), len(answers(store)), committed(store)) == (1, 1, receipts[0].global_sequence)


# Other kinds, decode failures, errors -----------------------------------------------------------------------------


def test_p39_a_reactor_is_not_handed_other_kinds(store: Store) -> None:
    store.append(ORDER, SHIPPED, "no number")
    place_orders(store, 1)
    store.append(ORDER, SHIPPED, "no number")
    with store.react_loop(ORDERS, reactor := Answering(), name=NAME) as worker:
        caught_up(store)
        assert repr(worker) == "<Worker 'mailer' running>"
    assert reactor.seen == [1]


def test_p39_a_payload_that_cannot_be_decoded_stops_it(tmp_path: Path) -> None:
    copied = copytree(GOLDEN / "rust" / "0.10.0" / "encrypted" / "store", tmp_path / "journal")
    with Store.open(copied) as store:
        last = store.stats().visible_sequence
        seen: list[Loose] = []
        worker = store.react_loop(Region(), lambda event, reactions: seen.append(event.payload), name=NAME)
        error = error_of(worker)
        assert isinstance(error, ReactorError)
        assert type(error.__cause__) is EncryptedPayloadError
        assert (error.name, error.reason, worker.state) == (NAME, "EncryptedPayloadError", "failed")
        assert error.event_id == error.__cause__.event_id
        assert store.get(error.event_id).global_sequence <= last
        assert committed(store) is None


def test_p39_what_a_reactor_raises_comes_out_of_join_with_its_cause(store: Store) -> None:
    (receipt,) = place_orders(store, 1)
    failure = FailedError("no paper")

    def react(event: StoredEvent, reactions: Reactions) -> NoReturn:
        raise failure

    worker = store.react_loop(ORDERS, react, name=NAME)
    error = error_of(worker)
    assert isinstance(error, ReactorError)
    assert error.__cause__ is failure
    assert (error.name, error.event_id, error.reason) == (NAME, receipt.event_id, "FailedError")
    assert str(error) == f"reactor 'mailer' at event {receipt.event_id}: FailedError"
    assert "no paper" not in str(error)
    assert (worker.state, committed(store)) == ("failed", None)


def test_p37_a_reactor_that_raises_goes_on_from_what_was_committed_last_and_repeats_no_answer(store: Store) -> None:
    place_orders(store, 1, 2, 3)
    reactor = Answering(failing(3, times=1))
    with store.react_loop(ORDERS, reactor, name=NAME):
        caught_up(store)
    assert reactor.seen == [1, 2, 3, 3]
    assert answers(store) == [[1, 0], [2, 0], [2, 1], [3, 0], [3, 1], [3, 2]]


def test_p40_the_reactions_of_a_reactor_that_raises_are_not_written(store: Store) -> None:
    place_orders(store, 2)
    before = all_facts(store)
    error_of(store.react_loop(ORDERS, Answering(failing(2)), name=NAME))
    assert all_facts(store) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_p40_the_reactions_of_a_reactor_that_is_interrupted_are_not_written(
    error: type[BaseException], store: Store
) -> None:
    place_orders(store, 2)
    before = all_facts(store)

    def act(payload: object) -> NoReturn:
        raise error

    worker = store.react_loop(ORDERS, reactor := Answering(act), name=NAME)
    assert type(error_of(worker)) is error
    assert (reactor.seen, all_facts(store) == before) == ([2], True)


@pytest.mark.parametrize(
    ("kind", "payload", "cause"),
    [(PAID, {1, 2}, PayloadError), (EventKind.from_value(0xD001), 1, ReservedKindError), (3, 1, InvalidRequestError)],
)
def test_p40_one_reaction_that_may_not_be_written_and_none_is(
    kind: Loose, payload: Loose, cause: type[Exception], store: Store
) -> None:
    place_orders(store, 1)
    before = all_facts(store)

    def react(event: StoredEvent, reactions: Reactions) -> None:
        reactions.append(PAYMENT, PAID, "fine")
        reactions.append(PAYMENT, kind, payload)

    error = error_of(store.react_loop(ORDERS, react, name=NAME))
    assert isinstance(error, ReactorError)
    assert type(error.__cause__) is cause
    assert all_facts(store) == before


def test_a_failed_reactor_is_called_as_often_as_the_policy_says(store: Store) -> None:
    place_orders(store, 1)
    reactor = Answering(failing(1))
    error_of(store.react_loop(ORDERS, reactor, name=NAME, on_error=OnError.retry(2, 0), restart=RestartPolicy(2)))
    assert reactor.seen == [1] * 6


# Feeding itself ---------------------------------------------------------------------------------------------------


def counting_down(event: StoredEvent, reactions: Reactions) -> None:
    """Answer a number with the one below, in the same entity and of the same kind."""
    count: Any = event.payload
    if count:
        reactions.append(event.coordinate, event.kind, count - 1)


def test_a_reaction_in_the_reactors_own_region_is_refused(store: Store) -> None:
    place_orders(store, 1)
    before = all_facts(store)
    error = error_of(store.react_loop(ORDERS, counting_down, name=NAME))
    assert isinstance(error, ReactorError)
    assert type(error.__cause__) is InvalidRequestError
    assert str(error.__cause__) == (
        "reaction: found order:42@shop of kind 0x1001, which the reactor 'mailer' itself listens to, expected one "
        "outside its region, or may_feed_itself=True"
    )
    assert all_facts(store) == before


@pytest.mark.parametrize(
    "region",
    [Region(), Region(entity="order"), Region(scope="shop"), Region(category=1), Region(sequences=(1, 9))],
    ids=str,
)
def test_whatever_part_of_a_region_lets_it_in_it_is_refused(region: Region, store: Store) -> None:
    place_orders(store, 1, 1)
    error = error_of(store.react_loop(region, counting_down, name=NAME))
    assert type(error.__cause__) is InvalidRequestError


def test_a_reaction_carries_the_correlation_that_its_reactor_may_listen_to(store: Store) -> None:
    order = store.append(ORDER, PLACED, 1, correlation_id=UUID(int=7))
    error = error_of(store.react_loop(Region(correlation_id=UUID(int=7)), Answering(), name=NAME))
    assert isinstance(error, ReactorError)
    assert error.event_id == order.event_id


def test_a_reactor_that_is_meant_to_feeds_itself(store: Store) -> None:
    place_orders(store, 3)
    with store.react_loop(ORDERS, counting_down, name=NAME, may_feed_itself=True):
        until(lambda: payloads(store)[-1] == 0, "end of the count")
        caught_up(store)
    assert payloads(store) == [3, 2, 1, 0]


# Parking ----------------------------------------------------------------------------------------------------------


def test_what_a_reactor_fails_at_is_set_aside_and_answered_later(store: Store) -> None:
    receipts = place_orders(store, 1, 2, 3)
    with store.react_loop(ORDERS, Answering(failing(2, times=1)), name=NAME, on_error=OnError.park):
        caught_up(store)
    (parked,) = store.parked(NAME)
    assert (parked.event_id, parked.error, parked.attempts) == (receipts[1].event_id, "FailedError", 1)
    assert answers(store) == [[1, 0], [3, 0], [3, 1], [3, 2]]
    store.retry_parked(NAME)
    with store.react_loop(ORDERS, reactor := Answering(), name=NAME):
        until(lambda: store.parked(NAME) == [], "settled event")
    assert reactor.seen == [2]
    assert answers(store) == [[1, 0], [3, 0], [3, 1], [3, 2], [2, 0], [2, 1]]


def test_a_reaction_that_may_not_be_written_is_parked_under_its_own_error(store: Store) -> None:
    place_orders(store, 1)
    with store.react_loop(ORDERS, counting_down, name=NAME, on_error=OnError.park):
        caught_up(store)
    assert [each.error for each in store.parked(NAME)] == ["InvalidRequestError"]


def test_a_parked_event_whose_answer_was_written_before_a_crash_is_settled_without_another(journal: Journal) -> None:
    store = journal.store
    place_orders(store, 2)
    with store.react_loop(ORDERS, Answering(failing(2, times=1)), name=NAME, on_error=OnError.park):
        caught_up(store)
    store.retry_parked(NAME)
    with store.react_loop(ORDERS, Answering(), name="x"):
        caught_up(store, "x")
    journal.files.fail("pwrite", errno.EIO, name="*.fbat", call=2)  # the answer is the first
    error = error_of(store.react_loop(ORDERS, Answering(), name=NAME, restart=RestartPolicy.never()))
    assert type(error) is StorageError
    store = journal.kill()
    assert [each.retrying for each in store.parked(NAME)] == [True]
    with store.react_loop(ORDERS, reactor := Answering(), name=NAME):
        until(lambda: store.parked(NAME) == [], "settled event")
    assert reactor.seen == []
    assert answers(store) == [[2, 0], [2, 1]] * 2


def test_a_parked_event_that_could_not_be_settled_is_tried_again_after_a_restart(journal: Journal) -> None:
    store = journal.store
    place_orders(store, 2)
    with store.react_loop(ORDERS, Answering(failing(2, times=1)), name=NAME, on_error=OnError.park):
        caught_up(store)
    store.retry_parked(NAME)
    journal.files.fail("pwrite", errno.EIO, name="*.fbat", call=2)
    with store.react_loop(ORDERS, reactor := Answering(), name=NAME):
        until(lambda: store.parked(NAME) == [], "settled event")
    assert reactor.seen == [2]
    assert answers(store) == [[2, 0], [2, 1]]


# Durability, the log, arguments -----------------------------------------------------------------------------------


def test_a_commit_makes_reactions_durable_before_the_place(journal: Journal) -> None:
    place_orders(journal.store, 2, 1)
    with journal.store.react_loop(ORDERS, Answering(), name=NAME):
        caught_up(journal.store)
    assert answers(journal.cut_power()) == [[2, 0], [2, 1], [1, 0]]


def test_the_log_tells_of_each_answer(lines: Lines, store: Store) -> None:
    receipts = place_orders(store, 2, 0)
    with store.react_loop(ORDERS, Answering(), name=NAME):
        caught_up(store)
    assert of(lines, "reactor.") == [
        {
            "level": "debug",
            "event": "reactor.reacted",
            "name": NAME,
            "event_id": str(receipt.event_id),
            "global_sequence": receipt.global_sequence,
            "reactions": count,
        }
        for receipt, count in zip(receipts, (2, 0), strict=True)
    ]
    assert [line["event"] for line in of(lines, "worker.")] == ["worker.started", "worker.stopped"]


def test_the_log_names_what_a_reactor_failed_of(lines: Lines, store: Store) -> None:
    place_orders(store, 1)
    error_of(store.react_loop(ORDERS, Answering(failing(1)), name=NAME))
    found = [(line["event"], line.get("error")) for line in of(lines, "worker.")]
    assert found == [
        ("worker.started", None),
        ("worker.restarted", "FailedError"),
        ("worker.failed", "FailedError"),
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reactor": 3}, "reactor: found int, expected a function"),
        ({"region": None}, "region: found NoneType, expected Region"),
        ({"name": ""}, "name: "),
        ({"batch_size": 0}, "batch_size: found 0, expected"),
        ({"on_error": OnError.park, "region": Region(include_system=True)}, "on_error: found park in Region"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(wrong: dict[str, Loose], message: str, store: Store) -> None:
    arguments: dict[str, Loose] = {"region": ORDERS, "reactor": Answering(), "name": NAME} | wrong
    with pytest.raises(InvalidRequestError) as caught:
        store.react_loop(arguments.pop("region"), arguments.pop("reactor"), **arguments)
    assert str(caught.value).startswith(message)
    assert store.places() == []


def test_a_store_that_is_closed_under_a_reactor_writes_no_half_answer(journal: Journal) -> None:
    place_orders(journal.store, 2)
    reactor = Answering(lambda payload: journal.store.close())
    assert type(error_of(journal.store.react_loop(ORDERS, reactor, name=NAME))) is StoreClosedError
    store = journal.reopen()
    assert answers(store) == []
    with store.react_loop(ORDERS, Answering(), name=NAME):
        caught_up(store)
    assert answers(store) == [[2, 0], [2, 1]]
