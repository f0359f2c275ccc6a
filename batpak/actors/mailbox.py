"""A mailbox: a bounded, closable queue of envelopes, and the bell that wakes its actor's thread.

Only bare locks, and only by ``with``, exclude anything here: `Condition`, `Event` and `Queue` can lose their lock to
an interrupt. A lock that is a bell or a reply slot is acquired by hand, because nothing is owned by it.
"""

from __future__ import annotations

from collections import deque
from threading import Lock, RLock, get_ident
from typing import TYPE_CHECKING, Final

from batpak.actors.actor import Failure

if TYPE_CHECKING:
    from contextvars import Context

MAX_TURN_COMMANDS: Final = 512
"""How many queued commands one turn takes: bounds the turn, and what a repair has to read back."""


class Envelope:
    """A queued command, the slot for its answer, and the log context of whoever asked."""

    __slots__ = ("_lock", "command", "context", "done", "outcome", "queued_at")

    def __init__(self, command: object, context: Context | None, queued_at: float) -> None:
        """Wrap *command*; *queued_at* is the monotonic time in seconds."""
        self.command = command
        self.context = context
        self.queued_at = queued_at
        self.done = False
        self.outcome: object = None
        self._lock = new_lock()
        self._lock.acquire()

    def answer(self, outcome: object) -> None:
        """Hand over the outcome and wake the asker; answering twice is harmless."""
        if not self.done:
            self.outcome = outcome
            self.done = True
        ring(self._lock)

    def wait(self, timeout_seconds: float) -> bool:
        """Wait for the answer; whether it has come."""
        if not self.done:
            self._lock.acquire(timeout=timeout_seconds)
        return self.done

    def result(self) -> object:
        """Return the answer, or raise the error that it is."""
        outcome = self.outcome
        if type(outcome) is Failure:
            raise outcome.error
        return outcome


def new_lock() -> Lock:
    """Return a lock; `MemoryError` where there is no room for one (`Lock` itself says `RuntimeError`).

    Leaving ``with lock`` takes a tuple of three. Without memory for it the lock would stay taken for ever: so whoever
    allocates while he holds one has such a tuple, *spare*, made before, and gives it back last of all.
    """
    try:
        return Lock()
    except RuntimeError as error:
        raise MemoryError from error


def new_guard() -> RLock:
    """Return a lock that its holder may take again; `MemoryError` where there is no room for one."""
    try:
        return RLock()
    except RuntimeError as error:
        raise MemoryError from error


def ring(bell: Lock) -> None:
    """Ring *bell*; one that has been rung already stays so."""
    try:
        bell.release()
    except RuntimeError:
        pass  # it was not taken: whoever waits for it will not have to


class Mailbox:
    """The envelopes of one actor, in the order in which they came.

    *guard* protects the change of `items` and `closed`; *guard_owner* tells a call from within from one that waits.
    """

    __slots__ = ("_capacity", "_waiting", "bell", "closed", "guard", "guard_owner", "items")

    def __init__(self, capacity: int) -> None:
        """Make an empty, open mailbox for *capacity* envelopes."""
        self._capacity = capacity
        self._waiting: deque[Lock] = deque()
        self.items: deque[Envelope] = deque()
        self.bell = new_lock()
        self.bell.acquire()
        self.guard = new_lock()
        self.guard_owner = 0
        self.closed = False

    def put_nowait(self, envelope: Envelope, room: Lock | None = None) -> Lock | None:
        """Lay *envelope* inside and return None; a lock to wait on for *room* where it is full, the same once more.

        The bell rings before the item lies inside: an interrupt between the two leaves an idle look, not a command
        that nobody sees. Look at `closed` first: what is put into a closed mailbox is not refused here.
        """
        if len(self.items) >= self._capacity:
            if room is None:
                room = new_lock()
                room.acquire()
            if room not in self._waiting:
                self._waiting.append(room)
            return room
        if room is not None and room in self._waiting:
            self._waiting.remove(room)
        ring(self.bell)
        self.items.append(envelope)
        return None

    def stop_waiting(self, room: Lock) -> None:
        """Wait for *room* no more; if it has been given, the next in line gets it. The guard is held."""
        if room in self._waiting:
            self._waiting.remove(room)
        else:
            self._give_room()

    def take(self) -> list[Envelope]:
        """Return what the next turn answers; nothing leaves the mailbox by this."""
        me = get_ident()
        with self.guard:
            self.guard_owner = me
            try:
                batch = []
                for envelope in self.items:
                    if not envelope.done:
                        batch.append(envelope)
                    if len(batch) == MAX_TURN_COMMANDS:
                        break
                return batch
            finally:
                self.guard_owner = 0

    def drop_answered(self) -> None:
        """Take what has been answered from the front, and wake those who wait for room; the guard is held."""
        items = self.items
        while items and items[0].done:
            items.popleft()
        self._give_room()

    def wake_waiting(self) -> None:
        """Wake everybody who waits for room: the mailbox has been closed."""
        while self._waiting:
            ring(self._waiting.popleft())

    def _give_room(self) -> None:
        """Wake as many of those who wait as there is room for, the first in line first."""
        waiting = self._waiting
        for _ in range(min(len(waiting), self._capacity - len(self.items))):
            ring(waiting.popleft())
