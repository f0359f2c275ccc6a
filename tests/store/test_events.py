"""Events as values: what a read returns and what a batch is made of can be kept, compared and sent."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from uuid import UUID

import pytest

from batpak import EventFlags, IndexEntry, InvalidRequestError, NewEvent, Place, Region, Store, StoredEvent
from tests.store.journals import EVERYTHING, ORDER, PLACED, Journal, facts, new_events

FIELDS = {
    "event_id", "coordinate", "kind", "global_sequence", "sequence", "wall_ms", "correlation_id", "causation_id",
    "flags", "payload_version",
}  # fmt: skip


def test_an_entry_is_a_value(store: Store) -> None:
    store.append_batch(new_events(1, 2))
    one, two = store.query(EVERYTHING)
    assert {name for name in IndexEntry.__dataclass_fields__} == FIELDS  # noqa: C416 - names alone
    assert one == store.query(EVERYTHING)[0] != two
    assert len({one, two, store.query(EVERYTHING)[1]}) == 2
    assert pickle.loads(pickle.dumps(one)) == one
    assert not hasattr(one, "__dict__")
    with pytest.raises(FrozenInstanceError):
        one.sequence = 7  # type: ignore[misc]


def test_an_event_has_all_of_its_entry_and_what_lies_in_the_frame(store: Store) -> None:
    store.append(ORDER, PLACED, {"a": [1]}, flags=EventFlags.TRANSACTIONAL)
    event = next(store.read())
    for name in FIELDS:
        assert getattr(event, name) == getattr(event.entry, name)
    assert event.place == Place(0, event.event_hash)
    assert event.raw == b"\x81\xa1a\x91\x01"
    assert len(event.content_hash) == len(event.event_hash) == len(event.prev_hash) == 32
    assert Region(entity="order").matches(event)
    assert not Region(scope="elsewhere").matches(event)


@pytest.mark.parametrize("looked_at", [False, True])
def test_an_event_is_a_value_whether_it_was_looked_at_or_not(journal: Journal, looked_at: bool) -> None:
    journal.store.append_batch(new_events({"a": [1]}, 2))
    one, two = journal.store.read()
    if looked_at:
        assert (one.payload, len(one.content_hash)) == ({"a": [1]}, 32)
    again = pickle.loads(pickle.dumps(one))
    assert isinstance(again, StoredEvent)
    assert facts(again) == facts(one)
    assert (again, again.payload) == (one, {"a": [1]})
    assert hash(again) == hash(one)
    assert one != two
    assert one != "something else"
    assert not hasattr(one, "__dict__")
    for name in (*FIELDS, "entry", "payload", "raw", "prev_hash", "event_hash", "content_hash", "timestamp_us"):
        with pytest.raises(AttributeError):
            setattr(one, name, None)


def test_the_payload_stays_out_of_the_text_of_an_event(store: Store) -> None:
    store.append(ORDER, PLACED, "canary")
    event = next(store.read())
    assert "canary" not in repr(event)
    assert str(event.event_id) in repr(event)


def test_an_item_of_a_batch_is_a_value() -> None:
    item = NewEvent(ORDER, PLACED, 1, idempotency_key="k", caused_by=0)
    assert item == NewEvent(ORDER, PLACED, 1, idempotency_key="k", caused_by=0)
    assert pickle.loads(pickle.dumps(item)) == item
    assert not hasattr(item, "__dict__")
    with pytest.raises(FrozenInstanceError):
        item.payload = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        NewEvent(ORDER, PLACED, 1, "k")  # type: ignore[arg-type, call-arg]
    with pytest.raises(InvalidRequestError):
        NewEvent(ORDER, PLACED, 1, caused_by=0, causation_id=UUID(int=1))
