"""The writer's hands: the active segment, where it ends, and how the next one is begun.

`written` is the one object that says how far the journal is written; it is replaced by one assignment. Rotation is
the only thing inside a turn that waits for the disk: what the old segment holds is synced before the new one exists,
so a segment that is not the last never has a torn end.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Final

from batpak.actors.gate import Written
from batpak.actors.messages import Digest
from batpak.errors import CorruptStoreError, StorageError
from batpak.log import WARNING
from batpak.storage import format2
from batpak.storage.seal import seal
from batpak.storage.segment import Footer, SegmentMeta, file_name, header_bytes, parse_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from batpak.actors.actor import Line
    from batpak.actors.driver import Driver
    from batpak.actors.gate import Gate
    from batpak.actors.messages import IndexCommand
    from batpak.storage.catalog import Catalog
    from batpak.storage.files import Files, WriteFile
    from batpak.storage.pool import SegmentPool
    from batpak.storage.row import Record

FIRST_STEP_BYTES: Final = 1024 * 1024
MAX_STEP_BYTES: Final = 16 * 1024 * 1024
"""An active segment of format 2 is preallocated in steps that double between these two."""


@dataclass(frozen=True, slots=True)
class _Retired:
    """A segment that was rotated away and waits for its footer."""

    meta: SegmentMeta
    file: WriteFile
    end: int
    last_sequence: int
    last_hash: bytes


class Journal:
    """The active segment of one store; only the writer's turns touch it.

    *catalog* lists the segments; *segment_format* is what new ones are written in.
    """

    def __init__(
        self,
        files: Files,
        catalog: Catalog,
        pool: SegmentPool,
        index: Driver[IndexCommand],
        random_bytes: Callable[[int], bytes],
        *,
        segment_bytes: int,
        segment_format: int,
        sequence: int,
    ) -> None:
        """Write behind what *catalog* lists; `go_on` names the segment to go on in."""
        self._files = files
        self._catalog = catalog
        self._pool = pool
        self._index = index
        self._random_bytes = random_bytes
        self._segment_bytes = segment_bytes
        self.segment_format = segment_format
        self.gate: Gate | None = None
        self.written = Written(None, 0, bytes(16), 0, sequence)
        self._meta: SegmentMeta | None = None
        self._allocated = 0
        self._step = FIRST_STEP_BYTES
        self._may_allocate = segment_format == format2.VERSION
        self._retired: list[_Retired] = []
        self.lines: list[Line] = []

    @property
    def meta(self) -> SegmentMeta:
        """The active segment."""
        assert self._meta is not None, "make_room comes before the first write"
        return self._meta

    @property
    def end(self) -> int:
        """Where the next frame goes."""
        return self.written.offset

    @property
    def sequence(self) -> int:
        """The global sequence that the next event gets."""
        return self.written.sequence

    def go_on(self, meta: SegmentMeta, file: WriteFile, end: int) -> None:
        """Go on behind *end* in a segment that is there."""
        self._meta = meta
        self._allocated = file.size()
        self.written = Written(file, meta.segment, meta.identity, end, self.sequence)

    def read_payload(self, record: Record) -> bytes:
        """Return the payload of a stored event."""
        body = self._pool.load([(record.segment, record.offset, record.length)])[0]
        return self._catalog.meta(record.segment).decode(body).payload

    def make_room(self, needed: int, first_sequence: int, last_hash: bytes, created_us: int) -> None:
        """Make sure that *needed* bytes can go behind the end: begin a segment, rotate, preallocate."""
        if self._meta is None:
            self._begin(first_sequence, last_hash, created_us)
        elif self.end > self.meta.frames_start and self.end + needed > self._segment_bytes:
            self.rotate(first_sequence, last_hash, created_us)
        if self._may_allocate and self.end + needed > self._allocated:
            self._allocate(needed)

    def write(self, data: bytes, start: int) -> None:
        """Write *data* at *start*, whole or with a typed error."""
        file = self._file()
        view = memoryview(data)
        done = 0
        try:
            while done < len(data):
                done += file.pwrite(view[done:] if done else data, start + done)
        except OSError as error:
            raise StorageError("write", self.meta.name, error.errno) from error

    def advance(self, offset: int, sequence: int) -> None:
        """Note that the journal is written up to *offset*; one assignment."""
        written = self.written
        self.written = Written(written.file, written.segment, written.identity, offset, sequence)

    def matching(self, data: bytes, start: int) -> int:
        """Return how many bytes of *data* stand at *start*, from its beginning."""
        try:
            found = self._file().pread(len(data), start)
        except OSError as error:
            raise StorageError("read", self.meta.name, error.errno) from error
        if found == data:
            return len(data)
        low, high = 0, min(len(data), len(found))
        while low < high:
            middle = (low + high + 1) // 2
            if found[:middle] == data[:middle]:
                low = middle
            else:
                high = middle - 1
        return low

    def cut(self, offset: int) -> None:
        """Cut everything behind *offset*."""
        file = self._file()
        try:
            if file.size() > offset:
                file.truncate(offset)
                self._allocated = offset
        except OSError as error:
            raise StorageError("truncate", self.meta.name, error.errno) from error

    # Segments ----------------------------------------------------------------------------------------------------

    def rotate(self, first_sequence: int, last_hash: bytes, created_us: int) -> None:
        """Make the active segment durable, begin the next one, seal the old."""
        if self._meta is None or self.end == self.meta.frames_start:
            return
        gate = self.gate
        assert gate is not None, "a journal is written behind a gate"
        self._seal_left_over()
        me = get_ident()
        with gate.device:
            gate.owner = me
            try:
                gate.sync_device()
                old = _Retired(self.meta, self._file(), self.end, first_sequence - 1, last_hash)
                self._begin(first_sequence, last_hash, created_us, old)
            finally:
                gate.owner = 0
        self._seal_left_over()

    def _begin(self, first_sequence: int, last_hash: bytes, created_us: int, old: _Retired | None = None) -> None:
        """Create the next segment, durably, and make it the active one; *old* waits to be sealed from then on."""
        segment = self._catalog.next_segment()
        salt = int.from_bytes(self._random_bytes(4), "big")
        header = header_bytes(
            version=self.segment_format,
            segment=segment,
            created_ns=created_us * 1000,
            store_id=self._catalog.store_id,
            salt=salt,
            first_sequence=first_sequence,
            previous_hash=last_hash,
        )
        name = file_name(segment)
        try:
            file = self._create(name, len(header))
            if file.pwrite(header, 0) != len(header):
                raise StorageError("write", name, None)
            file.sync()
            self._files.sync_folder()
        except OSError as error:
            raise StorageError("create", name, error.errno) from error
        meta = parse_header(header, segment, len(header))
        if old is not None and (not self._retired or self._retired[-1].meta is not old.meta):
            self._retired.append(old)
        self._allocated = len(header)
        self._step = FIRST_STEP_BYTES
        self._catalog.add(meta)
        self._meta = meta
        self.written = Written(file, segment, meta.identity, len(header), first_sequence)

    def _create(self, name: str, header_size: int) -> WriteFile:
        """Create a segment's file; what an interrupted attempt left there holds no event and goes."""
        try:
            return self._files.create(name)
        except FileExistsError:
            size = self._files.size(name)
            if size > header_size + 64:
                raise CorruptStoreError(
                    file=name,
                    offset=0,
                    found=f"a segment of {size} bytes that was not there",
                    expected="no file",
                    provable="all other segments",
                ) from None
            self._files.remove(name)
            return self._files.create(name)

    def _allocate(self, needed: int) -> None:
        """Reserve space ahead; a file system that refuses is asked once."""
        step = max(self._step, needed)
        start = self._allocated
        try:
            if self._file().allocate(start, step):
                self._allocated = start + step
                self._step = min(self._step * 2, MAX_STEP_BYTES)
                return
        except OSError:
            pass  # no room for a step is not yet no room for this write
        else:
            self._may_allocate = False
            self.lines.append((WARNING, "segment.not_preallocated", {"segment": self.meta.segment}))

    def _seal_left_over(self) -> None:
        """Seal what was rotated away; a failure leaves that to the next open."""
        while self._retired:
            old = self._retired[0]
            if old.meta is not self._meta:
                try:
                    self._seal(old)
                except OSError as error:
                    self.lines.append(
                        (WARNING, "segment.not_sealed", {"segment": old.meta.segment, "error": type(error).__name__})
                    )
                with suppress(OSError):
                    old.file.close()
            del self._retired[0]

    def _seal(self, old: _Retired) -> None:
        """Write the old segment's footer."""
        footer = None
        if old.meta.version == format2.VERSION:
            first = old.meta.first_sequence or 0
            digest = self._index.ask(Digest(old.meta.segment))
            footer = Footer(old.end, old.last_sequence + 1 - first, first, old.last_sequence, old.last_hash, digest)
        self._catalog.add(seal(old.file, old.meta, old.end, footer))

    def _file(self) -> WriteFile:
        """Return the active segment's file."""
        file = self.written.file
        assert file is not None, "make_room comes before the first write"
        return file

    def finish(self) -> None:
        """End the active segment for a clean close: cut the preallocated rest; in format 1 write the footer."""
        if self._meta is None:
            return
        self._seal_left_over()
        file, end = self._file(), self.end
        if self.segment_format != format2.VERSION and end > self._meta.frames_start:
            self._catalog.add(seal(file, self._meta, end, None))
        elif file.size() != end:
            file.truncate(end)
            file.sync()

    def close(self) -> None:
        """Close the active segment's file."""
        if self.written.file is not None:
            self.written.file.close()
