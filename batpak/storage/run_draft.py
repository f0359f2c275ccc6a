"""A run while it is being built: where it is written, what of, and the names, which every later pass goes by."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import accumulate, chain, islice
from typing import TYPE_CHECKING, Final

from batpak.storage import bloom
from batpak.storage.namespaces import Namespaces
from batpak.storage.run_format import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from batpak.storage.body_writer import BodyWriter
    from batpak.storage.run_sources import NameTable, Source

_NAMES: Final = 512
_LEAST_NAMES: Final = 64
"""About how many names are merged in one slice, and how many of one source at least are read at a time."""


class Draft:
    """What the passes share. Ranks are those of the new run; a source's own numbers become ranks through the maps."""

    def __init__(self, writer: BodyWriter, sources: Sequence[Source]) -> None:
        """Write what *sources*, in order, hold."""
        self.writer = writer
        self.sources = sources
        self.count = sum(source.count for source in sources)
        self.offsets = [sum(source.count for source in sources[:at]) for at in range(len(sources))]
        self.namespaces = Namespaces()
        self.entity_ranks: list[array[int]] = []
        """Of each source, the ranks of its entities in their order."""
        self.entity_maps: list[array[int]] = []
        self.scope_maps: list[array[int]] = []
        self.renumbered: list[tuple[bool, bool]] = []
        """Of each source, whether its entities and its scopes have other numbers than ranks."""
        self.entity_starts = array("I")
        self.scope_starts = array("I")
        """Where the postings of each rank start, and of the one past the last."""

    def write_names(self) -> Generator[None]:
        """Write entities and scopes, and the filter of the entities."""
        tables = [source.entities for source in self.sources]
        # Before the names are merged only a limit is known of how many they are.
        bits = bytearray(bloom.filter_bytes(sum(map(len, tables))))

        def note(names: Sequence[bytes], text: bytes) -> None:
            bloom.add_keys(bits, names)
            self.namespaces.add_all(names, text)

        sections = (Section.ENTITY_NAMES, Section.ENTITY_ENDS, Section.ENTITY_STARTS)
        self.entity_ranks, self.entity_starts = yield from self._write_names(tables, sections, note)
        self.entity_maps = [table.by_number(ranks) for table, ranks in zip(tables, self.entity_ranks, strict=True)]
        self.namespaces.finish()
        yield from self.writer.write_section(Section.ENTITY_FILTER, bits)
        tables = [source.scopes for source in self.sources]
        sections = (Section.SCOPE_NAMES, Section.SCOPE_ENDS, Section.SCOPE_STARTS)
        ranks, self.scope_starts = yield from self._write_names(tables, sections, lambda *_: None)
        self.scope_maps = [table.by_number(each) for table, each in zip(tables, ranks, strict=True)]
        maps = zip(self.entity_maps, self.scope_maps, strict=True)
        self.renumbered = [(not _is_identity(entities), not _is_identity(scopes)) for entities, scopes in maps]

    def _write_names(
        self,
        tables: Sequence[NameTable],
        sections: tuple[Section, Section, Section],
        note: Callable[[Sequence[bytes], bytes], None],
    ) -> Generator[None, None, tuple[list[array[int]], array[int]]]:
        """Merge sorted names; return the ranks of each table's names, and where each rank's postings start."""
        ranks = [array("I") for _ in tables]
        ends, starts = array("I"), array("I", [0])
        self.writer.begin(sections[0])
        for pieces, counts in _stretches(tables):
            names, totals = pieces[0], counts[0]
            first = len(ends)
            if len(tables) == 1:
                ranks[0].extend(range(first, first + len(names)))
            else:
                names = list(dict.fromkeys(sorted(chain.from_iterable(pieces))))  # stretches in order: quickly sorted
                totals = [0] * len(names)
                rank_of = dict(zip(names, range(len(names)), strict=True))
                for at, piece in enumerate(pieces):
                    found = list(map(rank_of.__getitem__, piece))
                    ranks[at].extend(first + rank for rank in found)
                    for rank, count in zip(found, counts[at], strict=True):
                        totals[rank] += count
            ends.extend(islice(accumulate(map(len, names), initial=ends[-1] if first else 0), 1, None))
            starts.extend(islice(accumulate(totals, initial=starts[-1]), 1, None))
            text = b"".join(names)
            self.writer.write(text)
            note(names, text)
            yield
        self.writer.end()
        assert starts[-1] == self.count, f"found names for {starts[-1]} rows, expected {self.count}"
        yield from self.writer.write_section(sections[1], ends)
        yield from self.writer.write_section(sections[2], starts)
        return ranks, starts


def _is_identity(ranks: array[int]) -> bool:
    """Whether each number is its own rank, as far as that is soon told."""
    return len(ranks) <= _NAMES * 64 and ranks == array("I", range(len(ranks)))


def _stretches(tables: Sequence[NameTable]) -> Iterator[tuple[list[list[bytes]], list[list[int]]]]:
    """Yield the names of each table and their counts, a stretch of the alphabet at a time: a few hundred names."""
    step = max(_LEAST_NAMES, _NAMES // len(tables))
    firsts = [0] * len(tables)
    waiting: list[list[bytes]] = [[] for _ in tables]
    while True:
        limits = []
        for at, table in enumerate(tables):
            read = firsts[at] + len(waiting[at])
            if not waiting[at] and read < len(table):
                waiting[at] = table.names(read, min(len(table), read + step))
                read += len(waiting[at])
            if read < len(table):
                limits.append(waiting[at][-1])
        limit = min(limits, default=None)
        pieces, counts = [], []
        for at, table in enumerate(tables):
            taken = len(waiting[at]) if limit is None else bisect_right(waiting[at], limit)
            pieces.append(waiting[at][:taken])
            counts.append(table.counts(firsts[at], firsts[at] + taken) if taken else [])
            del waiting[at][:taken]
            firsts[at] += taken
        if any(pieces):
            yield pieces, counts
        if limit is None:
            return
