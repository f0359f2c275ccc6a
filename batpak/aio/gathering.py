"""One offload's worth of appends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context
from copy import copy
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Final, cast

from batpak.actors.messages import Append, AppendBatch, Command, Flight, Outcome
from batpak.errors import ActorFailedError
from batpak.receipt import Receipt

if TYPE_CHECKING:
    from anyio import Event

    from batpak.aio.errand import Errand
    from batpak.aio.loops import Post
    from batpak.store import Store

MAX_FLIGHT_EVENTS: Final = 512
"""How many events travel together, unless one batch has more: bounds the turn, as for what waits in a mailbox."""


class Gathering:
    """Appends on their way: open to others until a thread begins to write them; then an outcome for each.

    *outcomes* are there when it is written; *landed* when whatever its items asked for has been done. *riders* wait
    for it, *changed* wakes them. *errand* is its thread's, *go* wakes its pilot; it is *pilotless* while it looks
    for another one.
    """

    __slots__ = (
        "_closed", "_contexts", "_durables", "_events", "_guard", "_max_wait", "_on_written", "_post", "_size",
        "_store", "_told", "changed", "departed", "errand", "go", "items", "landed", "outcomes", "pilotless", "riders",
    )  # fmt: skip

    def __init__(
        self, store: Store, post: Post, on_written: Callable[[Gathering], object], max_wait_seconds: float | None
    ) -> None:
        """Begin without items; the event loop runs *on_written* when it is written, if somebody needs to know.

        *max_wait_seconds* holds for the writer's own queue, if the first item stays alone.
        """
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
        self.departed = False
        self.landed = False
        self.pilotless = False
        self.riders = 0
        self.errand: Errand[None] | None = None
        self.go: Event | None = None
        self.changed: Event | None = None

    # The event loop's side ---------------------------------------------------------------------------------------

    def join(self, item: Append | AppendBatch, context: Context | None, max_bytes: int, *, durable: bool) -> int | None:
        """Take in *item* and return its seat; None where it has to go into the next one.

        That is when this one is closed, would get too large, or has a pilot who waits for no fsync while it does.
        """
        count, size = _weight(item)
        with self._guard:
            if self._closed:
                return None
            if self.items:
                if self._events + count > MAX_FLIGHT_EVENTS or self._size + size > max_bytes:
                    return None
                if durable is not self._durables[0]:
                    if durable:  # the pilot would have to wait for their fsync
                        return None
                    self._told = True  # so that these need not wait for it
            self._events += count
            self._size += size
            self.items.append(item)
            self._durables.append(durable)
            self._contexts.append(context)
            return len(self.items) - 1

    def watch(self) -> None:
        """Have the event loop told when it is written: another one waits for that."""
        with self._guard:
            self._told = True

    def is_answered(self, *, durable: bool) -> bool:
        """Whether an item has its outcome."""
        return self.landed or (not durable and self.outcomes is not None)

    def stir(self) -> None:
        """Wake the riders, who look again."""
        before, self.changed = self.changed, None
        if before is not None:
            before.set()

    def take(self, seat: int) -> Outcome:
        """Return the outcome of a seat, or raise it; once."""
        outcomes = cast("list[Outcome | None]", self.outcomes)
        outcome, outcomes[seat] = outcomes[seat], None
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # it holds this frame
        return cast("Outcome", outcome)

    def refuse(self, error: Exception) -> None:
        """Answer every item with *error*; none of them was begun."""
        with self._guard:
            self._closed = True
        self.outcomes = _shared(error, len(self.items))

    # The thread's side -------------------------------------------------------------------------------------------

    def fly(self) -> None:
        """Close it, write its items, then make durable what was to be so; in a thread. Errors become outcomes."""
        with self._guard:
            self._closed = True
        try:
            outcomes = self._write()
        except BaseException as error:  # noqa: BLE001 - also what is sent into this thread to end it
            outcomes = _shared(error, len(self.items))
        with self._guard:
            self.outcomes = outcomes
            told = self._told
        if told:
            self._post(partial(self._on_written, self))
        if True in self._durables:
            try:
                self.outcomes = self._store._cover_flight(outcomes, self._durables)
            except BaseException as error:  # noqa: BLE001 - as above
                self.outcomes = _shared(error, len(self.items))

    def _write(self) -> list[Outcome]:
        """Write the items: one alone as what it is, in the context of whoever asked, which this thread has then."""
        if len(self.items) == 1:
            return [self._store._write(cast("Command[Receipt]", self.items[0]), self._max_wait)]
        contexts = self._contexts if any(context is not None for context in self._contexts) else ()
        return Context().run(self._store._write, Flight(self.items, contexts), None)


def _weight(item: Append | AppendBatch) -> tuple[int, int]:
    """Return how many events an item has, and the bytes of their payloads."""
    if type(item) is Append:
        return 1, len(item.payload)
    items: Sequence[Append] = cast("AppendBatch", item).items
    return len(items), sum(len(each.payload) for each in items)


def _shared(error: BaseException, count: int) -> list[Outcome]:
    """Return an error of its own for each of *count* items."""
    if not isinstance(error, Exception):
        failed = ActorFailedError("worker thread", f"{type(error).__name__}; the write may have happened")
        failed.__cause__ = error
        error = failed
    outcomes: list[Outcome] = [error]
    for _ in range(count - 1):
        another = copy(error)
        another.__cause__ = error.__cause__
        outcomes.append(another)
    return outcomes
