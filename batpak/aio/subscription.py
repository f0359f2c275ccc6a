"""`AsyncSubscription`: a subscription to iterate over with ``async for``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Generic, Self, TypeVar, cast

from batpak.actors.announcer import STOP, Interest
from batpak.aio.filling import Filling, Offload
from batpak.aio.hub import Hub
from batpak.aio.loops import PerLoop
from batpak.delivery.feed import BLOCK
from batpak.delivery.pipeline import SKIPPED, Pipeline
from batpak.delivery.subscription import Live
from batpak.request import check_timeout

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")
StateT = TypeVar("StateT")


class Source:
    """What a subscription and those that its operators make share."""

    __slots__ = ("_filling", "hubs", "interests", "live")

    def __init__(self, live: Live, hubs: PerLoop[Hub], offload: Offload) -> None:
        """Deliver what *live* takes to the tasks of one of *hubs*."""
        self.live = live
        self.hubs = hubs
        self._filling = Filling(offload)
        self.interests = (*live.feed.interests, Interest(STOP, id(live)))

    def close(self) -> None:
        """End it, and wake who waits."""
        self.live.closed = True
        self.live.feed.store._announcer.tell(self.interests[-1])

    def is_current(self) -> bool:
        """Whether there is nothing to fill in; in this order, or a thread ends between that nobody waits for."""
        return self.live.is_current() and not self._filling.is_busy

    async def fill(self) -> None:
        """Fill in the next block, if there is one."""
        await self._filling.do(self.live.fill, hot=self.live.feed.is_hot(BLOCK))


class AsyncSubscription(AsyncIterator[T_co], Generic[T_co]):
    """Events of a region that are appended from now on; `Subscription`, on an event loop.

    What is new is looked at on the event loop itself, in memory; what lies further back, by a thread. A cancelled
    iteration can go on: no item is lost by it. ``async with`` or `close` ends it, from any task.
    """

    def __init__(self, source: Source, pipeline: Pipeline | None = None) -> None:
        """Deliver what comes out of *source* and *pipeline*; made by `AsyncStore.subscribe`."""
        self._source = source
        self._pipeline = pipeline or Pipeline()

    # Operators ---------------------------------------------------------------------------------------------------

    def filter(self, keep: Callable[[T_co], object]) -> AsyncSubscription[T_co]:
        """Deliver only what *keep* says yes to; several filters must all say yes."""
        return AsyncSubscription(self._source, self._pipeline.filter(keep))

    def map(self, change: Callable[[T_co], U | None]) -> AsyncSubscription[U]:
        """Deliver what *change* returns in the place of each item; where it returns None, nothing."""
        return AsyncSubscription(self._source, self._pipeline.map(change))

    def take(self, count: int) -> AsyncSubscription[T_co]:
        """Deliver *count* items, then end at once."""
        return AsyncSubscription(self._source, self._pipeline.take(count))

    def scan(self, state: StateT, fold: Callable[[StateT, T_co], StateT | None]) -> AsyncSubscription[StateT]:
        """Deliver each state that *fold* makes of the last one and an item; where it returns None, none is made."""
        return AsyncSubscription(self._source, self._pipeline.scan(state, fold))

    # Taking ------------------------------------------------------------------------------------------------------

    async def poll(self) -> T_co | None:
        """Return the next item if there is one by now; None says nothing about later."""
        found = () if self._ended else await self._look()
        return self._item(found)

    async def pull(self, timeout_seconds: float | None = None) -> T_co | None:
        """Return the next item, or None when *timeout_seconds* have passed, or this has ended; no timeout: wait."""
        check_timeout(timeout_seconds)
        found = () if self._ended else await self._look()
        if not found and not self._ended:
            source = self._source
            found = await source.hubs.get().wait_until(source.interests, self._look, timeout_seconds)
        return self._item(found)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        while not self._ended:
            item = await self.pull()
            if item is not None:
                return item
        raise StopAsyncIteration

    async def close(self) -> None:
        """End it: a task that waits for it goes on with the end. Idempotent."""
        self._source.close()

    async def aclose(self) -> None:
        """End it: the same as `close`, under the name that `contextlib.aclosing` calls."""
        self._source.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._source.close()

    @property
    def _ended(self) -> bool:
        return self._source.live.closed or self._pipeline.ended

    async def _look(self) -> tuple[object, ...]:
        """Return what is there as a tuple of one; nothing where there is nothing yet."""
        live = self._source.live
        while not self._ended:
            if not live.ready and not self._source.is_current():
                await self._source.fill()
            if not live.ready:
                return ()
            item = live.take(self._pipeline)
            if item is not SKIPPED:
                return (item,)
        return (SKIPPED,)

    def _item(self, found: tuple[object, ...]) -> T_co | None:
        """Return what a look has found."""
        return None if not found or found[0] is SKIPPED else cast("T_co", found[0])
