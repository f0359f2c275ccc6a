"""The part of `Store` that delivers events: subscriptions, cursors, workers, reactors, named places."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from batpak.actors.announcer import ANYTHING, PLACE, Interest, wait_until
from batpak.config import RestartPolicy
from batpak.delivery.course import Course, Handler, OnError
from batpak.delivery.cursor import Cursor
from batpak.delivery.feed import Feed
from batpak.delivery.parking import Parking
from batpak.delivery.places import HeldPlace, PlaceBook, Start
from batpak.delivery.reactor import Reacting
from batpak.delivery.subscription import DEFAULT_CAPACITY, Live, Subscription
from batpak.delivery.worker import Job, Reactor, Worker, handling, reacting
from batpak.errors import InvalidRequestError, WaitTimeoutError
from batpak.reading import Reading, require
from batpak.receipt import Place
from batpak.region import Region
from batpak.request import check_count, check_limit, check_name, check_timeout
from batpak.storage.view import BEFORE_ALL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batpak.coordinate import Coordinate
    from batpak.event import NewEvent, Notification, StoredEvent
    from batpak.kind import EventKind
    from batpak.log import Log
    from batpak.payload import Payload
    from batpak.receipt import Receipt
    from batpak.reports import NamedPlace, ParkedEvent
    from batpak.storage.files import Files

DEFAULT_BATCH_SIZE: Final = 64
"""How many events a worker takes at a time: between two commits."""
UNNAMED: Final = "unnamed"
"""What a worker without a name is called in the log."""
ALL_EVENTS: Final = Region(include_system=True)


class Delivering(Reading):
    """What a store that is open for writing delivers."""

    _files: Files
    _log: Log
    _places: PlaceBook

    @abstractmethod
    def append_batch(
        self, items: Sequence[NewEvent], *, durable: bool | None = None, max_wait_seconds: float | None = None
    ) -> list[Receipt]:
        """Append all *items* or none."""

    @abstractmethod
    def _append_system(self, coordinate: Coordinate, kind: EventKind, payload: Payload, cause: StoredEvent) -> None:
        """Append an event of ours, of a kind that callers may not write."""

    @abstractmethod
    def _cover_everything(self) -> None:
        """Return when everything that has been written is durable."""

    @abstractmethod
    def _keep_identity(self) -> None:
        """Return when everything that has been written is durable, and this store's identity."""

    # Subscriptions and cursors -----------------------------------------------------------------------------------

    def subscribe(self, region: Region, *, capacity: int = DEFAULT_CAPACITY) -> Subscription[Notification]:
        """Deliver what is appended to *region* from now on, without payloads, to whoever is fast enough.

        *capacity* events may wait, 1 to 1,048,576; more of them end it with `SubscriptionOverflowError`.
        """
        return Subscription(self._live(region, capacity))

    def cursor(self, region: Region, *, name: str | None = None, start: Start = "beginning") -> Cursor:
        """Deliver everything in *region*, in order, and then what comes, at the consumer's pace.

        With a *name* its place is kept on disk by `Cursor.commit`, and it goes on from there; a new one begins at
        *start*: ``"beginning"``, ``"end"``, or behind a global sequence or a place. A name is bound to its region and
        its store. Raises `PlaceConflictError` (held by another, or of another region or store), `CorruptStoreError`
        (a damaged place), `StalePlaceError` (another event stands there now): nothing ever starts over by itself.
        A cursor that the original left under that name is taken over.
        """
        return self._cursor(region, name, start)

    def _live(self, region: Region, capacity: int) -> Live:
        require("region", region, Region)
        return Live(Feed(self, region, self._view().last_sequence()), capacity)

    def _cursor(self, region: Region, name: str | None, start: Start) -> Cursor:
        require("region", region, Region)
        self._view()
        if name is None:
            return self._cursor_behind(region, self._start_place(start), None)
        held = HeldPlace(self._places, name, region)
        try:
            self._places.hold(held, start)
            return self._cursor_behind(region, held.place, held)
        except BaseException:
            held.let_go()
            raise

    def _cursor_behind(self, region: Region, place: Place | None, held: HeldPlace | None) -> Cursor:
        return Cursor(Feed(self, region, BEFORE_ALL if place is None else place.global_sequence), held)

    # Workers -----------------------------------------------------------------------------------------------------

    def cursor_worker(
        self,
        region: Region,
        handler: Handler,
        *,
        name: str | None = None,
        start: Start = "beginning",
        batch_size: int = DEFAULT_BATCH_SIZE,
        restart: RestartPolicy | None = None,
        on_error: OnError = OnError.stop,
    ) -> Worker:
        """Start a thread that hands the events of *region* to *handler*, up to *batch_size* at a time, in order.

        After each batch the place is committed, under *name* on disk; so each event is handled at least once. The
        handler returns `Continue` (or None), `Stop` or `StopAndRollback`. What happens to an error *on_error* says; an
        error that is left goes back to the last commit and begins again, as often as *restart* grants (default: once),
        and then ends the worker: `Worker.join` raises it. Arguments and errors otherwise as for `cursor`.
        """
        if not callable(handler):
            raise InvalidRequestError(f"handler: found {type(handler).__name__}, expected a function")
        course = self._course(batch_size, restart, on_error, name, singly=False)
        return Worker(self._job(region, name, start, course), handling(handler))

    def react_loop(
        self,
        region: Region,
        reactor: Reactor,
        *,
        name: str,
        start: Start = "beginning",
        batch_size: int = DEFAULT_BATCH_SIZE,
        restart: RestartPolicy | None = None,
        on_error: OnError = OnError.stop,
        may_feed_itself: bool = False,
    ) -> Worker:
        """Start a thread that answers each event of *region* with events: exactly one set of reactions per event.

        ``reactor(event, reactions)`` adds to *reactions* by ``reactions.append``. The reactions to one event are
        written as one batch with its correlation, with it as their cause, and with keys made of *name*; then the place
        moves. A kill at any point repeats at most a reactor whose reactions were not written. A reaction in the
        reactor's own region is refused unless *may_feed_itself*. What a reactor raises is a `ReactorError` of which it
        is the cause. Everything else as for `cursor_worker`.
        """
        if not callable(reactor):
            raise InvalidRequestError(f"reactor: found {type(reactor).__name__}, expected a function")
        course = self._course(batch_size, restart, on_error, check_name(name), singly=True)
        around = self._reacting(name, region, may_feed_itself=may_feed_itself)
        return Worker(self._job(region, name, start, course), reacting(around, reactor))

    def _course(
        self, batch_size: int, restart: RestartPolicy | None, on_error: OnError, name: str | None, *, singly: bool
    ) -> Course:
        """Return what a worker does; the arguments are checked."""
        check_limit(batch_size, "batch_size")
        restart = RestartPolicy.once() if restart is None else restart
        require("restart", restart, RestartPolicy)
        require("on_error", on_error, OnError)
        if on_error.parks and name is None:
            raise InvalidRequestError("on_error: found park without a name, expected a name to park under")
        return Course(batch_size=batch_size, singly=singly, on_error=on_error, restart=restart, clock=self._clock)

    def _job(self, region: Region, name: str | None, start: Start, course: Course) -> Job:
        """Return what a worker works on, with a cursor of its own."""
        require("region", region, Region)
        parking = None if name is None else Parking(self, name)
        if parking is not None and course.parks and parking.lies_in(region):
            raise InvalidRequestError(f"on_error: found park in {region}, expected a region without what it parks")
        return Job(self, name or UNNAMED, self._cursor(region, name, start), course, parking)

    def _reacting(self, name: str, region: Region, *, may_feed_itself: bool) -> Reacting:
        """Return what is done around a reactor."""
        require("region", region, Region)
        return Reacting(self, name, region, may_feed_itself=may_feed_itself)

    # Named places ------------------------------------------------------------------------------------------------

    def wait_for(self, name: str, global_sequence: int, timeout_seconds: float) -> None:
        """Return when the cursor or worker of that name has committed everything up to *global_sequence*.

        For reading one's own writes: wait for the ``global_sequence`` of a receipt. Events outside the name's region
        need no handling. Raises `WaitTimeoutError` after *timeout_seconds*, `InvalidRequestError` for an unknown name.
        """
        check_count("global_sequence", global_sequence)
        check_timeout(timeout_seconds)
        interests = self._wait_interests(name, global_sequence)
        if not wait_until(
            self._announcer,
            interests,
            lambda: self._has_applied(name, global_sequence),
            timeout_seconds,
            self._clock,
        ):
            raise WaitTimeoutError(name, global_sequence, timeout_seconds)

    def places(self) -> list[NamedPlace]:
        """List the named places with their regions and how far they are behind; damaged ones come first.

        The lag of a place costs as much as listing the events that it is behind by.
        """
        self._view()
        return self._places.all()

    def reset_place(self, name: str, place: Place | int | None) -> None:
        """Move a named place that nobody holds: behind a place or a global sequence; None is the beginning.

        Raises `PlaceConflictError` while a cursor or a worker holds it, `StalePlaceError`, and `CorruptStoreError`
        where its file is damaged: `delete_place` and a new cursor start over then.
        """
        self._view()
        if place is not None and not isinstance(place, int | Place):
            raise InvalidRequestError(f"place: found {type(place).__name__}, expected Place, int or None")
        self._places.reset(name, None if place is None else self._start_place(place))

    def delete_place(self, name: str) -> bool:
        """Remove a named place that nobody holds; whether there was one. A cursor of that name begins anew then."""
        self._view()
        return self._places.delete(name)

    # What was set aside ------------------------------------------------------------------------------------------

    def parked(self, name: str) -> list[ParkedEvent]:
        """List the events that the worker *name* has set aside and nobody has settled since, the oldest first."""
        return Parking(self, name).all()

    def retry_parked(self, name: str, event_ids: Sequence[UUID] | None = None) -> int:
        """Have the worker *name* try these parked events again, or all; how many. It does so when it next runs."""
        return Parking(self, name).retry(event_ids)

    def drop_parked(self, name: str, event_ids: Sequence[UUID] | None = None) -> int:
        """Give these parked events up, or all: they are no longer listed; how many. The events themselves stay."""
        return Parking(self, name).drop(event_ids)

    # Inside ------------------------------------------------------------------------------------------------------

    def _wait_interests(self, name: str, global_sequence: int) -> tuple[Interest, ...]:
        """Return what can make `_has_applied` true: a commit, and where it is not visible yet the event itself."""
        visible = self._view().last_sequence() >= global_sequence
        self._places.where(name)
        return (Interest(PLACE, name),) if visible else (Interest(PLACE, name), ANYTHING)

    def _has_applied(self, name: str, global_sequence: int) -> bool:
        """Whether nothing that the name has to handle lies at or before *global_sequence*."""
        view = self._view()
        region, place = self._places.where(name)
        if view.last_sequence() < global_sequence:
            return False
        behind = BEFORE_ALL if place is None else place.global_sequence
        if behind >= global_sequence:
            return True
        pending = next(self.selected(view, lambda view: view.select(region, behind, 1)), None)
        return pending is None or pending.global_sequence > global_sequence

    def _start_place(self, start: Start) -> Place | None:
        """Return the place behind which a new cursor begins."""
        match start:
            case "beginning":
                self._view()
                return None
            case "end":
                return self._place_behind(self._view().last_sequence())
            case Place():
                self._after(start)
                return start
            case int() if type(start) is int:
                last = self._view().last_sequence()
                if start > last:
                    raise InvalidRequestError(f"start: found {start}, expected at most {last}, the newest event")
                return self._place_behind(start)
            case _:
                raise InvalidRequestError(
                    f"start: found {type(start).__name__}, expected 'beginning', 'end', a Place or an int"
                )

    def _place_behind(self, global_sequence: int) -> Place | None:
        """Return the place of the newest event at or before *global_sequence*."""
        record = self._ask_view(lambda view: next(view.select(ALL_EVENTS, global_sequence + 1, 1, reverse=True), None))
        return None if record is None else self.load_records([record])[0].place

    def _has_event(self, key: UUID) -> bool:
        """Whether an event with that idempotency key has been written."""
        return self._ask_view(lambda view: view.find_key(key.bytes)) is not None

    def _lag(self, region: Region, place: Place | None) -> tuple[int, float]:
        """Return how many events of *region* lie behind *place*, and the age of the first of them in seconds."""
        view = self._view()
        behind = BEFORE_ALL if place is None else place.global_sequence
        count, first_ms = 0, None
        for record in self.selected(view, lambda view: view.select(region, behind, None)):
            first_ms = record.wall_ms if first_ms is None else first_ms
            count += 1
        seconds = 0.0 if first_ms is None else max(0.0, self._clock.now_us() / 1e6 - first_ms / 1e3)
        return count, seconds
