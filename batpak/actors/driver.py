"""Who runs an actor's turns: its own thread, or, on hot paths, whoever asks.

`Driver` is both of them. With *assisted* a caller who finds the actor idle and its mailbox empty takes the turn
itself; everybody else, and everybody without it, lays an envelope into the mailbox and waits. The rules (look again
under the turn, ring before laying, repair before choosing, answer before dropping) stand where they are kept. They
hold against an exception at any point where the interpreter looks for one, so do not reorder them.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context
from threading import Lock, Thread, get_ident
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, cast

from batpak.actors import WAITS_FOR
from batpak.actors.actor import PENDING, CommandT, Failure
from batpak.actors.mailbox import Envelope, Mailbox, new_lock, ring
from batpak.actors.telling import Teller
from batpak.errors import ActorFailedError, BackpressureError, BatpakError, ReentrantCallError, StoreClosedError
from batpak.log import DEBUG, ERROR
from batpak.reports import ActorReport
from batpak.storage.blocks import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batpak.actors.actor import Actor
    from batpak.actors.messages import Command
    from batpak.clock import Clock
    from batpak.config import RestartPolicy
    from batpak.log import Log

ReplyT = TypeVar("ReplyT")
AnyDriver: TypeAlias = "Driver[Any]"

BACKSTOP_SECONDS: Final = 0.5
"""How long a waiter trusts the wake-up before it looks whether the actor's thread is alive."""
RETRY_SECONDS: Final = 0.02
"""How long an actor's thread rests after an error of which commands still wait for their answer."""

_NOT_TAKEN: Final = object()
"""In the place of an outcome: the turn was not for the taking."""
_EXPECTED: Final = (BatpakError, OSError, MemoryError, RunError)
"""What a turn may raise without the actor being at fault."""


class Driver(Generic[CommandT]):
    """Runs one actor. *turn* is held while its state changes, and *owner* is the thread that holds it."""

    def __init__(
        self,
        actor: Actor[CommandT],
        *,
        capacity: int,
        assisted: bool,
        clock: Clock,
        log: Log,
        restart: RestartPolicy,
        slow_seconds: float,
    ) -> None:
        """Prepare to run *actor*; `start` starts its thread."""
        self.actor = actor
        self.name = actor.name
        self.mailbox = Mailbox(capacity)
        self.turn = new_lock()
        self.owner = 0
        self.busy_seconds = 0.0
        self.handled = 0
        self.restarts = 0
        self._assisted = assisted
        self._clock = clock
        self._log = log
        self._restart = restart
        self._slow_seconds = slow_seconds
        self._crashes: list[float] = []
        self._under_way: Sequence[Envelope] = ()
        self._forbidden: tuple[AnyDriver, ...] = (self,)
        self._outer: tuple[AnyDriver, ...] = ()
        self._teller = Teller(actor, self.mailbox, log, slow_seconds)
        self._thread: Thread | None = None
        # Held by the actor's thread while it lives. `Thread.is_alive` and `join` do not know: interrupted, they take
        # a living thread for dead.
        self._life = new_lock()
        self._ended = new_lock()
        self._ended.acquire()

    # What callers use --------------------------------------------------------------------------------------------

    def connect(self, others: Sequence[AnyDriver]) -> None:
        """Learn whose turns may not wait for this actor: a call from within one of them is refused."""
        self._forbidden = tuple(each for each in others if self.name not in WAITS_FOR[each.name])
        self._outer = tuple(each for each in others if self.name in WAITS_FOR[each.name])
        self._teller.outer = self._outer

    def ask(self, command: Command[ReplyT], max_wait_seconds: float | None = None) -> ReplyT:
        """Have *command* run and return its answer, or raise its error.

        Waits at most *max_wait_seconds* for a place in the queue (`BackpressureError`; nothing was or will be done).
        An exception that arrives while this waits ends the waiting; the command may still run.
        """
        me = get_ident()
        self.check_reentrancy(me)
        if not self._assisted or self.mailbox.items or self.turn.locked():
            return self._queue(command, me, max_wait_seconds)  # type: ignore[no-any-return]
        started = self._clock.monotonic()
        outcome = self._assist(command, me)
        if outcome is _NOT_TAKEN:
            return self._queue(command, me, max_wait_seconds)  # type: ignore[no-any-return]
        seconds = self._clock.monotonic() - started
        if self.actor.lines:
            self.tell_lines()
        self.handled += 1
        self.busy_seconds += seconds
        if seconds >= self._slow_seconds or self._log.passes(DEBUG):
            self._teller.tell(command, 0.0, seconds, outcome)
        if type(outcome) is Failure:
            raise outcome.error
        return outcome  # type: ignore[no-any-return]

    def pass_on(self, command: Command[ReplyT]) -> ReplyT:
        """`ask` from within a turn of an actor that may wait for this one: what that ask has checked holds here too.

        The time that it takes counts as that turn's.
        """
        if self._assisted and self._log.level > DEBUG and not self.mailbox.items and not self.turn.locked():
            outcome = self._assist(command, get_ident())
            if outcome is not _NOT_TAKEN:
                self.handled += 1
                if self.actor.lines:
                    self.tell_lines()
                if type(outcome) is Failure:
                    raise outcome.error
                return outcome  # type: ignore[no-any-return]
        return self.ask(command)

    @property
    def is_free(self) -> bool:
        """Whether an ask would take its turn itself, without waiting for another one's."""
        return self._assisted and not self.mailbox.items and not self.turn.locked()

    def check_reentrancy(self, me: int) -> None:
        """Refuse a call from within a turn that may not wait for this actor, or from a log processor."""
        for each in self._forbidden:
            if each.owner == me or each.mailbox.guard_owner == me:
                raise ReentrantCallError
        emitting = self._log.emitting
        if emitting and me in emitting:
            raise ReentrantCallError

    def within_turn(self, act: Callable[[], object]) -> None:
        """Run *act* in a turn of the calling thread; for an actor's own thread, between commands."""
        me = get_ident()
        self.check_reentrancy(me)
        spare = (me, me, me)
        with self.turn:
            self.owner = me
            try:
                if self.actor.mark is not None:
                    self._repair()
                act()
            finally:
                self.owner = 0
                del spare

    def wake(self) -> None:
        """Make the actor's thread look for work; one that has died is started again."""
        ring(self.mailbox.bell)
        if self._is_dead() and not self.mailbox.closed:
            self._start_again()

    # The threads -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the actor's thread; `RuntimeError` where the system refuses one."""
        begun = new_lock()
        begun.acquire()
        self._thread = thread = Thread(target=self._run, args=(begun,), name=f"batpak-{self.name}", daemon=True)
        thread.start()
        begun.acquire(timeout=BACKSTOP_SECONDS)

    def close(self) -> None:
        """Take no more commands, answer those inside, end the thread. Idempotent."""
        me = get_ident()
        mailbox = self.mailbox
        spare = (me, me, me)
        with mailbox.guard:
            mailbox.guard_owner = me
            try:
                ring(mailbox.bell)
                mailbox.closed = True
                mailbox.wake_waiting()
            finally:
                mailbox.guard_owner = 0
                del spare
        self._join()
        self.within_turn(lambda: None)  # whoever came before the mailbox was closed is still at work
        self._drain()

    def _join(self) -> None:
        """Return when the actor's thread has ended."""
        while self._life.locked():
            ring(self.mailbox.bell)
            self._ended.acquire(timeout=BACKSTOP_SECONDS)
        if self._thread is not None:
            with suppress(RuntimeError):  # it was refused, or its start was interrupted
                self._thread.join(BACKSTOP_SECONDS)

    def tell_lines(self) -> None:
        """Emit what the actor has collected for the log."""
        self._teller.tell_lines()

    def report(self) -> ActorReport:
        """Return the actor's numbers."""
        alive = self._life.locked()
        return ActorReport(self.name, len(self.mailbox.items), self.handled, self.busy_seconds, self.restarts, alive)

    def _drain(self) -> None:
        """Answer what a thread that died left behind."""
        while self.mailbox.items:
            self._take_turn()

    def _queue(self, command: object, me: int, max_wait_seconds: float | None) -> Any:  # noqa: ANN401 - of any command
        """Lay *command* into the mailbox and wait for its answer."""
        context = copy_context() if self._log.passes(DEBUG) else None
        envelope = Envelope(command, context, self._clock.monotonic())
        self._enqueue(envelope, me, max_wait_seconds)
        while not envelope.wait(BACKSTOP_SECONDS):
            self._backstop()
        return envelope.result()

    def _enqueue(self, envelope: Envelope, me: int, max_wait_seconds: float | None) -> None:
        """Lay *envelope* inside, waiting for room; typed errors where there is none in time, or never will be."""
        mailbox = self.mailbox
        deadline = None if max_wait_seconds is None else envelope.queued_at + max_wait_seconds
        room: Lock | None = None
        try:
            while True:
                spare = (me, me, me)
                with mailbox.guard:
                    mailbox.guard_owner = me
                    try:
                        if mailbox.closed:
                            raise StoreClosedError
                        room = mailbox.put_nowait(envelope, room)
                    finally:
                        mailbox.guard_owner = 0
                        del spare
                if room is None:
                    return
                left = BACKSTOP_SECONDS
                if deadline is not None:
                    left = min(left, deadline - self._clock.monotonic())
                if left <= 0:
                    raise BackpressureError(retry_after_seconds=max(self._slow_seconds, max_wait_seconds or 0.0))
                room.acquire(timeout=left)
                self._backstop()
        except BaseException:
            if room is not None:
                self._stop_waiting(room, me)
            raise

    def _stop_waiting(self, room: Lock, me: int) -> None:
        """Leave the line of those who wait for room."""
        mailbox = self.mailbox
        spare = (me, me, me)
        with mailbox.guard:
            mailbox.guard_owner = me
            try:
                mailbox.stop_waiting(room)
            finally:
                mailbox.guard_owner = 0
                del spare

    def _is_dead(self) -> bool:
        """Whether the actor's thread has been started and lives no more."""
        return self._thread is not None and not self._life.locked()

    def _start_again(self) -> bool:
        """Start another thread in the place of one that died; whether the system allows it."""
        try:
            self.start()
        except (RuntimeError, MemoryError):
            return False
        self.restarts += 1
        return True

    def _backstop(self) -> None:
        """Start the actor's thread if it has died, or do its work, and ring: turns what nobody foresaw into a delay."""
        if self._is_dead() and (self.mailbox.closed or not self._start_again()):
            self._drain()
        ring(self.mailbox.bell)

    def _run(self, begun: Lock) -> None:
        """Be the actor's thread: take turns, do idle work, sleep; end when the mailbox is closed and empty.

        One thread at a time: another one, started by mistake, waits for this one's end.
        """
        with self._life:
            while True:
                try:
                    ring(begun)
                    self._survive()
                    break
                except BaseException:  # noqa: BLE001, S112 - a second one, that met the loop in `_survive` itself
                    continue
        ring(self._ended)

    def _survive(self) -> None:
        """Step until there is nothing more to do; outlive whatever hits this thread, the policy counts."""
        while True:
            try:
                while self._step():
                    pass
                return
            except BaseException as error:  # noqa: BLE001 - see above
                self._crashed(error)

    def _step(self) -> bool:
        """Look for work and do it, or sleep; False when there will be no more.

        Looks under the guard before it sleeps, after a crash too: a bell that rang for a command is never missed.
        """
        mailbox = self.mailbox
        me = get_ident()
        spare = (me, me, me)
        with mailbox.guard:
            mailbox.guard_owner = me
            try:
                waiting, closed = bool(mailbox.items) or self._was_cut_short(), mailbox.closed
            finally:
                mailbox.guard_owner = 0
                del spare
        if waiting:
            self._take_turn()
        elif closed:
            return False
        else:
            pause = self.actor.idle()
            self.tell_lines()
            if pause is None:
                mailbox.bell.acquire()
            elif pause > 0:
                mailbox.bell.acquire(timeout=pause)
        return True

    def _was_cut_short(self) -> bool:
        """Whether a turn was interrupted and waits for its repair."""
        return self.actor.mark is not None and not self.turn.locked()

    # Turns -------------------------------------------------------------------------------------------------------

    def _assist(self, command: Any, me: int) -> Any:  # noqa: ANN401 - a cast would be a call more
        """Run *command* in the caller's turn, unless one lay in the mailbox before it: that one goes first.

        An error is repaired at once, and what is in the file counts.
        """
        actor = self.actor
        try:
            spare = (me, me, me)
            with self.turn:
                self.owner = me
                try:
                    # Looked at again under the turn: a command that lay here before us goes first.
                    if self.mailbox.items or self.mailbox.closed:
                        return _NOT_TAKEN
                    if actor.mark is not None:
                        self._repair()
                    try:
                        outcome = actor.handle(command)
                    except Exception as error:  # noqa: BLE001 - handed over as the outcome, after the repair
                        outcome = self._failed(error, 1)[0]
                    actor.mark = None
                    return outcome
                finally:
                    self.owner = 0
                    del spare
        except BaseException:
            self.wake()  # whoever comes next finds the mark; if nobody comes, the actor's thread does
            raise

    def _take_turn(self) -> None:
        """Answer a batch of what is queued, in one turn."""
        me = get_ident()
        started = self._clock.monotonic()
        batch: Sequence[Envelope] = ()
        spare = (me, me, me)
        with self.turn:
            self.owner = me
            try:
                if self.actor.mark is not None:
                    self._repair()
                batch = self.mailbox.take()
                if batch:
                    self._run_batch(batch)
                self._drop_answered(me)
            finally:
                self.owner = 0
                del spare
        self.handled += len(batch)
        self.tell_lines()
        seconds = self._clock.monotonic() - started
        self.busy_seconds += seconds
        if batch and (seconds >= self._slow_seconds or self._log.passes(DEBUG)):
            for envelope in batch:
                self._teller.tell_queued(envelope, started, seconds)

    def _run_batch(self, batch: Sequence[Envelope]) -> None:
        """Run the commands of *batch* as one turn and answer each."""
        self._under_way = batch
        try:
            outcomes = self.actor.turn([cast("CommandT", envelope.command) for envelope in batch])
        except Exception as error:  # noqa: BLE001 - handed over as the outcome, after the repair
            outcomes = self._failed(error, len(batch))
        for envelope, outcome in zip(batch, outcomes, strict=False):
            envelope.answer(Failure(self._named(outcome.error)) if type(outcome) is Failure else outcome)

    def _drop_answered(self, me: int) -> None:
        """Let go of what has been answered, and of the mark, in one guarded block."""
        mailbox = self.mailbox
        spare = (me, me, me)
        with mailbox.guard:
            mailbox.guard_owner = me
            try:
                mailbox.drop_answered()
                self._under_way = ()
                self.actor.mark = None
            finally:
                mailbox.guard_owner = 0
                del spare

    def _repair(self) -> None:
        """Finish or undo the turn that was cut short, and answer whoever of it still waits."""
        try:
            outcomes = self.actor.repair()
        except MemoryError:
            raise  # cut short, to be begun again
        except Exception as error:  # noqa: BLE001 - whatever a repair cannot mend ends the actor
            self.actor.give_up(error)
            outcomes = ()
        for envelope, outcome in zip(self._under_way, outcomes, strict=False):
            if outcome is not PENDING:
                envelope.answer(outcome)
        self._drop_answered(get_ident())

    def _failed(self, error: Exception, count: int) -> list[object]:
        """Return the outcomes of a turn that raised: the truth where it was done, *error* elsewhere."""
        actor = self.actor
        outcomes: list[object] = []
        if actor.mark is not None:
            try:
                outcomes = list(actor.repair())
            except MemoryError:
                raise  # as an interrupt: the mark stays, who is queued stays queued, the next turn repairs
            except Exception as second:  # noqa: BLE001 - whatever a repair cannot mend ends the actor
                actor.give_up(second)
        named = self._named(error)
        outcomes += [PENDING] * (count - len(outcomes))
        return [Failure(named) if outcome is PENDING else outcome for outcome in outcomes]

    def _named(self, error: BaseException) -> BaseException:
        """Return what the caller is told; a bug counts as a crash of the actor and gets its name."""
        if isinstance(error, _EXPECTED):
            return error
        self._count_crash(error)
        failed = ActorFailedError(self.name, f"{type(error).__name__} in a turn")
        failed.__cause__ = error
        return failed

    def _crashed(self, error: BaseException) -> None:
        """Count an exception that ended the thread's loop, and go on if the policy allows."""
        try:
            if isinstance(error, Exception) and not isinstance(error, _EXPECTED):
                self._count_crash(error)
            self._log.emit(ERROR, "actor.interrupted", actor=self.name, error=type(error).__name__)
            if isinstance(error, Exception):
                # What fails again and again must not keep a processor busy.
                self.mailbox.bell.acquire(timeout=RETRY_SECONDS if self.mailbox.items else BACKSTOP_SECONDS)
        except BaseException:  # noqa: BLE001, S110 - a second interrupt; the loop goes on all the same
            pass

    def _count_crash(self, error: BaseException) -> None:
        """Apply the restart policy to a bug in the actor."""
        self._crashes = self._restart.counted(self._crashes, self._clock.monotonic())
        if len(self._crashes) > self._restart.max_restarts:
            self.actor.give_up(error)
        else:
            self.restarts += 1
