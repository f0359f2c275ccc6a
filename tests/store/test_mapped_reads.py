"""Reads of what is mapped: the same answers as the reader's, without its turn, and nothing that is not checked."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import get_ident

import pytest

from batpak import (
    Coordinate,
    CorruptStoreError,
    NewEvent,
    ReentrantCallError,
    Region,
    Store,
    StoreClosedError,
    StoreConfig,
    StoredEvent,
)
from batpak.log import DEBUG
from batpak.storage import pool
from batpak.storage.mapped import SegmentMaps
from tests.store.journals import EVERYTHING, ORDER, PAID, PLACED, facts, payloads
from tests.store.processes import run_python

COUNT = 700


def fill(store: Store, count: int = COUNT) -> None:
    """Append events of a few entities, some with everything that an event can have."""
    for first in range(0, count, 50):
        items = [
            NewEvent(Coordinate(f"order:{number % 7}", "shop"), PLACED, {"number": number})
            for number in range(first, first + 49)
        ]
        cause = store.append_batch(items)[-1]
        store.append_reaction(ORDER, PAID, ["last", first], cause=cause)


def maps_of(store: Store) -> SegmentMaps:
    return store._maps


def loads(store: Store) -> int:
    """Return how many commands the reader has had."""
    return next(actor.handled for actor in store.diagnostics().actors if actor.name == "reader")


@pytest.fixture(params=["runs", "tail"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store with events in several segments; they are in a run of the index, or in its tail."""
    config = StoreConfig(segment_bytes=16_384)
    with Store.open(tmp_path, config=config) as store:
        fill(store)
        if request.param == "tail":
            yield store
    if request.param == "runs":
        with Store.open(tmp_path, config=config) as store:
            assert len(store._system.index.view.parts) > 1
            yield store


def test_what_is_mapped_is_read_without_a_turn(filled: Store) -> None:
    ids = [entry.event_id for entry in filled.query(EVERYTHING)]
    assert len(payloads(filled)) == COUNT
    before = loads(filled)
    assert len(maps_of(filled).by_segment) == len(filled._catalog.metas()) > 2
    assert [filled.get(event_id).event_id for event_id in ids] == ids
    assert len(payloads(filled)) == COUNT
    assert len(list(filled.read_stream("order:3"))) == 98
    assert loads(filled) == before


def test_events_are_the_same_mapped_or_not(filled: Store) -> None:
    records = list(filled._view().select(EVERYTHING, None, None))
    asked = filled.load_records(records)
    list(filled.read())
    for reverse in (False, True):
        mapped = list(filled.read(EVERYTHING, reverse=reverse))
        assert [facts(event) for event in mapped] == [facts(event) for event in asked][:: -1 if reverse else 1]
    for event in asked:
        found = filled.get(event.event_id)
        assert found == event
        assert facts(found) == facts(event)
        assert (found.payload, found.extensions, hash(found)) == (event.payload, event.extensions, hash(event))
        assert pickle.loads(pickle.dumps(found)) == event


@pytest.mark.parametrize("reverse", [False, True])
def test_the_rows_of_an_entity_come_in_its_order(filled: Store, reverse: bool) -> None:
    wanted = [entry.sequence for entry in filled.stream("order:3", reverse=reverse)]
    for _ in range(2):
        assert [event.sequence for event in filled.read_stream("order:3", reverse=reverse)] == wanted
    assert list(filled.read_stream("order:none")) == []
    assert [event.sequence for event in filled.read_stream("order:3", limit=5, reverse=reverse)] == wanted[:5]


def test_what_is_appended_behind_the_end_of_a_map_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MIN_GROWTH", 1)
    with Store.open(tmp_path) as store:
        monkeypatch.setattr(type(store._system.writer.journal), "_reserve", lambda *_: False)
        sizes = set()
        for number in range(20):
            receipt = store.append(ORDER, PLACED, [number, "x" * 100_000])
            assert store.get(receipt.event_id).payload[0] == number  # type: ignore[index]
            assert store.get(receipt.event_id).payload[0] == number  # type: ignore[index]
            sizes |= {mapped.size for mapped in maps_of(store).by_segment.values()}
        assert len(sizes) > 10


def damage_first_frame(directory: Path) -> None:
    """Flip a bit in the last byte of the first event's payload, in place."""
    segment = directory / "000001.fbat"
    with segment.open("r+b") as file:
        data = file.read()
        at = data.index(b"\xa6number\x00") + 7
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))


READS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get(store.query(EVERYTHING, limit=1)[0].event_id),
    "read": lambda store: list(store.read()),
    "read_stream": lambda store: list(store.read_stream("order:0")),
    "a page": lambda store: list(store.read(limit=1)),
    "get_many": lambda store: store.get_many([store.query(EVERYTHING, limit=1)[0].event_id]),
}


@pytest.mark.parametrize("read", READS)
def test_a_bit_that_changes_under_a_map_is_corruption_that_names_its_place(
    filled: Store, tmp_path: Path, read: str
) -> None:
    READS[read](filled)
    damage_first_frame(tmp_path)
    record = next(filled._view().select(EVERYTHING, None, 1))
    with pytest.raises(CorruptStoreError) as caught:
        READS[read](filled)
    assert (caught.value.file, caught.value.offset) == ("000001.fbat", record.offset)


@pytest.mark.parametrize("read", ["get", "read"])
def test_the_frame_of_another_event_is_never_handed_out(filled: Store, tmp_path: Path, read: str) -> None:
    list(filled.read())
    view = filled._view()
    one, two = list(view.select(EVERYTHING, None, 30))[10:12]
    segment = tmp_path / "000001.fbat"
    data = bytearray(segment.read_bytes())
    assert one.length == two.length
    data[two.offset : two.offset + two.length] = data[one.offset : one.offset + one.length]
    with segment.open("r+b") as file:
        file.write(data)
    with pytest.raises(CorruptStoreError, match="another event") as caught:
        list(filled.read()) if read == "read" else filled.get(filled.query(EVERYTHING)[11].event_id)
    assert caught.value.offset == two.offset


def test_a_closed_store_shows_nothing_and_keeps_nothing_mapped(filled: Store) -> None:
    events = filled.read()
    event_id = next(events).event_id
    maps = maps_of(filled)
    assert maps.by_segment
    filled.close()
    assert not maps.by_segment
    with pytest.raises(StoreClosedError):
        filled.get(event_id)
    with pytest.raises(StoreClosedError):
        list(events)


def test_at_most_so_many_segments_are_mapped_and_those_in_use_stay(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MAX_OPEN", 2)
    shown = maps_of(filled).by_segment
    entries = filled.query(EVERYTHING)
    for _ in range(3):
        for entry in entries[::40]:
            assert filled.get(entry.event_id).global_sequence == entry.global_sequence
            assert filled.get(entries[0].event_id).global_sequence == 0
            assert len(shown) <= 2
    assert 1 in shown


def test_a_reader_beside_a_writer_maps_what_is_sealed_alone(filled: Store, tmp_path: Path) -> None:
    with Store.open_read_only(tmp_path) as beside:
        assert payloads(beside) == payloads(filled)
        sealed = {meta.segment for meta in beside._catalog.metas() if meta.footer is not None}
        assert set(beside._maps.by_segment) == sealed
        assert [beside.get(entry.event_id).entry for entry in beside.query(EVERYTHING)] == filled.query(EVERYTHING)


def test_a_signal_handler_within_a_turn_reads_what_is_mapped(filled: Store) -> None:
    event = next(filled.read())
    found: list[StoredEvent] = []
    filled._writer.within_turn(lambda: found.append(filled.get(event.event_id)))
    assert found == [event]


def test_ids_are_found_whatever_their_order(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        keyed = [store.append(ORDER, PLACED, number, idempotency_key=f"key {number}") for number in range(50)]
        fill(store)
    with Store.open(tmp_path) as store:
        more = [store.append(ORDER, PLACED, number) for number in range(10)]
        for _ in range(2):
            for receipt in (*keyed, *more):
                assert store.get(receipt.event_id).global_sequence == receipt.global_sequence
        assert len(list(store.read(Region(entity="order:42")))) == len(keyed) + len(more) + COUNT // 50


def test_at_level_debug_each_read_is_a_command(filled: Store) -> None:
    event = next(filled.read())
    assert filled.get(event.event_id) == event
    before = loads(filled)
    filled._log.level, filled._log._asked = DEBUG, 0  # as if structlog were configured so, for the next 63 commands
    filled.get(event.event_id)
    assert next(filled.read()) == event
    assert loads(filled) == before + 2


def test_a_log_processor_reads_no_payload_mapped_or_not(filled: Store) -> None:
    event = next(filled.read())
    filled._log.emitting.add(get_ident())
    try:
        with pytest.raises(ReentrantCallError):
            filled.get(event.event_id)
        with pytest.raises(ReentrantCallError):
            next(filled.read())
    finally:
        filled._log.emitting.clear()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which files are open")
def test_a_forked_child_keeps_no_descriptor_of_what_its_parent_has_mapped(tmp_path: Path) -> None:
    program = """
    import os, sys
    from batpak import *
    store = Store.open(sys.argv[1])
    event_id = store.append(Coordinate("e", "s"), EventKind(1, 1), 1).event_id
    reader = Store.open_read_only(sys.argv[1])
    events = [store.get(event_id), store.get(event_id), reader.get(event_id)]
    assert store._maps.by_segment
    child = os.fork()
    if child == 0:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        opened = [os.readlink(link) for link in links if os.path.lexists(link)]
        print([name for name in opened if name.endswith(".fbat")], flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    assert store.get(event_id) == events[0]
    reader.close()
    store.close()
    """
    assert run_python(program, tmp_path).stdout.splitlines() == ["[]"]
