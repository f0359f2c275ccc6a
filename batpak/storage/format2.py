"""Format 2 of a frame's body: one positional MessagePack array (docs/format.md, section 3).

A body is valid if and only if it is exactly one array of 15 elements of the types below and its checksum is
CRC-32C seeded with its segment's salt. The order is fixed; what is rare or new stands in the map at the end.

== ================ ====================== ============================================
 #  field            type                   remark
== ================ ====================== ============================================
 0  event id         bin 16                 a body therefore begins with ``9f c4 10``
 1  global sequence  uint 64
 2  remaining        uint 32                frames of the same batch still to come
 3  kind             uint 16
 4  entity           str
 5  scope            str
 6  sequence         uint 32
 7  timestamp_us     uint 63
 8  previous hash    bin 32 or nil          nil: the first event of its entity
 9  correlation id   bin 16 or nil          nil: its own id
10  causation id     bin 16 or nil
11  flags            uint 16                low byte the event's flags; 0x100: the id is a key
12  payload version  uint 16
13  payload          bin
14  extensions       map with str keys      ``wall_ms``, ``durable``, ``lane``, ``depth``, ...
== ================ ====================== ============================================
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack
from blake3 import blake3
from crc32c import crc32c

from batpak.storage.frame import Frame, FrameError

VERSION: Final = 2
FIRST_BYTES: Final = b"\x9f\xc4\x10"
"""How every body begins; recovery looks for these bytes behind damage."""

KEY_BIT: Final = 0x100
GENESIS: Final = bytes(32)
MAX_ITEMS: Final = 4096
"""No array in an extension is longer: room is made for as many as it announces, at each of a thousand levels."""
PAYLOAD: Final = 13
ELEMENTS: Final = 15
_NO_EXTENSIONS: Final[dict[str, object]] = {}


class Facts(NamedTuple):
    """What the index keeps of one event, read from its frame."""

    event_id: bytes
    global_sequence: int
    wall_ms: int
    entity: str
    scope: str
    sequence: int
    kind: int
    payload_version: int
    flags: int
    correlation_id: bytes | None
    causation_id: bytes | None


def checksum(body: bytes | memoryview, salt: int) -> int:
    """CRC-32C of *body*, seeded with the segment's *salt*."""
    return crc32c(body, salt)


def event_hash(body: bytes | memoryview) -> bytes:
    """BLAKE3 of the whole body: id, place, kind, causes, predecessor and payload are all covered."""
    return blake3(body).digest()


def encode_body(frame: Frame) -> bytes:
    """Return the body of *frame*; the only order and the only types a reader accepts."""
    extensions = frame.extensions
    if frame.wall_ms != frame.timestamp_us // 1000:
        extensions = extensions | {"wall_ms": frame.wall_ms}
    if frame.lane or frame.depth:
        extensions = extensions | {"lane": frame.lane, "depth": frame.depth}
    body: bytes = msgpack.packb(
        (
            frame.event_id,
            frame.global_sequence,
            frame.remaining,
            frame.kind,
            frame.entity,
            frame.scope,
            frame.sequence,
            frame.timestamp_us,
            None if frame.prev_hash == GENESIS else frame.prev_hash,
            frame.correlation_id,
            frame.causation_id,
            frame.flags | KEY_BIT if frame.is_key else frame.flags,
            frame.payload_version,
            frame.payload,
            extensions,
        )
    )
    return body


def decode_body(body: bytes | memoryview) -> Frame:
    """Return the frame that *body* holds, with its hash; `FrameError` says what is wrong with it."""
    (
        event_id,
        sequence,
        remaining,
        kind,
        entity,
        scope,
        clock,
        timestamp_us,
        previous,
        correlation,
        causation,
        flags,
        version,
        payload,
        extensions,
    ) = _unpack(body)
    _check_ids(event_id, correlation, causation, previous)
    _check_numbers(
        (sequence, 2**64),
        (remaining, 2**32),
        (kind, 2**16),
        (clock, 2**32),
        (timestamp_us, 2**63),
        (flags, 2**16),
        (version, 2**16),
    )
    if type(entity) is not str or type(scope) is not str or type(payload) is not bytes or type(extensions) is not dict:
        raise FrameError("entity, scope, payload or extensions of another type")
    wall_ms = extensions.get("wall_ms", timestamp_us // 1000)
    lane, depth = extensions.get("lane", 0), extensions.get("depth", 0)
    _check_numbers((wall_ms, 2**63), (lane, 2**32), (depth, 2**32))
    return Frame(
        event_id=event_id,
        global_sequence=sequence,
        remaining=remaining,
        kind=kind,
        entity=entity,
        scope=scope,
        sequence=clock,
        timestamp_us=timestamp_us,
        wall_ms=wall_ms,
        prev_hash=previous or GENESIS,
        correlation_id=correlation,
        causation_id=causation,
        flags=flags & 0xFF,
        is_key=bool(flags & KEY_BIT),
        payload_version=version,
        payload=payload,
        lane=lane,
        depth=depth,
        event_hash=blake3(body).digest(),
        extensions=extensions or _NO_EXTENSIONS,
        payload_size=len(payload),
    )


def facts_of(body: bytes) -> Facts:
    """Return what the index keeps of an event; of a body whose checksum was right."""
    (
        event_id,
        sequence,
        _,
        kind,
        entity,
        scope,
        clock,
        timestamp_us,
        _,
        correlation,
        causation,
        flags,
        version,
        _,
        extensions,
    ) = _unpack(body)
    # One expression, and the rare in a call: most readers of an event come by here.
    if not (
        type(event_id) is bytes
        and type(sequence) is type(kind) is type(clock) is type(timestamp_us) is type(flags) is type(version) is int
        and type(entity) is type(scope) is str
        and type(extensions) is dict
        and 0 <= kind < 0x10000
        and 0 <= flags < 0x10000
        and (correlation is None or (type(correlation) is bytes and len(correlation) == 16))
        and (causation is None or (type(causation) is bytes and len(causation) == 16))
    ):
        raise FrameError("a fact of another type, or out of range")
    wall_ms = extensions.get("wall_ms", timestamp_us // 1000) if extensions else timestamp_us // 1000
    if type(wall_ms) is not int:
        raise FrameError("a wall clock of another type")
    return Facts(event_id, sequence, wall_ms, entity, scope, clock, kind, version, flags & 0xFF, correlation, causation)


def payload_of(body: bytes) -> bytes:
    """Return the payload alone, of a body whose checksum was right; nothing else is looked at."""
    payload = _unpack(body)[PAYLOAD]
    if type(payload) is not bytes:
        raise FrameError("a payload of another type")
    return payload


def _unpack(body: bytes | memoryview) -> list[Any]:
    """Return the fifteen elements of *body*."""
    fields: Any = None
    reason = ""
    try:
        fields = msgpack.unpackb(body, raw=False, strict_map_key=True, max_array_len=MAX_ITEMS)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        reason = type(error).__name__  # not as a cause: msgpack's errors hold what they unpacked
    if reason:
        raise FrameError(f"not one MessagePack value: {reason}")
    if type(fields) is not list or len(fields) != ELEMENTS:
        raise FrameError("not an array of 15 elements")
    return fields


def _check_ids(event_id: object, correlation: object, causation: object, previous: object) -> None:
    """Refuse ids that are not 16 bytes and hashes that are not 32."""
    for found, length in ((event_id, 16), (correlation, 16), (causation, 16), (previous, 32)):
        if found is None and found is not event_id:
            continue
        if type(found) is not bytes or len(found) != length:
            raise FrameError("an id or hash of another length or type")


def _check_numbers(*limits: tuple[object, int]) -> None:
    """Refuse what is not an unsigned integer below its limit."""
    for found, limit in limits:
        if type(found) is not int or not 0 <= found < limit:
            raise FrameError("a number out of range")
