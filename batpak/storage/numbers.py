"""Global sequences of events that the original wrote: its frames do not hold them.

They stand in the footers of closed segments and in the snapshot of the index that it left; where neither knows an
event, it is one more than the highest before (original, 5.3). The snapshot comes first: after a compaction only it
knows the numbers that were given out (hazard H5). A row of it counts only for the event whose id it names, because a
stale one may be there (hazard H4).
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from batpak.errors import CorruptStoreError
from batpak.storage import original_footer, original_snapshot
from batpak.storage.original_snapshot import CHECKPOINT, MMAP_INDEX, Snapshot, SnapshotDamaged

if TYPE_CHECKING:
    from batpak.storage.catalog import Catalog
    from batpak.storage.files import Files, ReadFile
    from batpak.storage.scan import Found
    from batpak.storage.segment import SegmentMeta

MAX_SIDECAR_BYTES: Final = 1024 * 1024 * 1024
"""The original's sidecars hold up to 64 million keys; larger files are refused before they are read."""


class Numbers:
    """What the original noted of its numbering; `load` reads the snapshot, `read_footer` one segment's footer."""

    __slots__ = ("_catalog", "_files", "_footer", "_last_offsets", "_snapshot", "_strange")

    def __init__(self, files: Files, catalog: Catalog) -> None:
        """Know nothing yet."""
        self._files = files
        self._catalog = catalog
        self._snapshot: Snapshot | None = None
        self._footer: dict[tuple[int, int], int] = {}
        self._last_offsets: dict[int, int] = {}
        self._strange = False

    def load(self) -> list[str]:
        """Read the newest snapshot there is; what was found and passed over.

        A damaged one refuses if some segment has no footer that could number its events.
        """
        notes = []
        for name, read in (
            (MMAP_INDEX, original_snapshot.read_mmap_index),
            (CHECKPOINT, original_snapshot.read_checkpoint),
        ):
            if not self._files.exists(name):
                continue
            snapshot = read(self._files.read_bytes(name, MAX_SIDECAR_BYTES))
            if not isinstance(snapshot, SnapshotDamaged):
                self._snapshot = snapshot
                break
            if self._is_needed():
                raise CorruptStoreError(
                    file=name,
                    offset=None,
                    found=snapshot.reason,
                    expected="the numbers of events",
                    provable="the events, without their numbers",
                )
            notes.append(f"{name} was passed over: {snapshot.reason}")
        return notes

    def forget(self) -> None:
        """Give the memory back; `load` reads it again."""
        self._snapshot = None
        self._footer = {}
        self._last_offsets = {}

    def read_footer(self, file: ReadFile, meta: SegmentMeta) -> int | None:
        """Return where a trusted footer says that frames end, and keep its numbers until the next one is read."""
        self._footer = {}
        boundary = original_footer.find_boundary(file.pread, meta.size, meta.name)
        if boundary is None or not boundary.trusted:
            return None
        if boundary.end < meta.frames_start:
            raise CorruptStoreError(
                file=meta.name,
                offset=boundary.end,
                found="a footer in the place of the header",
                expected="one behind it",
                provable="nothing in this segment",
            )
        for row in original_footer.read_rows(file.pread, boundary) or ():
            self._footer[meta.segment, row.offset] = row.global_sequence
        return boundary.end

    def of(self, found: Found) -> int | None:
        """Return the number that was noted of an event, None where none was."""
        place = found.segment, found.offset
        snapshot = self._snapshot
        if snapshot is not None:
            if snapshot.ids.get(place) == found.frame.event_id:
                return snapshot.sequences[place]
            if place < (snapshot.watermark_segment, snapshot.watermark_offset):
                self._strange = True  # it speaks of segments that have been compacted since
        return self._footer.get(place)

    def last_offset(self, segment: int) -> int:
        """Return where the last event of a segment stands that the snapshot numbers; -1 where it tells nothing.

        One that does not know some event in front of it is of another time.
        """
        if self._snapshot is None or self._strange:
            return -1
        if not self._last_offsets:
            for of, at in self._snapshot.sequences:
                self._last_offsets[of] = max(at, self._last_offsets.get(of, -1))
        return self._last_offsets.get(segment, -1)

    def _is_needed(self) -> bool:
        """Whether some segment of the original was closed, or is not the last, and has no footer to believe."""
        metas = self._catalog.metas()
        for meta in metas:
            if not meta.ours:
                with closing(self._files.open_read(meta.name)) as file:
                    boundary = original_footer.find_boundary(file.pread, meta.size, meta.name)
                if (boundary is None and meta is not metas[-1]) or (boundary is not None and not boundary.trusted):
                    return True
        return False
