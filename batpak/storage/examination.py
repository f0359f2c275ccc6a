"""Checking a whole journal from its bytes: every frame of every segment, and whatever speaks of frames against them.

What opening believes is computed here: hashes, links between the events of an entity, footers, rows of the index,
named places. The judgement of where frames may end is the one of `Scan`, from the first segment on, so that a check and
an open never disagree about that. Nothing is changed, and no index is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blake3 import blake3

from batpak.errors import CorruptStoreError
from batpak.receipt import Anchor, Place
from batpak.storage import format1, watermark
from batpak.storage.format2 import GENESIS
from batpak.storage.imagined import ImaginedFiles
from batpak.storage.opening import adopt_runs
from batpak.storage.original_footer import find_boundary, read_rows
from batpak.storage.place_check import PlaceCheck
from batpak.storage.recovery import Scan, Start
from batpak.storage.run_check import RunCheck
from batpak.storage.run_state import RunState
from batpak.storage.segment import Footer, file_name, is_strange, list_segments
from batpak.storage.survey import survey
from batpak.storage.tree import Stretch
from batpak.storage.watermark import DurablePosition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batpak.storage.files import Files, ReadFile
    from batpak.storage.row import Record
    from batpak.storage.run import Run
    from batpak.storage.scan import Found
    from batpak.storage.segment import SegmentMeta
    from batpak.storage.survey import Survey

PROGRESS_EVENTS = 512
"""How often progress is told."""


class StrictScan(Scan):
    """A scan of everything that believes no hash, no link and no footer before it has computed it.

    *altered* are footers that do not say what the frames say, each as the error it would be; *doubts* counts events of
    the original whose hash or link is not what it should be, which its compactions and early releases leave behind.
    """

    def __init__(self, files: Files, found: Survey, *, writable: bool) -> None:
        """Prepare to scan; nothing is read yet."""
        super().__init__(files, found, Start(), None, writable=writable)
        self._heads: dict[tuple[str, int], tuple[int, bytes]] = {}
        self._part = Stretch()
        self._frames: list[Found] = []
        self.altered: list[CorruptStoreError] = []
        self.doubts = 0

    def _segment(self, file: ReadFile, meta: SegmentMeta, start: int) -> Iterator[list[Record]]:
        """Yield the rows of one segment, then compare its footer with them."""
        self.end = start
        self._part = Stretch(self._part.end)
        self._frames = []
        first = self.next_sequence
        yield from super()._segment(file, meta, start)
        if meta.footer is not None:
            nodes = tuple(self._part.nodes)
            last_hash = GENESIS if self.last_hash is None else self.last_hash
            size, before = self._part.size, self._part.start
            found = Footer(self.end, size, first, self.next_sequence - 1, last_hash, before, nodes)
            if found != meta.footer:
                self.altered.append(_altered(meta, meta.footer.end))
        elif meta.ours and meta.version == format1.VERSION:
            self._check_rows(file, meta)

    def _take(self, found: Found) -> Record:
        """Return the row of a committed frame, once its hash and its link have been computed."""
        self._check_link(found)
        record = super()._take(found)
        self._part.add(record.event_hash)
        meta = self._survey.catalog.meta(found.segment)
        if meta.ours and meta.version == format1.VERSION:
            self._frames.append(found)
        return record

    def _check_link(self, found: Found) -> None:
        """Compare an event with its hash and with the event before it in its entity."""
        frame, meta = found.frame, self._survey.catalog.meta(found.segment)
        sequence, prev_hash = self._heads.get((frame.entity, frame.lane), (-1, GENESIS))
        linked = (frame.sequence, frame.prev_hash) == (sequence + 1, prev_hash)
        foreign = meta.version == format1.VERSION and not frame.encrypted
        sound = not foreign or format1.event_hash(frame.payload) == frame.event_hash
        if meta.ours and not sound:
            raise self._corrupt(meta, found.offset, "a payload with another hash", "the hash that the event carries")
        if meta.ours and not linked and not self._mixed:
            what = f"event {frame.sequence} of {frame.entity!r}, linked to {frame.prev_hash.hex()[:16]}"
            raise self._corrupt(
                meta, found.offset, what, f"event {sequence + 1}, linked to the one before it, {prev_hash.hex()[:16]}"
            )
        self.doubts += not (linked and sound)
        self._heads[frame.entity, frame.lane] = frame.sequence, frame.event_hash

    def _check_rows(self, file: ReadFile, meta: SegmentMeta) -> None:
        """Compare the rows of a footer that we wrote in format 1 with the frames."""
        boundary = find_boundary(file.pread, meta.size, meta.name)
        if boundary is None or not boundary.trusted:
            return
        rows = read_rows(file.pread, boundary)
        told = [
            (row.event_id, row.offset, row.length, row.event_hash, row.prev_hash, row.global_sequence, row.entity)
            for row in rows or ()
        ]
        there = [
            (
                each.frame.event_id,
                each.offset,
                each.end - each.offset,
                each.frame.event_hash,
                each.frame.prev_hash,
                each.frame.global_sequence,
                each.frame.entity,
            )
            for each in self._frames
        ]
        if told != there:
            self.altered.append(_altered(meta, boundary.end))


@dataclass(slots=True)
class Examined:
    """What was proven, and what speaks against the rest.

    *events* events hold; the journal behind them goes on at *offset* in *segment* (0: there is none that holds), and
    the next event would be *next_sequence*. *damage* is the first. *surveyed* says that there was something to walk,
    *complete* that the walk came to its end. *hidden_up_to* is behind the last event that the original cancelled, and
    *fingerprint* is a digest of all ids and sequences. *unsealed* are whole segments without a sound footer.
    """

    segment: int = 0
    offset: int = 0
    next_sequence: int = 0
    events: int = 0
    durable_sequence: int = -1
    damage: CorruptStoreError | None = None
    surveyed: bool = False
    complete: bool = False
    hidden_up_to: int = 0
    altered: list[CorruptStoreError] = field(default_factory=list)
    rebuildable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    places: PlaceCheck = field(default_factory=PlaceCheck)
    anchored: bool | None = None
    fingerprint: bytes = b""
    unsealed: list[int] = field(default_factory=list)


def examine(
    files: Files,
    *,
    anchor: Anchor | None = None,
    being_written: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Examined:
    """Check everything in *files*; what is no corruption (a newer format, a failed read) is raised.

    *being_written* says that somebody writes to it: then an end that is not whole yet is none that is torn. *progress*
    is called with bytes done and bytes there are.
    """
    examined = Examined()
    examined.places = PlaceCheck.of(files)  # first: what they speak of was there before
    found, seen, refusal = _survey(files)
    runs: list[Run] = []
    if found is None:
        examined.damage = refusal
        return examined
    examined.surveyed = True
    examined.hidden_up_to = max((stop for _, stop in found.ledger.hidden), default=0)
    try:
        runs, _ = adopt_runs(seen, found)
    except CorruptStoreError as error:
        refusal = refusal or error
    _believe_runs(found, runs)
    examined.durable_sequence = -1 if found.durable is None else found.durable.sequence - 1
    walk = _Walk(examined, found, RunCheck(runs, found.hidden_digest), anchor, progress)
    walk.go(StrictScan(seen, found, writable=not being_written), being_written=being_written, cut_short=bool(refusal))
    examined.damage = next(iter(examined.altered), None) or examined.damage or refusal
    if examined.damage is None:
        examined.damage = examined.places.damage(found.catalog.store_id, examined.next_sequence)
    examined.notes += [note for note in found.notes if note not in examined.notes]
    return examined


class _Walk:
    """One walk through a journal, with everything that is compared on the way."""

    def __init__(
        self,
        examined: Examined,
        found: Survey,
        runs: RunCheck,
        anchor: Anchor | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._examined = examined
        self._found = found
        self._runs = runs
        self._anchor = anchor
        self._progress = progress
        self._tree = Stretch()
        self._sizes = {meta.segment: meta.size for meta in found.catalog.metas()}
        self._total = sum(self._sizes.values())
        self._digest = blake3()
        if anchor is not None:
            examined.anchored = anchor == Anchor(0, None, Stretch().root())

    def go(self, scan: StrictScan, *, being_written: bool, cut_short: bool) -> None:
        """Walk to the end or to the first damage."""
        examined = self._examined
        metas = self._found.catalog.metas()
        try:
            if any(not meta.ours for meta in metas):
                examined.notes += self._found.ledger.numbers.load()
                self._go_sorted(scan)
            else:
                self._go_on(scan)
            examined.complete = not cut_short
        except CorruptStoreError as error:
            examined.damage = error
        examined.segment, examined.offset = scan.last_segment, scan.end
        examined.altered = scan.altered
        examined.unsealed = [meta.segment for meta, _ in scan.unsealed]
        examined.rebuildable = self._runs.close(complete=examined.complete)
        examined.fingerprint = self._digest.digest()
        if scan.doubts:
            examined.notes.append(
                f"{scan.doubts} events of the original have a hash or a link of which nothing here is the other end: "
                "its compactions and early releases leave such"
            )
        if examined.damage is None and scan.torn is not None and cut_short and not being_written:
            meta = self._found.catalog.meta(scan.torn.segment)
            examined.damage = CorruptStoreError(
                meta.name,
                scan.torn.offset,
                "bytes that are no frame",
                "frames up to the end of a segment that is not the last, or of what was durable",
                f"the events below global sequence {examined.next_sequence}",
            )

    def _go_on(self, scan: StrictScan) -> None:
        """Take in the events as they come: in the order of their sequences."""
        for group in scan.groups():
            for record in group:
                self._take(record)
            self._examined.next_sequence = group[-1].global_sequence + 1
            self._examined.events += len(group)
            if self._progress is not None and self._examined.events % PROGRESS_EVENTS < len(group):
                self._tell(group[-1])

    def _go_sorted(self, scan: StrictScan) -> None:
        """The same where the original may have repeated and reordered sequences (hazard H21)."""
        records: list[Record] = []
        try:
            for group in scan.groups():
                records += group
                self._examined.next_sequence = max(self._examined.next_sequence, scan.next_sequence)
                if self._progress is not None and len(records) % PROGRESS_EVENTS < len(group):
                    self._tell(group[-1])
        finally:
            records.sort(key=lambda record: (record.global_sequence, record.segment, record.offset))
            for record in records:
                self._take(record)
            self._examined.events = len(records)

    def _take(self, record: Record) -> None:
        """Compare one event with all that speaks of it."""
        self._digest.update(record.event_id + record.global_sequence.to_bytes(8, "big"))
        self._runs.take(record)
        self._examined.places.take(record.global_sequence, record.event_hash)
        anchor = self._anchor
        if anchor is None:
            return
        self._tree.add(record.event_hash)
        if self._tree.size == anchor.events:
            place = Place(record.global_sequence, record.event_hash)
            self._examined.anchored = anchor == Anchor(anchor.events, place, self._tree.root())

    def _tell(self, record: Record) -> None:
        """Tell how far this is."""
        assert self._progress is not None
        before = sum(size for segment, size in self._sizes.items() if segment < record.segment)
        self._progress(before + record.offset, self._total)


def _survey(files: Files) -> tuple[Survey | None, Files, CorruptStoreError | None]:
    """Return what can be surveyed, the directory as far as that goes, and why it goes no further.

    Where a header, or what one segment says of the next, is damaged, the segments before it are looked at alone, and
    without the durable position, which may speak of what is behind.
    """
    try:
        return survey(files, lambda: bytes(16)), files, None
    except CorruptStoreError as error:
        refusal = error
    gone = {watermark.NAME, *(name for name in files.list() if is_strange(name))}
    while True:
        seen = ImaginedFiles(files, gone)
        try:
            return survey(seen, lambda: bytes(16)), seen, refusal
        except CorruptStoreError as error:
            segments = list_segments(seen.list())
            bad = [segment for segment in segments if file_name(segment) >= error.file]
            if error.file not in map(file_name, segments):
                return None, files, refusal
            gone |= set(map(file_name, bad))


def _believe_runs(found: Survey, runs: list[Run]) -> None:
    """What runs of the index cover was durable before they were."""
    if not runs or any(not meta.ours for meta in found.catalog.metas()):
        return
    segment, identity, _, end, _ = runs[-1].meta.covers[-1]
    durable = found.durable
    if durable is None or (durable.segment, durable.offset) < (segment, end):
        sequence = RunState.unpack(runs[-1].meta.tree).next_sequence
        found.durable = DurablePosition(found.catalog.store_id, 0, segment, identity, end, sequence)


def _altered(meta: SegmentMeta, offset: int) -> CorruptStoreError:
    """Return what a footer is that does not say what its frames say."""
    return CorruptStoreError(
        meta.name,
        offset,
        "a checked footer that speaks of other frames",
        "what the frames before it say",
        "the frames of this segment, by themselves",
    )
