"""A run: an immutable, memory-mapped part of the index, never parsed as a whole."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import closing
from typing import TYPE_CHECKING

from batpak.storage import filter as region_filter
from batpak.storage.blocks import RunError
from batpak.storage.bloom import spot_of
from batpak.storage.row import HIDDEN, Head
from batpak.storage.run_format import (
    ASCENDING,
    HEADER_BYTES,
    WALL_FENCE_ROWS,
    WALL_TOP_FENCES,
    check_byte_order,
    check_header,
    decode_layout,
)
from batpak.storage.run_tables import BadBlockError, RunTables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from batpak.region import Region
    from batpak.storage.bloom import Spot
    from batpak.storage.files import Files

__all__ = ["BadBlockError", "Run", "RunError"]


class Run(RunTables):
    """A part of the index on disk. It promises what `Part` says, for a bound that is its count.

    `record` gives no hash, `head` gives one. Every answer comes from checked blocks; a bad one raises `BadBlockError`.
    """

    @classmethod
    def open(cls, files: Files, name: str, store_id: bytes) -> Self:
        """Map a run after a look at its header and meta alone, a few KiB at any size.

        Raises `RunError` where it cannot be used, and `UnsupportedFormatError` where newer software wrote it.
        """
        check_byte_order()
        try:
            file = files.open_read(name)
        except FileNotFoundError as error:
            raise RunError("found no such file", name) from error
        with closing(file):
            header = file.pread(HEADER_BYTES, 0)
            _, body_bytes, meta_bytes, _ = check_header(name, header, file.size(), store_id)
            layout = decode_layout(name, header, file.pread(meta_bytes, HEADER_BYTES + body_bytes))
            view = file.map()[HEADER_BYTES : HEADER_BYTES + body_bytes]
        if len(view) != body_bytes:
            raise RunError(f"found {len(view)} bytes of body, expected {body_bytes}", name)
        try:
            return cls(name, layout, view)
        except (TypeError, ValueError) as error:
            raise RunError(f"found sections that cannot be read: {error}", name) from error

    def close(self) -> None:
        """Nothing: a run holds no descriptor, and its mapping ends with its last reader."""

    def __repr__(self) -> str:
        return f"<Run {self.name!r} of {self.count} rows>"

    def row_of_sequence(self, after: int, bound: int) -> int:
        """Return the first row whose global sequence is greater than *after*; *bound* when there is none."""
        sequences = self._global_sequences
        dense = after - self.first_sequence
        if 0 <= dense < bound - 1 and sequences[dense] == after < sequences[dense + 1]:
            return dense + 1
        return sequences.above(after, 0, bound)

    def find_id(self, event_id: bytes, bound: int) -> int | None:
        """Return the newest row with that id."""
        return self.ids.newest(event_id, bound)

    def find_key(self, key: bytes, bound: int, spot: Spot | None = None) -> int | None:
        """Return the newest row with that id, keyed or not; *spot* is that of the key in a filter."""
        ids = self.ids
        low, high = ids.bounds or ids.find_bounds()
        if not low <= key <= high and not ids.filter.may_hold(spot or spot_of(key)):
            return None
        return ids.newest(key, bound)

    def match(self, region: Region, start: int, stop: int, *, reverse: bool = False) -> Iterator[int]:
        """Yield the rows in [start, stop) that match every part of *region*, in order; rows with HIDDEN never."""
        return region_filter.match(self, region, start, stop, reverse=reverse)

    def stream(self, entity: str, start: int, stop: int, *, reverse: bool = False) -> Iterator[int]:
        """Yield the rows in [start, stop) of exactly that entity, in order; rows with HIDDEN never."""
        rank = self.rank_of(entity)
        if rank is None:
            return iter(())
        rows = self.rank_posting(rank).rows(start, stop, reverse=reverse)
        return region_filter.visible(self, rows)

    def head(self, entity: str, bound: int, spot: Spot | None = None) -> Head | None:
        """Return the newest event of an entity on lane 0, rows with HIDDEN included; *spot* is that of its name."""
        if spot is not None and not self._entity_filter.may_hold(spot):
            return None
        rank = self.rank_of(entity)
        if rank is None:
            return None
        assert bound >= self.count, f"found bound {bound} for a run of {self.count} rows"
        event_hash, past, _ = self.entity_head(rank)
        if not past:
            return None
        row = past - 1
        return Head(self.facts(row)[2], self._walls[row], event_hash, self._global_sequences[row])

    def newest(self, entity: str, bound: int) -> int | None:
        """Return the newest row of an entity on any lane; rows with HIDDEN never."""
        return next(self.stream(entity, 0, bound, reverse=True), None)

    def by_sequence(self, entity: str, sequence: int, bound: int) -> list[int]:
        """Return the rows of an entity that have that sequence, ascending, rows with HIDDEN included.

        Costs a search where the entity's sequences ascend, which they do except in journals of the original.
        """
        rank = self.rank_of(entity)
        if rank is None:
            return []
        start, end = self.entity_starts[rank], self.entity_starts[rank + 1]
        row_of = self.entity_row

        def sequence_of(at: int) -> int:
            return self._sequences[row_of(at)]

        if not self.entity_head(rank)[2] & ASCENDING:
            return [row_of(at) for at in range(start, end) if sequence_of(at) == sequence and row_of(at) < bound]
        at = start + sequence - sequence_of(start)  # right where sequences are dense
        if not (start < at < end and sequence_of(at - 1) < sequence == sequence_of(at)):
            at = bisect_left(range(end), sequence, start, key=sequence_of)
        rows = []
        while at < end and sequence_of(at) == sequence and row_of(at) < bound:
            rows.append(row_of(at))
            at += 1
        return rows

    def effects(self, event_id: bytes, bound: int) -> Iterator[int]:
        """Yield the rows whose causation is *event_id*, ascending; rows with HIDDEN never."""
        rows = self.by_causation.posting(event_id).rows(0, bound, reverse=False)
        return region_filter.visible(self, rows)

    def newest_until(self, wall_ms: int, bound: int) -> int | None:
        """Return the newest row whose wall clock is at most *wall_ms*; rows with HIDDEN never."""
        for top in range(len(self._wall_tops) - 1, -1, -1):
            if self._wall_tops[top] <= wall_ms:
                first = top * WALL_TOP_FENCES
                last = min(len(self._wall_fences), first + WALL_TOP_FENCES)
                fences = self._wall_fences.values(first, last)
                for fence in range(last - 1, first - 1, -1):
                    if fences[fence - first] <= wall_ms:
                        row = self._newest_near(fence, wall_ms, bound)
                        if row is not None:
                            return row
        return None

    def _newest_near(self, fence: int, wall_ms: int, bound: int) -> int | None:
        """Return the newest row of a fence that is not hidden and whose wall clock is at most *wall_ms*."""
        first = fence * WALL_FENCE_ROWS
        walls = self._walls.values(first, min(bound, first + WALL_FENCE_ROWS))
        for row in range(first + len(walls) - 1, first - 1, -1):
            if walls[row - first] <= wall_ms and not self.facts(row)[-1] & HIDDEN:
                return row
        return None
