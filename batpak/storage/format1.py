"""Format 1 of a frame's body: the original's, MessagePack maps with named fields.

::

    { event: { header: { event_id: bin 16, correlation_id: bin 16, causation_id: nil | bin 16, timestamp_us: i64,
                         position: { wall_ms: u64, counter: u16, depth: u32, lane: u32, sequence: u32 },
                         payload_size: u32, event_kind: u16, flags: u8, content_hash: bytes 32,
                         payload_version: u16, payload_encryption: map (only where there is one) },
               payload: bytes, hash_chain: nil | { prev_hash: bytes 32, event_hash: bytes 32 } },
      entity: str, scope: str, receipt_extensions: { str: bytes }, global_sequence: u64 (ours alone) }

"bytes" is ``bin`` where we write it and an array of small integers where the original does; either is read. A body is
valid if and only if it begins with one such value: keys in any order or as positions, a struct also as an array of
its declared length, unknown keys skipped, `causation_id`, `hash_chain`, `content_hash`, `payload_version` and
`receipt_extensions` absent or there, no other key missing, none twice, every number within its type. Bytes behind that
value are ignored. `counter`, `content_hash` and `payload_size` are not held against anything.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

import msgpack
from blake3 import blake3

from batpak.storage.frame import HASH_BYTES, ID_BYTES, NO_HASH, Frame, FrameError
from batpak.storage.original_fields import (
    MISSING,
    UNREADABLE,
    FieldError,
    array,
    byte_list,
    stream,
    text,
    unpack,
    values,
    vector,
    walk,
)
from batpak.storage.original_fields import extensions as read_extensions

VERSION: Final = 1
FIRST_BYTES: Final = (b"\x83\xa5event", b"\x84\xa5event", b"\x85\xa5event")
"""How a body begins unless its writer had its own mind; recovery looks for these bytes behind damage."""

BATCH_BEGIN: Final = 0x0006
BATCH_COMMIT: Final = 0x0007
_MARKER_ENTITY: Final = "_batch"
_MARKER_SCOPE: Final = "_system"

_FRAME: Final = ("event", "entity", "scope", "receipt_extensions", "global_sequence")
_EVENT: Final = ("header", "payload", "hash_chain")
_HEADER: Final = (
    "event_id",
    "correlation_id",
    "causation_id",
    "timestamp_us",
    "position",
    "payload_size",
    "event_kind",
    "flags",
    "content_hash",
    "payload_version",
    "payload_encryption",
)
_POSITION: Final = ("wall_ms", "counter", "depth", "lane", "sequence")
_CHAIN: Final = ("prev_hash", "event_hash")

_NUMBERS: Final = struct.Struct(">qQHIIIIHBH")
"""The types of timestamp, the five of the position, payload size, kind, flags and payload version."""


def checksum(body: bytes | memoryview) -> int:
    """CRC-32/IEEE of *body*, as zlib computes it."""
    return zlib.crc32(body)


def event_hash(payload: bytes | memoryview) -> bytes:
    """BLAKE3 of the payload's bytes alone: the format's chain covers nothing else."""
    return blake3(payload).digest()


def begin_marker(batch_id: int, events: int, timestamp_us: int) -> Frame:
    """Return the frame that stands before a batch of *events* events; *batch_id* is the first one's global sequence."""
    return _marker(BATCH_BEGIN, batch_id, events, timestamp_us)


def commit_marker(batch_id: int, timestamp_us: int) -> Frame:
    """Return the frame that stands behind the last event of a batch and makes all of it count."""
    return _marker(BATCH_COMMIT, batch_id, 0, timestamp_us)


def _marker(kind: int, batch_id: int, events: int, timestamp_us: int) -> Frame:
    return Frame(
        event_id=batch_id.to_bytes(ID_BYTES, "big"),
        global_sequence=None,
        remaining=0,
        kind=kind,
        entity=_MARKER_ENTITY,
        scope=_MARKER_SCOPE,
        sequence=0,
        timestamp_us=timestamp_us,
        wall_ms=timestamp_us // 1000,
        prev_hash=NO_HASH,
        correlation_id=None,
        causation_id=None,
        flags=0,
        is_key=False,
        payload_version=0,
        payload=b"",
        event_hash=NO_HASH,
        payload_size=events,
        chained=False,
    )


def encode_body(frame: Frame) -> bytes:
    """Return the body of *frame*, with byte vectors as ``bin`` and the global sequence as the last key.

    An event needs its `event_hash`, which is BLAKE3 of its payload; a marker (not `chained`) stores its `payload_size`.
    """
    _check_written(frame)
    fields: dict[str, object] = {
        "event": {
            "header": {
                "event_id": frame.event_id,
                "correlation_id": frame.correlation_id or frame.event_id,
                "causation_id": frame.causation_id,
                "timestamp_us": frame.timestamp_us,
                "position": {
                    "wall_ms": frame.wall_ms,
                    "counter": 0,
                    "depth": frame.depth,
                    "lane": frame.lane,
                    "sequence": frame.sequence,
                },
                "payload_size": len(frame.payload) if frame.chained else frame.payload_size,
                "event_kind": frame.kind,
                "flags": frame.flags,
                "content_hash": frame.event_hash if frame.chained else NO_HASH,
                "payload_version": frame.payload_version,
            },
            "payload": frame.payload,
            "hash_chain": {"prev_hash": frame.prev_hash, "event_hash": frame.event_hash} if frame.chained else None,
        },
        "entity": frame.entity,
        "scope": frame.scope,
        "receipt_extensions": dict(sorted(frame.extensions.items())) if frame.extensions else {},
    }
    if frame.global_sequence is not None:
        fields["global_sequence"] = frame.global_sequence
    body: bytes = msgpack.packb(fields)
    return body


def _check_written(frame: Frame) -> None:
    """Stop before anything is written that a reader of this format would refuse or misread."""
    assert len(frame.event_id) == ID_BYTES, "an event id has 16 bytes"
    assert frame.correlation_id is None or len(frame.correlation_id) == ID_BYTES, "a correlation id has 16 bytes"
    assert frame.causation_id is None or len(frame.causation_id) == ID_BYTES, "a causation id has 16 bytes"
    assert not frame.chained or len(frame.prev_hash) == len(frame.event_hash) == HASH_BYTES, "a hash has 32 bytes"
    assert not frame.encrypted, "the key scope and nonce of an encrypted frame are not kept"
    assert all(type(value) is bytes for value in frame.extensions.values()), "extension values are bytes"
    _NUMBERS.pack(
        frame.timestamp_us,
        frame.wall_ms,
        0,
        frame.depth,
        frame.lane,
        frame.sequence,
        len(frame.payload) if frame.chained else frame.payload_size,
        frame.kind,
        frame.flags,
        frame.payload_version,
    )


def decode_body(body: bytes | memoryview) -> Frame:
    """Return the frame that *body* holds; `FrameError` says what is wrong with it.

    Any bytes are safe to give: memory stays below a hundred times their length. `payload_doubtful`
    is set where the payload's exact bytes could not be found again.
    """
    try:
        return _frame(body)
    except UNREADABLE as error:
        raise FrameError(str(error)) from error


def _frame(body: bytes | memoryview) -> Frame:
    """Return the frame that *body* holds."""
    event, entity, scope, extensions, global_sequence = values(unpack(body), _FRAME, (4,))
    header, payload, chain = values(event, _EVENT, (3,))
    frame = _header_frame(header)
    if chain is None or chain is MISSING:
        frame.chained = False
    else:
        prev_hash, stored_hash = values(chain, _CHAIN, (2,))
        frame.prev_hash = vector(prev_hash, HASH_BYTES)
        frame.event_hash = vector(stored_hash, HASH_BYTES)
    frame.payload, frame.payload_doubtful = _payload(payload, frame.event_hash, body)
    frame.entity = text(entity)
    frame.scope = text(scope)
    if extensions is not MISSING:
        frame.extensions = read_extensions(extensions)
    if type(global_sequence) is int and 0 <= global_sequence < 2**64:
        frame.global_sequence = global_sequence
    return frame


def _header_frame(header: object) -> Frame:
    """Return a frame with everything that the event header says, and the rest blank."""
    (
        event_id,
        correlation,
        causation,
        time,
        position,
        size,
        kind,
        flags,
        content_hash,
        version,
        seal,
    ) = values(header, _HEADER, (10, 11))
    numbers = (
        time,
        *values(position, _POSITION, (5,)),
        size,
        kind,
        flags,
        0 if version is MISSING else version,
    )
    timestamp_us, wall_ms, _, depth, lane, sequence, *others = _checked_numbers(numbers)
    own_id = vector(event_id, ID_BYTES)
    correlation_id = vector(correlation, ID_BYTES)
    if content_hash is not MISSING:
        vector(content_hash, HASH_BYTES)
    return Frame(
        event_id=own_id,
        global_sequence=None,
        remaining=0,
        kind=others[1],
        entity="",
        scope="",
        sequence=sequence,
        timestamp_us=timestamp_us,
        wall_ms=wall_ms,
        prev_hash=NO_HASH,
        correlation_id=None if correlation_id == own_id else correlation_id,
        causation_id=_causation(causation),
        flags=others[2],
        is_key=False,
        payload_version=others[3],
        payload=b"",
        lane=lane,
        depth=depth,
        event_hash=NO_HASH,
        payload_size=others[0],
        encrypted=seal is not None and seal is not MISSING,
    )


def _checked_numbers(numbers: tuple[object, ...]) -> tuple[int, ...]:
    """Return *numbers* if each is an integer that fits its field."""
    if bool in map(type, numbers):
        raise FieldError("found true or false in the header, expected a number")
    try:
        return _NUMBERS.unpack(_NUMBERS.pack(*numbers))
    except struct.error as error:
        raise FieldError(f"found a header without a number or with one too large: {error}") from error


def _causation(value: object) -> bytes | None:
    """Return the cause's id; the id 0 means "none" as well."""
    if value is None or value is MISSING:
        return None
    found = vector(value, ID_BYTES)
    return found if any(found) else None


def _payload(value: object, stored_hash: bytes, body: bytes | memoryview) -> tuple[bytes, bool]:
    """Return the payload's bytes, and whether they are doubtful.

    Compactions up to 0.8.3 stored the decoded value where the bytes should be. An array of small
    integers may be either, so the hash decides; where it confirms neither (the original order of a
    map's keys is lost), the likelier one is returned as doubtful.
    """
    if type(value) is bytes:
        return value, False
    if value is MISSING:
        raise FieldError("found no payload, expected one")
    spelled = byte_list(value)
    if spelled is not None and (stored_hash == NO_HASH or event_hash(spelled) == stored_hash):
        return spelled, False
    rewritten = _payload_value(body)
    if event_hash(rewritten) == stored_hash:
        return rewritten, False
    if spelled is None or bool in map(type, array(value)):
        return rewritten, True
    return spelled, True


def _payload_value(body: bytes | memoryview) -> bytes:
    """Return the bytes that the value of ``payload`` in ``event`` takes in a decodable *body*."""
    unpacker = stream(body)
    for fields, wanted in ((_FRAME[:4], "event"), (_EVENT, "payload")):
        for name in walk(unpacker, body, fields):
            if name == wanted:
                break
            unpacker.skip()
    start: int = unpacker.tell()
    unpacker.skip()
    return bytes(body[start : unpacker.tell()])
