"""The correlations and causations of a run: those rows that have one, and their order by either."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

from batpak.storage.blocks import Column
from batpak.storage.postings import strides
from batpak.storage.row import NO_LINK
from batpak.storage.run_format import CAUSED, CORRELATED, ID_BYTES, LINK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batpak.storage.blocks import Body
    from batpak.storage.row import Link

CORRELATION: Final = 8
"""Where in a `LINK` the correlation stands."""
CAUSATION: Final = 24
"""Where in a `LINK` the causation stands."""

_STRIDE: Final = 256


class Links:
    """Every link of a run; a link is known by its place, and places ascend with rows."""

    __slots__ = ("_body", "_rows", "_start")

    def __init__(self, body: Body, section: tuple[int, int]) -> None:
        """Look in a *section* of *body*."""
        self._body = body
        self._start = section[0]
        self._rows = Column(body, section, "I", step=LINK.size)

    def __len__(self) -> int:
        return len(self._rows)

    def of_row(self, row: int) -> Link:
        """Return the correlation and causation of a row, as far as it has them."""
        rows, count = self._rows, len(self._rows)
        dense = row < count and rows[row] == row  # every row up to this one has a link, as they often all do
        at = row if dense else rows.at_least(row, 0, min(count, row))
        if at == count:
            return NO_LINK
        found, flags, correlation_id, causation_id = LINK.unpack(self.packed(at, at + 1))
        if found != row:
            return NO_LINK
        return correlation_id if flags & CORRELATED else None, causation_id if flags & CAUSED else None

    def row(self, at: int) -> int:
        """Return the row of the link at a place."""
        return self._rows[at]

    def event_id(self, at: int, field: int) -> bytes:
        """Return an id that the link at a place names, `CORRELATION` or `CAUSATION`."""
        start = self._start + at * LINK.size + field
        return self._body.read(start, start + ID_BYTES)

    def packed(self, first: int, last: int) -> bytes:
        """Return the links [first, last) as they are packed."""
        return self._body.read(self._start + first * LINK.size, self._start + last * LINK.size)


class LinkOrder:
    """The links that have a correlation, or those that have a causation, ordered by it and then by row."""

    __slots__ = ("_field", "_links", "_places")

    def __init__(self, links: Links, places: Column, field: int) -> None:
        """Show *links* in the order of their *places*; *field* is `CORRELATION` or `CAUSATION`."""
        self._links = links
        self._places = places
        self._field = field

    def posting(self, event_id: bytes) -> LinkPosting:
        """Return the rows that name *event_id*."""
        every = range(len(self._places))
        first = bisect_left(every, event_id, key=self._id)
        return LinkPosting(self, first, bisect_right(every, event_id, first, key=self._id))

    def row(self, at: int) -> int:
        """Return the row at a place of the order."""
        return self._links.row(self._places[at])

    def rows(self, first: int, last: int) -> list[int]:
        """Return the rows at [first, last) of the order."""
        links = self._links
        return [links.row(at) for at in self._places.values(first, last)]

    def entries(self) -> Iterator[tuple[bytes, int]]:
        """Yield each link as its id and its place."""
        links, field = self._links, self._field
        for first, last in strides(0, len(self._places), _STRIDE, reverse=False):
            for at in self._places.values(first, last):
                yield links.event_id(at, field), at

    def _id(self, at: int) -> bytes:
        return self._links.event_id(self._places[at], self._field)


class LinkPosting:
    """The rows that name one id, as a posting."""

    __slots__ = ("_first", "_last", "_order")

    def __init__(self, order: LinkOrder, first: int, last: int) -> None:
        """Show the rows at [first, last) of *order*, which name the same id and so ascend."""
        self._order = order
        self._first = first
        self._last = last

    def __len__(self) -> int:
        return self._last - self._first

    def size(self, start: int, stop: int) -> int:
        """Return how many rows lie in [start, stop)."""
        first, last = self._stretch(start, stop)
        return max(0, last - first)

    def rows(self, start: int, stop: int, *, reverse: bool) -> Iterator[int]:
        """Yield the rows in [start, stop)."""
        for first, last in strides(*self._stretch(start, stop), _STRIDE, reverse=reverse):
            rows = self._order.rows(first, last)
            yield from reversed(rows) if reverse else rows

    def _stretch(self, start: int, stop: int) -> tuple[int, int]:
        every, row_of = range(self._last), self._order.row
        first = bisect_left(every, start, self._first, key=row_of)
        return first, bisect_left(every, stop, first, key=row_of)
