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
from batpak.errors import CorruptStoreError, StorageError
from batpak.log import WARNING
from batpak.storage import format2
from batpak.storage.seal import events_before, footer_from_index, seal
from batpak.storage.segment import SegmentMeta, file_name, header_bytes, parse_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from batpak.actors.actor import Line
    from batpak.actors.gate import Gate
    from batpak.storage.catalog import Catalog
    from batpak.storage.files import Files, WriteFile
    from batpak.storage.frame import Frame
    from batpak.storage.pool import SegmentPool
    from batpak.storage.row import Record
    from batpak.storage.view import View

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

    *catalog* lists the segments; *segment_format* is what new ones are written in. *needs_care* says that the
    writer's thread has something to do between turns.
    """

    def __init__(
        self,
        files: Files,
        catalog: Catalog,
        pool: SegmentPool,
        view: Callable[[], View],
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
        self._view = view
        self._random_bytes = random_bytes
        self._segment_bytes = segment_bytes
        self.segment_format = segment_format
        self.gate: Gate | None = None
        self.written = Written(None, None, 0, sequence)
        self._roomy = 0  # up to here nothing has to be made
        self._created: int | None = None  # a segment of which an attempt to begin it may have left a file
        self._allocated = 0
        self._step = FIRST_STEP_BYTES
        self._may_allocate = segment_format == format2.VERSION
        self._retired: list[_Retired] = []
        self.needs_care = False
        self.lines: list[Line] = []

    @property
    def meta(self) -> SegmentMeta:
        """The active segment."""
        meta = self.written.meta
        assert meta is not None, "make_room comes before the first write"
        return meta

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
        self._allocated = file.size()
        self.written = Written(file, meta, end, self.sequence)

    def read_frame(self, record: Record) -> Frame:
        """Return a stored event, checked and decoded."""
        meta = self._catalog.meta(record.segment)
        try:
            body = self._pool.load([(record.segment, record.offset, record.length)])[0]
        except OSError as error:
            raise StorageError("read", meta.name, error.errno) from error
        return meta.decode(body)

    def make_room(self, needed: int, first_sequence: int, last_hash: bytes, created_us: int) -> None:
        """Make sure that *needed* bytes can go behind the end: begin a segment, rotate, preallocate."""
        if self.written.offset + needed <= self._roomy:
            return
        if self.written.meta is None:
            self._begin(first_sequence, last_hash, created_us)
        elif self.end > self.meta.frames_start and (
            self.end + needed > self._segment_bytes or self._created is not None
        ):
            self.rotate(first_sequence, last_hash, created_us)
        if self._may_allocate:
            behind = self.end + needed
            if behind > self._allocated:
                length = max(FIRST_STEP_BYTES, needed)
                if self._reserve(self._file(), self._allocated, length):
                    self._allocated += length
            if self._allocated - behind < self._step // 4:
                self.needs_care = True
            self._roomy = min(self._segment_bytes, self._allocated - self._step // 4)
        else:
            self._roomy = self._segment_bytes

    def write(self, data: bytes, start: int) -> None:
        """Write *data* at *start*, whole or with a typed error."""
        file = self.written.file
        assert file is not None, "make_room comes before the first write"
        try:
            done = file.pwrite(data, start)
            while done < len(data):
                taken = file.pwrite(memoryview(data)[done:], start + done)
                if not taken:
                    raise StorageError("write", self.meta.name, None)
                done += taken
        except OSError as error:
            raise StorageError("write", self.meta.name, error.errno) from error

    def advance(self, offset: int, sequence: int) -> None:
        """Note that the journal is written up to *offset*; one assignment."""
        written = self.written
        self.written = Written(written.file, written.meta, offset, sequence)

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
                self._roomy = 0
                file.truncate(offset)
                self._allocated = offset
        except OSError as error:
            raise StorageError("truncate", self.meta.name, error.errno) from error

    # Segments ----------------------------------------------------------------------------------------------------

    def rotate(self, first_sequence: int, last_hash: bytes, created_us: int) -> None:
        """Make the active segment durable and begin the next one; the old one waits to be sealed."""
        written = self.written
        if written.meta is None or written.file is None or written.offset == written.meta.frames_start:
            return
        gate = self.gate
        assert gate is not None, "a journal is written behind a gate"
        old = _Retired(written.meta, written.file, written.offset, first_sequence - 1, last_hash)
        me = get_ident()
        spare = (me, me, me)
        with gate.device:
            gate.owner = me
            try:
                gate.sync_device()
                self._begin(first_sequence, last_hash, created_us, old)
            finally:
                gate.owner = 0
                del spare

    def _begin(self, first_sequence: int, last_hash: bytes, created_us: int, old: _Retired | None = None) -> None:
        """Create the next segment, durably, and make it the active one by one assignment."""
        self._roomy = 0
        segment = self._created = self._catalog.next_segment() if self._created is None else self._created
        header = header_bytes(
            version=self.segment_format,
            segment=segment,
            created_ns=created_us * 1000,
            store_id=self._catalog.store_id,
            salt=int.from_bytes(self._random_bytes(4), "big"),
            first_sequence=first_sequence,
            previous_hash=last_hash,
        )
        file = self._write_header(file_name(segment), header)
        meta = parse_header(header, segment, len(header))
        self._catalog.add(meta)
        if old is not None:
            # An attempt that was interrupted left an entry that has been overtaken: the segment went on.
            if self._retired and self._retired[-1].meta is old.meta:
                self._retired.pop()
            self._retired.append(old)
        self._step = FIRST_STEP_BYTES
        self._allocated = len(header)
        self.written = Written(file, meta, len(header), first_sequence)
        self._created = None
        self.needs_care = True

    def _write_header(self, name: str, header: bytes) -> WriteFile:
        """Create a segment that holds its header, durably; where that fails, it is withdrawn."""
        file: WriteFile | None = None
        try:
            file = self._create(name, len(header))
            if file.pwrite(header, 0) != len(header):
                raise StorageError("write", name, None)
            file.sync()
            self._files.sync_folder()
        except (OSError, StorageError) as error:
            if file is not None:
                with suppress(OSError):
                    file.close()
            self._withdraw(name)
            if isinstance(error, StorageError):
                raise
            if self.gate is not None:
                self.gate.require_sound()  # a sync that failed is no matter of trying again
            raise StorageError("create", name, error.errno) from error
        return file

    def _withdraw(self, name: str) -> None:
        """Remove a segment that could not be begun, durably: its header says where the segment before it ends.

        Where that fails, no event goes into the segment before it: the next write begins this one again.
        """
        with suppress(OSError):
            self._files.remove(name)
            self._files.sync_folder()
            self._created = None

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

    # Between turns -----------------------------------------------------------------------------------------------

    def take_care(self) -> bool:
        """Seal a segment or reserve space ahead, by the writer's own thread outside its turns; whether there is more.

        What this changes belongs to no turn, but for the space reserved, which is only a hint.
        """
        if self._retired and self._retired[0].meta is not self.written.meta:
            self._seal_first()
            return True
        written = self.written
        ahead = self._allocated - written.offset
        if not self._may_allocate or written.file is None or ahead >= self._step // 4:
            self.needs_care = False
            return False
        step, allocated = self._step, self._allocated
        if self._reserve(written.file, allocated, step) and self.written.file is written.file:
            self._allocated = max(self._allocated, allocated + step)
        self.needs_care = False
        return False

    def finish(self) -> None:
        """End the active segment for a clean close: cut the preallocated rest; in format 1 write the footer."""
        while self._retired and self._retired[0].meta is not self.written.meta:
            self._seal_first()
        written = self.written
        if written.meta is None or written.file is None:
            return
        if written.meta.version != format2.VERSION and written.offset > written.meta.frames_start:
            self._catalog.add(seal(written.file, written.meta, written.offset, 0))  # a row of it says no such number
        elif written.file.size() != written.offset:
            written.file.truncate(written.offset)
            written.file.sync()

    def close(self) -> None:
        """Close the files."""
        for file in (self.written.file, *(old.file for old in self._retired)):
            if file is not None:
                file.close()

    def _reserve(self, file: WriteFile, start: int, length: int) -> bool:
        """Reserve space in *file*; a file system that refuses is asked once."""
        try:
            if file.allocate(start, length):
                self._step = min(self._step * 2, MAX_STEP_BYTES)
                return True
        except OSError:
            return False  # no room for a step is not yet no room for the next write
        self._may_allocate = False
        self.lines.append((WARNING, "segment.not_preallocated", {"file": self.meta.name}))
        return False

    def _seal_first(self) -> None:
        """Seal the oldest segment that was rotated away; a failure leaves that to the next open."""
        old = self._retired[0]
        try:
            view = self._view()
            before = events_before(old.meta, view.count(), view.last_sequence() + 1)
            footer = footer_from_index(view, old.meta, old.end, before, old.last_sequence, old.last_hash)
            self._catalog.add(seal(old.file, old.meta, old.end, before, footer))
        except (OSError, CorruptStoreError) as error:
            self.lines.append((WARNING, "segment.not_sealed", {"file": old.meta.name, "error": type(error).__name__}))
        with suppress(OSError):
            old.file.close()
        del self._retired[0]

    def _file(self) -> WriteFile:
        """Return the active segment's file."""
        file = self.written.file
        assert file is not None, "make_room comes before the first write"
        return file
