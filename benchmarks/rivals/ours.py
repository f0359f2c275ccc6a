"""batpak as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self
from uuid import UUID

from batpak import Coordinate, EventKind, IndexEntry, NewEvent, Receipt, Region, Store, StoreConfig
from benchmarks.events import KINDS, Item
from benchmarks.rivals.regions import KIND_PART, PREFIX, SCOPE_PART

EVENT_KINDS = {value: EventKind.from_value(value) for value in KINDS}
_KIND = EVENT_KINDS[KIND_PART]
REGIONS = {
    "entity prefix": Region(entity=PREFIX),
    "scope": Region(scope=SCOPE_PART),
    "kind": Region(kind=_KIND),
    "scope and kind": Region(scope=SCOPE_PART, kind=_KIND),
    "prefix and kind": Region(entity=PREFIX, kind=_KIND),
}


class Batpak:
    """A store with no setting changed but the one that the row is about."""

    HOW: ClassVar[str] = (
        "no setting changed; every append does its full work: arguments checked, key and sequence looked up, chained "
        "by BLAKE3, checksummed, indexed; every read checks the frame's checksum and that it is the event meant. "
        "Durable rows set `durable=True`"
    )

    def __init__(self, store: Store) -> None:
        self.store = store

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Open or make the store in *directory*."""
        return cls(Store.open(directory, config=StoreConfig(durable=durable)))

    def close(self) -> None:
        """Close the store: drain and sync."""
        self.store.close()

    def settle(self) -> None:
        """Nothing to do: a segment is preallocated from its first append on."""

    def append(self, item: Item) -> Receipt:
        """Store one event and return its receipt."""
        return self.store.append(Coordinate(item.entity, item.scope), EVENT_KINDS[item.kind], item.payload)

    def append_batch(self, items: Sequence[Item]) -> list[UUID]:
        """Store all events or none and return their ids."""
        return [receipt.event_id for receipt in self.write_batch(items)]

    def write_batch(self, items: Sequence[Item]) -> list[Receipt]:
        """Store all events or none and return their receipts, which make an id when it is asked for."""
        return self.store.append_batch([new_event(item) for item in items])

    def get(self, event_id: UUID) -> object:
        """Return the decoded payload of one event."""
        return self.store.get(event_id).payload

    def stream(self, entity: str) -> list[object]:
        """Return the decoded payloads of one entity, in order."""
        return [event.payload for event in self.store.read_stream(entity)]

    def replay(self) -> int:
        """Decode every payload in global order and return how many there were."""
        count = 0
        for event in self.store.read():
            event.payload  # noqa: B018 - decoding is the work
            count += 1
        return count

    def page(self, part: str, after: int, limit: int) -> list[IndexEntry]:
        """Return the index entries of *limit* events of a region behind *after*."""
        return self.store.query(REGIONS[part], after=after, limit=limit)


def new_event(item: Item) -> NewEvent:
    """Return *item* as an item of a batch."""
    return NewEvent(Coordinate(item.entity, item.scope), EVENT_KINDS[item.kind], item.payload)
