"""The original's index snapshots: where each event stands, and the global sequence it was given.

Frames of the original do not hold their global sequence; a snapshot is one of two places that do.
Everything else in it is found in the frames as well, and taken from there. Both files begin with the
prefix of `original_sidecars`, and neither is truth: a damaged one is as good as none.

``index.fbati``, versions 1 to 5, little-endian, entry rows of a fixed size at the end::

    12  u64 watermark segment | u64 watermark offset | u64 next global sequence
    36  u32 strings | u64 rows | u64 bytes of string table | u64 bytes of summary (not in 1) |
        u64 bytes of extensions (5 only)
        string table | summary | extensions | rows of 162 (1, 2), 170 (3, 4) or 218 (5) bytes

``index.ckpt``, versions 2 to 6: a MessagePack map with the same facts, rows as maps under ``entries``.

A snapshot is usable if and only if its CRC and lengths are right and each row's strings are there.
Whether it still fits its store is the caller's to judge, by the watermark (the length of the newest segment
at the time).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

import msgpack
from blake3 import blake3

from batpak.storage.frame import ID_BYTES
from batpak.storage.original_fields import (
    MISSING,
    UNREADABLE,
    FieldError,
    array,
    number,
    stream,
    text,
    unpack,
    values,
    vector,
    walk,
)
from batpak.storage.original_sidecars import PREFIX_BYTES, body_behind_prefix

MMAP_INDEX: Final = "index.fbati"
CHECKPOINT: Final = "index.ckpt"

_HEAD: Final = struct.Struct("<QQQIQQ")
_LENGTH: Final = struct.Struct("<Q")
_ROW_1: Final = struct.Struct("<16sII2x8x4x32x32xQQ4xQ16x16x")
_ROW_3: Final = struct.Struct("<16sII2x8x4x4x4x32x32xQQ4xQ16x16x")
_ROW_5: Final = struct.Struct("<16sII2x8x4x4x4x32x32xQQ4xQ16x16xQQ32s")
_ROWS: Final = {1: _ROW_1, 2: _ROW_1, 3: _ROW_3, 4: _ROW_3, 5: _ROW_5}

_CHECKPOINT: Final = (
    "global_sequence",
    "watermark_segment_id",
    "watermark_offset",
    "interner_strings",
    "routing",
    "reserved_kind_fallbacks",
    "entries",
)
_ENTRY: Final = (
    "event_id",
    "correlation_id",
    "causation_id",
    "entity_id",
    "scope_id",
    "kind",
    "wall_ms",
    "clock",
    "dag_lane",
    "dag_depth",
    "prev_hash",
    "event_hash",
    "segment_id",
    "offset",
    "length",
    "global_sequence",
    "receipt_extensions",
)


@dataclass(slots=True)
class Snapshot:
    """What a snapshot knows that the frames do not.

    `watermark_offset` is the whole length of segment `watermark_segment` when the snapshot was written,
    `allocator` the next global sequence, `sequences` maps (segment, offset of a frame) to its global sequence and
    `ids` to its event's id: a snapshot may be older than a compaction that moved frames about (hazard H4).
    """

    watermark_segment: int
    watermark_offset: int
    allocator: int
    sequences: dict[tuple[int, int], int] = field(default_factory=dict)
    ids: dict[tuple[int, int], bytes] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class SnapshotDamaged:
    """A snapshot that cannot be used; the store is whole without it."""

    reason: str


def read_mmap_index(data: bytes, name: str = MMAP_INDEX) -> Snapshot | SnapshotDamaged:
    """Return what ``index.fbati`` holds; `UnsupportedFormatError` for a version above 5."""
    try:
        version, body = body_behind_prefix(data, name, b"FBATIX", range(1, 6))
        return _mmap_index(version, body)
    except (struct.error, *UNREADABLE) as error:
        return SnapshotDamaged(_reason(error))


def _mmap_index(version: int, body: memoryview) -> Snapshot:
    """Return the snapshot in the *body* behind the prefix."""
    segment, offset, allocator, count, rows, *lengths = _HEAD.unpack_from(body)
    at = _HEAD.size
    for _ in range(0 if version == 1 else 1 if version < 5 else 2):
        lengths.extend(_LENGTH.unpack_from(body, at))
        at += _LENGTH.size
    layout = _ROWS[version]
    expected = at + sum(lengths) + rows * layout.size
    if len(body) != expected:
        found = len(body) + PREFIX_BYTES
        raise FieldError(f"found {found} bytes, expected {expected + PREFIX_BYTES}")
    parts = []
    for length in lengths:
        parts.append(body[at : at + length])
        at += length
    if len(_strings(unpack(parts[0]))) != count:
        raise FieldError(f"found another number of strings, expected {count}")
    if version > 1 and type(unpack(parts[1])) is not tuple:
        raise FieldError("found a summary that is no map, expected one")
    blob = parts[2] if version == 5 else None
    snapshot = Snapshot(segment, offset, allocator)
    for event_id, entity, scope, row_segment, row_offset, sequence, *extension in layout.iter_unpack(body[at:]):
        _check_strings(entity, scope, count)
        if blob is not None and extension[1]:
            _check_extension(blob, *extension)
        snapshot.sequences[row_segment, row_offset] = sequence
        snapshot.ids[row_segment, row_offset] = event_id[::-1]
    return snapshot


def _check_extension(blob: memoryview, offset: int, length: int, digest: bytes) -> None:
    """Refuse a row whose extensions are not the bytes it was written with."""
    if offset + length > len(blob):
        raise FieldError("found extensions behind the end of their part, expected them inside")
    if blake3(blob[offset : offset + length]).digest() != digest:
        raise FieldError("found extensions with a wrong hash, expected the one in the row")


def read_checkpoint(data: bytes, name: str = CHECKPOINT) -> Snapshot | SnapshotDamaged:
    """Return what ``index.ckpt`` holds; `UnsupportedFormatError` for a version above 6.

    Rows are decoded one at a time.
    """
    try:
        _, body = body_behind_prefix(data, name, b"FBATCK", range(2, 7))
        return _checkpoint(body)
    except UNREADABLE as error:
        return SnapshotDamaged(_reason(error))


def _checkpoint(body: memoryview) -> Snapshot:
    """Return the snapshot in the *body* behind the prefix."""
    unpacker = stream(body)
    found: dict[str, object] = {}
    snapshot = Snapshot(0, 0, 0)
    highest_string = -1
    for name in walk(unpacker, body, _CHECKPOINT):
        if name == "entries":
            found[name] = True
            highest_string = _read_entries(unpacker, snapshot)
        elif name in _CHECKPOINT[:4]:
            found[name] = unpacker.unpack()
        else:
            unpacker.skip()
    if "entries" not in found:
        raise FieldError("found no entries, expected an array")
    strings = _strings(found.get("interner_strings", MISSING))
    _check_strings(highest_string, -1, len(strings))
    snapshot.allocator, snapshot.watermark_segment, snapshot.watermark_offset = (
        number(found.get(name), 64) for name in _CHECKPOINT[:3]
    )
    return snapshot


def _read_entries(unpacker: msgpack.Unpacker, snapshot: Snapshot) -> int:
    """Take the array of rows that *unpacker* stands before into *snapshot*; return the highest string used."""
    highest = -1
    for _ in range(unpacker.read_array_header()):
        fields = values(unpacker.unpack(), _ENTRY)
        highest = max(highest, number(fields[3], 32), number(fields[4], 32))
        place = number(fields[12], 64), number(fields[13], 64)
        snapshot.sequences[place] = number(fields[15], 64)
        snapshot.ids[place] = vector(fields[0], ID_BYTES)
    return highest


def _strings(value: object) -> list[str]:
    """Return a string table."""
    return [text(item) for item in array(value)]


def _check_strings(entity: int, scope: int, count: int) -> None:
    """Refuse a row that names a string which is not in the table."""
    if max(entity, scope) >= count:
        raise FieldError(f"found string {max(entity, scope)}, expected one of {count}")


def _reason(error: Exception) -> str:
    """Return what was found and expected."""
    return error.reason if isinstance(error, FieldError) else f"found unreadable bytes ({error})"
