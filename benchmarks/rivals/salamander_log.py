"""salamander-db: an embedded log in Rust, with payloads as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self, TypeAlias

import salamander

from benchmarks.events import Item

NEVER = 2**62
Reference: TypeAlias = "tuple[str, int]"


class SalamanderLog:
    """Append events to namespaces and replay them; an entity is a namespace."""

    HOW: ClassVar[str] = (
        'an entity is a namespace, `append_batch` for each append with `durability="flush"` (handed to the system), '
        'durable rows `"sync"`; its own commits by count and time set far away; payloads are JSON by its design; a '
        "batch of 100 entities is 100 of its batches, because one holds one namespace"
    )

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        directory.parent.mkdir(parents=True, exist_ok=True)
        self._log = salamander.open(
            str(directory), commit_every_count=NEVER, commit_every_bytes=NEVER, commit_every_millis=NEVER
        )
        self._durability = "sync" if durable else "flush"

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Open or make the log in *directory*."""
        return cls(directory, durable=durable)

    def close(self) -> None:
        """Close the log."""
        self._log.commit()
        self._log.close()

    def settle(self) -> None:
        """Nothing to do: there is no log beside the log."""

    def append(self, item: Item) -> object:
        """Store one event; return its receipt."""
        return self._log.append_batch(item.entity, [{"body": item.payload}], durability=self._durability)

    def append_batch(self, items: Sequence[Item]) -> list[Reference]:
        """Store the events of one entity, all or none, and return where they are."""
        (entity,) = {item.entity for item in items}
        receipt = self._log.append_batch(
            entity, [{"body": item.payload} for item in items], durability=self._durability
        )
        return [(entity, position) for position in range(receipt["first_position"], receipt["last_position"] + 1)]

    def get(self, event_id: Reference) -> object:
        """Return the payload of one event."""
        entity, position = event_id
        return self._log.replay(entity, position, position + 1)[0]["body"]

    def stream(self, entity: str) -> list[object]:
        """Return the payloads of one entity, in order."""
        return [row["body"] for row in self._log.replay(entity)]

    def replay(self) -> int:
        """Not to be had over all namespaces at once, but by a watch."""
        raise NotImplementedError

    def page(self, part: str, after: int, limit: int) -> list[object]:
        """Not to be had: there are no regions."""
        raise NotImplementedError
