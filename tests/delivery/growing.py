"""Journals that grow, and what consumers find in them."""

from __future__ import annotations

from batpak import Cursor, Receipt, Store
from tests.store.journals import new_events


def grow(store: Store, count: int, entity: str = "order:42") -> list[Receipt]:
    """Append so many events, whose payloads are their global sequences."""
    first = store.stats().next_global_sequence
    return store.append_batch(new_events(*range(first, first + count), entity=entity)) if count else []


def rest(cursor: Cursor, limit: int = 1000) -> list[int]:
    """Return the global sequences of what is there by now."""
    return [event.global_sequence for event in cursor.poll_batch(limit)]


def waits(store: Store) -> bool:
    """Whether somebody waits for the store to tell him."""
    return any(bucket for table in store._announcer._tables for bucket in table.values())
