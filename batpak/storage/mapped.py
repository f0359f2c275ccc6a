"""Segments in memory: frames are sliced and checked here by whoever asks, without a turn of anybody.

The reader maps segments and shows them by one assignment each; what is shown never changes. A frame that the index
speaks of is never cut off by us, not even by the repair of the segment that is written to, so a slice of it is always
there. Whatever is not as expected (a segment that is not mapped, or not so far; bytes that are no frame, or another
event's) is left to the reader, which looks at the file itself and says what is wrong.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from crc32c import crc32c

from batpak.storage import format2
from batpak.storage.frame import FRAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batpak.storage.row import FramePlace
    from batpak.storage.seam import Window

HEAD: Final = struct.Struct(f">II{len(format2.FIRST_BYTES)}x16s")
"""Length and checksum of a format 2 body, and the event id, which stands near its start."""
_unpack: Final = HEAD.unpack_from


class Mapped:
    """A format 2 segment in memory; *used* since somebody looked for one to let go of."""

    __slots__ = ("data", "salt", "size", "used")

    def __init__(self, data: Window, salt: int) -> None:
        """Show *data*, a segment from its first byte."""
        self.data = data
        self.size = len(data)
        self.salt = salt
        self.used = True


class SegmentMaps:
    """The mapped segments of one store, by id; only its reader puts them in and takes them out."""

    __slots__ = ("by_segment",)

    def __init__(self) -> None:
        """Show nothing."""
        self.by_segment: dict[int, Mapped] = {}

    def put(self, segment: int, mapped: Mapped, most: int) -> None:
        """Show *mapped*, and of all segments at most *most*: one that has not been used for long goes."""
        shown = self.by_segment
        while len(shown) >= most and segment not in shown:
            first = next(iter(shown))
            candidate = shown.pop(first)
            if candidate.used:
                candidate.used = False
                shown[first] = candidate
        shown[segment] = mapped

    def clear(self) -> None:
        """Show nothing any more; what is being read stays in memory until that is done."""
        self.by_segment = {}

    def body(self, place: FramePlace) -> bytes | None:
        """Return the checked body at a place, None where that is left to the reader."""
        event_id, segment, offset, length, _ = place
        mapped = self.by_segment.get(segment)
        if mapped is None or offset + length > mapped.size:
            return None
        mapped.used = True
        data = mapped.data
        body = data[offset + FRAME_BYTES : offset + length]
        return body if _unpack(data, offset) == (len(body), crc32c(body, mapped.salt), event_id) else None

    def bodies(self, places: Sequence[FramePlace]) -> list[bytes] | None:
        """Return the checked bodies at some places, None where one of them is left to the reader."""
        bodies = []
        shown, unpack, crc = self.by_segment, _unpack, crc32c
        current = size = salt = -1
        data: Window = b""
        for event_id, segment, offset, length, _ in places:
            if segment != current:
                mapped = shown.get(segment)
                if mapped is None:
                    return None
                mapped.used = True
                current, data, size, salt = segment, mapped.data, mapped.size, mapped.salt
            end = offset + length
            if end > size:
                return None
            body = data[offset + FRAME_BYTES : end]
            if unpack(data, offset) != (len(body), crc(body, salt), event_id):
                return None
            bodies.append(body)
        return bodies
