"""The pass over the rows of a run that is being built: it writes them and notes what later sections need of them."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

from batpak.storage.body_writer import filled
from batpak.storage.row import KEY, ROW_BYTES
from batpak.storage.run_format import ID_FENCE_ROWS, WALL_FENCE_ROWS, WALL_TOP_FENCES, Section
from batpak.storage.run_sources import ENTITY_WORD, SCOPE_WORD, SEQUENCE_WORD, WORDS, prefixes

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from batpak.storage.run_draft import Draft


class RowNotes:
    """What the pass over the rows leaves behind."""

    def __init__(self, draft: Draft) -> None:
        """Start before the first row of *draft*."""
        self._draft = draft
        self._last_sequences = array("I")
        self._top = 0
        self._own_top = 0
        self.seen_bits = 0
        self.kinds: Counter[int] = Counter()
        """How many rows each kind has."""
        self.unordered = bytearray(len(draft.entity_starts) - 1)
        """By rank: whether sequences of the entity go back."""
        self.listed_count = 0
        """How many ids are not in order."""
        self.tops: list[int] = []
        """The greatest id in order before each source, as `prefixes` gives it."""
        self.newcomer_ends: list[int] = []
        """For each source, the row of it past the last id that is in order there and not in the new run."""
        self.id_fences = array("Q")
        self.wall_fences = array("Q")

    def write(self) -> Generator[None]:
        """Write the rows, in slices."""
        draft = self._draft
        self._last_sequences = yield from filled(len(self.unordered))
        draft.writer.begin(Section.ROWS)
        for at, source in enumerate(draft.sources):
            self.tops.append(self._top)
            self.newcomer_ends.append(0)
            self._own_top = 0
            entities, scopes = draft.renumbered[at]
            maps = [(ENTITY_WORD, draft.entity_maps[at])] if entities else []
            maps += [(SCOPE_WORD, draft.scope_maps[at])] if scopes else []
            row = draft.offsets[at]
            end = row + source.count
            while row < end:
                # Never beyond the next fence, so that each is made of whole pieces.
                stop = min(end, row + WALL_FENCE_ROWS - row % WALL_FENCE_ROWS)
                packed = source.packed(row - draft.offsets[at], stop - draft.offsets[at])
                words = memoryview(packed).cast("I")
                for word, ranks in maps:
                    words[word::WORDS] = array("I", map(ranks.__getitem__, words[word::WORDS].tolist()))
                self._note(row, packed)
                draft.writer.write(packed)
                row = stop
                yield
        draft.writer.end()
        self._last_sequences = array("I")

    def write_fences(self) -> Generator[None]:
        """Write the fences of the ids and of the wall clocks."""
        writer = self._draft.writer
        yield from writer.write_section(Section.ID_FENCES, self.id_fences)
        yield from writer.write_section(Section.WALL_FENCES, self.wall_fences)
        yield from writer.write_section(Section.WALL_TOPS, self.wall_tops())

    def wall_tops(self) -> array[int]:
        """Return the least wall clock of each 256 fences."""
        fences = self.wall_fences
        return array("Q", (min(fences[at : at + WALL_TOP_FENCES]) for at in range(0, len(fences), WALL_TOP_FENCES)))

    def _note(self, row: int, packed: bytearray) -> None:
        """Take in what the rows from *row* on say."""
        bits = packed[61::ROW_BYTES]
        for each in set(bits):
            self.seen_bits |= each
        self.kinds.update(memoryview(packed).cast("H")[28 :: ROW_BYTES // 2].tolist())
        self._note_ids(row, prefixes(packed), bits)
        self._note_sequences(memoryview(packed).cast("I"))
        wall_ms = min(memoryview(packed).cast("Q")[3 :: ROW_BYTES // 8].tolist())
        if row % WALL_FENCE_ROWS:
            self.wall_fences[-1] = min(self.wall_fences[-1], wall_ms)
        else:
            self.wall_fences.append(wall_ms)

    def _note_ids(self, row: int, ids: Sequence[int], bits: Sequence[int]) -> None:
        top, own_top, listed, newcomer = self._top, self._own_top, 0, -1
        for at, (prefix, row_bits) in enumerate(zip(ids, bits, strict=True), row):
            if not at % ID_FENCE_ROWS:
                self.id_fences.append(top)
            if not row_bits & KEY and prefix > top:
                top = own_top = prefix
                continue
            listed += 1
            if not row_bits & KEY and prefix > own_top:
                own_top, newcomer = prefix, at
        self._top, self._own_top = top, own_top
        self.listed_count += listed
        if newcomer >= 0:
            source = len(self.newcomer_ends) - 1
            self.newcomer_ends[source] = newcomer + 1 - self._draft.offsets[source]

    def _note_sequences(self, words: memoryview[int]) -> None:
        last_sequences, unordered = self._last_sequences, self.unordered
        for entity, sequence in zip(
            words[ENTITY_WORD::WORDS].tolist(), words[SEQUENCE_WORD::WORDS].tolist(), strict=True
        ):
            if sequence < last_sequences[entity]:
                unordered[entity] = 1
            last_sequences[entity] = sequence
