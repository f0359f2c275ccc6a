"""Bounds that suspend the coroutine: so many places or threads, handed on in the order of those who wait."""

from __future__ import annotations

from collections import deque
from typing import Self

from anyio import CapacityLimiter, Event, move_on_after


class _Waiter:
    """Somebody who waits for a place; *granted* once it is theirs."""

    __slots__ = ("event", "granted")

    def __init__(self) -> None:
        self.event = Event()
        self.granted = False


class Places:
    """*count* places, taken and given back by the tasks of one event loop."""

    __slots__ = ("_free", "_waiting")

    def __init__(self, count: int) -> None:
        """Begin with all places free."""
        self._free = count
        self._waiting: deque[_Waiter] = deque()

    def take_nowait(self) -> bool:
        """Take a place if there is one; a place that somebody waits for is never free."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    async def take(self, max_wait_seconds: float | None = None) -> bool:
        """Wait for a place, at most *max_wait_seconds*; whether it was taken. Cancelled, it takes none."""
        if self.take_nowait():
            return True
        waiter = _Waiter()
        self._waiting.append(waiter)
        try:
            with move_on_after(max_wait_seconds):
                await waiter.event.wait()
        except BaseException:
            if waiter.granted:
                self.give(1)
            raise
        finally:
            if not waiter.granted:
                self._waiting.remove(waiter)
        return waiter.granted

    def give(self, count: int = 1) -> None:
        """Give back *count* places, to those first who have waited longest."""
        self._free += count
        while self._free > 0 and self._waiting:
            waiter = self._waiting.popleft()
            self._free -= 1
            waiter.granted = True
            waiter.event.set()


class Tokens(CapacityLimiter):
    """As many threads as `anyio.to_thread.run_sync` may use at a time for whoever gives it this limiter.

    anyio's own limiter lets other tasks run even where there is a token, which takes a fifth of a way to a thread and
    back; `run_sync` has done so just before.
    """

    __slots__ = ("_places",)

    def __new__(cls, count: int) -> Self:
        """Make one of this kind; anyio's own makes one of the event loop's kind."""
        del count
        return object.__new__(cls)

    def __init__(self, count: int) -> None:
        """Begin with *count* tokens."""
        self._places = Places(count)

    async def __aenter__(self) -> None:
        if not self._places.take_nowait():
            await self._places.take()

    async def __aexit__(self, *_: object) -> None:
        self._places.give()

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Take a token; this is what trio calls."""
        del borrower
        await self.__aenter__()

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give a token back; this is what trio calls."""
        del borrower
        self._places.give()
