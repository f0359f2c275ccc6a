"""The durable position on disk: a file of two slots, written in turn (docs/format.md, section 6).

The file ``durable.position`` has a slot of 76 bytes at 0 and one at 512, so that a torn write hurts one of them.
A slot is valid if and only if its magic, its version and its CRC-32C are right; the valid one with the higher
count is believed. It is rewritten after every fsync of a segment and synced only before a named place: a slot that
was lost costs only that recovery knows less, never an event.

====== ==== =========================================================
offset size field (integers little-endian)
====== ==== =========================================================
0      6    ``BPDPOS``
6      2    version, 1
8      16   store id
24     8    count of writes; the higher slot is the newer
32     8    segment
40     16   the segment's identity (section 2)
56     8    offset: everything below it in the segment is durable
64     8    global sequence: every event below it is durable
72     4    CRC-32C of bytes 0 to 71
====== ==== =========================================================
"""

from __future__ import annotations

import struct
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from crc32c import crc32c

from batpak.errors import UnsupportedFormatError

if TYPE_CHECKING:
    from batpak.storage.files import Files

NAME: Final = "durable.position"
VERSION: Final = 1
_MAGIC: Final = b"BPDPOS"
_SLOT: Final = struct.Struct("<6sH16sQQ16sQQ")
_CRC: Final = struct.Struct("<I")
_SLOT_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class DurablePosition:
    """Everything below *offset* in *segment*, and every event below *sequence*, is on disk."""

    store_id: bytes
    count: int
    segment: int
    identity: bytes
    offset: int
    sequence: int


def encode(position: DurablePosition) -> bytes:
    """Return the bytes of one slot, without its padding."""
    slot = _SLOT.pack(
        _MAGIC,
        VERSION,
        position.store_id,
        position.count,
        position.segment,
        position.identity,
        position.offset,
        position.sequence,
    )
    return slot + _CRC.pack(crc32c(slot))


def slot_offset(count: int) -> int:
    """Where the write with this count goes."""
    return count % 2 * _SLOT_BYTES


def slots(files: Files) -> list[DurablePosition]:
    """Return the valid slots, the newest first; a newer version refuses."""
    if not files.exists(NAME):
        return []
    with closing(files.open_read(NAME)) as file:
        data = file.pread(2 * _SLOT_BYTES, 0)
    found = [slot for start in (0, _SLOT_BYTES) if (slot := _decode(data[start : start + _SLOT_BYTES])) is not None]
    return sorted(found, key=lambda slot: -slot.count)


def read(files: Files) -> DurablePosition | None:
    """Return the newest valid slot, or None where there is none; a newer version refuses."""
    return next(iter(slots(files)), None)


def _decode(data: bytes) -> DurablePosition | None:
    """Return the position in one slot, or None where it is not whole."""
    size = _SLOT.size
    if len(data) < size + _CRC.size or _CRC.unpack_from(data, size)[0] != crc32c(data[:size]):
        return None
    magic, version, store_id, count, segment, identity, offset, sequence = _SLOT.unpack_from(data)
    if magic != _MAGIC:
        return None
    if version > VERSION:
        raise UnsupportedFormatError(file=NAME, found=f"version {version}", supported=f"version {VERSION}")
    return DurablePosition(store_id, count, segment, identity, offset, sequence)
