"""Every decoder of bytes that come from a disk or a caller: how it is fed, what valid bytes are, what it may raise.

A decoder may raise the errors of its documentation and no others, take 64 MiB of memory and a second of time. Those
that check a checksum first are fed twice: as the bytes come, and with the checksum made right, so that what lies
behind it is reached.
"""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from blake3 import blake3
from crc32c import crc32c

from batpak import Anchor, CorruptStoreError, InvalidRequestError, PayloadError, Place, Region
from batpak.errors import UnsupportedFormatError
from batpak.kind import EventKind
from batpak.payload import decode_payload, encode_payload
from batpak.storage import (
    format1,
    format2,
    original_cursor,
    original_footer,
    original_sidecars,
    original_snapshot,
    place_file,
    watermark,
)
from batpak.storage.blocks import RunError
from batpak.storage.frame import FRAME, FrameError
from batpak.storage.run import Run
from batpak.storage.run_state import RunState
from batpak.storage.scan import Batches, Walk, behind
from batpak.storage.seam import OWNER_NAME, locked_error
from batpak.storage.segment import is_stub, list_segments, parse_header, read_footer, read_meta
from tests.directories import Content, segments
from tests.faults.images import Format, image, laid_out
from tests.golden.walker import GOLDEN

MAX_MIB = 64
MAX_SECONDS = 1.0
STORE_ID = bytes(range(16))

Feed = Callable[[bytes], object]
Errors = tuple[type[Exception], ...]


class Decoder(NamedTuple):
    """One decoder: *feed* gives it bytes, *seeds* are valid ones, *seal* makes their checksums right again.

    *mib* is how much memory it may take.
    """

    name: str
    feed: Feed
    errors: Errors
    seeds: Callable[[], list[bytes]]
    seal: Callable[[bytes], bytes] | None = None
    mib: int = MAX_MIB


def check(decoder: Decoder, data: bytes, *, measure: bool = True) -> str:
    """Feed *data*; "taken" or the name of the error, which is one that may come. Too much memory or time fails."""
    peak = 0.0
    if measure:
        tracemalloc.start(1)
    started = time.perf_counter()
    try:
        decoder.feed(data)
        how = "taken"
    except decoder.errors as error:
        how = type(error).__name__
    finally:
        seconds = time.perf_counter() - started
        if measure:
            peak = tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
    if measure:
        assert peak <= decoder.mib, f"{decoder.name}: {peak:.0f} MiB for {len(data)} bytes"
    assert seconds <= MAX_SECONDS * (10 if measure else 1), f"{decoder.name}: {seconds:.1f} s for {len(data)} bytes"
    return how


# What is fed ---------------------------------------------------------------------------------------------------------


@cache
def held(segment_format: Format) -> Content:
    """Return a closed store with everything in it."""
    return image(f"{segment_format}-closed").held


def first_segment(segment_format: Format) -> bytes:
    """Return a sealed segment."""
    return held(segment_format)[segments(held(segment_format))[0]]


@cache
def bodies(segment_format: Format) -> list[bytes]:
    """Return the bodies of every frame of a store."""
    files = laid_out(held(segment_format))
    found = []
    for segment in list_segments(files.list()):
        meta = read_meta(files, segment)
        with closing(files.open_read(meta.name)) as file:
            found += [file.pread(each.end - each.offset, each.offset)[FRAME.size :] for each in Walk(file, meta)]
    return found


def whole_segment(data: bytes) -> None:
    """Read a whole file as a segment: header, footer, frames, batches, and what can be found behind damage."""
    files = laid_out({"000001.fbat": data})
    meta = read_meta(files, 1)
    with closing(files.open_read("000001.fbat")) as file:
        walk, batches = Walk(file, meta), Batches()
        for found in walk:
            batches.feed(found, meta.version)
        behind(file, meta, min(walk.end + 1, len(data)), len(data))


def footer_2(data: bytes) -> object:
    """Read what stands behind the header of a sealed segment as a footer."""
    start = first_segment(2)[: read_meta(laid_out(held(2)), 1).frames_start]
    files = laid_out({"000001.fbat": start + data})
    with closing(files.open_read("000001.fbat")) as file:
        return read_footer(file, replace(read_meta(laid_out(held(2)), 1), size=len(start + data)))


def seal_footer_2(data: bytes) -> bytes:
    """Make a footer's trailer right."""
    body = bytes(4) + data[4:-12]
    meta = read_meta(laid_out(held(2)), 1)
    return body + struct.pack(">II4s", len(body), crc32c(body, meta.salt), b"FBF2")


def footer_1(data: bytes) -> None:
    """Read the end of a segment of format 1."""
    files = laid_out({"000001.fbat": data})
    with closing(files.open_read("000001.fbat")) as file:
        boundary = original_footer.find_boundary(file.pread, len(data), "000001.fbat")
        original_footer.claimed_end(file.pread, len(data))
        if boundary is not None:
            original_footer.read_rows(file.pread, boundary)


def seal_footer_1(data: bytes) -> bytes:
    """Make a footer's CRC right, where its trailer says that it begins."""
    if len(data) < 20:
        return data
    start, _, _ = struct.unpack("<QI4s", data[-16:])
    return data[:-20] + struct.pack("<I", zlib.crc32(data[start:-20])) + data[-16:]


def seal_header(data: bytes) -> bytes:
    """Make the length and the CRC of a header of format 2 right."""
    start = b"FBAT" + struct.pack(">I", max(0, len(data) - 12)) + data[8:-4]
    return start + struct.pack(">I", crc32c(start))


def run_name() -> str:
    """Return the name of the run that runs are made from."""
    return next(name for name in held(2) if name.endswith(".run"))


def run_layout(data: bytes) -> Run:
    """Open a run."""
    return Run.open(laid_out({run_name(): data}), run_name(), held(2)[run_name()][8:24])


def run_file(data: bytes) -> None:
    """Open a run and ask it everything."""
    run = run_layout(data)
    everything = Region(include_system=True)
    for region in (everything, Region(entity="order"), Region(scope="shop"), Region(kind=EventKind(1, 1))):
        rows = list(run.match(region, 0, run.count))
        assert len(rows) <= run.count
    for row in range(min(run.count, 64)):
        record = run.record(row)
        run.find_id(record.event_id, run.count)
        run.head(record.entity, run.count)
        list(run.effects(record.event_id, run.count))
    run.newest_until(1 << 50, run.count)


def seal_run(data: bytes) -> bytes:
    """Make the checksums of a run's header and meta right."""
    if len(data) < 64:
        return data
    _, _, _, salt, body_bytes, meta_bytes, _ = struct.unpack_from("<6sH16sIQII", data)
    meta = data[64 + body_bytes : 64 + body_bytes + meta_bytes] if body_bytes < len(data) else b""
    head = data[:40] + struct.pack("<I", crc32c(meta, salt)) + data[44:60]
    return head + struct.pack("<I", crc32c(head)) + data[64:]


def positions(data: bytes) -> object:
    """Read a file of the durable position."""
    return watermark.slots(laid_out({watermark.NAME: data}))


def seal_position(data: bytes) -> bytes:
    """Make the checksums of both slots right."""
    whole = bytearray(data.ljust(588, b"\0"))
    for at in (0, 512):
        whole[at + 72 : at + 76] = struct.pack("<I", crc32c(bytes(whole[at : at + 72])))
    return bytes(whole)


def place(data: bytes) -> object:
    """Read a named place."""
    return place_file.decode("cursors/x.place", data)


def seal_place(data: bytes) -> bytes:
    """Make the checksums of the head and of the slots right."""
    whole = bytearray(data.ljust(4668, b"\0"))
    end = 28 + int.from_bytes(whole[24:28], "little")
    if end + 4 > 4096:
        return bytes(whole)
    crc = crc32c(bytes(whole[:end]))
    whole[end : end + 4] = struct.pack("<I", crc)
    for at in place_file.SLOTS:
        whole[at + 56 : at + 60] = struct.pack("<I", crc32c(bytes(whole[at : at + 56]), crc))
    return bytes(whole)


def token(parse: Callable[[str], object]) -> Feed:
    """Read bytes as text, whatever they are, and the text as a token."""
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def tokens() -> list[bytes]:
    """Return tokens of a place and of an anchor."""
    at = Place(7, blake3(b"x").digest())
    return [str(at).encode(), str(Anchor(8, at, blake3(b"y").digest())).encode()]


def owner(data: bytes) -> object:
    """Read the note of who holds the lock, as the error does that names him."""
    return locked_error(laid_out({OWNER_NAME: data}))


def seal_prefix(data: bytes) -> bytes:
    """Make the CRC of an original's file right: magic, version, CRC, body."""
    return data[:8] + struct.pack("<I", zlib.crc32(data[12:])) + data[12:]


def golden(*names: str) -> Callable[[], list[bytes]]:
    """Return files that the original left."""
    return lambda: [(GOLDEN / "rust" / name).read_bytes() for name in names]


def payloads() -> list[bytes]:
    """Return packed payloads of every kind."""
    return [encode_payload(None), encode_payload({"a": [1, -1, 2.5, b"x"]}), encode_payload([{"b": {"c": "d" * 40}}])]


_OLD = "0.10.0/options/store"
DECODERS = (
    Decoder("body of format 1", format1.decode_body, (FrameError,), lambda: bodies(1)),
    Decoder("body of format 2", format2.decode_body, (FrameError,), lambda: bodies(2)),
    Decoder("payload in a body of format 2", format2.payload_of, (FrameError,), lambda: bodies(2)),
    Decoder(
        "header",
        lambda data: (is_stub(data), parse_header(data, 1, len(data))),
        (CorruptStoreError, UnsupportedFormatError),
        lambda: [first_segment(2)[:162], first_segment(1)[:156]],
        seal_header,
    ),
    Decoder(
        "segment of format 1", whole_segment, (CorruptStoreError, UnsupportedFormatError), lambda: [first_segment(1)]
    ),
    Decoder(
        "segment of format 2", whole_segment, (CorruptStoreError, UnsupportedFormatError), lambda: [first_segment(2)]
    ),
    Decoder("footer of format 2", footer_2, (CorruptStoreError,), lambda: [first_segment(2)[-270:]], seal_footer_2),
    Decoder("footer of format 1", footer_1, (UnsupportedFormatError,), lambda: [first_segment(1)], seal_footer_1),
    Decoder("run", run_file, (RunError, UnsupportedFormatError), lambda: [held(2)[run_name()]]),
    # What its blocks hold is believed when their checksums are right, so a forged layout is opened and not asked.
    Decoder("layout of a run", run_layout, (RunError, UnsupportedFormatError), lambda: [held(2)[run_name()]], seal_run),
    Decoder("state in a run", RunState.unpack, (RunError,), lambda: [_state()]),
    Decoder("durable position", positions, (UnsupportedFormatError,), lambda: [held(2)[watermark.NAME]], seal_position),
    Decoder(
        "named place",
        place,
        (CorruptStoreError, UnsupportedFormatError),
        lambda: [data for name, data in held(2).items() if name.endswith(".place")],
        seal_place,
    ),
    Decoder("token of a place", token(Place.parse), (InvalidRequestError,), tokens),
    Decoder("token of an anchor", token(Anchor.parse), (InvalidRequestError,), tokens),
    # Its arrays may be of any length. Room is made for 10,000 items that an array announces, at each of 1,024 levels:
    # that is 80 MiB, whatever the payload; to look whether all of them are there would make every large read slower.
    Decoder("payload", decode_payload, (PayloadError,), payloads, mib=96),
    Decoder("owner of the lock", owner, (), lambda: [b'{"pid": 7, "host": "here", "since": null}']),
    Decoder(
        "the original's keys",
        original_sidecars.read_idempotency,
        (CorruptStoreError, UnsupportedFormatError),
        golden(f"{_OLD}/index.idemp"),
        seal_prefix,
    ),
    Decoder(
        "the original's hidden ranges",
        original_sidecars.read_hidden_ranges,
        (CorruptStoreError, UnsupportedFormatError),
        golden(f"{_OLD}/visibility_ranges.fbv"),
        seal_prefix,
    ),
    Decoder(
        "the original's snapshot",
        original_snapshot.read_mmap_index,
        (UnsupportedFormatError,),
        golden(f"{_OLD}/index.fbati", "0.9.0/rotated/store/index.fbati"),
        seal_prefix,
    ),
    Decoder(
        "the original's checkpoint",
        original_snapshot.read_checkpoint,
        (UnsupportedFormatError,),
        golden("0.10.0/basic-checkpoint/store/index.ckpt", "0.2.0/rotated/store/index.ckpt"),
        seal_prefix,
    ),
    Decoder(
        "the original's cursor",
        lambda data: original_cursor.decode("cursors/x.ckpt", data),
        (CorruptStoreError,),
        golden("0.10.0/cursors/store/cursors/entity.ckpt", "0.10.0/cursors/store/cursors/all-end.ckpt"),
    ),
)


def _state() -> bytes:
    run = Run.open(laid_out({run_name(): held(2)[run_name()]}), run_name(), held(2)[run_name()][8:24])
    return run.meta.tree


def variants(decoder: Decoder, data: bytes) -> list[bytes]:
    """Return what is fed of *data*: as it is, and with its checksums made right."""
    if decoder.seal is None:
        return [data]
    try:
        return [data, decoder.seal(data)]
    except (struct.error, OverflowError):
        return [data]
