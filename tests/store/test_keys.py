"""Idempotency keys: the first receipt for ever, another content refused, whatever happened in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from batpak import (
    NO_STREAM,
    Coordinate,
    EventFlags,
    EventKind,
    IdempotencyConflictError,
    Receipt,
    SequenceConflictError,
    Store,
    StoreConfig,
    operation_key,
)
from batpak.request import KEY_DOMAIN
from tests.store.journals import (
    LONG,
    ORDER,
    PAID,
    PLACED,
    Journal,
    all_facts,
    patient,
    payloads,
    race,
    receipt_facts,
)

KEY = UUID(int=0xA1)


def test_p12_a_repeated_key_gets_the_first_receipt_and_writes_nothing(journal: Journal) -> None:
    first = journal.store.append(ORDER, PLACED, {"total": 10}, idempotency_key=KEY)
    assert first.event_id == KEY
    journal.store.append(ORDER, PAID, {"total": 10})
    for store in journal.lives():
        before = all_facts(store)
        again = store.append(ORDER, PLACED, {"total": 10}, idempotency_key=KEY)
        assert again.duplicate
        assert receipt_facts(again) == receipt_facts(first)
        assert all_facts(store) == before
        assert store.append(ORDER, PAID, 0, idempotency_key=None).sequence == len(before)  # no place was used up


def test_a_key_as_text_is_an_operation_of_its_own_domain(journal: Journal) -> None:
    first = journal.store.append(ORDER, PLACED, 1, idempotency_key="req:42")
    assert first.event_id == operation_key(KEY_DOMAIN, "req:42")
    assert journal.reopen().append(ORDER, PLACED, 1, idempotency_key=first.event_id).duplicate


def test_the_key_comes_before_the_expectation(journal: Journal) -> None:
    first = journal.store.append(ORDER, PLACED, 1, idempotency_key=KEY, expected_sequence=NO_STREAM)
    for store in journal.lives():
        again = store.append(ORDER, PLACED, 1, idempotency_key=KEY, expected_sequence=NO_STREAM)
        assert receipt_facts(again) == receipt_facts(first)
        with pytest.raises(SequenceConflictError):
            store.append(ORDER, PLACED, 1, idempotency_key="another", expected_sequence=NO_STREAM)


def test_ids_of_the_request_and_flags_are_no_content(store: Store) -> None:
    first = store.append(ORDER, PLACED, 1, idempotency_key=KEY, correlation_id=UUID(int=1))
    again = store.append(
        ORDER,
        PLACED,
        1,
        idempotency_key=KEY,
        correlation_id=UUID(int=2),
        causation_id=UUID(int=3),
        flags=EventFlags.REPLAY,
    )
    assert receipt_facts(again) == receipt_facts(first)
    assert store.get(KEY).correlation_id == UUID(int=1)


@pytest.mark.parametrize(
    ("coordinate", "kind", "payload"),
    [
        (Coordinate("order:43", "shop"), PLACED, 1),
        (Coordinate("order:42", "shop2"), PLACED, 1),
        (ORDER, PAID, 1),
        (ORDER, PLACED, 2),
        (ORDER, PLACED, 1.0),
        (ORDER, PLACED, True),
    ],
)
def test_another_content_under_a_known_key_is_a_conflict(
    journal: Journal, coordinate: Coordinate, kind: EventKind, payload: float
) -> None:
    journal.store.append(ORDER, PLACED, 1, idempotency_key=KEY)
    for store in journal.lives():
        with pytest.raises(IdempotencyConflictError) as caught:
            store.append(coordinate, kind, payload, idempotency_key=KEY)
        assert (caught.value.key, caught.value.item_index, caught.value.retryable) == (KEY, None, False)
        assert payloads(store) == [1]


def test_the_id_of_an_event_without_a_key_is_no_key(journal: Journal) -> None:
    if journal.config.segment_format == 1:
        pytest.skip("format 1 does not tell keys from ids")
    receipt = journal.store.append(ORDER, PLACED, 1)
    for store in journal.lives():
        with pytest.raises(IdempotencyConflictError) as caught:
            store.append(ORDER, PLACED, 1, idempotency_key=receipt.event_id)
        assert caught.value.key == receipt.event_id


def test_a_refused_keyed_append_leaves_its_key_free(store: Store) -> None:
    with pytest.raises(SequenceConflictError):
        store.append(ORDER, PLACED, 1, idempotency_key=KEY, expected_sequence=5)
    assert not store.append(ORDER, PLACED, 2, idempotency_key=KEY).duplicate


def test_keys_are_names_in_the_whole_store(store: Store) -> None:
    for number in range(20):
        store.append(Coordinate(f"e:{number}", "s"), PLACED, number, idempotency_key=str(number))
    assert store.append(Coordinate("e:7", "s"), PLACED, 7, idempotency_key="7").global_sequence == 7
    with pytest.raises(IdempotencyConflictError):
        store.append(Coordinate("e:8", "s"), PLACED, 7, idempotency_key="7")


def test_p10_a_race_with_one_key_is_written_once(driven: Journal) -> None:
    store = driven.store
    for number in range(15):
        outcomes = race(4, lambda _, key=str(number): store.append(ORDER, PLACED, key, idempotency_key=key))  # type: ignore[misc]
        assert sorted(outcome.duplicate for outcome in outcomes) == [False, True, True, True]
        assert len({receipt_facts(outcome) for outcome in outcomes}) == 1
    assert payloads(store) == [str(number) for number in range(15)]


@patient
def test_thousands_of_keys_from_many_threads_at_once_are_each_there_once(driven: Journal) -> None:
    store, count = driven.store, (5_000 if LONG else 600)

    def write(number: int) -> list[Receipt]:
        keys = range(count) if number % 2 else range(count - 1, -1, -1)
        return [store.append(Coordinate(f"e:{key % 17}", "s"), PLACED, key, idempotency_key=str(key)) for key in keys]

    outcomes = race(4, write)
    assert sorted(payloads(store)) == list(range(count))
    assert sum(not receipt.duplicate for receipts in outcomes for receipt in receipts) == count
    for key in range(count):
        receipts = [outcomes[number][key if number % 2 else -1 - key] for number in range(4)]
        assert len({receipt_facts(receipt) for receipt in receipts}) == 1
    assert store.verify_chain().intact


@pytest.mark.parametrize("end", ["reopen", "kill", "cut_power"])
def test_keys_are_known_wherever_the_index_holds_them(
    monkeypatch: pytest.MonkeyPatch, config: StoreConfig, end: str
) -> None:
    monkeypatch.setattr("batpak.actors.index.RUN_EVENTS", 8)
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    with Journal(replace(config, durable=True)) as journal:
        receipts = [journal.store.append(ORDER, PLACED, n, idempotency_key=str(n)) for n in range(60)]
        again: Callable[[], Store] = getattr(journal, end)
        store = again()
        for number, receipt in enumerate(receipts):
            assert receipt_facts(store.append(ORDER, PLACED, number, idempotency_key=str(number))) == receipt_facts(
                receipt
            )
        assert len(payloads(store)) == 60


def test_a_duplicate_asked_for_durably_waits_until_the_first_is(driven: Journal) -> None:
    store = driven.store
    first = store.append(ORDER, PLACED, 1, idempotency_key=KEY)
    assert not first.durable
    syncs = driven.files.calls["sync_data"]
    again = store.append(ORDER, PLACED, 1, idempotency_key=KEY, durable=True)
    assert (again.durable, again.duplicate) == (True, True)
    assert driven.files.calls["sync_data"] == syncs + 1
    store.append(ORDER, PLACED, 1, idempotency_key=KEY, durable=True)
    assert driven.files.calls["sync_data"] == syncs + 1  # it is durable: nothing to wait for
    assert payloads(driven.cut_power()) == [1]


def test_a_key_that_a_power_cut_took_may_be_used_anew(journal: Journal) -> None:
    journal.store.append(ORDER, PLACED, 1, durable=True)
    journal.store.append(ORDER, PLACED, 2, idempotency_key=KEY)
    receipt = journal.cut_power().append(ORDER, PLACED, 3, idempotency_key=KEY)
    assert not receipt.duplicate
    assert payloads(journal.store) == [1, 3]


def test_a_keyed_reaction_is_answered_once(store: Store) -> None:
    cause = store.append(ORDER, PLACED, 1)
    first = store.append_reaction(ORDER, PAID, 2, cause=cause, idempotency_key=KEY)
    again = store.append_reaction(ORDER, PAID, 2, cause=cause, idempotency_key=KEY)
    assert receipt_facts(first) == receipt_facts(again)
    assert again.duplicate
