"""What a run is made of: a tail, or neighbouring runs, each telling its rows and its sorted tables in small pieces.

Everything that has to be sorted is sorted here, in pieces small enough for one slice of work, and merged lazily. A run
is sorted already.
"""

from __future__ import annotations

from array import array
from heapq import merge
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from batpak.storage.postings import rows_below
from batpak.storage.row import BRANCH, KEY, LINKED, ROW_BYTES
from batpak.storage.run_format import CAUSED, CORRELATED, ID_BYTES, LINK, LISTED

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from batpak.storage.blocks import Column
    from batpak.storage.run import Run
    from batpak.storage.run_names import Names
    from batpak.storage.tail import Tail
    from batpak.storage.tail_rows import Entity

T = TypeVar("T", bytes, tuple[bytes, int], tuple[bytes, int, int])

PIECE: Final = 256
"""How many rows or entries are worked on in one slice."""
NO_HASH: Final = bytes(32)
_SORTED_ITEMS: Final = 512
"""Up to so many items each, two sorted lists are merged in one call."""


class _Sorted(Generic[T]):
    """Items in their order, sorted piece by piece so that no call takes long."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: list[list[T]] = []

    def __iter__(self) -> Iterator[T]:
        return merge(*self._pieces)

    def add(self, items: list[T]) -> None:
        """Take a small list of items over."""
        pieces = self._pieces
        items.sort()
        while pieces and len(pieces[-1]) <= len(items) <= _SORTED_ITEMS:
            items = pieces.pop() + items
            items.sort()  # two runs, each in order: what follows is one merge
        if items:
            pieces.append(items)


class Source(Protocol):
    """Rows in order, and tables about them; *offset* is added to the places that a table names."""

    @property
    def count(self) -> int:
        """How many rows there are."""

    @property
    def entity_numbers(self) -> int:
        """The least number above every entity's."""

    @property
    def scope_numbers(self) -> int:
        """The least number above every scope's."""

    @property
    def link_count(self) -> int:
        """How many rows have a link."""

    def prepare(self) -> Generator[None]:
        """Sort what has to be sorted, in slices; to be run to its end before anything else."""

    def packed(self, start: int, stop: int) -> bytearray:
        """Return a copy of the packed rows [start, stop)."""

    def entities(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, number and count of rows of each entity, by name."""

    def scopes(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, number and count of rows of each scope, by name."""

    def heads(self) -> Iterator[tuple[int, bytes, int]]:
        """Yield number, hash and row + 1 of each entity's newest event on lane 0, by name; 0 where there is none.

        To be asked after `entities` has been read to its end.
        """

    def listed(self, offset: int) -> Iterator[bytes]:
        """Yield the ids that are not in order, packed with their rows, ascending."""

    def links(self, first: int, last: int) -> bytes:
        """Return the packed links [first, last)."""

    def correlations(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Yield each correlation and the place of its link, ascending."""

    def causations(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Yield each causation and the place of its link, ascending."""


class TailSource:
    """The first *count* rows of a tail, which may go on growing meanwhile."""

    def __init__(self, tail: Tail, count: int) -> None:
        """Read *tail*."""
        self._tail = tail
        self._count = count
        self._entities: list[Entity] = tail.entities()
        self._scopes = tail.scopes()
        self._entity_names: _Sorted[tuple[bytes, int, int]] = _Sorted()
        self._scope_names: _Sorted[tuple[bytes, int, int]] = _Sorted()
        self._order: list[tuple[int, int]] = []
        self._listed: _Sorted[bytes] = _Sorted()
        self._links = bytearray()
        self._by_correlation: _Sorted[tuple[bytes, int]] = _Sorted()
        self._by_causation: _Sorted[tuple[bytes, int]] = _Sorted()

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self._count

    @property
    def entity_numbers(self) -> int:
        """The least number above every entity's."""
        return len(self._entities)

    @property
    def scope_numbers(self) -> int:
        """The least number above every scope's."""
        return len(self._scopes)

    @property
    def link_count(self) -> int:
        """How many rows have a link."""
        return len(self._links) // LINK.size

    def prepare(self) -> Generator[None]:
        """Sort names, ids and links, in slices."""
        for bound in range(0, self._count, PIECE):
            self._tail.post(bound)
            yield
        self._tail.post(self._count)
        for items, names in ((self._entities, self._entity_names), (self._scopes, self._scope_names)):
            for start in range(0, len(items), PIECE):
                counted = ((item, rows_below(item.rows, self._count)) for item in items[start : start + PIECE])
                names.add([(item.name.encode(), item.number, rows) for item, rows in counted if rows])
                yield
        top = 0
        for start in range(0, self._count, PIECE):
            packed = self.packed(start, min(self._count, start + PIECE))
            listed = []
            for row, (prefix, bits) in enumerate(zip(prefixes(packed), packed[61::ROW_BYTES], strict=True), start):
                if bits & KEY or prefix <= top:
                    listed.append(LISTED.pack(_id_at(packed, row - start), row))
                else:
                    top = prefix
            self._listed.add(listed)
            yield
            self._take_links(start, packed[61::ROW_BYTES])
            yield

    def _take_links(self, start: int, bits: Sequence[int]) -> None:
        """Pack the links of a piece of rows and sort them either way."""
        correlations, causations = [], []
        for row, row_bits in enumerate(bits, start):
            if row_bits & LINKED:
                correlation_id, causation_id = self._tail.link(row)
                place = self.link_count
                flags = 0
                if correlation_id is not None:
                    flags |= CORRELATED
                    correlations.append((correlation_id, place))
                if causation_id is not None:
                    flags |= CAUSED
                    causations.append((causation_id, place))
                self._links += LINK.pack(row, flags, correlation_id or b"", causation_id or b"")
        self._by_correlation.add(correlations)
        self._by_causation.add(causations)

    def packed(self, start: int, stop: int) -> bytearray:
        """Return a copy of the packed rows [start, stop)."""
        return self._tail.packed(start, stop)

    def entities(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, number and count of rows of each entity, by name."""
        self._order.clear()
        for name, number, visible in self._entity_names:
            self._order.append((number, visible))
            yield name, number, visible

    def scopes(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, number and count of rows of each scope, by name."""
        return iter(self._scope_names)

    def heads(self) -> Iterator[tuple[int, bytes, int]]:
        """Yield number, hash and row + 1 of each entity's newest event on lane 0, by name; 0 where there is none."""
        tail = self._tail
        for number, visible in self._order:
            rows = self._entities[number].rows
            at = visible - 1
            while at >= 0 and tail.facts(rows[at])[-1] & BRANCH:
                at -= 1
            yield (number, tail.event_hash(rows[at]), rows[at] + 1) if at >= 0 else (number, NO_HASH, 0)

    def listed(self, offset: int) -> Iterator[bytes]:
        """Yield the ids that are not in order, packed with their rows, ascending."""
        return _moved(iter(self._listed), offset)

    def links(self, first: int, last: int) -> bytes:
        """Return the packed links [first, last)."""
        return bytes(self._links[first * LINK.size : last * LINK.size])

    def correlations(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Yield each correlation and the place of its link, ascending."""
        return _placed(iter(self._by_correlation), offset)

    def causations(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Yield each causation and the place of its link, ascending."""
        return _placed(iter(self._by_causation), offset)


class RunSource:
    """A run as part of a wider one."""

    def __init__(self, run: Run) -> None:
        """Read *run*."""
        self._run = run

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self._run.count

    @property
    def entity_numbers(self) -> int:
        """The least number above every entity's."""
        return len(self._run.entities)

    @property
    def scope_numbers(self) -> int:
        """The least number above every scope's."""
        return len(self._run.scopes)

    @property
    def link_count(self) -> int:
        """How many rows have a link."""
        return len(self._run.links)

    def prepare(self) -> Generator[None]:
        """Nothing: a run is sorted."""
        yield from ()

    def packed(self, start: int, stop: int) -> bytearray:
        """Return a copy of the packed rows [start, stop)."""
        return self._run.packed(start, stop)

    def entities(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, number and count of rows of each entity, by name."""
        return _counted(self._run.entities, self._run.entity_starts)

    def scopes(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, number and count of rows of each scope, by name."""
        return _counted(self._run.scopes, self._run.scope_starts)

    def heads(self) -> Iterator[tuple[int, bytes, int]]:
        """Yield number, hash and row + 1 of each entity's newest event on lane 0, by name; 0 where there is none."""
        for rank in range(self.entity_numbers):
            event_hash, past, _ = self._run.entity_head(rank)
            yield rank, event_hash, past

    def listed(self, offset: int) -> Iterator[bytes]:
        """Yield the ids that are not in order, packed with their rows, ascending."""
        return _moved(self._run.ids.listed(), offset)

    def links(self, first: int, last: int) -> bytes:
        """Return the packed links [first, last)."""
        return self._run.links.packed(first, last)

    def correlations(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Yield each correlation and the place of its link, ascending."""
        return _placed(self._run.by_correlation.entries(), offset)

    def causations(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Yield each causation and the place of its link, ascending."""
        return _placed(self._run.by_causation.entries(), offset)


def prefixes(packed: bytearray) -> array[int]:
    """Return of each packed row the number that decides whether its id is in order."""
    found = array("Q", memoryview(packed).cast("Q")[:: ROW_BYTES // 8].tolist())
    found.byteswap()
    return found


def newcomers(source: Source, top: int, offset: int, end: int) -> Iterator[bytes]:
    """Yield the ids that are in order in *source*, but not behind rows whose ids reach *top*, as `listed` does.

    The last one is in the row before *end*.
    """
    own_top = 0
    for start in range(0, end, PIECE):
        packed = source.packed(start, min(end, start + PIECE))
        for at, (prefix, bits) in enumerate(zip(prefixes(packed), packed[61::ROW_BYTES], strict=True)):
            if not bits & KEY and own_top < prefix <= top:
                own_top = prefix
                yield LISTED.pack(_id_at(packed, at), start + at + offset)


def _id_at(packed: bytearray, at: int) -> bytes:
    return bytes(packed[at * ROW_BYTES : at * ROW_BYTES + ID_BYTES])


def _moved(entries: Iterator[bytes], offset: int) -> Iterator[bytes]:
    """Return listed ids with *offset* added to their rows."""
    if not offset:
        return entries
    return (LISTED.pack(event_id, row + offset) for event_id, row in map(LISTED.unpack, entries))


def _counted(names: Names, starts: Column) -> Iterator[tuple[bytes, int, int]]:
    for first in range(0, len(names), PIECE):
        last = min(len(names), first + PIECE)
        places = starts.values(first, last + 1)
        for rank in range(first, last):
            yield names.name(rank), rank, places[rank - first + 1] - places[rank - first]


def _placed(entries: Iterator[tuple[bytes, int]], offset: int) -> Iterator[tuple[bytes, int]]:
    """Return links with *offset* added to their places."""
    if not offset:
        return entries
    return ((event_id, place + offset) for event_id, place in entries)
