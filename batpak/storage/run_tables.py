"""The tables of a run: its rows, names, links and postings, each read where it lies in the mapped file."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from batpak.storage import bloom
from batpak.storage.blocks import BLOCK_SHIFT, Body, Column, ColumnPosting, RunError
from batpak.storage.postings import AllRows, ListPosting, union
from batpak.storage.row import FACTS, FACTS_OFFSET, LINKED, NO_LINK, PLACE, ROW, ROW_BYTES, Record, record_of
from batpak.storage.run_format import CATEGORY, HEAD, NAMESPACE, TERM, Section
from batpak.storage.run_ids import RunIds
from batpak.storage.run_links import CAUSATION, CORRELATION, LinkOrder, Links
from batpak.storage.run_names import Names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from struct import Struct

    from batpak.storage.postings import Posting
    from batpak.storage.row import FramePlace, IdSpan, Link
    from batpak.storage.run_format import Layout


class BadBlockError(RunError):
    """A block of a run is not as it was written; `run` is the run, None if nobody holds it any more."""

    def __init__(self, name: str, block: int, run: RunTables | None) -> None:
        """Name the file, the block, from 0, and the run."""
        super().__init__(f"found block {block} with a wrong checksum", name)
        self.block = block
        self.run = run


class RunTables:
    """What a run holds, table by table; `Run` adds the answers."""

    def __init__(self, name: str, layout: Layout, view: memoryview) -> None:
        """Read the body *view*; most callers want `open`."""
        self.name = name
        self.layout = layout
        self.count = layout.count
        self.meta = layout.meta
        sections = layout.sections
        me = ref(self)  # a cycle would keep the mapping, and the space of a removed file, until it is collected
        crcs = memoryview(layout.crcs).cast("I")
        self.body = Body(view, crcs, layout.salt, lambda block: BadBlockError(name, block, me()))
        self.entities = self._names(Section.ENTITY_NAMES, Section.ENTITY_ENDS)
        self._entity_filter = bloom.Filter(self.body, sections[Section.ENTITY_FILTER])
        self.scopes = self._names(Section.SCOPE_NAMES, Section.SCOPE_ENDS)
        self.ids = RunIds(self.body, sections, layout.count)
        self.place_in_span = self.ids.place_in_order
        self.links = Links(self.body, sections[Section.LINKS])
        self.by_correlation = LinkOrder(self.links, self._column(Section.BY_CORRELATION), CORRELATION)
        self.by_causation = LinkOrder(self.links, self._column(Section.BY_CAUSATION), CAUSATION)
        self.entity_starts = self._column(Section.ENTITY_STARTS)
        self.scope_starts = self._column(Section.SCOPE_STARTS)
        self._entity_rows = self._column(Section.ENTITY_ROWS)
        self._scope_rows = self._column(Section.SCOPE_ROWS)
        self._kind_rows = self._column(Section.KIND_ROWS)
        self._namespace_rows = self._column(Section.NAMESPACE_ROWS)
        rows = sections[Section.ROWS]
        self._rows_start = rows[0]
        self._sequences = Column(self.body, rows, "I", step=ROW_BYTES, shift=52)
        self._global_sequences = Column(self.body, rows, "Q", step=ROW_BYTES, shift=16)
        self._walls = Column(self.body, rows, "Q", step=ROW_BYTES, shift=24)
        self._wall_fences = Column(self.body, sections[Section.WALL_FENCES], "Q")
        self._wall_tops = Column(self.body, sections[Section.WALL_TOPS], "Q")
        self._kinds = Column(self.body, sections[Section.KINDS], "I", step=TERM.size)
        self._namespaces = Column(self.body, sections[Section.NAMESPACES], "I", step=NAMESPACE.size)

    @property
    def first_sequence(self) -> int:
        """The global sequence of the first row."""
        return self.layout.first_sequence

    @property
    def last_sequence(self) -> int:
        """The global sequence of the last row."""
        return self.layout.last_sequence

    @property
    def min_wall(self) -> int:
        """The least wall clock of any row, in milliseconds."""
        return self.layout.min_wall

    @property
    def seen_bits(self) -> int:
        """Every bit that any row has."""
        return self.layout.seen_bits

    @property
    def id_span(self) -> IdSpan | None:
        """Bounds of the first eight bytes, as a number, of every id; None where some are not in order."""
        return None if self.ids.listed_count else self.ids.span()

    def record(self, row: int) -> Record:
        """Return all facts of one row but its hash."""
        start = self._at(row)
        facts = ROW.unpack_from(self.body.view, start)
        link = self.links.of_row(row) if facts[-1] & LINKED else NO_LINK
        return record_of(facts, (self.entities.text(facts[6]), self.scopes.text(facts[7])), link, b"")

    def records(self, rows: Iterator[int]) -> Iterator[Record]:
        """Yield all facts of some rows but their hashes; the same as `record` of each, in one loop."""
        unpack, view, first = ROW.unpack_from, self.body.view, self._rows_start
        checked, check, link_of = self.body.checked, self.body.check_block, self.links.of_row
        entities, scopes = self.entities.kept, self.scopes.kept
        entity_of, scope_of = self.entities.text, self.scopes.text
        for row in rows:
            at = first + row * ROW_BYTES
            if not checked[at >> BLOCK_SHIFT]:
                check(at >> BLOCK_SHIFT)
            event_id, place, wall, segment, offset, length, entity, scope, sequence, kind, version, flags, bits = (
                unpack(view, at)
            )
            correlation, causation = link_of(row) if bits & LINKED else NO_LINK
            yield Record(
                event_id,
                place,
                wall,
                segment,
                offset,
                length,
                entities.get(entity) or entity_of(entity),
                scopes.get(scope) or scope_of(scope),
                sequence,
                kind,
                version,
                flags,
                bits,
                correlation,
                causation,
                b"",
            )

    def places(self, rows: Sequence[int]) -> list[FramePlace]:
        """Return where the frames of some rows lie; quickest for neighbours."""
        first, count = rows[0], len(rows)
        if rows[-1] - first == count - 1:  # rows are all different, and in order
            start = self._rows_start + first * ROW_BYTES
            end = start + count * ROW_BYTES
            self.body.check(start, end)
            return list(PLACE.iter_unpack(self.body.view[start:end]))
        unpack, view, at = PLACE.unpack_from, self.body.view, self._at
        return [unpack(view, at(row)) for row in rows]

    def facts(self, row: int) -> tuple[int, ...]:
        """Return entity, scope, sequence, kind and bits of a row."""
        return FACTS.unpack_from(self.body.view, self._at(row) + FACTS_OFFSET)

    def link(self, row: int) -> Link:
        """Return the correlation and causation of a row, as far as it has them."""
        return self.links.of_row(row) if self.facts(row)[-1] & LINKED else NO_LINK

    def correlation(self, row: int) -> bytes:
        """Return the correlation of a row, its own id where it has no other."""
        correlation_id = self.link(row)[0]
        if correlation_id is not None:
            return correlation_id
        start = self._at(row)
        return bytes(self.body.view[start : start + 16])

    def packed(self, start: int, stop: int) -> bytearray:
        """Return a copy of the packed rows [start, stop), entities and scopes by their ranks here."""
        first, last = self._rows_start + start * ROW_BYTES, self._rows_start + stop * ROW_BYTES
        self.body.check(first, last)
        return bytearray(self.body.view[first:last])

    def entity_head(self, rank: int) -> tuple[bytes, int, int]:
        """Return an entity's flags behind hash and row + 1 of its newest event on lane 0; row + 1 is 0 without one."""
        start = self.layout.sections[Section.HEADS][0] + rank * HEAD.size
        event_hash, row, flags = HEAD.unpack(self.body.read(start, start + HEAD.size))
        return event_hash, row, flags

    def entity_heads(self, first: int, last: int) -> list[tuple[bytes, int]]:
        """Return hash and row + 1 as `entity_head` does, of the ranks [first, last)."""
        start = self.layout.sections[Section.HEADS][0]
        packed = self.body.read(start + first * HEAD.size, start + last * HEAD.size)
        return [(event_hash, past) for event_hash, past, _ in HEAD.iter_unpack(packed)]

    def entity_posting(self, prefix: str) -> Posting | None:
        """Return the rows within *prefix*."""
        rank = self.rank_of(prefix)
        exact = [] if rank is None else [self.rank_posting(rank)]
        first, end = self._namespace(prefix)
        if first == end:
            return union(exact)
        if end - first == 1:
            return union([*exact, self.rank_posting(first)])
        length = len(prefix.encode()) + 1
        at = self._namespaces.at_least(first)
        while True:  # a namespace that begins with the same entity as one that it lies in comes later
            found_first, _, found_length, start, count = self._unpack(NAMESPACE, Section.NAMESPACES, at)
            assert found_first == first, f"found no postings of the namespace {prefix!r}"
            if found_length == length:
                return union([*exact, self._posting(self._namespace_rows, start, count)])
            at += 1

    def scope_posting(self, scope: str) -> Posting | None:
        """Return the rows of that scope."""
        rank = self.scopes.find(scope.encode())
        if rank is None:
            return None
        start, end = self.scope_starts[rank], self.scope_starts[rank + 1]
        return self._posting(self._scope_rows, start, end - start)

    def kind_posting(self, kind: int) -> Posting | None:
        """Return the rows of that kind."""
        at = self._kinds.at_least(kind)
        if at == len(self._kinds) or self._kinds[at] != kind:
            return None
        _, start, count = self._unpack(TERM, Section.KINDS, at)
        return self._posting(self._kind_rows, start, count)

    def category_posting(self, category: int) -> Posting | None:
        """Return the rows of that category."""
        return self.kind_posting(CATEGORY + category)

    def correlation_posting(self, correlation_id: bytes) -> Posting | None:
        """Return the rows of that correlation: those that name it, and the event whose id it is."""
        own = [row for row in self.ids.rows(correlation_id) if self.link(row)[0] is None]
        named = self.by_correlation.posting(correlation_id)
        postings: list[Posting] = [ListPosting(own)] if own else []
        if len(named):
            postings.append(named)
        return union(postings)

    def entity_test(self, prefix: str) -> Callable[[int], bool]:
        """Return whether an entity's number is that of one within *prefix*."""
        exact = self.rank_of(prefix)
        first, end = self._namespace(prefix)
        return lambda rank: first <= rank < end or rank == exact

    def scope_number(self, scope: str) -> int:
        """Return the number of a scope that has a posting."""
        return self.scopes.at_least(scope.encode())

    def _column(self, section: Section) -> Column:
        return Column(self.body, self.layout.sections[section], "I")

    def _names(self, names: Section, ends: Section) -> Names:
        return Names(self.body, self.layout.sections[names][0], self._column(ends))

    def _unpack(self, entry: Struct, section: Section, at: int) -> tuple[int, ...]:
        start = self.layout.sections[section][0] + at * entry.size
        return entry.unpack(self.body.read(start, start + entry.size))

    def _at(self, row: int) -> int:
        """Return where a row stands, its block checked; a row never lies in two, both being multiples of 64 bytes."""
        start = self._rows_start + row * ROW_BYTES
        if not self.body.checked[start >> BLOCK_SHIFT]:
            self.body.check_block(start >> BLOCK_SHIFT)
        return start

    def rank_of(self, entity: str) -> int | None:
        """Return the rank of an entity; the usual answer, none, comes from the filter."""
        name = entity.encode()
        return self.entities.find(name) if self._entity_filter.may_hold(bloom.spot_of(name)) else None

    def _namespace(self, prefix: str) -> tuple[int, int]:
        """Return the ranks of the entities that begin with *prefix* and a colon."""
        name = prefix.encode()
        first = self.entities.at_least(name + b":")
        if first == len(self.entities) or not self.entities.name(first).startswith(name + b":"):
            return first, first
        return first, self.entities.at_least(name + b";")  # the byte after the colon

    def rank_posting(self, rank: int) -> Posting:
        """Return the rows of an entity."""
        start, end = self.entity_starts[rank], self.entity_starts[rank + 1]
        return self._posting(self._entity_rows, start, end - start)

    def entity_row(self, at: int) -> int:
        """Return the row at a place in the postings of entities."""
        return self._entity_rows[at] if len(self._entity_rows) else at

    def _posting(self, rows: Column, start: int, count: int) -> Posting:
        """Return a posting; what every row has in common needs none and has none."""
        return AllRows() if count == self.count else ColumnPosting(rows, start, start + count)
