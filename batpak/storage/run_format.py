"""The bytes of a run file (docs/index-format.md): header, body and meta; the body's sections are listed in `Section`.

A run is valid if and only if its header and its meta have their checksums, its length is the one its header says, and
it belongs to the store that opens it. A block of its body is valid if and only if it has its checksum; a run is used
as far as its blocks are valid.

====== ==== =================================================================
offset size field (integers are little-endian and unsigned)
====== ==== =================================================================
0      6    ``BPRUN`` and a zero
6      2    version, 1
8      16   store id
24     4    salt, drawn for each file: every other checksum starts from it
28     8    length of the body, in bytes
36     4    length of the meta, in bytes
40     4    CRC-32C of the meta, from the salt
44     16   zero
60     4    CRC-32C of bytes 0 to 59, from zero
64     ..   body: sections, each at a multiple of 64, zeros between them
..     ..   meta: a MessagePack map, open for more keys, to the end of the file
====== ==== =================================================================
"""

from __future__ import annotations

import re
import struct
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import msgpack
from crc32c import crc32c

from batpak.errors import UnsupportedFormatError, UnsupportedPlatformError
from batpak.storage.blocks import BLOCK_BYTES, RunError
from batpak.storage.row import ROW_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

FOLDER: Final = "index"
MAGIC: Final = b"BPRUN\0"
VERSION: Final = 1
HEADER: Final = struct.Struct("<6sH16sIQII16x")
HEADER_BYTES: Final = 64
ALIGNMENT: Final = 64
ID_BYTES: Final = 16
ID_FENCE_ROWS: Final = 64
WALL_FENCE_ROWS: Final = 256
WALL_TOP_FENCES: Final = 256
LISTED: Final = struct.Struct(">16sI")
"""An id and its row, so that entries ascend as bytes: by id, then by row."""
LINK: Final = struct.Struct("<II16s16s")
"""Row, `CORRELATED` and `CAUSED`, correlation, causation."""
HEAD: Final = struct.Struct("<32sII")
"""Hash of an entity's newest event on lane 0, its row + 1 (0: there is none), `ASCENDING`."""
NAMESPACE: Final = struct.Struct("<IIIII")
"""First entity, entity past the last, length of the name in bytes, first posting, number of postings."""
TERM: Final = struct.Struct("<III")
"""Kind or `CATEGORY` + category, first posting, number of postings."""

CORRELATED: Final = 1
CAUSED: Final = 2
ASCENDING: Final = 1
CATEGORY: Final = 0x10000

COVER_BYTES: Final = 22

_CRC: Final = struct.Struct("<I")
_NAME: Final = re.compile(FOLDER + r"/(\d{20})-(\d{20})-([0-9a-f]{8})\.run")

Cover: TypeAlias = tuple[int, bytes, int, int, int]
"""A stretch of a segment: segment, its identity, start offset, end offset, checksum of the last frame."""


class Section(StrEnum):
    """The sections of the body; one without bytes holds nothing."""

    ENTITY_NAMES = "entity.names"
    ENTITY_ENDS = "entity.ends"
    ENTITY_STARTS = "entity.starts"
    ENTITY_ROWS = "entity.rows"
    ENTITY_FILTER = "entity.filter"
    HEADS = "heads"
    NAMESPACES = "namespaces"
    NAMESPACE_ROWS = "namespace.rows"
    SCOPE_NAMES = "scope.names"
    SCOPE_ENDS = "scope.ends"
    SCOPE_STARTS = "scope.starts"
    SCOPE_ROWS = "scope.rows"
    KINDS = "kinds"
    KIND_ROWS = "kind.rows"
    ROWS = "rows"
    ID_FENCES = "id.fences"
    LISTED = "listed"
    LISTED_FENCES = "listed.fences"
    LISTED_FILTER = "listed.filter"
    WALL_FENCES = "wall.fences"
    WALL_TOPS = "wall.tops"
    LINKS = "links"
    BY_CORRELATION = "by.correlation"
    BY_CAUSATION = "by.causation"


@dataclass(frozen=True, slots=True)
class RunMeta:
    """What the maker of a run says about it; the run keeps `covers`, `tree` and `created_ms` without a look at them."""

    store_id: bytes
    generation: int
    covers: tuple[Cover, ...]
    tree: bytes = b""
    created_ms: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """All that the header and the meta of a run say."""

    meta: RunMeta
    count: int
    first_sequence: int
    last_sequence: int
    min_wall: int
    seen_bits: int
    salt: int
    body_bytes: int
    sections: Mapping[str, tuple[int, int]]
    crcs: bytes


def run_name(first_sequence: int, last_sequence: int, generation: int) -> str:
    """Return the file name of a run."""
    return f"{FOLDER}/{first_sequence:020d}-{last_sequence:020d}-{generation:08x}.run"


def parse_run_name(name: str) -> tuple[int, int, int] | None:
    """Return first sequence, last sequence and generation of a run's file name; None for any other name."""
    found = _NAME.fullmatch(name)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3], 16))


def encode_meta(layout: Layout) -> bytes:
    """Return the meta of a run."""
    meta = {
        "generation": layout.meta.generation,
        "first": layout.first_sequence,
        "last": layout.last_sequence,
        "count": layout.count,
        "min_wall": layout.min_wall,
        "bits": layout.seen_bits,
        "created_ms": layout.meta.created_ms,
        "covers": layout.meta.covers,
        "tree": layout.meta.tree,
        "sections": dict(layout.sections),
        "blocks": layout.crcs,
    }
    packed: bytes = msgpack.packb(meta, use_bin_type=True)
    return packed


def encode_header(layout: Layout, meta: bytes) -> bytes:
    """Return the first 64 bytes of a run with that *meta*."""
    crc = crc32c(meta, layout.salt)
    head = HEADER.pack(MAGIC, VERSION, layout.meta.store_id, layout.salt, layout.body_bytes, len(meta), crc)
    return head + _CRC.pack(crc32c(head))


def check_header(name: str, data: bytes, size: int, store_id: bytes) -> tuple[int, int, int, int]:
    """Return salt, length of the body, length of the meta and the meta's checksum.

    Raises `RunError`, or `UnsupportedFormatError` where the header is sound and newer software wrote it.
    """
    if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
        raise RunError("found no header, expected one of 64 bytes that begins with BPRUN", name)
    if _CRC.unpack_from(data, HEADER_BYTES - _CRC.size)[0] != crc32c(data[: HEADER_BYTES - _CRC.size]):
        raise RunError("found a header whose checksum is wrong", name)
    _, version, owner, salt, body_bytes, meta_bytes, crc = HEADER.unpack_from(data)
    if version > VERSION:
        raise UnsupportedFormatError(name, f"version {version}", f"version {VERSION}")
    if version != VERSION:
        raise RunError(f"found version {version}, expected {VERSION}", name)
    if owner != store_id:
        raise RunError(f"found a run of store {owner.hex()}, expected {store_id.hex()}", name)
    if size != HEADER_BYTES + body_bytes + meta_bytes:
        raise RunError(f"found {size} bytes, expected {HEADER_BYTES + body_bytes + meta_bytes}", name)
    return salt, body_bytes, meta_bytes, crc


def decode_layout(name: str, header: bytes, meta: bytes) -> Layout:
    """Return what a checked *header* and its *meta* say; raises `RunError`."""
    _, _, store_id, salt, body_bytes, _, crc = HEADER.unpack_from(header)
    if crc32c(meta, salt) != crc:
        raise RunError("found a meta whose checksum is wrong", name)
    try:
        # A cover takes at least so many bytes; room is made for as many items as an array announces, at each level.
        found = msgpack.unpackb(meta, use_list=False, max_array_len=max(64, len(meta) // COVER_BYTES))
        layout = Layout(
            RunMeta(
                store_id,
                _of_type(int, found["generation"]),
                _of_type(tuple, found["covers"]),
                _of_type(bytes, found["tree"]),
                _of_type(int, found["created_ms"]),
            ),
            _of_type(int, found["count"]),
            _of_type(int, found["first"]),
            _of_type(int, found["last"]),
            _of_type(int, found["min_wall"]),
            _of_type(int, found["bits"]),
            salt,
            body_bytes,
            {section: _stretch(found["sections"][section]) for section in Section},
            _of_type(bytes, found["blocks"]),
        )
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise RunError(f"found a meta that cannot be read: {error!r}", name) from error
    check_layout(name, layout)
    return layout


def check_layout(name: str, layout: Layout) -> None:
    """Raise `RunError` unless name, count, sections and blocks agree with one another."""
    expected = run_name(layout.first_sequence, layout.last_sequence, layout.meta.generation)
    if name != expected:
        raise RunError(f"found the meta of {expected}", name)
    blocks = -(-layout.body_bytes // BLOCK_BYTES)
    if len(layout.crcs) != blocks * _CRC.size:
        raise RunError(f"found {len(layout.crcs)} bytes of checksums, expected {blocks * _CRC.size}", name)
    for section, (start, length) in layout.sections.items():
        if not 0 <= start <= start + length <= layout.body_bytes or start % ALIGNMENT:
            raise RunError(f"found section {section} outside the body", name)
    rows = layout.sections[Section.ROWS][1]
    if rows != layout.count * ROW_BYTES or not rows:
        raise RunError(f"found {rows} bytes of rows, expected {layout.count} rows", name)


def _of_type(expected: type[T], found: object) -> T:
    if type(found) is not expected:
        raise TypeError(f"found {type(found).__name__}, expected {expected.__name__}")
    return found


def _stretch(found: object) -> tuple[int, int]:
    start, length = _of_type(tuple, found)
    return _of_type(int, start), _of_type(int, length)


def check_byte_order() -> None:
    """Refuse machines whose integers are not the file's: columns are used where they lie."""
    if sys.byteorder != "little":
        raise UnsupportedPlatformError("found a big-endian machine, expected a little-endian one")
