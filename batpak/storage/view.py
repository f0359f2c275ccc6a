"""What readers see: the parts of the index and how far they may look, published as one object.

A view never changes. Its parts cover ascending, disjoint stretches of the journal, so an answer is put together by
asking them one after the other. *bound* is how many rows of the last part, the tail that is being written, are
visible; of every other part all are.
"""

from __future__ import annotations

from itertools import islice, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeAlias

from batpak.storage.bloom import spot_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batpak.region import Region
    from batpak.storage.row import FramePlace, Head, Part, Record

RowsOf: TypeAlias = "tuple[Part, Iterator[int]]"
"""A part and some of its rows, in the order of reading."""

Route: TypeAlias = "tuple[int, int, Part]"
"""The least and the greatest number that the first eight bytes of an id in a part may be, and the part."""

BEFORE_ALL: Final = -1
"""The global sequence before the first: ``after`` for reading from the beginning."""


EVERY_ID: Final = (0, 2**64)
"""The span of a part in which any id may be."""


class View:
    """A consistent look at the whole index."""

    __slots__ = ("bound", "last", "parts", "routes")

    def __init__(
        self, parts: tuple[Part, ...], bound: int, last: int | None = None, routes: list[Route] | None = None
    ) -> None:
        """Show *parts*, of the last one only *bound* rows; *last* is the highest visible sequence, if it is known.

        *routes* are those of another view of the same parts: once one of the two has found them, both have.
        """
        self.parts = parts
        self.bound = bound
        self.last = last
        self.routes: list[Route] = [] if routes is None else routes

    def rows(self, part: Part) -> int:
        """How many rows of *part* are visible."""
        return self.bound if part is self.parts[-1] else part.count

    def count(self) -> int:
        """How many events there are, hidden ones included."""
        return sum(self.rows(part) for part in self.parts)

    def last_sequence(self) -> int:
        """The highest visible global sequence; -1 where there is none."""
        last = self.last
        if last is None:
            last = self.last = self._find_last()
        return last

    def _find_last(self) -> int:
        """Look for the newest row."""
        for part in reversed(self.parts):
            if bound := self.rows(part):
                return part.last_sequence if bound == part.count else part.record(bound - 1).global_sequence
        return BEFORE_ALL

    def find_id(self, event_id: bytes) -> Record | None:
        """Return the event with that id, the newest where the original repeated one."""
        found = self._find(event_id)
        return None if found is None else found[0].record(found[1])

    def place_of(self, event_id: bytes, number: int) -> FramePlace | None:
        """Return where the frame of the event lies that `find_id` finds; *number* is that of its first eight bytes.

        Not of a view that was cut in the midst of a run.
        """
        for low, high, part in self.routes or self._find_routes():
            if low <= number <= high:
                place = part.place_in_span(event_id, number)
                if place is None:
                    row = part.find_id(event_id, self.rows(part))
                    if row is not None:
                        place = part.places((row,))[0]
                if place is not None:
                    return place
        return None

    def _find_routes(self) -> list[Route]:
        """Note which ids may be in which part, in an order that finds the newest event of an id first."""
        routes = [(*(part.id_span or EVERY_ID), part) for part in reversed(self.parts)]
        narrow = [route for route in routes if route[1] < EVERY_ID[1]]
        ascending = sorted(narrow, key=itemgetter(0))
        if routes[len(routes) - len(narrow) :] == narrow and all(
            before[1] < behind[0] for before, behind in pairwise(ascending)
        ):  # no id may be in two of them, so that any order is good: most ids are in the part with the most rows
            narrow.sort(key=lambda route: route[2].count, reverse=True)
            routes[len(routes) - len(narrow) :] = narrow
        self.routes[:] = routes
        return routes

    def _find(self, event_id: bytes) -> tuple[Part, int] | None:
        """Return the part and the row of the newest event with that id."""
        number = int.from_bytes(event_id[:8], "big")
        for low, high, part in self.routes or self._find_routes():
            if low <= number <= high:
                row = part.find_id(event_id, self.rows(part))
                if row is not None:
                    return part, row
        return None

    def find_key(self, key: bytes) -> Record | None:
        """The same for an idempotency key: "no" comes quickly."""
        spot, last = spot_of(key), self.parts[-1]
        for part in reversed(self.parts):
            row = part.find_key(key, self.bound if part is last else part.count, spot)
            if row is not None:
                return part.record(row)
        return None

    def head(self, entity: str) -> Head | None:
        """Return the newest event of *entity*, hidden ones included: what its next event links to."""
        spot, last = spot_of(entity.encode()), self.parts[-1]
        for part in reversed(self.parts):
            head = part.head(entity, self.bound if part is last else part.count, spot)
            if head is not None:
                return head
        return None

    def newest(self, entity: str) -> Record | None:
        """Return the newest event of *entity* that a read may show."""
        for part in reversed(self.parts):
            row = part.newest(entity, self.rows(part))
            if row is not None:
                return part.record(row)
        return None

    def at(self, global_sequence: int) -> list[Record]:
        """Return the events at exactly that place; more than one only where the original repeated a sequence."""
        found = []
        for part in self.parts:
            bound = self.rows(part)
            if bound and part.first_sequence <= global_sequence:
                rows = range(
                    part.row_of_sequence(global_sequence - 1, bound), part.row_of_sequence(global_sequence, bound)
                )
                found += [part.record(row) for row in rows]
        return found

    def select(
        self, region: Region, after: int | None, limit: int | None, *, reverse: bool = False
    ) -> Iterator[Record]:
        """Yield what matches *region* strictly beyond *after* in the direction of reading, in global order.

        Events of equal global sequence are never split by *limit*.
        """
        records = self._matches(region, after, reverse=reverse)
        return records if limit is None else _whole_sequences(records, limit)

    def rows_of_region(self, region: Region, after: int | None, *, reverse: bool = False) -> Iterator[RowsOf]:
        """Yield by part the rows of what `select` yields without a limit."""
        for part in self._ordered(reverse=reverse):
            bound = self.rows(part)
            start, stop = 0, bound
            if after is not None and bound:
                if reverse:
                    stop = part.row_of_sequence(after - 1, bound)
                else:
                    start = part.row_of_sequence(after, bound)
            if start < stop:
                yield part, part.match(region, start, stop, reverse=reverse)

    def rows_of_entity(self, entity: str, *, reverse: bool = False) -> Iterator[RowsOf]:
        """Yield by part the rows of what `stream` yields for every sequence, without a limit."""
        for part in self._ordered(reverse=reverse):
            bound = self.rows(part)
            if bound:
                yield part, part.stream(entity, 0, bound, reverse=reverse)

    def stream(
        self, entity: str, after_sequence: int | None, limit: int | None, *, reverse: bool = False
    ) -> Iterator[Record]:
        """Yield the events of exactly *entity* beyond *after_sequence* (of the entity) in the direction of reading."""
        return islice(self._streamed(entity, after_sequence, reverse=reverse), limit)

    def predecessors(self, entity: str, sequence: int) -> Iterator[Record]:
        """Yield the events of *entity* that have that sequence, newest first."""
        for part in reversed(self.parts):
            for row in reversed(part.by_sequence(entity, sequence, self.rows(part))):
                yield part.record(row)

    def effects(self, event_id: bytes) -> Iterator[Record]:
        """Yield the events that *event_id* caused, in global order."""
        for part in self.parts:
            for row in part.effects(event_id, self.rows(part)):
                yield part.record(row)

    def newest_until(self, wall_ms: int) -> Record | None:
        """Return the newest event whose clock stood at or before *wall_ms*."""
        for part in reversed(self.parts):
            bound = self.rows(part)
            if bound and part.min_wall <= wall_ms:
                row = part.newest_until(wall_ms, bound)
                if row is not None:
                    return part.record(row)
        return None

    def _ordered(self, *, reverse: bool) -> Sequence[Part]:
        """Return the parts in the order of reading."""
        return self.parts[::-1] if reverse else self.parts

    def _matches(self, region: Region, after: int | None, *, reverse: bool) -> Iterator[Record]:
        """Yield the records that `select` yields, without a limit."""
        for part, rows in self.rows_of_region(region, after, reverse=reverse):
            yield from part.records(rows)

    def _streamed(self, entity: str, after_sequence: int | None, *, reverse: bool) -> Iterator[Record]:
        """Yield the records that `stream` yields, without a limit."""
        for part in self._ordered(reverse=reverse):
            bound = self.rows(part)
            start, stop = self._stream_span(part, entity, after_sequence, bound, reverse=reverse)
            for record in part.records(part.stream(entity, start, stop, reverse=reverse)) if start < stop else ():
                if after_sequence is None or (
                    record.sequence < after_sequence if reverse else record.sequence > after_sequence
                ):
                    yield record

    def _stream_span(
        self, part: Part, entity: str, after_sequence: int | None, bound: int, *, reverse: bool
    ) -> tuple[int, int]:
        """Return a span of rows that holds all that is wanted, the shorter the better."""
        at = (
            part.by_sequence(entity, after_sequence, bound)
            if after_sequence is not None and after_sequence >= 0 and bound
            else []
        )
        if not at:
            return 0, bound
        return (0, at[-1]) if reverse else (at[0] + 1, bound)


def _whole_sequences(records: Iterator[Record], limit: int) -> Iterator[Record]:
    """Yield *limit* records, and those that share the last one's global sequence."""
    last = None
    for count, record in enumerate(records):
        if count >= limit and record.global_sequence != last:
            return
        last = record.global_sequence
        yield record
