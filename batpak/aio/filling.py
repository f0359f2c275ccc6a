"""What a consumer on an event loop does with its block: at once where nothing is waited for, else by a thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from threading import Lock
from typing import TypeAlias

from batpak.aio.errand import finish
from batpak.aio.loops import Post

Act: TypeAlias = Callable[[], object]
Offload: TypeAlias = Callable[[Callable[[], None]], Awaitable[None]]


class Filling:
    """Has one thing at a time done to a block, by the event loop or by a thread.

    A thread goes on for a task that was cancelled. So what fills in does nothing where there is something left: the
    block that was read for nobody is there when it is asked for again.
    """

    __slots__ = ("_lock", "_offload")

    def __init__(self, offload: Offload) -> None:
        """Have a thread do things by *offload*."""
        self._offload = offload
        self._lock = Lock()

    @property
    def is_busy(self) -> bool:
        """Whether a thread is at work, perhaps for a task that was cancelled."""
        return self._lock.locked()

    async def do(self, act: Act, *, hot: bool) -> None:
        """Do *act*: here and now where it is *hot*, which waits for no disk and no other thread; else by a thread.

        Cancelling ends the waiting; a thread that has begun goes on.
        """
        if not (hot and self._do_now(act)):
            await self._offload(partial(self._do_in_turn, act))

    async def do_at_last(self, act: Act, post: Post) -> None:
        """Do *act*, which waits for nothing, after what threads are doing, whatever cancels meanwhile."""
        if not self._do_now(act):
            await finish(partial(self._do_in_turn, act), post)

    def _do_now(self, act: Act) -> bool:
        """Do *act* on the event loop; False where a thread is at work."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            act()
        finally:
            self._lock.release()
        return True

    def _do_in_turn(self, act: Act) -> None:
        """Do *act* in a thread, after the others."""
        with self._lock:
            act()
