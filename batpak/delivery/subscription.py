"""Live events of a region, from now on, to whoever is fast enough."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar, cast

from batpak.actors.announcer import ThreadListener, wait_until
from batpak.delivery.feed import BLOCK, NEWS
from batpak.delivery.pipeline import SKIPPED, Pipeline
from batpak.errors import InvalidRequestError, SubscriptionOverflowError
from batpak.request import check_count, check_timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from batpak.delivery.feed import Feed
    from batpak.event import Notification

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")
StateT = TypeVar("StateT")

DEFAULT_CAPACITY: Final = 8192
MAX_CAPACITY: Final = 1_048_576
"""What waits for a subscriber costs nothing; but one that is a million events behind is not live."""


class Live:
    """What waits for one subscriber: it takes it in order, until more than *capacity* events wait."""

    __slots__ = ("_capacity", "_rest", "closed", "feed", "ready")

    def __init__(self, feed: Feed, capacity: int) -> None:
        """Take from *feed*, where at most *capacity* events may wait."""
        if not 1 <= check_count("capacity", capacity) <= MAX_CAPACITY:
            raise InvalidRequestError(f"capacity: found {capacity}, expected 1 to {MAX_CAPACITY} events")
        self.feed = feed
        self._capacity = capacity
        self.ready: deque[Notification] = deque()
        self._rest: int | None = None
        self.closed = False

    def fill(self) -> None:
        """Take the next block, if there is none left.

        Too slow, it gets what it had room for, then `SubscriptionOverflowError`.
        """
        if self.ready:
            return
        if self._rest is None and (news := self.feed.news(min(NEWS, self._capacity))) is not None:
            self.ready.extend(news)
            return
        if self._rest == 0:
            raise SubscriptionOverflowError(self._capacity)
        if self._rest is None and self.feed.exceeds(self._capacity):
            self._rest = self._capacity
        if self._rest is None:
            self.ready.extend(self.feed.notifications(BLOCK))
        else:
            last = self.feed.notifications(min(BLOCK, self._rest))
            self._rest = max(0, self._rest - len(last))
            self.ready.extend(last)

    def is_current(self) -> bool:
        """Whether nothing has become visible since the last block was taken."""
        return self._rest is None and self.feed.is_current()

    def take(self, pipeline: Pipeline) -> object:
        """Return the next item that *pipeline* makes of what has been filled in; `SKIPPED` where there is none."""
        while self.ready and not pipeline.ended:
            item = pipeline.push(self.ready.popleft())
            if item is not SKIPPED:
                return item
        return SKIPPED


class Subscription(Generic[T_co]):
    """Events of a region that are appended from now on, as `Notification`, or as what the operators make of it.

    Iterating waits for more. Whoever is so slow that more events wait than the capacity gets those, then a
    `SubscriptionOverflowError`; no append ever waits for a subscriber, and what waits takes no memory. A store that
    is closed ends it with `StoreClosedError`. One consumer: an operator returns a subscription in the place of the one
    that it was called on. Nothing has to be closed; `close`, or ``with``, ends it, from any thread.
    """

    def __init__(self, live: Live, pipeline: Pipeline | None = None) -> None:
        """Deliver what comes out of *live* and *pipeline*; made by `Store.subscribe`."""
        self._live = live
        self._pipeline = pipeline or Pipeline()
        self._listener = ThreadListener()

    # Operators ---------------------------------------------------------------------------------------------------

    def filter(self, keep: Callable[[T_co], object]) -> Subscription[T_co]:
        """Deliver only what *keep* says yes to; several filters must all say yes."""
        return Subscription(self._live, self._pipeline.filter(keep))

    def map(self, change: Callable[[T_co], U | None]) -> Subscription[U]:
        """Deliver what *change* returns in the place of each item; where it returns None, nothing."""
        return Subscription(self._live, self._pipeline.map(change))

    def take(self, count: int) -> Subscription[T_co]:
        """Deliver *count* items, then end at once."""
        return Subscription(self._live, self._pipeline.take(count))

    def scan(self, state: StateT, fold: Callable[[StateT, T_co], StateT | None]) -> Subscription[StateT]:
        """Deliver each state that *fold* makes of the last one and an item; where it returns None, none is made."""
        return Subscription(self._live, self._pipeline.scan(state, fold))

    # Taking ------------------------------------------------------------------------------------------------------

    def poll(self) -> T_co | None:
        """Return the next item if there is one by now; None says nothing about later."""
        if self._ended:
            return None
        item = self._next_nowait()
        return None if item is SKIPPED else cast("T_co", item)

    def pull(self, timeout_seconds: float | None = None) -> T_co | None:
        """Return the next item, or None when *timeout_seconds* have passed, or this has ended; no timeout: wait."""
        check_timeout(timeout_seconds)
        if self._ended:
            return None
        item = self._next_nowait()
        if item is SKIPPED and not self._ended:
            feed = self._live.feed
            store = feed.store
            found = wait_until(
                store._announcer, feed.interests, self._look, timeout_seconds, store._clock, listener=self._listener
            )
            item = found[0] if found else SKIPPED
        return None if item is SKIPPED else cast("T_co", item)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T_co:
        while not self._ended:
            item = self.pull()
            if item is not None:
                return item
        raise StopIteration

    def close(self) -> None:
        """End it: whoever waits in another thread goes on with the end. Idempotent."""
        self._live.closed = True
        self._listener.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _ended(self) -> bool:
        return self._live.closed or self._pipeline.ended

    def _look(self) -> tuple[object, ...]:
        """Return what is there as a tuple of one; nothing where there is nothing yet."""
        item = SKIPPED if self._ended else self._next_nowait()
        return (item,) if item is not SKIPPED or self._ended else ()

    def _next_nowait(self) -> object:
        """Return the next item that comes out of the operators by now."""
        while not self._pipeline.ended:
            if not self._live.ready and not self._live.is_current():
                self._live.fill()
            if not self._live.ready:
                break
            item = self._live.take(self._pipeline)
            if item is not SKIPPED:
                return item
        return SKIPPED
