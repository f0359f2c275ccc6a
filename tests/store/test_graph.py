"""The two graphs of a journal, an entity's chain and what caused what, and the check of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal
from uuid import UUID

import pytest

from batpak import (
    AncestryEnd,
    Coordinate,
    CorruptStoreError,
    NewEvent,
    Region,
    Store,
    StoreConfig,
)
from batpak.storage.scan import Walk
from batpak.storage.segment import frame_bytes, read_meta
from batpak.testing.memory import MemoryFiles
from tests.store.journals import ORDER, PAID, PLACED, SHIPPED, Journal, close_anyhow, new_events

OTHER = Coordinate("other", "shop")
Wanted = Literal["recovery", "checksums", "chain"]


# Ancestors -------------------------------------------------------------------------------------------------------


def test_ancestors_go_back_along_the_chain_and_begin_with_the_anchor(journal: Journal) -> None:
    store = journal.store
    for number in range(6):
        store.append(ORDER, PLACED, number)
        store.append(OTHER, PLACED, -number)
    anchor = store.stream("order:42")[4].event_id
    for opened in journal.lives():
        found = opened.walk_ancestors(anchor)
        assert [event.payload for event in found.events] == [4, 3, 2, 1, 0]
        assert found.end is AncestryEnd.GENESIS
        for older, newer in zip(found.events[1:], found.events, strict=False):
            assert newer.prev_hash == older.event_hash


@pytest.mark.parametrize(
    ("limit", "count", "end"),
    [
        (0, 0, AncestryEnd.LIMIT),
        (1, 1, AncestryEnd.LIMIT),
        (3, 3, AncestryEnd.LIMIT),
        (4, 4, AncestryEnd.GENESIS),
        (5, 4, AncestryEnd.GENESIS),
    ],
)
def test_a_walk_stops_at_its_limit(store: Store, limit: int, count: int, end: AncestryEnd) -> None:
    receipts = store.append_batch(new_events(0, 1, 2, 3))
    found = store.walk_ancestors(receipts[-1].event_id, limit=limit)
    assert (len(found.events), found.end) == (count, end)


def test_a_walk_has_a_limit_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batpak.reading.MAX_ANCESTORS", 7)
    receipts = store.append_batch(new_events(*range(10)))
    found = store.walk_ancestors(receipts[-1].event_id)
    assert (len(found.events), found.end) == (7, AncestryEnd.LIMIT)


def test_equal_payloads_are_told_apart(journal: Journal) -> None:
    store = journal.store
    receipts = [store.append(ORDER, PLACED, "the same") for _ in range(5)]
    found = journal.reopen().walk_ancestors(receipts[-1].event_id)
    assert [event.event_id for event in found.events] == [receipt.event_id for receipt in receipts[::-1]]
    assert found.end is AncestryEnd.GENESIS


# Causes and effects ----------------------------------------------------------------------------------------------


@pytest.fixture
def graph(journal: Journal) -> Store:
    """Events named by their payload: a causes b and c, b causes d, d causes e; x stands alone."""
    store = journal.store
    a = store.append(ORDER, PLACED, "a")
    store.append(OTHER, PLACED, "x")
    b = store.append_reaction(OTHER, PAID, "b", cause=a)
    store.append_reaction(ORDER, PAID, "c", cause=a)
    d = store.append_reaction(ORDER, SHIPPED, "d", cause=b)
    store.append_reaction(OTHER, SHIPPED, "e", cause=d)
    return store


@pytest.mark.parametrize(
    ("of", "depth", "limit", "effects", "causes"),
    [
        ("a", 1, 1000, "bc", ""),
        ("a", 2, 1000, "bcd", ""),
        ("a", 9, 1000, "bcde", ""),
        ("a", 0, 1000, "", ""),
        ("a", 9, 2, "bc", ""),
        ("a", 9, 0, "", ""),
        ("b", 1, 1000, "d", "a"),
        ("e", 1, 1000, "", "d"),
        ("e", 2, 1000, "", "db"),
        ("e", 9, 1000, "", "dba"),
        ("e", 9, 2, "", "db"),
        ("x", 9, 1000, "", ""),
    ],
)
def test_the_causation_graph_is_walked_breadth_first(
    graph: Store, of: str, depth: int, limit: int, effects: str, causes: str
) -> None:
    event_id = next(event.event_id for event in graph.read() if event.payload == of)
    assert [event.payload for event in graph.effects(event_id, depth=depth, limit=limit)] == list(effects)
    assert [event.payload for event in graph.causes(event_id, depth=depth, limit=limit)] == list(causes)


def test_the_graph_reaches_across_batches_and_parts_of_the_index(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    root = journal.store.append(ORDER, PLACED, 0)
    for number in range(1, 6):
        items = [
            NewEvent(ORDER, PLACED, number, causation_id=root.event_id),
            NewEvent(OTHER, PAID, -number, caused_by=0),
        ]
        journal.store.append_batch(items)
        journal.reopen()
    store = journal.store
    assert [event.payload for event in store.effects(root.event_id)] == [1, 2, 3, 4, 5]
    assert [event.payload for event in store.effects(root.event_id, depth=2)] == [1, 2, 3, 4, 5, -1, -2, -3, -4, -5]
    last = store.stream("other")[-1]
    assert [event.payload for event in store.causes(last.event_id, depth=5)] == [5, 0]


def test_a_cause_that_is_not_here_is_left_out_and_a_circle_ends(store: Store) -> None:
    one, two, nowhere = UUID(int=1), UUID(int=2), UUID(int=3)
    store.append(ORDER, PLACED, 1, idempotency_key=one, causation_id=two)
    store.append(ORDER, PLACED, 2, idempotency_key=two, causation_id=one)
    lost = store.append(ORDER, PLACED, 3, causation_id=nowhere)
    own = UUID(int=4)
    store.append(ORDER, PLACED, 4, idempotency_key=own, causation_id=own)
    assert [event.payload for event in store.causes(one, depth=99)] == [2]
    assert [event.payload for event in store.effects(one, depth=99)] == [2]
    assert store.causes(lost.event_id) == []
    assert store.causes(own, depth=9) == store.effects(own, depth=9) == []


# The check -------------------------------------------------------------------------------------------------------


def test_a_sound_journal_is_intact_in_every_region(journal: Journal) -> None:
    store = journal.store
    for number in range(30):
        store.append(
            Coordinate(f"e:{number % 3}", "ab"[number % 2]), (PLACED, PAID, SHIPPED)[number % 3 - number % 2], number
        )
    for opened in journal.lives():
        regions = [
            (Region(), 30),
            (Region(entity="e:1"), 10),
            (Region(scope="a"), 15),
            (Region(kind=PAID), len(opened.by_fact(PAID))),
            (Region(sequences=(3, 5)), 9),
            (Region(scope="b", sequences=(9, 9)), len(opened.query(Region(scope="b", sequences=(9, 9))))),
            (Region(entity="nobody"), 0),
        ]
        for region, count in regions:
            report = opened.verify_chain(region)
            assert report.events_checked == count
            assert report.intact, (region, report)


def test_progress_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batpak.verify.BLOCK", 10)
    store.append_batch(new_events(*range(25)))
    told: list[tuple[int, int]] = []
    store.verify_chain(progress=lambda done, total: told.append((done, total)))
    assert told == [(10, 25), (20, 25), (25, 25)]
    assert store.verify_chain(Region(entity="nobody"), progress=lambda *_: told.clear()).intact


def _rewrite(files: MemoryFiles, at: int, change: Callable[[bytes], bytes]) -> None:
    """Change the payload of the event numbered *at* and give its frame a right checksum, as a forger would."""
    meta = read_meta(files, 1)
    file = files.open_write(meta.name)
    found = list(Walk(file, meta, meta.frames_start, file.size()))[at]
    frame = replace(found.frame, payload=change(found.frame.payload))
    if meta.version == 1:
        frame = replace(frame, event_hash=found.frame.event_hash)
    data = frame_bytes(meta, meta.encode(frame))
    assert len(data) == found.end - found.offset
    file.pwrite(data, found.offset)
    file.close()


def test_a_forged_payload_is_found_where_the_hashes_tell(journal: Journal) -> None:
    receipts = [journal.store.append(ORDER, PLACED, f"payload {number}") for number in range(5)]
    journal.store.close()
    _rewrite(journal.disk.beside(), 2, lambda raw: raw.replace(b"2", b"7"))
    store = Store(journal.disk.beside(), journal.config)
    try:
        report = store.verify_chain()
        assert not report.intact
        assert report.events_checked == 5
        if journal.config.segment_format == 1:
            assert report.content_mismatches == (receipts[2].event_id,)
        else:  # the hash covers the whole frame, so it is the next link that does not fit
            assert report.dangling_links == (receipts[3].event_id,)
        assert report.sequence_gaps == ()
        found = store.walk_ancestors(receipts[4].event_id)
        expected = AncestryEnd.GENESIS if journal.config.segment_format == 1 else AncestryEnd.MISSING_PARENT
        assert found.end is expected
    finally:
        close_anyhow(store)


@pytest.mark.parametrize("wanted", ["recovery", "checksums", "chain"])
def test_open_checks_as_much_as_it_is_told_to(
    journal: Journal, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    for number in range(5):
        journal.store.append(ORDER, PLACED, f"payload {number}")
    journal.store.close()
    config = replace(journal.config, verify_on_open=wanted)
    forged, damaged = journal.disk.copy(), journal.disk.copy()
    _rewrite(forged, 2, lambda raw: raw.replace(b"2", b"7"))
    meta = read_meta(damaged, 1)
    file = damaged.open_write(meta.name)
    found = list(Walk(file, meta, meta.frames_start, file.size()))[2]
    file.pwrite(b"\xff", found.end - 2)
    for files, refused in ((journal.disk.copy(), ()), (forged, ("chain",)), (damaged, ("checksums", "chain"))):
        store = Store(files, config)
        try:
            if wanted in refused:
                with pytest.raises(CorruptStoreError):
                    store._verify_as_configured()
            else:
                store._verify_as_configured()
        finally:
            close_anyhow(store)


def test_verify_on_open_refuses_and_leaves_the_directory_free(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store:
        store.append_batch(new_events(*range(3)))
        record = list(store._view().select(Region(), None, None))[1]
    segment = tmp_path / "journal" / "000001.fbat"
    data = bytearray(segment.read_bytes())
    data[record.offset + record.length - 1] ^= 1
    segment.write_bytes(data)
    for _ in range(2):  # the second time it is not locked either
        with pytest.raises(CorruptStoreError) as caught:
            Store.open(tmp_path / "journal", config=StoreConfig(verify_on_open="checksums"))
        assert (caught.value.file, caught.value.offset) == ("000001.fbat", record.offset)
