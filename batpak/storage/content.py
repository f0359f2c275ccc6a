"""What lies in an event's frame, decoded when somebody asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from batpak.errors import EncryptedPayloadError
from batpak.storage import format1, format2

if TYPE_CHECKING:
    from batpak.storage.frame import Frame


class FrameContent:
    """A checked body and the format it is in; decoded once, on first access."""

    __slots__ = ("_body", "_frame", "_version")

    def __init__(self, body: bytes, version: int) -> None:
        """Keep *body*, whose checksum was right."""
        self._body = body
        self._version = version
        self._frame: Frame | None = None

    @property
    def frame(self) -> Frame:
        """All fields of the frame."""
        if self._frame is None:
            self._frame = (format2 if self._version == format2.VERSION else format1).decode_body(self._body)
        return self._frame

    @property
    def raw(self) -> bytes:
        """The payload as it is stored."""
        if self._frame is None and self._version == format2.VERSION:
            return format2.payload_of(self._body)
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

    def plain(self, event_id: bytes) -> bytes:
        """Return the payload as it is stored; refuses one that the original sealed."""
        if self._version != format2.VERSION and self.frame.encrypted:
            raise EncryptedPayloadError(UUID(bytes=event_id))
        return self.raw

    def is_sound(self) -> bool:
        """Whether the stored hash is the one that the content has; in format 2 they are one."""
        frame = self.frame
        return self._version == format2.VERSION or format1.event_hash(frame.payload) == frame.event_hash

    def is_of(self, event_id: bytes) -> bool:
        """Whether this is the frame of that event."""
        if self._version == format2.VERSION:
            return self._body.startswith(event_id, len(format2.FIRST_BYTES))
        return self.frame.event_id == event_id
