"""LMDB: events in one B-tree by number, their ids and the events of each entity in two more; and one bare put."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

import lmdb
import msgpack

from benchmarks.events import Item

MAP_BYTES = 8 * 1024**3
_HOW = (
    "a write transaction for each append or batch, records packed, `writemap=False` (with it and without syncs, a "
    "power cut can take the whole file), written rows `sync=False`, durable rows `sync=True`"
)


class _Lmdb:
    """A file of trees, one of which has the events by number."""

    def __init__(self, directory: Path, name: bytes | None = None, *, durable: bool = False) -> None:
        """Open or make the file in *directory*; the events are in the tree *name*, None for the one without."""
        directory.mkdir(parents=True, exist_ok=True)
        self._file = lmdb.open(str(directory), map_size=MAP_BYTES, max_dbs=3, sync=durable, metasync=durable)
        self._events = self._file.open_db(name)
        with self._file.begin(self._events) as transaction, transaction.cursor() as cursor:
            self._next = int.from_bytes(cursor.key(), "big") + 1 if cursor.last() else 1

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Open or make the file in *directory*."""
        return cls(directory, durable=durable)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def settle(self) -> None:
        """Nothing to do: its pages are used again as they come free."""

    def replay(self) -> int:
        """Decode every payload in order and return how many there were."""
        count = 0
        with self._file.begin(self._events) as transaction, transaction.cursor() as cursor:
            for value in cursor.iternext(keys=False):
                _payload(value)
                count += 1
        return count


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big")


class LmdbTable(_Lmdb):
    """Append events to three trees in one transaction and read them back by id, by entity and by number."""

    HOW: ClassVar[str] = (
        "three trees: events by number, numbers by id, numbers by entity and sequence; the newest sequence of each "
        f"entity in memory; no keys, no chain, no regions; {_HOW}"
    )

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        super().__init__(directory, b"events", durable=durable)
        self._ids, self._entities = (self._file.open_db(name) for name in (b"ids", b"entities"))
        self._newest: dict[str, int] = {}

    def append(self, item: Item) -> bytes:
        """Store one event and return its id."""
        return self.append_batch((item,))[0]

    def append_batch(self, items: Sequence[Item]) -> list[bytes]:
        """Store all of *items* or none, and return their ids."""
        number = self._next
        found = []
        with self._file.begin(write=True) as transaction:
            put = transaction.put
            for item in items:
                now = time.time_ns() // 1000
                event_id = (now // 1000).to_bytes(6, "big") + os.urandom(10)
                sequence = self._newest.get(item.entity, -1) + 1
                record = msgpack.packb((event_id, item.entity, item.scope, sequence, item.kind, now, item.payload))
                key = _key(number)
                put(key, record, append=True, db=self._events)
                put(event_id, key, db=self._ids)
                put(item.entity.encode() + b"\0" + _key(sequence), key, db=self._entities)
                self._newest[item.entity] = sequence
                found.append(event_id)
                number += 1
        self._next = number
        return found

    def get(self, event_id: bytes) -> object:
        """Return the payload of one event."""
        with self._file.begin() as transaction:
            return _payload(transaction.get(transaction.get(event_id, b"", db=self._ids), db=self._events))

    def stream(self, entity: str) -> list[object]:
        """Return the payloads of one entity, in order."""
        with self._file.begin() as transaction:
            get, events = transaction.get, self._events
            return [_payload(get(key, db=events)) for key in self._keys(transaction, entity)]

    def page(self, part: str, after: int, limit: int) -> list[object]:
        """Not to be had without an index of regions."""
        raise NotImplementedError

    def _keys(self, transaction: lmdb.Transaction[bytes], entity: str) -> Iterator[bytes]:
        """Yield the keys of an entity's events."""
        prefix = entity.encode() + b"\0"
        with transaction.cursor(self._entities) as cursor:
            if cursor.set_range(prefix):
                for place, key in cursor:
                    if not place.startswith(prefix):
                        return
                    yield key


class LmdbPut(_Lmdb):
    """Put records under a running number."""

    HOW: ClassVar[str] = f"one tree, a running number as key, entity, kind, time and payload as value; {_HOW}"

    def append(self, item: Item) -> int:
        """Store one event and return its number."""
        return self.append_batch((item,))[0]

    def append_batch(self, items: Sequence[Item]) -> list[int]:
        """Store all of *items* or none, and return their numbers."""
        first = self._next
        with self._file.begin(write=True) as transaction:
            for number, item in enumerate(items, first):
                value = msgpack.packb((item.entity, item.kind, time.time_ns() // 1000, item.payload))
                transaction.put(_key(number), value, append=True)
        self._next = first + len(items)
        return list(range(first, self._next))

    def get(self, event_id: int) -> object:
        """Return the payload of one event."""
        with self._file.begin() as transaction:
            return _payload(transaction.get(_key(event_id)))

    def stream(self, entity: str) -> list[object]:
        """Not to be had without an index."""
        raise NotImplementedError

    def page(self, part: str, after: int, limit: int) -> list[object]:
        """Not to be had without an index."""
        raise NotImplementedError


def _payload(record: bytes | None) -> object:
    """Return what the last part of a record is."""
    assert record is not None
    parts: list[object] = msgpack.unpackb(record)
    return parts[-1]
