"""The correlations and causations of a run: those rows that have one, and their order by either."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from batpak.storage.blocks import Column
from batpak.storage.postings import strides
from batpak.storage.row import NO_LINK
from batpak.storage.run_format import CAUSED, CORRELATED, LINK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batpak.storage.blocks import Body
    from batpak.storage.row import Link

CORRELATION: Final = 2
"""Which field of a `LINK` a correlation is."""
CAUSATION: Final = 3
"""Which field of a `LINK` a causation is."""

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
        at = self._rows.at_least(row)
        if at == len(self._rows):
            return NO_LINK
        found, flags, correlation_id, causation_id = LINK.unpack(self.packed(at, at + 1))
        if found != row:
            return NO_LINK
        return correlation_id if flags & CORRELATED else None, causation_id if flags & CAUSED else None

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
        return LinkPosting(self, event_id)

    def below(self, event_id: bytes, row: int) -> int:
        """Return how many links come before the one of *row* to *event_id*."""
        return bisect_left(range(len(self._places)), (event_id, row), key=self._entry)

    def rows(self, first: int, last: int) -> list[int]:
        """Return the rows at [first, last) of the order."""
        links = self._links
        return [LINK.unpack(links.packed(at, at + 1))[0] for at in self._places.values(first, last)]

    def entries(self) -> Iterator[tuple[bytes, int]]:
        """Yield each link as its id and its place."""
        links, field = self._links, self._field
        for first, last in strides(0, len(self._places), _STRIDE, reverse=False):
            for at in self._places.values(first, last):
                yield LINK.unpack(links.packed(at, at + 1))[field], at

    def _entry(self, at: int) -> tuple[bytes, int]:
        place = self._places[at]
        link = LINK.unpack(self._links.packed(place, place + 1))
        return link[self._field], link[0]


class LinkPosting:
    """The rows that name one id, as a posting."""

    __slots__ = ("_event_id", "_order")

    def __init__(self, order: LinkOrder, event_id: bytes) -> None:
        """Show the rows of *order* that name *event_id*."""
        self._order = order
        self._event_id = event_id

    def size(self, start: int, stop: int) -> int:
        """Return how many rows lie in [start, stop)."""
        return max(0, self._order.below(self._event_id, stop) - self._order.below(self._event_id, start))

    def rows(self, start: int, stop: int, *, reverse: bool) -> Iterator[int]:
        """Yield the rows in [start, stop)."""
        first, last = (self._order.below(self._event_id, row) for row in (start, stop))
        for low, high in strides(first, last, _STRIDE, reverse=reverse):
            rows = self._order.rows(low, high)
            yield from reversed(rows) if reverse else rows
