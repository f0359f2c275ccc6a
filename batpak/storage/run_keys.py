"""The sorted tables of a run that is being built: heads by entity, ids that are not in order, links either way."""

from __future__ import annotations

from array import array
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Final

from batpak.storage import bloom
from batpak.storage.run_format import ASCENDING, HEAD, ID_BYTES, ID_FENCE_ROWS, LINK, Section
from batpak.storage.run_ids import prefix_of
from batpak.storage.run_sources import NO_HASH, PIECE, newcomers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from batpak.storage.run_draft import Draft
    from batpak.storage.run_rows import RowNotes

_STEPS: Final = 64
"""How many entries are merged in one slice."""


def write_heads(draft: Draft, unordered: bytearray) -> Generator[None]:
    """Write each entity's newest event on lane 0, in slices; *unordered* tells by rank whose sequences go back."""
    heads = merge(*(_heads(draft, at) for at in range(len(draft.sources))))
    writer = draft.writer
    writer.begin(Section.HEADS)
    rank, event_hash, past = 0, NO_HASH, 0
    for step, (next_rank, _, next_hash, next_past) in enumerate(heads):
        if next_rank != rank:
            writer.write(HEAD.pack(event_hash, past, 0 if unordered[rank] else ASCENDING))
            rank, event_hash, past = next_rank, NO_HASH, 0
        if next_past:
            event_hash, past = next_hash, next_past
        if not step % _STEPS:
            yield
    writer.write(HEAD.pack(event_hash, past, 0 if unordered[rank] else ASCENDING))
    writer.end()


def _heads(draft: Draft, at: int) -> Iterator[tuple[int, int, bytes, int]]:
    """Yield the heads of one source by rank; rank and source order them, so that a later source's counts."""
    ranks, offset = draft.entity_maps[at], draft.offsets[at]
    for number, event_hash, past in draft.sources[at].heads():
        yield ranks[number], at, event_hash, past + offset if past else 0


def write_ids(draft: Draft, notes: RowNotes) -> Generator[None]:
    """Write the ids that are not in order, in slices."""
    count = notes.listed_count
    entries: list[Iterator[bytes]] = []
    for at, source in enumerate(draft.sources):
        entries.append(source.listed(draft.offsets[at]))
        entries.append(newcomers(source, notes.tops[at], draft.offsets[at], notes.newcomer_ends[at]))
    bits = bytearray(bloom.filter_bytes(count))
    fences = array("Q")
    written = 0
    draft.writer.begin(Section.LISTED)
    for entry in merge(*entries):
        if not written % ID_FENCE_ROWS:
            fences.append(prefix_of(entry))
            yield
        written += 1
        draft.writer.write(entry)
        bloom.add_key(bits, entry[:ID_BYTES])
    draft.writer.end()
    assert written == count, f"found {written} listed ids, expected {count}"
    yield from draft.writer.write_section(Section.LISTED_FENCES, fences)
    yield from draft.writer.write_section(Section.LISTED_FILTER, bits)


def write_links(draft: Draft) -> Generator[None]:
    """Write the links and their order by correlation and by causation, in slices."""
    writer, sources = draft.writer, draft.sources
    writer.begin(Section.LINKS)
    for source, offset in zip(sources, draft.offsets, strict=True):
        for first in range(0, source.link_count, PIECE):
            links = bytearray(source.links(first, min(source.link_count, first + PIECE)))
            rows = memoryview(links).cast("I")[:: LINK.size // 4]
            rows[:] = array("I", [row + offset for row in rows.tolist()])
            writer.write(links)
            yield
    writer.end()
    counts = [source.link_count for source in sources]
    places = [sum(counts[:at]) for at in range(len(counts))]
    by_correlation = [source.correlations(place) for source, place in zip(sources, places, strict=True)]
    yield from _write_order(draft, Section.BY_CORRELATION, by_correlation)
    by_causation = [source.causations(place) for source, place in zip(sources, places, strict=True)]
    yield from _write_order(draft, Section.BY_CAUSATION, by_causation)


def _write_order(draft: Draft, section: Section, links: Sequence[Iterator[tuple[bytes, int]]]) -> Generator[None]:
    """Write the places of sorted links."""
    merged = merge(*links)
    draft.writer.begin(section)
    while places := array("I", (place for _, place in islice(merged, _STEPS))):
        draft.writer.write(places.tobytes())
        yield
    draft.writer.end()
