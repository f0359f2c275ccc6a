"""Walks along the two graphs of a journal: an entity's chain, and what caused what."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from batpak.reports import Ancestry, AncestryEnd
from batpak.storage.format2 import GENESIS
from batpak.storage.row import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batpak.event import StoredEvent
    from batpak.reading import Reading
    from batpak.storage.row import Record
    from batpak.storage.view import View


def walk_ancestors(store: Reading, view: View, anchor: StoredEvent, limit: int | None) -> Ancestry:
    """Follow the links from *anchor* back, newest first."""
    if limit == 0:
        return Ancestry((), AncestryEnd.LIMIT)
    events = [anchor]
    seen = {anchor.event_id}
    while True:
        child = events[-1]
        if child.prev_hash == GENESIS:
            return Ancestry(tuple(events), AncestryEnd.GENESIS)
        if limit is not None and len(events) >= limit:
            return Ancestry(tuple(events), AncestryEnd.LIMIT)
        parent = find_parent(store, view, child)
        if parent is None:
            return Ancestry(tuple(events), AncestryEnd.MISSING_PARENT)
        if parent.event_id in seen:
            return Ancestry(tuple(events), AncestryEnd.CYCLE)
        seen.add(parent.event_id)
        events.append(parent)


def find_parent(store: Reading, view: View, child: StoredEvent) -> StoredEvent | None:
    """Return the event that *child* links to: the nearest earlier one of its entity with that hash."""
    for record in view.predecessors(child.coordinate.entity, child.sequence - 1):
        if record.global_sequence < child.global_sequence:
            event = store.load_records([record])[0]
            if event.event_hash == child.prev_hash:
                return event
    return None


def causes(view: View, record: Record, depth: int, limit: int) -> list[Record]:
    """Return what caused *record*, up to *depth* steps back, breadth first."""

    def step(each: Record) -> Iterable[Record]:
        cause = None if each.causation_id is None else view.find_id(each.causation_id)
        return () if cause is None else (cause,)

    return _breadth_first(record, step, depth, limit)


def effects(view: View, record: Record, depth: int, limit: int) -> list[Record]:
    """Return what *record* caused, up to *depth* steps on, breadth first."""
    return _breadth_first(record, lambda each: view.effects(each.event_id), depth, limit)


def _breadth_first(start: Record, step: Callable[[Record], Iterable[Record]], depth: int, limit: int) -> list[Record]:
    """Return what *step* leads to from *start*, each event once, without *start* itself."""
    seen = {start.event_id}
    found: list[Record] = []
    waiting = deque([(start, 0)])
    while waiting and len(found) < limit:
        record, steps = waiting.popleft()
        if steps == depth:
            continue
        for each in step(record):
            if each.event_id in seen or each.bits & HIDDEN:
                continue
            seen.add(each.event_id)
            found.append(each)
            waiting.append((each, steps + 1))
            if len(found) == limit:
                break
    return found
