"""plain SQLite: one table with a row number, the entity and the payload, and nothing else; or with one index."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgpack

from benchmarks.events import Fields, Item
from benchmarks.rivals.sqlite import SqliteTable

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id           INTEGER PRIMARY KEY,
    entity       TEXT    NOT NULL,
    kind         INTEGER NOT NULL,
    timestamp_us INTEGER NOT NULL,
    payload      BLOB    NOT NULL
)
"""
INSERT = "INSERT INTO events VALUES (NULL, ?, ?, ?, ?)"


INDEX = "CREATE INDEX IF NOT EXISTS events_entity ON events (entity)"


class PlainSqlite(SqliteTable):
    """Append rows to one table and read them back by number; calls from several threads take turns."""

    HOW: ClassVar[str] = (
        "one table in WAL mode with a row number, entity, kind, time and payload: no index, no keys, no sequence, no "
        "chain; a lock around each call; `synchronous=NORMAL`, durable rows `FULL`; its log was recycled before the "
        "clock started"
    )

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        super().__init__(directory, durable=durable)
        self.table.execute(SCHEMA)

    def append(self, item: Item) -> int | None:
        """Store one event and return its number."""
        row = (item.entity, item.kind, time.time_ns() // 1000, msgpack.packb(item.payload))
        with self._turn:
            return self.table.execute(INSERT, row).lastrowid

    def append_batch(self, items: Sequence[Item]) -> list[int]:
        """Store all of *items* or none, and return their numbers."""
        pack = msgpack.packb
        now = time.time_ns() // 1000
        rows = [(item.entity, item.kind, now, pack(item.payload)) for item in items]
        with self._turn:
            execute = self.table.execute
            execute("BEGIN IMMEDIATE")
            try:
                self.table.executemany(INSERT, rows)
                (last,) = execute("SELECT last_insert_rowid()").fetchone()
                execute("COMMIT")
            except BaseException:
                if self.table.in_transaction:
                    execute("ROLLBACK")
                raise
        return list(range(last - len(rows) + 1, last + 1))

    def get(self, event_id: int) -> Fields:
        """Return the payload of one event."""
        with self._turn:
            row = self.table.execute("SELECT payload FROM events WHERE id = ?", (event_id,)).fetchone()
        payload: Fields = msgpack.unpackb(row[0])
        return payload

    def stream(self, entity: str) -> list[object]:
        """Not to be had without an index."""
        raise NotImplementedError

    def replay(self) -> int:
        """Decode every payload in order and return how many there were."""
        unpack = msgpack.unpackb
        count = 0
        with self._turn:
            for (packed,) in self.table.execute("SELECT payload FROM events ORDER BY id"):
                unpack(packed)
                count += 1
        return count

    def page(self, part: str, after: int, limit: int) -> list[object]:
        """Not to be had without an index."""
        raise NotImplementedError


class IndexedSqlite(PlainSqlite):
    """The same with an index, so that an entity's events can be found."""

    HOW: ClassVar[str] = "the plain table with one index, by entity: the least that an entity can be read from"

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        super().__init__(directory, durable=durable)
        self.table.execute(INDEX)

    def stream(self, entity: str) -> list[object]:
        """Return the payloads of one entity, in order."""
        unpack = msgpack.unpackb
        with self._turn:
            rows = self.table.execute("SELECT payload FROM events WHERE entity = ? ORDER BY id", (entity,))
            return [unpack(packed) for (packed,) in rows]
