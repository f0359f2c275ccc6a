"""What a chain of hashes shows of edits that were made with right checksums, and what only an anchor shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from batpak import Anchor, BatpakError, Coordinate, EventKind, NewEvent, Store, StoreConfig
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.directories import Content, content, segments
from tests.faults.conftest import Table
from tests.faults.images import Format, laid_out, open_image
from tests.faults.tampering import BUSY, EDITS, HASHLESS, OTHER, SHORT, Edit, Forgery

PLACED, PAID = EventKind(0x1, 0x001), EventKind(0x1, 0x002)


def write(store: Store) -> None:
    """Write three entities into several segments, with keys, causes and batches; a fourth has the last two events."""
    busy, other, short = (Coordinate(entity, "shop") for entity in (BUSY, OTHER, SHORT))
    store.append(short, PLACED, {"amount": 1})
    for number in range(12):
        cause = store.append(busy, PLACED, {"amount": number, "pad": "x" * 300}, idempotency_key=f"key {number}")
        store.append(other, PAID, {"amount": number, "pad": "y" * 200}, causation_id=cause.event_id)
        if number % 4 == 1:
            store.append_batch([NewEvent(busy, PAID, [number, each]) for each in range(3)])
        if number == 5:
            store.append(short, PAID, {"amount": 10})
    store.append(Coordinate("late:1", "shop"), PLACED, "last but one")
    store.append(Coordinate("late:1", "shop"), PAID, "last")


@cache
def journal(segment_format: Format) -> tuple[Content, Anchor]:
    """Return a closed store, and the anchor that was taken before it was closed."""
    files = MemoryFiles()
    config = StoreConfig(driver="stepped", segment_format=segment_format, segment_bytes=4096, clock=HandClock())
    with Store(files.beside(), config, SteppedDrivers()) as store:
        write(store)
        store.sync()
        anchor = store.anchor()
    held = content(files)
    assert len(segments(held)) >= 3
    return held, anchor


def seen(held: Content, anchor: Anchor | None) -> str:
    """How the edit shows: "refused", "found", "" where it does not."""
    told = []
    for writable in (False, True):
        try:
            with open_image(laid_out(held), writable=writable) as store:
                report = store.verify_chain() if anchor is None else store.verify_chain(anchor=anchor)
                told.append("" if report.intact else "found")
        except BatpakError:
            told.append("refused")
    assert told[0] == told[1]
    return told[0]


def forged(held: Content, edit: Callable[[Forgery], None], *, relink: bool) -> Content:
    """Return a store after an edit."""
    forgery = Forgery(held)
    edit(forgery)
    return forgery.write(relink=relink)


def anchor_behind(held: Content, events: int) -> Anchor:
    """Return the anchor that the store would have given when it had so many events."""
    forgery = Forgery(held)
    for frame in forgery.events()[events:]:
        forgery.remove(frame)
    with open_image(laid_out(forgery.write(relink=False)), writable=False) as store:
        anchor = store.anchor()
    assert anchor.events == events
    return anchor


@pytest.fixture(params=[2, 1], ids=["format 2", "format 1"])
def segment_format(request: pytest.FixtureRequest) -> Format:
    found: Format = request.param
    return found


def test_what_is_put_back_unedited_is_the_same(segment_format: Format) -> None:
    held, anchor = journal(segment_format)
    for relink in (False, True):
        again = Forgery(held).write(relink=relink)
        assert {name: again[name] for name in segments(held)} == {name: held[name] for name in segments(held)}
        assert (seen(again, None), seen(again, anchor)) == ("", "")


@pytest.mark.parametrize("edit", EDITS, ids=[edit.name for edit in EDITS])
def test_an_edit_with_right_checksums_shows_where_a_chain_can_show_it(segment_format: Format, edit: Edit) -> None:
    held, anchor = journal(segment_format)
    edited = forged(held, edit.apply, relink=False)
    assert bool(seen(edited, None)) == (str(segment_format) in edit.chain)
    assert bool(seen(edited, anchor)) == (str(segment_format) in edit.anchored)


@pytest.mark.parametrize("edit", EDITS, ids=[edit.name for edit in EDITS])
def test_an_edit_with_a_new_chain_shows_against_an_anchor_alone(segment_format: Format, edit: Edit) -> None:
    held, anchor = journal(segment_format)
    edited = forged(held, edit.apply, relink=True)
    assert bool(seen(edited, None)) == (str(segment_format) in edit.relinked)
    assert bool(seen(edited, anchor)) == (
        str(segment_format) in edit.anchored and (segment_format == 2 or edit.name not in HASHLESS)
    )


def test_an_edit_shows_exactly_where_an_event_of_the_same_entity_follows() -> None:
    held, anchor = journal(2)
    events = Forgery(held).events()
    last = {frame.entity: at for at, frame in enumerate(events)}
    for at, frame in enumerate(events):
        forgery = Forgery(held)
        forgery.events()[at].payload = b"\xc3"
        edited = forgery.write(relink=False)
        assert seen(edited, None) == ("" if last[frame.entity] == at else "found")
        assert seen(edited, anchor) == "found"


def test_an_anchor_speaks_of_what_was_there_when_it_was_taken() -> None:
    held, _ = journal(2)
    events = Forgery(held).events()
    whole = [at + 1 for at, frame in enumerate(events) if not frame.remaining]
    for taken in (1, whole[len(whole) // 2], len(events) - 1):
        anchor = anchor_behind(held, taken)
        assert seen(held, anchor) == ""
        for at in range(len(events)):
            forgery = Forgery(held)
            forgery.events()[at].payload = b"\xc3"
            assert seen(forgery.write(relink=True), anchor) == ("found" if at < taken else "")


def test_the_table_of_edits(table: Table, segment_format: Format) -> None:
    held, anchor = journal(segment_format)
    for how, relink in (("links as they were", False), ("chain made anew", True)):
        for against, pin in (("by the chain", None), ("against an anchor", anchor)):
            found = Counter(seen(forged(held, edit.apply, relink=relink), pin) or "not detected" for edit in EDITS)
            table.add(f"tampering, format {segment_format}, {how}, {against}", len(EDITS), found)
            if segment_format == 2 and pin is not None:
                assert not found["not detected"]
