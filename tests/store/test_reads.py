"""Reads: order, pages, what a call sees, and that tail, runs and rebuilt runs give the same answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from random import Random
from uuid import UUID, uuid4

import pytest

from batpak import (
    NO_STREAM,
    Coordinate,
    CorruptStoreError,
    EventKind,
    EventNotFoundError,
    NewEvent,
    Place,
    ReadOnlyStore,
    Region,
    StalePlaceError,
    Store,
    StoreConfig,
)
from batpak.storage.run import Run
from batpak.storage.run_format import HEADER, HEADER_BYTES
from batpak.storage.tail import Tail
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from tests.store.journals import (
    EVERYTHING,
    ORDER,
    PAID,
    PLACED,
    SHIPPED,
    Journal,
    Loose,
    all_facts,
    close_anyhow,
    hand_clock,
    new_events,
    payloads,
    until,
)

ENTITIES = ["order", "order:1", "order:2", "order:2:line", "orders", "user:1", "ü:1"]
SCOPES = ["shop", "web"]
KINDS = [PLACED, PAID, SHIPPED]
CORRELATIONS = [UUID(int=1), UUID(int=2), None]


def fill(store: Store, count: int, seed: int = 1) -> None:
    """Append *count* events that differ in everything, singly and in batches."""
    random = Random(seed)
    clock = hand_clock(store)
    written = 0
    ids: list[UUID] = []
    while written < count:
        size = min(random.choice([1, 1, 1, 2, 5]), count - written)
        items = [
            NewEvent(
                Coordinate(random.choice(ENTITIES), random.choice(SCOPES)),
                random.choice(KINDS),
                number,
                correlation_id=random.choice(CORRELATIONS),
                causation_id=random.choice(ids) if ids and random.random() < 0.3 else None,
            )
            for number in range(written, written + size)
        ]
        if size == 1 and random.random() < 0.4:
            items = [replace(items[0], idempotency_key=UUID(int=random.getrandbits(128)))]
        receipts = store.append_batch(items)
        ids += [receipt.event_id for receipt in receipts]
        written += size
        clock.advance(random.choice([0, 0, 0.001, 0.0025]))


@pytest.fixture
def filled(journal: Journal) -> Store:
    fill(journal.store, 60)
    return journal.store


# Point reads -----------------------------------------------------------------------------------------------------


def test_get_many_keeps_the_order_that_was_asked_for(filled: Store) -> None:
    ids = [entry.event_id for entry in filled.query(EVERYTHING)]
    Random(3).shuffle(ids)
    ids += ids[:5]
    assert [event.event_id for event in filled.get_many(ids)] == ids
    assert filled.get_many([]) == []
    assert filled.get_many(iter(ids[:2])) == filled.get_many(tuple(ids[:2]))  # type: ignore[arg-type]


def test_an_unknown_id_is_named(filled: Store) -> None:
    known, unknown = filled.query(EVERYTHING)[0].event_id, uuid4()
    for read in (
        lambda: filled.get(unknown),
        lambda: filled.get_many([known, unknown, uuid4()]),
        lambda: filled.walk_ancestors(unknown),
        lambda: filled.causes(unknown),
        lambda: filled.effects(unknown),
    ):
        with pytest.raises(EventNotFoundError) as caught:
            read()
        assert caught.value.event_id == unknown
        assert isinstance(caught.value, LookupError)


def test_latest_is_the_newest_of_exactly_the_entity(filled: Store) -> None:
    for entity in ENTITIES:
        assert filled.latest(entity) == [e for e in filled.query(EVERYTHING) if e.coordinate.entity == entity][-1]
    assert filled.latest("nobody") is None


def test_an_event_read_again_is_equal_and_hashes_alike(filled: Store) -> None:
    one, two = filled.read(limit=2)
    again = filled.get(one.event_id)
    assert one == again
    assert one != two
    assert len({one, again, two}) == 2
    assert str(one.event_id) in repr(one)
    assert one.payload is one.payload


# Many ------------------------------------------------------------------------------------------------------------


def test_reads_are_in_global_order_and_agree_with_each_other(filled: Store) -> None:
    events = list(filled.read())
    assert [event.global_sequence for event in events] == list(range(60))
    assert [event.payload for event in events] == list(range(60))
    assert [event.entry for event in events] == filled.query(Region())
    assert list(filled.read(reverse=True)) == events[::-1]
    assert filled.query(Region(), reverse=True) == filled.query(Region())[::-1]


def test_a_stream_is_the_entity_alone_in_its_own_order(filled: Store) -> None:
    for entity in ENTITIES:
        expected = [entry for entry in filled.query(EVERYTHING) if entry.coordinate.entity == entity]
        assert [entry.sequence for entry in expected] == list(range(len(expected)))
        assert filled.stream(entity) == expected
        assert [event.entry for event in filled.read_stream(entity)] == expected
        assert filled.stream(entity, reverse=True) == expected[::-1]
        for after in (NO_STREAM, 0, 2, len(expected) - 1, len(expected), 10**6):
            later = [entry for entry in expected if entry.sequence > after]
            before = [entry for entry in expected if entry.sequence < after]
            for limit in (0, 1, 3, None):
                assert filled.stream(entity, after_sequence=after, limit=limit) == later[:limit]
                found = [event.entry for event in filled.read_stream(entity, after_sequence=after, limit=limit)]
                assert found == later[:limit]
                backwards = filled.stream(entity, after_sequence=after, limit=limit, reverse=True)
                assert backwards == before[::-1][:limit]
    assert filled.stream("nobody") == []
    assert filled.stream("order:3") == []


def test_by_scope_and_by_fact_are_queries_of_one_part(filled: Store) -> None:
    for scope in (*SCOPES, "nowhere"):
        assert filled.by_scope(scope) == [e for e in filled.query(EVERYTHING) if e.coordinate.scope == scope]
    for kind in (*KINDS, EventKind.DATA):
        assert filled.by_fact(kind) == [e for e in filled.query(EVERYTHING) if e.kind == kind]


def test_what_is_appended_during_a_read_is_not_in_it(journal: Journal) -> None:
    store = journal.store
    store.append_batch(new_events(*range(50)))
    reading, backwards = store.read(), store.read(reverse=True)
    seen = [next(reading).payload, next(backwards).payload]
    store.append_batch(new_events(*range(50, 80)))
    seen += [event.payload for event in reading]
    assert seen == [0, 49, *range(1, 50)]
    assert [event.payload for event in backwards] == list(range(48, -1, -1))


def test_p34_pages_are_strictly_after_ascending_and_complete(journal: Journal) -> None:
    store = journal.store
    fill(store, 60)
    for region in (Region(), Region(entity="order"), Region(scope="web"), Region(kind=PAID, entity="order:2")):
        everything = store.query(region)
        for size in (1, 2, 7, 64, 1000):
            pages, after = [], None
            while page := store.query(region, after=after, limit=size):
                assert len(page) <= size
                assert after is None or page[0].global_sequence > after
                after = page[-1].global_sequence
                pages += page
            assert pages == everything
            pages, after = [], None
            while page := store.query(region, after=after, limit=size, reverse=True):
                after = page[-1].global_sequence
                pages += page
            assert pages == everything[::-1]
        assert store.query(region, limit=0) == []
        assert list(store.read(region, limit=0)) == []
        assert store.query(region, after=-1) == everything
        assert store.query(region, after=10**30) == []
        assert store.query(region, after=-(10**30)) == everything
        assert store.query(region, after=0, reverse=True) == []
        assert [event.entry for event in store.read(region, after=20, limit=5)] == store.query(
            region, after=20, limit=5
        )
    assert [a.global_sequence < b.global_sequence for a, b in pairwise(store.query(EVERYTHING))] == [True] * 59


def test_paging_goes_on_with_what_was_appended_meanwhile(store: Store) -> None:
    seen: list[object] = []
    after: int | None = None
    for round_ in range(10):
        store.append_batch(new_events(*range(round_ * 3, round_ * 3 + 3)))
        page = list(store.read(after=after, limit=2))
        seen += [event.payload for event in page]
        after = page[-1].global_sequence
    assert seen + payloads(store, after=after) == list(range(30))


# Places ----------------------------------------------------------------------------------------------------------


def test_a_place_is_accepted_where_a_global_sequence_is(filled: Store) -> None:
    event = list(filled.read())[20]
    place = Place.parse(str(event.place))
    for reverse in (False, True):
        assert filled.query(Region(), after=place, reverse=reverse) == filled.query(Region(), after=20, reverse=reverse)
        assert list(filled.read(after=place, reverse=reverse)) == list(filled.read(after=20, reverse=reverse))


def test_a_place_that_is_another_events_is_stale(filled: Store) -> None:
    there = filled.get(filled.query(Region())[7].event_id).place
    other = Place(7, bytes(32))
    beyond = Place(60, bytes(32))
    for given, found in ((other, there), (beyond, None)):
        for read in (lambda at: filled.query(Region(), after=at), lambda at: filled.read(after=at)):
            with pytest.raises(StalePlaceError) as caught:
                read(given)
            assert (caught.value.given, caught.value.found) == (given, found)


def test_a_place_that_a_power_cut_took_is_stale_once_another_event_stands_there(journal: Journal) -> None:
    journal.store.append(ORDER, PLACED, 1, durable=True)
    lost = journal.store.append(ORDER, PLACED, 2).place
    store = journal.cut_power()
    with pytest.raises(StalePlaceError):
        store.query(Region(), after=lost)
    found = store.append(ORDER, PLACED, 3).place
    with pytest.raises(StalePlaceError) as caught:
        store.query(Region(), after=lost)
    assert caught.value.found == found


def test_place_at_is_the_newest_event_at_or_before_a_moment() -> None:
    start = 1_700_000_000_123_000
    with Journal(StoreConfig(clock=HandClock(start))) as journal:
        store, clock = journal.store, hand_clock(journal)
        receipts = []
        for _ in range(40):
            receipts.append(store.append(ORDER, PLACED, 1))
            receipts.append(store.append(ORDER, PLACED, 2))
            clock.advance(0.007)
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        assert store.place_at(epoch + timedelta(microseconds=start - 1)) is None
        assert store.place_at(datetime(1, 1, 1, tzinfo=UTC)) is None
        assert store.place_at(datetime(9999, 1, 1, tzinfo=UTC)) == receipts[-1].place
        for number in range(40):
            moment = epoch + timedelta(microseconds=start + 7000 * number)
            expected = receipts[2 * number + 1].place
            assert store.place_at(moment) == expected
            assert store.place_at(moment.astimezone(timezone(timedelta(hours=5)))) == expected
            assert store.place_at(moment + timedelta(microseconds=6_999)) == expected
        assert store.query(Region(), after=store.place_at(datetime(9999, 1, 1, tzinfo=UTC)), limit=5) == []


# The parts of the index ------------------------------------------------------------------------------------------


REGIONS = [
    Region(),
    *[Region(entity=entity) for entity in ("order", "order:2", "ord", "user", "ü")],
    *[Region(scope=scope) for scope in SCOPES],
    *[Region(kind=kind) for kind in KINDS],
    *[Region(category=category) for category in (0, 1, 2)],
    *[Region(correlation_id=UUID(int=number)) for number in (1, 2, 3)],
    *[Region(sequences=sequences) for sequences in ((0, 0), (1, 3), (7, 10**6))],
    Region(entity="order", scope="web", kind=PLACED, category=1, sequences=(0, 4), correlation_id=UUID(int=1)),
    Region(entity="order:2", scope="shop"),
    Region(kind=PAID, category=2),
    Region(scope="web", correlation_id=UUID(int=2)),
]


def answers(store: Store | ReadOnlyStore) -> list[Loose]:
    """Return what every kind of read answers."""
    everything = store.query(EVERYTHING)
    found: list[Loose] = [all_facts(store)]
    for region in REGIONS:
        expected = [entry for entry in everything if region.matches(entry)]
        assert store.query(region) == expected  # parts intersect
        assert store.query(region, reverse=True) == expected[::-1]
        for after in (0, 13, 14, 30, 59):
            assert store.query(region, after=after, limit=4) == [e for e in expected if e.global_sequence > after][:4]
            before = [entry for entry in expected if entry.global_sequence < after]
            assert store.query(region, after=after, limit=4, reverse=True) == before[::-1][:4]
        found.append(expected)
    for entity in ENTITIES:
        found += [store.stream(entity), store.latest(entity)]
    for entry in everything:
        found += [store.causes(entry.event_id, depth=9), store.effects(entry.event_id, depth=9)]
        found += [store.walk_ancestors(entry.event_id), store.get(entry.event_id)]
    for ms in range(everything[0].wall_ms - 1, everything[-1].wall_ms + 2):
        found.append(store.place_at(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)))
    return found


def parts(store: Store) -> list[type]:
    return [type(part) for part in store._view().parts]


def test_p33_tail_runs_merged_runs_and_rebuilt_runs_give_the_same_answers(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(replace(config, segment_bytes=4096)) as journal:
        fill(journal.store, 60)
        assert parts(journal.store) == [Tail]
        expected = answers(journal.store)

        monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
        store = journal.reopen()
        assert parts(store) == [Run, Tail]
        assert answers(store) == expected

        for name in journal.disk.list("index"):
            journal.disk.remove(f"index/{name}")
        monkeypatch.setattr("batpak.storage.opening.SPILL_EVENTS", 10)
        store = journal.kill()
        assert store._system.report.path in {"rebuild", "runs"}
        assert answers(store) == expected
        monkeypatch.undo()
        assert answers(journal.kill()) == expected


def test_p33_runs_written_and_merged_beside_the_writer_give_the_same_answers(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batpak.actors.index.RUN_EVENTS", 5)
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    with Journal(config) as journal:
        store = journal.store
        fill(store, 60)
        until(lambda: Tail not in parts(store)[:-1], "tails written out as runs")
        assert parts(store).count(Run) >= 1
        beside = answers(store)
        assert [event.payload for event in store.read()] == list(range(60))
        for opened in journal.lives():
            assert answers(opened) == beside
        with ReadOnlyStore(journal.disk.beside(), config) as reader:
            assert answers(reader) == beside


def damage(files: MemoryFiles, name: str) -> None:
    """Flip bits all over the body of a run; its header and its meta stay whole, so that it is still adopted."""
    file = files.open_write(f"index/{name}")
    body = HEADER.unpack_from(file.pread(HEADER_BYTES, 0))[4]
    for offset in range(HEADER_BYTES, HEADER_BYTES + body, 97):
        file.pwrite(bytes([file.pread(1, offset)[0] ^ 0x10]), offset)
    file.close()


def content(files: MemoryFiles, name: str) -> bytes:
    """Return what a run's file holds; nothing where it has been removed."""
    try:
        return files.read_bytes(f"index/{name}", 1 << 20)
    except FileNotFoundError:
        return b""


READS: list[Callable[[Store], object]] = [
    lambda store: store.query(Region(entity="order")),
    payloads,
    lambda store: payloads(store, reverse=True, limit=30),
    lambda store: store.stream("order:2"),
    lambda store: [event.payload for event in store.read_stream("order:2", reverse=True)],
    lambda store: store.latest("order"),
    lambda store: store.get(store.query(EVERYTHING)[3].event_id).payload,
    lambda store: store.verify_chain(),
    lambda store: store.verify_chain(Region(kind=PAID)),
    lambda store: store.place_at(datetime(9999, 1, 1, tzinfo=UTC)),
    lambda store: store.append(ORDER, PLACED, "x", idempotency_key=UUID(int=5)).sequence,
]


@pytest.mark.parametrize("read", READS)
def test_p33_a_damaged_run_is_rebuilt_before_the_call_answers(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch, read: Callable[[Store], object]
) -> None:
    monkeypatch.setattr("batpak.actors.index.RUN_EVENTS", 40)
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    with Journal(config) as journal:
        fill(journal.store, 50)
        journal.reopen()
        runs = journal.disk.list("index")
        expected = read(journal.store)
        damaged = journal.disk.copy()
        for name in runs:
            damage(damaged, name)
        before = [content(damaged, name) for name in runs]
        store = Store(damaged, config)
        try:
            assert read(store) == expected
            assert [facts[2] for facts in all_facts(store)] == [facts[2] for facts in all_facts(journal.store)]
            assert store.verify_chain().intact
            assert [content(damaged, name) for name in runs] != before
        finally:
            close_anyhow(store)


def test_a_read_that_meets_damage_half_way_goes_on_where_it_was(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    monkeypatch.setattr("batpak.reading.FIRST_BLOCK", 3)
    monkeypatch.setattr("batpak.reading.READ_AHEAD", 3)
    with Journal(config) as journal:
        for round_ in range(3):
            journal.store.append_batch(new_events(*range(round_ * 20, round_ * 20 + 20)))
            journal.reopen()
        store = journal.store
        names = sorted(journal.disk.list("index"))
        assert len(names) == 3
        for reverse, name in ((False, names[2]), (True, names[0])):
            expected = payloads(store, reverse=reverse, limit=55)
            damage(journal.disk, name)
            damaged = content(journal.disk, name)
            store = journal.kill()
            reading = store.read(reverse=reverse, limit=55)
            seen = [next(reading).payload for _ in range(4)]
            store.append_batch(new_events("later", "too"))  # is in no answer, and takes no place of the page
            seen += [event.payload for event in reading]
            assert seen == expected
            assert content(journal.disk, name) != damaged
            store = journal.reopen()


def test_a_damaged_frame_is_named_and_others_can_be_read(journal: Journal) -> None:
    store = journal.store
    receipts = store.append_batch(new_events(*range(5)), durable=True)
    record = list(store._view().select(EVERYTHING, None, None))[2]
    file = journal.disk.open_write("000001.fbat")
    body = bytearray(file.pread(1, record.offset + record.length - 3))
    file.pwrite(bytes([body[0] ^ 1]), record.offset + record.length - 3)
    for read in (
        lambda: store.get(receipts[2].event_id),
        lambda: list(store.read()),
        store.verify_chain,
    ):
        with pytest.raises(CorruptStoreError) as caught:
            read()
        assert (caught.value.file, caught.value.offset) == ("000001.fbat", record.offset)
    assert store.get(receipts[3].event_id).payload == 3
    assert [entry.global_sequence for entry in store.query(EVERYTHING)] == list(range(5))
    assert store.append(ORDER, PLACED, "next").global_sequence == 5
