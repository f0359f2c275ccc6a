"""How a consumer on an event loop gets its next block: at once where nothing is waited for, else by a thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from threading import Lock
from typing import TypeAlias

Offload: TypeAlias = Callable[[Callable[[], None]], Awaitable[None]]


class Filling:
    """Has *fill* called by one thread at a time.

    *fill* does nothing where there is something left, so a block that was read for somebody who was cancelled is there
    when it is asked for again.
    """

    __slots__ = ("_fill", "_is_hot", "_lock", "_offload")

    def __init__(self, fill: Callable[[], object], is_hot: Callable[[], bool], offload: Offload) -> None:
        """Call *fill* where *is_hot* says that it waits for no disk and no other thread; else by *offload*."""
        self._fill = fill
        self._is_hot = is_hot
        self._offload = offload
        self._lock = Lock()

    async def fill(self) -> None:
        """Fill in the next block, if there is one."""
        if self._is_hot() and self._lock.acquire(blocking=False):
            try:
                self._fill()
            finally:
                self._lock.release()
        else:
            await self._offload(self._fill_locked)

    def _fill_locked(self) -> None:
        """Fill, in a thread; one at a time."""
        with self._lock:
            self._fill()
