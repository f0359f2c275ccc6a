"""An events table in SQLite, written by hand as somebody would who needs what batpak promises.

One table in WAL mode: ids, unique idempotency keys, a sequence for each entity, and a BLAKE3 chain. It has no index
on scope, kind, correlation or causation, which batpak has; that makes it a little faster here than its equal would be.
The newest sequence and hash of each entity stay in memory, as one writer may keep them.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Self, TypeAlias

import msgpack
from blake3 import blake3

from benchmarks.contenders import AsyncAppend
from benchmarks.events import KIND, SCOPE, Fields, Item

Asked: TypeAlias = SimpleQueue[tuple[Item, asyncio.Future[bytes]] | None]

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
"""
HEAD = "SELECT sequence, event_hash FROM events WHERE entity = ? ORDER BY sequence DESC LIMIT 1"
INSERT = "INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class SqliteEvents:
    """Append events to one table and read them back; calls from several threads take turns.

    A durable one waits for an fsync at each commit (`synchronous=FULL`). Without it a commit survives the death of
    the process, and a power cut takes what came since the last checkpoint (`NORMAL`).
    """

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self._turn = threading.Lock()
        self._heads: dict[str, tuple[int, bytes]] = {}
        self._db = sqlite3.connect(directory / "events.db", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        self._db.executescript(SCHEMA)

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Open or make the table in *directory*."""
        directory.mkdir(parents=True, exist_ok=True)
        return cls(directory, durable=durable)

    def close(self) -> None:
        """Close the file; SQLite moves what stands in its log into the table."""
        self._db.close()

    def append(self, item: Item) -> bytes:
        """Store one event and return its id."""
        return self.append_batch((item,))[0]

    def append_batch(self, items: Sequence[Item]) -> list[bytes]:
        """Store all of *items* or none, and return their ids."""
        with self._turn:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                ids = [self._insert(item) for item in items]
            except BaseException:
                self._heads.clear()
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        return ids

    def get(self, event_id: bytes) -> Fields:
        """Return the payload of one event."""
        with self._turn:
            row = self._db.execute("SELECT payload FROM events WHERE event_id = ?", (event_id,)).fetchone()
        payload: Fields = msgpack.unpackb(row[0])
        return payload

    def read(self) -> Iterator[Fields]:
        """Yield the payload of every event in global order."""
        for (packed,) in self._db.execute("SELECT payload FROM events ORDER BY global_sequence"):
            yield msgpack.unpackb(packed)

    @classmethod
    @asynccontextmanager
    async def appending(cls, directory: Path) -> AsyncIterator[AsyncAppend]:
        """Give an append that hands each event to one thread, which owns the table and answers into the loop.

        That is how asynchronous wrappers of SQLite work; here it costs half of what a call to `to_thread` costs.
        """
        loop = asyncio.get_running_loop()
        asked: Asked = SimpleQueue()
        table = cls.open(directory)
        thread = threading.Thread(target=_answer, args=(table, asked, loop), name="sqlite-events")
        thread.start()

        async def append(item: Item) -> bytes:
            answer = loop.create_future()
            asked.put((item, answer))
            event_id: bytes = await answer
            return event_id

        try:
            yield append
        finally:
            asked.put(None)
            await asyncio.to_thread(thread.join)
            table.close()

    def _insert(self, item: Item) -> bytes:
        """Add one row behind the newest of its entity."""
        now = time.time_ns() // 1000
        event_id = (now // 1000).to_bytes(6, "big") + os.urandom(10)
        packed: bytes = msgpack.packb(item.payload)
        head = self._heads.get(item.entity) or self._db.execute(HEAD, (item.entity,)).fetchone()
        sequence, prev_hash = (head[0] + 1, head[1]) if head else (0, GENESIS)
        facts = f"{item.entity}\0{SCOPE}\0{sequence}\0{KIND}\0{now}".encode()
        event_hash = blake3(b"".join((prev_hash, event_id, facts, packed))).digest()
        self._db.execute(
            INSERT,
            (event_id, None, item.entity, SCOPE, sequence, KIND, now, None, None, prev_hash, event_hash, packed),
        )
        self._heads[item.entity] = (sequence, event_hash)
        return event_id


def _answer(table: SqliteEvents, asked: Asked, loop: asyncio.AbstractEventLoop) -> None:
    """Append what is asked, one by one, until the end is announced."""
    while (request := asked.get()) is not None:
        item, answer = request
        event_id = table.append(item)
        loop.call_soon_threadsafe(answer.set_result, event_id)
