"""The tail: the newest rows of the index, in memory, until a run holds them.

A put does as little as it can: the row lies packed in a chunk of fixed size that is never resized. Ids and postings are
made when somebody first asks for what they tell, a stretch of rows at a time, and nobody may ask beyond a bound that
was published after the puts. So a put that was cut short, or a row that is cut off again, leaves nothing to take back.
One thread at a time puts, and whoever asks holds the guard while the rows are looked through.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from batpak.errors import ReentrantCallError
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
    from contextlib import AbstractContextManager

    from batpak.region import Region
    from batpak.storage.bloom import Spot
    from batpak.storage.postings import Posting
    from batpak.storage.row import Record

_FENCE_SHIFT: Final = 8
_FENCE_ROWS: Final = 1 << _FENCE_SHIFT
_FENCE_MASK: Final = _FENCE_ROWS - 1
"""No row has a wall clock below its fence; one fence stands for so many rows."""

_OTHER_BITS: Final = 0xFF & ~LINKED


class Tail(TailRows):
    """A part of the index in memory. It promises what `Part` says; besides, `record` gives every hash."""

    def __init__(self, first_row_hint: int = 0) -> None:
        """Start empty; *first_row_hint* is the global sequence that the first row is expected to have.

        Whoever shares the tail among threads gives it a *guard*, a lock that its holder may enter again.
        """
        super().__init__(first_row_hint)
        self.guard: AbstractContextManager[object] = nullcontext()
        self._is_guarded = False
        self._seen_bits = 0
        self._entity_of: dict[str, Entity] = {}
        self._scope_of: dict[str, Scope] = {}
        self._namespaces: dict[str, list[int]] = {}
        # Of the first rows, so many:
        self._named = 0
        self._ids: dict[bytes, int] = {}
        self._repeats: dict[bytes, list[int]] = {}
        # And of so many; one that was cut short may have left some of the next.
        self._posted = 0
        self._is_half_posted = False
        self._fences: list[int] = []
        self._kinds: dict[int, tuple[list[int], list[int]]] = {}
        self._categories: dict[int, list[int]] = {}
        self._correlations: dict[bytes, list[int]] = {}
        self._causations: dict[bytes, list[int]] = {}

    def __repr__(self) -> str:
        return f"<Tail of {self._count} rows>"

    # ---------------------------------------------------------------- writing

    def put(self, row: int, record: Record) -> None:
        """Write row *row*; readers see it once a bound above it is published.

        Rows have to come in the order (global sequence, segment, offset). One that no reader has seen may be put again.
        """
        entity = self._entity_of.get(record.entity) or self._add_entity(record.entity)
        scope = self._scope_of.get(record.scope) or self._add_scope(record.scope)
        bits = record.bits & _OTHER_BITS
        if record.correlation_id is not None or record.causation_id is not None:
            bits |= LINKED
            self._links[row] = record.correlation_id, record.causation_id
        chunk, slot = row >> CHUNK_SHIFT, row & CHUNK_MASK
        if chunk == len(self._chunks):
            self._add_chunk()
        ROW.pack_into(
            self._chunks[chunk],
            slot * ROW_BYTES,
            record.event_id,
            record.global_sequence,
            record.wall_ms,
            record.segment,
            record.offset,
            record.length,
            entity.number,
            scope.number,
            record.sequence,
            record.kind,
            record.payload_version,
            record.flags,
            bits,
        )
        HASH.pack_into(self._hashes[chunk], slot * HASH_BYTES, record.event_hash)
        self._seen_bits |= bits
        self._count = row + 1

    def cut(self, count: int) -> None:
        """Forget every row from *count* on; no reader may have seen one of them."""
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

    # ---------------------------------------------------------------- looking through

    def post(self, bound: int) -> None:
        """Make the postings of the rows below *bound*, all of them visible, as far as they are not made.

        From within itself, as from a signal handler, `ReentrantCallError`.
        """
        if bound > self._posted:
            self._guarded(self._post, bound)

    def _guarded(self, work: Callable[[int], None], bound: int) -> None:
        """Run *work* alone; where that ends early, it is begun again by the next one who asks."""
        spare = (work, work, work)
        with self.guard:
            if self._is_guarded:
                raise ReentrantCallError
            self._is_guarded = True
            try:
                work(bound)
            finally:
                self._is_guarded = False
                del spare

    def _name(self, bound: int) -> None:
        """Note the ids of the rows below *bound*."""
        ids = self._ids
        for row in range(self._named, bound):
            event_id = self.event_id(row)
            if ids.setdefault(event_id, row) != row:
                repeats = self._repeats.setdefault(event_id, [])
                if not repeats or repeats[-1] < row:
                    repeats.append(row)
        self._named = max(bound, self._named)

    def _post(self, bound: int) -> None:
        """Append the rows below *bound* to every list that they belong to."""
        if bound <= self._posted:  # another thread was quicker
            return
        if self._is_half_posted:
            self._take_back(self._posted)
        self._is_half_posted = True
        entities, scopes, kinds = self._entities, self._scopes, self._kinds
        for row in range(self._posted, bound):
            number, scope, sequence, kind, bits = self.facts(row)
            entity = entities[number]
            for rows in entity.postings:
                rows.append(row)
            if sequence < entity.last_sequence:
                entity.ascending = False
            entity.last_sequence = sequence
            scopes[scope].rows.append(row)
            for rows in kinds.get(kind) or self._add_kind(kind):
                rows.append(row)
            if bits & LINKED:
                self._link(row)
        self._fence(bound)
        self._posted = bound
        self._is_half_posted = False

    def _fence(self, bound: int) -> None:
        """Lower the fences of the next rows; that one is too low does no harm."""
        fences = self._fences
        for first in range(self._posted & ~_FENCE_MASK, bound, _FENCE_ROWS):
            rows = range(max(first, self._posted), min(bound, first + _FENCE_ROWS))
            least = min(map(self.wall_ms, rows))
            if first >> _FENCE_SHIFT == len(fences):
                fences.append(least)
            elif least < fences[first >> _FENCE_SHIFT]:
                fences[first >> _FENCE_SHIFT] = least

    def _take_back(self, count: int) -> None:
        """Take the rows from *count* on out of every list; no reader has seen one of them."""
        lists = [entity.rows for entity in self._entities]
        lists += [scope.rows for scope in self._scopes]
        lists += [rows for rows, _ in self._kinds.values()]
        for postings in (self._namespaces, self._categories, self._correlations, self._causations):
            lists += postings.values()
        for rows in lists:
            del rows[rows_below(rows, count) :]
        for entity in self._entities:
            entity.last_sequence = self.facts(entity.rows[-1])[2] if entity.rows else 0

    def _add_kind(self, kind: int) -> tuple[list[int], list[int]]:
        category = self._categories.setdefault(kind >> CATEGORY_SHIFT, [])
        return self._kinds.setdefault(kind, ([], category))

    def _link(self, row: int) -> None:
        for postings, event_id in zip((self._correlations, self._causations), self._links[row], strict=True):
            if event_id is not None:
                postings.setdefault(event_id, []).append(row)

    # ---------------------------------------------------------------- answers

    @property
    def min_wall(self) -> int:
        """No wall clock is below it; of a tail nobody keeps the least."""
        return 0

    @property
    def seen_bits(self) -> int:
        """Every bit that any row has, at least."""
        return self._seen_bits

    def row_of_sequence(self, after: int, bound: int) -> int:
        """Return the first row whose global sequence is greater than *after*; *bound* when there is none."""
        return bisect_right(range(bound), after, key=self.global_sequence)

    def find_id(self, event_id: bytes, bound: int) -> int | None:
        """Return the newest row with that id."""
        if bound > self._named:
            self._guarded(self._name, bound)
        first = self._ids.get(event_id)
        if first is None or first >= bound:
            return None
        repeats = self._repeats.get(event_id)
        if repeats is None:
            return first
        visible = rows_below(repeats, bound)
        return repeats[visible - 1] if visible else first

    def find_key(self, key: bytes, bound: int, spot: Spot | None = None) -> int | None:  # noqa: ARG002 - as `Part` has it
        """Return the newest row with that id, keyed or not."""
        return self.find_id(key, bound)

    def match(self, region: Region, start: int, stop: int, *, reverse: bool = False) -> Iterator[int]:
        """Yield the rows in [start, stop) that match every part of *region*, in order; rows with HIDDEN never."""
        self.post(stop)
        return region_filter.match(self, region, start, stop, reverse=reverse)

    def stream(self, entity: str, start: int, stop: int, *, reverse: bool = False) -> Iterator[int]:
        """Yield the rows in [start, stop) of exactly that entity, in order; rows with HIDDEN never."""
        if entity not in self._entity_of:
            return iter(())
        self.post(stop)
        rows = ListPosting(self._rows(entity)).rows(start, stop, reverse=reverse)
        return region_filter.visible(self, rows)

    def head(self, entity: str, bound: int, spot: Spot | None = None) -> Head | None:  # noqa: ARG002 - as `Part` has it
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
        self.post(bound)
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
        self.post(bound)
        rows = ListPosting(self._causations.get(event_id, [])).rows(0, bound, reverse=False)
        return region_filter.visible(self, rows)

    def newest_until(self, wall_ms: int, bound: int) -> int | None:
        """Return the newest row whose wall clock is at most *wall_ms*; rows with HIDDEN never."""
        self.post(bound)
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
        if self._posted > self._named:
            self._guarded(self._name, self._posted)
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
        found = self._entity_of.get(entity)
        if found is None:  # a new one, as entities of many are: nothing has to be posted for it
            return None
        self.post(bound)
        rows = found.rows
        for at in range(rows_below(rows, bound) - 1, -1, -1):
            if not self.facts(rows[at])[-1] & unwanted:
                return rows[at]
        return None
