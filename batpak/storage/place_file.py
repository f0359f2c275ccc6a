"""The place of a named cursor on disk (docs/format.md, section 10).

One file for each name: ``cursors/<first 16 bytes of BLAKE3(name) as hex>.place``. A head that never changes says whose
place it is; there are three slots of 60 bytes, at 4,096, 4,608 and 5,120. One of them is on disk and is left alone; the
other two are written in turn and not synced, so that a kill loses nothing and a torn write never hurts the one that
a power cut goes back to. From time to time the file is synced, and its newest slot becomes the one to be left alone.
The head is valid if and only if its magic, its version, its length and its CRC-32C are right. A slot is valid if and
only if its CRC-32C is; the valid one with the higher count is believed. Without a valid head or a valid slot the file
is refused: nothing starts over because of damage.

=========== ====== ================================================================
offset      size   head (integers little-endian)
=========== ====== ================================================================
0           6      ``BPPLAC``
6           2      version, 1
8           16     store id
24          4      n, the length of the description, at most 4,000
28          n      description: a msgpack map of *name* and *region*
28 + n      4      CRC-32C of everything before it
=========== ====== ================================================================

=========== ====== ================================================================
offset      size   slot (integers little-endian)
=========== ====== ================================================================
0           8      count of commits; the higher slot is the newer
8           8      1 if there is a place, 0 for the start of the journal
16          8      global sequence of the last event that was handled
24          32     its hash
56          4      CRC-32C of bytes 0 to 55, seeded with the CRC of the head
=========== ====== ================================================================
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgpack
from blake3 import blake3
from crc32c import crc32c

from batpak.errors import BatpakError, CorruptStoreError, UnsupportedFormatError
from batpak.kind import EventKind
from batpak.receipt import Place
from batpak.region import Region

if TYPE_CHECKING:
    from batpak.storage.seam import BytesLike

FOLDER: Final = "cursors"
SUFFIX: Final = ".place"
VERSION: Final = 1
MAX_BYTES: Final = 8192
SLOTS: Final = (4096, 4608, 5120)
FIRST_SLOT: Final = 1
"""The slot that a new file has; the third one is behind its end."""
_MAGIC: Final = b"BPPLAC"
_HEAD: Final = struct.Struct("<6sH16sI")
_SLOT: Final = struct.Struct("<QQQ32s")
_CRC: Final = struct.Struct("<I")
_MAX_DESCRIPTION: Final = 4000


@dataclass(frozen=True, slots=True)
class PlaceHead:
    """Whose place a file holds; *crc* is the head's own, which its slots are seeded with."""

    store_id: bytes
    name: str
    region: Region
    crc: int


@dataclass(frozen=True, slots=True)
class PlaceSlot:
    """The newest place in a file, None for the start of the journal, and how many were written; in which slot."""

    count: int
    place: Place | None
    number: int = field(default=FIRST_SLOT, compare=False)


def file_name(name: str) -> str:
    """Return the file of a named place; the name itself never becomes a path."""
    return f"{FOLDER}/{blake3(name.encode()).hexdigest(length=16)}{SUFFIX}"


def encode(store_id: bytes, name: str, region: Region, place: Place | None) -> tuple[bytes, PlaceHead]:
    """Return a whole file with *place* in the slot `FIRST_SLOT`, and its head."""
    description = msgpack.packb({"name": name, "region": _describe(region)}, use_bin_type=True)
    head = _HEAD.pack(_MAGIC, VERSION, store_id, len(description)) + description
    crc = crc32c(head)
    whole = bytearray(SLOTS[FIRST_SLOT] + _SLOT.size + _CRC.size)
    whole[: len(head) + 4] = head + _CRC.pack(crc)
    slot = encode_slot(crc, 1, place)
    whole[SLOTS[FIRST_SLOT] :] = slot
    return bytes(whole), PlaceHead(store_id, name, region, crc)


def encode_slot(head_crc: int, count: int, place: Place | None) -> bytes:
    """Return one slot; where it goes says `free_slot`."""
    slot = (
        _SLOT.pack(count, 1, place.global_sequence, place.event_hash) if place else _SLOT.pack(count, 0, 0, bytes(32))
    )
    return slot + _CRC.pack(crc32c(slot, head_crc))


def free_slot(durable: int, newest: int) -> int:
    """Return the slot that the next place goes to: neither the one that is on disk nor the newest one."""
    return next(number for number in range(len(SLOTS)) if number not in {durable, newest})


def decode(file: str, data: BytesLike) -> tuple[PlaceHead, PlaceSlot]:
    """Return what *file* holds; `CorruptStoreError` names it where that cannot be believed."""
    data = bytes(data)
    head = _decode_head(file, data)
    slots = [slot for number in range(len(SLOTS)) if (slot := _decode_slot(data, number, head.crc)) is not None]
    if not slots:
        raise _damaged(file, SLOTS[0], "no slot with a right checksum", "at least one")
    return head, max(slots, key=lambda slot: slot.count)


def _decode_head(file: str, data: bytes) -> PlaceHead:
    """Return the head."""
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        raise _damaged(file, 0, "another beginning", "the head of a named place")
    _, version, store_id, length = _HEAD.unpack_from(data)
    end = _HEAD.size + length
    if length > _MAX_DESCRIPTION or end + _CRC.size > len(data):
        raise _damaged(file, 24, f"a description of {length} bytes", f"at most {_MAX_DESCRIPTION}, within the file")
    (crc,) = _CRC.unpack_from(data, end)
    if crc32c(data[:end]) != crc:
        raise _damaged(file, end, "a wrong checksum", "the head's own")
    if version != VERSION:
        raise UnsupportedFormatError(file, version, f"{VERSION}")
    try:
        description = msgpack.unpackb(data[_HEAD.size : end])
        return PlaceHead(store_id, description["name"], _region(description["region"]), crc)
    except (ValueError, TypeError, KeyError, BatpakError) as error:
        raise _damaged(file, _HEAD.size, f"a description that gives a {type(error).__name__}", "one of ours") from error


def _decode_slot(whole: bytes, number: int, head_crc: int) -> PlaceSlot | None:
    """Return the slot of that number; None where its checksum is wrong."""
    data = whole[SLOTS[number] :]
    if len(data) < _SLOT.size + _CRC.size:
        return None
    (crc,) = _CRC.unpack_from(data, _SLOT.size)
    if crc32c(data[: _SLOT.size], head_crc) != crc:
        return None
    count, there, sequence, event_hash = _SLOT.unpack_from(data)
    return PlaceSlot(count, Place(sequence, event_hash) if there else None, number)


def _describe(region: Region) -> dict[str, object]:
    """Return the parts of *region* that are set."""
    parts = {
        "entity": region.entity,
        "scope": region.scope,
        "kind": None if region.kind is None else region.kind.value,
        "category": region.category,
        "sequences": None if region.sequences is None else list(region.sequences),
        "correlation_id": None if region.correlation_id is None else region.correlation_id.bytes,
        "include_system": region.include_system or None,
    }
    return {name: part for name, part in parts.items() if part is not None}


def _region(parts: dict[str, object]) -> Region:
    """Return the region that `_describe` was given; whatever is no part of one raises."""
    known: dict[str, object] = dict(parts)
    if (kind := known.get("kind")) is not None:
        known["kind"] = EventKind.from_value(kind)  # type: ignore[arg-type] # checked there
    if (sequences := known.get("sequences")) is not None:
        known["sequences"] = tuple(sequences)  # type: ignore[arg-type] # a TypeError is expected here
    if (correlation_id := known.get("correlation_id")) is not None:
        known["correlation_id"] = UUID(bytes=correlation_id)  # type: ignore[arg-type] # likewise
    return Region(**known)  # type: ignore[arg-type] # each part is checked there


def _damaged(file: str, offset: int, found: str, expected: str) -> CorruptStoreError:
    """Return the refusal of a file."""
    return CorruptStoreError(file, offset, found, expected, "the journal: reset_place or delete_place starts over")
