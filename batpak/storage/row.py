"""One row of the index: the facts of one event, and what every part of the index answers.

The index is a tail in memory and runs on disk. Both are *parts*: ordered columns of rows. A row is named by its ordinal
in its part, 0 to count - 1, and rows are ordered by (global sequence, segment, offset). Offsets inside a row:

    ======  ====  =====================================================================
    offset  size  field (integers are little-endian and unsigned)
    ======  ====  =====================================================================
    0       16    event id
    16      8     global sequence
    24      8     wall clock, milliseconds since 1970
    32      4     segment
    36      4     offset of the frame in its segment
    40      4     length of the frame, its eight leading bytes included
    44      4     entity: its number in the part (in a run: its rank among the names)
    48      4     scope: likewise
    52      4     sequence: the event's place in its entity
    56      2     kind
    58      2     payload version
    60      1     flags of the event
    61      1     bits: what the index itself notes, below
    62      2     zero
    ======  ====  =====================================================================
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batpak.region import Region
    from batpak.storage.bloom import Spot

ROW: Final = struct.Struct("<16sQQIIIIIIHHBB2x")
ROW_BYTES: Final = ROW.size
FACTS: Final = struct.Struct("<IIIHxxxB")
"""Entity, scope, sequence, kind and bits of a row, read at `FACTS_OFFSET`."""
FACTS_OFFSET: Final = 44
BITS_OFFSET: Final = 61
PLACE: Final = struct.Struct("<16s16xIII17xB2x")
"""Of a row what `FramePlace` is made of; as long as a row."""

KEY: Final = 1
"""The event's id is an idempotency key."""
LINKED: Final = 2
"""The event has a correlation other than its own id, or a causation; parts set this bit themselves."""
BRANCH: Final = 4
"""The event is on another lane than 0; it is never the head of its entity."""
HIDDEN: Final = 8
"""A fence of the original cancelled the event: no read returns it; heads and look-ups by id count it."""
FOREIGN: Final = 16
"""The event's frame is of segment format 1."""
SYSTEM: Final = 32
"""The event's kind is hidden unless a region asks for system events."""

CATEGORY_SHIFT: Final = 12
"""A kind is its category, shifted by this many bits, and its type."""


@dataclass(slots=True)
class Record:
    """All that the index knows of one event.

    `correlation_id` is None where it is the event's own id. `event_hash` has 32 bytes, or none where a part does not
    hold it.
    """

    event_id: bytes
    global_sequence: int
    wall_ms: int
    segment: int
    offset: int
    length: int
    entity: str
    scope: str
    sequence: int
    kind: int
    payload_version: int
    flags: int
    bits: int
    correlation_id: bytes | None
    causation_id: bytes | None
    event_hash: bytes


Link: TypeAlias = tuple[bytes | None, bytes | None]
"""Correlation and causation of an event, as far as it has them."""
NO_LINK: Final[Link] = (None, None)


IdSpan: TypeAlias = tuple[int, int]

FramePlace: TypeAlias = tuple[bytes, int, int, int, int]
"""What a frame is found by: event id, segment, offset, length, and the bits of its row."""


def record_of(facts: Sequence[Any], names: tuple[str, str], link: Link, event_hash: bytes) -> Record:
    """Return the record of what `ROW` unpacks, with its *names*, entity and scope, in place of their numbers."""
    event_id, global_sequence, wall_ms, segment, offset, length, _, _, sequence, kind, version, flags, bits = facts
    return Record(
        event_id,
        global_sequence,
        wall_ms,
        segment,
        offset,
        length,
        names[0],
        names[1],
        sequence,
        kind,
        version,
        flags,
        bits,
        link[0],
        link[1],
        event_hash,
    )


@dataclass(slots=True)
class Head:
    """The newest event of an entity on lane 0: what the next event of the entity links to.

    Nobody changes one; really frozen it would cost four times as much, at each append.
    """

    sequence: int
    wall_ms: int
    event_hash: bytes
    global_sequence: int


class Part(Protocol):
    """An ordered stretch of rows that answers every question of the index about itself.

    *bound* is the number of rows that may be seen; a run is always asked with its `count`. No method changes what a
    reader can see, and all may be called from any thread. What comes from a damaged run file raises `BadBlockError`.
    """

    @property
    def count(self) -> int:
        """How many rows there are."""

    @property
    def first_sequence(self) -> int:
        """The global sequence of the first row."""

    @property
    def last_sequence(self) -> int:
        """The global sequence of the last row."""

    @property
    def min_wall(self) -> int:
        """No row has a wall clock below it, in milliseconds."""

    @property
    def id_span(self) -> IdSpan | None:
        """Bounds of the first eight bytes, as a number, of every id that it holds; None where any may be here."""

    def record(self, row: int) -> Record:
        """Return all facts of one row."""

    def records(self, rows: Iterator[int]) -> Iterator[Record]:
        """Yield all facts of some rows."""

    def places(self, rows: Sequence[int]) -> list[FramePlace]:
        """Return where the frames of some rows lie."""

    def place_in_span(self, event_id: bytes, number: int) -> FramePlace | None:
        """Return where the frame of an id within `id_span` lies, *number* being that of its first eight bytes.

        None leaves it open: `find_id` knows.
        """

    def row_of_sequence(self, after: int, bound: int) -> int:
        """Return the first row whose global sequence is greater than *after*; *bound* when there is none."""

    def find_id(self, event_id: bytes, bound: int) -> int | None:
        """Return the newest row with that id."""

    def find_key(self, key: bytes, bound: int, spot: Spot | None = None) -> int | None:
        """Return the newest row with that id, keyed or not; the usual answer, none, comes at once.

        *spot* is that of the key in a filter: whoever asks many parts makes it once.
        """

    def match(self, region: Region, start: int, stop: int, *, reverse: bool = False) -> Iterator[int]:
        """Yield the rows in [start, stop) that match every part of *region*, in order; rows with HIDDEN never."""

    def stream(self, entity: str, start: int, stop: int, *, reverse: bool = False) -> Iterator[int]:
        """Yield the rows in [start, stop) of exactly that entity, in order; rows with HIDDEN never."""

    def head(self, entity: str, bound: int, spot: Spot | None = None) -> Head | None:
        """Return the newest event of an entity on lane 0, rows with HIDDEN included; *spot* as for `find_key`."""

    def newest(self, entity: str, bound: int) -> int | None:
        """Return the newest row of an entity on any lane; rows with HIDDEN never."""

    def by_sequence(self, entity: str, sequence: int, bound: int) -> list[int]:
        """Return the rows of an entity that have that sequence, ascending, rows with HIDDEN included."""

    def effects(self, event_id: bytes, bound: int) -> Iterator[int]:
        """Yield the rows whose causation is *event_id*, ascending; rows with HIDDEN never."""

    def newest_until(self, wall_ms: int, bound: int) -> int | None:
        """Return the newest row whose wall clock is at most *wall_ms*; rows with HIDDEN never."""
