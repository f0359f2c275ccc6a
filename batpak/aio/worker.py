"""`AsyncWorker`: a worker as a task, with handlers and reactors that may be ``async def``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from types import TracebackType
from typing import Self, TypeAlias, TypeVar, cast

from anyio import Event, create_task_group, get_cancelled_exc_class, move_on_after
from anyio.abc import TaskGroup

from batpak.actors.announcer import STOP, Announcer, Interest
from batpak.aio.errand import attend, finish
from batpak.aio.hub import Hub
from batpak.aio.loops import PerLoop, is_cancelled, post_to, running_loop
from batpak.delivery.course import Continue, Course, Handle, Pause, Pull, Pulled, Step, Verdict
from batpak.delivery.reactor import Reacting, Reactions, checked_verdict
from batpak.delivery.worker import Job, State
from batpak.event import StoredEvent
from batpak.request import check_timeout

T = TypeVar("T")

AsyncHandler: TypeAlias = Callable[[list[StoredEvent]], Awaitable[Verdict | None] | Verdict | None]
AsyncReactor: TypeAlias = Callable[[StoredEvent, Reactions], Awaitable[None] | None]
Handling: TypeAlias = Callable[[Sequence[StoredEvent]], Awaitable[Verdict]]


class AsyncWorker:
    """A task that hands events to a handler or a reactor, and remembers how far it came; `Worker`, on an event loop.

    ``async with`` runs it beside the block, in the caller's task; at the end of the block it stops it, waits for it and
    raises what ended it. ``task_group.start_soon(worker.run)`` runs it in the caller's task group, where an error
    cancels the others. Nothing happens before that. Cancelled, it ends at once; what it was handling is handled again.
    A handler that is no coroutine function runs in a thread, and is waited for even when cancelled.
    """

    def __init__(
        self, prepare: Callable[[], Job], name: str, course: Course, handle: Handling, hubs: PerLoop[Hub]
    ) -> None:
        """Do the job that *prepare*, in a thread, returns; made by `AsyncStore.cursor_worker` and `react_loop`."""
        self._prepare = prepare
        self._name = name
        self._course = course
        self._handle = handle
        self._hubs = hubs
        self._stop = Interest(STOP, id(self))
        self._announcer: Announcer | None = None
        self._job: Job | None = None
        self._state: State = "running"
        self._error: BaseException | None = None
        self._used = False
        self._ready = Event()
        self._done = Event()
        self._group: TaskGroup | None = None

    @property
    def name(self) -> str:
        """The name of its place, or what stands for one in the log."""
        return self._name

    @property
    def state(self) -> State:
        """Whether it runs (or will), has ended as it was asked to, or has failed."""
        return self._state

    def stop(self) -> None:
        """Ask it to end after what it is handling now. Idempotent; does not wait; from any thread."""
        self._course.stop()
        if self._announcer is not None:
            self._announcer.tell(self._stop)

    async def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait for its end, at most *timeout_seconds*; whether it has ended. Raises the error that ended it."""
        check_timeout(timeout_seconds)
        with move_on_after(timeout_seconds):
            await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._done.is_set()

    async def run(self) -> None:
        """Be the worker, until it is stopped; raises the error that ends it. Serves once."""
        self._use()
        await self._run()

    async def __aenter__(self) -> Self:
        self._use()
        self._group = group = create_task_group()
        await group.__aenter__()
        try:
            group.start_soon(self._run_kept)
            await self._ready.wait()
        except BaseException as error:
            await group.__aexit__(type(error), error, error.__traceback__)
            raise
        if self._job is None and self._error is not None:
            await group.__aexit__(None, None, None)
            raise self._error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._group is not None, "a block is entered before it is left"
        if error is None:
            self.stop()
        else:
            self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)
        if error is None and self._error is not None:
            raise self._error

    def __repr__(self) -> str:
        return f"<AsyncWorker {self._name!r} {self._state}>"

    def _use(self) -> None:
        """Refuse to serve twice."""
        if self._used:
            raise RuntimeError("found a worker that has been run, expected a new one")
        self._used = True

    # The task ----------------------------------------------------------------------------------------------------

    async def _run_kept(self) -> None:
        """Run; what ends it is kept for whoever joins."""
        with suppress(Exception):
            await self._run()

    async def _run(self) -> None:
        """Work, and keep what ends it."""
        try:
            await self._live()
        except BaseException as error:
            self._error = error if isinstance(error, Exception) else None
            self._state = "failed" if self._error is not None else "stopped"
            raise
        else:
            self._state = "stopped"
        finally:
            self._ready.set()
            self._done.set()

    async def _live(self) -> None:
        """Prepare, follow the course, let go."""
        error: BaseException | None = None
        post = post_to(running_loop())
        job = self._job = await finish(self._prepare, post, undo=lambda job: job.cursor.close())
        self._announcer = job.store._announcer
        try:
            job.begin()
            self._ready.set()
            await self._follow(job)
        except BaseException as raised:
            error = raised
            raise
        finally:
            await finish(partial(job.end, error), post)

    async def _follow(self, job: Job) -> None:
        """Do one step after the other."""
        course = self._course.run()
        result: object = None
        error: Exception | None = None
        while True:
            try:
                step = course.send(result) if error is None else course.throw(error)
            except StopIteration:
                return
            result = error = None
            try:
                result = await self._do(job, step)
            except Exception as raised:  # noqa: BLE001 - the course decides what it means
                error = raised

    async def _do(self, job: Job, step: Step) -> object:
        """Do *step*."""
        match step:
            case Pull():
                return await self._pull(job, step.limit)
            case Handle():
                return await self._handle(step.events)
            case Pause():
                await self._hubs.get().wait_until((self._stop,), self._look_for_stop, step.seconds)
            case _:
                await _in_thread(partial(job.do, step))
        return None

    async def _pull(self, job: Job, limit: int) -> Pulled:
        """Wait for events."""

        async def look() -> Pulled | None:
            if self._course.is_stopping():
                return Pulled()
            pulled = await _in_thread(partial(job.pull_nowait, limit))
            return pulled if pulled.events or pulled.retries else None

        return await self._hubs.get().wait_until((*job.interests, self._stop), look, None) or Pulled()

    async def _look_for_stop(self) -> bool:
        return self._course.is_stopping()


def handling(handler: AsyncHandler) -> Handling:
    """Return what hands a batch to *handler*."""

    async def handle(events: Sequence[StoredEvent]) -> Verdict:
        return checked_verdict(await _call(handler, list(events)))

    return handle


def reacting(around: Reacting, reactor: AsyncReactor) -> Handling:
    """Return what hands one event to *reactor* and writes what it answers."""

    async def handle(events: Sequence[StoredEvent]) -> Verdict:
        (event,) = events
        reactions = await _in_thread(partial(around.begin, event))
        if reactions is not None:
            try:
                await _call(reactor, event, reactions)
            except Exception as error:
                raise around.failed(event, error) from error
            await _in_thread(partial(around.finish, event, reactions))
        return Continue

    return handle


async def _call(function: Callable[..., object], *arguments: object) -> object:
    """Call *function*: a coroutine function here, any other one in a thread."""
    if iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004 - an object may be called by a coroutine
        return await _awaited(cast("Awaitable[object]", function(*arguments)))
    result = await _in_thread(partial(function, *arguments))
    return await _awaited(result) if isawaitable(result) else result


async def _awaited(answer: Awaitable[object]) -> object:
    """Return *answer*; that something which it awaits was cancelled is an error, and no reason to end in silence."""
    try:
        return await answer
    except get_cancelled_exc_class() as error:
        if is_cancelled():
            raise
        raise RuntimeError("found something cancelled that the handler awaits, expected its answer") from error


async def _in_thread(act: Callable[[], T]) -> T:
    """Have a thread do *act*, and wait for its end even when cancelled."""
    return await attend(act, post_to(running_loop()))
