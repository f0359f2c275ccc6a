"""Who waits for what, and how they learn that it has come, at next to no cost for whoever brings it.

A consumer that has nothing left to deliver arms a `Listener` under one interest: the narrowest part of its region.
What publishes events looks those of the new events up and tells the listeners that it finds, once: who is told has to
arm again before it waits again. So a consumer that is at work costs an append nothing, and one whose events do not
come costs it a look-up. An interest is coarser than a region: to be told means to look.

Arm first, then look, then wait: what becomes visible after the look finds the listener. Nothing here holds a lock, so
an interrupt or a signal handler can come at any point; one that cuts an announcement short leaves it to be made again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from batpak.actors.mailbox import new_lock, ring
from batpak.storage.row import CATEGORY_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from batpak.clock import Clock
    from batpak.region import Region
    from batpak.storage.row import Record

T = TypeVar("T")

EVERYTHING: Final = 0
ENTITY: Final = 1
SCOPE: Final = 2
KIND: Final = 3
CATEGORY: Final = 4
CORRELATION: Final = 5
DURABLE: Final = 6
PLACE: Final = 7
STOP: Final = 8

BACKSTOP_SECONDS: Final = 0.5
"""How long a waiting thread trusts that it will be told before it looks for itself."""
MAX_SWEPT: Final = 64
"""How many forgotten interests one announcement clears away."""


class Interest(NamedTuple):
    """What is waited for: a *topic*, one of the constants above, and which one of it."""

    topic: int
    value: Hashable


ANYTHING: Final = Interest(EVERYTHING, None)
MORE_DURABLE: Final = Interest(DURABLE, None)
"""The durable position has moved."""


class Listener(Protocol):
    """A thread or an event loop that can be told."""

    def tell(self, interests: Sequence[Interest]) -> None:
        """Wake up, for one of *interests*; called from any thread, never waits, may be called twice."""


Bucket: TypeAlias = "dict[Listener, None]"


def interest_in(region: Region) -> Interest:
    """Return the narrowest interest that every event of *region* meets."""
    if region.correlation_id is not None:
        return Interest(CORRELATION, region.correlation_id.bytes)
    if region.entity is not None:
        return Interest(ENTITY, region.entity)
    if region.scope is not None:
        return Interest(SCOPE, region.scope)
    if region.kind is not None:
        return Interest(KIND, region.kind.value)
    if region.category is not None:
        return Interest(CATEGORY, region.category)
    return ANYTHING


class Announcer:
    """The listeners of one store, by interest; *listening* says whether `announce` has anything to do."""

    __slots__ = ("_forgotten", "_tables", "_told", "listening")

    def __init__(self) -> None:
        """Begin without listeners."""
        self._tables: tuple[dict[Hashable, Bucket], ...] = tuple({} for _ in range(STOP + 1))
        self._told: list[tuple[Interest, Bucket]] = []
        self.listening = False
        self._forgotten: dict[Interest, None] = {}

    # For those who wait ------------------------------------------------------------------------------------------

    def arm(self, interests: Sequence[Interest], listener: Listener) -> None:
        """Have *listener* told once of whatever comes next of each interest."""
        for topic, value in interests:
            table = self._tables[topic]
            while True:
                bucket = table.setdefault(value, {})
                bucket[listener] = None
                if table.get(value) is bucket:  # else it was taken out meanwhile, perhaps before we stood in it
                    break
        self.listening = True

    def disarm(self, interests: Sequence[Interest], listener: Listener) -> None:
        """Tell *listener* no more."""
        for interest in interests:
            bucket = self._tables[interest.topic].get(interest.value)
            if bucket is not None:
                bucket.pop(listener, None)
                if not bucket:
                    self._forgotten[interest] = None  # only the announcing thread takes buckets out

    # For those who bring something -------------------------------------------------------------------------------

    def announce(self, records: Sequence[Record]) -> None:
        """Tell who waits for one of *records*, which are visible by now; in the index's turns alone."""
        if self._told:
            self._tell()
        if not self._forgotten and not any(self._tables[:DURABLE]):
            self.listening = False
            if any(self._tables[:DURABLE]):  # somebody has armed between the two
                self.listening = True
            return
        for record in records:
            self._take_record(record)
        if records:
            self._take(EVERYTHING, None)
        if self._forgotten:
            self._sweep()
        if self._told:
            self._tell()

    def tell(self, interest: Interest) -> None:
        """Tell who waits for *interest*; from any thread, where nobody else brings the same."""
        table = self._tables[interest.topic]
        waiting = table.get(interest.value)
        if waiting is None:
            return
        try:
            waiting |= table.pop(interest.value, waiting)  # another thread's, where both came at once
            for listener in list(waiting):
                listener.tell((interest,))
        except BaseException:  # an interrupt; who has been taken out would wait on
            for listener in list(waiting):
                listener.tell((interest,))
            raise

    def tell_all(self) -> None:
        """Tell everybody, whatever they wait for: all has changed, or the store is closed."""
        waiting = [(topic, value) for topic, table in enumerate(self._tables) for value in list(table)]
        for topic, value in waiting:
            self.tell(Interest(topic, value))

    def _take_record(self, record: Record) -> None:
        """Take out who waits for *record* in particular."""
        _, entities, scopes, kinds, categories, correlations, *_ = self._tables
        if entities:
            self._take_entity(record.entity)
        if scopes:
            self._take(SCOPE, record.scope)
        if kinds:
            self._take(KIND, record.kind)
        if categories:
            self._take(CATEGORY, record.kind >> CATEGORY_SHIFT)
        if correlations:
            self._take(CORRELATION, record.correlation_id or record.event_id)

    def _take_entity(self, entity: str) -> None:
        """Take out who waits for *entity* or for a namespace that it lies in."""
        self._take(ENTITY, entity)
        at = entity.rfind(":")
        while at > 0:
            self._take(ENTITY, entity[:at])
            at = entity.rfind(":", 0, at)

    def _take(self, topic: int, value: Hashable) -> None:
        """Take out who waits for *value*, to be told; noted first, so that an interrupt between loses nobody."""
        table = self._tables[topic]
        bucket = table.get(value)
        if bucket is not None:
            self._told.append((Interest(topic, value), bucket))
            taken = table.pop(value, bucket)
            if taken is not bucket:  # another thread told of the same meanwhile, and somebody has armed anew
                self._told.append((Interest(topic, value), taken))

    def _tell(self) -> None:
        """Tell each listener that was taken out, once for all that it waits for."""
        told: dict[Listener, list[Interest]] = {}
        for interest, bucket in self._told:
            for listener in list(bucket):
                told.setdefault(listener, []).append(interest)
        for listener, interests in told.items():
            listener.tell(interests)
        self._told.clear()

    def _sweep(self) -> None:
        """Take out the buckets that nobody stands in any more; who has stepped in meanwhile is told."""
        for interest in list(self._forgotten)[:MAX_SWEPT]:
            self._forgotten.pop(interest, None)
            if not self._tables[interest.topic].get(interest.value, True):
                self._take(*interest)


class ThreadListener:
    """A thread that waits."""

    __slots__ = ("_bell",)

    def __init__(self) -> None:
        """Begin without having been told."""
        self._bell = new_lock()
        self._bell.acquire()

    def tell(self, interests: Sequence[Interest] = ()) -> None:  # noqa: ARG002 - it waits in one place only
        """Wake the thread."""
        ring(self._bell)

    def wait(self, seconds: float) -> bool:
        """Wait until told, at most so long; whether told."""
        return self._bell.acquire(timeout=seconds)


def wait_until(
    announcer: Announcer,
    interests: Sequence[Interest],
    look: Callable[[], T],
    timeout_seconds: float | None,
    clock: Clock,
    *,
    listener: ThreadListener | None = None,
    backstop_seconds: float = BACKSTOP_SECONDS,
) -> T:
    """Return what *look* gives, as soon as that is true, or when the time is up."""
    listener = listener or ThreadListener()
    deadline = None if timeout_seconds is None else clock.monotonic() + timeout_seconds
    announcer.arm(interests, listener)
    try:
        while not (found := look()):
            left = backstop_seconds if deadline is None else min(backstop_seconds, deadline - clock.monotonic())
            if left <= 0:
                break
            if listener.wait(left):
                if found := look():  # before it is armed again: most often this is all
                    break
                announcer.arm(interests, listener)
    finally:
        announcer.disarm(interests, listener)
    return found
