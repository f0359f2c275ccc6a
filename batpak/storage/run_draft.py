"""A run while it is being built: where it is written, what of, and the names, which every later pass goes by."""

from __future__ import annotations

from array import array
from heapq import merge
from typing import TYPE_CHECKING, Final

from batpak.storage import bloom
from batpak.storage.body_writer import filled
from batpak.storage.namespaces import Namespaces
from batpak.storage.row import ROW_BYTES
from batpak.storage.run_format import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from batpak.storage.body_writer import BodyWriter
    from batpak.storage.run_sources import Source

ENTITY_WORD: Final = 11
SCOPE_WORD: Final = 12
SEQUENCE_WORD: Final = 13
"""Which 32-bit word of a row it is."""
WORDS: Final = ROW_BYTES // 4

_NAMES: Final = 64
"""How many names are merged in one slice."""


class Draft:
    """What the passes share. Ranks are those of the new run; a source's own numbers become ranks through the maps."""

    def __init__(self, writer: BodyWriter, sources: Sequence[Source]) -> None:
        """Write what *sources*, in order, hold."""
        self.writer = writer
        self.sources = sources
        self.count = sum(source.count for source in sources)
        self.offsets = [sum(source.count for source in sources[:at]) for at in range(len(sources))]
        self.namespaces = Namespaces()
        self.entity_maps: list[array[int]] = []
        self.scope_maps: list[array[int]] = []
        self.entity_starts = array("I")
        self.scope_starts = array("I")
        """Where the postings of each rank start, and of the one past the last."""

    def write_names(self) -> Generator[None]:
        """Write entities and scopes, and the filter of the entities."""
        numbers = [source.entity_numbers for source in self.sources]
        # Before the names are merged only a limit is known of how many they are.
        bits = bytearray(bloom.filter_bytes(sum(numbers)))

        def note(name: bytes) -> None:
            bloom.add_key(bits, name)
            self.namespaces.add(name)

        names = [source.entities() for source in self.sources]
        sections = (Section.ENTITY_NAMES, Section.ENTITY_ENDS, Section.ENTITY_STARTS)
        self.entity_maps, self.entity_starts = yield from self._write_names(names, numbers, sections, note)
        self.namespaces.finish()
        yield from self.writer.write_section(Section.ENTITY_FILTER, bits)
        numbers = [source.scope_numbers for source in self.sources]
        names = [source.scopes() for source in self.sources]
        sections = (Section.SCOPE_NAMES, Section.SCOPE_ENDS, Section.SCOPE_STARTS)
        self.scope_maps, self.scope_starts = yield from self._write_names(names, numbers, sections, lambda _: None)

    def _write_names(
        self,
        names: Sequence[Iterator[tuple[bytes, int, int]]],
        numbers: Sequence[int],
        sections: tuple[Section, Section, Section],
        note: Callable[[bytes], None],
    ) -> Generator[None, None, tuple[list[array[int]], array[int]]]:
        """Merge sorted names; return the rank of each source's numbers, and where each rank's postings start."""
        maps = []
        for count in numbers:
            ranks = yield from filled(count)
            maps.append(ranks)
        ends, starts = array("I"), array("I")
        size = rows = 0
        last = None
        self.writer.begin(sections[0])
        numbered = (_numbered(source, each) for source, each in enumerate(names))
        for step, (name, source, number, count) in enumerate(merge(*numbered)):
            if name != last:
                last = name
                size += len(name)
                ends.append(size)
                starts.append(rows)
                self.writer.write(name)
                note(name)
            maps[source][number] = len(ends) - 1
            rows += count
            if not step % _NAMES:
                yield
        self.writer.end()
        starts.append(rows)
        assert rows == self.count, f"found names for {rows} rows, expected {self.count}"
        yield from self.writer.write_section(sections[1], ends)
        yield from self.writer.write_section(sections[2], starts)
        return maps, starts


def _numbered(source: int, names: Iterator[tuple[bytes, int, int]]) -> Iterator[tuple[bytes, int, int, int]]:
    return ((name, source, number, count) for name, number, count in names)
