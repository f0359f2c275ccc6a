"""Which prefix of the journal is provable, judged while its frames are read; nothing is changed.

`Scan` walks the frames that no run of the index covers, in order, and judges where they end. Let D be the durable
position: the larger of the watermark's, of the ends of the index's runs, and of those that valid frames behind the
damage tell. Bytes that are no frame are corruption below D and in every segment that is sealed or not the last; above
D in the last segment they are a torn end, whatever stands behind them.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batpak.errors import CorruptStoreError
from batpak.storage import format2, watermark
from batpak.storage.chains import Chains
from batpak.storage.frame import FRAME
from batpak.storage.original_footer import SDX3, find_boundary
from batpak.storage.scan import Batches, Found, Walk, behind
from batpak.storage.survey import Survey, gap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batpak.storage.files import Files, ReadFile
    from batpak.storage.row import Record
    from batpak.storage.segment import SegmentMeta


@dataclass(frozen=True, slots=True)
class Torn:
    """A torn end: *data* from *offset* to the end of the segment's file, trailing zeros left out.

    Without *data* there are only zeros; at offset 0 it is the whole file, which never had a header.
    """

    segment: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Start:
    """Where the frames begin that no run covers: segment 0 means the first there is."""

    segment: int = 0
    offset: int = 0
    sequence: int = 0


class Scan:
    """Walks all frames from *start* on and makes rows of them; afterwards it knows where the journal ends.

    *torn* is what has to be cut; *unsealed* are segments of ours, complete and not last, that lack their footer;
    *end* is where the next frame may go in the last segment; *last_hash* is the last event's.
    """

    def __init__(self, files: Files, found: Survey, start: Start, last_hash: bytes | None, *, writable: bool) -> None:
        """Prepare to scan; nothing is read yet. Not *writable*: a writer may be at work behind the end."""
        self._writable = writable
        self._files = files
        self._survey = found
        self._start = start
        self._batches = Batches()
        self._chains = Chains(begun=start.segment > 0)
        metas = found.catalog.metas()
        self._metas = [meta for meta in metas if meta.segment >= start.segment]
        self._begins_with_ours = bool(metas) and metas[0].ours
        self._mixed = not all(meta.ours for meta in metas)
        self.torn: Torn | None = None
        self.unsealed: list[tuple[SegmentMeta, int]] = []
        self.end = start.offset
        self.last_segment = start.segment
        self.next_sequence = start.sequence
        self.last_hash = last_hash
        self.bytes = 0
        self.events = 0

    def groups(self) -> Iterator[list[Record]]:
        """Yield rows group by group, as they were committed; raises `CorruptStoreError` where nothing is provable."""
        for meta in self._metas:
            start = self._start.offset if meta.segment == self._start.segment else meta.frames_start
            self._check_follows(meta)
            self.last_segment = meta.segment
            with closing(self._files.open_read(meta.name)) as file:
                yield from self._segment(file, meta, start)
        self._check_durable()

    def behind_it(self) -> Scan:
        """Return a scan of what stands behind this one's end."""
        start = Start(self.last_segment, self.end, self.next_sequence)
        return Scan(self._files, self._survey, start, self.last_hash, writable=self._writable)

    def _segment(self, file: ReadFile, meta: SegmentMeta, start: int) -> Iterator[list[Record]]:
        """Yield the rows of one segment and judge its end."""
        trusted = meta.footer.end if meta.footer is not None else None
        if meta.version == 1:
            trusted = self._survey.ledger.numbers.read_footer(file, meta)
        walk = Walk(file, meta, start, trusted)
        self._batches.enter(meta)
        self.end = start
        for found in walk:
            committed = self._batches.feed(found, meta.version)
            if committed:
                yield [self._take(each) for each in committed]
            if not self._batches.open:
                self.end = found.end
        self.bytes += walk.end - start
        if trusted is not None and walk.end < trusted:
            raise self._corrupt(meta, walk.end, walk.why, "frames up to the footer")
        if meta.ours:
            self._judge_ours(file, meta, walk, trusted)
        elif trusted is None:
            self._judge_the_originals(file, meta, walk)

    def _take(self, found: Found) -> Record:
        """Return the row of a committed frame, checked against the one before it."""
        record = self._survey.ledger.record(found)
        frame, meta = found.frame, self._survey.catalog.meta(found.segment)
        if meta.ours and frame.global_sequence != self.next_sequence:
            raise self._corrupt(meta, found.offset, f"event {frame.global_sequence}", f"event {self.next_sequence}")
        if self._mixed and not self._chains.follows(frame):
            raise self._corrupt(
                meta,
                found.offset,
                f"event {frame.sequence} of {frame.entity!r}, whose predecessor is not there",
                f"chains that go on behind the torn end of {self._chains.torn}",
            )
        self.next_sequence = self._survey.ledger.highest + 1
        self.last_hash = record.event_hash
        self.events += 1
        return record

    def _check_follows(self, meta: SegmentMeta) -> None:
        """Check that a segment of ours goes on where the scan stands."""
        if not meta.ours or meta.segment == self._start.segment:
            return
        if self._begins_with_ours and meta.first_sequence != self.next_sequence:
            raise gap(meta, f"segments before it that end with event {self.next_sequence - 1}")
        if self.last_hash is not None and meta.previous_hash != self.last_hash:
            raise gap(meta, "another last event before it")
        self.next_sequence = meta.first_sequence or 0
        ledger = self._survey.ledger
        ledger.highest = max(ledger.highest, self.next_sequence - 1)

    def _judge_ours(self, file: ReadFile, meta: SegmentMeta, walk: Walk, trusted: int | None) -> None:
        """Judge the end of a segment of ours: sealed, whole and to be sealed, or the last and perhaps torn."""
        following = next((each for each in self._metas if each.segment > meta.segment), None)
        if self._batches.open and (trusted is not None or (following is not None and following.ours)):
            raise self._corrupt(meta, self.end, "a batch that does not end", "whole batches in each segment")
        if trusted is not None:
            return
        durable = self._survey.durable
        bound = durable.offset if durable is not None and durable.segment == meta.segment else 0
        if following is None:
            self._judge_last(file, meta, walk, bound)
        elif bound > self.end:
            raise self._corrupt(meta, walk.end, walk.why, f"frames up to the durable offset {bound}")
        elif following.ours or (walk.end == meta.size and not self._batches.open):
            self.unsealed.append((meta, self.end))  # whole: the next one of ours begins with the event after it
        else:
            self._judge_the_originals(file, meta, walk)  # it has been here since and left what it found

    def _judge_last(self, file: ReadFile, meta: SegmentMeta, walk: Walk, bound: int) -> None:
        """Judge the end of the last segment, where all below *bound* was durable: reserved space, or torn."""
        if bound <= self.end and self._ends_for_a_reader(file):
            return
        rest = _without_zeros(file, self.end, meta.size)
        if not rest and (meta.version == format2.VERSION or self.end == meta.size):
            return
        for each in behind(file, meta, walk.end + 1, meta.size):
            bound = max(bound, _durable_in(each, meta))
        if bound <= self.end:
            self.torn = Torn(meta.segment, self.end, rest)
        elif self._writable or not self._has_grown(file, meta, walk):
            raise self._corrupt(meta, walk.end, walk.why, f"frames up to the durable offset {bound}")

    def _ends_for_a_reader(self, file: ReadFile) -> bool:
        """Whether zeros stand at the end, where nobody will cut: what may stand far behind them does not matter."""
        return not self._writable and not file.pread(FRAME.size, self.end).strip(b"\0")

    def _judge_the_originals(self, file: ReadFile, meta: SegmentMeta, walk: Walk) -> None:
        """Judge the end of a segment of the original that has no footer to believe.

        It knows no durable position, so a valid frame behind the damage is proof enough of corruption, and so is a
        footer or a snapshot that speaks of more frames.
        """
        later = behind(file, meta, walk.end + 1, meta.size)
        if later and (self._writable or not self._has_grown(file, meta, walk)):
            raise self._corrupt(meta, walk.end, walk.why, f"a frame: the one at offset {later[0].offset} is whole")
        boundary = find_boundary(file.pread, meta.size, meta.name)
        known = self._survey.ledger.numbers.last_offset(meta.segment)
        if boundary is not None and boundary.magic != SDX3 and boundary.end <= boundary.table_end:
            known = max(known, boundary.end - 1)
        if known >= walk.end:
            raise self._corrupt(meta, walk.end, walk.why, f"frames up to {known}, of which the original knew")
        if walk.foreign_checksum:
            raise self._corrupt(meta, walk.end, "a frame with a CRC-32C", "the checksum of format 1 (hazard H23)")
        if boundary is not None and boundary.end == walk.end:
            return
        if meta is self._metas[-1] and self.end < meta.size:
            self.torn = Torn(meta.segment, self.end, _without_zeros(file, self.end, meta.size))
        elif walk.end < meta.size:
            self._chains.torn = meta.name
            self._survey.note(f"{meta.name}: {meta.size - walk.end} torn bytes at offset {walk.end} were passed over")

    def _has_grown(self, file: ReadFile, meta: SegmentMeta, walk: Walk) -> bool:
        """Whether a frame stands where none was: what stands behind it was seen before all in front of it was."""
        return any(True for _ in Walk(file, meta, walk.end))

    def _check_durable(self) -> None:
        """Refuse a journal that ends before what was durable."""
        durable, metas = self._survey.durable, self._survey.catalog.metas()
        if durable is None or not durable.sequence or (metas and not metas[-1].ours):
            return
        ends_short = bool(metas) and metas[-1].segment == durable.segment and self.end < durable.offset
        if ends_short or self.next_sequence < durable.sequence:
            raise CorruptStoreError(
                file=metas[-1].name if metas else watermark.NAME,
                offset=self.end,
                found=f"a journal that ends with event {self.next_sequence - 1}",
                expected=f"the durable event {durable.sequence - 1}",
                provable=f"the events below global sequence {self.next_sequence}",
            )

    def _corrupt(self, meta: SegmentMeta, offset: int, found: str, expected: str) -> CorruptStoreError:
        """Return the refusal, which says what is provable."""
        return CorruptStoreError(
            file=meta.name,
            offset=offset,
            found=found,
            expected=expected,
            provable=f"the events below global sequence {self.next_sequence}",
        )


def _durable_in(found: Found, meta: SegmentMeta) -> int:
    """Return the durable offset that a frame tells of its own segment, 0 where it tells none."""
    told = found.frame.extensions.get("durable")
    if isinstance(told, list) and len(told) == 3 and told[0] == meta.segment and type(told[1]) is int:
        return told[1]
    return 0


def _without_zeros(file: ReadFile, start: int, stop: int) -> bytes:
    """Return what stands between *start* and *stop*, trailing zeros stripped; reads from behind, a MiB at a time."""
    step = 1024 * 1024
    end = stop
    while end > start:
        at = max(start, end - step)
        data = file.pread(end - at, at).rstrip(b"\0")
        if data:
            return file.pread(at + len(data) - start, start)
        end = at
    return b""
