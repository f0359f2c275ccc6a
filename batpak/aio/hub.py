"""The tasks of one event loop that wait for a store: told together, by one wake-up of the loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from math import inf
from typing import TypeVar

from anyio import Event, current_time, move_on_after

from batpak.actors.announcer import Announcer, Interest
from batpak.aio.loops import Post

T = TypeVar("T")


class Hub:
    """Listens for one event loop; each task that waits stands under what it waits for."""

    __slots__ = ("__weakref__", "_announcer", "_waiting", "post")

    def __init__(self, announcer: Announcer, post: Post) -> None:
        """Wait for what *announcer* tells; *post* reaches the event loop."""
        self._announcer = announcer
        self.post = post
        self._waiting: dict[Interest, dict[Event, None]] = {}

    def tell(self, interests: Sequence[Interest]) -> None:
        """Wake the tasks that wait for one of *interests*; called from any thread."""
        self.post(partial(self._wake, tuple(interests)))

    async def wait_until(
        self,
        interests: Sequence[Interest],
        look: Callable[[], Awaitable[T]],
        timeout_seconds: float | None,
        *,
        backstop_seconds: float | None = None,
    ) -> T:
        """Return what *look* gives, as soon as that is true, or when the time is up.

        Looks again when it is told that something has come, and with *backstop_seconds* as often untold.
        """
        deadline = inf if timeout_seconds is None else current_time() + timeout_seconds
        told = self._arm(interests)
        try:
            while not (found := await look()):
                left = deadline - current_time() if timeout_seconds is not None else inf
                left = left if backstop_seconds is None else min(left, backstop_seconds)
                if left <= 0:
                    break
                await _wait(told, left)
                if told.is_set():
                    if found := await look():  # before it is armed again: most often this is all
                        break
                    told = self._arm(interests, told)
        finally:
            self._disarm(interests, told)
        return found

    def _arm(self, interests: Sequence[Interest], before: Event | None = None) -> Event:
        """Return an event that is set by the next of each interest; the one *before* has been."""
        if before is not None:
            self._disarm(interests, before)
        told = Event()
        for interest in interests:
            self._waiting.setdefault(interest, {})[told] = None
        self._announcer.arm(interests, self)
        return told

    def _disarm(self, interests: Sequence[Interest], told: Event) -> None:
        """Forget *told*; where nobody is left who waits for something, the announcer forgets this loop."""
        for interest in interests:
            waiting = self._waiting.get(interest)
            if waiting is not None:
                waiting.pop(told, None)
                if not waiting:
                    del self._waiting[interest]
            if not waiting:  # where `_wake` took us out, for something older, the announcer still knows this loop
                self._announcer.disarm((interest,), self)

    def _wake(self, interests: Sequence[Interest]) -> None:
        """Set whoever waits for one of *interests*; on the event loop."""
        for interest in interests:
            for told in self._waiting.pop(interest, ()):
                told.set()


async def _wait(told: Event, seconds: float) -> None:
    """Wait for *told*, at most so long."""
    if seconds == inf:
        await told.wait()
    else:
        with move_on_after(seconds):
            await told.wait()
