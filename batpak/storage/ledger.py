"""From frames to rows of the index, and which bytes a part of the index covers."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from batpak.coordinate import Coordinate
from batpak.errors import CorruptStoreError, InvalidCoordinateError
from batpak.kind import SYSTEM_KINDS
from batpak.storage.frame import FRAME
from batpak.storage.numbers import Numbers
from batpak.storage.row import BRANCH, FOREIGN, HIDDEN, KEY, ROW_BYTES, SYSTEM, Record
from batpak.storage.scan import Batches, Found, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batpak.storage.catalog import Catalog
    from batpak.storage.files import Files
    from batpak.storage.run_format import Cover
    from batpak.storage.segment import SegmentMeta

_PLACE_WORDS: Final = (8, 9, 10)
"""Which 32-bit words of a row are segment, offset and length of its frame."""
_WORDS: Final = ROW_BYTES // 4


@dataclass(slots=True)
class Ledger:
    """Makes the index's records from frames, which come in the order of the segments.

    *hidden* are half-open ranges of sequences that a fence of the original cancelled; *highest* is the highest
    sequence so far; *numbers* knows those that frames do not hold.
    """

    files: Files
    catalog: Catalog
    hidden: list[tuple[int, int]] = field(default_factory=list)
    highest: int = -1
    numbers: Numbers = field(init=False)

    def __post_init__(self) -> None:
        """Know no numbers yet."""
        self.numbers = Numbers(self.files, self.catalog)

    def record(self, found: Found) -> Record:
        """Return the row of one committed frame."""
        frame = found.frame
        self._check_coordinate(found)
        sequence = self._sequence(found)
        self.highest = max(self.highest, sequence)
        foreign = self.catalog.meta(found.segment).version == 1
        bits = (KEY if frame.is_key else 0) | (FOREIGN if foreign else 0) | (BRANCH if frame.lane else 0)
        bits |= (SYSTEM if frame.kind in SYSTEM_KINDS else 0) | (HIDDEN if self._is_hidden(sequence) else 0)
        return Record(
            frame.event_id,
            sequence,
            frame.wall_ms,
            found.segment,
            found.offset,
            found.end - found.offset,
            frame.entity,
            frame.scope,
            frame.sequence,
            frame.kind,
            frame.payload_version,
            frame.flags,
            bits,
            frame.correlation_id,
            frame.causation_id,
            frame.event_hash,
        )

    def covers(self, spans: Spans) -> tuple[Cover, ...]:
        """Return what of which segments the rows cover that *spans* has taken in."""
        return tuple(
            (segment, self.catalog.meta(segment).identity, first, last + length, self.crc_at(segment, last))
            for segment, (first, last, length) in sorted(spans.found.items())
        )

    def crc_at(self, segment: int, offset: int) -> int:
        """Return the checksum that the frame at *offset* carries; 0 where the file ends before it."""
        with closing(self.files.open_read(self.catalog.meta(segment).name)) as file:
            header = file.pread(FRAME.size, offset)
        return int(FRAME.unpack(header)[1]) if len(header) == FRAME.size else 0

    def rescan(self, covers: Sequence[Cover], first_sequence: int) -> list[Record]:
        """Read again what *covers* name, where the first event has *first_sequence*; rows in the index's order."""
        again = Ledger(self.files, self.catalog, self.hidden, first_sequence - 1)
        if any(not self.catalog.meta(segment).ours for segment, *_ in covers):
            again.numbers.load()
        records = [again.record(found) for found in again._committed(covers)]
        records.sort(key=lambda record: (record.global_sequence, record.segment, record.offset))
        return records

    def _committed(self, covers: Sequence[Cover]) -> Iterator[Found]:
        """Yield the committed frames of *covers*, in the order of the segments.

        A cover reaches from its first event to its last, so it may lack the markers around those. Of ours every batch
        in it is whole. A segment of the original is read from its beginning, for batches that were never committed.
        """
        spans = {segment: range(start, end) for segment, _, start, end, _ in covers}
        batches = Batches()
        for segment, span in spans.items():
            meta = self.catalog.meta(segment)
            with closing(self.files.open_read(meta.name)) as file:
                if meta.version == 1:
                    self.numbers.read_footer(file, meta)
                batches.enter(meta)
                walk = Walk(file, meta, span.start, span.stop) if meta.ours else Walk(file, meta)
                for found in walk:
                    committed = batches.feed(found, meta.version)
                    yield from (each for each in committed if each.offset in spans[each.segment])
                if walk.end < span.stop:
                    raise self._corrupt(meta, walk.end, walk.why, f"frames up to {span.stop}")
                if meta.ours:
                    yield from batches.complete()
        yield from batches.complete()

    def _sequence(self, found: Found) -> int:
        """Return the global sequence of *found*."""
        known = found.frame.global_sequence
        if known is None:
            known = self.numbers.of(found)
        return self.highest + 1 if known is None else known

    def _check_coordinate(self, found: Found) -> None:
        """Refuse names that nobody could ask for; releases of the original before 0.8 checked less."""
        try:
            Coordinate(found.frame.entity, found.frame.scope)
        except InvalidCoordinateError as error:
            meta = self.catalog.meta(found.segment)
            raise self._corrupt(meta, found.offset, f"{error.found} in its {error.part}", error.expected) from error

    def _corrupt(self, meta: SegmentMeta, offset: int, found: str, expected: str) -> CorruptStoreError:
        """Return the refusal of a segment."""
        return CorruptStoreError(
            file=meta.name,
            offset=offset,
            found=found,
            expected=expected,
            provable=f"the events below global sequence {self.highest + 1}",
        )

    def _is_hidden(self, sequence: int) -> bool:
        """Whether a fence of the original cancelled what stands at *sequence*."""
        at = bisect_right(self.hidden, (sequence, 2**64)) - 1
        return at >= 0 and self.hidden[at][0] <= sequence < self.hidden[at][1]


class Spans:
    """From where to where rows lie in each segment; *found*: offsets of the first and the last frame, its length."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        """Start without rows."""
        self.found: dict[int, tuple[int, int, int]] = {}

    def add_rows(self, packed: bytearray) -> None:
        """Take in packed rows."""
        words = memoryview(packed).cast("I")
        segments, offsets, lengths = (words[word::_WORDS].tolist() for word in _PLACE_WORDS)
        if segments.count(segments[0]) == len(segments):
            last = max(offsets)
            self._add(segments[0], min(offsets), last, lengths[offsets.index(last)])
        else:
            for segment, offset, length in zip(segments, offsets, lengths, strict=True):
                self._add(segment, offset, offset, length)

    def _add(self, segment: int, first: int, last: int, length: int) -> None:
        """Widen what is known of a segment."""
        known = self.found.get(segment)
        if known is not None:
            first = min(first, known[0])
            if last < known[1]:
                _, last, length = known
        self.found[segment] = first, last, length
