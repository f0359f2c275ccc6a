"""fair SQLite: an events table written by hand, with what batpak has.

Ids, unique idempotency keys, a sequence for each entity, a BLAKE3 chain over everything, causes, and an index for each
question that batpak answers without looking through everything: by entity, scope, kind, correlation and cause. The
newest sequence and hash of each entity stay in memory, as one writer may keep them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, TypeAlias

import msgpack
from blake3 import blake3

from benchmarks.events import Fields, Item
from benchmarks.rivals.regions import KIND_PART, PREFIX, SCOPE_PART
from benchmarks.rivals.sqlite import SqliteTable

Row: TypeAlias = tuple[bytes, None, str, str, int, int, int, None, None, bytes, bytes, bytes]

GENESIS = bytes(32)
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    global_sequence INTEGER PRIMARY KEY,
    event_id        BLOB    NOT NULL UNIQUE,
    idempotency_key BLOB,
    entity          TEXT    NOT NULL,
    scope           TEXT    NOT NULL,
    sequence        INTEGER NOT NULL,
    kind            INTEGER NOT NULL,
    timestamp_us    INTEGER NOT NULL,
    correlation_id  BLOB,
    causation_id    BLOB,
    prev_hash       BLOB    NOT NULL,
    event_hash      BLOB    NOT NULL,
    payload         BLOB    NOT NULL,
    UNIQUE (entity, sequence)
);
CREATE UNIQUE INDEX IF NOT EXISTS events_key ON events (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_scope ON events (scope);
CREATE INDEX IF NOT EXISTS events_kind ON events (kind);
CREATE INDEX IF NOT EXISTS events_correlation ON events (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_cause ON events (causation_id) WHERE causation_id IS NOT NULL;
"""
HEAD = "SELECT sequence, event_hash FROM events WHERE entity = ? ORDER BY sequence DESC LIMIT 1"
INSERT = "INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
FACTS = "event_id, entity, scope, kind, global_sequence, sequence, timestamp_us, correlation_id, causation_id"
# `;` follows `:` in ASCII, so that the two comparisons are what a prefix means. The unary plus keeps SQLite on the
# table's own order, where a prefix that holds everything would have it sort everything first.
_PREFIX = f"(+entity = '{PREFIX}' OR +entity >= '{PREFIX}:' AND +entity < '{PREFIX};')"
WHERE = {
    "entity prefix": _PREFIX,
    "scope": f"scope = '{SCOPE_PART}'",
    "kind": f"kind = {KIND_PART}",
    "scope and kind": f"scope = '{SCOPE_PART}' AND kind = {KIND_PART}",
    "prefix and kind": f"{_PREFIX} AND kind = {KIND_PART}",
}
PAGES = {
    part: f"SELECT {FACTS} FROM events WHERE {where} AND global_sequence > ? ORDER BY global_sequence LIMIT ?"  # noqa: S608 - constants
    for part, where in WHERE.items()
}
STREAM = "SELECT payload FROM events WHERE entity = ? ORDER BY sequence"
REPLAY = "SELECT payload FROM events ORDER BY global_sequence"


class FairSqlite(SqliteTable):
    """Append events to one table and read them back; calls from several threads take turns."""

    HOW: ClassVar[str] = (
        "one table in WAL mode with ids, unique keys, a sequence for each entity, a BLAKE3 chain over all columns, "
        "and indexes by id, key, entity, scope, kind, correlation and cause; newest hashes of entities in memory; a "
        "lock around each call; `synchronous=NORMAL`, durable rows `FULL`; its log was recycled before the clock "
        "started; reads give payloads, decoded and not checked"
    )

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        super().__init__(directory, durable=durable)
        self._heads: dict[str, tuple[int, bytes]] = {}
        self.table.executescript(SCHEMA)

    def append(self, item: Item) -> bytes:
        """Store one event and return its id."""
        return self.append_batch((item,))[0]

    def append_batch(self, items: Sequence[Item]) -> list[bytes]:
        """Store all of *items* or none, and return their ids."""
        with self._turn:
            execute = self.table.execute
            execute("BEGIN IMMEDIATE")
            try:
                rows = [self._row(item) for item in items]
                self.table.executemany(INSERT, rows)
                execute("COMMIT")
            except BaseException:
                self._heads.clear()
                if self.table.in_transaction:
                    execute("ROLLBACK")
                raise
        return [row[0] for row in rows]

    def get(self, event_id: bytes) -> Fields:
        """Return the payload of one event."""
        with self._turn:
            row = self.table.execute("SELECT payload FROM events WHERE event_id = ?", (event_id,)).fetchone()
        payload: Fields = msgpack.unpackb(row[0])
        return payload

    def stream(self, entity: str) -> list[object]:
        """Return the payloads of one entity, in order."""
        unpack = msgpack.unpackb
        with self._turn:
            return [unpack(packed) for (packed,) in self.table.execute(STREAM, (entity,))]

    def replay(self) -> int:
        """Decode every payload in global order and return how many there were."""
        unpack = msgpack.unpackb
        count = 0
        with self._turn:
            for (packed,) in self.table.execute(REPLAY):
                unpack(packed)
                count += 1
        return count

    def page(self, part: str, after: int, limit: int) -> list[object]:
        """Return the rows of *limit* events of a region behind *after*, without payloads."""
        with self._turn:
            return self.table.execute(PAGES[part], (after, limit)).fetchall()

    def _row(self, item: Item) -> Row:
        """Return the row behind the newest of its entity."""
        entity, scope, kind = item.entity, item.scope, item.kind
        now = time.time_ns() // 1000
        event_id = (now // 1000).to_bytes(6, "big") + os.urandom(10)
        packed: bytes = msgpack.packb(item.payload)
        head = self._heads.get(entity) or self.table.execute(HEAD, (entity,)).fetchone()
        sequence, prev_hash = (head[0] + 1, head[1]) if head else (0, GENESIS)
        facts = f"{entity}\0{scope}\0{sequence}\0{kind}\0{now}".encode()
        event_hash = blake3(b"".join((prev_hash, event_id, facts, packed))).digest()
        self._heads[entity] = (sequence, event_hash)
        return event_id, None, entity, scope, sequence, kind, now, None, None, prev_hash, event_hash, packed
