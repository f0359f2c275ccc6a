"""What a worker does, step by step, decided here and done elsewhere: by a thread, or by a task of an event loop.

`Course.run` is a generator. It yields a step, is sent the step's result or thrown its error, and ends when the worker
does. Nothing in here waits, reads a store or calls a handler; so threads and event loops share every decision: what is
handled again, what is committed, what an error means.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from batpak.config import MAX_WAIT_SECONDS, RestartPolicy
from batpak.errors import InvalidConfigError, StoreClosedError, WriterFailedError

if TYPE_CHECKING:
    from batpak.clock import Clock
    from batpak.event import StoredEvent


class Verdict(Enum):
    """What a handler says of the batch that it was given; a handler that returns None says `Continue`."""

    CONTINUE = "continue"
    STOP = "stop"
    STOP_AND_ROLLBACK = "stop and rollback"


Continue: Final = Verdict.CONTINUE
"""The batch is handled: commit it and go on."""
Stop: Final = Verdict.STOP
"""The batch is handled: commit it and end."""
StopAndRollback: Final = Verdict.STOP_AND_ROLLBACK
"""The batch is not handled: end without committing it."""

Handler: TypeAlias = "Callable[[list[StoredEvent]], Verdict | None]"

MAX_ATTEMPTS: Final = 1000


@dataclass(frozen=True, slots=True)
class OnError:
    """What happens to what a handler or a reactor fails at.

    * ``OnError.stop``: the error counts against the restart policy; past that the worker ends with it.
    * ``OnError.retry(attempts, wait_seconds)``: handled again, up to so many attempts in all; then *then*.
    * ``OnError.park``: the event is set aside as an event of its own, and the worker goes on. Needs a name. What failed
      as a batch is handled again event by event, so that only those that fail are parked.

    Raises `InvalidConfigError` for numbers out of their limits.
    """

    attempts: int = 1
    wait_seconds: float = 0.0
    parks: bool = False

    stop: ClassVar[OnError]
    park: ClassVar[OnError]

    def __post_init__(self) -> None:
        """Refuse numbers out of their limits."""
        if type(self.attempts) is not int or not 1 <= self.attempts <= MAX_ATTEMPTS:
            raise InvalidConfigError("attempts", repr(self.attempts), f"an int from 1 to {MAX_ATTEMPTS}")
        seconds = self.wait_seconds
        if type(seconds) not in (int, float) or not 0 <= seconds <= MAX_WAIT_SECONDS:
            raise InvalidConfigError("wait_seconds", repr(seconds), f"a number from 0 to {MAX_WAIT_SECONDS:g}")

    @classmethod
    def retry(cls, attempts: int, wait_seconds: float, *, then: OnError | None = None) -> OnError:
        """Handle again, up to *attempts* times in all with *wait_seconds* between; then stop, or do as *then* says."""
        return cls(attempts, wait_seconds, parks=then is not None and then.parks)


OnError.stop = OnError()
OnError.park = OnError(parks=True)


# Steps ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pull:
    """Wait for events, at most *limit*; the result is a `Pulled`, an empty one when the worker is to stop."""

    limit: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """Events to be handled: new ones in order, and parked ones of which somebody wants another attempt."""

    events: Sequence[StoredEvent] = ()
    retries: Sequence[StoredEvent] = ()


@dataclass(frozen=True, slots=True)
class Handle:
    """Hand *events* over to the handler; the result is its verdict."""

    events: Sequence[StoredEvent]


@dataclass(frozen=True, slots=True)
class Commit:
    """Remember that everything up to *event* is handled."""

    event: StoredEvent


@dataclass(frozen=True, slots=True)
class Park:
    """Set *event* aside after so many *attempts*, of which the last failed with *error*."""

    event: StoredEvent
    error: Exception
    attempts: int


@dataclass(frozen=True, slots=True)
class Settle:
    """A parked *event* has been handled after all."""

    event: StoredEvent


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many *seconds*, or until the worker is to stop."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Restart:
    """Go back to what was committed last, because of *error*."""

    error: Exception


Step: TypeAlias = Pull | Handle | Commit | Park | Settle | Pause | Restart

_FINAL: Final = (StoreClosedError, WriterFailedError)
"""What no handler is to blame for and no second attempt helps against."""


class Course:
    """The course of one worker, until it is asked to `stop`."""

    def __init__(
        self, *, batch_size: int, singly: bool, on_error: OnError, restart: RestartPolicy, clock: Clock
    ) -> None:
        """Pull *batch_size* events at a time and hand them over together, or *singly*."""
        self._stopping = False
        self.restarts = 0
        self._batch_size = batch_size
        self._singly = singly
        self._on_error = on_error
        self._restart = restart
        self._clock = clock
        self._failures: list[float] = []

    @property
    def parks(self) -> bool:
        """Whether what fails is set aside."""
        return self._on_error.parks

    def stop(self) -> None:
        """Have it end after what is being handled; from any thread."""
        self._stopping = True

    def is_stopping(self) -> bool:
        """Whether it has been asked to end."""
        return self._stopping

    def run(self) -> Generator[Step, Any, None]:
        """Yield what is to be done next; ends with the worker, or raises what ends it."""
        while True:
            try:
                yield from self._serve()
            except _FINAL:
                raise
            except Exception as error:
                if not self._may_restart():
                    raise
                yield Restart(error)
            else:
                return

    def _serve(self) -> Generator[Step, Any, None]:
        """Pull, handle, commit."""
        while not self.is_stopping():
            pulled: Pulled = yield Pull(self._batch_size)
            done, verdict = 0, Continue
            for event in pulled.retries:
                verdict = yield from self._retry(event)
                if verdict is not Continue or self.is_stopping():
                    return
            events = list(pulled.events)
            while done < len(events) and verdict is Continue and not (self.is_stopping() and self._singly):
                unit = events[done : done + 1] if self._singly else events[done:]
                count, verdict = yield from self._handle(unit)
                done += count
            if verdict is not StopAndRollback and (handled := _last_whole(events, done)) is not None:
                yield Commit(handled)
            if verdict is not Continue:
                return

    def _handle(self, unit: Sequence[StoredEvent]) -> Generator[Step, Any, tuple[int, Verdict]]:
        """Have *unit* handled, as `OnError` says; how many of it are done, and what that means."""
        attempts = 0
        while True:
            try:
                verdict: Verdict = yield Handle(unit)
            except _FINAL:
                raise
            except Exception as error:
                attempts += 1
                if attempts < self._on_error.attempts:
                    yield Pause(self._on_error.wait_seconds)
                    if self.is_stopping():  # the next start makes the attempts that are left
                        return 0, Stop
                    continue
                if not self._on_error.parks:
                    raise
                if len(unit) > 1:
                    return (yield from self._handle_each(unit))
                yield Park(unit[0], error, attempts)
                return 1, Continue
            return len(unit), verdict

    def _handle_each(self, unit: Sequence[StoredEvent]) -> Generator[Step, Any, tuple[int, Verdict]]:
        """Have the events of *unit*, which failed together, handled one by one."""
        verdict, done = Continue, 0
        while done < len(unit) and verdict is Continue:
            count, verdict = yield from self._handle(unit[done : done + 1])
            done += count
        return done, verdict

    def _retry(self, event: StoredEvent) -> Generator[Step, Any, Verdict]:
        """Make another attempt at a parked event; what fails again, or is not handled, stays parked."""
        try:
            verdict: Verdict = yield Handle([event])
        except _FINAL:
            raise
        except Exception as error:  # noqa: BLE001 - it was set aside because it fails
            yield Park(event, error, 1)
            return Continue
        if verdict is not StopAndRollback:
            yield Settle(event)
        return verdict

    def _may_restart(self) -> bool:
        """Count a failure; whether the policy grants another start."""
        self._failures = self._restart.counted(self._failures, self._clock.monotonic())
        if self.is_stopping() or len(self._failures) > self._restart.max_restarts:
            return False
        self.restarts += 1
        return True


def _last_whole(events: Sequence[StoredEvent], done: int) -> StoredEvent | None:
    """Return the last of the first *done* events that is not followed by one of the same global sequence."""
    following = events[done].global_sequence if done < len(events) else None
    for event in reversed(events[:done]):
        if event.global_sequence != following:
            return event
    return None
