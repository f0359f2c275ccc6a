"""Everything in a region, in order, and then what comes: followers, and cursors that remember how far they came."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Self

from batpak.actors.announcer import BACKSTOP_SECONDS, ThreadListener, wait_until
from batpak.delivery.feed import BLOCK
from batpak.errors import InvalidRequestError
from batpak.request import check_limit, check_timeout

if TYPE_CHECKING:
    from batpak.delivery.feed import Feed
    from batpak.delivery.places import HeldPlace
    from batpak.event import StoredEvent
    from batpak.receipt import Place

FIRST_BLOCK: Final = 16
"""How many events are read ahead at first; later it is a whole block."""


class Follower:
    """The events of a region behind a point of the journal: those that are there, then each as it comes.

    In global order, each once, none left out. Iterating waits for more and ends only with `close`; a store that is
    closed ends it with `StoreClosedError`. One consumer; nothing has to be closed.
    """

    def __init__(self, feed: Feed, *, poll_seconds: float = BACKSTOP_SECONDS) -> None:
        """Deliver what comes out of *feed*, made by `Store.follow`; look for more every *poll_seconds* untold."""
        self._feed = feed
        self._poll_seconds = poll_seconds
        self._ready: deque[StoredEvent] = deque()
        self._size = FIRST_BLOCK
        self._listener = ThreadListener()
        self._closed = False
        self._delivered: StoredEvent | None = None

    # Taking ------------------------------------------------------------------------------------------------------

    def poll(self) -> StoredEvent | None:
        """Return the next event if there is one by now; None says nothing about later."""
        events = self.poll_batch(1)
        return events[0] if events else None

    def poll_batch(self, limit: int) -> list[StoredEvent]:
        """Return up to *limit* events that are there by now; a poll costs what it returns."""
        check_limit(limit)
        self._look(limit)
        return self._take(limit)

    def pull(self, limit: int, timeout_seconds: float | None = None) -> list[StoredEvent]:
        """Return up to *limit* events; wait for the first of them, at most *timeout_seconds* (None: for ever)."""
        check_limit(limit)
        check_timeout(timeout_seconds)
        events = self.poll_batch(limit)
        if events or self._closed:
            return events
        store = self._feed.store
        wait_until(
            store._announcer,
            self._feed.interests,
            self._look,
            timeout_seconds,
            store._clock,
            listener=self._listener,
            backstop_seconds=self._poll_seconds,
        )
        return self._take(limit)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StoredEvent:
        while not self._closed:
            if events := self.pull(1):
                return events[0]
        raise StopIteration

    def close(self) -> None:
        """End it: whoever waits in another thread goes on with the end. Idempotent."""
        self._closed = True
        self._ready = deque()
        self._listener.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Inside ------------------------------------------------------------------------------------------------------

    def _look(self, wanted: int = 1) -> bool:
        """Read the next block, unless *wanted* events are there; whether any is, or none will ever be."""
        if not self._closed and len(self._ready) < wanted:
            self._fill(wanted - len(self._ready))
            if not self._ready and self._feed.store._catch_up():
                self._fill(wanted)
        return bool(self._ready) or self._closed

    def _fill(self, wanted: int) -> None:
        """Read the next block: *wanted* events, or more, for those who go on."""
        size = max(wanted, self._size)
        events = self._feed.events(size)
        self._size = BLOCK if len(events) >= size else FIRST_BLOCK
        self._ready.extend(events)

    def _take(self, limit: int) -> list[StoredEvent]:
        """Hand out up to *limit* events of what is ready."""
        ready = self._ready
        events = [ready.popleft() for _ in range(min(limit, len(ready)))]
        if events:
            self._note(events)
        return events

    def _note(self, events: list[StoredEvent]) -> None:
        """Remember how far this came: not into the middle of events that share one sequence, as the original's may."""
        following = self._ready[0].global_sequence if self._ready else None
        for event in reversed(events):
            if event.global_sequence != following:
                self._delivered = event
                break


class Cursor(Follower):
    """A follower that keeps its place: `commit` remembers it, under a name on disk; `rollback` goes back to it.

    At least once: what was delivered and not committed is delivered again, by `rollback` or after the next open. An
    exception that interrupts a call may take events with it: only a `rollback` brings them back.
    A cursor with a name holds it until it is closed, or nobody refers to it any more.
    """

    def __init__(self, feed: Feed, held: HeldPlace | None) -> None:
        """Deliver what comes out of *feed*; *held* keeps the place. Made by `Store.cursor`."""
        super().__init__(feed)
        self._held = held
        self._start = feed.looked
        self._committed: Place | None = None if held is None else held.place

    @property
    def name(self) -> str | None:
        """The name under which the place is kept."""
        return None if self._held is None else self._held.name

    @property
    def place(self) -> Place | None:
        """The place of the last event that was delivered; None before the first, and before the first commit."""
        return self._committed if self._delivered is None else self._delivered.place

    @property
    def committed(self) -> Place | None:
        """The place that was committed last."""
        return self._committed

    def commit(self) -> None:
        """Remember the place of the last event that was delivered.

        With a name: returns when everything that was written before is durable, which takes one shared fsync at most
        (one commit in 64 takes another), and the place is in its file. A kill keeps it; a power cut may bring back an
        earlier place, one of the last 64, never a later one.
        Raises `WriterFailedError`, `StorageError`, `StoreClosedError`; the place is where it was then.
        """
        if self._delivered is not None:
            self._commit_at(self._delivered)

    def rollback(self) -> None:
        """Go back to the place that was committed last: what came behind it is delivered again."""
        self._ready = deque()
        self._delivered = None
        self._feed.go_back(self._start)

    def close(self) -> None:
        """End it, and let go of the name; what was not committed is delivered again to the next holder."""
        super().close()
        if self._held is not None:
            self._held.let_go()

    def __del__(self) -> None:
        if getattr(self, "_held", None) is not None:
            self.close()

    def _commit_at(self, event: StoredEvent) -> None:
        """Remember *event* as the last that was handled."""
        if self._closed:
            raise InvalidRequestError("commit: found a cursor that has been closed, expected an open one")
        place = event.place
        if self._held is not None:
            self._held.save(place)
        self._committed = place
        self._start = place.global_sequence
