"""A worker on a thread of its own, and the parts of a worker that a thread and an event loop share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from threading import Lock, Thread, current_thread
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, TypeVar

from batpak.actors.announcer import BACKSTOP_SECONDS, ThreadListener, wait_until
from batpak.delivery.course import (
    Commit,
    Continue,
    Course,
    Handle,
    Park,
    Pause,
    Pull,
    Pulled,
    Restart,
    Settle,
    Step,
    Verdict,
)
from batpak.delivery.reactor import checked_verdict, name_of
from batpak.errors import ForkedStoreError, StoreClosedError
from batpak.log import ERROR, INFO, WARNING
from batpak.request import check_timeout

if TYPE_CHECKING:
    from batpak.actors.announcer import Interest
    from batpak.delivering import Delivering
    from batpak.delivery.cursor import Cursor
    from batpak.delivery.parking import Parking
    from batpak.delivery.reactor import Reacting, Reactions
    from batpak.event import StoredEvent

T = TypeVar("T")
Reactor: TypeAlias = "Callable[[StoredEvent, Reactions], None]"
State: TypeAlias = Literal["running", "stopped", "failed"]


class Job:
    """What a worker works on: a cursor, what was parked, and the log; everything but waiting and handling."""

    def __init__(self, store: Delivering, label: str, cursor: Cursor, course: Course, parking: Parking | None) -> None:
        """Follow *course* along *cursor*; *label* names the worker in the log."""
        self.label = label
        self.cursor = cursor
        self.course = course
        self.store = store
        self._log = store._log
        self._parking = parking
        self.interests: Sequence[Interest] = cursor._feed.interests
        if parking is not None:
            self.interests = (*self.interests, parking.interest)

    def pull_nowait(self, limit: int) -> Pulled:
        """Return what there is to handle by now."""
        retries = self._parking.wanted() if self._parking is not None else ()
        return Pulled(self.cursor.poll_batch(limit), retries)

    def do(self, step: Commit | Park | Settle | Restart) -> None:
        """Do a step in which nobody else's code runs."""
        match step:
            case Commit():
                self.cursor._commit_at(step.event)
            case Park():
                assert self._parking is not None, "parking needs a name"
                self._parking.park(step.event, step.error, step.attempts)
                self._log.emit(
                    WARNING,
                    "worker.parked",
                    name=self.label,
                    event_id=str(step.event.event_id),
                    error=name_of(step.error),
                    attempts=step.attempts,
                )
            case Settle():
                assert self._parking is not None, "parking needs a name"
                self._parking.settle(step.event)
            case Restart():
                self.cursor.rollback()
                if self._parking is not None:
                    self._parking.look_again()
                error, restarts = name_of(step.error), self.course.restarts
                self._log.emit(WARNING, "worker.restarted", name=self.label, error=error, restarts=restarts)

    def begin(self) -> None:
        """Say that the worker begins."""
        self._log.emit(INFO, "worker.started", name=self.label)

    def end(self, error: BaseException | None) -> None:
        """Let go of the place, and say how it ended."""
        self.cursor.close()
        if isinstance(error, StoreClosedError) or not isinstance(error, Exception):  # closed, stopped or cancelled
            self._log.emit(INFO, "worker.stopped", name=self.label)
        else:
            self._log.emit(ERROR, "worker.failed", name=self.label, error=name_of(error))


class Worker:
    """A thread that hands events to a handler or a reactor, and remembers how far it came.

    `stop` asks it to end after what it is handling; `join` waits for that and raises what ended it; ``with`` does both
    at the end of the block. Both may be called from any thread, `stop` from a signal handler too. It is a daemon: it
    does not keep a program alive. A store that is closed ends it with `StoreClosedError`; what it was handling is
    handled again after the next open.
    """

    def __init__(self, job: Job, handle: Callable[[Sequence[StoredEvent]], Verdict]) -> None:
        """Do *job* and hand events to *handle*; made by `Store.cursor_worker` and `Store.react_loop`."""
        self._job = job
        self._handle = handle
        self._listener = ThreadListener()
        self._error: BaseException | None = None
        self._ended = Lock()
        self._ended.acquire()
        self._done = False
        self._thread = Thread(target=self._run, name=f"batpak-worker-{job.label}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The name of its place, or what stands for one in the log."""
        return self._job.label

    @property
    def state(self) -> State:
        """Whether it runs, has ended as it was asked to, or has failed."""
        if not self._done:
            return "running"
        return "failed" if self._error is not None else "stopped"

    def stop(self) -> None:
        """Ask it to end after what it is handling now. Idempotent; does not wait."""
        self._job.course.stop()
        self._listener.tell()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Wait for its end, at most *timeout_seconds*; whether it has ended. Raises the error that ended it."""
        check_timeout(timeout_seconds)
        left = inf if timeout_seconds is None else timeout_seconds
        while not self._done and left > 0 and current_thread() is not self._thread:
            if not self._thread.is_alive() and not self._done:  # threads are not copied into a forked child
                raise ForkedStoreError
            # In steps: a signal that comes just before a wait is heard when that wait ends, and not before.
            seconds = min(left, BACKSTOP_SECONDS)
            left -= seconds
            if self._ended.acquire(timeout=seconds):
                self._ended.release()
        if self._done and self._error is not None:
            raise self._error
        return self._done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.join()

    def __repr__(self) -> str:
        return f"<Worker {self.name!r} {self.state}>"

    # The thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Follow the course to its end."""
        error: BaseException | None = None
        try:
            self._job.begin()
            self._follow()
        except BaseException as raised:  # noqa: BLE001 - raised again where somebody joins
            error = raised
        self._error = error
        try:
            self._job.end(error)
        finally:
            self._done = True
            self._ended.release()

    def _follow(self) -> None:
        """Do one step after the other."""
        course = self._job.course.run()
        result: object = None
        error: Exception | None = None
        while True:
            try:
                step = course.send(result) if error is None else course.throw(error)
            except StopIteration:
                return
            result = error = None
            try:
                result = self._do(step)
            except Exception as raised:  # noqa: BLE001 - the course decides what it means
                error = raised

    def _do(self, step: Step) -> object:
        """Do *step*."""
        match step:
            case Pull():
                return self._pull(step.limit)
            case Handle():
                return self._handle(step.events)
            case Pause():
                return self._wait(self._job.course.is_stopping, (), step.seconds)
            case _:
                self._job.do(step)
                return None

    def _pull(self, limit: int) -> Pulled:
        """Wait for events."""

        def look() -> Pulled | None:
            if self._job.course.is_stopping():
                return Pulled()
            pulled = self._job.pull_nowait(limit)
            return pulled if pulled.events or pulled.retries else None

        return look() or self._wait(look, self._job.interests, None) or Pulled()

    def _wait(self, look: Callable[[], T], interests: Sequence[Interest], seconds: float | None) -> T:
        """Wait until *look* finds something."""
        store = self._job.store
        return wait_until(store._announcer, interests, look, seconds, store._clock, listener=self._listener)


def handling(handler: Callable[[list[StoredEvent]], Verdict | None]) -> Callable[[Sequence[StoredEvent]], Verdict]:
    """Return what hands a batch to *handler*."""
    return lambda events: checked_verdict(handler(list(events)))


def reacting(around: Reacting, reactor: Reactor) -> Callable[[Sequence[StoredEvent]], Verdict]:
    """Return what hands one event to *reactor* and writes what it answers."""

    def handle(events: Sequence[StoredEvent]) -> Verdict:
        (event,) = events
        reactions = around.begin(event)
        if reactions is not None:
            try:
                reactor(event, reactions)
            except Exception as error:
                raise around.failed(event, error) from error
            around.finish(event, reactions)
        return Continue

    return handle
