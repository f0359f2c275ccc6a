"""Keys and ids of the original's events: they answer as keys here, also where the event itself is gone."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

import pytest

from batpak import EventNotFoundError, IdempotencyConflictError, PayloadError, StoredEvent
from batpak.payload import encode_payload
from batpak.receipt import NO_SEQUENCE
from tests.directories import load, looked_at, opened
from tests.golden.walker import GOLDEN


@pytest.mark.parametrize("name", ["options", "batches", "compacted-merge/after", "basic"])
def test_every_id_of_the_original_answers_as_a_key(name: str) -> None:
    held = load(GOLDEN / "rust" / "0.10.0" / name / "store")
    with opened(held) as store:
        before, asked = store.stats().events, 0
        for event in store.read():
            if event.kind.category in {0x0, 0xD} or not packs_to_the_same(event):
                continue
            again = store.append(event.coordinate, event.kind, event.payload, idempotency_key=event.event_id)
            assert (again.duplicate, again.global_sequence) == (True, event.global_sequence)
            assert again.event_hash == event.event_hash
            asked += 1
        assert asked > before / 2
        assert store.stats().events == before


def packs_to_the_same(event: StoredEvent) -> bool:
    """Whether a payload has one spelling only: the original was given floats of 32 bits and long integers too."""
    with suppress(PayloadError):
        return encode_payload(event.payload) == event.raw
    return False


def test_a_key_whose_event_was_compacted_away_is_still_known() -> None:
    golden = GOLDEN / "rust" / "0.10.0" / "compacted-retention"
    keys = [UUID(int=0xAA1F), UUID(int=0xAA01)]
    with looked_at(load(golden / "before" / "store")) as before:
        events = before.get_many(keys)
        with opened(load(golden / "after" / "store")) as store:
            for event in events:
                with pytest.raises(EventNotFoundError):
                    store.get(event.event_id)
                receipt = store.append(
                    event.coordinate, event.kind, event.payload, idempotency_key=event.event_id, durable=True
                )
                assert (receipt.duplicate, receipt.durable, receipt.sequence) == (True, True, NO_SEQUENCE)
                assert receipt.event_hash == event.event_hash
                with pytest.raises(IdempotencyConflictError):
                    store.append(event.coordinate, event.kind, {"other": True}, idempotency_key=event.event_id)
