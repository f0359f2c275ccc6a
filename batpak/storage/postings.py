"""Postings: the rows that have one thing in common, ascending; what a page of a region walks along.

A posting answers how many of its rows lie in a stretch without listing them, so that of several postings the one with
the fewest rows can be walked and the other parts of the region be tested row by row.
"""

from __future__ import annotations

from bisect import bisect_left
from heapq import merge
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_STRIDE: Final = 256


class Posting(Protocol):
    """An ascending set of rows."""

    def size(self, start: int, stop: int) -> int:
        """Return how many rows lie in [start, stop)."""

    def rows(self, start: int, stop: int, *, reverse: bool) -> Iterator[int]:
        """Yield the rows in [start, stop), descending if *reverse*; costs what is consumed."""


class AllRows:
    """The posting that holds every row."""

    __slots__ = ()

    def size(self, start: int, stop: int) -> int:
        """Return how many rows lie in [start, stop)."""
        return max(0, stop - start)

    def rows(self, start: int, stop: int, *, reverse: bool) -> Iterator[int]:
        """Yield the rows in [start, stop)."""
        return reversed(range(start, stop)) if reverse else iter(range(start, stop))


class ListPosting:
    """A posting over a list that another thread may append to, and shorten beyond what readers may see."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[int]) -> None:
        """Show *rows*, which ascend."""
        self._rows = rows

    def size(self, start: int, stop: int) -> int:
        """Return how many rows lie in [start, stop)."""
        return max(0, rows_below(self._rows, stop) - rows_below(self._rows, start))

    def rows(self, start: int, stop: int, *, reverse: bool) -> Iterator[int]:
        """Yield the rows in [start, stop)."""
        rows = self._rows
        low, high = rows_below(rows, start), rows_below(rows, stop)
        for first, last in strides(low, high, _STRIDE, reverse=reverse):
            block = rows[first:last]
            yield from reversed(block) if reverse else block


class Union:
    """Two postings that have no row in common, as one."""

    __slots__ = ("_first", "_second")

    def __init__(self, first: Posting, second: Posting) -> None:
        """Show both."""
        self._first = first
        self._second = second

    def size(self, start: int, stop: int) -> int:
        """Return how many rows lie in [start, stop)."""
        return self._first.size(start, stop) + self._second.size(start, stop)

    def rows(self, start: int, stop: int, *, reverse: bool) -> Iterator[int]:
        """Yield the rows in [start, stop)."""
        first, second = (posting.rows(start, stop, reverse=reverse) for posting in (self._first, self._second))
        return merge(first, second, reverse=reverse)


def union(postings: Sequence[Posting]) -> Posting | None:
    """Return one posting for at most two without common rows; None for none."""
    match postings:
        case []:
            return None
        case [single]:
            return single
        case [first, second]:
            return Union(first, second)
        case _:
            raise AssertionError(f"found {len(postings)} postings, expected at most two")


def rows_below(rows: list[int], bound: int) -> int:
    """Return how many of the ascending *rows* are less than *bound*; another thread may change those that are not."""
    while True:
        try:
            return bisect_left(rows, bound)
        except IndexError:  # the list was shortened under the search; not possible where the interpreter lock exists
            continue


def strides(low: int, high: int, size: int, *, reverse: bool) -> Iterator[tuple[int, int]]:
    """Cut [low, high) into stretches of at most *size*, the first ones short: most readers stop early."""
    length = min(size, 64)
    if reverse:
        while low < high:
            yield max(low, high - length), high
            high -= length
            length = min(size, length * 2)
    while low < high:
        yield low, min(high, low + length)
        low += length
        length = min(size, length * 2)
