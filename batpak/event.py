"""Events: what is appended, what the index knows of one, and what a read returns."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from enum import Enum, IntFlag
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from blake3 import blake3

from batpak.coordinate import Coordinate
from batpak.errors import InvalidRequestError
from batpak.kind import EventKind
from batpak.receipt import Place

if TYPE_CHECKING:
    from batpak.payload import Payload

NO_STREAM: Final = -1
"""For ``expected_sequence``: this entity has no event yet."""

MAX_SEQUENCE: Final = 2**32 - 1
"""The highest place of an event in its entity: the formats keep it in 32 bits."""


class EventFlags(IntFlag):
    """Advice to readers; the store keeps the bits and never acts on them."""

    REQUIRES_ACK = 1
    TRANSACTIONAL = 2
    REPLAY = 8


NO_FLAGS: Final = EventFlags(0)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What the index knows of one event; no frame was read for it.

    *global_sequence* is its place in the journal, *sequence* its place in its entity (both from 0); *wall_ms* is
    the clock's reading in milliseconds since 1970, never below the one before it in the same entity.
    """

    event_id: UUID
    coordinate: Coordinate
    kind: EventKind
    global_sequence: int
    sequence: int
    wall_ms: int
    correlation_id: UUID
    causation_id: UUID | None
    flags: EventFlags
    payload_version: int


class Facts(Protocol):
    """What the index keeps of one event, in bytes and numbers."""

    @property
    def event_id(self) -> bytes:
        """The id, 16 bytes."""

    @property
    def entity(self) -> str:
        """Where it lives."""

    @property
    def scope(self) -> str:
        """The other half of that."""

    @property
    def kind(self) -> int:
        """The kind's number."""

    @property
    def global_sequence(self) -> int:
        """Its place in the journal."""

    @property
    def sequence(self) -> int:
        """Its place in its entity."""

    @property
    def wall_ms(self) -> int:
        """The clock's reading."""

    @property
    def correlation_id(self) -> bytes | None:
        """What it belongs to, where that is not its own id."""

    @property
    def causation_id(self) -> bytes | None:
        """What caused it."""

    @property
    def flags(self) -> int:
        """Advice to readers."""

    @property
    def payload_version(self) -> int:
        """The version of the payload's schema."""


_coordinate: Final = lru_cache(maxsize=4096)(Coordinate)
"""Checking the text of one costs more than finding it here."""


def entry_of(facts: Facts) -> IndexEntry:
    """Return the public form of what the index keeps."""
    event_id = UUID(bytes=facts.event_id)
    correlation = facts.correlation_id
    causation = facts.causation_id
    return IndexEntry(
        event_id,
        _coordinate(facts.entity, facts.scope),
        EventKind.from_value(facts.kind),
        facts.global_sequence,
        facts.sequence,
        facts.wall_ms,
        event_id if correlation is None else UUID(bytes=correlation),
        None if causation is None else UUID(bytes=causation),
        EventFlags(facts.flags) if facts.flags else NO_FLAGS,
        facts.payload_version,
    )


class Content(Protocol):
    """What an event's frame says that the index does not keep."""

    @property
    def timestamp_us(self) -> int:
        """The clock's raw reading."""

    @property
    def prev_hash(self) -> bytes:
        """The predecessor's hash."""

    @property
    def extensions(self) -> dict[str, object]:
        """What is rare, by name."""


class Codec(Protocol):
    """How a frame's body is read; there is one for each format."""

    def facts(self, body: bytes) -> Facts:
        """Return what the index keeps of this event too."""

    def content(self, body: bytes) -> Content:
        """Return the rest of what the frame says."""

    def event_hash(self, body: bytes) -> bytes:
        """Return the event's own hash."""

    def raw(self, body: bytes) -> bytes:
        """Return the payload as it is stored."""

    def payload(self, body: bytes) -> Payload:
        """Return the decoded payload; one that is sealed is refused."""


class _NotYet(Enum):
    """The type of `NOT_YET`."""

    NOT_YET = 0


NOT_YET: Final = _NotYet.NOT_YET
"""In the place of a payload that nobody has asked for."""


class _Described:
    """Every attribute of an index entry; the entry is made when something of it is first asked for."""

    __slots__ = ("_facts", "_made")
    _facts: Facts
    _made: IndexEntry | None

    def _known(self) -> Facts:
        """Return what there is to tell of."""
        return self._facts

    @property
    def entry(self) -> IndexEntry:
        """What the index knows of this event."""
        made = self._made
        if made is None:
            made = self._made = entry_of(self._known())
        return made

    @property
    def event_id(self) -> UUID:
        """The event's id; for a keyed append this is the key."""
        return self.entry.event_id

    @property
    def coordinate(self) -> Coordinate:
        """Where the event lives."""
        return self.entry.coordinate

    @property
    def kind(self) -> EventKind:
        """What kind of event it is."""
        return self.entry.kind

    @property
    def global_sequence(self) -> int:
        """Its place in the journal, from 0."""
        return self._known().global_sequence

    @property
    def sequence(self) -> int:
        """Its place in its entity, from 0."""
        return self.entry.sequence

    @property
    def wall_ms(self) -> int:
        """The clock's reading in milliseconds, never below the entity's event before."""
        return self.entry.wall_ms

    @property
    def correlation_id(self) -> UUID:
        """What the event belongs to; its own id where the caller named nothing."""
        return self.entry.correlation_id

    @property
    def causation_id(self) -> UUID | None:
        """The event that caused this one."""
        return self.entry.causation_id

    @property
    def flags(self) -> EventFlags:
        """Advice to readers."""
        return self.entry.flags

    @property
    def payload_version(self) -> int:
        """The version of the payload's schema; 0 where none was given."""
        return self.entry.payload_version


class Notification(_Described):
    """What a subscription delivers: the facts of an event that can be read by now, without its payload.

    Every attribute of `IndexEntry` is here too. Two notifications are equal when they are of the same event.
    """

    __slots__ = ("event_hash",)

    def __init__(self, facts: Facts, event_hash: bytes) -> None:
        """Tell of *facts*."""
        self._facts = facts
        self._made = None
        self.event_hash = event_hash

    @property
    def place(self) -> Place:
        """Where the event stands in the journal, for ``after=``."""
        return Place(self._facts.global_sequence, self.event_hash)

    def __eq__(self, other: object) -> bool:
        """Compare entry and hash."""
        if not isinstance(other, Notification):
            return NotImplemented
        return (self.entry, self.event_hash) == (other.entry, other.event_hash)

    def __hash__(self) -> int:
        """Hash by the event's own hash."""
        return hash(self.event_hash)

    def __repr__(self) -> str:
        """Say which event this is of."""
        entry = self.entry
        return f"<Notification {entry.global_sequence} {entry.coordinate}#{entry.sequence} {entry.event_id}>"


class StoredEvent(_Described):
    """One event as the journal holds it, checked when it was read.

    Every attribute of `IndexEntry` is here too. The payload is decoded on first access and kept; ``raw`` is the
    MessagePack that was stored. Two stored events are equal when their entries and their hashes are.
    """

    # What is not set at once is made when it is first asked for, and then kept.
    __slots__ = ("_body", "_codec", "_content", "_content_hash", "_event_hash", "_payload")

    def __init__(self, body: bytes, codec: Codec, facts: Facts | None = None) -> None:
        """Tell of the frame with that *body*, which has been checked; *facts* are those that the index has given."""
        self._body = body
        self._codec = codec
        self._facts = facts  # type: ignore[assignment] # `_known` is how to ask for them
        self._made = None
        self._payload: Payload | _NotYet = NOT_YET

    def _known(self) -> Facts:
        """Return what the index knows: what it has given, or the same from the frame."""
        facts: Facts | None = self._facts
        if facts is None:
            facts = self._facts = self._codec.facts(self._body)
        return facts

    @property
    def _rest(self) -> Content:
        """What else the frame says."""
        try:
            return self._content
        except AttributeError:
            self._content: Content = self._codec.content(self._body)
            return self._content

    @property
    def timestamp_us(self) -> int:
        """The clock's raw reading at the call, in microseconds since 1970."""
        return self._rest.timestamp_us

    @property
    def prev_hash(self) -> bytes:
        """The hash of the entity's event before this one; 32 zero bytes for the first."""
        return self._rest.prev_hash

    @property
    def event_hash(self) -> bytes:
        """The hash that the next event of this entity links to."""
        try:
            return self._event_hash
        except AttributeError:
            self._event_hash: bytes = self._codec.event_hash(self._body)
            return self._event_hash

    @property
    def raw(self) -> bytes:
        """The payload as it is stored."""
        return self._codec.raw(self._body)

    @property
    def extensions(self) -> dict[str, object]:
        """What is rare or was written by a newer version, by name."""
        return self._rest.extensions

    @property
    def content_hash(self) -> bytes:
        """BLAKE3 of the stored payload bytes."""
        try:
            return self._content_hash
        except AttributeError:
            self._content_hash: bytes = blake3(self.raw).digest()
            return self._content_hash

    @property
    def payload(self) -> Payload:
        """The decoded payload.

        Raises `EncryptedPayloadError` where the original sealed it, `PayloadError` where it is not MessagePack.
        """
        payload = self._payload
        if payload is NOT_YET:
            payload = self._payload = self._codec.payload(self._body)
        return payload

    @property
    def place(self) -> Place:
        """Where this event stands in the journal, for ``after=``."""
        return Place(self._known().global_sequence, self.event_hash)

    def __eq__(self, other: object) -> bool:
        """Compare entry and hashes; the hash stands for the payload."""
        if not isinstance(other, StoredEvent):
            return NotImplemented
        return (self.entry, self.event_hash, self.content_hash) == (other.entry, other.event_hash, other.content_hash)

    def __hash__(self) -> int:
        """Hash by the event's own hash."""
        return hash(self.event_hash)

    def __repr__(self) -> str:
        """Say which event this is; the payload stays out of logs."""
        entry = self.entry
        return f"<StoredEvent {entry.global_sequence} {entry.coordinate}#{entry.sequence} {entry.event_id}>"


@dataclass(frozen=True, slots=True)
class NewEvent:
    """One item of a batch: the arguments of `append`, and *caused_by*, the index of an earlier item."""

    coordinate: Coordinate
    kind: EventKind
    payload: Payload
    _: KW_ONLY
    expected_sequence: int | None = None
    idempotency_key: UUID | str | None = None
    correlation_id: UUID | None = None
    causation_id: UUID | None = None
    flags: EventFlags = NO_FLAGS
    caused_by: int | None = None

    def __post_init__(self) -> None:
        """Refuse two causes for one event."""
        if self.caused_by is not None and self.causation_id is not None:
            message = "an item has caused_by or causation_id, found both"
            raise InvalidRequestError(message)
