"""append and append_reaction: what a receipt means, in which order things are decided, and what a refusal leaves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from batpak import (
    NO_STREAM,
    BackpressureError,
    Coordinate,
    EventFlags,
    EventKind,
    EventNotFoundError,
    NewEvent,
    Receipt,
    Region,
    SequenceConflictError,
    Store,
    StoreConfig,
)
from batpak.payload import Payload
from batpak.testing.clock import HandClock
from tests.store.conftest import Driver
from tests.store.journals import (
    EVERYTHING,
    ORDER,
    PAID,
    PLACED,
    Held,
    Journal,
    Task,
    all_facts,
    hand_clock,
    new_events,
    payloads,
    race,
    waiting,
)

CORRELATION, CAUSATION = UUID(int=7), UUID(int=8)


# Receipts ------------------------------------------------------------------------------------------------------


def test_a_receipt_says_where_the_event_was_written(driven: Journal) -> None:
    store = driven.store
    store.append(Coordinate("other", "shop"), PLACED, 1)
    first = store.append(ORDER, PLACED, 2)
    second = store.append(ORDER, PLACED, 3)
    assert (first.global_sequence, first.sequence) == (1, 0)
    assert (second.global_sequence, second.sequence) == (2, 1)
    assert (second.durable, second.duplicate) == (False, False)
    assert store.get(second.event_id).place == second.place


def test_receipts_of_one_thread_count_up(store: Store) -> None:
    receipts = [store.append(Coordinate(f"e:{number % 3}", "s"), PLACED, number) for number in range(30)]
    assert [receipt.global_sequence for receipt in receipts] == list(range(30))
    assert [receipt.sequence for receipt in receipts] == [number // 3 for number in range(30)]
    ids = [receipt.event_id.bytes for receipt in receipts]
    assert ids == sorted(set(ids))


def test_every_field_comes_back(journal: Journal) -> None:
    store, clock = journal.store, hand_clock(journal)
    payload: Payload = {
        "text": "ü",
        "bytes": b"\0",
        "list": [1, -1, 2**64 - 1, 1.5, None, True],
        "when": datetime.now(UTC),
    }
    receipt = store.append(
        ORDER,
        PLACED,
        payload,
        expected_sequence=NO_STREAM,
        correlation_id=CORRELATION,
        causation_id=CAUSATION,
        flags=EventFlags.REQUIRES_ACK | EventFlags.REPLAY,
    )
    for opened in journal.lives():
        event = opened.get(receipt.event_id)
        assert event.coordinate == ORDER
        assert event.kind == PLACED
        assert event.payload == payload
        assert (event.global_sequence, event.sequence) == (0, 0)
        assert (event.correlation_id, event.causation_id) == (CORRELATION, CAUSATION)
        assert event.flags is EventFlags.REQUIRES_ACK | EventFlags.REPLAY
        assert event.timestamp_us == clock.now_us()
        assert event.wall_ms == clock.now_us() // 1000
        assert event.payload_version == 0
        assert event.event_hash == receipt.event_hash
        assert event.prev_hash == bytes(32)


def test_without_options_an_event_correlates_with_itself_and_has_no_cause(store: Store) -> None:
    event = store.get(store.append(ORDER, PLACED, None).event_id)
    assert event.correlation_id == event.event_id
    assert event.causation_id is None
    assert event.flags == EventFlags(0)
    assert event.payload is None


def test_nil_ids_count_as_absent(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    receipt = journal.store.append(ORDER, PLACED, 1, correlation_id=UUID(int=0), causation_id=UUID(int=0))
    for store in journal.lives():
        event = store.get(receipt.event_id)
        assert event.correlation_id == receipt.event_id
        assert event.causation_id is None
        assert store.effects(receipt.event_id) == []


def test_p19_what_is_told_of_can_be_read(driven: Journal) -> None:
    store = driven.store
    seen: list[bool] = []

    def look(receipt: Receipt) -> None:
        event = store.get(receipt.event_id)
        seen.append(
            store.query(Region(entity=event.coordinate.entity))[-1].event_id == receipt.event_id
            and store.latest(event.coordinate.entity) == event.entry
            and store.stream(event.coordinate.entity)[-1] == event.entry
            and store.query(EVERYTHING, after=receipt.global_sequence - 1, limit=1)[0] == event.entry
            and store.stats().visible_sequence >= receipt.global_sequence
        )

    def write(number: int) -> None:
        for _ in range(25):
            look(store.append(Coordinate(f"e:{number}", "s"), PLACED, 1))
            look(store.append_batch([NewEvent(Coordinate(f"e:{number}", "s"), PAID, 1)])[0])

    assert race(4, write) == [None] * 4
    assert seen == [True] * 200


# Expected sequences ----------------------------------------------------------------------------------------------


def test_an_expected_sequence_is_that_of_the_newest_event(journal: Journal) -> None:
    store = journal.store
    store.append(ORDER, PLACED, 1, expected_sequence=NO_STREAM)
    store.append(ORDER, PLACED, 2, expected_sequence=0)
    store = journal.reopen()
    latest = store.latest("order:42")
    assert latest is not None
    assert store.append(ORDER, PLACED, 3, expected_sequence=latest.sequence).sequence == 2


@pytest.mark.parametrize(
    ("written", "expected", "actual"), [(0, 0, NO_STREAM), (1, NO_STREAM, 0), (2, 0, 1), (2, 2, 1), (2, 2**32 - 1, 1)]
)
def test_p11_a_wrong_expectation_writes_nothing_and_says_what_stands(
    journal: Journal, written: int, expected: int, actual: int
) -> None:
    store = journal.store
    for number in range(written):
        store.append(ORDER, PLACED, number)
    before = all_facts(store)
    with pytest.raises(SequenceConflictError) as caught:
        store.append(ORDER, PLACED, "never", expected_sequence=expected)
    error = caught.value
    assert (error.entity, error.expected, error.actual, error.item_index) == ("order:42", expected, actual, None)
    assert not error.retryable
    assert all_facts(store) == before
    assert store.append(ORDER, PLACED, "next", expected_sequence=actual).global_sequence == written
    assert all_facts(journal.kill())[:-1] == before


def test_an_expectation_is_about_the_exact_entity(store: Store) -> None:
    store.append(Coordinate("order", "shop"), PLACED, 1)
    store.append(Coordinate("order:42:line", "shop"), PLACED, 1)
    store.append(Coordinate("order:42", "elsewhere"), PLACED, 1, expected_sequence=NO_STREAM)
    with pytest.raises(SequenceConflictError):
        store.append(ORDER, PLACED, 1, expected_sequence=NO_STREAM)  # the scope is no part of the stream


def test_p10_a_race_for_one_sequence_has_one_winner(driven: Journal) -> None:
    store = driven.store
    for sequence in range(NO_STREAM, 20):
        outcomes = race(4, lambda number, at=sequence: store.append(ORDER, PLACED, number, expected_sequence=at))  # type: ignore[misc]
        winners = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
        losers = [outcome for outcome in outcomes if isinstance(outcome, SequenceConflictError)]
        assert (len(winners), len(losers)) == (1, 3)
        assert {(loser.expected, loser.actual) for loser in losers} == {(sequence, sequence + 1)}
    assert store.verify_chain().intact
    assert len(payloads(store)) == 21


# Reactions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["event", "entry", "receipt"])
def test_a_reaction_takes_over_the_correlation_and_names_its_cause(store: Store, given: str) -> None:
    receipt = store.append(ORDER, PLACED, 1, correlation_id=CORRELATION)
    event = store.get(receipt.event_id)
    causes: dict[str, Any] = {"event": event, "entry": event.entry, "receipt": receipt}
    reaction = store.get(store.append_reaction(ORDER, PAID, 2, cause=causes[given], expected_sequence=0).event_id)
    assert (reaction.correlation_id, reaction.causation_id) == (CORRELATION, receipt.event_id)
    assert store.effects(receipt.event_id) == [reaction]


def test_a_reaction_to_a_root_correlates_with_the_root(store: Store) -> None:
    root = store.append(ORDER, PLACED, 1)
    first = store.append_reaction(ORDER, PAID, 2, cause=root)
    second = store.append_reaction(ORDER, PAID, 3, cause=store.get(first.event_id), idempotency_key="k", durable=True)
    assert second.durable
    for reaction in (first, second):
        assert store.get(reaction.event_id).correlation_id == root.event_id
    assert store.get(second.event_id).causation_id == first.event_id


def test_a_reaction_to_a_receipt_of_another_store_is_refused(store: Store) -> None:
    foreign = Receipt(uuid4(), 0, 0, bytes(32), durable=False, duplicate=False)
    with pytest.raises(EventNotFoundError) as caught:
        store.append_reaction(ORDER, PAID, 1, cause=foreign)
    assert caught.value.event_id == foreign.event_id
    assert payloads(store) == []


# Time ------------------------------------------------------------------------------------------------------------


def test_p60_wall_time_never_runs_back_within_an_entity_and_the_clock_is_the_only_one(journal: Journal) -> None:
    store, clock = journal.store, hand_clock(journal)
    start = clock.now_us()
    other = Coordinate("other", "shop")
    readings = [start, start - 5_000_000, start + 2_000, start - 1, start + 2_000]
    for reading in readings:
        clock.set_wall(reading)
        store.append(ORDER, PLACED, reading)
    clock.set_wall(start - 9_000_000)
    store.append(other, PLACED, 0)
    store = journal.kill()
    clock.set_wall(start - 60_000_000)
    store.append(ORDER, PLACED, 0)
    events = list(store.read_stream("order:42"))
    ms = start // 1000
    assert [event.wall_ms for event in events] == [ms, ms, ms + 2, ms + 2, ms + 2, ms + 2]
    assert [event.timestamp_us for event in events] == [*readings, start - 60_000_000]
    latest = store.latest("other")
    assert latest is not None
    assert latest.wall_ms == ms - 9_000  # each entity has its own
    ids = [event.event_id for event in store.read(EVERYTHING)]
    assert ids == sorted(ids)  # ids go on counting


def test_ids_hold_the_clock_of_the_store(store: Store) -> None:
    receipt = store.append(ORDER, PLACED, 1)
    assert receipt.event_id.version == 7
    assert int.from_bytes(receipt.event_id.bytes[:6], "big") == hand_clock(store).now_us() // 1000


# Waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver_name", ["assisted", "threaded"])
def test_a_full_queue_makes_callers_wait_no_longer_than_they_want(driver_name: Driver) -> None:
    config = StoreConfig(driver=driver_name, mailbox_capacity=2)
    with Journal(config) as journal:
        store = journal.store
        first = store.append(ORDER, PLACED, "first")
        with Held(store):
            # The threaded writer may have one command in its hands, and it leaves it in the mailbox until answered.
            tasks = [waiting(store, lambda number=number: store.append(ORDER, PLACED, number)) for number in range(2)]  # type: ignore[misc]
            for seconds in (0, 0.01):
                with pytest.raises(BackpressureError) as caught:
                    store.append(ORDER, PLACED, "never", max_wait_seconds=seconds)
                assert caught.value.retryable
                assert caught.value.retry_after_seconds > 0
            with pytest.raises(BackpressureError):
                store.append_batch(new_events("never"), max_wait_seconds=0)
            with pytest.raises(BackpressureError):
                store.append_reaction(ORDER, PLACED, "never", cause=first, max_wait_seconds=0)
            patient = Task(lambda: store.append(ORDER, PLACED, "patient", max_wait_seconds=20))
        assert [task.outcome().global_sequence for task in tasks] == [1, 2]
        assert patient.outcome().global_sequence == 3
        assert payloads(store) == ["first", 0, 1, "patient"]
        assert store.append(ORDER, PLACED, "next", max_wait_seconds=0).global_sequence == 4


def test_reads_do_not_wait_for_a_writer_that_is_busy(driven: Journal) -> None:
    store = driven.store
    receipt = store.append(ORDER, PLACED, 1)
    with Held(store):
        assert store.get(receipt.event_id).payload == 1
        assert len(store.query(Region())) == 1
        assert payloads(store) == [1]
        assert store.stats().events == 1
        assert store.diagnostics().state == "ok"


def test_kinds_of_every_open_category_are_written(store: Store) -> None:
    for category in (*range(0x1, 0xD), 0xE, 0xF):
        store.append(ORDER, EventKind(category, 0xFFF), category)
    assert len(payloads(store)) == 14


def test_an_entity_that_left_the_writers_memory_goes_on_where_it_stood(
    monkeypatch: pytest.MonkeyPatch, config: StoreConfig
) -> None:
    monkeypatch.setattr("batpak.actors.system.MAX_HEADS", 2)
    with Journal(config) as journal:
        for round_ in range(3):
            for number in range(7):
                receipt = journal.store.append(
                    Coordinate(f"e:{number}", "s"),
                    PLACED,
                    round_,
                    expected_sequence=round_ - 1,
                    idempotency_key=f"{round_}.{number}",
                )
                assert receipt.sequence == round_
        again = journal.store.append(Coordinate("e:0", "s"), PLACED, 0, idempotency_key="0.0")
        assert (again.duplicate, again.global_sequence) == (True, 0)
        assert journal.store.verify_chain().intact


def test_the_clock_may_stand_still_for_thousands_of_ids() -> None:
    with Journal(StoreConfig(clock=HandClock())) as journal:
        ids = [journal.store.append(ORDER, PLACED, None).event_id for _ in range(5_000)]
    assert ids == sorted(set(ids))
