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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgpack
from blake3 import blake3
from crc32c import crc32c

from batpak.errors import CorruptStoreError, UnsupportedFormatError
from batpak.storage import format1, format2
from batpak.storage.frame import FRAME

if TYPE_CHECKING:
    from batpak.storage.files import Files, ReadFile
    from batpak.storage.frame import Frame

MAGIC: Final = b"FBAT"
MAX_HEADER_BYTES: Final = 64 * 1024
_LENGTH: Final = struct.Struct(">I")
_TRAILER: Final = struct.Struct(">II4s")
_FOOTER_MAGIC: Final = b"FBF2"
_END_OF_FRAMES: Final = bytes(4)
_NAME: Final = re.compile(r"(?!000000)(\d{6}|[1-9]\d{6,})\.fbat")


@dataclass(frozen=True, slots=True)
class Footer:
    """What a sealed segment says of itself; *end* is where its frames end."""

    end: int
    frames: int
    first_sequence: int
    last_sequence: int
    last_hash: bytes
    digest: bytes


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
        if not name.endswith(".fbat") or name == ".fbat":
            continue
        if _NAME.fullmatch(name):
            segments.append(int(name[:-5]))
        elif name[:-5].lstrip("+").isdigit():
            raise CorruptStoreError(
                file=name,
                offset=0,
                found="a segment name that is not canonical",
                expected=file_name(int(name[:-5])),
                provable="nothing was read",
            )
    return sorted(segments)


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
    try:
        fields = msgpack.unpackb(data[8 : 8 + length], strict_map_key=False)
        version = fields["version"]
        created_ns, header_segment = int(fields["created_ns"]), int(fields["segment_id"])
    except (ValueError, KeyError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise _corrupt(name, 8, "no header map", "a map with version, created_ns and segment_id") from error
    if version == format1.VERSION:
        return _parse_ours(fields.get("writer"), segment, size, data[: 8 + length], created_ns)
    end = 12 + length
    if version != format2.VERSION and not (
        end <= len(data) and _LENGTH.unpack_from(data, 8 + length)[0] == crc32c(data[: 8 + length])
    ):
        raise _corrupt(name, 8, f"version {version!r} in a header whose CRC is wrong", "version 1 or 2")
    if version != format2.VERSION:
        raise UnsupportedFormatError(file=name, found=f"segment format {version!r}", supported="formats 1 and 2")
    if end > len(data) or _LENGTH.unpack_from(data, 8 + length)[0] != crc32c(data[: 8 + length]):
        raise _corrupt(name, 8 + length, "a header whose CRC is wrong", "the CRC-32C of the bytes before it")
    if header_segment != segment:
        raise _corrupt(name, 8, f"the header of segment {header_segment}", f"segment {segment}")
    try:
        return SegmentMeta(
            segment=segment,
            version=2,
            frames_start=end,
            created_ns=created_ns,
            salt=fields["salt"],
            identity=blake3(data[:end]).digest()[:16],
            store_id=fields["store_id"],
            first_sequence=fields["first_sequence"],
            previous_hash=fields["previous_hash"],
            size=size,
        )
    except KeyError as error:
        raise _corrupt(name, 8, f"a header without {error}", "all keys of format 2") from error


def _parse_ours(writer: object, segment: int, size: int, header: bytes, created_ns: int) -> SegmentMeta:
    """Return the meta of a format 1 segment; the ``writer`` key tells ours from the original's."""
    ours = writer if isinstance(writer, dict) else {}
    return SegmentMeta(
        segment=segment,
        version=1,
        frames_start=len(header),
        created_ns=created_ns,
        salt=0,
        identity=blake3(header).digest()[:16],
        store_id=ours.get("store_id"),
        first_sequence=ours.get("first_sequence"),
        previous_hash=ours.get("previous_hash"),
        size=size,
    )


def footer_bytes(meta: SegmentMeta, footer: Footer) -> bytes:
    """Return what seals a format 2 segment, from the zero length behind the last frame to the end of the file."""
    fields = {
        "frames": footer.frames,
        "end": footer.end,
        "first_sequence": footer.first_sequence,
        "last_sequence": footer.last_sequence,
        "last_hash": footer.last_hash,
        "digest": footer.digest,
    }
    body: bytes = _END_OF_FRAMES + msgpack.packb(fields)
    return body + _TRAILER.pack(len(body), crc32c(body, meta.salt), _FOOTER_MAGIC)


def read_footer(file: ReadFile, meta: SegmentMeta) -> Footer | None:
    """Return the footer of a sealed format 2 segment, or None where its last bytes are no valid footer."""
    size = meta.size
    if size < meta.frames_start + _TRAILER.size:
        return None
    length, checksum, magic = _TRAILER.unpack(file.pread(_TRAILER.size, size - _TRAILER.size))
    start = size - _TRAILER.size - length
    if magic != _FOOTER_MAGIC or length > MAX_HEADER_BYTES or start < meta.frames_start:
        return None
    body = file.pread(length, start)
    if crc32c(body, meta.salt) != checksum or body[:4] != _END_OF_FRAMES:
        return None
    fields = msgpack.unpackb(body[4:])
    footer = Footer(
        fields["end"],
        fields["frames"],
        fields["first_sequence"],
        fields["last_sequence"],
        fields["last_hash"],
        fields["digest"],
    )
    return footer if footer.end == start else None


def read_meta(files: Files, segment: int) -> SegmentMeta:
    """Read the header and the footer of one segment: a few KiB, whatever its size."""
    name = file_name(segment)
    file = files.open_read(name)
    try:
        size = file.size()
        meta = parse_header(
            file.pread(min(size, 12 + MAX_HEADER_BYTES), 0) if size < 4096 else _header_part(file), segment, size
        )
        if meta.version == format2.VERSION:
            return replace(meta, footer=read_footer(file, meta))
        return meta
    finally:
        file.close()


def _header_part(file: ReadFile) -> bytes:
    """Read as much of the start of a large segment as its header takes."""
    start = file.pread(4096, 0)
    length = min(_LENGTH.unpack_from(start, 4)[0], MAX_HEADER_BYTES)
    return start if length + 12 <= len(start) else file.pread(length + 12, 0)


def frame_bytes(meta: SegmentMeta, body: bytes) -> bytes:
    """Return the frame around *body*: length, checksum, body."""
    return FRAME.pack(len(body), meta.checksum(body)) + body


def _corrupt(name: str, offset: int, found: str, expected: str) -> CorruptStoreError:
    """Return the refusal of a segment's header."""
    return CorruptStoreError(
        file=name, offset=offset, found=found, expected=expected, provable="nothing in this segment"
    )
