"""`AsyncFollower` and `AsyncCursor`: everything in a region, then what comes, with ``async for``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final, Generic, Self, TypeVar

from anyio import get_cancelled_exc_class

from batpak.actors.announcer import STOP, Announcer, Interest
from batpak.aio.filling import Filling, Offload
from batpak.aio.hub import Hub
from batpak.aio.loops import PerLoop
from batpak.delivery.cursor import Cursor, Follower
from batpak.event import StoredEvent
from batpak.receipt import Place
from batpak.request import check_limit, check_timeout

FollowerT = TypeVar("FollowerT", bound=Follower)

HOT_EVENTS: Final = 16
"""So many new events are read on the event loop itself: their frames have just been written, and lie in memory."""
HOT_BYTES: Final = 65_536
"""So long may they be together: reading and checking them takes a fraction of a millisecond."""


class _Following(AsyncIterator[StoredEvent], Generic[FollowerT]):
    """What followers and cursors have in common; *begin*, in a thread, finds where they start."""

    def __init__(
        self,
        begin: Callable[[], FollowerT],
        hubs: PerLoop[Hub],
        announcer: Announcer,
        offload: Offload,
        *,
        poll_seconds: float | None = None,
        refreshes: bool = False,
    ) -> None:
        self._begin = begin
        self._hubs = hubs
        self._announcer = announcer
        self._offload = offload
        self._poll_seconds = poll_seconds
        self._refreshes = refreshes
        self._stop = Interest(STOP, id(self))
        self._closed = False
        self._begun: FollowerT | None = None
        self._filling = Filling(offload)

    async def poll(self) -> StoredEvent | None:
        """Return the next event if there is one by now; None says nothing about later."""
        events = await self.poll_batch(1)
        return events[0] if events else None

    async def poll_batch(self, limit: int) -> list[StoredEvent]:
        """Return up to *limit* events that are there by now; a poll costs what it returns."""
        check_limit(limit)
        return await self._look(limit)

    async def pull(self, limit: int, timeout_seconds: float | None = None) -> list[StoredEvent]:
        """Return up to *limit* events; wait for the first of them, at most *timeout_seconds* (None: for ever)."""
        check_limit(limit)
        check_timeout(timeout_seconds)
        events = await self._look(limit)
        if events or self._closed or self._begun is None:
            return events
        interests = (*self._begun._feed.interests, self._stop)
        look = partial(self._look_or_end, limit)
        hub = self._hubs.get()
        found = await hub.wait_until(interests, look, timeout_seconds, backstop_seconds=self._poll_seconds)
        return found[0] if found else []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoredEvent:
        while not self._closed:
            if events := await self.pull(1):
                return events[0]
        raise StopAsyncIteration

    async def close(self) -> None:
        """End it: a task that waits for it goes on with the end. Idempotent."""
        self._closed = True
        self._announcer.tell(self._stop)
        if self._begun is not None:
            self._begun.close()

    async def aclose(self) -> None:
        """End it: the same as `close`, under the name that `contextlib.aclosing` calls."""
        await self.close()

    async def __aenter__(self) -> Self:
        await self._filling.do(self._ensure_begun, hot=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _look(self, limit: int) -> list[StoredEvent]:
        """Return up to *limit* events that are there by now."""
        if self._closed:
            return []
        if self._begun is None or len(self._begun._ready) < limit:
            await self._filling.do(partial(self._fill, limit), hot=self._is_hot())
        return [] if self._begun is None or self._closed else self._begun._take(limit)

    async def _look_or_end(self, limit: int) -> tuple[list[StoredEvent], ...]:
        """Return the events that are there by now as a tuple of one; nothing where there is nothing yet."""
        events = await self._look(limit)
        return (events,) if events or self._closed else ()

    def _is_hot(self) -> bool:
        """Whether the next block can be read without waiting for a disk or another thread."""
        begun = self._begun
        if begun is None or self._refreshes:
            return False
        return begun._feed.is_hot(HOT_EVENTS, HOT_BYTES) and begun._feed.store._reader.is_free

    def _fill(self, wanted: int) -> None:
        """Read the next block, unless as many as *wanted* are there; find the beginning first."""
        self._ensure_begun()
        if self._begun is not None:
            self._begun._look(wanted)

    def _ensure_begun(self) -> None:
        """Find the beginning, once."""
        if self._begun is None and not self._closed:
            self._begun = self._begin()


class AsyncFollower(_Following[Follower]):
    """The events of a region behind a point of the journal, then each as it comes; `Follower`, on an event loop.

    History is read a block at a time by a thread; a few new events are read on the event loop itself, where they lie
    in memory. A cancelled iteration can go on where it was. ``async with`` or `close` ends it, from any task.
    """


class AsyncCursor(_Following[Cursor]):
    """A follower that keeps its place; `Cursor`, on an event loop.

    Its place is looked up, and a new one is made, when it is first used or entered by ``async with``: what is wrong
    with the name is raised there. Others can hold the name when `close` returns.
    """

    def __init__(
        self,
        begin: Callable[[], Cursor],
        hubs: PerLoop[Hub],
        announcer: Announcer,
        offload: Offload,
        *,
        name: str | None,
    ) -> None:
        """Deliver from where *begin* finds the place of *name*; made by `AsyncStore.cursor`."""
        super().__init__(begin, hubs, announcer, offload)
        self._name = name

    @property
    def name(self) -> str | None:
        """The name under which the place is kept."""
        return self._name

    @property
    def place(self) -> Place | None:
        """The place of the last event that was delivered; None before the first, and before the first commit."""
        return None if self._begun is None else self._begun.place

    @property
    def committed(self) -> Place | None:
        """The place that was committed last."""
        return None if self._begun is None else self._begun.committed

    async def commit(self) -> None:
        """Remember the place of the last event that was delivered; `Cursor.commit`.

        Cancelling ends the waiting; the place may be saved all the same.
        """
        begun = self._begun
        if begun is not None and begun._delivered is not None:
            await self._filling.do(partial(begun._commit_at, begun._delivered), hot=begun.name is None)

    async def rollback(self) -> None:
        """Go back to the place that was committed last: what came behind it is delivered again.

        Where a task was cancelled and its thread still reads or saves, this comes after that, cancelled or not.
        """
        if self._begun is not None:
            await self._at_last(self._begun.rollback)

    async def close(self) -> None:
        """End it: a task that waits for it goes on with the end. Idempotent.

        Where a thread of its still looks its place up or saves it, this waits for that, whatever cancels.
        """
        await super().close()
        if self._name is not None:
            await self._at_last(self._let_go)

    async def __aenter__(self) -> Self:
        was_begun = self._begun is not None
        try:
            return await super().__aenter__()
        except get_cancelled_exc_class():
            if not was_begun:  # nobody leaves a block that was not entered
                await self._at_last(self._forget)
            raise

    async def _at_last(self, act: Callable[[], object]) -> None:
        """Do *act* after what a thread is doing."""
        await self._filling.do_at_last(act, self._hubs.get().post)

    def _let_go(self) -> None:
        """Let go of the name."""
        if self._begun is not None:
            self._begun.close()

    def _forget(self) -> None:
        """Let go of the name, and begin anew when next used."""
        self._let_go()
        self._begun = None
