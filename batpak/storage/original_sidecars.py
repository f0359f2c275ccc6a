"""The original's small files beside its segments: idempotency keys, hidden ranges, marks of a compaction.

They share a prefix; a file is sound if and only if it has one and the body behind it can be read::

    0   6  magic
    6   2  format version, u16 LE, judged before the CRC so that a newer file is known as newer
    8   4  CRC-32/IEEE of everything from 12 on, u32 LE
    12     body

Idempotency keys and hidden ranges exist nowhere else, so damage refuses; nothing falls back to "none".
All of it is read, nothing is written. ``keyset.fbatk`` is never looked into.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from batpak.errors import CorruptStoreError, UnsupportedFormatError
from batpak.storage.frame import HASH_BYTES, ID_BYTES
from batpak.storage.original_fields import (
    MISSING,
    UNREADABLE,
    FieldError,
    array,
    extensions,
    number,
    stream,
    text,
    unpack,
    values,
    vector,
    walk,
)

if TYPE_CHECKING:
    import msgpack

IDEMPOTENCY: Final = "index.idemp"
HIDDEN_RANGES: Final = "visibility_ranges.fbv"
KEYSET: Final = "keyset.fbatk"
"""Holds the keys of encrypted payloads. That it is there is all that is ever asked."""
COMPACTION_MARKERS: Final = ("compaction.pending", "compaction.pending.json")

PREFIX_BYTES: Final = 12
_PREFIX: Final = struct.Struct("<6sHI")

_ENTRY: Final = (
    "key",
    "event_id",
    "global_sequence",
    "disk_pos_segment",
    "disk_pos_offset",
    "disk_pos_length",
    "content_hash",
    "prev_hash",
    "entity",
    "scope",
    "kind",
    "recorded_global_sequence",
    "event_evicted",
    "receipt_extensions",
)
_IMAGE: Final = ("lineage", "image_id", "previous_image_id", "compaction_id", "anchor", "entries")
_RANGES: Final = ("ranges", "lane_ranges")
_RANGE: Final = ("start", "end")
_LANE: Final = ("lane", "ranges")


@dataclass(frozen=True, slots=True)
class IdempotencyEntry:
    """One key that was used, and the receipt it was answered with; ids are 16 bytes, hashes 32.

    *evicted* says that a compaction removed the event: then segment, offset and length are history.
    """

    key: bytes
    event_id: bytes
    global_sequence: int
    segment: int
    offset: int
    length: int
    content_hash: bytes
    prev_hash: bytes
    entity: str
    scope: str
    kind: int
    evicted: bool
    extensions: dict[str, object] = field(default_factory=dict)


def body_behind_prefix(data: bytes, name: str, magic: bytes, versions: range) -> tuple[int, memoryview]:
    """Return a file's format version and its body.

    Raises `UnsupportedFormatError` for a version above *versions*, `FieldError` for any damage and
    for a version below them.
    """
    if len(data) < PREFIX_BYTES:
        raise FieldError(f"found {len(data)} bytes, expected a prefix of {PREFIX_BYTES}")
    found, version, crc = _PREFIX.unpack_from(data)
    if found != magic:
        raise FieldError(f"found the magic {found!r}, expected {magic!r}")
    if version >= versions.stop:
        raise UnsupportedFormatError(
            file=name, found=version, supported=f"versions {versions.start} to {versions.stop - 1}"
        )
    if version < versions.start:
        raise FieldError(f"found version {version}, expected {versions.start} or newer")
    body = memoryview(data)[PREFIX_BYTES:]
    if zlib.crc32(body) != crc:
        raise FieldError("found a wrong CRC, expected that of the body")
    return version, body


def read_idempotency(data: bytes, name: str = IDEMPOTENCY) -> list[IdempotencyEntry]:
    """Return the keys in an idempotency image, in no particular order.

    `CorruptStoreError` for damage, `UnsupportedFormatError` for a version above 2.
    """
    try:
        version, body = body_behind_prefix(data, name, b"FBATID", range(1, 3))
        unpacker = stream(body)
        if version == 1:
            return _entries(unpacker)
        return _image_entries(unpacker, body)
    except UNREADABLE as error:
        raise _corrupt(name, error, "an image of idempotency keys") from error


def _image_entries(unpacker: msgpack.Unpacker, body: memoryview) -> list[IdempotencyEntry]:
    """Return the entries of a version 2 image; its lineage is not held against anything."""
    entries: list[IdempotencyEntry] | None = None
    for name in walk(unpacker, body, _IMAGE):
        if name == "entries":
            entries = _entries(unpacker)
        elif name in ("lineage", "image_id"):
            vector(unpacker.unpack(), ID_BYTES)
        else:
            unpacker.skip()
    if entries is None:
        raise FieldError("found no entries, expected an array")
    return entries


def _entries(unpacker: msgpack.Unpacker) -> list[IdempotencyEntry]:
    """Return the array of entries that *unpacker* stands before, decoding one at a time."""
    return [_entry(unpacker.unpack()) for _ in range(unpacker.read_array_header())]


def _entry(value: object) -> IdempotencyEntry:
    """Return one entry."""
    fields = values(value, _ENTRY)
    evicted = fields[12]
    if evicted is not MISSING and type(evicted) is not bool:
        raise FieldError(f"found {type(evicted).__name__}, expected true or false")
    return IdempotencyEntry(
        key=vector(fields[0], ID_BYTES),
        event_id=vector(fields[1], ID_BYTES),
        global_sequence=number(fields[2], 64),
        segment=number(fields[3], 64),
        offset=number(fields[4], 64),
        length=number(fields[5], 32),
        content_hash=vector(fields[6], HASH_BYTES),
        prev_hash=vector(fields[7], HASH_BYTES),
        entity=text(fields[8]),
        scope=text(fields[9]),
        kind=number(fields[10], 16),
        evicted=evicted is True,
        extensions={} if fields[13] is MISSING else extensions(fields[13]),
    )


def read_hidden_ranges(data: bytes, name: str = HIDDEN_RANGES) -> list[tuple[int, int]]:
    """Return the global sequences that no read may show, as half-open ranges: ascending, apart.

    `CorruptStoreError` for damage, `UnsupportedFormatError` for a version above 2.
    """
    try:
        _, body = body_behind_prefix(data, name, b"FBATVR", range(1, 3))
        ranges, lanes = values(unpack(body), _RANGES)
        for lane in [] if lanes is MISSING else array(lanes):
            lane_number, lane_ranges = values(lane, _LANE)
            number(lane_number, 32)
            _ranges(lane_ranges)
        return _merged(_ranges(ranges))
    except UNREADABLE as error:
        raise _corrupt(name, error, "hidden ranges") from error


def _ranges(value: object) -> list[tuple[int, int]]:
    """Return an array of ranges, none of them empty."""
    ranges = []
    for item in array(value):
        start, end = (number(bound, 64) for bound in values(item, _RANGE))
        if start >= end:
            raise FieldError(f"found the range {start} to {end}, expected its end behind its start")
        ranges.append((start, end))
    return ranges


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return *ranges* in ascending order, overlapping and touching ones as one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def refuse_pending_compaction(names: Iterable[str]) -> None:
    """Raise `UnsupportedFormatError` if one of the directory's *names* marks an unfinished compaction.

    Which segments count is then known only to the release that began it; it finishes when opened with that.
    """
    for name in names:
        if name in COMPACTION_MARKERS:
            raise UnsupportedFormatError(
                file=name,
                found="the marker of an unfinished compaction",
                supported="a store whose compactions are finished; open it once with what began it",
            )


def _corrupt(name: str, error: Exception, expected: str) -> CorruptStoreError:
    """Return the refusal of a damaged file."""
    found = error.reason if isinstance(error, FieldError) else f"an unreadable body ({error})"
    return CorruptStoreError(file=name, offset=None, found=found, expected=expected)
