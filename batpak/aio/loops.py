"""The one place where a thread's word enters an event loop, and where asyncio and trio are told apart."""

from __future__ import annotations

import asyncio
import os
from asyncio import _get_running_loop as _asyncio_loop
from asyncio import current_task
from collections.abc import Callable, Generator, Iterable
from functools import cache
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
    loop = _asyncio_loop()
    if loop is not None and current_task(loop) is not None:  # without a task, it may be the host of a trio: its guest
        return loop
    return _trio_loop()()


@cache
def _trio_loop() -> Callable[[], Loop]:
    """Return what gives trio's token."""
    from trio.lowlevel import current_trio_token  # noqa: PLC0415 - nobody needs it who runs asyncio

    return current_trio_token


def is_cancelled() -> bool:
    """Whether the calling task is being cancelled: on asyncio, what it awaited may have been, and not the task."""
    try:
        task = current_task()
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


class Signal(Protocol):
    """What one task waits for, once; an `asyncio.Future`, or on trio what does the same."""

    def done(self) -> bool:
        """Whether it has come, or nobody waits for it any more."""
        ...

    def set_result(self, result: None, /) -> None:
        """Let it come, unless it is done; on the event loop."""
        ...

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait for it."""
        ...


def signals_of(loop: Loop) -> Callable[[], Signal]:
    """Return what makes signals for the tasks of *loop*, and does not keep it alive."""
    if isinstance(loop, asyncio.AbstractEventLoop):
        return asyncio.Future
    from batpak.aio.on_trio import TrioSignal  # noqa: PLC0415 - nobody needs it who runs asyncio

    return TrioSignal


def signal_all(signals: Iterable[Signal]) -> None:
    """Let each of *signals* come that somebody still waits for."""
    for signal in signals:
        if not signal.done():
            signal.set_result(None)


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
