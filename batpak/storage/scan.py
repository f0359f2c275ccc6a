"""Walking a segment's frames: what is valid, what belongs together, where it ends.

Everything here reads and judges; nothing is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from crc32c import crc32c

from batpak.errors import CorruptStoreError
from batpak.kind import BATCH_BEGIN, BATCH_COMMIT, OPEN_COMPLETED
from batpak.storage import format1, format2
from batpak.storage.frame import FRAME, MAX_BODY_BYTES, Frame, FrameError
from batpak.storage.segment import file_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batpak.storage.files import ReadFile
    from batpak.storage.segment import SegmentMeta

FIRST_BLOCK_BYTES: Final = 16 * 1024
BLOCK_BYTES: Final = 1024 * 1024
MAX_ORIGINAL_BATCH: Final = 1_000_000


@dataclass(slots=True)
class Found:
    """A valid frame and where it lies; *end* is the offset behind it."""

    segment: int
    offset: int
    end: int
    crc: int
    frame: Frame


class Walk:
    """The valid frames of one segment from *start* on; stops at the first bytes that are no frame.

    Iterate once; afterwards *end* is where it stopped and *why* says what stood there; *foreign_checksum* whether that
    is a frame whose CRC-32C would be right in a segment of format 1. A frame whose checksum is right and whose body is
    none raises `CorruptStoreError`: nothing torn looks like that.
    """

    def __init__(self, file: ReadFile, meta: SegmentMeta, start: int | None = None, stop: int | None = None) -> None:
        """Prepare to walk from offset *start* to *stop*: by default the whole segment."""
        self._file = file
        self._meta = meta
        self._stop = meta.size if stop is None else stop
        self.end = meta.frames_start if start is None else start
        self.why = "the end of the file"
        self.foreign_checksum = False

    def __iter__(self) -> Iterator[Found]:
        """Yield frame after frame; reads a little at first, for those who follow a writer, then more at a time."""
        base = at = self.end
        buffer = b""
        block = FIRST_BLOCK_BYTES
        while self._stop - at >= FRAME.size:
            need = FRAME.size
            if at - base + need <= len(buffer):
                need += FRAME.unpack_from(buffer, at - base)[0]
                if not self._plausible(need - FRAME.size, at):
                    return
            if at - base + need > len(buffer):
                buffer = self._file.pread(min(max(need, block), self._stop - at), at)
                base = at
                block = min(block * 4, BLOCK_BYTES)
                if len(buffer) < need:
                    self.why = "a frame that ends behind the file"
                    return
                continue
            found = self._frame(buffer[at - base : at - base + need], at)
            if found is None:
                return
            at = self.end = found.end
            yield found
        if at < self._stop:
            self.why = "the first bytes of a frame"

    def _plausible(self, length: int, at: int) -> bool:
        """Check a frame's length before anything is read or allocated."""
        if not 0 < length <= MAX_BODY_BYTES:
            self.why = f"a frame length of {length}"
            return False
        if at + FRAME.size + length > self._stop:
            self.why = "a frame that ends behind the file"
            return False
        return True

    def _frame(self, data: bytes, at: int) -> Found | None:
        """Check and decode the frame that *data* is."""
        meta = self._meta
        crc = FRAME.unpack_from(data)[1]
        body = data[FRAME.size :]
        if meta.checksum(body) != crc:
            self.why = "a frame whose checksum is wrong"
            self.foreign_checksum = meta.version == format1.VERSION and crc32c(body) == crc
            return None
        try:
            frame = meta.decode(body)
        except FrameError as error:
            raise CorruptStoreError(
                file=meta.name,
                offset=at,
                found=f"a checked frame that holds {error}",
                expected="the body of an event",
                provable="the frames before it",
            ) from error
        return Found(meta.segment, at, at + len(data), crc, frame)


class Batches:
    """Tells which frames have been committed: singles at once, the items of a batch with its last frame.

    The state crosses segments, because batches of the original up to 0.7.0 may.
    """

    def __init__(self) -> None:
        """Start outside any batch."""
        self._staged: list[Found] = []
        self._remaining = 0
        self._in_batch = False
        self._entered = False

    @property
    def open(self) -> bool:
        """Whether a batch has begun in the segment entered last that is not complete."""
        return self._in_batch and not self._entered

    def enter(self, meta: SegmentMeta) -> None:
        """Go on in another segment; what a crash of the original left open does not end in one of ours (hazard H3)."""
        if meta.ours:
            self._forget()
        self._entered = True

    def complete(self) -> list[Found]:
        """Return the items of a batch that lacks nothing but its COMMIT marker, and forget them."""
        staged = self._staged if self._in_batch and not self._remaining else []
        self._forget()
        return staged

    def _forget(self) -> None:
        """Forget an incomplete batch."""
        self._staged = []
        self._in_batch = False

    def feed(self, found: Found, version: int) -> list[Found]:
        """Take the next frame; return what it commits, in order."""
        return self._feed_2(found) if version == format2.VERSION else self._feed_1(found)

    def _feed_2(self, found: Found) -> list[Found]:
        """Format 2: each frame counts the frames of its batch still to come."""
        remaining = found.frame.remaining
        if self._in_batch and remaining != self._remaining - 1:
            raise CorruptStoreError(
                file=file_name(found.segment),
                offset=found.offset,
                found=f"{remaining} frames still to come in a batch",
                expected=str(self._remaining - 1),
                provable="the frames before the batch",
            )
        if not self._in_batch and not remaining:
            return [found]
        self._staged.append(found)
        self._remaining = remaining
        self._in_batch = remaining > 0
        self._entered = False
        if self._in_batch:
            return []
        committed, self._staged = self._staged, []
        return committed

    def _feed_1(self, found: Found) -> list[Found]:
        """Format 1: BEGIN and COMMIT markers, by the table in the original's section 7.3."""
        kind = found.frame.kind
        if kind == OPEN_COMPLETED:
            self._forget()  # a new session: what the last one left open never ends (hazard H3)
        if kind == BATCH_BEGIN:
            return self._begin_1(found)
        if not found.frame.chained and kind != BATCH_COMMIT:
            raise CorruptStoreError(
                file=file_name(found.segment),
                offset=found.offset,
                found="an event without a hash chain",
                expected="hashes in every event",
                provable="the frames before it",
            )
        if kind == BATCH_COMMIT:
            return self.complete()
        if not self._in_batch:
            return [found]
        if self._remaining:
            self._staged.append(found)
            self._remaining -= 1
        else:
            self._forget()
        return []

    def _begin_1(self, found: Found) -> list[Found]:
        """Enter a batch; one that was open is discarded."""
        count = found.frame.payload_size
        if not 0 < count <= MAX_ORIGINAL_BATCH:
            raise CorruptStoreError(
                file=file_name(found.segment),
                offset=found.offset,
                found=f"a batch of {count} items",
                expected=f"1 to {MAX_ORIGINAL_BATCH}",
                provable="the frames before it",
            )
        self._staged = []
        self._remaining = count
        self._in_batch = True
        self._entered = False
        return []


def behind(file: ReadFile, meta: SegmentMeta, start: int, stop: int) -> list[Found]:
    """Return valid frames between *start* and *stop*, found by the first bytes of a body.

    Checksum work is at most eight times the bytes searched; what exceeds it raises `CorruptStoreError`.
    """
    data = file.pread(max(0, stop - start), start)
    patterns = (format2.FIRST_BYTES,) if meta.version == format2.VERSION else format1.FIRST_BYTES
    budget = 8 * len(data)
    found: list[Found] = []
    for pattern in patterns:
        at = data.find(pattern)
        while at >= 0:
            budget -= _candidate(data, at, start, meta, found)
            if budget < 0:
                raise CorruptStoreError(
                    file=meta.name,
                    offset=start,
                    found="damage that looks like more frames than can be checked",
                    expected="a torn end of the segment",
                    provable="the frames before it",
                )
            at = data.find(pattern, at + 1)
    return sorted(found, key=lambda each: each.offset)


def _candidate(data: bytes, at: int, start: int, meta: SegmentMeta, found: list[Found]) -> int:
    """Try the body at *at*; add it to *found* if it is a frame, and return how many bytes were checked."""
    if at < FRAME.size:
        return 1
    length: int = FRAME.unpack_from(data, at - FRAME.size)[0]
    if not 0 < length <= len(data) - at:
        return 1
    body = data[at : at + length]
    crc = FRAME.unpack_from(data, at - FRAME.size)[1]
    if meta.checksum(body) == crc:
        try:
            frame = meta.decode(body)
        except FrameError:
            return length
        offset = start + at - FRAME.size
        found.append(Found(meta.segment, offset, offset + FRAME.size + length, crc, frame))
    return length
