"""Sealing: the footer that ends a segment, made from its frames."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from batpak.errors import CorruptStoreError
from batpak.storage import format2
from batpak.storage.original_footer import FooterRow, encode_footer
from batpak.storage.run import Run
from batpak.storage.run_state import RunState
from batpak.storage.scan import Batches, Found, Walk
from batpak.storage.segment import Footer, SegmentMeta, footer_bytes
from batpak.storage.tail import Tail
from batpak.storage.tree import Stretch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batpak.storage.files import Files, ReadFile, WriteFile
    from batpak.storage.view import View


def seal(file: WriteFile, meta: SegmentMeta, end: int, before: int, footer: Footer | None = None) -> SegmentMeta:
    """Cut *file* at *end*, write its footer and sync; return the sealed segment.

    *before* is how many events stand before it. Without a *footer*, and in format 1 always, it is made by reading the
    segment once more. A failed system call is an `OSError`; the segment is whole all the same, and the next open
    seals it. A damaged frame that is met is a `CorruptStoreError`, and nothing is changed.
    """
    if meta.version != format2.VERSION:
        data = encode_footer([_row(found) for found in committed(file, meta, end)], end)
    else:
        footer = footer or read_again(file, meta, end, before)
        data = footer_bytes(meta, footer)
    file.truncate(end)
    if file.pwrite(data, end) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    file.sync()
    return replace(meta, size=end + len(data), footer=footer)


def events_before(meta: SegmentMeta, events: int, next_sequence: int) -> int:
    """How many events stand before a segment of ours, of *events* in all: from it on each sequence has one."""
    return events - (next_sequence - (meta.first_sequence or 0))


def footer_from_index(
    view: View, meta: SegmentMeta, end: int, before: int, last_sequence: int, last_hash: bytes
) -> Footer | None:
    """Return the footer of a format 2 segment from what the index holds; None where it does not hold all hashes."""
    if meta.version != format2.VERSION:
        return None
    first = meta.first_sequence or 0
    part_of_tree = Stretch(before)
    for part in view.parts:
        if isinstance(part, Run):
            state = RunState.unpack(part.meta.tree)
            if state.segment == meta.segment:
                part_of_tree = state.part
        elif isinstance(part, Tail):
            start, stop = (part.row_of_sequence(after, view.rows(part)) for after in (first - 1, last_sequence))
            part_of_tree.extend(part.hashes(start, stop))
    frames = last_sequence + 1 - first
    if (part_of_tree.start, part_of_tree.size) != (before, frames):
        return None
    return Footer(end, frames, first, last_sequence, last_hash, before, tuple(part_of_tree.nodes))


def seal_by_name(files: Files, meta: SegmentMeta, end: int, before: int) -> SegmentMeta:
    """Seal a segment that nobody has open."""
    with closing(files.open_write(meta.name)) as file:
        return seal(file, meta, end, before)


def committed(file: ReadFile, meta: SegmentMeta, end: int) -> Iterator[Found]:
    """Yield the committed frames of one segment of ours: its batches never cross into another.

    Raises `CorruptStoreError` where frames end before *end*, or within a batch: a footer must not leave out what is
    damaged.
    """
    batches = Batches()
    walk = Walk(file, meta, meta.frames_start, end)
    for found in walk:
        yield from batches.feed(found, meta.version)
    if walk.end != end or batches.open:
        raise CorruptStoreError(
            file=meta.name,
            offset=walk.end,
            found=walk.why if walk.end != end else "a batch that does not end",
            expected=f"frames and whole batches up to {end}, to be sealed",
            provable="the frames before it",
        )


def read_again(file: ReadFile, meta: SegmentMeta, end: int, before: int) -> Footer:
    """Return the footer of a format 2 segment whose frames end at *end*, behind *before* events."""
    part = Stretch(before)
    first = last = meta.first_sequence or 0
    last_hash = format2.GENESIS
    for found in committed(file, meta, end):
        if not part.size:
            first = found.frame.global_sequence or 0
        last = found.frame.global_sequence or 0
        last_hash = found.frame.event_hash
        part.add(last_hash)
    return Footer(end, part.size, first, last, last_hash, before, tuple(part.nodes))


def _row(found: Found) -> FooterRow:
    """Return the row that the original keeps of one event."""
    frame = found.frame
    return FooterRow(
        frame.event_id,
        frame.entity,
        frame.scope,
        frame.kind,
        frame.wall_ms,
        frame.sequence,
        frame.lane,
        frame.depth,
        frame.prev_hash,
        frame.event_hash,
        found.offset,
        found.end - found.offset,
        frame.global_sequence or 0,
        frame.correlation_id,
        frame.causation_id,
    )
