"""Every read of a store, awaited: in a thread, so that no task waits for the disk of another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final, Generic, Self, TypeVar
from uuid import UUID

from batpak.actors.announcer import BACKSTOP_SECONDS
from batpak.aio.cursor import AsyncFollower
from batpak.aio.errand import Threads, finish
from batpak.aio.events import AsyncEvents
from batpak.aio.hub import Hub
from batpak.aio.lookup import Lookups
from batpak.aio.loops import PerLoop, Post
from batpak.event import IndexEntry, StoredEvent
from batpak.kind import EventKind
from batpak.read_only import ReadOnlyStore
from batpak.reading import EVERYTHING
from batpak.receipt import Anchor, Place
from batpak.region import Region
from batpak.reports import Ancestry, ChainReport, Stats
from batpak.store import Store

T = TypeVar("T")
StoreT = TypeVar("StoreT", Store, ReadOnlyStore)

MAX_READS: Final = 8
"""How many threads read for one facade on one event loop; more of them would only wait for the interpreter."""


class AsyncReading(Generic[StoreT]):
    """The reads of a store, awaited.

    Cancelling one ends the waiting at once; its thread finishes for nobody. On one event loop at most eight threads
    read, each for one task at a time, and further reads wait for one. The gets that are awaited at the same time are
    read together, by threads of their own, of which there are two at most; each has its own event or error.
    """

    _store: StoreT
    _threads: PerLoop[Threads]
    _lookups: PerLoop[Lookups]
    _hubs: PerLoop[Hub]
    _owned: bool

    def _put_on(self, store: StoreT) -> None:
        """Read from *store*, which belongs to somebody else."""
        self._store = store
        self._threads = PerLoop(partial(Threads, MAX_READS))
        self._lookups = PerLoop(partial(Lookups, store))
        self._hubs = PerLoop(partial(Hub, store._announcer))
        self._owned = False

    # One event ---------------------------------------------------------------------------------------------------

    async def get(self, event_id: UUID) -> StoredEvent:
        """Read one event; `EventNotFoundError` if there is none, `CorruptStoreError` if its bytes are damaged."""
        return await self._lookups.get().get(event_id)

    async def get_many(self, event_ids: Sequence[UUID]) -> list[StoredEvent]:
        """Read events in the order asked; `EventNotFoundError` names the first that is not there."""
        return await self._offload(partial(self._store.get_many, event_ids))

    async def latest(self, entity: str) -> IndexEntry | None:
        """Return the newest event of exactly *entity*; its ``sequence`` is what ``expected_sequence`` wants."""
        return await self._offload(partial(self._store.latest, entity))

    async def place_at(self, moment: datetime) -> Place | None:
        """Return the place of the newest event at or before *moment*, for ``after=``; None before the first event.

        *moment* has a zone; times are compared in milliseconds.
        """
        return await self._offload(partial(self._store.place_at, moment))

    # Many events -------------------------------------------------------------------------------------------------

    async def query(
        self, region: Region, *, after: int | Place | None = None, limit: int | None = None, reverse: bool = False
    ) -> list[IndexEntry]:
        """List what the index knows of the events in *region*, in global order; no frame is read.

        Arguments as for `Store.query`.
        """
        return await self._offload(partial(self._store.query, region, after=after, limit=limit, reverse=reverse))

    def read(
        self,
        region: Region = EVERYTHING,
        *,
        after: int | Place | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> AsyncEvents:
        """Iterate over the events in *region* with ``async for``, in global order, a block read at a time.

        Arguments as for `Store.query`; all but a place in *after* are checked at once. What is appended after the
        call is not in it. A damaged frame raises `CorruptStoreError` when the iteration reaches its block.
        """
        return AsyncEvents(self._store._prepare_read(region, after, limit, reverse=reverse), self._offload)

    async def by_scope(self, scope: str) -> list[IndexEntry]:
        """List the events of one scope."""
        return await self._offload(partial(self._store.by_scope, scope))

    async def by_fact(self, kind: EventKind) -> list[IndexEntry]:
        """List the events of one kind."""
        return await self._offload(partial(self._store.by_fact, kind))

    async def stream(
        self, entity: str, *, after_sequence: int | None = None, limit: int | None = None, reverse: bool = False
    ) -> list[IndexEntry]:
        """List the events of exactly *entity*, in its own order; *after_sequence* is exclusive."""
        return await self._offload(
            partial(self._store.stream, entity, after_sequence=after_sequence, limit=limit, reverse=reverse)
        )

    def read_stream(
        self, entity: str, *, after_sequence: int | None = None, limit: int | None = None, reverse: bool = False
    ) -> AsyncEvents:
        """Iterate over the events of exactly *entity* with ``async for``, a block read at a time.

        Arguments as for `stream`. What is appended after the call is not in it.
        """
        events = self._store.read_stream(entity, after_sequence=after_sequence, limit=limit, reverse=reverse)
        return AsyncEvents(lambda: events, self._offload)

    def follow(self, region: Region, *, after: int | Place | None = None, durable: bool = False) -> AsyncFollower:
        """Iterate over the events in *region*, and then over those that come, with ``async for``.

        Arguments as for `Store.follow`; a place in *after* is compared with the journal at the first event, or by
        ``async with``.
        """
        begin = partial(self._store.follow, region, after=after, durable=durable)
        backstop = BACKSTOP_SECONDS if durable else None
        return AsyncFollower(begin, self._hubs, self._store._announcer, self._offload, poll_seconds=backstop)

    # The graph ---------------------------------------------------------------------------------------------------

    async def walk_ancestors(self, event_id: UUID, *, limit: int | None = None) -> Ancestry:
        """Walk an entity's chain backwards from an event, which comes first; at most *limit* (default 10,000)."""
        return await self._offload(partial(self._store.walk_ancestors, event_id, limit=limit))

    async def causes(self, event_id: UUID, *, depth: int = 1, limit: int = 1000) -> list[StoredEvent]:
        """Return what caused an event, *depth* steps back, nearest first; a cause that is not here is left out."""
        return await self._offload(partial(self._store.causes, event_id, depth=depth, limit=limit))

    async def effects(self, event_id: UUID, *, depth: int = 1, limit: int = 1000) -> list[StoredEvent]:
        """Return what an event caused, *depth* steps on, breadth first, each event once."""
        return await self._offload(partial(self._store.effects, event_id, depth=depth, limit=limit))

    async def verify_chain(
        self,
        region: Region = EVERYTHING,
        *,
        anchor: Anchor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ChainReport:
        """Recompute every hash and link of the events in *region*, hidden ones too; the report says what is wrong.

        *anchor* as for `Store.verify_chain`. *progress* is called on the event loop, with events done and events there
        are in all; what it raises ends the check and is raised here. Cancelled, the check ends with the block of 512
        events that it is at.
        """
        told = _Progress(progress, self._threads.get().post)
        try:
            report = await self._offload(partial(self._store.verify_chain, region, anchor=anchor, progress=told.tell))
        except _StoppedError:
            assert told.error is not None
            raise told.error from None
        finally:
            told.gone = True
        if told.error is not None:
            raise told.error
        return report

    async def anchor(self) -> Anchor:
        """Return a short digest of everything up to here; as `Store.anchor`. Cancelling ends the waiting."""
        return await self._offload(self._store.anchor)

    # What operators see, and the end -----------------------------------------------------------------------------

    async def stats(self) -> Stats:
        """Return how much the store holds and how far it has come."""
        return await self._offload(self._store.stats)

    async def close(self) -> None:
        """Close the store, whatever cancels meanwhile; a cancellation is raised after that.

        Idempotent; every later call raises `StoreClosedError`.
        """
        await finish(self._store.close, self._threads.get().post)

    async def aclose(self) -> None:
        """Close the store: the same as `close`, under the name that `contextlib.aclosing` calls."""
        await self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await (self.close() if self._owned else self._leave())

    async def _leave(self) -> None:
        """Do what is due at the end of a block, where the store stays open."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._store!r}>"

    async def _offload(self, act: Callable[[], T]) -> T:
        """Have a thread do *act*."""
        return await self._threads.get().run(act)


class _StoppedError(Exception):
    """Ends a check from within; nobody outside sees it."""


class _Progress:
    """Carries the progress of a check to its event loop, and the wish to stop it back."""

    def __init__(self, show: Callable[[int, int], None] | None, post: Post) -> None:
        """Have *show* called by the event loop that *post* reaches."""
        self._show = show
        self._post = post
        self.gone = False
        self.error: BaseException | None = None

    def tell(self, done: int, total: int) -> None:
        """Report; in the thread."""
        if self.gone or self.error is not None:
            raise _StoppedError
        if self._show is not None:
            self._post(partial(self._call, self._show, done, total))

    def _call(self, show: Callable[[int, int], None], done: int, total: int) -> None:
        """Report; on the event loop, where nothing may be raised."""
        if self.gone or self.error is not None:
            return
        try:
            show(done, total)
        except BaseException as error:  # noqa: BLE001 - raised in the task that asked for the check
            self.error = error
