"""What a coroutine has a thread do: at most once, and with a known end even when nobody waits for it any more.

A thread cannot be stopped. So a coroutine that is cancelled takes its errand back if no thread has begun it, and else
leaves it behind; the thread then posts the end to the event loop, where what the errand held is given free. No thread
ever waits for an event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from threading import Lock
from typing import Generic, TypeVar, cast

from anyio import CancelScope, CapacityLimiter, Event, get_cancelled_exc_class, to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from batpak.aio.loops import Callback, Post
from batpak.aio.places import Places, Tokens
from batpak.errors import ActorFailedError

T = TypeVar("T")


class Errand(Generic[T]):
    """Something that one thread does at most once."""

    __slots__ = ("_act", "_error", "_guard", "_on_end", "_post", "_value", "ended", "started")

    def __init__(self, act: Callable[[], T], post: Post) -> None:
        """Do *act*; *post* reaches the event loop whose errand it is."""
        self._act = act
        self._post = post
        self._guard = Lock()
        self._on_end: Callback | None = None
        self._value: T | None = None
        self._error: BaseException | None = None
        self.started = False
        self.ended = False

    def run(self) -> None:
        """Do it, in a thread, unless it has been begun or withdrawn."""
        with self._guard:
            if self.started:
                return
            self.started = True
        try:
            self._value = self._act()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._error = error
        with self._guard:
            self.ended = True
            on_end = self._on_end
        if on_end is not None:
            self._post(on_end)

    def withdraw(self) -> bool:
        """Take it back; False if a thread has begun it."""
        with self._guard:
            if self.started:
                return False
            self.started = self.ended = True
            return True

    def leave(self, on_end: Callback) -> bool:
        """Have *on_end* run by the event loop at the end; False, and it will not be, if that is past already."""
        with self._guard:
            if self.ended:
                return False
            self._on_end = on_end
            return True

    def result(self) -> T:
        """Return what came out, or raise it; once, after the end."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return cast("T", self._value)
        finally:
            del error  # it holds this frame


class Threads:
    """The threads that read for one facade on one event loop."""

    __slots__ = ("_limiter", "_places", "post")

    def __init__(self, count: int, post: Post) -> None:
        """Use at most *count* threads at a time, those included that a cancelled coroutine left behind."""
        self._limiter = Tokens(count)
        self._places = Places(count)
        self.post = post

    async def run(self, act: Callable[[], T]) -> T:
        """Have a thread do *act*; cancelled, the waiting ends at once, and nobody sees what comes out."""
        places = self._places
        if not places.take_nowait():
            await places.take()
        errand = Errand(act, self.post)
        try:
            await to_thread.run_sync(errand.run, abandon_on_cancel=True, limiter=self._limiter)
        except BaseException as error:
            if errand.withdraw() or not errand.leave(places.give):
                places.give()
            if isinstance(error, Exception):
                raise no_thread(error) from error
            raise
        places.give()
        return errand.result()


async def insist(wait: Callable[[], Awaitable[object]]) -> BaseException | None:
    """Await *wait* until it returns, begun again each time it is cancelled; the cancellation, to be raised later."""
    cancelled = None
    with CancelScope(shield=True):
        waiting = True
        while waiting:
            try:
                await wait()
                waiting = False
            except get_cancelled_exc_class() as error:  # asyncio's own, which no scope shields from
                cancelled = error
    return cancelled


async def finish(act: Callable[[], T], post: Post, *, undo: Callable[[T], object] | None = None) -> T:
    """Have a thread do *act* and wait for its end, whatever cancels; a cancellation is raised after it.

    Where that happens, *undo* is done first, with what *act* has returned.
    """
    errand = Errand(act, post)
    cancelled = await insist(partial(_carry_out, errand))
    value = errand.result()
    if cancelled is None:
        return value
    if undo is not None:
        await finish(partial(undo, value), post)
    raise cancelled


async def attend(act: Callable[[], T], post: Post) -> T:
    """Have a thread do *act*, unless this is cancelled by now, and wait for its end as `finish` does.

    A cancellation is raised in the place of what *act* raises: somebody who handles errors is meant to end.
    """
    await checkpoint_if_cancelled()
    errand = Errand(act, post)
    cancelled = await insist(partial(_carry_out, errand))
    if cancelled is not None:
        raise cancelled
    return errand.result()


async def _carry_out(errand: Errand[T]) -> None:
    """Wait for the end of *errand*, which a thread may have begun already."""
    while not errand.ended:
        if not errand.started:
            try:
                await to_thread.run_sync(errand.run, limiter=CapacityLimiter(1))
            except Exception as error:
                raise no_thread(error) from error
        else:
            ended = Event()
            if errand.leave(ended.set):
                await ended.wait()


def no_thread(error: Exception) -> ActorFailedError:
    """Return the refusal of what was not begun, because *error* came in the place of a thread."""
    failed = ActorFailedError("worker thread", "it could not be started")
    failed.__cause__ = error
    return failed
