"""The tail: the newest rows of the index, in memory, until a run holds them.

Rows lie packed in chunks of fixed size that are never resized, and postings are dicts of lists that are only appended
to. One thread at a time puts; readers in other threads look at rows below a bound that was published after the put, so
what a put has half done is never seen. A put that was cut short leaves postings of a row that does not count yet:
`cut` takes them back.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

from batpak.storage import filter as region_filter
from batpak.storage.filter import MAX_DEPTH, within
from batpak.storage.postings import ListPosting, rows_below, union
from batpak.storage.row import BRANCH, CATEGORY_SHIFT, HIDDEN, LINKED, ROW, ROW_BYTES, Head
from batpak.storage.tail_rows import (
    CHUNK_MASK,
    CHUNK_ROWS,
    CHUNK_SHIFT,
    HASH,
    HASH_BYTES,
    Entity,
    Scope,
    TailRows,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batpak.region import Region
    from batpak.storage.postings import Posting
    from batpak.storage.row import Record

_FENCE_SHIFT: Final = 8
"""A fence holds the least wall clock of 256 rows."""

_OTHER_BITS: Final = 0xFF & ~LINKED


class Tail(TailRows):
    """A part of the index in memory. It promises what `Part` says; besides, `record` gives every hash."""

    def __init__(self, first_row_hint: int = 0) -> None:
        """Start empty; *first_row_hint* is the global sequence that the first row is expected to have."""
        super().__init__(first_row_hint)
        self._seen_bits = 0
        self._fences: list[int] = []
        self._entity_of: dict[str, Entity] = {}
        self._scope_of: dict[str, Scope] = {}
        self._namespaces: dict[str, list[int]] = {}
        self._kinds: dict[int, tuple[list[int], list[int]]] = {}
        self._categories: dict[int, list[int]] = {}
        self._ids: dict[bytes, int] = {}
        self._repeats: dict[bytes, list[int]] = {}
        self._correlations: dict[bytes, list[int]] = {}
        self._causations: dict[bytes, list[int]] = {}

    def __repr__(self) -> str:
        return f"<Tail of {self._count} rows>"

    # ---------------------------------------------------------------- writing

    def put(self, row: int, record: Record) -> None:
        """Write the next row, *row*, which is the count so far; readers see it once a bound above it is published.

        Rows have to come in the order (global sequence, segment, offset). After an exception, `cut(row)` first.
        """
        assert row == self._count, f"found row {row}, expected {self._count}"
        entity = self._entity_of.get(record.entity) or self._add_entity(record.entity)
        scope = self._scope_of.get(record.scope) or self._add_scope(record.scope)
        kind, event_id, wall_ms, sequence = record.kind, record.event_id, record.wall_ms, record.sequence
        kinds = self._kinds.get(kind) or self._add_kind(kind)
        bits = record.bits & _OTHER_BITS
        linked = record.correlation_id is not None or record.causation_id is not None
        if linked:
            bits |= LINKED
        chunk, slot = row >> CHUNK_SHIFT, row & CHUNK_MASK
        if chunk == len(self._chunks):
            self._add_chunk()
        ROW.pack_into(
            self._chunks[chunk],
            slot * ROW_BYTES,
            event_id,
            record.global_sequence,
            wall_ms,
            record.segment,
            record.offset,
            record.length,
            entity.number,
            scope.number,
            sequence,
            kind,
            record.payload_version,
            record.flags,
            bits,
        )
        HASH.pack_into(self._hashes[chunk], slot * HASH_BYTES, record.event_hash)
        # From here on the row counts, so that a cut finds what follows even where it was cut short.
        self._count = row + 1
        self._seen_bits |= bits
        for rows in entity.postings:
            rows.append(row)
        if sequence < entity.last_sequence:
            entity.ascending = False
        entity.last_sequence = sequence
        scope.rows.append(row)
        kinds[0].append(row)
        kinds[1].append(row)
        if self._ids.setdefault(event_id, row) != row:
            self._repeats.setdefault(event_id, []).append(row)
        fence = row >> _FENCE_SHIFT
        if fence == len(self._fences):
            self._fences.append(wall_ms)
        elif wall_ms < self._fences[fence]:
            self._fences[fence] = wall_ms
        if linked:
            self._link(row, record.correlation_id, record.causation_id)

    def cut(self, count: int) -> None:
        """Forget every row from *count* on, half put ones too; no reader may have seen one of them."""
        for row in range(self._count - 1, count - 1, -1):
            self._forget(row, count)
        if count < self._count:
            fences = -(-count >> _FENCE_SHIFT)
            del self._fences[fences:]
            if fences:
                first = (fences - 1) << _FENCE_SHIFT
                self._fences[fences - 1] = min(self.wall_ms(row) for row in range(first, count))
        self._count = count

    def _add_chunk(self) -> None:
        # The hashes first: a put that is cut short in between finds the chunk missing and adds both again.
        self._hashes[len(self._chunks) :] = [bytearray(CHUNK_ROWS * HASH_BYTES)]
        self._chunks.append(bytearray(CHUNK_ROWS * ROW_BYTES))

    def _add_entity(self, name: str) -> Entity:
        namespaces: list[list[int]] = []
        end = name.find(":")
        while end >= 0 and len(namespaces) < MAX_DEPTH:
            namespaces.append(self._namespaces.setdefault(name[:end], []))
            end = name.find(":", end + 1)
        entity = Entity(name, len(self._entities), namespaces)
        self._entities.append(entity)
        self._entity_of[name] = entity
        return entity

    def _add_scope(self, name: str) -> Scope:
        scope = Scope(name, len(self._scopes))
        self._scopes.append(scope)
        self._scope_of[name] = scope
        return scope

    def _add_kind(self, kind: int) -> tuple[list[int], list[int]]:
        category = self._categories.setdefault(kind >> CATEGORY_SHIFT, [])
        return self._kinds.setdefault(kind, ([], category))

    def _link(self, row: int, correlation_id: bytes | None, causation_id: bytes | None) -> None:
        self._links[row] = correlation_id, causation_id
        if correlation_id is not None:
            self._correlations.setdefault(correlation_id, []).append(row)
        if causation_id is not None:
            self._causations.setdefault(causation_id, []).append(row)

    def _forget(self, row: int, count: int) -> None:
        event_id = self.event_id(row)
        entity_number, scope_number, _, kind, _ = self.facts(row)
        entity = self._entities[entity_number]
        for rows in (*entity.postings, self._scopes[scope_number].rows, *self._kinds[kind]):
            del rows[rows_below(rows, count) :]
        entity.last_sequence = self.facts(entity.rows[-1])[2] if entity.rows else 0
        repeats = self._repeats.get(event_id, [])
        del repeats[rows_below(repeats, count) :]
        if self._ids.get(event_id, -1) >= count:
            del self._ids[event_id]
        # The link goes last: a cut that is itself cut short needs it again to find what it left.
        for link, postings in zip(self.link(row), (self._correlations, self._causations), strict=True):
            if link is not None:
                rows = postings.get(link, [])
                del rows[rows_below(rows, count) :]
        self._links.pop(row, None)

    # ---------------------------------------------------------------- answers

    @property
    def min_wall(self) -> int:
        """The least wall clock of any row, in milliseconds; 0 for an empty tail."""
        return min(self._fences, default=0)

    @property
    def seen_bits(self) -> int:
        """Every bit that any row has, at least."""
        return self._seen_bits

    def row_of_sequence(self, after: int, bound: int) -> int:
        """Return the first row whose global sequence is greater than *after*; *bound* when there is none."""
        return bisect_right(range(bound), after, key=self.global_sequence)

    def find_id(self, event_id: bytes, bound: int) -> int | None:
        """Return the newest row with that id."""
        first = self._ids.get(event_id)
        if first is None or first >= bound:
            return None
        repeats = self._repeats.get(event_id)
        if repeats is None:
            return first
        visible = rows_below(repeats, bound)
        return repeats[visible - 1] if visible else first

    def find_key(self, key: bytes, bound: int) -> int | None:
        """Return the newest row with that id, keyed or not."""
        return self.find_id(key, bound)

    def match(self, region: Region, start: int, stop: int, *, reverse: bool = False) -> Iterator[int]:
        """Yield the rows in [start, stop) that match every part of *region*, in order; rows with HIDDEN never."""
        return region_filter.match(self, region, start, stop, reverse=reverse)

    def stream(self, entity: str, start: int, stop: int, *, reverse: bool = False) -> Iterator[int]:
        """Yield the rows in [start, stop) of exactly that entity, in order; rows with HIDDEN never."""
        rows = ListPosting(self._rows(entity)).rows(start, stop, reverse=reverse)
        return region_filter.visible(self, rows)

    def head(self, entity: str, bound: int) -> Head | None:
        """Return the newest event of an entity on lane 0, rows with HIDDEN included."""
        row = self._newest(entity, bound, BRANCH)
        if row is None:
            return None
        return Head(self.facts(row)[2], self.wall_ms(row), self.event_hash(row), self.global_sequence(row))

    def newest(self, entity: str, bound: int) -> int | None:
        """Return the newest row of an entity on any lane; rows with HIDDEN never."""
        return self._newest(entity, bound, HIDDEN)

    def by_sequence(self, entity: str, sequence: int, bound: int) -> list[int]:
        """Return the rows of an entity that have that sequence, ascending, rows with HIDDEN included.

        Costs a search where the entity's sequences ascend, which they do except in journals of the original.
        """
        found = self._entity_of.get(entity)
        if found is None:
            return []
        rows, facts = found.rows, self.facts
        high = rows_below(rows, bound)
        if not found.ascending:
            return [row for row in rows[:high] if facts(row)[2] == sequence]
        low = bisect_left(rows, sequence, 0, high, key=lambda row: facts(row)[2])
        end = low
        while end < high and facts(rows[end])[2] == sequence:
            end += 1
        return rows[low:end]

    def effects(self, event_id: bytes, bound: int) -> Iterator[int]:
        """Yield the rows whose causation is *event_id*, ascending; rows with HIDDEN never."""
        rows = ListPosting(self._causations.get(event_id, [])).rows(0, bound, reverse=False)
        return region_filter.visible(self, rows)

    def newest_until(self, wall_ms: int, bound: int) -> int | None:
        """Return the newest row whose wall clock is at most *wall_ms*; rows with HIDDEN never."""
        for fence in range((bound - 1) >> _FENCE_SHIFT, -1, -1):
            if self._fences[fence] <= wall_ms:
                first = fence << _FENCE_SHIFT
                for row in range(min(bound, first + (1 << _FENCE_SHIFT)) - 1, first - 1, -1):
                    if self.wall_ms(row) <= wall_ms and not self.facts(row)[-1] & HIDDEN:
                        return row
        return None

    # ---------------------------------------------------------------- what a region asks for

    def entity_posting(self, prefix: str) -> Posting | None:
        """Return the rows within *prefix*."""
        rows = (self._rows(prefix), self._namespaces.get(prefix))
        return union([ListPosting(each) for each in rows if each])

    def scope_posting(self, scope: str) -> Posting | None:
        """Return the rows of that scope."""
        found = self._scope_of.get(scope)
        return None if found is None else ListPosting(found.rows)

    def kind_posting(self, kind: int) -> Posting | None:
        """Return the rows of that kind."""
        found = self._kinds.get(kind)
        return None if found is None else ListPosting(found[0])

    def category_posting(self, category: int) -> Posting | None:
        """Return the rows of that category."""
        found = self._categories.get(category)
        return None if found is None else ListPosting(found)

    def correlation_posting(self, correlation_id: bytes) -> Posting | None:
        """Return the rows of that correlation: those that name it, and the event whose id it is."""
        first, repeats = self._ids.get(correlation_id), self._repeats.get(correlation_id, ())
        own = [] if first is None else [first, *repeats]
        own = [row for row in own if self.link(row)[0] is None]
        named = self._correlations.get(correlation_id)
        return union([ListPosting(each) for each in (own, named) if each])

    def entity_test(self, prefix: str) -> Callable[[int], bool]:
        """Return whether an entity's number is that of one within *prefix*."""
        test, entities = within(prefix), self._entities
        return lambda number: test(entities[number].name)

    def scope_number(self, scope: str) -> int:
        """Return the number of a scope that has a posting."""
        return self._scope_of[scope].number

    # ---------------------------------------------------------------- inside

    def _rows(self, entity: str) -> list[int]:
        found = self._entity_of.get(entity)
        return [] if found is None else found.rows

    def _newest(self, entity: str, bound: int, unwanted: int) -> int | None:
        rows = self._rows(entity)
        for at in range(rows_below(rows, bound) - 1, -1, -1):
            if not self.facts(rows[at])[-1] & unwanted:
                return rows[at]
        return None
