"""Reading the body of a run: memory-mapped, cut into blocks, each checked when it is first used.

A block is 16 KiB of the body, the last one shorter, with a CRC-32C that starts from the run's own salt. What a reader
takes out of the body it takes through `Body.check`, so no byte is believed before its block has been checked; a search
therefore goes step by step while its next steps may lie in different blocks, and in one call when they cannot.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final, Literal

from crc32c import crc32c

from batpak.storage.postings import strides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BLOCK_BYTES: Final = 1 << 14
BLOCK_SHIFT: Final = 14
_STRIDE: Final = 1024


class RunError(Exception):
    """A run file cannot be used; what it holds can be had from the segments."""

    def __init__(self, reason: str, name: str = "") -> None:
        """Say what was found and expected, and name the file."""
        super().__init__(f"{name}: {reason}" if name else reason)
        self.name = name
        self.reason = reason


class Body:
    """The body of a run; see the module. *bad_block* makes the error for a block that does not pass."""

    __slots__ = ("_bad_block", "_crcs", "_salt", "checked", "view")

    def __init__(self, view: memoryview, crcs: Sequence[int], salt: int, bad_block: Callable[[int], RunError]) -> None:
        """Read *view*, whose blocks have the checksums *crcs*."""
        self.view = view
        self.checked = bytearray(len(crcs))
        self._crcs = crcs
        self._salt = salt
        self._bad_block = bad_block

    def check(self, start: int, end: int) -> None:
        """Raise unless every block that [start, end) touches is as it was written."""
        checked = self.checked
        for block in range(start >> BLOCK_SHIFT, (end - 1 >> BLOCK_SHIFT) + 1):
            if not checked[block]:
                self.check_block(block)

    def check_block(self, block: int) -> None:
        """Raise unless a block is as it was written."""
        first = block << BLOCK_SHIFT
        if crc32c(self.view[first : first + BLOCK_BYTES], self._salt) != self._crcs[block]:
            raise self._bad_block(block)
        self.checked[block] = 1

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes [start, end), checked."""
        self.check(start, end)
        return bytes(self.view[start:end])


class Column:
    """Integers of one width that stand at equal distances in the body."""

    __slots__ = ("_base", "_body", "_leap", "_step", "_values", "_width")

    def __init__(
        self, body: Body, section: tuple[int, int], code: Literal["I", "Q"], *, step: int = 0, shift: int = 0
    ) -> None:
        """Read a *section*, its start and length in bytes: an integer of 4 (I) or 8 (Q) bytes in each *step* bytes.

        The first stands *shift* bytes in; both are multiples of its width, and without a *step* they are dense.
        """
        start, length = section
        values = body.view[start : start + length].cast(code)
        self._width = values.itemsize
        self._step = step or values.itemsize
        self._values: memoryview[int] = values[shift // self._width :: self._step // self._width]
        self._body = body
        self._base = start + shift
        self._leap = BLOCK_BYTES // self._step

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> int:
        block = self._base + index * self._step >> BLOCK_SHIFT
        if not self._body.checked[block]:
            self._body.check_block(block)
        return self._values[index]

    def values(self, first: int, last: int) -> list[int]:
        """Return the integers [first, last)."""
        self._check(first, last)
        return self._values[first:last].tolist()

    def at_least(self, value: int, low: int = 0, high: int | None = None) -> int:
        """Return the first place in [low, high), where integers ascend, of one that is not less than *value*."""
        high = len(self._values) if high is None else high
        while high - low > self._leap:
            middle = (low + high) // 2
            if self[middle] < value:
                low = middle + 1
            else:
                high = middle
        self._check(low, high)
        return bisect_left(self._values, value, low, high)

    def above(self, value: int, low: int = 0, high: int | None = None) -> int:
        """Return the first place in [low, high), where integers ascend, of one that is greater than *value*."""
        high = len(self._values) if high is None else high
        while high - low > self._leap:
            middle = (low + high) // 2
            if self[middle] <= value:
                low = middle + 1
            else:
                high = middle
        self._check(low, high)
        return bisect_right(self._values, value, low, high)

    def _check(self, first: int, last: int) -> None:
        if first < last:
            self._body.check(self._base + first * self._step, self._base + (last - 1) * self._step + self._width)


class ColumnPosting:
    """The posting that a stretch of a column holds."""

    __slots__ = ("_column", "_first", "_last")

    def __init__(self, column: Column, first: int, last: int) -> None:
        """Show the rows at [first, last) of *column*."""
        self._column = column
        self._first = first
        self._last = last

    def size(self, start: int, stop: int) -> int:
        """Return how many rows lie in [start, stop)."""
        first, last = self._stretch(start, stop)
        return max(0, last - first)

    def rows(self, start: int, stop: int, *, reverse: bool) -> Iterator[int]:
        """Yield the rows in [start, stop)."""
        for first, last in strides(*self._stretch(start, stop), _STRIDE, reverse=reverse):
            rows = self._column.values(first, last)
            yield from reversed(rows) if reverse else rows

    def _stretch(self, start: int, stop: int) -> tuple[int, int]:
        first = self._column.at_least(start, self._first, self._last)
        return first, self._column.at_least(stop, first, self._last)
