"""How a run finds a row by its id.

An id is *in order* if it is no key and its first eight bytes, as a big-endian number, are greater than those of every
earlier id of the run that is in order. Ids in order are found by fences: for each 64 rows the greatest such number
before them, which leaves 64 rows to look at. All other ids are *listed*: sorted, with fences and a filter.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from batpak.storage import bloom
from batpak.storage.blocks import BLOCK_SHIFT, Column
from batpak.storage.row import BITS_OFFSET, KEY, PLACE, ROW_BYTES
from batpak.storage.run_format import ID_BYTES, ID_FENCE_ROWS, LISTED, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batpak.storage.blocks import Body
    from batpak.storage.row import FramePlace, IdSpan

_READ_ENTRIES: Final = 2 * ID_FENCE_ROWS
_unpack: Final = PLACE.unpack_from
MAX_KEPT_FENCES: Final = 1 << 16
"""So many fences are kept as numbers, 40 bytes each: those of four million rows."""
_ROW_LIMIT: Final = 0xFFFFFFFF


def prefix_of(event_id: bytes) -> int:
    """Return the number that decides about an id's order."""
    return int.from_bytes(event_id[:8], "big")


class RunIds:
    """Every id of a run."""

    __slots__ = (
        "_body",
        "_count",
        "_fences",
        "_known_fences",
        "_listed",
        "_listed_count",
        "_listed_fences",
        "_rows",
        "_span",
        "bounds",
        "filter",
    )

    def __init__(self, body: Body, sections: Mapping[str, tuple[int, int]], count: int) -> None:
        """Look in *sections* of *body* for the ids of *count* rows."""
        self._body = body
        self._count = count
        self._rows = sections[Section.ROWS][0]
        self._fences = Column(body, sections[Section.ID_FENCES], "Q")
        self._listed, listed_bytes = sections[Section.LISTED]
        self._listed_count = listed_bytes // LISTED.size
        self._listed_fences = Column(body, sections[Section.LISTED_FENCES], "Q")
        self.filter = bloom.Filter(body, sections[Section.LISTED_FILTER])
        self._span: tuple[int, int] | None = None
        self._known_fences: list[int] = []
        self.bounds: tuple[bytes, bytes] | None = None
        """Every id in order lies between these, as `find_bounds` has found."""

    @property
    def listed_count(self) -> int:
        """How many ids are listed."""
        return self._listed_count

    def newest(self, event_id: bytes, bound: int) -> int | None:
        """Return the newest row below *bound* with that id."""
        low, high = self.span()
        found = self._newest_in_order(event_id, bound) if low <= prefix_of(event_id) <= high else -1
        if self._listed_count and self.filter.may_hold(bloom.spot_of(event_id)):
            found = max(found, self._newest_listed(event_id, bound))
        return None if found < 0 else found

    def place_in_order(self, event_id: bytes, number: int) -> FramePlace | None:
        """Return where the frame of an id that is in order lies; *number* is that of its first eight bytes.

        None leaves it open whether there is one: ids may be listed, and its bytes may stand elsewhere in a row.
        """
        if self._listed_count:
            return None
        fences = self._known_fences or self._read_fences()
        block = bisect_left(fences, number) - 1
        if block < 0:
            return None
        row = block * ID_FENCE_ROWS
        # Ids of one millisecond go up by one: counted from the last one before these rows, or from the last of these.
        after = number - fences[block] - 1
        if after < ID_FENCE_ROWS:
            row += after
        elif block + 1 < len(fences) and (before := fences[block + 1] - number) < ID_FENCE_ROWS:
            row += ID_FENCE_ROWS - 1 - before
        if row < self._count:
            start = self._rows + row * ROW_BYTES
            if not self._body.checked[start >> BLOCK_SHIFT]:
                self._body.check_block(start >> BLOCK_SHIFT)
            place = _unpack(self._body.view, start)
            if place[0] == event_id:
                return place
        _, packed = self._rows_behind(block)
        at = packed.rfind(event_id)
        return _unpack(packed, at) if at >= 0 and not at % ROW_BYTES else None

    def _read_fences(self) -> list[int]:
        """Keep the fences, eight bytes and an object for each 64 rows, as far as they are not too many."""
        fences = self._fences.values(0, len(self._fences))
        if len(fences) <= MAX_KEPT_FENCES:
            self._known_fences = fences
        return fences

    def _newest_in_order(self, event_id: bytes, bound: int) -> int:
        """Return the newest row below *bound* with that id among those in order, -1 if there is none."""
        first, packed = self._near_fence(event_id)
        at = packed.rfind(event_id)
        while at >= 0:
            row = first + at // ROW_BYTES
            if at % ROW_BYTES == 0 and row < bound:
                return row
            at = packed.rfind(event_id, 0, at + ID_BYTES - 1)
        return -1

    def span(self) -> IdSpan:
        """Return bounds of the numbers of the ids in order; read once: most look-ups are of other runs' ids."""
        return self._span or self._find_span()

    def find_bounds(self) -> tuple[bytes, bytes]:
        """Return the least and the greatest id that may be in order, and keep them."""
        low, high = self.span()
        self.bounds = low.to_bytes(8, "big") + bytes(8), high.to_bytes(8, "big") + b"\xff" * 8
        return self.bounds

    def _find_span(self) -> IdSpan:
        """Read the bounds."""
        first = self._prefixes(0, min(self._count, ID_FENCE_ROWS))
        last_block = (self._count - 1) // ID_FENCE_ROWS
        last = self._prefixes(last_block * ID_FENCE_ROWS, self._count)
        low = first[0] if first else 0
        high = max(last, default=0) if self._count else 0
        self._span = low, max(high, self._fences[last_block])
        return self._span

    def _prefixes(self, first: int, last: int) -> list[int]:
        """Return the numbers of the ids of some rows, without those that are keys."""
        packed = self._body.read(self._rows + first * ROW_BYTES, self._rows + last * ROW_BYTES)
        rows = [packed[at : at + ROW_BYTES] for at in range(0, len(packed), ROW_BYTES)]
        return [prefix_of(row) for row in rows if not row[BITS_OFFSET] & KEY]

    def rows(self, event_id: bytes) -> list[int]:
        """Return every row with that id, ascending."""
        first, packed = self._near_fence(event_id)
        ids = (packed[at : at + ID_BYTES] for at in range(0, len(packed), ROW_BYTES))
        found = {row for row, each in enumerate(ids, first) if each == event_id}
        bound = _ROW_LIMIT
        while (row := self._newest_listed(event_id, bound)) >= 0:
            found.add(row)
            bound = row
        return sorted(found)

    def listed(self) -> Iterator[list[bytes]]:
        """Yield the listed ids with their rows, as they are packed, ascending, some at a time."""
        for first in range(0, self._listed_count, _READ_ENTRIES):
            yield self._entries(first, min(self._listed_count, first + _READ_ENTRIES))

    def _near_fence(self, event_id: bytes) -> tuple[int, bytes]:
        """Return the 64 rows among which an id stands if it is in order, packed, behind the number of the first."""
        block = self._fences.at_least(prefix_of(event_id)) - 1
        return self._rows_behind(block) if block >= 0 else (0, b"")

    def _rows_behind(self, fence: int) -> tuple[int, bytes]:
        """Return the rows that a fence stands before, packed, behind the number of the first."""
        first = fence * ID_FENCE_ROWS
        last = min(self._count, first + ID_FENCE_ROWS)
        return first, self._body.read(self._rows + first * ROW_BYTES, self._rows + last * ROW_BYTES)

    def _newest_listed(self, event_id: bytes, bound: int) -> int:
        """Return the newest row below *bound* with that id among the listed ones, -1 if there is none."""
        prefix = prefix_of(event_id)
        fences = self._listed_fences
        fence = fences.at_least(prefix)
        low = max(0, fence - 1) * ID_FENCE_ROWS
        high = min(self._listed_count, fences.above(prefix, fence) * ID_FENCE_ROWS)
        wanted = LISTED.pack(event_id, bound)
        while high - low > _READ_ENTRIES:  # many ids with the same first eight bytes
            middle = (low + high) // 2
            if self._entry(middle) < wanted:
                low = middle
            else:
                high = middle
        size = LISTED.size
        packed = self._body.read(self._listed + low * size, self._listed + high * size)
        at = packed.rfind(event_id)
        while at >= 0:
            if at % size == 0:
                row = int.from_bytes(packed[at + ID_BYTES : at + size], "big")
                if row < bound:
                    return row
            at = packed.rfind(event_id, 0, at + ID_BYTES - 1)
        return -1

    def _entry(self, at: int) -> bytes:
        start = self._listed + at * LISTED.size
        return self._body.read(start, start + LISTED.size)

    def _entries(self, first: int, last: int) -> list[bytes]:
        start, size = self._listed, LISTED.size
        packed = self._body.read(start + first * size, start + last * size)
        return [packed[at : at + size] for at in range(0, len(packed), size)]


assert LISTED.size == ID_BYTES + 4
