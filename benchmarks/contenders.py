"""The interface that both contenders stand behind, and batpak behind it.

Payloads are packed and unpacked inside the measured calls on both sides; ids are whatever a contender hands out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, Self, TypeAlias, TypeVar
from uuid import UUID

from batpak import Coordinate, EventKind, NewEvent, Store, StoreConfig
from batpak.aio import AsyncStore
from benchmarks.events import KIND, SCOPE, Item

Id = TypeVar("Id")
AsyncAppend: TypeAlias = Callable[[Item], Awaitable[object]]

EVENT_KIND = EventKind.from_value(KIND)


class Contender(Protocol[Id]):
    """An open event store under measurement."""

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Open or make the store in *directory*; *durable* makes every append survive a power cut."""
        ...

    def close(self) -> None:
        """Close it, with everything written."""
        ...

    def append(self, item: Item) -> Id:
        """Store one event and return its id."""
        ...

    def append_batch(self, items: Sequence[Item]) -> list[Id]:
        """Store all events or none and return their ids."""
        ...

    def get(self, event_id: Id) -> object:
        """Return the decoded payload of one event."""
        ...

    def read(self) -> Iterator[object]:
        """Yield every decoded payload in global order."""
        ...

    @classmethod
    def appending(cls, directory: Path) -> AbstractAsyncContextManager[AsyncAppend]:
        """Give, as a context, an append that many tasks of one event loop can await."""
        ...


class Batpak:
    """batpak as it comes, with no setting changed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Open or make the store in *directory*."""
        return cls(Store.open(directory, config=StoreConfig(durable=durable)))

    def close(self) -> None:
        """Close the store: drain and sync."""
        self._store.close()

    def append(self, item: Item) -> UUID:
        """Store one event and return its id."""
        return self._store.append(Coordinate(item.entity, SCOPE), EVENT_KIND, item.payload).event_id

    def append_batch(self, items: Sequence[Item]) -> list[UUID]:
        """Store all events or none and return their ids."""
        events = [NewEvent(Coordinate(item.entity, SCOPE), EVENT_KIND, item.payload) for item in items]
        return [receipt.event_id for receipt in self._store.append_batch(events)]

    def get(self, event_id: UUID) -> object:
        """Return the decoded payload of one event."""
        return self._store.get(event_id).payload

    def read(self) -> Iterator[object]:
        """Yield every decoded payload in global order."""
        return (event.payload for event in self._store.read())

    @classmethod
    @asynccontextmanager
    async def appending(cls, directory: Path) -> AsyncIterator[AsyncAppend]:
        """Give the append of the asynchronous facade."""
        async with AsyncStore.open(directory) as store:

            async def append(item: Item) -> UUID:
                receipt = await store.append(Coordinate(item.entity, SCOPE), EVENT_KIND, item.payload)
                return receipt.event_id

            yield append
