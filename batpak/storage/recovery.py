"""Opening: which prefix of the journal is provable, and what of it the index's files already know.

`survey` reads headers, footers and small files. `Scan` walks the frames that no run covers, in order, and judges
where they end; it changes nothing. `mend` is the only one that does: it cuts a torn end, after a copy of it lies in
``quarantine/``, and seals what is complete and was left open. Run twice it gives the same bytes.

Let D be the durable position: the larger of the watermark's, of the ends of the index's runs, and of those that valid
frames behind the damage tell. Bytes that are no frame are corruption below D and in every segment that is sealed or
not the last; above D in the last segment they are a torn end, whatever stands behind them.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from batpak.errors import CorruptStoreError
from batpak.storage import format2, original_snapshot, watermark
from batpak.storage.catalog import Catalog
from batpak.storage.ledger import Ledger
from batpak.storage.original_sidecars import (
    HIDDEN_RANGES,
    IDEMPOTENCY,
    IdempotencyEntry,
    read_hidden_ranges,
    read_idempotency,
    refuse_pending_compaction,
)
from batpak.storage.scan import Batches, Found, Walk, behind
from batpak.storage.segment import SegmentMeta, file_name, list_segments, parse_header, read_meta

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batpak.storage.files import Files, ReadFile
    from batpak.storage.row import Record
    from batpak.storage.watermark import DurablePosition

MAX_SIDECAR_BYTES: Final = 1024 * 1024 * 1024
"""The original's sidecars hold up to 64 million keys; larger files are refused before they are read."""


@dataclass(slots=True)
class Survey:
    """What the directory holds besides frames; *stub* is a last segment too short to have a header."""

    catalog: Catalog
    ledger: Ledger
    durable: DurablePosition | None
    evicted: dict[bytes, IdempotencyEntry]
    hidden_digest: bytes
    stub: str | None = None
    has_keyset: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Torn:
    """A torn end: *data* from *offset* to the end of the segment's file, trailing zeros left out."""

    meta: SegmentMeta
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Start:
    """Where the frames begin that no run covers: segment 0 means the first there is."""

    segment: int = 0
    offset: int = 0
    sequence: int = 0


def survey(files: Files, new_store_id: Callable[[], bytes]) -> Survey:
    """Read headers, footers and small files; whatever is wrong with them is a typed error."""
    durable = watermark.read(files)  # first: a writer beside us only moves it on
    names = files.list()
    refuse_pending_compaction(names)
    metas, stub = _metas(files, list_segments(names))
    store_id = _store_id(metas, durable) or new_store_id()
    catalog = Catalog(store_id, metas)
    hidden_data = files.read_bytes(HIDDEN_RANGES, MAX_SIDECAR_BYTES) if HIDDEN_RANGES in names else b""
    ledger = Ledger(files, catalog, hidden=read_hidden_ranges(hidden_data) if hidden_data else [])
    entries = read_idempotency(files.read_bytes(IDEMPOTENCY, MAX_SIDECAR_BYTES)) if IDEMPOTENCY in names else []
    found = Survey(
        catalog,
        ledger,
        durable if durable is not None and durable.store_id == store_id else None,
        {entry.key: entry for entry in entries if entry.evicted},
        format2.event_hash(hidden_data)[:16] if hidden_data else b"",
        stub,
        has_keyset="keyset.fbatk" in names,
    )
    _check_neighbours(catalog.metas())
    _check_durable_segment(found)
    return found


def look_again(files: Files, found: Survey) -> None:
    """Take in the segments that a writer has begun since, and how far the last one has come."""
    found.durable = watermark.read(files)
    known = found.catalog.metas()
    last = known[-1].segment if known else 0
    metas, _ = _metas(files, [segment for segment in list_segments(files.list()) if segment >= last])
    for meta in metas:
        found.catalog.add(meta)


def _metas(files: Files, segments: list[int]) -> tuple[list[SegmentMeta], str | None]:
    """Read the segments' headers; a last one that a crash left too short is told apart (hazard H2)."""
    metas: list[SegmentMeta] = []
    for segment in segments:
        name = file_name(segment)
        if segment == segments[-1] and _is_stub(files, name):
            return metas, name
        metas.append(read_meta(files, segment))
    return metas, None


def _is_stub(files: Files, name: str) -> bool:
    """Whether a file ends inside its header, or is all zeros: no event can have been written to it."""
    size = files.size(name)
    if size > 4096:
        return False
    with closing(files.open_read(name)) as file:
        data = file.pread(size, 0)
    if not data.strip(b"\0"):
        return True
    if data[:4] != b"FBAT"[: len(data[:4])]:
        return False
    if len(data) < 8:
        return True
    length = int.from_bytes(data[4:8], "big")
    return 0 < length <= 4096 and len(data) < 8 + length + 4 and not _parses(data, int(name[:-5]))


def _parses(data: bytes, segment: int) -> bool:
    """Whether *data* begins with a whole header."""
    with suppress(CorruptStoreError):
        parse_header(data, segment, len(data))
        return True
    return False


def _store_id(metas: list[SegmentMeta], durable: DurablePosition | None) -> bytes | None:
    """Return the id that all our segments share; a segment of another store refuses."""
    ids = {meta.store_id: meta for meta in metas if meta.store_id is not None}
    if len(ids) > 1:
        first, second, *_ = ids.items()
        raise CorruptStoreError(
            file=second[1].name,
            offset=8,
            found=f"a segment of store {second[0].hex()}",
            expected=f"store {first[0].hex()}, as {first[1].name} has it",
            provable="nothing across segments of two stores",
        )
    for store_id in ids:
        return store_id
    return None if durable is None else durable.store_id


def _check_neighbours(metas: list[SegmentMeta]) -> None:
    """Compare each of our segments with the one before it: none missing, doubled, swapped or older."""
    for before, meta in zip([None, *metas], metas, strict=False):
        if not meta.ours:
            continue
        if before is None:
            if meta.first_sequence:
                raise _gap(meta, "no segment before it")
        elif before.ours and before.segment + 1 != meta.segment:
            raise _gap(meta, f"segment {before.segment} before it")
        elif before.footer is not None and (before.footer.last_sequence + 1, before.footer.last_hash) != (
            meta.first_sequence,
            meta.previous_hash,
        ):
            raise _gap(meta, f"a segment before it that ends with event {before.footer.last_sequence}")


def _gap(meta: SegmentMeta, found: str) -> CorruptStoreError:
    """Return the refusal of a segment that does not follow the one before it."""
    return CorruptStoreError(
        file=meta.name,
        offset=8,
        found=found,
        expected=f"the segment that ends with event {(meta.first_sequence or 0) - 1}",
        provable="the segments before it",
    )


def _check_durable_segment(found: Survey) -> None:
    """Refuse a store whose durable segment is gone or shorter than what was durable in it."""
    durable = found.durable
    if durable is None or not durable.sequence or not durable.segment:
        return
    metas = {meta.segment: meta for meta in found.catalog.metas()}
    meta = metas.get(durable.segment)
    if meta is None:
        raise CorruptStoreError(
            file=file_name(durable.segment),
            offset=0,
            found="no such segment",
            expected=f"{durable.offset} durable bytes",
            provable="the other segments",
        )
    if meta.identity != durable.identity:
        found.durable = None  # another program has been here; its files are judged by themselves
        found.notes.append(f"the durable position speaks of another segment {durable.segment}")
    elif meta.size < durable.offset:
        raise CorruptStoreError(
            file=meta.name,
            offset=meta.size,
            found=f"{meta.size} bytes",
            expected=f"{durable.offset} durable bytes",
            provable="what is there",
        )


class Scan:
    """Walks all frames from *start* on and makes rows of them; afterwards it knows where the journal ends.

    *torn* is what has to be cut; *unsealed* are segments of ours, complete and not last, that lack their footer;
    *end* is where the next frame may go in the last segment; *previous_hash* is the last event's.
    """

    def __init__(
        self, files: Files, found: Survey, start: Start, previous_hash: bytes | None, *, writable: bool
    ) -> None:
        """Prepare to scan; nothing is read yet. Not *writable*: a writer may be at work behind the end."""
        self._writable = writable
        self._files = files
        self._survey = found
        self._start = start
        self._batches = Batches()
        self._torn_before: SegmentMeta | None = None
        self.torn: Torn | None = None
        self.unsealed: list[tuple[SegmentMeta, int]] = []
        self.end = start.offset
        self.last_segment = start.segment
        self.next_sequence = start.sequence
        self.last_hash = previous_hash
        self.bytes = 0
        self.events = 0

    def groups(self) -> Iterator[list[Record]]:
        """Yield rows group by group, as they were committed; raises `CorruptStoreError` where nothing is provable."""
        metas = [meta for meta in self._survey.catalog.metas() if meta.segment >= self._start.segment]
        for meta in metas:
            start = self._start.offset if meta.segment == self._start.segment else meta.frames_start
            self._check_follows(meta)
            self.last_segment = meta.segment
            with closing(self._files.open_read(meta.name)) as file:
                yield from self._segment(file, meta, start, last=meta is metas[-1])
        self._check_durable()

    def behind_it(self) -> Scan:
        """Return a scan of what stands behind this one's end."""
        start = Start(self.last_segment, self.end, self.next_sequence)
        return Scan(self._files, self._survey, start, self.last_hash, writable=self._writable)

    def _segment(self, file: ReadFile, meta: SegmentMeta, start: int, *, last: bool) -> Iterator[list[Record]]:
        """Yield the rows of one segment and judge its end."""
        ledger = self._survey.ledger
        trusted = meta.footer.end if meta.footer is not None else None
        if meta.version == 1:
            trusted = ledger.read_footer(file, meta)
        stop = trusted if trusted is not None else meta.size
        walk = Walk(file, meta, start, stop)
        end = start
        for found in walk:
            committed = self._batches.feed(found, meta.version)
            if committed:
                yield [self._take(each) for each in committed]
            if not self._batches.open:
                end = found.end
        self.bytes += walk.end - start
        self.end = end
        if trusted is not None and walk.end < trusted:
            raise self._corrupt(meta, walk.end, walk.why, "frames up to the footer")
        if not last:
            self._judge_inner(file, meta, end, walk, trusted)
        elif trusted is None:
            self._judge_last(file, meta, end, walk)

    def _take(self, found: Found) -> Record:
        """Return the row of a committed frame, checked against the one before it."""
        record = self._survey.ledger.record(found)
        meta = self._survey.catalog.meta(found.segment)
        if meta.ours and found.frame.global_sequence != self.next_sequence:
            raise self._corrupt(
                meta, found.offset, f"event {found.frame.global_sequence}", f"event {self.next_sequence}"
            )
        if self._torn_before is not None and found.frame.sequence and found.frame.prev_hash == format2.GENESIS:
            raise self._corrupt(
                meta,
                found.offset,
                "a chain that begins anew",
                f"one that goes on behind the torn end of {self._torn_before.name}",
            )
        self.next_sequence = self._survey.ledger.highest + 1
        self.last_hash = record.event_hash
        self.events += 1
        return record

    def _check_follows(self, meta: SegmentMeta) -> None:
        """Check that a segment of ours goes on where the scan stands."""
        if not meta.ours or meta.segment == self._start.segment:
            return
        self.next_sequence = max(self.next_sequence, 0)
        if self._survey.catalog.metas()[0].ours and meta.first_sequence != self.next_sequence:
            raise _gap(meta, f"segments before it that end with event {self.next_sequence - 1}")
        if self.last_hash is not None and meta.previous_hash not in {None, self.last_hash}:
            raise _gap(meta, "another last event before it")
        self.next_sequence = meta.first_sequence or 0
        self._survey.ledger.highest = max(self._survey.ledger.highest, self.next_sequence - 1)

    def _judge_inner(self, file: ReadFile, meta: SegmentMeta, end: int, walk: Walk, trusted: int | None) -> None:
        """Judge the end of a segment that is not the last: whole, or of the original and torn."""
        if meta.ours:
            if self._batches.open:
                raise self._corrupt(meta, end, "a batch that does not end", "whole batches in each segment")
            if trusted is None:
                self.unsealed.append((meta, end))
            return
        if trusted is not None or walk.end == meta.size:
            return
        found = behind(file, meta, walk.end, meta.size)
        if found:
            raise self._corrupt(meta, walk.end, walk.why, f"a frame: the one at offset {found[0].offset} is whole")
        if not self._has_old_footer(file, meta, walk.end):
            self._torn_before = meta
            self._survey.notes.append(
                f"{meta.name}: {meta.size - walk.end} torn bytes at offset {walk.end} were passed over"
            )

    def _has_old_footer(self, file: ReadFile, meta: SegmentMeta, end: int) -> bool:
        """Whether what stands behind the frames is a footer of the original that carries no checksum."""
        from batpak.storage.original_footer import find_boundary  # noqa: PLC0415

        boundary = find_boundary(file.pread, meta.size, meta.name)
        return boundary is not None and boundary.end == end

    def _judge_last(self, file: ReadFile, meta: SegmentMeta, end: int, walk: Walk) -> None:
        """Judge the end of the last segment: zeros, a torn end, or corruption below the durable position."""
        rest = _without_zeros(file, end, meta.size)
        if not rest:
            return
        durable = self._survey.durable
        bound = durable.offset if durable is not None and durable.segment == meta.segment else 0
        later = []
        if walk.end < end + len(rest) and (self._writable or not meta.ours):
            later = behind(file, meta, walk.end + 1, end + len(rest))
        for each in later:
            told = each.frame.extensions.get("durable")
            if isinstance(told, list) and len(told) == 3 and told[0] == meta.segment:
                bound = max(bound, told[1])
        if later and not meta.ours:  # the original has no durable position that could tell more
            raise self._corrupt(meta, walk.end, walk.why, f"a frame: the one at offset {later[0].offset} is whole")
        if bound > end:
            raise self._corrupt(meta, walk.end, walk.why, f"frames up to the durable offset {bound}")
        if not self._has_old_footer(file, meta, end):
            self.torn = Torn(meta, end, rest)

    def _check_durable(self) -> None:
        """Refuse a journal that ends before what was durable."""
        durable = self._survey.durable
        if durable is None or not durable.sequence:
            return
        metas = self._survey.catalog.metas()
        short = (
            metas and metas[-1].segment == durable.segment and self.end < durable.offset and metas[-1].footer is None
        )
        if short or (self.next_sequence < durable.sequence and self._survey.catalog.metas()[-1].ours):
            raise self._corrupt(
                metas[-1],
                self.end,
                f"a journal that ends with event {self.next_sequence - 1}",
                f"the durable event {durable.sequence - 1}",
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


def load_snapshot(files: Files, found: Survey) -> None:
    """Take the sequences that the original kept in its snapshot of the index, where its segments have to be scanned.

    A snapshot that is damaged refuses if it is needed: a segment without a footer, not the last, was numbered by it.
    """
    for name, read in (
        (original_snapshot.MMAP_INDEX, original_snapshot.read_mmap_index),
        (original_snapshot.CHECKPOINT, original_snapshot.read_checkpoint),
    ):
        if not files.exists(name):
            continue
        snapshot = read(files.read_bytes(name, MAX_SIDECAR_BYTES))
        if isinstance(snapshot, original_snapshot.SnapshotDamaged):
            if _needs_snapshot(files, found):
                raise CorruptStoreError(
                    file=name,
                    offset=0,
                    found=snapshot.reason,
                    expected="the numbers of events",
                    provable="the events, without their numbers",
                )
            found.notes.append(f"{name} was passed over: {snapshot.reason}")
            continue
        sizes = {meta.segment: meta.size for meta in found.catalog.metas()}
        if sizes.get(snapshot.watermark_segment, -1) >= snapshot.watermark_offset:
            found.ledger.snapshot = snapshot.sequences
            return


def _needs_snapshot(files: Files, found: Survey) -> bool:
    """Whether some segment of the original, not the last, has no footer that numbers its events."""
    for meta in found.catalog.metas()[:-1]:
        if meta.ours:
            continue
        with closing(files.open_read(meta.name)) as file:
            if found.ledger.read_footer(file, meta) is None:
                return True
    return False


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


def mend(files: Files, found: Survey, scan: Scan) -> list[tuple[str, Torn]]:
    """Cut what is torn, after a copy of it is durable, and seal what is complete; the copies' names.

    No room for the copy is an `OSError`, and nothing was cut.
    """
    from batpak.storage.seal import seal_by_name  # noqa: PLC0415

    copies: list[tuple[str, Torn]] = []
    if found.stub is not None:
        files.remove(found.stub)
        files.sync_folder()
    if scan.torn is not None:
        copies.append((quarantine(files, scan.torn), scan.torn))
        _cut(files, found, scan.torn)
    for meta, end in scan.unsealed:
        found.catalog.add(seal_by_name(files, meta, end))
    return copies


def quarantine(files: Files, torn: Torn) -> str:
    """Copy a torn end aside, durably; the same bytes get the same name."""
    digest = format2.event_hash(torn.data).hex()
    name = f"quarantine/{torn.meta.segment:06}-{torn.offset:012}-{digest[:16]}.torn"
    files.make_folder("quarantine")
    if not files.exists(name):
        files.write_atomic(name, torn.data)
    files.sync_folder("quarantine")
    files.sync_folder()
    return name


def _cut(files: Files, found: Survey, torn: Torn) -> None:
    """Cut a segment at its torn end; what the original knew of its length goes first, it would hide frames."""
    removed = [name for name in (original_snapshot.MMAP_INDEX, original_snapshot.CHECKPOINT) if files.remove(name)]
    if removed:
        files.sync_folder()
    with closing(files.open_write(torn.meta.name)) as file:
        file.truncate(torn.offset)
        file.sync()
    found.catalog.add(replace(torn.meta, size=torn.offset))
