"""The postings of a run that is being built: rows by entity, namespace, scope and kind.

Where the rows of each key start is known beforehand, so one pass over the rows puts each in its place. What every row
has in common gets no postings.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from batpak.storage.body_writer import filled
from batpak.storage.row import CATEGORY_SHIFT, ROW_BYTES
from batpak.storage.run_format import CATEGORY, NAMESPACE, TERM, Section
from batpak.storage.run_sources import ENTITY_WORD, PIECE, SCOPE_WORD, WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from typing import TypeAlias

    from batpak.storage.run_draft import Draft

    Keys: TypeAlias = Callable[[int, bytearray], Iterable[int]]
    """What gives each of a source's packed rows, the source known by its place, the key of its posting."""

NONE: Final = 0xFFFFFFFF
"""The key of a row without a posting."""


def write_postings(draft: Draft, kinds: Mapping[int, int]) -> Generator[None]:
    """Write all postings, in slices; *kinds* tells how many rows each kind has. The draft's starts are used up."""
    yield from _write_namespaces(draft)
    for section, starts, maps, word in (
        (Section.ENTITY_ROWS, draft.entity_starts, draft.entity_maps, ENTITY_WORD),
        (Section.SCOPE_ROWS, draft.scope_starts, draft.scope_maps, SCOPE_WORD),
    ):
        draft.writer.begin(section)
        if len(starts) > 2:  # two starts are one name, which every row has
            yield from _fill(draft, starts, draft.count, _ranks(maps, word))
        draft.writer.end()
    yield from _write_kinds(draft, kinds)


def _fill(draft: Draft, cursors: array[int], total: int, keys: Keys) -> Generator[None]:
    """Write *total* rows by key, ascending for each; *cursors*, where each key's rows start, move to where they end."""
    rows = yield from filled(total)
    for at, source in enumerate(draft.sources):
        for start in range(0, source.count, PIECE):
            packed = source.packed(start, min(source.count, start + PIECE))
            for row, key in enumerate(keys(at, packed), draft.offsets[at] + start):
                if key != NONE:
                    place = cursors[key]
                    rows[place] = row
                    cursors[key] = place + 1
            yield
    yield from draft.writer.write_wide(rows)


def _ranks(maps: Sequence[array[int]], word: int) -> Keys:
    """Return the keys that are the ranks of one word of a row."""
    return lambda at, packed: map(maps[at].__getitem__, memoryview(packed).cast("I")[word::WORDS].tolist())


def _write_namespaces(draft: Draft) -> Generator[None]:
    """Write the namespaces and their postings, one depth after another: at one depth a row lies in one at most."""
    spaces, starts, writer = draft.namespaces, draft.entity_starts, draft.writer
    cursors = yield from filled(len(spaces))
    totals = [0] * (max(spaces.depths, default=-1) + 1)
    for at, depth in enumerate(spaces.depths):
        cursors[at] = totals[depth]
        totals[depth] += _stored(draft, at)
        if not at % PIECE:
            yield
    bases = [sum(totals[:depth]) for depth in range(len(totals))]
    writer.begin(Section.NAMESPACES)
    for at, depth in enumerate(spaces.depths):
        first, end = spaces.firsts[at], spaces.ends[at]
        place = bases[depth] + cursors[at]
        writer.write(NAMESPACE.pack(first, end, spaces.lengths[at], place, starts[end] - starts[first]))
        if not at % PIECE:
            yield
    writer.end()
    writer.begin(Section.NAMESPACE_ROWS)
    for depth, total in enumerate(totals):
        if total:
            targets = yield from _targets(draft, depth)
            yield from _fill(draft, cursors, total, _through(draft, targets))
    writer.end()


def _stored(draft: Draft, at: int) -> int:
    """Return how many rows of a namespace are stored: all that it has, or none if it has all that there are."""
    spaces, starts = draft.namespaces, draft.entity_starts
    count = starts[spaces.ends[at]] - starts[spaces.firsts[at]]
    return count if count < draft.count else 0


def _targets(draft: Draft, depth: int) -> Generator[None, None, array[int]]:
    """Return by rank which namespace of a depth the entity lies in."""
    spaces = draft.namespaces
    targets = yield from filled(len(draft.entity_starts) - 1, NONE)
    for at, its_depth in enumerate(spaces.depths):
        if its_depth == depth and _stored(draft, at):
            for start in range(spaces.firsts[at], spaces.ends[at], PIECE):
                stop = min(spaces.ends[at], start + PIECE)
                targets[start:stop] = array("I", [at]) * (stop - start)
        if not at % PIECE:
            yield
    return targets


def _through(draft: Draft, targets: array[int]) -> Keys:
    """Return the keys that are the namespaces of entities."""
    ranks = _ranks(draft.entity_maps, ENTITY_WORD)
    return lambda at, packed: map(targets.__getitem__, ranks(at, packed))


def _write_kinds(draft: Draft, kinds: Mapping[int, int]) -> Generator[None]:
    """Write kinds and categories and their postings; a category comes after all kinds."""
    categories: dict[int, int] = {}
    for kind, count in kinds.items():
        categories[kind >> CATEGORY_SHIFT] = categories.get(kind >> CATEGORY_SHIFT, 0) + count
    terms = [*sorted(kinds.items()), *((CATEGORY + each, count) for each, count in sorted(categories.items()))]
    cursors = array("I", [0]) * len(terms)
    total = 0
    draft.writer.begin(Section.KINDS)
    for at, (key, count) in enumerate(terms):
        cursors[at] = total
        draft.writer.write(TERM.pack(key, total, count))
        total += count if count < draft.count else 0
    draft.writer.end()
    draft.writer.begin(Section.KIND_ROWS)
    stored = {key: at for at, (key, count) in enumerate(terms) if count < draft.count}
    split = sum(kinds[key] for key in kinds if key in stored)
    if split:
        yield from _fill(draft, cursors, split, _of_kind({kind: stored.get(kind, NONE) for kind in kinds}))
    if total > split:
        by_category = {kind: stored.get(CATEGORY + (kind >> CATEGORY_SHIFT), NONE) for kind in kinds}
        for at in range(len(kinds), len(terms)):
            cursors[at] -= split
        yield from _fill(draft, cursors, total - split, _of_kind(by_category))
    draft.writer.end()


def _of_kind(keys: Mapping[int, int]) -> Keys:
    """Return the keys that kinds have."""
    return lambda _, packed: map(keys.__getitem__, memoryview(packed).cast("H")[28 :: ROW_BYTES // 2].tolist())
