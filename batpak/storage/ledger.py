"""From frames to rows of the index, and which bytes a part of the index covers.

Frames of the original do not hold their global sequence. It is taken from the frame (ours), else from a snapshot that
the original left, else from the segment's footer, else it is one more than the highest before (original, 5.3).
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batpak.kind import SYSTEM_KINDS
from batpak.storage import original_footer
from batpak.storage.frame import FRAME
from batpak.storage.row import BRANCH, FOREIGN, HIDDEN, KEY, SYSTEM, Record
from batpak.storage.scan import Batches, Found, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batpak.storage.catalog import Catalog
    from batpak.storage.files import Files, ReadFile
    from batpak.storage.run_format import Cover
    from batpak.storage.segment import SegmentMeta


@dataclass(slots=True)
class Ledger:
    """Makes the index's records from frames.

    *snapshot* and *footers* give global sequences by (segment, offset); *hidden* are half-open ranges of sequences
    that a fence of the original cancelled; *highest* is the highest sequence so far.
    """

    files: Files
    catalog: Catalog
    hidden: list[tuple[int, int]] = field(default_factory=list)
    snapshot: dict[tuple[int, int], int] = field(default_factory=dict)
    footers: dict[tuple[int, int], int] = field(default_factory=dict)
    highest: int = -1

    def record(self, found: Found) -> Record:
        """Return the row of one committed frame."""
        frame = found.frame
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

    def read_footer(self, file: ReadFile, meta: SegmentMeta) -> int | None:
        """Return where a trusted footer of the original says that frames end; its sequences are noted."""
        boundary = original_footer.find_boundary(file.pread, meta.size, meta.name)
        if boundary is None or not boundary.trusted:
            return None
        rows = original_footer.read_rows(file.pread, boundary)
        for row in rows or ():
            self.footers[meta.segment, row.offset] = row.global_sequence
        return boundary.end

    def covers(self, records: Sequence[Record]) -> tuple[Cover, ...]:
        """Return what of which segments *records* cover."""
        spans: dict[int, tuple[Record, Record]] = {}
        for record in records:
            first, last = spans.get(record.segment, (record, record))
            spans[record.segment] = (min(first, record, key=_offset), max(last, record, key=_offset))
        return tuple(
            (
                segment,
                self.catalog.meta(segment).identity,
                first.offset,
                last.offset + last.length,
                self.crc_at(segment, last.offset),
            )
            for segment, (first, last) in sorted(spans.items())
        )

    def crc_at(self, segment: int, offset: int) -> int:
        """Return the checksum that the frame at *offset* carries; 0 where the file ends before it."""
        with closing(self.files.open_read(self.catalog.meta(segment).name)) as file:
            header = file.pread(FRAME.size, offset)
        return int(FRAME.unpack(header)[1]) if len(header) == FRAME.size else 0

    def rescan(self, covers: Sequence[Cover]) -> list[Record]:
        """Read again what *covers* name; the rows in the order of the index."""
        records = [self.record(found) for found in self._committed(covers)]
        records.sort(key=lambda record: (record.global_sequence, record.segment, record.offset))
        return records

    def _committed(self, covers: Sequence[Cover]) -> Iterator[Found]:
        """Yield the committed frames of *covers*, in the order of the segments."""
        batches = Batches()
        for segment, _, start, end, _ in covers:
            meta = self.catalog.meta(segment)
            with closing(self.files.open_read(meta.name)) as file:
                if meta.version == 1:
                    self.read_footer(file, meta)
                for found in Walk(file, meta, start, end):
                    yield from batches.feed(found, meta.version)
                yield from batches.take_whole()

    def _sequence(self, found: Found) -> int:
        """Return the global sequence of *found*."""
        if found.frame.global_sequence is not None:
            return found.frame.global_sequence
        place = (found.segment, found.offset)
        known = self.snapshot.get(place)
        return self.footers.get(place, self.highest + 1) if known is None else known

    def _is_hidden(self, sequence: int) -> bool:
        """Whether a fence of the original cancelled what stands at *sequence*."""
        at = bisect_right(self.hidden, (sequence, 2**64)) - 1
        return at >= 0 and self.hidden[at][0] <= sequence < self.hidden[at][1]


def _offset(record: Record) -> int:
    """Where the frame lies in its segment."""
    return record.offset
