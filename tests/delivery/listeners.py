"""Those who listen to an announcer, and what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from batpak.actors.announcer import (
    Announcer,
    Interest,
    Listener,
)
from batpak.storage.row import Record

ID = UUID(int=7)


class Ear:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Interest] = []

    def tell(self, interests: Sequence[Interest]) -> None:
        self.told.extend(interests)


def record(
    number: int = 1,
    *,
    entity: str = "order:42",
    scope: str = "shop",
    kind: int = 0x1001,
    correlation_id: UUID | None = None,
) -> Record:
    """Return a row of the index with these facts."""
    own = UUID(int=number).bytes
    correlation = None if correlation_id is None else correlation_id.bytes
    return Record(own, number, 0, 1, 64, 100, entity, scope, 0, kind, 0, 0, 0, correlation, None, bytes(32))


def armed(announcer: Announcer, listener: Listener) -> list[Interest]:
    """Return what *listener* still waits for."""
    return [
        Interest(topic, value)
        for topic, table in enumerate(announcer._tables)
        for value, bucket in table.items()
        if listener in bucket
    ]


def size(announcer: Announcer) -> int:
    """Return how much an announcer remembers."""
    return sum(map(len, announcer._tables)) + len(announcer._forgotten) + len(announcer._told)
