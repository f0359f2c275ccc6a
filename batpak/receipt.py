"""Receipts say where an event was written, places name that point of the journal, anchors pin all that is before it."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Final, cast
from uuid import UUID

from batpak.errors import InvalidRequestError

HASH_BYTES: Final = 32
"""The length of a BLAKE3 hash."""

NO_SEQUENCE: Final = -1
"""In the place of a sequence that is not known."""

MAX_GLOBAL_SEQUENCE: Final = 2**64 - 1
"""The highest place in a journal: the formats keep it in 64 bits."""

# 20 digits, a dot and 43 characters of base64.
_MAX_TOKEN_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One point of a journal: a global sequence, and the hash of the event that stands there.

    The hash is what tells the event from another one that was given the same sequence after a power cut.
    ``str(place)`` is a token for URLs and headers, which `parse` takes back. Places order by their sequence.
    Raises `InvalidRequestError` for a sequence outside 64 bits and a hash that is not 32 bytes.
    """

    global_sequence: int
    event_hash: bytes

    def __post_init__(self) -> None:
        """Refuse what cannot be a place."""
        _check_sequence("place", "global_sequence", self.global_sequence)
        _check_hash("place", self.event_hash)

    def __str__(self) -> str:
        """Give the token: the sequence in decimal, a dot, the hash in URL-safe base64 without padding."""
        return f"{self.global_sequence}.{_encoded(self.event_hash)}"

    @classmethod
    def parse(cls, token: str) -> Place:
        """Give the place whose token this is; `InvalidRequestError` for any other text."""
        place = _parsed(token)
        # Base64 has several spellings of the same bytes, and so has a number; only one of them is the token.
        if place is None or str(place) != token:
            message = "place's token: found other text, expected the str() of a Place"
            raise InvalidRequestError(message)
        return place


def _parsed(token: object) -> Place | None:
    if not isinstance(token, str) or len(token) > _MAX_TOKEN_CHARACTERS:
        return None
    digits, _, encoded = token.partition(".")
    try:
        return Place(int(digits), _decoded(encoded))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Anchor:
    """What a journal was at one moment, to keep where nobody who can write to the journal can.

    *events* is how many there were, *place* that of the last of them (None where there was none), and *digest* the
    root of a Merkle tree over the hashes of all of them (docs/format.md, section 5). ``verify_chain(anchor=...)``
    says whether the journal still begins with exactly these. ``str(anchor)`` is a token that `parse` takes back.
    Raises `InvalidRequestError` for a number that cannot be and a digest that is not 32 bytes.
    """

    events: int
    place: Place | None
    digest: bytes

    def __post_init__(self) -> None:
        """Refuse what cannot be an anchor."""
        _check_sequence("anchor", "events", self.events)
        if (self.place is None) != (self.events == 0) or not isinstance(self.place, Place | None):
            message = f"anchor's place: found {self.place!r} with {self.events} events, expected a Place, None for none"
            raise InvalidRequestError(message)
        _check_hash("anchor", self.digest, "digest")

    def __str__(self) -> str:
        """Give the token: the number of events, the digest in URL-safe base64, the place's token, with dots between."""
        return f"{self.events}.{_encoded(self.digest)}" + ("" if self.place is None else f".{self.place}")

    @classmethod
    def parse(cls, token: str) -> Anchor:
        """Give the anchor whose token this is; `InvalidRequestError` for any other text."""
        anchor = _parsed_anchor(token)
        if anchor is None or str(anchor) != token:
            message = "anchor's token: found other text, expected the str() of an Anchor"
            raise InvalidRequestError(message)
        return anchor


def _parsed_anchor(token: object) -> Anchor | None:
    if not isinstance(token, str) or len(token) > 2 * _MAX_TOKEN_CHARACTERS + 1:
        return None
    digits, _, rest = token.partition(".")
    encoded, _, place = rest.partition(".")
    try:
        return Anchor(int(digits), _parsed(place), _decoded(encoded))
    except ValueError:
        return None


def _encoded(value: bytes) -> str:
    return urlsafe_b64encode(value).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=")


class _Written:
    """A receipt in the making: what a writer knows, set without the checks of values that users make."""

    __slots__ = ("_id", "duplicate", "durable", "event_hash", "event_id", "global_sequence", "sequence")

    def __init__(self, event_id: bytes, global_sequence: int, sequence: int, event_hash: bytes) -> None:
        self._id = event_id
        self.global_sequence = global_sequence
        self.sequence = sequence
        self.event_hash = event_hash
        self.durable = False
        self.duplicate = False


@dataclass(frozen=True)
class Receipt(_Written):
    """The proof that an event is written and visible, and where.

    *sequence* is its place in its entity, *global_sequence* its place in the journal, both from 0. *durable* says
    whether an fsync that covers it had returned when the receipt was made. *duplicate* is true when an idempotency
    key was known already: the receipt is that of the first event and nothing was written. *sequence* is -1 in the one
    case that nobody knows it: the key of an event that the original compacted away.
    """

    __slots__ = ()

    event_id: UUID
    global_sequence: int
    sequence: int
    event_hash: bytes
    durable: bool
    duplicate: bool

    def __post_init__(self) -> None:
        """Refuse what cannot have been written."""
        _check_sequence("receipt", "global_sequence", self.global_sequence)
        if self.sequence != NO_SEQUENCE:
            _check_sequence("receipt", "sequence", self.sequence)
        _check_hash("receipt", self.event_hash)

    def __getattr__(self, name: str) -> UUID:
        """Give the id, the first time that it is asked for."""
        if name != "event_id":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        event_id = UUID(bytes=self._id)
        object.__setattr__(self, "event_id", event_id)
        return event_id

    def __reduce__(self) -> tuple[type[Receipt], tuple[object, ...]]:
        facts = self.event_id, self.global_sequence, self.sequence, self.event_hash, self.durable, self.duplicate
        return Receipt, facts

    @property
    def place(self) -> Place:
        """Where the event stands in the journal, for ``after=``."""
        return Place(self.global_sequence, self.event_hash)


def written_receipt(event_id: bytes, global_sequence: int, sequence: int, event_hash: bytes) -> Receipt:
    """Return the receipt of an event that is being written; its id becomes a `UUID` when somebody asks for it."""
    receipt = _Written(event_id, global_sequence, sequence, event_hash)
    receipt.__class__ = Receipt  # frozen from here on: a third of what it costs to set the fields of a frozen one
    return cast("Receipt", receipt)


def durable_receipt(receipt: Receipt) -> Receipt:
    """Return *receipt*, which nobody has been given yet, as that of an event that an fsync covers."""
    object.__setattr__(receipt, "durable", True)  # frozen for everybody else
    return receipt


def _check_sequence(value: str, part: str, found: object) -> None:
    if type(found) is not int or not 0 <= found <= MAX_GLOBAL_SEQUENCE:
        shown = found if type(found) is int else f"a {type(found).__name__}"
        message = f"{value}'s {part}: found {shown}, expected an int from 0 to {MAX_GLOBAL_SEQUENCE}"
        raise InvalidRequestError(message)


def _check_hash(value: str, found: object, part: str = "event_hash") -> None:
    if type(found) is not bytes or len(found) != HASH_BYTES:
        shown = f"{len(found)} bytes" if type(found) is bytes else f"a {type(found).__name__}"
        message = f"{value}'s {part}: found {shown}, expected {HASH_BYTES} bytes"
        raise InvalidRequestError(message)
