"""Commits: a place that is kept, never ahead of what is durable, through kills, power cuts and faults."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from random import Random

import pytest

from batpak import (
    CorruptStoreError,
    StorageError,
    Store,
    StoreConfig,
    WriterFailedError,
)
from batpak.testing.clock import HandClock
from tests.delivery.growing import grow, rest
from tests.directories import directory, opened
from tests.golden.by_hand import an_event
from tests.store.journals import (
    EVERYTHING,
    LONG,
    ORDER,
    PLACED,
    Journal,
    Loose,
    close_anyhow,
    race,
)
from tests.test_hazards_numbers import closed

pytestmark = pytest.mark.usefixtures("no_backstop")


# Going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("life", ["reopen", "kill"])
def test_p36_a_cursor_resumes_from_its_place_across_reopen(journal: Journal, life: str) -> None:
    grow(journal.store, 10)
    cursor = journal.store.cursor(EVERYTHING, name="mine")
    for number in range(1, 11):
        assert cursor.poll() is not None
        if number % 3 == 0:
            cursor.commit()
        if number % 4 == 0:
            store = getattr(journal, life)()
            cursor = store.cursor(EVERYTHING, name="mine")
            committed = number // 3 * 3
            assert cursor.place == cursor.committed == store.get(store.query(EVERYTHING)[committed - 1].event_id).place
            assert rest(cursor, number - committed) == list(range(committed, number))


def test_p36_a_power_cut_brings_back_an_earlier_place_and_never_a_later_one(journal: Journal) -> None:
    grow(journal.store, 10)
    cursor = journal.store.cursor(EVERYTHING, name="mine")
    assert rest(cursor, 6) == list(range(6))
    cursor.commit()
    grow(journal.store, 5)
    store = journal.cut_power()
    assert store.stats().events == 10  # the commit has made them durable
    assert rest(store.cursor(EVERYTHING, name="mine"))[-4:] == [6, 7, 8, 9]


@pytest.mark.parametrize("appended", [0, 1])
def test_p36_a_place_made_before_the_first_event_is_this_stores_after_a_power_cut(
    journal: Journal, appended: int
) -> None:
    journal.store.cursor(EVERYTHING, name="mine")
    grow(journal.store, appended)
    store = journal.cut_power()
    grow(store, 2)
    cursor = store.cursor(EVERYTHING, name="mine")
    assert rest(cursor, 1) == [0]
    cursor.commit()
    store = journal.cut_power()
    assert rest(store.cursor(EVERYTHING, name="mine"), 1)[0] <= 1


def test_p36_rollback_goes_back_to_the_last_commit(store: Store) -> None:
    grow(store, 10)
    cursor = store.cursor(EVERYTHING, name="mine")
    assert rest(cursor, 4) == [0, 1, 2, 3]
    cursor.rollback()
    assert (cursor.place, rest(cursor, 4)) == (None, [0, 1, 2, 3])
    cursor.commit()
    assert rest(cursor, 3) == [4, 5, 6]
    cursor.rollback()
    assert cursor.place == cursor.committed
    assert rest(cursor) == list(range(4, 10))
    cursor.rollback()
    grow(store, 2)
    assert rest(cursor) == list(range(4, 12))


def test_a_cursor_without_a_name_rolls_back_to_its_commit_or_its_start(store: Store) -> None:
    grow(store, 10)
    cursor = store.cursor(EVERYTHING, start=2)
    assert rest(cursor, 3) == [3, 4, 5]
    cursor.rollback()
    assert rest(cursor, 3) == [3, 4, 5]
    cursor.commit()
    assert rest(cursor) == [6, 7, 8, 9]
    cursor.rollback()
    assert rest(cursor) == [6, 7, 8, 9]
    assert store.places() == []


def test_place_is_what_was_delivered_and_committed_what_was_committed(store: Store) -> None:
    receipts = grow(store, 5)
    cursor = store.cursor(EVERYTHING, name="mine")
    assert (cursor.name, cursor.place, cursor.committed) == ("mine", None, None)
    cursor.commit()
    rest(cursor, 3)
    assert (cursor.place, cursor.committed) == (receipts[2].place, None)
    rest(cursor, 1)
    cursor.commit()
    assert (cursor.place, cursor.committed) == (receipts[3].place, receipts[3].place)
    assert store.cursor(EVERYTHING).name is None


# What a commit costs and promises --------------------------------------------------------------------------------


def test_a_commit_takes_one_fsync_and_none_when_all_is_durable(journal: Journal) -> None:
    store = journal.store
    cursor = store.cursor(EVERYTHING, name="mine")
    for number in range(5):
        grow(store, 3)
        before = journal.files.calls["sync_data"], journal.files.calls["sync"], journal.files.calls["sync_folder"]
        rest(cursor, 1 + number % 2)
        cursor.commit()
        after = journal.files.calls["sync_data"], journal.files.calls["sync"], journal.files.calls["sync_folder"]
        assert (after[0] - before[0], after[1:]) == (1, before[1:])
        cursor.commit()
        rest(cursor, 1)
        cursor.commit()
        assert journal.files.calls["sync_data"] == after[0]


def test_a_commit_covers_everything_that_was_written_before(journal: Journal) -> None:
    store = journal.store
    grow(store, 3)
    cursor = store.cursor(EVERYTHING, name="mine")
    assert rest(cursor, 1) == [0]
    grow(store, 4)  # perhaps the consumer's answer to what it was given
    cursor.commit()
    assert store.stats().durable_sequence == 6


def test_a_place_is_never_ahead_of_the_durable_position(journal: Journal) -> None:
    store = journal.store
    cursor = store.cursor(EVERYTHING, name="mine")
    random = Random(3)
    for _ in range(40):
        grow(store, random.randrange(3))
        rest(cursor, random.randrange(1, 4))
        if random.random() < 0.4:
            cursor.commit()
        with Store(journal.disk.crashed(), journal.config) as after:
            newest = after.stats().visible_sequence
            (place,) = after.places()
            assert place.place is None or place.place.global_sequence <= newest
            seen = cursor.committed
            assert place.place is None or (seen is not None and place.place.global_sequence <= seen.global_sequence)


def test_commits_of_many_cursors_take_one_fsync_each_at_most() -> None:
    with Journal(StoreConfig(clock=HandClock())) as journal:
        store = journal.store
        grow(store, 64)
        cursors = [store.cursor(EVERYTHING, name=f"number {number}") for number in range(8)]

        def commit(number: int) -> None:
            for each in range(10):
                assert cursors[number].poll() is not None
                store.append(ORDER, PLACED, each)
                cursors[number].commit()

        before = journal.files.calls["sync_data"]
        assert race(8, commit) == [None] * 8
        assert journal.files.calls["sync_data"] - before <= 80
        assert [each.committed for each in cursors] == [cursors[0].committed] * 8


def test_an_fsync_that_fails_leaves_the_place_where_it_was(journal: Journal) -> None:
    grow(journal.store, 5)
    cursor = journal.store.cursor(EVERYTHING, name="mine")
    rest(cursor, 2)
    cursor.commit()
    committed = cursor.committed
    rest(cursor, 2)
    grow(journal.store, 1)
    journal.files.fail("sync_data", errno.EIO, name="*.fbat")
    with pytest.raises(WriterFailedError):
        cursor.commit()
    assert cursor.committed == committed
    store = journal.kill()
    assert rest(store.cursor(EVERYTHING, name="mine"))[:2] == [2, 3]


# Events of the original that share a global sequence -------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[Store]:
    """A store of the original's whose events stand at 0, 1, 1, 2, 2, 3 and 7."""
    held = {
        "000001.fbat": closed([an_event(number) for number in (1, 2, 3, 4)], [0, 1, 2, 7]),
        "000002.fbat": closed([an_event(number) for number in (5, 6, 7)], [1, 2, 3]),
    }
    with opened(directory(held)) as store:
        yield store


SHARED = [(1, 0), (2, 1), (5, 1), (3, 2), (6, 2), (7, 3), (4, 7)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7])
def test_events_that_share_a_sequence_come_once_each_in_any_batches(shared: Store, size: int) -> None:
    cursor = shared.cursor(EVERYTHING)
    got: list[tuple[int, int]] = []
    while batch := cursor.poll_batch(size):
        got += [(event.event_id.int, event.global_sequence) for event in batch]
    assert got == SHARED


@pytest.mark.parametrize("delivered", range(8))
def test_a_commit_never_splits_events_that_share_a_sequence(shared: Store, delivered: int) -> None:
    cursor = shared.cursor(EVERYTHING, name="mine")
    got = [(event.event_id.int, event.global_sequence) for _ in range(delivered) if (event := cursor.poll())]
    assert got == SHARED[:delivered]
    cursor.commit()
    cursor.close()
    again = [
        (event.event_id.int, event.global_sequence) for event in shared.cursor(EVERYTHING, name="mine").poll_batch(100)
    ]
    committed = delivered
    while 0 < committed < len(SHARED) and SHARED[committed][1] == SHARED[committed - 1][1]:
        committed -= 1
    assert again == SHARED[committed:]


@pytest.mark.parametrize("delivered", [1, 2, 4])
def test_a_rollback_delivers_what_shares_a_sequence_again(shared: Store, delivered: int) -> None:
    cursor = shared.cursor(EVERYTHING, name="mine")
    for _ in range(delivered):
        cursor.poll()
    cursor.commit()
    cursor.poll()
    cursor.rollback()
    again = [(event.event_id.int, event.global_sequence) for event in cursor.poll_batch(100)]
    assert again == SHARED[{1: 1, 2: 1, 4: 3}[delivered] :]


# Faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_place_that_cannot_be_written_is_where_it_was(journal: Journal, number: int) -> None:
    store = journal.store
    receipts = grow(store, 6)
    cursor = store.cursor(EVERYTHING, name="mine")
    rest(cursor, 2)
    cursor.commit()
    rest(cursor, 2)
    journal.files.fail("pwrite", number, name="cursors/*")
    with pytest.raises(StorageError) as caught:
        cursor.commit()
    assert (caught.value.operation, caught.value.errno) == ("write", number)
    assert caught.value.file.startswith("cursors/")
    assert cursor.committed == receipts[1].place
    with Store(journal.disk.copy(), journal.config) as killed:
        assert rest(killed.cursor(EVERYTHING, name="mine")) == [2, 3, 4, 5]
    cursor.rollback()
    assert rest(cursor, 2) == [2, 3]
    cursor.commit()
    assert cursor.committed == receipts[3].place


@pytest.mark.parametrize("length", [0, 1, 8, 16, 24, 55, 56, 59])
def test_a_place_that_is_written_in_part_is_where_it_was(journal: Journal, length: int) -> None:
    store = journal.store
    grow(store, 6)
    cursor = store.cursor(EVERYTHING, name="mine")
    for _ in range(2):
        rest(cursor, 1)
        cursor.commit()
    rest(cursor, 2)
    journal.files.shorten("pwrite", length, name="cursors/*")
    with pytest.raises(StorageError):
        cursor.commit()
    with Store(journal.disk.copy(), journal.config) as killed:
        assert rest(killed.cursor(EVERYTHING, name="mine")) == [2, 3, 4, 5]
    cursor.commit()
    with Store(journal.disk.copy(), journal.config) as killed:
        assert rest(killed.cursor(EVERYTHING, name="mine")) == [4, 5]


@pytest.mark.parametrize(
    ("operation", "file"),
    [
        ("make_folder", "*"),
        ("sync_folder", "*"),
        ("create", "cursors/*"),
        ("pwrite", "cursors/*"),
        ("sync", "cursors/*"),
        ("replace", "cursors/*"),
        ("open_write", "cursors/*"),
        ("open_read", "cursors/*"),
        ("pread", "cursors/*"),
        ("list", "cursors"),
    ],
)
def test_a_name_whose_file_cannot_be_made_is_free_for_another_attempt(
    journal: Journal, operation: str, file: str
) -> None:
    store = journal.store
    grow(store, 3)
    journal.files.fail(operation, errno.EIO, name=file)
    with pytest.raises(StorageError) as caught:
        store.cursor(EVERYTHING, name="mine", start=0)
    assert caught.value.errno == errno.EIO
    journal.files.heal()
    assert rest(store.cursor(EVERYTHING, name="mine", start=0)) == [1, 2]
    assert [place.damage for place in store.places()] == [None]


def test_a_frame_that_cannot_be_read_stops_a_cursor_where_it_is(journal: Journal) -> None:
    grow(journal.store, 6)
    store = journal.reopen()
    entry = store.query(EVERYTHING)[3]
    cursor = store.cursor(EVERYTHING, name="mine")
    assert rest(cursor, 2) == [0, 1]
    cursor.commit()
    cursor.rollback()
    offset = journal.disk.read_bytes("000001.fbat", 1 << 20).index(entry.event_id.bytes)
    journal.disk.open_write("000001.fbat").pwrite(b"\xff" * 4, offset + 60)
    for _ in range(2):
        with pytest.raises(CorruptStoreError):
            cursor.poll_batch(10)
    assert cursor.place == cursor.committed
    cursor.close()
    close_anyhow(store)


# At every operation ----------------------------------------------------------------------------------------------


def test_a_kill_or_a_power_cut_at_any_operation_leaves_a_committed_place_or_none(journal: Journal) -> None:
    store, files = journal.store, journal.files
    grow(store, 12)
    images: list[tuple[Loose, str, int]] = []
    committed = [-1]

    class Watching:
        """Takes an image of the disk before every operation on it."""

        def __enter__(self) -> None:
            self.run = files._faults.run

            def run(operation: str, *arguments: Loose) -> Loose:
                if operation not in {"pread", "size", "exists", "list"}:
                    images.append((journal.disk.copy(), "kill", committed[0]))
                    images.append((journal.disk.crashed(), "power", committed[0]))
                return self.run(operation, *arguments)

            files._faults.run = run  # type: ignore[method-assign,assignment]

        def __exit__(self, *_: object) -> None:
            files._faults.run = self.run  # type: ignore[method-assign]

    with Watching():
        cursor = store.cursor(EVERYTHING, name="mine")
        for _ in range(6 if LONG else 4):
            grow(store, 1)
            last = rest(cursor, 2)[-1]
            cursor.commit()
            committed[0] = last
        cursor.close()
        store.reset_place("mine", 1)
        committed[0] = 1
        store.delete_place("mine")
    kinds = set()
    for image, fault, at_least in images:
        with Store(image, journal.config) as after:
            listed = after.places()
            assert all(place.damage is None for place in listed)
            cursor = after.cursor(EVERYTHING, name="mine")
            first = rest(cursor, 1)
            start = (first[0] if first else after.stats().next_global_sequence) - 1
            kinds.add((fault, start))
            if fault == "kill" and listed:
                assert start in {at_least, at_least + 2, 1}
            assert start in {-1, 1, 3, 5, 7, 9, 11}
    assert {("kill", -1), ("kill", 1), ("kill", 7), ("power", -1)} <= kinds
