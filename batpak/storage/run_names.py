"""The names of a run, entities or scopes: sorted by their UTF-8 bytes, each known by its rank."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from batpak.storage.blocks import Body, Column

MAX_KEPT: Final = 2048
"""How many names are kept decoded, and as many where searches begin."""


_NEAR: Final = 16


class Names:
    """Sorted names in the body of a run; *kept* are those that were used, by rank."""

    __slots__ = ("_body", "_ends", "_seen", "_start", "kept")

    def __init__(self, body: Body, start: int, ends: Column) -> None:
        """Read names that stand one behind another from *start*; *ends* tells where each one ends."""
        self._body = body
        self._start = start
        self._ends = ends
        self.kept: dict[int, str] = {}
        self._seen: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, rank: int) -> bytes:
        """Return a name as UTF-8."""
        start = self._start + (self._ends[rank - 1] if rank else 0)
        return self._body.read(start, self._start + self._ends[rank])

    def names(self, first: int, last: int) -> list[bytes]:
        """Return the names of the ranks [first, last), which are not none."""
        ends = self._ends.values(first, last)
        start = self._ends[first - 1] if first else 0
        text = self._body.read(self._start + start, self._start + ends[-1])
        return [text[low - start : high - start] for low, high in zip([start, *ends], ends, strict=False)]

    def text(self, rank: int) -> str:
        """Return a name; recently used ones come from memory."""
        text = self.kept.get(rank)
        if text is None:
            text = self.name(rank).decode()
            if len(self.kept) >= MAX_KEPT:
                self.kept.clear()
            self.kept[rank] = text
        return text

    def at_least(self, name: bytes) -> int:
        """Return the rank of the first name that is not less than *name*, their number if there is none."""
        low, high = 0, len(self)
        # Every search begins with the same names: those are kept. The last steps differ: those are read in one piece.
        near = max(high // MAX_KEPT, _NEAR)
        while high - low > near:
            middle = (low + high) // 2
            found = self._seen.get(middle) or self._see(middle)
            if found < name:
                low = middle + 1
            else:
                high = middle
        if low == high:
            return low
        ends = self._ends.values(max(0, low - 1), high)
        starts = [*ends[:-1]] if low else [0, *ends[:-1]]
        ends = ends[1:] if low else ends
        first = starts[0]
        text = self._body.read(self._start + first, self._start + ends[-1])
        near_by = range(high - low)
        return low + bisect_left(near_by, name, key=lambda at: text[starts[at] - first : ends[at] - first])

    def _see(self, rank: int) -> bytes:
        found = self._seen[rank] = self.name(rank)
        return found

    def find(self, name: bytes) -> int | None:
        """Return the rank of *name*."""
        rank = self.at_least(name)
        return rank if rank < len(self) and self.name(rank) == name else None
