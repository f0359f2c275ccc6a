"""Writing the body of a run: one section behind another, block by block, with a checksum for each."""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Final

from crc32c import crc32c

from batpak.storage.blocks import BLOCK_BYTES
from batpak.storage.files import write_all
from batpak.storage.run_format import ALIGNMENT, HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Generator

    from batpak.storage.files import BytesLike, WriteFile
    from batpak.storage.run_format import Section

_WRITE_BYTES: Final = 4 * BLOCK_BYTES
_SYNC_BYTES: Final = 1 << 20
"""What is written is synced in pieces of about this size: a sync of the journal must not wait behind a large one."""
_WIDE: Final = 1 << 18
"""Large arrays are made and written in pieces of so many bytes: one call must not hold the interpreter for long."""


class BodyWriter:
    """The body of a run that is being written; sections come in any order, one at a time."""

    __slots__ = ("_buffer", "_file", "_length", "_synced", "crcs", "salt", "sections")

    def __init__(self, file: WriteFile, salt: int) -> None:
        """Write to *file*, behind the place of its header."""
        self.sections: dict[str, tuple[int, int]] = {}
        self.salt = salt
        self.crcs = bytearray()
        self._file = file
        self._buffer = bytearray()
        self._length = 0
        self._synced = 0

    @property
    def length(self) -> int:
        """How many bytes the body has so far."""
        return self._length + len(self._buffer)

    def begin(self, section: Section) -> None:
        """Start a section; what is written from here on belongs to it."""
        self._buffer += bytes(-self.length % ALIGNMENT)
        self.sections[section] = self.length, 0

    def write(self, data: BytesLike) -> None:
        """Add a little *data*, at most a few blocks, to the section that was begun last."""
        self._buffer += data
        if len(self._buffer) >= _WRITE_BYTES:
            self._flush(len(self._buffer) // BLOCK_BYTES * BLOCK_BYTES)

    def end(self) -> None:
        """Close the section that was begun last."""
        section, (start, _) = self.sections.popitem()
        self.sections[section] = start, self.length - start

    def write_section(self, section: Section, data: BytesLike | array[int]) -> Generator[None]:
        """Write a whole section, in slices."""
        self.begin(section)
        yield from self.write_wide(data)
        self.end()

    def write_wide(self, data: BytesLike | array[int]) -> Generator[None]:
        """Add *data* of any size, in slices."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _WRITE_BYTES):
            self.write(view[start : start + _WRITE_BYTES])
            yield

    def finish(self) -> None:
        """Write what is left."""
        self._flush(len(self._buffer))

    def _flush(self, length: int) -> None:
        data = bytes(memoryview(self._buffer)[:length])
        for start in range(0, length, BLOCK_BYTES):
            self.crcs += struct.pack("<I", crc32c(data[start : start + BLOCK_BYTES], self.salt))
        write_all(self._file, data, HEADER_BYTES + self._length)
        self._length += length
        del self._buffer[:length]
        if self._length - self._synced >= _SYNC_BYTES:
            self._file.sync_data()
            self._synced = self._length


def filled(count: int, value: int = 0) -> Generator[None, None, array[int]]:
    """Make an array of *count* 32-bit integers, each *value*, in slices."""
    piece = array("I", [value]) * (_WIDE // 4)
    values = array("I")
    while len(values) + len(piece) <= count:
        values += piece
        yield
    values += piece[: count - len(values)]
    return values


assert array("I").itemsize == 4
