"""Events that a worker has set aside: each is an event of its own, which points at the one that failed.

They lie in the entity ``batpak.parked:<name>``, of kind 0x0010, which reads show only with ``include_system``. The
payload says what was done: ``parked`` (with the error's type and the number of attempts), ``retry`` (somebody wants
another attempt), ``handled`` (it succeeded) or ``dropped``. The causation is the event that it is about, so
`Store.effects` of that event shows its history. What has been parked and neither handled nor dropped since is parked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from uuid import UUID

from batpak.actors.announcer import ENTITY, Interest
from batpak.coordinate import MAX_COORDINATE_BYTES, Coordinate
from batpak.delivery.reactor import ANY_SEQUENCE, Reaction, name_of
from batpak.errors import InvalidRequestError
from batpak.kind import PARKED, EventKind
from batpak.reports import ParkedEvent
from batpak.request import check_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batpak.delivering import Delivering
    from batpak.event import StoredEvent
    from batpak.payload import Payload
    from batpak.region import Region

NAMESPACE: Final = "batpak.parked:"
SCOPE: Final = "batpak"
MAX_NAME_BYTES: Final = MAX_COORDINATE_BYTES - len(NAMESPACE)
NO_ID: Final = UUID(int=0)
_KIND: Final = EventKind.from_value(PARKED)


class Parking:
    """What the worker *name* has set aside."""

    __slots__ = ("_coordinate", "_seen", "_store", "interest", "name")

    def __init__(self, store: Delivering, name: str) -> None:
        """Look after the parked events of *name*."""
        name = check_name(name)
        if len(name.encode()) > MAX_NAME_BYTES:
            raise InvalidRequestError(f"name: found {len(name.encode())} bytes, expected at most {MAX_NAME_BYTES}")
        self.name = name
        self._store = store
        self._coordinate = Coordinate(NAMESPACE + name, SCOPE)
        self._seen = -1
        self.interest = Interest(ENTITY, self._coordinate.entity)

    def lies_in(self, region: Region) -> bool:
        """Whether *region* holds what is parked: it would come back, and so on without end."""
        parked = Reaction(self._coordinate, _KIND, ANY_SEQUENCE, NO_ID)
        return replace(region, sequences=None, correlation_id=None).matches(parked)

    def all(self) -> list[ParkedEvent]:
        """Return what is parked now, in the order in which it was first set aside."""
        parked: dict[UUID, ParkedEvent] = {}
        for event in self._store.read_stream(self._coordinate.entity):
            about, payload = event.causation_id, event.payload
            if about is None or not isinstance(payload, dict):
                continue
            match payload:
                case {
                    "did": "parked",
                    "error": str(error),
                    "attempts": int(attempts),
                    "global_sequence": int(sequence),
                }:
                    before = parked.get(about)
                    tried = attempts + (before.attempts if before else 0)
                    parked[about] = ParkedEvent(about, sequence, error, tried, retrying=False)
                case {"did": "retry"} if about in parked:
                    parked[about] = replace(parked[about], retrying=True)
                case {"did": "handled" | "dropped"}:
                    parked.pop(about, None)
        return list(parked.values())

    def wanted(self) -> list[StoredEvent]:
        """Return the parked events of which somebody wants another attempt; costs nothing where nothing has changed."""
        newest = self._store.latest(self._coordinate.entity)
        if newest is None or newest.sequence == self._seen:
            return []
        wanted = [each.event_id for each in self.all() if each.retrying]
        self._seen = newest.sequence
        return self._store.get_many(wanted)

    def look_again(self) -> None:
        """Have `wanted` return once more what it returned and nobody has settled."""
        self._seen = -1

    def park(self, event: StoredEvent, error: Exception, attempts: int) -> None:
        """Set *event* aside."""
        self._note(event, "parked", error=name_of(error), attempts=attempts)

    def settle(self, event: StoredEvent) -> None:
        """Note that *event* has been handled after all."""
        self._note(event, "handled")

    def retry(self, event_ids: Sequence[UUID] | None) -> int:
        """Ask for another attempt at these events, or at all; how many that are."""
        return self._ask_for("retry", event_ids)

    def drop(self, event_ids: Sequence[UUID] | None) -> int:
        """Give these events up, or all; how many that were."""
        return self._ask_for("dropped", event_ids)

    def _ask_for(self, did: str, event_ids: Sequence[UUID] | None) -> int:
        """Note *did* for each of the events that is parked."""
        parked = {each.event_id: each for each in self.all()}
        wanted = list(parked) if event_ids is None else list(event_ids)
        for event_id in wanted:
            if event_id not in parked:
                raise InvalidRequestError(f"event_ids: found {event_id}, expected one that {self.name!r} has parked")
        for event in self._store.get_many(wanted):
            self._note(event, did)
        return len(wanted)

    def _note(self, event: StoredEvent, did: str, **facts: str | int) -> None:
        """Append what was done about *event*."""
        payload: dict[str, Payload] = {"did": did, "global_sequence": event.global_sequence}
        payload.update(facts)
        self._store._append_system(self._coordinate, _KIND, payload, event)
