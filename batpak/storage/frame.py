"""One stored frame as a value, the same for every segment format.

A frame on disk is ``[body length u32 BE][checksum u32 BE][body]``. The codecs `format1` and `format2` turn bodies into
`Frame` values and back; which checksum stands before the body is theirs to say.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

FRAME: Final = struct.Struct(">II")
"""Body length in bytes and checksum, in front of every body."""

FRAME_BYTES: Final = FRAME.size

MAX_BODY_BYTES: Final = 256 * 1024 * 1024
"""Largest body that is ever read, in bytes; the original's limit, checked before anything is allocated."""

ID_BYTES: Final = 16
HASH_BYTES: Final = 32
NO_HASH: Final = bytes(HASH_BYTES)
"""The ``prev_hash`` of an entity's first event."""


class FrameError(Exception):
    """A body does not hold a frame; *reason* says what was found and what was expected.

    Internal to storage: callers turn it into a `CorruptStoreError` that names segment and offset.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Frame:
    """Everything one frame says, whichever format it was read from or will be written in.

    Ids are 16 bytes (big-endian), hashes 32. `timestamp_us` and `wall_ms` count from the Unix epoch.
    """

    event_id: bytes
    global_sequence: int | None
    """None where the frame does not hold it (frames of the original)."""
    remaining: int
    """Frames of the batch still to come; always 0 in format 1, which has marker frames instead."""
    kind: int
    entity: str
    scope: str
    sequence: int
    timestamp_us: int
    wall_ms: int
    prev_hash: bytes
    correlation_id: bytes | None
    """None where it is the event's own id."""
    causation_id: bytes | None
    flags: int
    is_key: bool
    """Whether the id is an idempotency key; never known from a format 1 frame, so False there."""
    payload_version: int
    payload: bytes
    lane: int = 0
    depth: int = 0
    event_hash: bytes = b""
    """As stored in format 1, BLAKE3 of the body in format 2; filled by decoding."""
    extensions: dict[str, object] = field(default_factory=dict)
    payload_size: int = 0
    """The header's number in format 1: bytes of payload, in a BEGIN marker the number of items."""
    encrypted: bool = False
    chained: bool = True
    """False where a format 1 frame holds no hash chain: batch markers."""
    payload_doubtful: bool = False
    """True where format 1 held no byte vector, or an ambiguous one, and `event_hash` confirms no reading of it."""
