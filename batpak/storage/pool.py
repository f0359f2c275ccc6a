"""Open segments: frames are read and checked here, whoever asks for them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from batpak.errors import CorruptStoreError
from batpak.storage import format2
from batpak.storage.frame import FRAME, FRAME_BYTES
from batpak.storage.mapped import Mapped
from batpak.storage.segment import file_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from batpak.storage.files import Files, ReadFile
    from batpak.storage.mapped import SegmentMaps
    from batpak.storage.segment import SegmentMeta

MAX_OPEN: Final = 64
"""How many segments are kept open: descriptors are shared with the program that embeds us."""
MAX_READ_BYTES: Final = 1024 * 1024
"""How much one system call reads ahead."""

MIN_GROWTH: Final = 64 * 1024
"""A segment that is mapped is mapped again when it has grown by so much: it costs as much as tens of reads."""

PlaceOf = tuple[int, int, int]
"""Segment, offset, and length of a frame."""


class SegmentPool:
    """The segments of one store, opened when they are needed, the least used closed first.

    Each owner has its own pool: nothing in here is locked.
    """

    def __init__(self, files: Files, meta: Callable[[int], SegmentMeta]) -> None:
        """Read from *files*; *meta* tells a segment's header."""
        self._files = files
        self._meta = meta
        self._open: OrderedDict[int, ReadFile] = OrderedDict()

    def load(self, places: Sequence[PlaceOf]) -> list[bytes]:
        """Return the checked body of each place; neighbours are read together."""
        bodies: list[bytes] = []
        start = 0
        while start < len(places):
            stop = self._neighbours(places, start)
            bodies += self._load(places[start:stop])
            start = stop
        return bodies

    def show(self, maps: SegmentMaps, segments: Iterable[int], *, sealed_only: bool) -> None:
        """Put into *maps* those of *segments* that are of format 2 and not there yet, or have grown by much."""
        for segment in segments:
            meta = self._meta(segment)
            if meta.version != format2.VERSION or (sealed_only and meta.footer is None):
                continue
            known = maps.by_segment.get(segment)
            file = self._file(segment)
            if known is not None and file.size() < known.size + MIN_GROWTH:
                continue
            data = file.window()
            if data is not None:
                maps.put(segment, Mapped(data, meta.salt), MAX_OPEN)
                self._open.pop(segment).close()  # the map has a descriptor of its own

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.popitem()[1].close()

    def _neighbours(self, places: Sequence[PlaceOf], start: int) -> int:
        """Return where the places that one read covers end: the same segment, ascending, without wide gaps."""
        segment, first, length = places[start]
        end = first + length
        stop = start + 1
        while stop < len(places):
            next_segment, offset, length = places[stop]
            if next_segment != segment or not end <= offset <= end + 4096 or offset + length - first > MAX_READ_BYTES:
                break
            end = offset + length
            stop += 1
        return stop

    def _load(self, places: Sequence[PlaceOf]) -> list[bytes]:
        """Read places that lie side by side in one segment."""
        segment, base, _ = places[0]
        end = places[-1][1] + places[-1][2]
        data = self._file(segment).pread(end - base, base)
        meta = self._meta(segment)
        checksum, seed = meta.checksum_and_seed()
        unpack = FRAME.unpack_from
        bodies = []
        for _, offset, length in places:
            at = offset - base
            body = data[at + FRAME_BYTES : at + length]
            if len(body) != length - FRAME_BYTES or unpack(data, at) != (len(body), checksum(body, seed)):
                raise _no_frame(meta, offset, length, at + length <= len(data))
            bodies.append(body)
        return bodies

    def _file(self, segment: int) -> ReadFile:
        """Return the open segment."""
        file = self._open.get(segment)
        if file is None:
            file = self._files.open_read(file_name(segment))
            while len(self._open) >= MAX_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[segment] = file
        else:
            self._open.move_to_end(segment)
        return file


def _no_frame(meta: SegmentMeta, offset: int, length: int, is_whole: bool) -> CorruptStoreError:  # noqa: FBT001
    """Return the refusal of what stands where a frame should."""
    return CorruptStoreError(
        file=meta.name,
        offset=offset,
        found="bytes that are no frame" if is_whole else "the end of the file",
        expected=f"a frame of {length} bytes with its checksum",
        provable="what other events hold; this one is damaged",
    )
