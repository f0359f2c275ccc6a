"""Regions: which events a read, a subscription or a check is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from batpak.coordinate import Coordinate, check_text
from batpak.errors import InvalidCoordinateError, InvalidRegionError
from batpak.kind import MAX_CATEGORY, SYSTEM_KINDS, EventKind


class EntryLike(Protocol):
    """What a region looks at in an event, an index entry or a notification."""

    @property
    def coordinate(self) -> Coordinate:
        """Where it lives."""
        ...

    @property
    def kind(self) -> EventKind:
        """What it is."""
        ...

    @property
    def sequence(self) -> int:
        """Its place in its entity, from 0."""
        ...

    @property
    def correlation_id(self) -> UUID:
        """What it belongs to."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A filter of events; its parts intersect, and a part that is None lets everything through.

    * *entity*: a namespace prefix; ``order`` matches ``order`` and ``order:42``, not ``orders``.
    * *scope*, *kind*, *correlation_id*: exactly this one.
    * *category*: every kind of this category, 0x0 to 0xF.
    * *sequences*: (first, last) of the event's sequence in its entity, from 0, both inclusive.
    * *include_system*: whether the kinds in `SYSTEM_KINDS` are shown; no other part shows them.

    Raises `InvalidRegionError`, which names the part, for anything that no event could match.
    """

    entity: str | None = None
    scope: str | None = None
    kind: EventKind | None = None
    category: int | None = None
    sequences: tuple[int, int] | None = None
    correlation_id: UUID | None = None
    include_system: bool = False

    def __post_init__(self) -> None:
        """Refuse parts of another type or out of their limits."""
        if self.entity is not None:
            object.__setattr__(self, "entity", _text("entity", self.entity))
        if self.scope is not None:
            object.__setattr__(self, "scope", _text("scope", self.scope))
        _require("kind", self.kind, self.kind is None or isinstance(self.kind, EventKind), "an EventKind")
        _require("category", self.category, self.category is None or _is_category(self.category), "an int from 0 to 15")
        ordered = self.sequences is None or _is_ordered_pair(self.sequences)
        _require("sequences", self.sequences, ordered, "a tuple of two ints, 0 <= first <= last")
        _require(
            "correlation_id",
            self.correlation_id,
            self.correlation_id is None or isinstance(self.correlation_id, UUID),
            "a UUID",
        )
        _require("include_system", self.include_system, type(self.include_system) is bool, "a bool")

    @property
    def parts(self) -> int:
        """How many parts are set, *include_system* not among them; 0 matches every event that is not hidden."""
        named = (self.entity, self.scope, self.kind, self.category, self.sequences, self.correlation_id)
        return len(named) - named.count(None)

    def matches(self, entry: EntryLike) -> bool:
        """Whether *entry* lies in the region, by every part of it."""
        kind = entry.kind
        return (
            (self.include_system or kind.value not in SYSTEM_KINDS)
            and (self.kind is None or kind == self.kind)
            and (self.category is None or kind.category == self.category)
            and (self.scope is None or entry.coordinate.scope == self.scope)
            and (self.entity is None or is_within(self.entity, entry.coordinate.entity))
            and (self.sequences is None or self.sequences[0] <= entry.sequence <= self.sequences[1])
            and (self.correlation_id is None or entry.correlation_id == self.correlation_id)
        )


def is_within(prefix: str, entity: str) -> bool:
    """Whether *entity* is *prefix* itself or lies in its namespace, ``prefix:``."""
    return entity.startswith(prefix) and (len(entity) == len(prefix) or entity[len(prefix)] == ":")


def _text(part: str, found: str) -> str:
    try:
        return check_text(part, found)
    except InvalidCoordinateError as error:
        raise InvalidRegionError(part, error.found, error.expected) from None


def _is_category(found: object) -> bool:
    return type(found) is int and 0 <= found <= MAX_CATEGORY


def _is_ordered_pair(found: object) -> bool:
    match found:
        case (int() as first, int() as last) if type(found) is tuple and type(first) is type(last) is int:
            return 0 <= first <= last
        case _:
            return False


def _require(part: str, found: object, condition: bool, expected: str) -> None:  # noqa: FBT001
    if not condition:
        raise InvalidRegionError(part, _shown(found), expected)


def _shown(found: object) -> str:
    is_number = type(found) is int or (type(found) is tuple and all(type(item) is int for item in found))
    return str(found) if is_number else f"a {type(found).__name__}"
