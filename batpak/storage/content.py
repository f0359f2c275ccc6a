"""What lies in an event's frame, decoded when somebody asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgpack

from batpak.errors import EncryptedPayloadError
from batpak.payload import decode_payload
from batpak.storage import format1, format2
from batpak.storage.format2 import ELEMENTS, MAX_ITEMS, PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from batpak.event import Codec, Facts
    from batpak.payload import Payload
    from batpak.storage.frame import Frame


_unpackb: Final[Callable[..., Any]] = msgpack.unpackb


class FrameContent:
    """A checked body and the format it is in; decoded once, on first access."""

    __slots__ = ("_frame", "_version", "body")

    def __init__(self, body: bytes, version: int) -> None:
        """Keep *body*, whose checksum was right."""
        self.body = body
        self._version = version
        self._frame: Frame | None = None

    @property
    def codec(self) -> Codec:
        """How the body is read."""
        return codec_of(self._version)

    @property
    def frame(self) -> Frame:
        """All fields of the frame."""
        if self._frame is None:
            self._frame = (format2 if self._version == format2.VERSION else format1).decode_body(self.body)
        return self._frame

    @property
    def raw(self) -> bytes:
        """The payload as it is stored."""
        if self._frame is None and self._version == format2.VERSION:
            return format2.payload_of(self.body)
        return self.frame.payload

    @property
    def timestamp_us(self) -> int:
        """The clock's reading at the call, in microseconds."""
        return self.frame.timestamp_us

    @property
    def prev_hash(self) -> bytes:
        """The hash of the predecessor."""
        return self.frame.prev_hash

    @property
    def event_hash(self) -> bytes:
        """The hash that the next event links to."""
        return self.frame.event_hash

    @property
    def extensions(self) -> dict[str, object]:
        """What is rare, by name."""
        return self.frame.extensions

    def is_sound(self) -> bool:
        """Whether the stored hash is the one that the content has; in format 2 they are one."""
        frame = self.frame
        return self._version == format2.VERSION or format1.event_hash(frame.payload) == frame.event_hash

    def is_of(self, event_id: bytes) -> bool:
        """Whether this is the frame of that event."""
        if self._version == format2.VERSION:
            return self.body.startswith(event_id, len(format2.FIRST_BYTES))
        return self.frame.event_id == event_id


class _Format2:
    """Reads bodies of format 2; each call what is needed for its answer."""

    __slots__ = ()

    def facts(self, body: bytes) -> Facts:
        """Return what the index keeps of this event too."""
        return format2.facts_of(body)

    def content(self, body: bytes) -> Frame:
        """Return all that the frame says."""
        return format2.decode_body(body)

    def event_hash(self, body: bytes) -> bytes:
        """Return the event's own hash."""
        return format2.event_hash(body)

    def raw(self, body: bytes) -> bytes:
        """Return the payload as it is stored."""
        return format2.payload_of(body)

    def payload(self, body: bytes) -> Payload:
        """Return the decoded payload."""
        try:
            fields = _unpackb(body, max_array_len=MAX_ITEMS)
            raw = fields[PAYLOAD]
            if type(raw) is bytes and len(fields) == ELEMENTS:
                return _unpackb(raw, timestamp=3, strict_map_key=False)  # type: ignore[no-any-return]
        except Exception:  # noqa: BLE001, S110 - the long way says what is wrong, or finds a stand-in
            pass
        return decode_payload(format2.payload_of(body))

    def __reduce__(self) -> str:
        return "FORMAT_2"


class _Format1:
    """Reads bodies of format 1, whole each time."""

    __slots__ = ()

    def content(self, body: bytes) -> Frame:
        """Return all that the frame says."""
        return format1.decode_body(body)

    def facts(self, body: bytes) -> Facts:
        """Return nothing: no frame of the original has all of them, so the index always gives them."""
        raise AssertionError(f"found an event of format 1 of {len(body)} bytes without its facts")

    def event_hash(self, body: bytes) -> bytes:
        """Return the hash as it is stored."""
        return format1.decode_body(body).event_hash

    def raw(self, body: bytes) -> bytes:
        """Return the payload as it is stored."""
        return format1.decode_body(body).payload

    def payload(self, body: bytes) -> Payload:
        """Return the decoded payload; refuses one that the original sealed."""
        frame = format1.decode_body(body)
        if frame.encrypted:
            raise EncryptedPayloadError(UUID(bytes=frame.event_id))
        return decode_payload(frame.payload)

    def __reduce__(self) -> str:
        return "FORMAT_1"


FORMAT_1: Final = _Format1()
FORMAT_2: Final = _Format2()


def codec_of(version: int) -> Codec:
    """Return how bodies of a segment format are read."""
    return FORMAT_2 if version == format2.VERSION else FORMAT_1
