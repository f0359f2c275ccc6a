"""What a directory holds besides frames: headers, footers and small files, read and compared with one another.

Whatever is wrong with them is a typed error; nothing is changed.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from batpak.errors import CorruptStoreError
from batpak.storage import format2, original_footer, watermark
from batpak.storage.catalog import Catalog
from batpak.storage.ledger import Ledger
from batpak.storage.numbers import MAX_SIDECAR_BYTES
from batpak.storage.original_sidecars import (
    HIDDEN_RANGES,
    IDEMPOTENCY,
    IdempotencyEntry,
    read_hidden_ranges,
    read_idempotency,
    refuse_pending_compaction,
)
from batpak.storage.segment import SegmentMeta, file_name, is_stub, list_segments, read_meta

if TYPE_CHECKING:
    from collections.abc import Callable

    from batpak.storage.files import Files
    from batpak.storage.watermark import DurablePosition

MAX_STUB_BYTES: Final = 4096
"""A file that a crash left inside its header is shorter: space is reserved behind a header that is synced."""


@dataclass(frozen=True, slots=True)
class Stub:
    """A last segment that has no whole header, and so no event (hazard H2); *data* without the zeros at its end."""

    segment: int
    data: bytes


@dataclass(slots=True)
class Survey:
    """What the directory holds besides frames.

    *durable* is the durable position as far as it is believed, *count* the number of the last write to its file;
    *evicted* are keys of the original whose events are gone.
    """

    catalog: Catalog
    ledger: Ledger
    evicted: dict[bytes, IdempotencyEntry]
    hidden_digest: bytes
    durable: DurablePosition | None = None
    count: int = 0
    stub: Stub | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Note what was found and passed over, once."""
        if text not in self.notes:
            self.notes.append(text)


def survey(files: Files, new_store_id: Callable[[], bytes]) -> Survey:
    """Read headers, footers and small files; a store that has no id yet gets one from *new_store_id*."""
    slots = watermark.slots(files)  # first: a writer beside us only moves it on
    names = files.list()
    refuse_pending_compaction(names)
    metas, stub = _metas(files, list_segments(names))
    catalog = Catalog(_store_id(metas) or (slots[0].store_id if slots else new_store_id()), metas)
    hidden = files.read_bytes(HIDDEN_RANGES, MAX_SIDECAR_BYTES) if HIDDEN_RANGES in names else b""
    ledger = Ledger(files, catalog, read_hidden_ranges(hidden) if hidden else [])
    keys = read_idempotency(files.read_bytes(IDEMPOTENCY, MAX_SIDECAR_BYTES)) if IDEMPOTENCY in names else []
    found = Survey(
        catalog,
        ledger,
        {entry.key: entry for entry in keys if entry.evicted},
        format2.event_hash(hidden)[:16] if hidden else b"",
        count=slots[0].count if slots else 0,
        stub=stub,
    )
    _check_neighbours(files, metas)
    _believe(found, slots)
    return found


def look_again(files: Files, found: Survey) -> None:
    """Take in the segments that a writer has begun since, and how far the last one has come."""
    slots = watermark.slots(files)
    known = found.catalog.metas()
    last = known[-1].segment if known else 0
    for meta in _metas(files, [segment for segment in list_segments(files.list()) if segment >= last])[0]:
        found.catalog.add(meta)
    _store_id(found.catalog.metas())
    _believe(found, slots)


def _metas(files: Files, segments: list[int]) -> tuple[list[SegmentMeta], Stub | None]:
    """Read the segments' headers; a last one that a crash left too short is told apart."""
    metas: list[SegmentMeta] = []
    for segment in segments:
        stub = _stub(files, segment) if segment == segments[-1] else None
        if stub is not None:
            return metas, stub
        metas.append(read_meta(files, segment))
    return metas, None


def _stub(files: Files, segment: int) -> Stub | None:
    """Return what there is of a segment without a header, None where it has one."""
    with closing(files.open_read(file_name(segment))) as file:
        size = file.size()
        data = file.pread(size, 0) if size <= MAX_STUB_BYTES else b""
    return Stub(segment, data.rstrip(b"\0")) if size <= MAX_STUB_BYTES and is_stub(data) else None


def _store_id(metas: list[SegmentMeta]) -> bytes | None:
    """Return the id that all our segments share; a segment of another store refuses."""
    first = next((meta for meta in metas if meta.store_id is not None), None)
    for meta in metas:
        if first is not None and meta.store_id not in {None, first.store_id}:
            raise CorruptStoreError(
                file=meta.name,
                offset=8,
                found="a segment of another store",
                expected=f"one of the store that {first.name} is of",
                provable="nothing across segments of two stores",
            )
    return None if first is None else first.store_id


def _check_neighbours(files: Files, metas: list[SegmentMeta]) -> None:
    """Compare each of our segments with the one before it: none missing, doubled, swapped or older."""
    for before, meta in zip([None, *metas], metas, strict=False):
        if not meta.ours:
            continue
        if before is None:
            if meta.first_sequence:
                raise gap(meta, "no segment before it")
        elif before.ours and before.segment + 1 != meta.segment:
            raise gap(meta, f"segment {before.segment} before it")
        elif before.footer is not None and (before.footer.last_sequence + 1, before.footer.last_hash) != (
            meta.first_sequence,
            meta.previous_hash,
        ):
            raise gap(meta, f"a segment before it that ends with event {before.footer.last_sequence}")
        elif before.ours and before.footer is None:
            _check_end(files, before, meta)


def _check_end(files: Files, before: SegmentMeta, meta: SegmentMeta) -> None:
    """Compare what the footer of format 1 says of the last event in *before* with what *meta* says came before it."""
    with closing(files.open_read(before.name)) as file:
        claim = original_footer.claimed_end(file.pread, before.size)
        if claim is None or (claim[0] + 1, claim[1]) == (meta.first_sequence, meta.previous_hash):
            return
        boundary = original_footer.find_boundary(file.pread, before.size, before.name)
    if boundary is not None and boundary.trusted:  # else it is damaged, and the frames will tell
        raise gap(meta, f"a segment before it that ends with event {claim[0]}, or with another of that number")


def gap(meta: SegmentMeta, found: str) -> CorruptStoreError:
    """Return the refusal of a segment that does not follow the one before it."""
    return CorruptStoreError(
        file=meta.name,
        offset=8,
        found=found,
        expected=f"the segment that ends with event {(meta.first_sequence or 0) - 1}",
        provable="the segments before it",
    )


def _believe(found: Survey, slots: list[DurablePosition]) -> None:
    """Take the newest durable position that speaks of this store and its segments as they are.

    Refuses a store whose durable segment is gone or shorter than what was durable in it.
    """
    found.durable = None
    metas = {meta.segment: meta for meta in found.catalog.metas()}
    ours = [durable for durable in slots if durable.store_id == found.catalog.store_id]
    if slots and not ours:
        found.note("the durable position of another store was passed over")
    for durable in ours:
        meta = metas.get(durable.segment)
        if meta is None and durable.segment and durable.sequence:
            if not _was_compacted(found.catalog.metas(), durable.segment):
                raise _missing(durable)
            found.note(f"segment {durable.segment}, which was durable, went into a compaction of the original")
            continue
        if meta is not None and meta.identity != durable.identity:
            found.note(f"the durable position speaks of another segment {durable.segment}")
            continue
        if meta is not None and meta.size < durable.offset:
            raise _short(meta, durable)
        found.durable = durable
        return


def _was_compacted(metas: list[SegmentMeta], segment: int) -> bool:
    """Whether the original may have compacted a segment away: it makes one of all, and goes on in one of its own."""
    return bool(metas) and not metas[-1].ours and metas[-1].segment > segment and not metas[0].ours


def _missing(durable: DurablePosition) -> CorruptStoreError:
    """Return the refusal of a store that lacks the segment it was durable in."""
    return CorruptStoreError(
        file=file_name(durable.segment),
        offset=0,
        found="no such segment",
        expected=f"{durable.offset} durable bytes",
        provable="the other segments",
    )


def _short(meta: SegmentMeta, durable: DurablePosition) -> CorruptStoreError:
    """Return the refusal of a segment that ends before what was durable in it."""
    return CorruptStoreError(
        file=meta.name,
        offset=meta.size,
        found=f"{meta.size} bytes",
        expected=f"{durable.offset} durable bytes",
        provable="what is there",
    )
