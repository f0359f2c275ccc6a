"""What a worker hands its events to: a handler of batches, or a reactor that answers events with events."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from batpak.coordinate import Coordinate
from batpak.delivery.course import Continue, Verdict
from batpak.errors import InvalidRequestError, ReactorError
from batpak.event import NO_FLAGS, EventFlags, NewEvent
from batpak.ids import operation_key
from batpak.kind import EventKind
from batpak.log import DEBUG
from batpak.reading import require

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batpak.delivering import Delivering
    from batpak.event import StoredEvent
    from batpak.payload import Payload
    from batpak.region import Region

ANY_SEQUENCE: Final = 0


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a region looks at in an event that has not been appended."""

    coordinate: Coordinate
    kind: EventKind
    sequence: int
    correlation_id: UUID


class Reactions:
    """What a reactor answers one event with: a batch that is written when the reactor returns, whole or not at all.

    Each has the event's correlation, the event as its cause, and an idempotency key made of the reactor's name, the
    event and the reaction's place in the batch. A reactor that raises has written nothing.
    """

    __slots__ = ("_event", "_items", "_name", "_own")

    def __init__(self, name: str, event: StoredEvent, own: Region | None) -> None:
        """Collect reactions of *name* to *event*; none may lie in the region *own*."""
        self._name = name
        self._event = event
        self._own = own
        self._items: list[NewEvent] = []

    def append(
        self, coordinate: Coordinate, kind: EventKind, payload: Payload, *, flags: EventFlags = NO_FLAGS
    ) -> None:
        """Add a reaction.

        One that lies in the reactor's own region raises `InvalidRequestError`: it would come back to the reactor, and
        so on without end. Where that is meant, say ``may_feed_itself=True``.
        """
        require("coordinate", coordinate, Coordinate)
        require("kind", kind, EventKind)
        if self._own is not None:
            reaction = Reaction(coordinate, kind, ANY_SEQUENCE, self._event.correlation_id)
            if self._own.matches(reaction):
                raise InvalidRequestError(
                    f"reaction: found {coordinate} of kind {kind.value:#06x}, which the reactor {self._name!r} itself "
                    "listens to, expected one outside its region, or may_feed_itself=True"
                )
        self._items.append(
            NewEvent(
                coordinate,
                kind,
                payload,
                idempotency_key=reaction_key(self._name, self._event, len(self._items)),
                correlation_id=self._event.correlation_id,
                causation_id=self._event.event_id,
                flags=flags,
            )
        )

    def __len__(self) -> int:
        return len(self._items)

    @property
    def items(self) -> Sequence[NewEvent]:
        """The batch, as it will be written."""
        return tuple(self._items)


def reaction_key(name: str, event: StoredEvent, index: int) -> UUID:
    """Return the idempotency key of one reaction."""
    return operation_key(name, str(event.event_id), str(index))


class Reacting:
    """What is done around a reactor: look whether an event has been answered, collect, write."""

    __slots__ = ("_name", "_own", "_store")

    def __init__(self, store: Delivering, name: str, region: Region, *, may_feed_itself: bool) -> None:
        """Answer events of *region* under *name*."""
        self._store = store
        self._name = name
        self._own = None if may_feed_itself else replace(region, sequences=None)

    def begin(self, event: StoredEvent) -> Reactions | None:
        """Return where to collect the reactions to *event*; None where they have been written before a crash."""
        if self._store._has_event(reaction_key(self._name, event, 0)):
            return None
        return Reactions(self._name, event, self._own)

    def finish(self, event: StoredEvent, reactions: Reactions) -> None:
        """Write the reactions to *event*, as one batch; what may not be written is the reactor's fault."""
        try:
            if len(reactions):
                self._store.append_batch(reactions.items)
        except InvalidRequestError as error:
            raise self.failed(event, error) from error
        log = self._store._log
        if log.passes(DEBUG):
            log.emit(
                DEBUG,
                "reactor.reacted",
                name=self._name,
                event_id=str(event.event_id),
                global_sequence=event.global_sequence,
                reactions=len(reactions),
            )

    def failed(self, event: StoredEvent, error: Exception) -> ReactorError:
        """Return what is told of an *error* at *event*."""
        failure = ReactorError(self._name, event.event_id, type(error).__name__)
        failure.__cause__ = error
        return failure


def name_of(error: Exception) -> str:
    """Return the name of an error's type, of the cause where a reactor failed: what logs and parked events tell."""
    cause = error.__cause__ if isinstance(error, ReactorError) and error.__cause__ else error
    return type(cause).__name__


def checked_verdict(found: object) -> Verdict:
    """Return what a handler says; None is `Continue`."""
    if found is None:
        return Continue
    if isinstance(found, Verdict):
        return found
    raise InvalidRequestError(
        f"handler's result: found {type(found).__name__}, expected Continue, Stop, StopAndRollback or None"
    )
