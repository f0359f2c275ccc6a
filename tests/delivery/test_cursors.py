"""Cursors: complete, ordered, at the consumer's pace, and from where they are told to begin."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batpak import (
    Coordinate,
    Cursor,
    InvalidRequestError,
    Place,
    PlaceConflictError,
    Region,
    StalePlaceError,
    Store,
    StoreClosedError,
    StoreConfig,
)
from batpak.testing.clock import HandClock
from tests.delivery.growing import grow, rest, waits
from tests.store.journals import (
    EVERYTHING,
    ORDER,
    PAID,
    PLACED,
    Journal,
    Loose,
    Task,
    hand_clock,
    race,
    until,
)

pytestmark = pytest.mark.usefixtures("no_backstop")


# Delivering ------------------------------------------------------------------------------------------------------


def test_p35_a_cursor_over_everything_starts_with_sequence_0_and_never_duplicates(store: Store) -> None:
    grow(store, 700)
    cursor = store.cursor(EVERYTHING)
    singly = [event.global_sequence for _ in range(5) if (event := cursor.poll())]
    assert singly + rest(cursor, 300) + rest(cursor, 1) + rest(cursor) == list(range(700))


def test_p35_a_cursor_continues_after_the_end_of_data(store: Store) -> None:
    cursor = store.cursor(EVERYTHING)
    assert cursor.poll() is None
    for number in range(20):
        grow(store, number % 3)
        assert rest(cursor) == [entry.global_sequence for entry in store.query(EVERYTHING)][-(number % 3) or 9999 :]
        assert cursor.poll() is None
        assert cursor.poll_batch(5) == []


def test_p35_a_cursor_delivers_what_a_read_returns(store: Store) -> None:
    grow(store, 30)
    store.append(Coordinate("other", "bank"), PAID, "x")
    assert store.cursor(EVERYTHING).poll_batch(100) == list(store.read(EVERYTHING))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.one_of(st.integers(-40, -1), st.integers(1, 40)), max_size=25),
    st.sampled_from([EVERYTHING, Region(entity="order"), Region(entity="other"), Region(sequences=(3, 30))]),
)
def test_p35_whatever_is_appended_and_polled_in_whatever_order(
    journal: Journal, steps: list[int], region: Region
) -> None:
    store = journal.store
    start = store.stats().visible_sequence
    cursor = store.cursor(region, start="end")
    got: list[int] = []
    for number, step in enumerate(steps):
        if step > 0:
            grow(store, step, entity="order:42" if number % 2 else "other")
        else:
            got += rest(cursor, -step)
    got += rest(cursor, 10_000)
    assert got == [entry.global_sequence for entry in store.query(region, after=start)]


def test_events_that_the_index_has_written_out_come_in_order_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batpak.actors.index.RUN_EVENTS", 64)
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    with Journal(StoreConfig(clock=HandClock(), segment_bytes=8192)) as journal:
        cursor = journal.store.cursor(EVERYTHING, name="mine")
        got = []
        for _ in range(12):
            grow(journal.store, 50)
            got += rest(cursor, 37)
        got += rest(cursor, 10_000)
        assert got == list(range(600))
        cursor.commit()
        store = journal.reopen()
        grow(store, 100)
        assert rest(store.cursor(EVERYTHING, name="mine")) == list(range(600, 700))


def test_two_cursors_are_independent(store: Store) -> None:
    grow(store, 10)
    first, second = store.cursor(EVERYTHING), store.cursor(EVERYTHING)
    assert rest(first, 7) == list(range(7))
    assert rest(second, 2) == [0, 1]
    assert rest(first) == [7, 8, 9]
    assert rest(second) == list(range(2, 10))


def test_a_cursor_that_is_polled_while_many_write_misses_nothing() -> None:
    with Journal(StoreConfig(segment_bytes=65_536)) as journal:
        store, total = journal.store, 4 * 150
        cursor = store.cursor(EVERYTHING)

        def consume() -> list[int]:
            got: list[int] = []
            while len(got) < total:
                got += [event.global_sequence for event in cursor.pull(17)]
            return got

        consuming = Task(consume)
        assert race(4, lambda number: [store.append(ORDER, PLACED, each) for each in range(150)] and None) == [None] * 4
        assert consuming.outcome() == list(range(total))


# Waiting ---------------------------------------------------------------------------------------------------------


def test_a_pull_returns_what_is_there_without_waiting(store: Store) -> None:
    grow(store, 3)
    cursor = store.cursor(EVERYTHING)
    assert [event.payload for event in cursor.pull(2)] == [0, 1]
    assert [event.payload for event in cursor.pull(100)] == [2]


def test_a_pull_is_woken_by_an_event_of_its_region(store: Store) -> None:
    cursor = store.cursor(Region(entity="order:42"))
    task = Task(lambda: cursor.pull(10))
    until(lambda: waits(store), "cursor that waits")
    grow(store, 2, entity="other")
    grow(store, 2)
    assert [event.global_sequence for event in task.outcome()] == [2, 3]
    assert not waits(store)


def test_a_pull_gives_up_when_its_time_is_up_and_misses_nothing(store: Store) -> None:
    cursor = store.cursor(EVERYTHING)
    assert cursor.pull(5, 0) == []
    task = Task(lambda: cursor.pull(5, 2.0))
    until(lambda: waits(store), "cursor that waits")
    hand_clock(store).advance(2.5)
    store._announcer.tell_all()
    assert task.outcome() == []
    grow(store, 1)
    assert rest(cursor) == [0]


def test_an_iteration_waits_for_more_and_ends_with_close(store: Store) -> None:
    grow(store, 2)
    cursor = store.cursor(EVERYTHING)
    got: list[int] = []
    task = Task(lambda: got.extend(event.global_sequence for event in cursor))
    until(lambda: len(got) == 2, "first events")
    grow(store, 1)
    until(lambda: len(got) == 3, "later event")
    until(lambda: waits(store), "cursor that waits")
    cursor.close()
    task.outcome()
    assert got == [0, 1, 2]
    assert list(cursor) == []


def test_a_closed_cursor_delivers_nothing_and_commits_nothing(store: Store) -> None:
    grow(store, 5)
    with store.cursor(EVERYTHING, name="mine") as cursor:
        assert rest(cursor, 2) == [0, 1]
    assert (cursor.poll(), cursor.poll_batch(3), cursor.pull(3)) == (None, [], [])
    with pytest.raises(InvalidRequestError, match="commit"):
        cursor.commit()
    assert rest(store.cursor(EVERYTHING, name="mine")) == list(range(5))


def test_a_store_that_closes_ends_whoever_waits(store: Store) -> None:
    cursor = store.cursor(EVERYTHING, name="mine")
    tasks = [Task(lambda: cursor.pull(1)), Task(lambda: next(store.cursor(Region(scope="shop"))))]
    until(lambda: sum(len(bucket) for table in store._announcer._tables for bucket in table.values()) == 2, "two")
    store.close()
    for task in tasks:
        assert type(task.error()) is StoreClosedError


def test_a_closed_store_refuses_every_call(store: Store) -> None:
    grow(store, 4)
    named, unnamed = store.cursor(EVERYTHING, name="mine"), store.cursor(EVERYTHING)
    assert rest(named, 1) == rest(unnamed, 1) == [0]
    store.close()
    for call in (
        named.commit,
        lambda: named.pull(400),
        lambda: named.poll_batch(400),  # what was read ahead may still come, and this wants more
        lambda: unnamed.poll_batch(400),
        lambda: store.cursor(EVERYTHING),
        lambda: store.cursor(EVERYTHING, name="mine"),
        lambda: store.cursor(EVERYTHING, name="other"),
    ):
        with pytest.raises(StoreClosedError):
            call()


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, None])
def test_a_limit_that_is_no_number_of_events_is_refused(store: Store, limit: Loose) -> None:
    cursor = store.cursor(EVERYTHING)
    for call in (cursor.poll_batch, cursor.pull):
        with pytest.raises(InvalidRequestError, match="limit"):
            call(limit)


# Beginning -------------------------------------------------------------------------------------------------------


def test_a_cursor_begins_where_it_is_told(store: Store) -> None:
    receipts = grow(store, 6)
    assert rest(store.cursor(EVERYTHING)) == rest(store.cursor(EVERYTHING, start="beginning")) == list(range(6))
    assert rest(store.cursor(EVERYTHING, start=2)) == [3, 4, 5]
    assert rest(store.cursor(EVERYTHING, start=receipts[2].place)) == [3, 4, 5]
    assert rest(store.cursor(EVERYTHING, start=5)) == []
    assert rest(store.cursor(EVERYTHING, start=-1)) == list(range(6))
    end = store.cursor(EVERYTHING, start="end")
    assert rest(end) == []
    grow(store, 1)
    assert rest(end) == [6]


def test_the_end_of_an_empty_store_is_its_beginning(store: Store) -> None:
    cursor = store.cursor(EVERYTHING, start="end", name="mine")
    grow(store, 2)
    assert rest(cursor) == [0, 1]


def test_the_end_lies_behind_what_the_region_hides(store: Store) -> None:
    grow(store, 3, entity="other")
    cursor = store.cursor(Region(entity="order"), start="end", name="mine")
    grow(store, 1)
    cursor.close()
    assert rest(store.cursor(Region(entity="order"), name="mine")) == [3]


@pytest.mark.parametrize("start", [0, 3, "end"])
def test_the_start_of_a_new_name_is_kept_without_a_commit(journal: Journal, start: Loose) -> None:
    grow(journal.store, 5)
    wanted = {0: [1, 2, 3, 4, 5], 3: [4, 5], "end": [5]}[start]
    journal.store.cursor(EVERYTHING, name="mine", start=start)
    for life in (journal.kill, journal.cut_power, journal.reopen):
        store = life()
        if store.stats().events == 5:
            grow(store, 1)
            store.sync()
        cursor = store.cursor(EVERYTHING, name="mine", start="beginning")
        assert rest(cursor) == wanted
        cursor.close()


def test_the_start_of_a_known_name_is_passed_over(store: Store) -> None:
    grow(store, 5)
    store.cursor(EVERYTHING, name="mine", start=2).close()
    assert rest(store.cursor(EVERYTHING, name="mine", start=4)) == [3, 4]


@pytest.mark.parametrize("start", ["middle", 1.5, None, True, b"end"])
@pytest.mark.parametrize("name", [None, "mine"])
def test_what_is_no_start_is_refused(store: Store, start: Loose, name: str | None) -> None:
    grow(store, 3)
    with pytest.raises(InvalidRequestError, match="start"):
        store.cursor(EVERYTHING, name=name, start=start)
    assert store.places() == []


def test_a_start_ahead_of_the_newest_event_is_refused(store: Store) -> None:
    grow(store, 3)
    with pytest.raises(InvalidRequestError, match="at most 2"):
        store.cursor(EVERYTHING, start=3)


def test_a_start_behind_another_event_is_stale(store: Store) -> None:
    place = grow(store, 3)[1].place
    other = Place(1, bytes(32))
    with pytest.raises(StalePlaceError) as caught:
        store.cursor(EVERYTHING, name="mine", start=other)
    assert (caught.value.given, caught.value.found) == (other, place)
    assert store.places() == []


# What a poll costs ---------------------------------------------------------------------------------------------------


def test_a_poll_costs_what_it_returns(journal: Journal) -> None:
    grow(journal.store, 2000)
    store = journal.reopen()
    cursor = store.cursor(EVERYTHING)

    def reads(limit: int) -> int:
        before = journal.files.calls["pread"]
        assert len(cursor.poll_batch(limit)) == limit
        return journal.files.calls["pread"] - before

    assert sum(reads(1) for _ in range(500)) <= 500 + 256  # what is read ahead is delivered without another read
    assert reads(100) <= 100 + 256
    before = journal.files.calls["pread"]
    assert len(cursor.poll_batch(5000)) == 1400
    assert journal.files.calls["pread"] - before <= 1400
    for _ in range(100):
        assert cursor.poll() is None
    assert journal.files.calls["pread"] - before <= 1400


def test_a_poll_of_a_sparse_region_reads_no_frame_of_others(journal: Journal) -> None:
    store = journal.store
    for _ in range(20):
        grow(store, 100, entity="other")
        grow(store, 1)
    store = journal.reopen()
    cursor = store.cursor(Region(entity="order"))
    before = journal.files.calls["pread"]
    assert len(rest(cursor)) == 20
    assert journal.files.calls["pread"] - before <= 20


# Holding ---------------------------------------------------------------------------------------------------------


def test_a_name_is_held_by_one_cursor_at_a_time(store: Store) -> None:
    first = store.cursor(EVERYTHING, name="mine")
    with pytest.raises(PlaceConflictError) as caught:
        store.cursor(EVERYTHING, name="mine")
    assert caught.value.name == "mine"
    assert not caught.value.retryable
    store.cursor(EVERYTHING, name="other").close()
    first.close()
    first.close()
    store.cursor(EVERYTHING, name="mine").close()


def test_a_cursor_that_nobody_refers_to_lets_go_of_its_name(store: Store) -> None:
    cursor = store.cursor(EVERYTHING, name="mine")
    grow(store, 1)
    assert cursor.poll() is not None
    cursor.commit()
    del cursor
    gc.collect()
    assert store.cursor(EVERYTHING, name="mine").poll() is None


@pytest.mark.usefixtures("switching")
def test_of_many_that_ask_for_a_name_at_once_one_gets_it(store: Store) -> None:
    for number in range(20):
        name = f"number {number}"
        found = race(6, lambda _, name=name: store.cursor(EVERYTHING, name=name))  # type: ignore[misc]
        held = [each for each in found if isinstance(each, Cursor)]
        assert len(held) == 1
        assert all(isinstance(each, PlaceConflictError) for each in found if each is not held[0])
    assert len(store.places()) == 20


NAMES = [
    "x",
    "n" * 1024,
    "ä" * 512,
    "日本 👍",
    "C:\\windows",
    "~root",
    ".batpak.lock",
    "$HOME `ls` *?[a]",
    " ",
    "mine.ckpt",
    "cursors",
    "-",
    "%2e%2e%2f",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_any_text_that_an_entity_may_be(tmp_path: Path, name: str) -> None:
    for number in range(2):
        with Store.open(tmp_path / "journal") as store:
            grow(store, 2)
            with store.cursor(EVERYTHING, name=name) as cursor:
                assert cursor.name == name
                assert rest(cursor) == [2 * number, 2 * number + 1]
                cursor.commit()
            assert [place.name for place in store.places()] == [name]
            store.wait_for(name, 2 * number + 1, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal"]
    (file,) = (tmp_path / "journal" / "cursors").iterdir()
    assert len(file.name) == 32 + len(".place")


@pytest.mark.parametrize(
    "name", ["", "a/b", "../x", "a\0b", "a\nb", "n" * 1025, "ä" * 513, "a|b", "a=b", "\ud800", 7, b"x"]
)
def test_any_other_name_is_refused(store: Store, name: Loose) -> None:
    for call in (
        lambda: store.cursor(EVERYTHING, name=name),
        lambda: store.reset_place(name, None),
        lambda: store.delete_place(name),
        lambda: store.wait_for(name, 0, 0),
    ):
        with pytest.raises(InvalidRequestError, match="name"):
            call()
    assert store.places() == []


def test_names_that_differ_in_case_or_form_are_different(store: Store) -> None:
    names = ["mine", "Mine", "mine ", "é", "e\u0301"]
    grow(store, 5)
    for number, name in enumerate(names):
        with store.cursor(EVERYTHING, name=name) as cursor:
            rest(cursor, number + 1)
            cursor.commit()
    assert {place.name: place.place.global_sequence for place in store.places() if place.place} == {
        name: number for number, name in enumerate(names)
    }
