"""The footer behind the frames of an original segment, in its three shapes.

A footer is a string table, rows and a trailer; numbers and ids in it are little-endian::

    T            string table: MessagePack array of str, entities and scopes in the order of first use
    E            N rows, one for each committed event
    E + row*N    SDX3 only: u32 CRC-32/IEEE over [T, E + row*N)
    end - 16     u64 T | u32 N | 4 bytes magic

====  =======  =========  ===  ==========================================
magic written   row bytes  CRC  what it is worth
====  =======  =========  ===  ==========================================
SIDX  0.2-0.5  154        no   a hint where frames end; rows must be checked against frames
SDX2  0.6-0.8  162        no   the same
SDX3  0.8.3-   162        yes  believed if the CRC is right
====  =======  =========  ===  ==========================================

A boundary is trusted if and only if its magic is SDX3, T does not lie behind E, and the CRC is right.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from batpak.errors import UnsupportedFormatError
from batpak.storage.original_fields import UNREADABLE, array, text, unpack

Pread = Callable[[int, int], bytes]
"""Reads (length, offset) of a file; shorter only at its end."""

SIDX: Final = b"SIDX"
SDX2: Final = b"SDX2"
SDX3: Final = b"SDX3"

_TRAILER: Final = struct.Struct("<QI4s")
_CRC: Final = struct.Struct("<I")
_ROW: Final = struct.Struct("<16sIIHQIII32s32sQIQ16s16s")
_OLD_ROW: Final = struct.Struct("<16sIIHQI32s32sQIQ16s16s")
_ROWS: Final = {SIDX: _OLD_ROW, SDX2: _ROW, SDX3: _ROW}
_CRC_BLOCK_BYTES: Final = 1024 * 1024
_NO_ID: Final = bytes(16)


@dataclass(slots=True)
class FooterRow:
    """What a footer says of one event; ids are big-endian as everywhere else.

    `offset` and `length` are those of the whole frame. `correlation_id` is None where it is the
    event's own id, `causation_id` where there is none. Lane and depth are 0 in a SIDX footer.
    """

    event_id: bytes
    entity: str
    scope: str
    kind: int
    wall_ms: int
    sequence: int
    lane: int
    depth: int
    prev_hash: bytes
    event_hash: bytes
    offset: int
    length: int
    global_sequence: int
    correlation_id: bytes | None = None
    causation_id: bytes | None = None


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where a footer claims that frames end; only a *trusted* one is to be believed without a look."""

    magic: bytes
    end: int
    """Offset behind the last frame, which is where the string table begins."""
    rows: int
    trusted: bool
    size: int
    """Bytes of the segment when it was looked at."""

    @property
    def table_end(self) -> int:
        """Offset of the first row; smaller than `end` where the claim is impossible."""
        check = _CRC.size if self.magic == SDX3 else 0
        return self.size - _TRAILER.size - check - self.rows * _ROWS[self.magic].size


def find_boundary(pread: Pread, size: int, name: str) -> Boundary | None:
    """Return what the last bytes of segment *name* of *size* bytes claim, None where they are no footer.

    Memory is bounded by a block; a footer newer than SDX3 raises `UnsupportedFormatError`.
    """
    if size < _TRAILER.size:
        return None
    trailer = pread(_TRAILER.size, size - _TRAILER.size)
    if len(trailer) < _TRAILER.size:
        return None
    end, rows, magic = _TRAILER.unpack(trailer)
    if magic[:3] == SDX3[:3] and SDX3[3:] < magic[3:] <= b"9":
        raise UnsupportedFormatError(
            file=name, found=f"footer {magic.decode()}", supported="footers SIDX, SDX2 and SDX3"
        )
    if magic not in _ROWS:
        return None
    claim = Boundary(magic, end, rows, trusted=False, size=size)
    trusted = magic == SDX3 and end <= claim.table_end and _crc_is_right(pread, claim)
    return Boundary(magic, end, rows, trusted=trusted, size=size)


def claimed_end(pread: Pread, size: int) -> tuple[int, bytes] | None:
    """Return global sequence and hash of the last event that an SDX3 footer claims, None where there is no claim.

    One read of a few bytes: it is to be believed only where `find_boundary` trusts the footer.
    """
    length = _ROW.size + _CRC.size + _TRAILER.size
    data = pread(length, size - length) if size >= length else b""
    if len(data) < length:
        return None
    _, rows, magic = _TRAILER.unpack_from(data, _ROW.size + _CRC.size)
    if magic != SDX3 or not rows:
        return None
    fields = _ROW.unpack_from(data)
    return fields[12], fields[9]


def _crc_is_right(pread: Pread, claim: Boundary) -> bool:
    """Check table and rows against the footer's CRC, a block at a time."""
    stop = claim.size - _TRAILER.size - _CRC.size
    crc = 0
    for offset in range(claim.end, stop, _CRC_BLOCK_BYTES):
        crc = zlib.crc32(pread(min(_CRC_BLOCK_BYTES, stop - offset), offset), crc)
    return pread(_CRC.size, stop) == _CRC.pack(crc)


def read_rows(pread: Pread, boundary: Boundary) -> tuple[FooterRow, ...] | None:
    """Return the rows of a footer in the order they stand, None where they cannot be read.

    Rows of a boundary that is not trusted are claims: use one only where it agrees with a valid frame.
    """
    layout = _ROWS[boundary.magic]
    start = boundary.table_end
    if not 0 <= boundary.end <= start:
        return None
    table = pread(start - boundary.end, boundary.end)
    data = pread(boundary.rows * layout.size, start)
    if len(data) != boundary.rows * layout.size:
        return None
    try:
        strings = [text(item) for item in array(unpack(table))]
        return tuple(_row(fields, strings) for fields in _fifteen(layout, data))
    except (IndexError, *UNREADABLE):
        return None


def _fifteen(layout: struct.Struct, data: bytes) -> Iterator[tuple[Any, ...]]:
    """Yield the raw fields of each row in the order of the newest layout; lane and depth 0 in old ones."""
    if layout is not _OLD_ROW:
        return layout.iter_unpack(data)
    return ((*fields[:6], 0, 0, *fields[6:]) for fields in layout.iter_unpack(data))


def _row(fields: tuple[Any, ...], strings: list[str]) -> FooterRow:
    """Return one row; an `IndexError` says that it names a string that is not there."""
    event_id, correlation_id, causation_id = fields[0], fields[13], fields[14]
    arguments = (
        event_id[::-1],
        strings[fields[1]],
        strings[fields[2]],
        *fields[3:13],
        None if correlation_id == event_id else correlation_id[::-1],
        None if causation_id == _NO_ID else causation_id[::-1],
    )
    return FooterRow(*arguments)


def encode_footer(rows: Iterable[FooterRow], end: int) -> bytes:
    """Return the SDX3 footer of a segment whose frames end at offset *end*, as the original would write it.

    The rows stand in the order of their events; all of the segment's events must be there.
    """
    strings: dict[str, int] = {}
    encoded = []
    for row in rows:
        event_id = row.event_id[::-1]
        encoded.append(
            _ROW.pack(
                event_id,
                strings.setdefault(row.entity, len(strings)),
                strings.setdefault(row.scope, len(strings)),
                row.kind,
                row.wall_ms,
                row.sequence,
                row.lane,
                row.depth,
                row.prev_hash,
                row.event_hash,
                row.offset,
                row.length,
                row.global_sequence,
                event_id if row.correlation_id is None else row.correlation_id[::-1],
                _NO_ID if row.causation_id is None else row.causation_id[::-1],
            )
        )
    checked: bytes = msgpack.packb(list(strings)) + b"".join(encoded)
    return checked + _CRC.pack(zlib.crc32(checked)) + _TRAILER.pack(end, len(encoded), SDX3)
