"""Checking history: every hash and every link, recomputed from the frames; and anchors, which pin it."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Final
from uuid import UUID

from batpak.receipt import Anchor, Place
from batpak.reports import ChainReport, SequenceGap
from batpak.storage.format2 import GENESIS
from batpak.storage.run import Run
from batpak.storage.run_state import RunState
from batpak.storage.tail import Tail
from batpak.storage.tree import Stretch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batpak.reading import Reading
    from batpak.region import Region
    from batpak.storage.catalog import Catalog
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

    def report(self, whole: WholeCheck | None) -> ChainReport:
        """Return what was found."""
        found = tuple(self.mismatches), tuple(self.dangling), tuple(self.gaps)
        if whole is None:
            return ChainReport(self.checked, *found)
        return ChainReport(self.checked, *found, whole.altered_segments(), whole.anchored())

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


class WholeCheck:
    """Compares all events, one after the other, with what their segments were sealed with, and with an anchor."""

    def __init__(self, catalog: Catalog, view: View, anchor: Anchor | None) -> None:
        """Expect every event that *view* shows; *catalog* knows what their segments were sealed with."""
        self._catalog = catalog
        self._last_sequence = view.last_sequence()
        self._anchor = anchor
        self._anchored = anchor is not None and anchor == Anchor(0, None, Stretch().root())
        self._before = Stretch()
        self._part = Stretch()
        self._segment = 0
        self._last_hash = GENESIS
        self._altered: list[int] = []

    def add(self, record: Record, event_hash: bytes) -> None:
        """Take in the next event."""
        if record.segment != self._segment:
            self._end_segment()
            self._segment = record.segment
            self._before.join(self._part)
            self._part = Stretch(self._before.size)
        self._part.add(event_hash)
        self._last_hash = event_hash
        if self._anchor is not None and self._part.end == self._anchor.events:
            tree = self._before.copy()
            tree.join(self._part)
            self._anchored = self._anchor == Anchor(tree.size, Place(record.global_sequence, event_hash), tree.root())

    def altered_segments(self) -> tuple[int, ...]:
        """Return the segments that are not as they were sealed; all events have been taken in."""
        self._end_segment()
        return tuple(self._altered)

    def anchored(self) -> bool | None:
        """Whether the events of the anchor came first; None without one."""
        return None if self._anchor is None else self._anchored

    def _end_segment(self) -> None:
        """Compare what was taken in of one segment with its footer, where it is sealed and was seen to its end."""
        footer = self._catalog.meta(self._segment).footer if self._segment else None
        if footer is None or footer.last_sequence > self._last_sequence:
            return
        found = self._part.start, self._part.size, tuple(self._part.nodes), self._last_hash
        if found != (footer.before, footer.frames, footer.part, footer.last_hash):
            self._altered.append(self._segment)


def verify_chain(
    store: Reading,
    catalog: Catalog,
    view: View,
    region: Region,
    anchor: Anchor | None,
    progress: Callable[[int, int], None] | None,
) -> ChainReport:
    """Check every event of *region* that *view* shows, hidden ones included; everything is compared with *anchor*."""
    check = ChainCheck(store, view)
    whole = None if region.parts else WholeCheck(catalog, view, anchor)
    total = view.count()
    everything = replace(region, include_system=True)
    records = store.selected(view, lambda view: view.select(everything, None, None) if region.parts else _all(view))
    while block := list(islice(records, BLOCK)):
        for record, content in zip(block, store.load_contents(block), strict=True):
            check.add(record, content.frame, sound=content.is_sound())
            if whole is not None:
                whole.add(record, content.event_hash)
        if progress is not None:
            progress(check.checked, total)
    return check.report(whole)


def take_anchor(store: Reading, view: View, durable_sequence: int) -> Anchor:
    """Return the anchor of what *view* shows up to *durable_sequence*, which no run of the index is ahead of.

    The tree is continued from where the newest run left it, so it costs the same in a journal of any length.
    """
    tree, last = Stretch(), None
    tails: list[Tail] = []
    for each in reversed(view.parts):
        if isinstance(each, Run):
            tree, last = RunState.unpack(each.meta.tree).tree(), each.record(each.count - 1)
            break
        assert isinstance(each, Tail)
        tails.append(each)
    for tail in reversed(tails):
        bound = tail.row_of_sequence(durable_sequence, view.rows(tail))
        for row in range(bound):
            tree.add(tail.event_hash(row))
        last = tail.record(bound - 1) if bound else last
    return Anchor(tree.size, None if last is None else store.load_records([last])[0].place, tree.root())


def _all(view: View) -> Iterator[Record]:
    """Yield every row, cancelled ones too: chains go on through them."""
    for part in view.parts:
        for row in range(view.rows(part)):
            yield part.record(row)
