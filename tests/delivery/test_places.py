"""Named places: listed with their lag, waited for, moved and removed; what is damaged or another's refuses."""

from __future__ import annotations

import errno
from uuid import UUID

import pytest
from crc32c import crc32c

from batpak import (
    BatpakError,
    Coordinate,
    CorruptStoreError,
    EventKind,
    InvalidRequestError,
    Place,
    PlaceConflictError,
    Region,
    StalePlaceError,
    StorageError,
    Store,
    StoreClosedError,
    UnsupportedFormatError,
    WaitTimeoutError,
)
from batpak.storage import place_file
from batpak.testing.memory import MemoryFiles
from tests.delivery.growing import grow, rest, waits
from tests.store.journals import (
    EVERYTHING,
    PAID,
    PLACED,
    Journal,
    Loose,
    Task,
    hand_clock,
    until,
)

pytestmark = pytest.mark.usefixtures("no_backstop")

MINE = place_file.file_name("mine")
SHOP = Region(scope="shop")


def commit_at(store: Store, number: int, name: str = "mine", region: Region = EVERYTHING) -> Place | None:
    """Commit behind the event of that global sequence."""
    with store.cursor(region, name=name, start="beginning") as cursor:
        while (event := cursor.poll()) and event.global_sequence < number:
            pass
        cursor.commit()
        return cursor.committed


def overwrite(disk: MemoryFiles, data: bytes, file: str = MINE) -> None:
    """Put *data* in the place of a file."""
    disk.remove(file)
    opened = disk.create(file)
    opened.pwrite(data, 0)
    opened.close()


# Waiting for a place ---------------------------------------------------------------------------------------------


def test_a_wait_for_what_is_applied_returns_at_once(store: Store) -> None:
    grow(store, 5)
    commit_at(store, 3)
    for sequence in range(4):
        store.wait_for("mine", sequence, 0)
    with pytest.raises(WaitTimeoutError) as caught:
        store.wait_for("mine", 4, 0)
    error = caught.value
    assert (error.name, error.global_sequence, error.timeout_seconds, error.retryable) == ("mine", 4, 0, True)
    assert isinstance(error, TimeoutError)


def test_a_wait_ends_with_the_commit_that_applies_it(store: Store) -> None:
    grow(store, 5)
    cursor = store.cursor(EVERYTHING, name="mine")
    task = Task(lambda: store.wait_for("mine", 3, 60))
    until(lambda: waits(store), "one that waits")
    rest(cursor, 3)
    cursor.commit()
    until(lambda: waits(store), "one that waits on")
    assert not task.finished
    rest(cursor, 1)
    assert not task.finished
    cursor.commit()
    assert task.outcome() is None
    assert not waits(store)


def test_events_outside_the_region_need_no_handling(store: Store) -> None:
    cursor = store.cursor(Region(entity="order"), name="mine")
    grow(store, 2)
    rest(cursor)
    cursor.commit()
    grow(store, 3, entity="other")
    store.wait_for("mine", 4, 0)
    grow(store, 1)
    store.wait_for("mine", 4, 0)
    with pytest.raises(WaitTimeoutError):
        store.wait_for("mine", 5, 0)


def test_a_wait_for_an_event_that_is_not_written_yet_waits_for_it(store: Store) -> None:
    cursor = store.cursor(Region(entity="order"), name="mine")
    with pytest.raises(WaitTimeoutError):
        store.wait_for("mine", 0, 0)
    tasks = [Task(lambda: store.wait_for("mine", 1, 60)), Task(lambda: store.wait_for("mine", 2, 60))]
    until(lambda: waits(store), "those that wait")
    grow(store, 1)
    rest(cursor)
    cursor.commit()
    grow(store, 1, entity="other")
    tasks[0].outcome()
    assert not tasks[1].finished
    grow(store, 1, entity="other")
    tasks[1].outcome()


def test_a_wait_gives_up_when_its_time_is_up(store: Store) -> None:
    grow(store, 1)
    store.cursor(EVERYTHING, name="mine")
    task = Task(lambda: store.wait_for("mine", 0, 2.5))
    until(lambda: waits(store), "one that waits")
    hand_clock(store).advance(3)
    store._announcer.tell_all()
    error = task.error()
    assert isinstance(error, WaitTimeoutError)
    assert str(error).endswith("within 2.5 s")


def test_a_wait_needs_nobody_who_holds_the_place(journal: Journal) -> None:
    grow(journal.store, 5)
    commit_at(journal.store, 3)
    store = journal.kill()
    store.wait_for("mine", 3, 0)
    task = Task(lambda: store.wait_for("mine", 4, 60))
    until(lambda: waits(store), "one that waits")
    commit_at(store, 4)
    task.outcome()


def test_a_wait_ends_with_the_store(store: Store) -> None:
    grow(store, 1)
    store.cursor(EVERYTHING, name="mine")
    task = Task(lambda: store.wait_for("mine", 0, 60))
    until(lambda: waits(store), "one that waits")
    store.close()
    assert type(task.error()) is StoreClosedError


def test_a_wait_for_an_unknown_name_is_refused(store: Store) -> None:
    with pytest.raises(InvalidRequestError, match="'mine'"):
        store.wait_for("mine", 0, 60)


@pytest.mark.parametrize(("sequence", "seconds"), [(-1, 1), ("1", 1), (True, 1), (0, -1), (0, "1"), (0, float("nan"))])
def test_what_cannot_be_waited_for_is_refused(store: Store, sequence: Loose, seconds: Loose) -> None:
    store.cursor(EVERYTHING, name="mine")
    with pytest.raises(InvalidRequestError):
        store.wait_for("mine", sequence, seconds)


# The list --------------------------------------------------------------------------------------------------------


def test_places_are_listed_by_name_with_region_and_place(store: Store) -> None:
    assert store.places() == []
    receipts = grow(store, 5)
    for name, number in (("b", 3), ("a", 1), ("ä", 4)):
        commit_at(store, number, name, SHOP)
    held = store.cursor(Region(kind=PAID), name="held")
    places = store.places()
    assert [place.name for place in places] == ["a", "b", "held", "ä"]
    assert [place.region for place in places] == [SHOP, SHOP, Region(kind=PAID), SHOP]
    assert [place.place for place in places] == [receipts[1].place, receipts[3].place, None, receipts[4].place]
    assert [place.damage for place in places] == [None] * 4
    assert places[0].file == place_file.file_name("a")
    held.close()


def test_a_lag_counts_the_events_of_the_region_and_the_age_of_the_oldest(store: Store) -> None:
    clock = hand_clock(store)
    region = Region(entity="order")
    cursor = store.cursor(region, name="mine")

    def lag() -> tuple[int, float]:
        (place,) = store.places()
        return place.lag_events, place.lag_seconds

    assert lag() == (0, 0.0)
    grow(store, 1, entity="other")
    clock.advance(100)
    assert lag() == (0, 0.0)
    grow(store, 2)
    clock.advance(10)
    grow(store, 1)
    clock.advance(5)
    assert lag() == (3, 15.0)
    rest(cursor, 2)
    assert lag() == (3, 15.0)
    cursor.commit()
    assert lag() == (1, 5.0)
    rest(cursor)
    cursor.commit()
    assert lag() == (0, 0.0)
    cursor.close()
    grow(store, 1)
    clock.advance(2.5)
    assert lag() == (1, 2.5)


def test_a_lag_is_never_negative_when_the_clock_goes_back(store: Store) -> None:
    store.cursor(EVERYTHING, name="mine")
    grow(store, 1)
    hand_clock(store).set_wall(5)
    (place,) = store.places()
    assert (place.lag_events, place.lag_seconds) == (1, 0.0)


def test_places_survive_every_end(journal: Journal) -> None:
    grow(journal.store, 4)
    place = commit_at(journal.store, 2)
    for life in (journal.reopen, journal.kill):
        (found,) = life().places()
        assert (found.name, found.place, found.lag_events) == ("mine", place, 1)


def test_a_folder_that_cannot_be_listed_says_so(journal: Journal) -> None:
    journal.files.fail("list", errno.EIO, name="cursors")
    with pytest.raises(StorageError) as caught:
        journal.store.places()
    assert (caught.value.operation, caught.value.file) == ("list", "cursors")


# Moving and removing ---------------------------------------------------------------------------------------------


def test_reset_moves_a_place_forwards_and_backwards(journal: Journal) -> None:
    receipts = grow(journal.store, 6)
    commit_at(journal.store, 3)
    moves: list[tuple[Place | int | None, list[int]]] = [
        (receipts[1].place, [2, 3, 4, 5]),
        (4, [5]),
        (None, [0, 1, 2, 3, 4, 5]),
        (5, []),
    ]
    for place, wanted in moves:
        journal.store.reset_place("mine", place)
        for life in (journal.reopen, journal.kill, journal.cut_power):
            with life().cursor(EVERYTHING, name="mine") as cursor:
                assert rest(cursor) == wanted


def test_reset_keeps_the_region(store: Store) -> None:
    grow(store, 2)
    commit_at(store, 1, region=SHOP)
    store.reset_place("mine", None)
    assert [(place.region, place.place) for place in store.places()] == [(SHOP, None)]
    with pytest.raises(PlaceConflictError):
        store.cursor(EVERYTHING, name="mine")


def test_reset_lets_those_go_on_who_wait_for_it(store: Store) -> None:
    grow(store, 4)
    commit_at(store, 1)
    task = Task(lambda: store.wait_for("mine", 3, 60))
    until(lambda: waits(store), "one that waits")
    store.reset_place("mine", 3)
    task.outcome()


def test_a_place_that_is_held_is_neither_moved_nor_removed(store: Store) -> None:
    grow(store, 3)
    cursor = store.cursor(EVERYTHING, name="mine")
    for call in (lambda: store.reset_place("mine", 1), lambda: store.delete_place("mine")):
        with pytest.raises(PlaceConflictError) as caught:
            call()
        assert caught.value.name == "mine"
    assert rest(cursor) == [0, 1, 2]
    cursor.commit()
    cursor.close()
    store.reset_place("mine", 1)
    assert store.delete_place("mine")


def test_a_name_that_nobody_has_is_not_moved(store: Store) -> None:
    with pytest.raises(InvalidRequestError, match="'mine'"):
        store.reset_place("mine", None)
    assert store.places() == []


def test_reset_to_what_is_not_there_leaves_the_place(store: Store) -> None:
    grow(store, 4)
    place = commit_at(store, 2)
    wrong: list[tuple[Loose, type[BatpakError]]] = [
        (Place(1, bytes(32)), StalePlaceError),
        (Place(9, bytes(32)), StalePlaceError),
        (4, InvalidRequestError),
        ("end", InvalidRequestError),
        ("beginning", InvalidRequestError),
        (1.5, InvalidRequestError),
        (True, InvalidRequestError),
    ]
    for target, error in wrong:
        with pytest.raises(error):
            store.reset_place("mine", target)
        assert [found.place for found in store.places()] == [place]


def test_a_reset_that_fails_leaves_the_place_and_lets_go(journal: Journal) -> None:
    store = journal.store
    receipts = grow(store, 4)
    place = commit_at(store, 2)
    for operation in ("create", "pwrite", "sync", "replace", "sync_folder"):
        journal.files.fail(operation, errno.ENOSPC, name="cursors*")
        with pytest.raises(StorageError):
            store.reset_place("mine", 0)
        journal.files.heal()
        if operation == "sync_folder":  # the new file is there, whether or not a power cut keeps it
            place = receipts[0].place
        assert [found.place for found in store.places()] == [place]
    store.reset_place("mine", 3)


def test_delete_removes_a_place_for_good(journal: Journal) -> None:
    grow(journal.store, 4)
    commit_at(journal.store, 2)
    commit_at(journal.store, 3, "other")
    assert journal.store.delete_place("mine") is True
    assert journal.store.delete_place("mine") is False
    store = journal.cut_power()
    assert [place.name for place in store.places()] == ["other"]
    assert rest(store.cursor(EVERYTHING, name="mine")) == [0, 1, 2, 3]


def test_a_place_that_cannot_be_removed_says_so(journal: Journal) -> None:
    grow(journal.store, 2)
    commit_at(journal.store, 1)
    journal.files.fail("remove", errno.EROFS, name="cursors/*")
    with pytest.raises(StorageError) as caught:
        journal.store.delete_place("mine")
    assert (caught.value.operation, caught.value.errno, caught.value.file) == ("remove", errno.EROFS, MINE)
    assert len(journal.store.places()) == 1


# What is damaged, or another's -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"BPPLAC", bytes(4668), b"\xff" * 4668, b"x" * 9000])
def test_p36_a_damaged_place_refuses_until_it_is_deleted(journal: Journal, data: bytes) -> None:
    store = journal.store
    grow(store, 3)
    commit_at(store, 1)
    commit_at(store, 2, "other")
    overwrite(journal.disk, data)
    for call in (
        lambda: store.cursor(EVERYTHING, name="mine"),
        lambda: store.cursor(EVERYTHING, name="mine", start="end"),
        lambda: store.wait_for("mine", 0, 0),
        lambda: store.reset_place("mine", None),
    ):
        with pytest.raises(CorruptStoreError) as caught:
            call()
        assert caught.value.file == MINE
    assert journal.disk.read_bytes(MINE, 1 << 20) == data
    damaged, other = store.places()
    assert (damaged.name, damaged.region, damaged.place, damaged.lag_events) == (None, None, None, 0)
    assert damaged.file == MINE
    assert damaged.damage is not None
    assert MINE in damaged.damage
    assert (other.name, other.damage) == ("other", None)
    assert store.delete_place("mine")
    assert rest(store.cursor(EVERYTHING, name="mine")) == [0, 1, 2]


def test_p36_a_place_that_newer_software_wrote_refuses(journal: Journal) -> None:
    store = journal.store
    store.cursor(EVERYTHING, name="mine").close()
    data = bytearray(journal.disk.read_bytes(MINE, 1 << 20))
    length = int.from_bytes(data[24:28], "little")
    data[6:8] = (2).to_bytes(2, "little")
    data[28 + length : 32 + length] = crc32c(bytes(data[: 28 + length])).to_bytes(4, "little")
    overwrite(journal.disk, bytes(data))
    with pytest.raises(UnsupportedFormatError) as caught:
        store.cursor(EVERYTHING, name="mine")
    assert (caught.value.file, caught.value.found) == (MINE, 2)
    (place,) = store.places()
    assert (place.file, place.damage) == (MINE, str(caught.value))
    assert store.delete_place("mine")


REGIONS = [
    Region(),
    Region(include_system=True),
    Region(entity="order"),
    Region(entity="order:42"),
    Region(scope="order"),
    Region(kind=PLACED),
    Region(kind=EventKind(0x0, 0x001)),
    Region(category=1),
    Region(sequences=(0, 5)),
    Region(sequences=(0, 6)),
    Region(correlation_id=UUID(int=1)),
    Region(entity="order", scope="shop", kind=PLACED, category=1, sequences=(1, 2), correlation_id=UUID(int=2)),
]


@pytest.mark.parametrize("number", range(len(REGIONS)))
def test_p36_a_place_of_another_region_refuses(store: Store, number: int) -> None:
    region = REGIONS[number]
    store.cursor(region, name="mine").close()
    for other in REGIONS:
        if other == region:
            store.cursor(other, name="mine").close()
            continue
        with pytest.raises(PlaceConflictError) as caught:
            store.cursor(other, name="mine")
        assert caught.value.name == "mine"
        assert str(region) in caught.value.found
        assert str(other) in caught.value.expected
    assert [place.region for place in store.places()] == [region]


def test_p36_a_place_of_another_store_refuses(journal: Journal) -> None:
    grow(journal.store, 3)
    commit_at(journal.store, 1)
    foreign = journal.disk.read_bytes(MINE, 1 << 20)
    with Journal(journal.config) as other:
        grow(other.store, 3)
        other.store.cursor(EVERYTHING, name="mine").close()
        overwrite(other.disk, foreign)
        with pytest.raises(PlaceConflictError) as caught:
            other.store.cursor(EVERYTHING, name="mine")
        assert caught.value.found.startswith("the place of store ")
        (listed,) = other.store.places()
        assert (listed.name, listed.place, listed.damage) == ("mine", None, "the file belongs to another store")
        with pytest.raises(PlaceConflictError):
            other.store.reset_place("mine", None)
        assert other.disk.read_bytes(MINE, 1 << 20) == foreign


def test_p36_a_place_in_the_file_of_another_name_refuses(journal: Journal) -> None:
    store = journal.store
    grow(store, 3)
    commit_at(store, 1, "other")
    store.cursor(EVERYTHING, name="mine").close()
    overwrite(journal.disk, journal.disk.read_bytes(place_file.file_name("other"), 1 << 20))
    with pytest.raises(PlaceConflictError, match="'other'"):
        store.cursor(EVERYTHING, name="mine")


@pytest.mark.parametrize("grown", [0, 5])
def test_p36_a_place_of_an_event_that_is_not_there_refuses(journal: Journal, grown: int) -> None:
    """As after a journal was put back from a copy, and its places were not."""
    grow(journal.store, 3)
    journal.store.cursor(EVERYTHING, name="mine").close()
    earlier = journal.disk.copy()
    grow(journal.store, 5)
    place = commit_at(journal.store, 5)
    assert place is not None
    later = journal.disk.read_bytes(MINE, 1 << 20)
    with Store(earlier, journal.config) as store:
        for number in range(grown):
            store.append(Coordinate("another", "history"), PLACED, number)
        overwrite(earlier, later)
        for _ in range(2):
            with pytest.raises(StalePlaceError) as caught:
                store.cursor(EVERYTHING, name="mine")
            assert caught.value.given == place
            found = caught.value.found
            assert (found is None) == (not grown)
            assert found is None or (found.global_sequence, found != place) == (5, True)
        assert earlier.read_bytes(MINE, 1 << 20) == later
        assert store.delete_place("mine")
        assert rest(store.cursor(EVERYTHING, name="mine"))[0] == 0


def test_a_file_that_is_no_place_is_left_alone(journal: Journal) -> None:
    store = journal.store
    store.cursor(EVERYTHING, name="mine").close()
    for name in ("cursors/readme.txt", "cursors/old.ckpt"):
        journal.disk.create(name).close()
    assert [place.name for place in store.places()] == ["mine"]
    store = journal.reopen()
    assert [place.name for place in store.places()] == ["mine"]
    assert {"readme.txt", "old.ckpt"} < set(journal.disk.list("cursors"))
