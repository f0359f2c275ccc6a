"""Frames and segments of the original, made by hand: what a test wants to be there, and nothing else."""

from __future__ import annotations

import zlib
from dataclasses import replace

import msgpack

from batpak.reading import Reading
from batpak.storage import format1
from batpak.storage.frame import FRAME, NO_HASH, Frame
from tests.directories import EVERYTHING, Content, load
from tests.golden.walker import GOLDEN

HEADER = bytes.fromhex(
    "464241540000003184a776657273696f6e01a5666c61677300aa637265617465645f6e73cf17979cfe362a0000aa7365676d656e745f696401"
)


def an_event(number: int, **changes: object) -> Frame:
    """Return an event as the original writes it: without a global sequence."""
    payload = msgpack.packb({"n": number})
    frame = Frame(
        event_id=number.to_bytes(16, "big"),
        global_sequence=None,
        remaining=0,
        kind=0x1000,
        entity=f"acct:{number}",
        scope="bank",
        sequence=0,
        timestamp_us=1_700_000_000_000_000,
        wall_ms=1_700_000_000_000,
        prev_hash=NO_HASH,
        correlation_id=None,
        causation_id=None,
        flags=0,
        is_key=False,
        payload_version=0,
        payload=payload,
        event_hash=format1.event_hash(payload),
    )
    return replace(frame, **changes)  # type: ignore[arg-type]


def framed(*frames: Frame) -> bytes:
    """Return frames of format 1, one behind another."""
    bodies = [format1.encode_body(frame) for frame in frames]
    return b"".join(FRAME.pack(len(body), zlib.crc32(body)) + body for body in bodies)


def begin(count: int) -> Frame:
    return format1.begin_marker(0, count, 1_700_000_000_000_000)


COMMIT = format1.commit_marker(0, 1_700_000_000_000_000)


def ids(store: Reading) -> list[int]:
    return [event.event_id.int for event in store.read(EVERYTHING)]


def golden(name: str) -> Content:
    return load(GOLDEN / "rust" / name / "store")
