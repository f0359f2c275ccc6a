"""One offload's worth of appends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from copy import copy
from functools import partial
from itertools import chain
from threading import Lock
from typing import TYPE_CHECKING, Final, cast

from batpak.actors.messages import Append, AppendBatch, Command, Flight, Outcome
from batpak.aio.journey import Journey
from batpak.aio.loops import signal_all
from batpak.errors import ActorFailedError
from batpak.receipt import Receipt

if TYPE_CHECKING:
    from batpak.aio.loops import Post, Signal
    from batpak.store import Store

MAX_FLIGHT_EVENTS: Final = 512
"""How many events travel together, unless one batch has more: bounds the turn, as for what waits in a mailbox."""


_TAKEN: Final[list[Receipt]] = []
"""Stands where an outcome was."""


class Gathering(Journey):
    """Appends on their way: open to others until a thread begins to write them; then an outcome for each.

    *outcomes* are there when it is written; it has *landed* when whatever its items asked for has been done.
    *waiting* are the signals of those who wait for the first, *for_sync* of those who wait for the second.
    """

    __slots__ = (
        "_closed", "_contexts", "_durables", "_events", "_guard", "_max_wait", "_on_written", "_post", "_size",
        "_store", "_told", "for_sync", "items", "outcomes",
    )  # fmt: skip

    def __init__(
        self, store: Store, post: Post, on_written: Callable[[Gathering], object], max_wait_seconds: float | None
    ) -> None:
        """Begin without items; the event loop runs *on_written* when it is written, if somebody needs to know.

        *max_wait_seconds* holds for the writer's own queue, if the first item stays alone.
        """
        super().__init__()
        self._store = store
        self._post = post
        self._on_written = on_written
        self._max_wait = max_wait_seconds
        self._guard = Lock()
        self._closed = False
        self._told = False
        self._events = 0
        self._size = 0
        self._durables: list[bool] = []
        self._contexts: list[Context | None] = []
        self.items: list[Append | AppendBatch] = []
        self.outcomes: list[Outcome] | None = None
        self.for_sync: list[Signal] = []

    # The event loop's side ---------------------------------------------------------------------------------------

    def join(self, item: Append | AppendBatch, context: Context | None, max_bytes: int, *, durable: bool) -> int | None:
        """Take in *item* and return its seat; None where it has to go into the next one.

        That is when this one is closed, would get too large, or began with one who waits for no fsync while it does.
        """
        count, size = (1, len(item.payload)) if type(item) is Append else _weight(cast("AppendBatch", item))
        with self._guard:
            if self._closed:
                return None
            items = self.items
            if items:
                if self._events + count > MAX_FLIGHT_EVENTS or self._size + size > max_bytes:
                    return None
                if durable is not self._durables[0]:
                    if durable:  # the others would have to wait for its fsync
                        return None
                    self._told = True  # so that these need not wait for it
            self._events += count
            self._size += size
            items.append(item)
            self._durables.append(durable)
            self._contexts.append(context)
            return len(items) - 1

    def spare_fsync(self) -> None:
        """Make nothing durable: nobody is there any more who asked for that, and no thread has begun."""
        if True in self._durables:
            self._durables = [False] * len(self.items)

    def is_for_nobody(self) -> bool:
        """Whether all who joined are gone."""
        return self.left == len(self.items)

    def signals(self) -> Iterable[Signal]:
        """Return the signals of those who wait; who carries it waits for an fsync too, so first who wants one."""
        return chain(self.for_sync, self.waiting)

    def watch(self) -> None:
        """Have the event loop told when it is written: another one waits for that."""
        with self._guard:
            self._told = True

    def wake(self) -> None:
        """Wake those who wait for their outcome: it is written; those too who wait for an fsync, if it has landed."""
        waiting, self.waiting = self.waiting, []
        signal_all(waiting)
        if self.landed:
            signal_all(self.for_sync)
            self.for_sync = []

    def take(self, seat: int) -> Outcome:
        """Return the outcome of a seat, or raise it; once."""
        outcomes = self.outcomes
        assert outcomes is not None, "nobody leaves before it is written, or refused"
        outcome, outcomes[seat] = outcomes[seat], _TAKEN
        if not isinstance(outcome, Exception):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # it holds this frame

    def refuse(self, error: Exception) -> None:
        """Answer every item with *error*; none of them was begun."""
        with self._guard:
            self._closed = True
        self.outcomes = [*shared(error, len(self.items))]

    # The thread's side -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Close it, write its items, then make durable what was to be so; in a thread. Errors become outcomes."""
        with self._guard:
            self._closed = True
        try:
            outcomes = self._write()
        except BaseException as error:  # noqa: BLE001 - also what is sent into this thread to end it
            outcomes = [*shared(error, len(self.items))]
        with self._guard:
            self.outcomes = outcomes
            told = self._told
        if True in self._durables:
            if told:
                self._post(partial(self._on_written, self))
            try:
                self.outcomes = self._store._cover_flight(outcomes, self._durables)
            except BaseException as error:  # noqa: BLE001 - as above
                self.outcomes = [*shared(error, len(self.items))]

    def _write(self) -> list[Outcome]:
        """Write the items: one alone as what it is, in the context of whoever asked, which this thread has then."""
        if len(self.items) == 1:
            return [self._store._write(cast("Command[Receipt]", self.items[0]), self._max_wait)]
        contexts = self._contexts if any(context is not None for context in self._contexts) else ()
        return Context().run(self._store._write, Flight(self.items, contexts), None)


def _weight(batch: AppendBatch) -> tuple[int, int]:
    """Return how many events a batch has, and the bytes of their payloads."""
    items: Sequence[Append] = batch.items
    return len(items), sum(len(each.payload) for each in items)


def shared(error: BaseException, count: int) -> list[Exception]:
    """Return an error of its own for each of *count* who asked."""
    if not isinstance(error, Exception):
        failed = ActorFailedError("worker thread", f"{type(error).__name__}; what it did may have happened")
        failed.__cause__ = error
        error = failed
    errors: list[Exception] = [error]
    for _ in range(count - 1):
        another = copy(error)
        another.__cause__ = error.__cause__
        errors.append(another)
    return errors
