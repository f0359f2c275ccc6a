"""eventsourcing: its recorder of stored events, on SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self
from uuid import UUID, uuid5

import msgpack
from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteConnection,
    SQLiteConnectionPool,
    SQLiteDatastore,
)

from benchmarks.events import Item
from benchmarks.rivals.sqlite import recycle_log

NAMESPACE = UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
MAX_NOTIFICATIONS = 1_000


class _Pool(SQLiteConnectionPool):
    """Connections that do not wait for an fsync at each commit; the library has no setting for it."""

    def _create_connection(self) -> SQLiteConnection:
        connection = super()._create_connection()
        connection.cursor().execute("PRAGMA synchronous=NORMAL")
        return connection


class Recorder:
    """Insert stored events by originator and version, and select them again."""

    HOW: ClassVar[str] = (
        "`SQLiteApplicationRecorder` with payloads packed by us (no aggregates, no mapper: less than an application "
        "does), in WAL mode as it comes, which waits for an fsync at each commit; for the written rows its pool was "
        "overridden to set `synchronous=NORMAL`"
    )

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        path = str(directory / "events.db")
        self._store = SQLiteDatastore(path)
        if not durable:
            self._store.pool.close()
            self._store.pool = _Pool(db_name=path)
        self._recorder = SQLiteApplicationRecorder(self._store)
        self._recorder.create_table()
        self._versions: dict[str, int] = {}
        self._originators: dict[str, UUID] = {}

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Open or make the table in *directory*."""
        return cls(directory, durable=durable)

    def close(self) -> None:
        """Close its connections."""
        self._store.close()

    def settle(self) -> None:
        """Have the log at its full length, to be written over from its start."""
        with self._store.get_connection(commit=True) as connection:
            table = connection._sqlite_conn
        recycle_log(table, self.append)

    def append(self, item: Item) -> int:
        """Store one event and return its number."""
        return self.append_batch((item,))[0]

    def append_batch(self, items: Sequence[Item]) -> list[int]:
        """Store all of *items* or none, and return their numbers."""
        return list(self._recorder.insert_events([self._stored(item) for item in items]) or ())

    def get(self, event_id: int) -> object:
        """Return the payload of one event."""
        return msgpack.unpackb(self._recorder.select_notifications(event_id, 1)[0].state)

    def stream(self, entity: str) -> list[object]:
        """Return the payloads of one entity, in order."""
        return [msgpack.unpackb(stored.state) for stored in self._recorder.select_events(uuid5(NAMESPACE, entity))]

    def replay(self) -> int:
        """Decode every payload in order, a page of notifications at a time, and return how many there were."""
        count = 0
        while page := self._recorder.select_notifications(count + 1, MAX_NOTIFICATIONS):
            for notification in page:
                msgpack.unpackb(notification.state)
            count += len(page)
        return count

    def page(self, part: str, after: int, limit: int) -> list[object]:
        """Not to be had: there is one region, everything, narrowed by topics."""
        raise NotImplementedError

    def _stored(self, item: Item) -> StoredEvent:
        """Return *item* behind the newest of its entity."""
        entity = item.entity
        originator = self._originators.get(entity)
        if originator is None:
            originator = self._originators[entity] = uuid5(NAMESPACE, entity)
        version = self._versions[entity] = self._versions.get(entity, 0) + 1
        return StoredEvent(originator, version, str(item.kind), msgpack.packb(item.payload))
