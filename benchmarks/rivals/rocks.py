"""rocksdict: RocksDB, events by number, their ids and the events of each entity, in one tree; and one bare put."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import msgpack
from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from benchmarks.events import Item

EVENT, ID, ENTITY = b"e", b"i", b"s"
_HOW = (
    "raw mode, its log on (each write reaches the system before it returns), default options, which compress; durable "
    "rows `sync=True`"
)


def _key(number: int) -> bytes:
    return EVENT + number.to_bytes(8, "big")


class _Tree:
    """What both ways have in common: one tree with events under running numbers."""

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.tree = Rdict(str(directory), Options(raw_mode=True))
        self.writing = WriteOptions()
        self.writing.sync = durable
        self.tree.set_write_options(self.writing)
        last = next(iter(self.tree.keys(backwards=True, from_key=EVENT + b"\xff")), b"")
        found = last if isinstance(last, bytes) else b""
        self.next = int.from_bytes(found[1:], "big") + 1 if found[:1] == EVENT else 1
        self.newest: dict[str, int] = {}

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Open or make the tree in *directory*."""
        return cls(directory, durable=durable)

    def close(self) -> None:
        """Close the tree, its newest table written out."""
        self.tree.flush()
        self.tree.close()

    def settle(self) -> None:
        """Nothing to do: logs are made at their full length."""

    def replay(self) -> int:
        """Decode every payload in order and return how many there were."""
        count = 0
        for key, value in self.tree.items(from_key=EVENT):
            if key[:1] != EVENT:  # type: ignore[index]
                break
            _payload(value)
            count += 1
        return count

    def page(self, part: str, after: int, limit: int) -> list[object]:
        """Not to be had without an index of regions."""
        raise NotImplementedError


class Rocks(_Tree):
    """Append events with both indexes in one write and read them back by id, by entity and by number."""

    HOW: ClassVar[str] = (
        "one write batch for each append or batch: events by number, numbers by id, numbers by entity and sequence; "
        f"the newest sequence of each entity in memory; no keys, no chain, no regions; {_HOW}"
    )

    def append(self, item: Item) -> bytes:
        """Store one event and return its id."""
        return self.append_batch((item,))[0]

    def append_batch(self, items: Sequence[Item]) -> list[bytes]:
        """Store all of *items* or none, and return their ids."""
        number = self.next
        found = []
        batch = WriteBatch(raw_mode=True)
        put = batch.put
        for item in items:
            now = time.time_ns() // 1000
            event_id = (now // 1000).to_bytes(6, "big") + os.urandom(10)
            sequence = self.newest.get(item.entity, -1) + 1
            key = _key(number)
            put(key, msgpack.packb((event_id, item.entity, item.scope, sequence, item.kind, now, item.payload)))
            put(ID + event_id, key)
            put(b"%b%b\0%b" % (ENTITY, item.entity.encode(), sequence.to_bytes(8, "big")), key)
            self.newest[item.entity] = sequence
            found.append(event_id)
            number += 1
        self.tree.write(batch, self.writing)
        self.next = number
        return found

    def get(self, event_id: bytes) -> object:
        """Return the payload of one event."""
        key = self.tree[ID + event_id]
        assert isinstance(key, bytes)
        return _payload(self.tree[key])

    def stream(self, entity: str) -> list[object]:
        """Return the payloads of one entity, in order."""
        prefix = ENTITY + entity.encode() + b"\0"
        keys: list[str | int | float | bytes | bool] = []
        for place, key in self.tree.items(from_key=prefix):
            if place[: len(prefix)] != prefix:  # type: ignore[index]
                break
            keys.append(key)
        return [_payload(record) for record in self.tree[keys] or ()] if keys else []


class RocksPut(_Tree):
    """Put records under a running number."""

    HOW: ClassVar[str] = f"one put for each append, entity, kind, time and payload as value; {_HOW}"

    def append(self, item: Item) -> int:
        """Store one event and return its number."""
        number = self.next
        self.tree[_key(number)] = _packed(item)
        self.next = number + 1
        return number

    def append_batch(self, items: Sequence[Item]) -> list[int]:
        """Store all of *items* or none, and return their numbers."""
        first = self.next
        batch = WriteBatch(raw_mode=True)
        for number, item in enumerate(items, first):
            batch.put(_key(number), _packed(item))
        self.tree.write(batch, self.writing)
        self.next = first + len(items)
        return list(range(first, self.next))

    def get(self, event_id: int) -> object:
        """Return the payload of one event."""
        return _payload(self.tree[_key(event_id)])

    def stream(self, entity: str) -> list[object]:
        """Not to be had without an index."""
        raise NotImplementedError


def _packed(item: Item) -> bytes:
    packed: bytes = msgpack.packb((item.entity, item.kind, time.time_ns() // 1000, item.payload))
    return packed


def _payload(record: object) -> object:
    """Return what the last part of a record is."""
    assert isinstance(record, bytes)
    parts: list[object] = msgpack.unpackb(record)
    return parts[-1]
