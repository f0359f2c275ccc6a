"""What a run is made of: a tail, or neighbouring runs, each telling its rows and its sorted tables in small pieces.

Everything that has to be sorted is sorted here, in pieces small enough for one slice of work, and merged lazily. A run
is sorted already.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from heapq import merge
from itertools import chain, islice
from operator import lt, sub
from struct import Struct
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from batpak.storage.row import BITS_OFFSET, BRANCH, KEY, LINKED, ROW_BYTES
from batpak.storage.run_format import CAUSED, CORRELATED, ID_BYTES, LINK, LISTED

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from batpak.storage.blocks import Column
    from batpak.storage.run import Run
    from batpak.storage.run_names import Names
    from batpak.storage.tail import Tail
    from batpak.storage.tail_rows import Entity, Scope

T = TypeVar("T", bytes, tuple[bytes, int])

ENTITY_WORD: Final = 11
SCOPE_WORD: Final = 12
SEQUENCE_WORD: Final = 13
"""Which 32-bit word of a row it is."""
WORDS: Final = ROW_BYTES // 4

PIECE: Final = 256
"""How many rows or entries are worked on in one slice."""
NO_HASH: Final = bytes(32)
_SORTED_ITEMS: Final = 4096
"""Up to so many items each, two sorted lists are merged in one call."""
_ID: Final = Struct(f"{ID_BYTES}s{ROW_BYTES - ID_BYTES}x")


class _Sorted(Generic[T]):
    """Items in their order, sorted piece by piece so that no call takes long."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: list[list[T]] = []

    def __iter__(self) -> Iterator[T]:
        return merge(*self._pieces) if len(self._pieces) > 1 else chain(*self._pieces)

    def blocks(self) -> Iterator[list[T]]:
        """Yield the items in their order, some at a time."""
        return merged([_in_pieces(piece) for piece in self._pieces])

    def add(self, items: list[T]) -> None:
        """Take a small list of items over."""
        pieces = self._pieces
        items.sort()
        while pieces and len(pieces[-1]) <= len(items) <= _SORTED_ITEMS:
            items = pieces.pop() + items
            items.sort()  # two runs, each in order: what follows is one merge
        if items:
            pieces.append(items)


def merged(sources: Sequence[Iterator[list[T]]]) -> Iterator[list[T]]:
    """Merge sources, each of which yields what it has in ascending order, a list at a time; yield the same.

    Of the lists that are at hand goes out what is certain to come before all that is not: one sort of stretches that
    are in order already, in place of a step for each item.
    """
    waiting: list[tuple[list[T], Iterator[list[T]]]] = []
    for source in sources:
        waiting += [(items, source) for items in islice(source, 1)]
    while len(waiting) > 1:
        limit = min(items[-1] for items, _ in waiting)
        out: list[T] = []
        left = []
        for items, source in waiting:
            taken = bisect_right(items, limit)
            out += items[:taken]
            if taken < len(items):
                left.append((items[taken:], source))
            else:
                left += [(more, source) for more in islice(source, 1)]
        out.sort()
        waiting = left
        yield out
    for items, source in waiting:
        yield items
        yield from source


class NameTable(Protocol):
    """The entities or the scopes of a source that have rows, each known by its place in the order of their names."""

    def __len__(self) -> int: ...

    def names(self, first: int, last: int) -> list[bytes]:
        """Return the names at [first, last), which are not none."""

    def counts(self, first: int, last: int) -> list[int]:
        """Return how many rows each of them has."""

    def by_number(self, ranks: array[int]) -> array[int]:
        """Return *ranks*, which are given for the names in order, by the numbers that rows have; it may be the same."""


class Source(Protocol):
    """Rows in order, and tables about them; *offset* is added to the places that a table names."""

    @property
    def count(self) -> int:
        """How many rows there are."""

    @property
    def entities(self) -> NameTable:
        """The entities; to be asked for after `prepare`."""

    @property
    def scopes(self) -> NameTable:
        """The scopes; to be asked for after `prepare`."""

    @property
    def link_count(self) -> int:
        """How many rows have a link."""

    def prepare(self) -> Generator[None]:
        """Sort what has to be sorted, in slices; to be run to its end before anything else."""

    def packed(self, start: int, stop: int) -> bytearray:
        """Return a copy of the packed rows [start, stop)."""

    def heads(self, first: int, last: int) -> list[tuple[bytes, int]]:
        """Return hash and row + 1 of the newest event on lane 0 of the entities at [first, last); 0: there is none."""

    def listed(self, offset: int) -> Iterator[list[bytes]]:
        """Yield the ids that are not in order, packed with their rows, ascending, some at a time."""

    def links(self, first: int, last: int) -> bytes:
        """Return the packed links [first, last)."""

    def correlations(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Yield each correlation and the place of its link, ascending."""

    def causations(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Yield each causation and the place of its link, ascending."""


class TailNames:
    """The names that rows of a tail have, sorted when all rows have been counted."""

    __slots__ = ("_counts", "_names", "_numbers")

    def __init__(self) -> None:
        """Start without rows."""
        self._counts: Counter[int] = Counter()
        self._names: list[bytes] = []
        self._numbers = array("I")

    def __len__(self) -> int:
        return len(self._names)

    def count(self, numbers: Sequence[int]) -> None:
        """Take in the numbers that some rows have."""
        self._counts.update(numbers)

    def sort(self, known: Sequence[Entity | Scope]) -> Generator[None]:
        """Sort the names, in slices; *known* has them by number."""
        names: _Sorted[bytes] = _Sorted()
        number_of: dict[bytes, int] = {}
        numbers = list(self._counts)
        for start in range(0, len(numbers), PIECE):
            piece = {known[number].name.encode(): number for number in numbers[start : start + PIECE]}
            number_of.update(piece)
            names.add(list(piece))
            yield
        self._names = list(names)
        yield
        self._numbers = array("I", map(number_of.__getitem__, self._names))

    def names(self, first: int, last: int) -> list[bytes]:
        """Return the names at [first, last), which are not none."""
        return self._names[first:last]

    def numbers(self, first: int, last: int) -> array[int]:
        """Return the numbers of the names at [first, last)."""
        return self._numbers[first:last]

    def counts(self, first: int, last: int) -> list[int]:
        """Return how many rows each of them has."""
        return [self._counts[number] for number in self._numbers[first:last]]

    def by_number(self, ranks: array[int]) -> array[int]:
        """Return *ranks*, which are given for the names in order, by the numbers that rows have."""
        by_number = array("I", [0]) * (max(self._numbers) + 1)
        for number, rank in zip(self._numbers, ranks, strict=True):
            by_number[number] = rank
        return by_number


class TailSource:
    """The first *count* rows of a tail, which may go on growing meanwhile."""

    def __init__(self, tail: Tail, count: int) -> None:
        """Read *tail*."""
        self._tail = tail
        self._count = count
        self._names = tail.entities(), tail.scopes()
        self.entities = TailNames()
        self.scopes = TailNames()
        self._newest: dict[int, int] = {}
        self._top = 0
        self._listed: _Sorted[bytes] = _Sorted()
        self._links = bytearray()
        self._by_correlation: _Sorted[tuple[bytes, int]] = _Sorted()
        self._by_causation: _Sorted[tuple[bytes, int]] = _Sorted()

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self._count

    @property
    def link_count(self) -> int:
        """How many rows have a link."""
        return len(self._links) // LINK.size

    def prepare(self) -> Generator[None]:
        """Sort names, ids and links, in slices."""
        for start in range(0, self._count, PIECE):
            packed = self.packed(start, min(self._count, start + PIECE))
            words, bits = memoryview(packed).cast("I"), packed[BITS_OFFSET::ROW_BYTES]
            entities = words[ENTITY_WORD::WORDS].tolist()
            self.entities.count(entities)
            self.scopes.count(words[SCOPE_WORD::WORDS].tolist())
            rows: Iterable[tuple[int, int]] = zip(entities, range(start, start + len(bits)), strict=True)
            seen = set(bits)
            if any(each & BRANCH for each in seen):
                rows = (row for row, row_bits in zip(rows, bits, strict=True) if not row_bits & BRANCH)
            self._newest.update(rows)
            yield
            self._listed.add(self._ids_out_of_order(start, packed, bits))
            if any(each & LINKED for each in seen):
                yield
                self._take_links(start, bits)
            yield
        yield from self.entities.sort(self._names[0])
        yield from self.scopes.sort(self._names[1])

    def _ids_out_of_order(self, start: int, packed: bytearray, bits: Sequence[int]) -> list[bytes]:
        """Return the ids of a piece of rows that have to be listed."""
        ids = prefixes(packed)
        if ids[0] > self._top and not any(each & KEY for each in set(bits)) and all(map(lt, ids, ids[1:])):
            self._top = ids[-1]  # as all are that this store has made
            return []
        listed = []
        top = self._top
        for row, ((event_id,), prefix, row_bits) in enumerate(
            zip(_ID.iter_unpack(packed), ids, bits, strict=True), start
        ):
            if row_bits & KEY or prefix <= top:
                listed.append(LISTED.pack(event_id, row))
            else:
                top = prefix
        self._top = top
        return listed

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

    def heads(self, first: int, last: int) -> list[tuple[bytes, int]]:
        """Return hash and row + 1 of the newest event on lane 0 of the entities at [first, last); 0: there is none."""
        rows = map(self._newest.get, self.entities.numbers(first, last))
        return [(NO_HASH, 0) if row is None else (self._tail.event_hash(row), row + 1) for row in rows]

    def listed(self, offset: int) -> Iterator[list[bytes]]:
        """Yield the ids that are not in order, packed with their rows, ascending, some at a time."""
        return (_moved(block, offset) for block in self._listed.blocks())

    def links(self, first: int, last: int) -> bytes:
        """Return the packed links [first, last)."""
        return bytes(self._links[first * LINK.size : last * LINK.size])

    def correlations(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Yield each correlation and the place of its link, ascending."""
        return _placed(iter(self._by_correlation), offset)

    def causations(self, offset: int) -> Iterator[tuple[bytes, int]]:
        """Yield each causation and the place of its link, ascending."""
        return _placed(iter(self._by_causation), offset)


class RunNames:
    """The names of a run, which are sorted: a rank is its own number."""

    __slots__ = ("_names", "_starts")

    def __init__(self, names: Names, starts: Column) -> None:
        """Read *names*, whose postings begin at *starts*."""
        self._names = names
        self._starts = starts

    def __len__(self) -> int:
        return len(self._names)

    def names(self, first: int, last: int) -> list[bytes]:
        """Return the names at [first, last), which are not none."""
        return self._names.names(first, last)

    def counts(self, first: int, last: int) -> list[int]:
        """Return how many rows each of them has."""
        places = self._starts.values(first, last + 1)
        return list(map(sub, places[1:], places))

    def by_number(self, ranks: array[int]) -> array[int]:
        """Return *ranks*."""
        return ranks


class RunSource:
    """A run as part of a wider one."""

    def __init__(self, run: Run) -> None:
        """Read *run*."""
        self._run = run
        self.entities = RunNames(run.entities, run.entity_starts)
        self.scopes = RunNames(run.scopes, run.scope_starts)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self._run.count

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

    def heads(self, first: int, last: int) -> list[tuple[bytes, int]]:
        """Return hash and row + 1 of the newest event on lane 0 of the entities at [first, last); 0: there is none."""
        return self._run.entity_heads(first, last)

    def listed(self, offset: int) -> Iterator[list[bytes]]:
        """Yield the ids that are not in order, packed with their rows, ascending, some at a time."""
        return (_moved(block, offset) for block in self._run.ids.listed())

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


def newcomers(source: Source, top: int, offset: int, end: int) -> Iterator[list[bytes]]:
    """Yield the ids that are in order in *source*, but not behind rows whose ids reach *top*, as `listed` does.

    The last one is in the row before *end*.
    """
    own_top = 0
    for start in range(0, end, PIECE):
        packed = source.packed(start, min(end, start + PIECE))
        block = []
        for at, (prefix, bits) in enumerate(zip(prefixes(packed), packed[BITS_OFFSET::ROW_BYTES], strict=True)):
            if not bits & KEY and own_top < prefix <= top:
                own_top = prefix
                block.append(LISTED.pack(_id_at(packed, at), start + at + offset))
        if block:
            yield block


def _in_pieces(items: list[T]) -> Iterator[list[T]]:
    """Yield *items*, some at a time."""
    for first in range(0, len(items), PIECE):
        yield items[first : first + PIECE]


def _id_at(packed: bytearray, at: int) -> bytes:
    return bytes(packed[at * ROW_BYTES : at * ROW_BYTES + ID_BYTES])


def _moved(entries: list[bytes], offset: int) -> list[bytes]:
    """Return listed ids with *offset* added to their rows."""
    if not offset:
        return entries
    return [LISTED.pack(event_id, row + offset) for event_id, row in map(LISTED.unpack, entries)]


def _placed(entries: Iterator[tuple[bytes, int]], offset: int) -> Iterator[tuple[bytes, int]]:
    """Return links with *offset* added to their places."""
    if not offset:
        return entries
    return ((event_id, place + offset) for event_id, place in entries)
