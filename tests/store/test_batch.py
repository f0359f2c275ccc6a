"""append_batch: all or nothing, for every reader at every instant, and across crashes at every byte."""

from __future__ import annotations

import errno
import sys
from dataclasses import replace
from types import FrameType
from typing import Any, Literal
from uuid import UUID

import pytest

from batpak import (
    NO_STREAM,
    Coordinate,
    EventFlags,
    EventKind,
    IdempotencyConflictError,
    InvalidRequestError,
    NewEvent,
    PayloadError,
    Region,
    ReservedKindError,
    SequenceConflictError,
    StorageError,
    Store,
    StoreConfig,
    TooLargeError,
    WriterFailedError,
)
from batpak.kind import BATCH_BEGIN, BATCH_COMMIT
from batpak.storage.segment import list_segments
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from tests.store.conftest import Driver
from tests.store.journals import (
    EVERYTHING,
    ORDER,
    PAID,
    PLACED,
    Journal,
    Loose,
    Task,
    all_facts,
    close_anyhow,
    new_events,
    payloads,
    receipt_facts,
)

SMALL = 4096


def frames_of(files: MemoryFiles) -> list[tuple[int, int, int]]:
    """Return (segment, offset, end) of every frame of the segments of *files*, markers included."""
    from batpak.storage.scan import Walk
    from batpak.storage.segment import read_meta

    found = []
    for segment in list_segments(files.list()):
        meta = read_meta(files, segment)
        file = files.open_read(meta.name)
        found += [(segment, each.offset, each.end) for each in Walk(file, meta, meta.frames_start, file.size())]
    return found


# What a batch is -------------------------------------------------------------------------------------------------


def test_a_batch_gets_neighbouring_places_and_one_time(journal: Journal) -> None:
    store = journal.store
    store.append(ORDER, PLACED, 0)
    other = Coordinate("other", "s")
    items = [NewEvent(ORDER, PLACED, 1), NewEvent(other, PAID, 2, flags=EventFlags.REPLAY), NewEvent(ORDER, PAID, 3)]
    receipts = store.append_batch(items)
    assert [receipt.global_sequence for receipt in receipts] == [1, 2, 3]
    assert [receipt.sequence for receipt in receipts] == [1, 0, 2]
    for opened in journal.lives():
        events = opened.get_many([receipt.event_id for receipt in receipts])
        assert [event.payload for event in events] == [1, 2, 3]
        assert [event.coordinate for event in events] == [ORDER, other, ORDER]
        assert len({event.timestamp_us for event in events}) == 1
        assert events[1].flags is EventFlags.REPLAY


def test_an_empty_batch_is_nothing(journal: Journal) -> None:
    assert journal.store.append_batch([]) == []
    assert journal.store.append_batch([], durable=True) == []
    assert list_segments(journal.disk.list()) == []


def test_a_batch_may_be_any_sequence(store: Store) -> None:
    assert len(store.append_batch(tuple(new_events(1, 2)))) == 2


def test_p05_items_of_one_entity_link_to_each_other_and_causes_are_earlier_items(journal: Journal) -> None:
    store = journal.store
    store.append(ORDER, PLACED, 0)
    items = [replace(item, caused_by=cause) for item, cause in zip(new_events(1, 2, 3), (None, 0, 0), strict=True)]
    first = store.append_batch(items)[0]
    for opened in journal.lives():
        zero, one, two, three = opened.read()
        assert one.event_id == first.event_id
        assert [two.prev_hash, three.prev_hash] == [one.event_hash, two.event_hash]
        assert one.prev_hash == zero.event_hash
        assert [event.causation_id for event in (one, two, three)] == [None, one.event_id, one.event_id]
        assert [event.event_id for event in opened.effects(one.event_id)] == [two.event_id, three.event_id]
        assert opened.verify_chain().intact
    for cause in (1, 2, 17, -1, True, "0"):
        with pytest.raises(InvalidRequestError) as caught:
            journal.store.append_batch([*new_events(1), NewEvent(ORDER, PLACED, 2, caused_by=cause)])  # type: ignore[arg-type]
        assert caught.value.item_index == 1
    with pytest.raises(InvalidRequestError):
        NewEvent(ORDER, PLACED, 1, caused_by=0, causation_id=UUID(int=1))
    assert len(payloads(journal.store)) == 4


def test_an_expectation_counts_what_stands_before_it_in_the_batch(store: Store) -> None:
    items = [
        NewEvent(ORDER, PLACED, 0, expected_sequence=NO_STREAM),
        NewEvent(ORDER, PLACED, 1, expected_sequence=0),
        NewEvent(Coordinate("other", "s"), PLACED, 2, expected_sequence=NO_STREAM),
        NewEvent(ORDER, PLACED, 3, expected_sequence=1),
    ]
    assert [receipt.sequence for receipt in store.append_batch(items)] == [0, 1, 0, 2]


def test_one_failed_expectation_refuses_the_whole_batch(driven: Journal) -> None:
    store = driven.store
    items = new_events(0, 1, 2)
    items[2] = replace(items[2], expected_sequence=0)
    with pytest.raises(SequenceConflictError) as caught:
        store.append_batch(items)
    error = caught.value
    assert (error.item_index, error.entity, error.expected, error.actual) == (2, "order:42", 0, 1)
    assert payloads(store) == []
    assert store.append(ORDER, PLACED, "next", expected_sequence=NO_STREAM).global_sequence == 0
    assert store.verify_chain().intact


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ("no item", InvalidRequestError),
        (NewEvent("order:42", PLACED, 1), InvalidRequestError),  # type: ignore[arg-type]
        (NewEvent(ORDER, 0x1001, 1), InvalidRequestError),  # type: ignore[arg-type]
        (NewEvent(ORDER, EventKind(0xD, 1), 1), ReservedKindError),
        (NewEvent(ORDER, EventKind(0x0, 6), 1), ReservedKindError),
        (NewEvent(ORDER, PLACED, object()), PayloadError),  # type: ignore[arg-type]
        (NewEvent(ORDER, PLACED, b"x" * 101), TooLargeError),
        (NewEvent(ORDER, PLACED, 1, expected_sequence=-2), InvalidRequestError),
        (NewEvent(ORDER, PLACED, 1, idempotency_key=""), InvalidRequestError),
        (NewEvent(ORDER, PLACED, 1, correlation_id="x"), InvalidRequestError),  # type: ignore[arg-type]
        (NewEvent(ORDER, PLACED, 1, causation_id=b"x"), InvalidRequestError),  # type: ignore[arg-type]
        (NewEvent(ORDER, PLACED, 1, flags=256), InvalidRequestError),  # type: ignore[arg-type]
    ],
)
def test_one_item_that_cannot_be_taken_refuses_the_batch_by_its_index(
    segment_format: Literal[1, 2], item: Loose, error: type[InvalidRequestError]
) -> None:
    with Journal(StoreConfig(segment_format=segment_format, max_payload_bytes=100)) as journal:
        with pytest.raises(error) as caught:
            journal.store.append_batch([*new_events(1, 2), item, *new_events(3)])
        assert type(caught.value) is error
        assert caught.value.item_index == 2
        assert "item 2" in str(caught.value)
        assert payloads(journal.store) == []


def test_p07_exact_limits_pass_and_one_more_is_refused(segment_format: Literal[1, 2]) -> None:
    config = StoreConfig(segment_format=segment_format, max_batch_events=10, max_batch_bytes=100, max_payload_bytes=60)
    with Journal(config) as journal:
        store = journal.store
        assert len(store.append_batch(new_events(*range(10)))) == 10
        with pytest.raises(TooLargeError) as caught:
            store.append_batch(new_events(*range(11)))
        assert (caught.value.found, caught.value.limit) == (11, 10)
        fits = [b"x" * 48, b"x" * 48]  # two bytes each say that 48 come
        assert len(store.append_batch(new_events(*fits))) == 2
        with pytest.raises(TooLargeError) as caught:
            store.append_batch(new_events(b"x" * 48, b"x" * 49))
        assert (caught.value.found, caught.value.limit) == (101, 100)
        assert store.append(ORDER, PLACED, b"x" * 58).global_sequence == 12
        with pytest.raises(TooLargeError) as caught:
            store.append(ORDER, PLACED, b"x" * 59)
        assert (caught.value.found, caught.value.limit, caught.value.item_index) == (61, 60, None)
        assert len(payloads(store)) == 13


# Whole or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", ["batch", "keyed batch", "rotating batch"])
def test_p01_a_batch_is_seen_whole_or_not_at_all_between_any_two_lines_of_its_append(
    config: StoreConfig, batch: str
) -> None:
    with Journal(replace(config, segment_bytes=SMALL)) as journal:
        store = journal.store
        for number in range(3):
            store.append(ORDER, PLACED, b"x" * 1200 if batch == "rotating batch" else number)
        items = new_events(1, 2, 3)
        if batch == "keyed batch":
            items = [replace(item, idempotency_key=str(item.payload)) for item in items]
        seen: set[int] = set()
        looks = 0

        def look(_frame: FrameType, event: str, _arg: object) -> Loose:
            nonlocal looks
            if event == "line" and not looking:
                looking.append(True)
                looks += 1
                found = store.query(EVERYTHING)
                seen.add(len(found))
                seen.add(len(store.stream("order:42")))
                seen.add(store.stats().visible_sequence + 1)
                looking.clear()
            return look

        looking: list[bool] = []
        before = sys.gettrace()
        sys.settrace(look)
        try:
            store.append_batch(items)
        finally:
            sys.settrace(before)
        assert seen == {3, 6}
        assert looks > 150


@pytest.mark.slow
def test_p01_readers_in_a_tight_loop_never_see_part_of_a_batch() -> None:
    batches, size = 10_000, 5
    with Journal(StoreConfig(segment_bytes=256 * 1024, sync_every_events=100_000)) as journal:
        store = journal.store
        done: list[bool] = []

        def look(kind: int) -> int:
            looks = last = 0
            while not done:
                if kind == 0:
                    found = len(store.query(EVERYTHING, after=last - 1 if last else None)) + last
                elif kind == 1:
                    newest = store.latest("order:42")
                    found = 0 if newest is None else newest.sequence + 1
                else:
                    found = len([event.payload for event in store.read(Region(entity="order"), after=last - 1)]) + last
                assert found % size == 0, f"found {found} events, expected whole batches of {size}"
                assert found >= last
                last = found
                looks += 1
            return looks

        readers = [Task(lambda kind=kind: look(kind)) for kind in range(3)]  # type: ignore[misc]
        try:
            for number in range(batches):
                store.append_batch(new_events(*range(number, number + size)))
                assert all(reader.is_alive() for reader in readers)
        finally:
            done.append(True)
        assert all(reader.outcome() > 20 for reader in readers)
        assert store.verify_chain().events_checked == batches * size


def _cut(files: MemoryFiles, name: str, size: int, *, zeros: bool) -> MemoryFiles:
    """Return a copy in which a segment has lost all behind *size*; with *zeros* its length stays."""
    twin = files.copy()
    file = twin.open_write(name)
    before = file.size()
    file.truncate(size)
    if zeros:
        file.truncate(before)
    file.close()
    return twin


@pytest.mark.parametrize("zeros", [False, True], ids=["cut", "zeros"])
@pytest.mark.parametrize("rotating", [False, True], ids=["one segment", "behind a rotation"])
def test_p02_p03_a_kill_at_any_byte_of_a_batch_leaves_all_of_it_or_nothing(
    config: StoreConfig, zeros: bool, rotating: bool
) -> None:
    config = replace(config, segment_bytes=SMALL)
    with Journal(config) as journal:
        store = journal.store
        store.append(ORDER, PLACED, "first")
        if rotating:
            store.append(ORDER, PLACED, b"x" * (3500 if config.segment_format == 2 else 3000))
        before = all_facts(store)
        store.append_batch(new_events("a", "b", "c"), durable=False)
        after = all_facts(store)
        frames = frames_of(journal.disk)
        segments = list_segments(journal.disk.list())
        assert len(segments) == (2 if rotating else 1)
        last = f"{segments[-1]:06}.fbat"
        batch = [frame for frame in frames if frame[0] == segments[-1]][0 if rotating else 1 :]
        assert len(batch) == 3 if config.segment_format == 2 else 5  # a batch never crosses a segment
        first, end = batch[0][1], batch[-1][2]
        edges = {
            offset
            for _, start, stop in batch
            for offset in range(start - 2, stop + 3)
            if not start + 12 < offset < stop - 3
        }
        for size in sorted({*range(first, end, 37), *edges}):
            if not first <= size <= end + 1:
                continue
            store = Store(_cut(journal.disk, last, size, zeros=zeros), config)
            try:
                found = all_facts(store)
                # What a frame ends with may be zeros itself.
                assert found == (after if size >= end else before) or (zeros and found == after and size >= end - 4)
                receipts = store.append_batch(new_events("d", "e"))
                assert [receipt.global_sequence for receipt in receipts] == [len(found), len(found) + 1]
                assert store.verify_chain().intact
            finally:
                close_anyhow(store)


def test_p03_batches_between_rotations_stay_whole(config: StoreConfig) -> None:
    with Journal(replace(config, segment_bytes=SMALL)) as journal:
        sizes = [1, 3, 7, 2, 12, 5, 1, 9]
        for number, size in enumerate(sizes * 3):
            journal.store.append_batch(new_events(*(f"{number}:{'x' * 200}" for _ in range(size))))
        expected = payloads(journal.store)
        assert len(expected) == 3 * sum(sizes)
        segments = [entry.segment for entry in _records(journal.store)]
        assert len(set(segments)) > 10
        at = 0
        for size in sizes * 3:
            assert len(set(segments[at : at + size])) == 1
            at += size
        for store in journal.lives():
            assert payloads(store) == expected
            assert store.verify_chain().intact


def _records(store: Store) -> list[Any]:
    return list(store._view().select(EVERYTHING, None, None))


def test_a_batch_larger_than_a_segment_goes_into_one(config: StoreConfig) -> None:
    with Journal(replace(config, segment_bytes=SMALL)) as journal:
        journal.store.append(ORDER, PLACED, 1)
        journal.store.append_batch(new_events(*[b"x" * 1000] * 10))
        journal.store.append(ORDER, PLACED, 2)
        assert [record.segment for record in _records(journal.store)] == [1, *[2] * 10, 3]
        assert len(payloads(journal.kill())) == 12


def test_p04_markers_of_a_batch_are_in_no_read(journal: Journal) -> None:
    journal.store.append_batch(new_events(1, 2))
    for store in journal.lives():
        markers = [EventKind.from_value(BATCH_BEGIN), EventKind.from_value(BATCH_COMMIT)]
        for kind in markers:
            assert store.by_fact(kind) == []
            assert store.query(Region(kind=kind, include_system=True)) == []
        assert store.query(Region(category=0, include_system=True)) == []
        assert payloads(store) == [1, 2]
        assert store.stats().events == 2
        assert store.verify_chain().events_checked == 2
        assert {entry.coordinate for entry in store.query(EVERYTHING)} == {ORDER}


@pytest.mark.parametrize("operation", ["create", "pwrite"])
@pytest.mark.parametrize("driver_name", ["assisted", "threaded"])
def test_p06_a_failed_creation_of_the_next_segment_leaves_the_writer_usable(
    config: StoreConfig, operation: str, driver_name: Driver
) -> None:
    config = replace(config, segment_bytes=SMALL, driver=driver_name)
    with Journal(config) as journal:
        store = journal.store
        store.append(ORDER, PLACED, b"x" * 3000)
        before = all_facts(store)
        journal.files.fail(operation, errno.ENOSPC, name="000002.fbat")
        with pytest.raises(StorageError) as caught:
            store.append_batch(new_events(b"y" * 1000, b"z" * 1000))
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.retryable
        assert all_facts(store) == before
        small = store.append(ORDER, PLACED, "small")  # fits where the segment was not full
        assert small.global_sequence == 1
        assert [record.segment for record in _records(store)] == [1, 1]
        after_small = all_facts(store)
        killed = Store(journal.disk.copy(), config)
        try:
            assert all_facts(killed) == after_small
        finally:
            killed.close()
        assert [receipt.global_sequence for receipt in store.append_batch(new_events(b"y" * 1000, b"z"))] == [2, 3]
        expected = all_facts(store)
        for opened in journal.lives():
            assert all_facts(opened) == expected
            assert opened.verify_chain().intact


@pytest.mark.parametrize("operation", ["sync", "sync_folder"])
def test_p06_a_failed_sync_of_the_next_segment_ends_the_writer_and_a_reopen_is_sound(
    config: StoreConfig, operation: str
) -> None:
    with Journal(replace(config, segment_bytes=SMALL)) as journal:
        store = journal.store
        store.append(ORDER, PLACED, b"x" * 3000)
        before = all_facts(store)
        journal.files.fail(operation, errno.EIO, name="" if operation == "sync_folder" else "000002.fbat")
        for payload in (b"y" * 2000, b"small", b"y" * 2000):
            with pytest.raises(WriterFailedError):
                store.append(ORDER, PLACED, payload)
        assert store.diagnostics().state == "failed"
        assert all_facts(store) == before
        assert all_facts(journal.kill()) == before
        assert journal.store.append(ORDER, PLACED, b"y" * 2000, durable=True).global_sequence == 1


def test_p06_a_segment_that_can_neither_be_begun_nor_withdrawn_is_begun_again(config: StoreConfig) -> None:
    config = replace(config, segment_bytes=SMALL)
    with Journal(config) as journal:
        store = journal.store
        store.append(ORDER, PLACED, b"x" * 3000)
        journal.files.fail("pwrite", errno.EIO, name="000002.fbat")
        journal.files.fail("remove", errno.EIO, repeat=True)
        for payload in (b"y" * 2000, b"small"):  # the small one would fit, but the next segment says it is not there
            with pytest.raises(StorageError):
                store.append(ORDER, PLACED, payload)
            killed = Store(journal.disk.copy(), config)
            try:
                assert len(payloads(killed)) == 1
            finally:
                killed.close()
        journal.files.heal()
        assert store.append(ORDER, PLACED, b"small").global_sequence == 1
        assert payloads(journal.kill())[1:] == [b"small"]
        assert journal.store.verify_chain().intact


@pytest.mark.parametrize("operation", ["pwrite", "pwrite short"])
@pytest.mark.parametrize("items", [1, 4])
def test_a_disk_that_is_full_half_way_leaves_nothing_half_there(driven: Journal, operation: str, items: int) -> None:
    store = driven.store
    store.append(ORDER, PLACED, "before", durable=True)
    before = all_facts(store)
    if operation == "pwrite short":
        driven.files.shorten("pwrite", 350, name="*.fbat")  # more than the next event takes
        driven.files.fail("pwrite", errno.ENOSPC, name="*.fbat", call=2)
    else:
        driven.files.fail("pwrite", errno.ENOSPC, name="*.fbat")
    with pytest.raises(StorageError) as caught:
        store.append(ORDER, PLACED, "x" * 300) if items == 1 else store.append_batch(new_events(*range(items)))
    assert (caught.value.errno, caught.value.operation, caught.value.retryable) == (errno.ENOSPC, "write", True)
    assert isinstance(caught.value.__cause__, OSError)
    assert all_facts(store) == before
    assert store.diagnostics().state == "ok"
    assert store.append(ORDER, PLACED, "next", expected_sequence=0).global_sequence == 1
    expected = all_facts(store)
    assert all_facts(driven.kill()) == expected
    assert driven.store.diagnostics().open_report.quarantined == ()  # the half that was written had been cut
    assert driven.store.verify_chain().intact


def test_a_write_that_stops_half_way_is_gone_on_with(store: Store, journal: Journal) -> None:
    store.append(ORDER, PLACED, 0)
    journal.files.shorten("pwrite", 7, name="*.fbat", repeat=True)
    store.append_batch(new_events(1, 2, 3))
    store.append(ORDER, PLACED, 4)
    journal.files.heal()
    assert payloads(journal.kill()) == [0, 1, 2, 3, 4]


def test_a_write_that_takes_nothing_is_an_error(driven: Journal) -> None:
    driven.store.append(ORDER, PLACED, 1)
    driven.files.shorten("pwrite", 0, name="*.fbat", repeat=True)
    with pytest.raises(StorageError):
        driven.store.append(ORDER, PLACED, 2)
    driven.files.heal()
    assert driven.store.append(ORDER, PLACED, 3).global_sequence == 1
    assert payloads(driven.kill()) == [1, 3]


# Keyed batches ---------------------------------------------------------------------------------------------------


def keyed(*keys: Loose) -> list[NewEvent]:
    return [NewEvent(ORDER, PLACED, str(key), idempotency_key=key) for key in keys]


def test_p08_a_keyed_batch_is_replayed_without_duplicates_after_any_end(journal: Journal) -> None:
    first = journal.store.append_batch(keyed("a", "b", UUID(int=3)))
    assert not any(receipt.duplicate for receipt in first)
    assert first[2].event_id == UUID(int=3)
    for store in journal.lives():
        again = store.append_batch(keyed("a", "b", UUID(int=3)))
        assert [receipt_facts(receipt) for receipt in again] == [receipt_facts(receipt) for receipt in first]
        assert all(receipt.duplicate for receipt in again)
        assert payloads(store) == ["a", "b", str(UUID(int=3))]
    journal.cut_power()  # nothing was synced before the closes; the closes did
    assert all(receipt.duplicate for receipt in journal.store.append_batch(keyed("a", "b", UUID(int=3))))


def test_p08_a_keyed_batch_that_a_power_cut_took_is_written_again(journal: Journal) -> None:
    first = journal.store.append_batch(keyed("a", "b"))
    again = journal.cut_power().append_batch(keyed("a", "b"))
    assert not any(receipt.duplicate for receipt in again)
    assert [receipt.event_id for receipt in again] == [receipt.event_id for receipt in first]
    assert payloads(journal.store) == ["a", "b"]


def test_p08_a_batch_of_which_some_keys_are_known_is_refused(journal: Journal) -> None:
    journal.store.append_batch(keyed("a", "b"))
    for store in journal.lives():
        for keys, missing in ((("a", "b", "c"), 2), (("c", "a"), 0), (("b", "c", "a"), 1)):
            with pytest.raises(IdempotencyConflictError) as caught:
                store.append_batch(keyed(*keys))
            assert caught.value.item_index == missing
        assert payloads(store) == ["a", "b"]


def test_known_keys_of_different_batches_are_answered_each_with_its_first_receipt(store: Store) -> None:
    first = store.append_batch(keyed("a", "b"))
    second = store.append(ORDER, PLACED, "c", idempotency_key="c")
    again = store.append_batch(keyed("c", "a"))
    assert [receipt.event_id for receipt in again] == [second.event_id, first[0].event_id]
    assert all(receipt.duplicate for receipt in again)


def test_a_known_key_with_another_content_names_its_item(journal: Journal) -> None:
    journal.store.append_batch(keyed("a", "b", "c"))
    for store in journal.lives():
        items = keyed("a", "b", "c")
        items[1] = replace(items[1], payload="other")
        with pytest.raises(IdempotencyConflictError) as caught:
            store.append_batch(items)
        assert caught.value.item_index == 1
        assert payloads(store) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("keys", "index"), [(["a", None], 1), ([None, "a"], 0), (["a", "b", "a"], 2), ([UUID(int=1), UUID(int=1)], 1)]
)
def test_a_batch_keyed_in_part_or_twice_is_refused(store: Store, keys: list[Any], index: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        store.append_batch([NewEvent(ORDER, PLACED, 1, idempotency_key=key) for key in keys])
    assert caught.value.item_index == index
    assert payloads(store) == []


# Durability ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [None, False, True])
@pytest.mark.parametrize("by_default", [False, True])
def test_the_rule_for_durability_is_that_of_one_append(durable: bool | None, by_default: bool) -> None:
    with Journal(StoreConfig(durable=by_default, clock=HandClock())) as journal:
        expected = by_default if durable is None else durable
        journal.store.append(ORDER, PLACED, 0, durable=True)
        syncs = journal.files.calls["sync_data"]
        receipts = journal.store.append_batch(new_events(1, 2), durable=durable)
        assert [receipt.durable for receipt in receipts] == [expected] * 2
        assert journal.files.calls["sync_data"] - syncs == int(expected)
        receipt = journal.store.append(ORDER, PLACED, 3, durable=durable)
        assert receipt.durable is expected
        assert payloads(journal.cut_power()) == ([0, 1, 2, 3] if expected else [0])
