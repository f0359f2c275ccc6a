"""The sorted tables of a run that is being built: heads by entity, ids that are not in order, links either way."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Final

from batpak.storage import bloom
from batpak.storage.run_format import ASCENDING, HEAD, ID_BYTES, ID_FENCE_ROWS, LINK, Section
from batpak.storage.run_ids import prefix_of
from batpak.storage.run_sources import NO_HASH, PIECE, merged, newcomers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from batpak.storage.run_draft import Draft
    from batpak.storage.run_rows import RowNotes

_STEPS: Final = 64
"""How many entries are merged in one slice."""


def write_heads(draft: Draft, unordered: bytearray) -> Generator[None]:
    """Write each entity's newest event on lane 0, in slices; *unordered* tells by rank whose sequences go back."""
    writer, done = draft.writer, [0] * len(draft.sources)
    writer.begin(Section.HEADS)
    for first in range(0, len(unordered), PIECE):
        last = min(len(unordered), first + PIECE)
        heads = [(NO_HASH, 0)] * (last - first)
        for at, source in enumerate(draft.sources):  # a later source's counts
            ranks, low, offset = draft.entity_ranks[at], done[at], draft.offsets[at]
            done[at] = high = bisect_left(ranks, last, low)
            for rank, (event_hash, past) in zip(ranks[low:high], source.heads(low, high), strict=True):
                if past:
                    heads[rank - first] = event_hash, past + offset
        flags = [0 if each else ASCENDING for each in unordered[first:last]]
        writer.write(b"".join(HEAD.pack(*head, each) for head, each in zip(heads, flags, strict=True)))
        yield
    writer.end()


def write_ids(draft: Draft, notes: RowNotes) -> Generator[None]:
    """Write the ids that are not in order, in slices."""
    count = notes.listed_count
    entries: list[Iterator[list[bytes]]] = []
    for at, source in enumerate(draft.sources):
        entries.append(source.listed(draft.offsets[at]))
        if notes.newcomer_ends[at]:
            entries.append(newcomers(source, notes.tops[at], draft.offsets[at], notes.newcomer_ends[at]))
    bits = bytearray(bloom.filter_bytes(count))
    fences = array("Q")
    written = 0
    draft.writer.begin(Section.LISTED)
    for block in merged(entries):
        fences.extend(prefix_of(entry) for entry in block[-written % ID_FENCE_ROWS :: ID_FENCE_ROWS])
        for first in range(0, len(block), PIECE):
            piece = block[first : first + PIECE]
            bloom.add_keys(bits, [entry[:ID_BYTES] for entry in piece])
            draft.writer.write(b"".join(piece))
            yield
        written += len(block)
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
