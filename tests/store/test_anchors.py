"""Anchors: what they are the root of, what they cost, and what a check against one says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import pytest

from batpak import (
    Anchor,
    BatpakError,
    Coordinate,
    InvalidRequestError,
    Place,
    ReadOnlyStore,
    Region,
    Store,
    StoreConfig,
)
from batpak.storage import segment
from batpak.storage.files import RealFiles
from batpak.storage.tree import Stretch
from tests.directories import content, directory, load
from tests.storage.test_tree import root_of
from tests.store.journals import ORDER, PLACED, Journal, new_events

GOLDEN = Path(__file__).parents[1] / "golden" / "rust"


def hashes(store: Store | ReadOnlyStore) -> list[bytes]:
    """Return the hashes of all events in the order in which they are read, those that the original cancelled too."""
    view = store._view()
    records = [part.record(row) for part in view.parts for row in range(view.rows(part))]
    return [content.event_hash for content in store.load_contents(records)]


@pytest.fixture
def small_runs() -> Iterator[None]:
    """Freeze the tail every five events, and have a close write out a tail of two."""
    with patch("batpak.actors.index.RUN_EVENTS", 5), patch("batpak.actors.index.CLOSE_EVENTS", 2):
        yield


def test_an_anchor_is_the_root_over_the_hashes_of_all_events(journal: Journal) -> None:
    anchors: list[Anchor] = []
    for count in (1, 1, 7, 1, 64, 200):
        last = journal.store.append_batch(new_events(*range(count)))[-1]
        anchors.append(journal.store.anchor())
        assert anchors[-1] == Anchor(last.global_sequence + 1, last.place, root_of(hashes(journal.store)))
    for store in journal.lives():
        assert store.anchor() == anchors[-1]
        for anchor in anchors:
            report = store.verify_chain(anchor=anchor)
            assert (report.anchored, report.intact) == (True, True)


def test_the_anchor_of_nothing_holds_for_every_journal(store: Store) -> None:
    anchor = store.anchor()
    assert (anchor.events, anchor.place) == (0, None)
    assert store.verify_chain(anchor=anchor).anchored
    store.append(ORDER, PLACED, 1)
    assert store.verify_chain(anchor=anchor).anchored


@pytest.mark.usefixtures("small_runs")
def test_runs_merges_rotations_and_a_rebuilt_index_change_no_anchor(tmp_path: Path, config: StoreConfig) -> None:
    config = replace(config, segment_bytes=4096)
    for life in range(6):
        with Store.open(tmp_path, config=config) as store:
            for number in range(7):
                store.append(Coordinate(f"order:{number}", "shop"), PLACED, "x" * 100 * life)
            anchor = store.anchor()
            assert anchor.digest == root_of(hashes(store))
        if life % 3 == 2:
            shutil.rmtree(tmp_path / "index")
        with Store.open(tmp_path, config=config) as store:
            assert store.anchor() == anchor
            assert store.stats().segments > life // 2


def test_a_journal_with_segments_of_both_formats_has_one_tree(tmp_path: Path) -> None:
    for life, segment_format in enumerate((1, 2, None)):
        config = StoreConfig(segment_format=segment_format, segment_bytes=4096)  # type: ignore[arg-type]
        with Store.open(tmp_path, config=config) as store:
            for number in range(60):
                store.append(ORDER, PLACED, [life, number, "x" * 90])
            assert store.anchor().digest == root_of(hashes(store))
            assert store.anchor().events == 60 * (life + 1)
    assert parts_of(RealFiles.open(str(tmp_path), create=False), first_event=60) > 2
    with Store.open(tmp_path) as store:
        assert store.verify_chain(anchor=store.anchor()).intact


def parts_of(files: RealFiles, first_event: int) -> int:
    """Check that the parts in the footers follow one another from *first_event* on; how many footers there are."""
    metas = [segment.read_meta(files, number) for number in segment.list_segments(files.list())]
    footers = [meta.footer for meta in metas if meta.footer is not None]
    assert footers[0].before == first_event
    for before, after in pairwise(footers):
        assert before.before + before.frames == after.before
    files.close()
    return len(footers)


@pytest.mark.parametrize("sealed_by", ["the writer", "recovery"])
def test_the_parts_in_the_footers_make_the_tree(sealed_by: str) -> None:
    with Journal(StoreConfig(segment_bytes=4096)) as journal:
        for number in range(100):
            journal.store.append(ORDER, PLACED, [number, "x" * 150])
        all_hashes = hashes(journal.store)
        store = journal.reopen() if sealed_by == "the writer" else unsealed(journal)
        metas = store._catalog.metas()
        tree = Stretch()
        for meta in metas[:-1]:
            assert meta.footer is not None
            tree.join(Stretch(meta.footer.before, meta.footer.frames, meta.footer.part))
        assert len(metas) > 4
        assert tree.root() == root_of(all_hashes[: tree.size])


def unsealed(journal: Journal) -> Store:
    """Go on with a directory in which no segment has its footer: the index's files go too."""
    held = {name: data for name, data in content(journal.disk).items() if not name.startswith("index/")}
    for meta in journal.store._catalog.metas():
        if meta.footer is not None:
            held[meta.name] = held[meta.name][: meta.footer.end]
    journal.store.close()
    journal.disk = directory(held)
    return journal._open(journal.disk, {})


def test_an_anchor_says_no_to_another_history(journal: Journal) -> None:
    store = journal.store
    store.append_batch(new_events(*range(5)))
    anchor = store.anchor()
    others = [
        replace(anchor, digest=bytes(32)),
        replace(anchor, place=Place(4, bytes(32))),
        replace(anchor, events=4),
        replace(anchor, events=6),
        Anchor(0, None, bytes(32)),
    ]
    for other in others:
        report = store.verify_chain(anchor=other)
        assert (report.anchored, report.intact) == (False, False)
    assert store.verify_chain().anchored is None


def test_an_anchor_goes_with_the_whole_journal_alone(store: Store) -> None:
    with pytest.raises(InvalidRequestError, match="expected everything"):
        store.verify_chain(Region(entity="order"), anchor=store.anchor())
    with pytest.raises(InvalidRequestError, match="expected Anchor"):
        store.verify_chain(anchor=str(store.anchor()))  # type: ignore[arg-type]


def test_an_anchor_is_given_of_what_is_durable_alone() -> None:
    with Journal(StoreConfig(sync_every_events=10**6)) as journal:
        journal.store.append_batch(new_events(*range(9)))
        anchor = journal.store.anchor()
        assert anchor.events == 9
        journal.store.append_batch(new_events(*range(5)))
        store = journal.cut_power()
        assert store.stats().events == 9
        assert store.verify_chain(anchor=anchor).anchored


def test_no_anchor_is_given_where_the_disk_refuses() -> None:
    with Journal(StoreConfig(sync_every_events=10**6)) as journal:
        journal.store.append(ORDER, PLACED, 1)
        journal.files.fail("sync_data", 5, repeat=True)
        with pytest.raises(BatpakError):
            journal.store.anchor()


def test_a_reader_gives_the_anchor_of_what_its_writer_has_made_durable() -> None:
    with Journal(StoreConfig(sync_every_events=10**6)) as journal:
        journal.store.append_batch(new_events(*range(9)))
        anchor = journal.store.anchor()
        journal.store.append_batch(new_events(*range(5)))
        with closing(ReadOnlyStore(journal.disk.beside(), StoreConfig())) as reader:
            assert reader.stats().events == 14
            assert reader.anchor() == anchor
            later = journal.store.anchor()
            reader.refresh()
            assert reader.anchor() == later


@pytest.mark.parametrize("name", ["0.1.0/one", "0.9.0/compacted-retention", "0.10.0/rotation", "0.10.0/reopened"])
def test_stores_of_the_original_have_anchors_that_stay(name: str, tmp_path: Path) -> None:
    held = load(GOLDEN / name / "store")
    with closing(Store(directory(held), StoreConfig())) as store:
        anchor = store.anchor()
        assert anchor.digest == root_of(hashes(store))
        assert store.verify_chain(anchor=anchor).anchored
        store.append(ORDER, PLACED, "later")
        assert store.verify_chain(anchor=anchor).anchored
        assert store.anchor().events == anchor.events + 1


def test_a_segment_that_is_not_what_it_was_sealed_with_is_named() -> None:
    with Journal(StoreConfig(segment_bytes=4096)) as journal:
        for number in range(40):
            journal.store.append(ORDER, PLACED, [number, "x" * 150])
        store = journal.reopen()
        assert store.verify_chain().intact
        meta = store._catalog.metas()[1]
        assert meta.footer is not None
        store._catalog.add(replace(meta, footer=replace(meta.footer, part=(bytes(32),))))
        report = store.verify_chain()
        assert (report.altered_segments, report.intact, report.dangling_links) == ((2,), False, ())
