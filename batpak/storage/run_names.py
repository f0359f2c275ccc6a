"""The names of a run, entities or scopes: sorted by their UTF-8 bytes, each known by its rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from batpak.storage.blocks import Body, Column

MAX_KEPT: Final = 2048
"""How many names are kept decoded, and as many where searches begin."""


class Names:
    """Sorted names in the body of a run."""

    __slots__ = ("_body", "_ends", "_kept", "_seen", "_start")

    def __init__(self, body: Body, start: int, ends: Column) -> None:
        """Read names that stand one behind another from *start*; *ends* tells where each one ends."""
        self._body = body
        self._start = start
        self._ends = ends
        self._kept: dict[int, str] = {}
        self._seen: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, rank: int) -> bytes:
        """Return a name as UTF-8."""
        start = self._start + (self._ends[rank - 1] if rank else 0)
        return self._body.read(start, self._start + self._ends[rank])

    def text(self, rank: int) -> str:
        """Return a name; recently used ones come from memory."""
        text = self._kept.get(rank)
        if text is None:
            text = self.name(rank).decode()
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[rank] = text
        return text

    def at_least(self, name: bytes) -> int:
        """Return the rank of the first name that is not less than *name*, their number if there is none."""
        low, high = 0, len(self)
        # Every search begins with the same names: those are kept, the last steps differ and are not.
        kept = max(len(self) // MAX_KEPT, 16)
        while low < high:
            middle = (low + high) // 2
            found = self._seen.get(middle)
            if found is None:
                found = self.name(middle)
                if high - low > kept:
                    self._seen[middle] = found
            if found < name:
                low = middle + 1
            else:
                high = middle
        return low

    def find(self, name: bytes) -> int | None:
        """Return the rank of *name*."""
        rank = self.at_least(name)
        return rank if rank < len(self) and self.name(rank) == name else None
