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

    __slots__ = ("__weakref__", "_announcer", "_post", "_waiting")

    def __init__(self, announcer: Announcer, post: Post) -> None:
        """Wait for what *announcer* tells; *post* reaches the event loop."""
        self._announcer = announcer
        self._post = post
        self._waiting: dict[Interest, dict[Event, None]] = {}

    def tell(self, interests: Sequence[Interest]) -> None:
        """Wake the tasks that wait for one of *interests*; called from any thread."""
        self._post(partial(self._wake, tuple(interests)))

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
        while True:
            told = Event()
            self._arm(interests, told)
            try:
                found = await look()
                left = deadline - current_time()
                if found or left <= 0:
                    return found
                left = left if backstop_seconds is None else min(left, backstop_seconds)
                with move_on_after(None if left == inf else left):
                    await told.wait()
            finally:
                self._disarm(interests, told)

    def _arm(self, interests: Sequence[Interest], told: Event) -> None:
        """Have *told* set by the next of each interest."""
        for interest in interests:
            self._waiting.setdefault(interest, {})[told] = None
        self._announcer.arm(interests, self)

    def _disarm(self, interests: Sequence[Interest], told: Event) -> None:
        """Forget *told*; where nobody is left who waits for something, the announcer forgets this loop."""
        for interest in interests:
            waiting = self._waiting.get(interest)
            if waiting is not None:
                waiting.pop(told, None)
                if not waiting:
                    del self._waiting[interest]
                    self._announcer.disarm((interest,), self)

    def _wake(self, interests: Sequence[Interest]) -> None:
        """Set whoever waits for one of *interests*; on the event loop."""
        for interest in interests:
            for told in self._waiting.pop(interest, ()):
                told.set()
