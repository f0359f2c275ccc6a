"""The floor: a packed payload behind a small head, written to a file, and synced where the row says durable."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self
from zlib import crc32

import msgpack

from batpak.actors.journal import FIRST_STEP_BYTES, MAX_STEP_BYTES
from benchmarks.events import Item

HEAD = struct.Struct("!II")


class _File:
    """A file that frames are written to one behind the other."""

    PREALLOCATES: ClassVar[bool] = False

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._end = 0
        self._reserved = 0
        self._step = FIRST_STEP_BYTES
        self._durable = durable

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Make the file in *directory*."""
        directory.mkdir(parents=True, exist_ok=True)
        return cls(directory / "frames", durable=durable)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def settle(self) -> None:
        """Nothing to do: the file is prepared as it is written."""

    def append(self, item: Item) -> int:
        """Write one frame and return where it begins."""
        at = self._end
        self._write(self._frame(item))
        return at

    def append_batch(self, items: Sequence[Item]) -> list[int]:
        """Write all frames at once and return where they begin."""
        frames = [self._frame(item) for item in items]
        found, at = [], self._end
        for frame in frames:
            found.append(at)
            at += len(frame)
        self._write(b"".join(frames))
        return found

    def get(self, event_id: int) -> object:
        """Return the payload of the frame that begins there, its checksum checked."""
        length, checksum = HEAD.unpack(os.pread(self._fd, HEAD.size, event_id))
        packed = os.pread(self._fd, length, event_id + HEAD.size)
        assert crc32(packed) == checksum
        return msgpack.unpackb(packed)

    def stream(self, entity: str) -> list[object]:
        """Not to be had without an index."""
        raise NotImplementedError

    def replay(self) -> int:
        """Decode every payload and return how many there were; the whole file is read at once."""
        data = os.pread(self._fd, self._end, 0)
        at = count = 0
        while at < len(data):
            length, checksum = HEAD.unpack_from(data, at)
            packed = data[at + HEAD.size : at + HEAD.size + length]
            assert crc32(packed) == checksum
            msgpack.unpackb(packed)
            at += HEAD.size + length
            count += 1
        return count

    def page(self, part: str, after: int, limit: int) -> list[object]:
        """Not to be had without an index."""
        raise NotImplementedError

    @staticmethod
    def _frame(item: Item) -> bytes:
        packed: bytes = msgpack.packb(item.payload)
        return HEAD.pack(len(packed), crc32(packed)) + packed

    def _write(self, frames: bytes) -> None:
        """Write at the end, in a file that reaches there already."""
        end = self._end + len(frames)
        if self.PREALLOCATES and end > self._reserved:
            length = max(self._step, len(frames))
            os.posix_fallocate(self._fd, self._reserved, length)
            os.fsync(self._fd)
            self._reserved += length
            self._step = min(2 * self._step, MAX_STEP_BYTES)
        os.pwrite(self._fd, frames, self._end)
        self._end = end
        if self._durable:
            os.fdatasync(self._fd)


class RawWrite(_File):
    """Written frames."""

    HOW: ClassVar[str] = (
        "packs the payload, puts length and CRC-32 before it and calls `pwrite` into a file that grows; no order, no "
        "index, no lock"
    )


class RawSync(_File):
    """Frames in a file that is prepared as batpak's segments are."""

    PREALLOCATES = True
    HOW: ClassVar[str] = (
        "the same into a file preallocated by `fallocate` in steps of 1 to 16 MiB, as batpak does, with `fdatasync` "
        "behind each write"
    )


class GrowingSync(_File):
    """Frames in a file that grows with each."""

    HOW: ClassVar[str] = "the same without preallocation, so that each `fdatasync` writes the file's new length too"
