"""Checking history: every hash and every link, recomputed from the frames."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final
from uuid import UUID

from batpak.reports import ChainReport, SequenceGap
from batpak.storage.format2 import GENESIS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batpak.reading import Reading
    from batpak.region import Region
    from batpak.storage.frame import Frame
    from batpak.storage.row import Record
    from batpak.storage.view import View

BLOCK: Final = 512
"""How many events are loaded at a time."""

Chain = tuple[str, int]
"""An entity and a lane: what events link along."""


class ChainCheck:
    """Follows all chains at once; *checked* events so far, and what was found."""

    def __init__(self, store: Reading, view: View) -> None:
        """Check events of *store* as *view* shows them."""
        self._store = store
        self._view = view
        self._heads: dict[Chain, tuple[int, bytes]] = {}
        self._newest: dict[str, tuple[int, bytes]] = {}
        self.checked = 0
        self.mismatches: list[UUID] = []
        self.dangling: list[UUID] = []
        self.gaps: list[SequenceGap] = []

    def add(self, record: Record, frame: Frame, *, sound: bool) -> None:
        """Check one event against the one before it in its chain."""
        self.checked += 1
        event_id = UUID(bytes=record.event_id)
        if not sound:
            self.mismatches.append(event_id)
        before = self._predecessor(record, frame)
        if frame.prev_hash == GENESIS:
            if before is not None and frame.sequence:
                self.dangling.append(event_id)
        elif before is None or before[1] != frame.prev_hash:
            self.dangling.append(event_id)
        if before is not None and frame.sequence and frame.sequence != before[0] + 1:
            self.gaps.append(SequenceGap(record.entity, before[0] + 1, frame.sequence))
        self._heads[record.entity, frame.lane] = self._newest[record.entity] = (frame.sequence, frame.event_hash)

    def report(self) -> ChainReport:
        """Return what was found."""
        return ChainReport(self.checked, tuple(self.mismatches), tuple(self.dangling), tuple(self.gaps))

    def _predecessor(self, record: Record, frame: Frame) -> tuple[int, bytes] | None:
        """Return the event that this one follows; the original chained an entity across its lanes before 0.9."""
        before = self._heads.get((record.entity, frame.lane))
        for known in (before, self._newest.get(record.entity)):
            if known == (frame.sequence - 1, frame.prev_hash):
                return known
        if before is None or before[0] + 1 != frame.sequence:
            return self._look_up(record, frame) or before
        return before

    def _look_up(self, record: Record, frame: Frame) -> tuple[int, bytes] | None:
        """Return the predecessor of an event that does not follow the one checked before it in its chain."""
        if not frame.sequence:
            return None
        same_place = self._store.selected(self._view, lambda view: view.predecessors(record.entity, frame.sequence - 1))
        for each in same_place:
            if each.global_sequence < record.global_sequence:
                found = self._store.load_contents([each])[0].frame
                if found.lane == frame.lane or found.event_hash == frame.prev_hash:
                    return found.sequence, found.event_hash
        return None


def verify_chain(
    store: Reading, view: View, region: Region, progress: Callable[[int, int], None] | None
) -> ChainReport:
    """Check every event of *region* that *view* shows, hidden ones included."""
    check = ChainCheck(store, view)
    total = view.count()
    everything = replace(region, include_system=True)
    records = store.selected(view, lambda view: view.select(everything, None, None) if region.parts else _all(view))
    while block := list(islice(records, BLOCK)):
        for record, content in zip(block, store.load_contents(block), strict=True):
            check.add(record, content.frame, sound=content.is_sound())
        if progress is not None:
            progress(check.checked, total)
    return check.report()


def _all(view: View) -> Iterator[Record]:
    """Yield every row, cancelled ones too: chains go on through them."""
    for part in view.parts:
        for row in range(view.rows(part)):
            yield part.record(row)
