"""A segment file: its header, its frames, and the footer that seals it (docs/format.md, sections 2 and 4).

``FBAT`` | u32 header length | header map | (format 2: u32 CRC-32C of all before) | frames | footer or zeros.

A frame is valid if and only if its length is 1 to 256 MiB, it ends inside the file, and its checksum is right. A
format 2 segment is sealed if and only if its last 12 bytes are the trailer of a footer whose CRC is right and whose
length leads back to the four zero bytes behind the last frame.
"""

from __future__ import annotations

import re
import struct
import zlib
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgpack
from blake3 import blake3
from crc32c import crc32c

from batpak.errors import CorruptStoreError, UnsupportedFormatError
from batpak.storage import format1, format2
from batpak.storage.frame import FRAME, HASH_BYTES, ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from batpak.storage.files import Files, ReadFile
    from batpak.storage.frame import Frame

MAGIC: Final = b"FBAT"
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_ITEMS: Final = 1024
"""No array in a header or footer is longer: room is made for as many as it announces, at each of a thousand levels."""
MAX_SEGMENT: Final = 2**32 - 1
MAX_SEGMENT_BYTES: Final = 2**32 - 1
"""The index keeps numbers and offsets in 32 bits; only a compaction of the original could make longer segments."""
_LENGTH: Final = struct.Struct(">I")
_TRAILER: Final = struct.Struct(">II4s")
_FOOTER_MAGIC: Final = b"FBF2"
_END_OF_FRAMES: Final = bytes(4)
_NAME: Final = re.compile(r"(?!000000)(\d{6}|[1-9]\d{6,})\.fbat", re.ASCII)
_OTHER_NAME: Final = re.compile(r"\+?\d+\.fbat", re.ASCII)
_NUMBERS: Final = ("version", "created_ns", "segment_id")


@dataclass(frozen=True, slots=True)
class Footer:
    """What a sealed segment says of itself; *end* is where its frames end.

    *before* is how many events stand before it in the journal, *part* its stretch of the tree over all of them.
    """

    end: int
    frames: int
    first_sequence: int
    last_sequence: int
    last_hash: bytes
    before: int
    part: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SegmentMeta:
    """A segment's header, and its footer where it is sealed.

    *identity* is the first 16 bytes of BLAKE3 over the header: a segment that was replaced by another of the same
    name has another one. *store_id*, *first_sequence* and *previous_hash* are None where the original wrote it.
    """

    segment: int
    version: int
    frames_start: int
    created_ns: int
    salt: int
    identity: bytes
    store_id: bytes | None
    first_sequence: int | None
    previous_hash: bytes | None
    size: int
    footer: Footer | None = None

    @property
    def name(self) -> str:
        """The segment's file name."""
        return file_name(self.segment)

    @property
    def ours(self) -> bool:
        """Whether this library wrote it, not the original."""
        return self.store_id is not None

    def checksum(self, body: bytes | memoryview) -> int:
        """Return the checksum that a frame with this body has in this segment."""
        return crc32c(body, self.salt) if self.version == format2.VERSION else zlib.crc32(body)

    def checksum_and_seed(self) -> tuple[Callable[[bytes, int], int], int]:
        """Return the function behind `checksum`, and what it starts from: for many bodies."""
        return (crc32c, self.salt) if self.version == format2.VERSION else (zlib.crc32, 0)

    def encode(self, frame: Frame) -> bytes:
        """Return the body of *frame* in this segment's format."""
        return format2.encode_body(frame) if self.version == format2.VERSION else format1.encode_body(frame)

    def decode(self, body: bytes | memoryview) -> Frame:
        """Return the frame in *body*; `FrameError` where it is none."""
        return format2.decode_body(body) if self.version == format2.VERSION else format1.decode_body(body)


def file_name(segment: int) -> str:
    """Return the only name that a segment may have."""
    return f"{segment:06}.fbat"


def list_segments(names: list[str]) -> list[int]:
    """Return the ids of the segments among *names*, ascending; a name that is not canonical refuses."""
    segments = []
    for name in names:
        if _NAME.fullmatch(name):
            segments.append(int(name[:-5]))
        elif _OTHER_NAME.fullmatch(name):
            raise CorruptStoreError(
                file=name,
                offset=0,
                found="a segment name that is not canonical",
                expected=file_name(int(name[:-5])),
                provable="nothing was read",
            )
    return sorted(segments)


def is_segment(name: str) -> bool:
    """Whether a name is that of a segment."""
    return _NAME.fullmatch(name) is not None


def is_strange(name: str) -> bool:
    """Whether a name refuses the whole directory: that of a segment, but not canonical."""
    return _OTHER_NAME.fullmatch(name) is not None and not is_segment(name)


def header_bytes(
    *,
    version: int,
    segment: int,
    created_ns: int,
    store_id: bytes,
    salt: int,
    first_sequence: int,
    previous_hash: bytes,
) -> bytes:
    """Return the header of a new segment, up to its first frame."""
    fields: dict[str, object] = {"version": version, "flags": 0, "created_ns": created_ns, "segment_id": segment}
    ours = {"store_id": store_id, "first_sequence": first_sequence, "previous_hash": previous_hash}
    if version == format2.VERSION:
        header: bytes = msgpack.packb(fields | ours | {"salt": salt})
        start = MAGIC + _LENGTH.pack(len(header)) + header
        return start + _LENGTH.pack(crc32c(start))
    header = msgpack.packb(fields | {"writer": ours})
    return MAGIC + _LENGTH.pack(len(header)) + header


def parse_header(data: bytes, segment: int, size: int) -> SegmentMeta:
    """Return what the header at the start of *data* says; anything wrong is a typed error."""
    name = file_name(segment)
    if len(data) < 8 or data[:4] != MAGIC:
        raise _corrupt(name, 0, f"{data[:4]!r}", "the magic FBAT")
    length: int = _LENGTH.unpack_from(data, 4)[0]
    if not 0 < length <= MAX_HEADER_BYTES or 8 + length > len(data):
        raise _corrupt(name, 4, f"a header of {length} bytes", f"at most {MAX_HEADER_BYTES} and inside the file")
    fields = _header_fields(data[8 : 8 + length], name)
    if fields["version"] == format1.VERSION:
        return _parse_format1(fields, data[: 8 + length], segment, size)
    if data[8 + length : 12 + length] != _LENGTH.pack(crc32c(data[: 8 + length])):
        raise _corrupt(name, 8 + length, "a header whose CRC is wrong", "the CRC-32C of the bytes before it")
    if fields["version"] != format2.VERSION:
        raise UnsupportedFormatError(
            file=name, found=f"segment format {fields['version']}", supported="formats 1 and 2"
        )
    return _parse_format2(fields, data[: 12 + length], segment, size)


def is_stub(data: bytes) -> bool:
    """Whether *data*, a whole file, is what a crash leaves of a header: cut short, or ending in zeros.

    Where something stands behind it, the header was whole once and is damaged now.
    """
    content = data.rstrip(b"\0")
    if not MAGIC.startswith(content[:4]):
        return False
    if len(content) <= 8:
        return True
    length: int = _LENGTH.unpack_from(data, 4)[0]
    if len(content) > 12 + length or len(content) > 12 + (_length_of_map(data) or len(data)):
        return False
    return not _has_header(data, length)


def _has_header(data: bytes, length: int) -> bool:
    """Whether *data* begins with a whole header of *length* bytes.

    Format 1 has nothing to check it by, but ours ends with a hash: zeros there are what a crash left. If one in 256
    hashes ends so by itself, a file that holds no event is begun again.
    """
    try:
        fields = _header_fields(data[8 : 8 + length], "")
    except CorruptStoreError:
        return False
    if fields["version"] == format1.VERSION:
        writer = fields.get("writer")
        names_a_hash = isinstance(writer, dict) and bool(writer.get("first_sequence"))
        return not names_a_hash or len(data.rstrip(b"\0")) >= 8 + length
    return data[8 + length : 12 + length] == _LENGTH.pack(crc32c(data[: 8 + length]))


def _length_of_map(data: bytes) -> int | None:
    """Return how many bytes the map of the header at the start of *data* takes, None where it is not whole."""
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(data[8:])
    try:
        unpacker.skip()
    except (ValueError, msgpack.UnpackException):
        return None
    length: int = unpacker.tell()
    return length


def _header_fields(data: bytes, name: str) -> dict[str, Any]:
    """Return the map that a header is; its numbers are integers."""
    try:
        fields = msgpack.unpackb(data, strict_map_key=False, max_array_len=MAX_ITEMS)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise _corrupt(name, 8, "no map", "a header: version, created_ns and segment_id") from error
    if type(fields) is not dict or any(type(fields.get(key)) is not int for key in _NUMBERS):
        raise _corrupt(name, 8, "another map", "a header: version, created_ns and segment_id")
    return fields


def _parse_format1(fields: dict[str, Any], header: bytes, segment: int, size: int) -> SegmentMeta:
    """Return the meta of a format 1 segment; a sound ``writer`` key tells ours from the original's."""
    writer = fields.get("writer")
    if type(writer) is not dict or not _is_ours(writer):
        writer = {}
    elif fields["segment_id"] != segment:  # the original goes by the file's name alone
        raise _of_another(segment, fields)
    return _meta(fields, writer, header, segment, size)


def _parse_format2(fields: dict[str, Any], header: bytes, segment: int, size: int) -> SegmentMeta:
    """Return the meta of a format 2 segment, whose header has its CRC."""
    if fields["segment_id"] != segment:
        raise _of_another(segment, fields)
    salt = fields.get("salt")
    if not _is_ours(fields) or type(salt) is not int or not 0 <= salt < 2**32:
        raise _corrupt(file_name(segment), 8, "a header with a key missing or wrong", "the keys of format 2")
    return _meta(fields, fields, header, segment, size)


def _is_ours(fields: dict[str, Any]) -> bool:
    """Whether the keys are there, and sound, that only this library writes."""
    store_id, first, previous = fields.get("store_id"), fields.get("first_sequence"), fields.get("previous_hash")
    if type(store_id) is not bytes or type(first) is not int or type(previous) is not bytes:
        return False
    return (len(store_id), len(previous)) == (ID_BYTES, HASH_BYTES) and 0 <= first < 2**64


def _meta(fields: dict[str, Any], ours: dict[str, Any], header: bytes, segment: int, size: int) -> SegmentMeta:
    """Return the meta of a segment whose header is sound; *ours* is empty where the original wrote it."""
    return SegmentMeta(
        segment=segment,
        version=fields["version"],
        frames_start=len(header),
        created_ns=fields["created_ns"],
        salt=fields.get("salt", 0) if fields["version"] == format2.VERSION else 0,
        identity=blake3(header).digest()[:16],
        store_id=ours.get("store_id"),
        first_sequence=ours.get("first_sequence"),
        previous_hash=ours.get("previous_hash"),
        size=size,
    )


def _of_another(segment: int, fields: dict[str, Any]) -> CorruptStoreError:
    """Return the refusal of a segment whose header names another one: it was renamed or copied."""
    return _corrupt(
        file_name(segment), 8, f"the header of segment {fields['segment_id']}", f"that of segment {segment}"
    )


def footer_bytes(meta: SegmentMeta, footer: Footer) -> bytes:
    """Return what seals a format 2 segment, from the zero length behind the last frame to the end of the file."""
    fields = {
        "frames": footer.frames,
        "end": footer.end,
        "first_sequence": footer.first_sequence,
        "last_sequence": footer.last_sequence,
        "last_hash": footer.last_hash,
        "before": footer.before,
        "part": footer.part,
    }
    body: bytes = _END_OF_FRAMES + msgpack.packb(fields)
    return body + _TRAILER.pack(len(body), crc32c(body, meta.salt), _FOOTER_MAGIC)


def read_footer(file: ReadFile, meta: SegmentMeta) -> Footer | None:
    """Return the footer of a sealed format 2 segment, or None where its last bytes are no valid footer."""
    size = meta.size
    if size < meta.frames_start + _TRAILER.size:
        return None
    trailer = file.pread(_TRAILER.size, size - _TRAILER.size)
    if len(trailer) < _TRAILER.size:  # a writer beside us has just cut what it had preallocated
        return None
    length, checksum, magic = _TRAILER.unpack(trailer)
    start = size - _TRAILER.size - length
    if magic != _FOOTER_MAGIC or length > MAX_HEADER_BYTES or start < meta.frames_start:
        return None
    body = file.pread(length, start)
    if crc32c(body, meta.salt) != checksum or body[:4] != _END_OF_FRAMES:
        return None
    footer = _footer(body[4:])
    if footer is None:
        raise _corrupt(meta.name, start, "a checked footer that cannot be read", "a map with its keys")
    return footer if footer.end == start else None


def _footer(data: bytes) -> Footer | None:
    """Return the footer in the map *data*; keys that are new are passed over."""
    try:
        fields = msgpack.unpackb(data, max_array_len=MAX_ITEMS)
        return Footer(
            fields["end"],
            fields["frames"],
            fields["first_sequence"],
            fields["last_sequence"],
            fields["last_hash"],
            fields["before"],
            tuple(fields["part"]),
        )
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return None


def read_meta(files: Files, segment: int) -> SegmentMeta:
    """Read the header and the footer of one segment: a few KiB, whatever its size."""
    name = file_name(segment)
    with closing(files.open_read(name)) as file:
        size = file.size()
        if segment > MAX_SEGMENT or size > MAX_SEGMENT_BYTES:
            raise UnsupportedFormatError(
                file=name, found=f"segment {segment} of {size} bytes", supported="numbers and lengths below 2**32"
            )
        meta = parse_header(_header_part(file), segment, size)
        return meta if meta.version == format1.VERSION else replace(meta, footer=read_footer(file, meta))


def _header_part(file: ReadFile) -> bytes:
    """Read as much of the start of a segment as its header takes."""
    start = file.pread(4096, 0)
    length = int.from_bytes(start[4:8], "big")
    return start if length + 12 <= len(start) else file.pread(min(length, MAX_HEADER_BYTES) + 12, 0)


def frame_bytes(meta: SegmentMeta, body: bytes) -> bytes:
    """Return the frame around *body*: length, checksum, body."""
    crc = crc32c(body, meta.salt) if meta.version == format2.VERSION else zlib.crc32(body)
    return FRAME.pack(len(body), crc) + body


def _corrupt(name: str, offset: int, found: str, expected: str) -> CorruptStoreError:
    """Return the refusal of a segment's header."""
    return CorruptStoreError(
        file=name, offset=offset, found=found, expected=expected, provable="nothing in this segment"
    )
