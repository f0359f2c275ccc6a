"""The rows of a tail: packed in chunks of fixed size that are never resized, with their names, hashes and links."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from batpak.storage.row import (
    BITS_OFFSET,
    FACTS,
    FACTS_OFFSET,
    LINKED,
    NO_LINK,
    PLACE,
    ROW,
    ROW_BYTES,
    FramePlace,
    IdSpan,
    Link,
    Record,
    record_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHUNK_ROWS: Final = 1024
CHUNK_SHIFT: Final = 10
CHUNK_MASK: Final = CHUNK_ROWS - 1
HASH_BYTES: Final = 32
HASH: Final = struct.Struct("32s")
_U64: Final = struct.Struct("<Q")

# Measured, with the objects of the interpreter around each, and with ids and postings made.
_BYTES_PER_ROW: Final = ROW_BYTES + HASH_BYTES + 240
_BYTES_PER_NAME: Final = 600
_BYTES_PER_LINK: Final = 400


class Entity:
    """One entity of the tail: its number, its rows, and every list that a row of it is appended to."""

    __slots__ = ("ascending", "last_sequence", "name", "number", "postings", "rows")

    def __init__(self, name: str, number: int, namespaces: list[list[int]]) -> None:
        """Start without rows, inside *namespaces*."""
        self.name = name
        self.number = number
        self.rows: list[int] = []
        self.postings = (self.rows, *namespaces)
        self.ascending = True
        self.last_sequence = 0


class Scope:
    """One scope of the tail: its number and its rows."""

    __slots__ = ("name", "number", "rows")

    def __init__(self, name: str, number: int) -> None:
        """Start without rows."""
        self.name = name
        self.number = number
        self.rows: list[int] = []


class TailRows:
    """What a tail holds, row by row; `Tail` adds the ways to find a row."""

    id_span: IdSpan | None = None
    """Any id may be here."""

    def __init__(self, first_row_hint: int) -> None:
        """Start empty; *first_row_hint* is the global sequence that the first row is expected to have."""
        self._first_hint = first_row_hint
        self._count = 0
        self._chunks: list[bytearray] = []
        self._hashes: list[bytearray] = []
        self._entities: list[Entity] = []
        self._scopes: list[Scope] = []
        self._links: dict[int, Link] = {}

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self._count

    @property
    def first_sequence(self) -> int:
        """The global sequence of the first row; of an empty tail, the one that is expected."""
        return self.global_sequence(0) if self._count else self._first_hint

    @property
    def last_sequence(self) -> int:
        """The global sequence of the last row; of an empty tail, the one before the expected."""
        return self.global_sequence(self._count - 1) if self._count else self._first_hint - 1

    @property
    def bytes_used(self) -> int:
        """About how much memory the tail takes, in bytes."""
        names = len(self._entities) + len(self._scopes)
        return self._count * _BYTES_PER_ROW + names * _BYTES_PER_NAME + len(self._links) * _BYTES_PER_LINK

    def record(self, row: int) -> Record:
        """Return all facts of one row, its hash too."""
        facts = ROW.unpack_from(self._chunks[row >> CHUNK_SHIFT], (row & CHUNK_MASK) * ROW_BYTES)
        link = self._links[row] if facts[-1] & LINKED else NO_LINK
        names = self._entities[facts[6]].name, self._scopes[facts[7]].name
        return record_of(facts, names, link, self.event_hash(row))

    def records(self, rows: Iterator[int]) -> Iterator[Record]:
        """Yield all facts of some rows."""
        return map(self.record, rows)

    def places(self, rows: Sequence[int]) -> list[FramePlace]:
        """Return where the frames of some rows lie."""
        chunks, unpack = self._chunks, PLACE.unpack_from
        return [unpack(chunks[row >> CHUNK_SHIFT], (row & CHUNK_MASK) * ROW_BYTES) for row in rows]

    def place_in_span(self, event_id: bytes, number: int) -> FramePlace | None:
        """Return None: a tail has no span."""

    def facts(self, row: int) -> tuple[int, ...]:
        """Return entity, scope, sequence, kind and bits of a row."""
        return FACTS.unpack_from(self._chunks[row >> CHUNK_SHIFT], (row & CHUNK_MASK) * ROW_BYTES + FACTS_OFFSET)

    def global_sequence(self, row: int) -> int:
        """Return the global sequence of a row."""
        (found,) = _U64.unpack_from(self._chunks[row >> CHUNK_SHIFT], (row & CHUNK_MASK) * ROW_BYTES + 16)
        return int(found)

    def wall_ms(self, row: int) -> int:
        """Return the wall clock of a row, in milliseconds."""
        (found,) = _U64.unpack_from(self._chunks[row >> CHUNK_SHIFT], (row & CHUNK_MASK) * ROW_BYTES + 24)
        return int(found)

    def event_id(self, row: int) -> bytes:
        """Return the id of a row."""
        at = (row & CHUNK_MASK) * ROW_BYTES
        return bytes(self._chunks[row >> CHUNK_SHIFT][at : at + 16])

    def event_hash(self, row: int) -> bytes:
        """Return the hash of a row."""
        at = (row & CHUNK_MASK) * HASH_BYTES
        return bytes(self._hashes[row >> CHUNK_SHIFT][at : at + HASH_BYTES])

    def hashes(self, start: int, stop: int) -> list[bytes]:
        """Return the hashes of the rows [start, stop)."""
        hashes: list[bytes] = []
        while start < stop:
            end = min(stop, (start | CHUNK_MASK) + 1)
            base = start & ~CHUNK_MASK
            chunk = self._hashes[start >> CHUNK_SHIFT][(start - base) * HASH_BYTES : (end - base) * HASH_BYTES]
            hashes += [event_hash for (event_hash,) in HASH.iter_unpack(chunk)]
            start = end
        return hashes

    def link(self, row: int) -> Link:
        """Return the correlation and causation of a row, as far as it has them."""
        at = (row & CHUNK_MASK) * ROW_BYTES + BITS_OFFSET
        return self._links[row] if self._chunks[row >> CHUNK_SHIFT][at] & LINKED else NO_LINK

    def correlation(self, row: int) -> bytes:
        """Return the correlation of a row, its own id where it has no other."""
        correlation_id = self.link(row)[0]
        return self.event_id(row) if correlation_id is None else correlation_id

    def packed(self, start: int, stop: int) -> bytearray:
        """Return a copy of the packed rows [start, stop), entities and scopes by their numbers here."""
        rows = bytearray()
        while start < stop:
            end = min(stop, (start | CHUNK_MASK) + 1)
            base = start & ~CHUNK_MASK
            rows += self._chunks[start >> CHUNK_SHIFT][(start - base) * ROW_BYTES : (end - base) * ROW_BYTES]
            start = end
        return rows

    def entities(self) -> list[Entity]:
        """Return a copy of the list of entities, by number; some may have no visible row."""
        return self._entities[:]

    def scopes(self) -> list[Scope]:
        """Return a copy of the list of scopes, by number; some may have no visible row."""
        return self._scopes[:]
