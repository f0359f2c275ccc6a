"""The one place where a thread's word enters an event loop, and where asyncio and trio are told apart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, Protocol, TypeAlias, TypeVar
from weakref import WeakKeyDictionary, WeakSet, ref

T = TypeVar("T")

Callback: TypeAlias = Callable[[], object]
Post: TypeAlias = Callable[[Callback], None]
"""Has a callback run by an event loop; callable from any thread, and never waits."""


class _TrioToken(Protocol):
    def run_sync_soon(self, sync_fn: Callback, /) -> None: ...


Loop: TypeAlias = asyncio.AbstractEventLoop | _TrioToken
"""What stands for an event loop: asyncio's own object, or trio's token."""


def running_loop() -> Loop:
    """Return the event loop that runs the calling task; `RuntimeError` where there is none."""
    try:
        if asyncio.current_task() is not None:  # without a task, asyncio may be the host of a trio that is its guest
            return asyncio.get_running_loop()
    except RuntimeError:
        pass
    import trio  # noqa: PLC0415 - nobody needs it who runs asyncio

    return trio.lowlevel.current_trio_token()


def is_cancelled() -> bool:
    """Whether the calling task is being cancelled: on asyncio, what it awaited may have been, and not the task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # trio, where nobody is told of a cancellation but those who are cancelled
        return True
    return task is None or task.cancelling() > 0


def post_to(loop: Loop) -> Post:
    """Return what posts to *loop*; a callback for a loop that has ended is dropped: nobody waits there any more.

    It does not keep the loop alive. Callbacks run in the order in which they were posted and must not raise.
    """
    known = ref(loop)

    def post(callback: Callback) -> None:
        living = known()
        try:
            if isinstance(living, asyncio.AbstractEventLoop):
                living.call_soon_threadsafe(callback)
            elif living is not None:
                living.run_sync_soon(callback)
        except RuntimeError:
            pass

    return post


_ALL: WeakSet[PerLoop[Any]] = WeakSet()


def _begin_in_a_child() -> None:
    for each in list(_ALL):
        each.begin()


os.register_at_fork(after_in_child=_begin_in_a_child)


class PerLoop(Generic[T]):
    """One value for each event loop, made where it is first asked for, and gone with its loop."""

    __slots__ = ("__weakref__", "_guard", "_last", "_make", "_values")

    def __init__(self, make: Callable[[Post], T]) -> None:
        """Make values by *make*, which is given what posts to the loop."""
        self._make = make
        self.begin()
        _ALL.add(self)

    def begin(self) -> None:
        """Have no values; in a forked child too, where a thread that is not there may hold the lock of the parent's."""
        self._guard = Lock()
        self._values: WeakKeyDictionary[Loop, T] = WeakKeyDictionary()
        self._last: tuple[Loop, T] | None = None

    def get(self) -> T:
        """Return the running event loop's value."""
        loop = running_loop()
        last = self._last
        if last is not None and last[0] is loop:
            return last[1]
        with self._guard:
            value = self._values.get(loop)
            if value is None:
                value = self._values[loop] = self._make(post_to(loop))
            self._last = (loop, value)
        return value
