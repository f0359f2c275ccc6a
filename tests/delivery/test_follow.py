"""Followers: history, then what comes, without gap or duplicate at the seam, from whichever process it comes."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from threading import Event

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batpak import (
    InvalidRequestError,
    Place,
    ReadOnlyStore,
    Region,
    StalePlaceError,
    Store,
    StoreClosedError,
    StoreConfig,
    StoredEvent,
)
from batpak.delivery.cursor import Follower
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from tests.delivery.growing import grow, waits
from tests.store.journals import EVERYTHING, LONG, ORDER, PLACED, Journal, Loose, Task, facts, new_events, until
from tests.store.processes import start_python, told

no_backstop = pytest.mark.usefixtures("no_backstop")


def there(follower: Follower, limit: int = 10_000) -> list[int]:
    """Return the global sequences of what is there by now."""
    return [event.global_sequence for event in follower.poll_batch(limit)]


# From any place --------------------------------------------------------------------------------------------------

ENTITIES = ["order:42", "order", "other"]
COUNTS = st.integers(1, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), COUNTS, st.sampled_from(ENTITIES)),
        st.tuples(st.just("beside"), COUNTS, st.sampled_from(ENTITIES)),
        st.tuples(st.just("poll"), st.integers(1, 30), st.none()),
        st.tuples(st.just("poll"), st.just(1), st.none()),
    ),
    max_size=12,
)
REGIONS = st.sampled_from([
    EVERYTHING,
    EVERYTHING,
    Region(entity="order"),
    Region(entity="order:42", sequences=(2, 20)),
    Region(scope="shop", kind=PLACED),
    Region(entity="nobody"),
])  # fmt: skip


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the index write out and begin anew after a few events, so that a seam lies anywhere."""
    monkeypatch.setattr("batpak.actors.index.RUN_EVENTS", 24)


def delivered_beside(follower: Follower, store: Store, count: int, entity: str) -> list[StoredEvent]:
    """Poll while another thread appends."""
    begun = Event()

    def write() -> None:
        for number in range(count):
            store.append_batch(new_events(number, entity=entity))
            begun.set()

    writing = Task(write)
    begun.wait(20)
    got: list[StoredEvent] = []
    while not writing.finished:
        got += follower.poll_batch(3)
    writing.outcome()
    return got


@pytest.mark.usefixtures("small_runs")
@settings(max_examples=5000 if LONG else 500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40), st.integers(-2, 45), st.booleans(), REGIONS, STEPS)
def test_a_follower_from_any_place_delivers_what_a_read_from_there_returns(
    history: int, after: int, as_place: bool, region: Region, steps: list[tuple[str, int, str]]
) -> None:
    with Journal(StoreConfig(clock=HandClock(), segment_bytes=4096)) as journal:
        store = journal.store
        receipts = grow(store, history)
        behind: int | Place | None = None if after == -2 else after
        if as_place and 0 <= after < history:
            behind = receipts[after].place
        follower = store.follow(region, after=behind)
        got: list[StoredEvent] = []
        for name, count, entity in steps:
            if name == "append":
                store.append_batch(new_events(*range(count), entity=entity))
            elif name == "beside":
                got += delivered_beside(follower, store, count, entity)
            else:
                got += follower.poll_batch(count)
        got += follower.poll_batch(10_000)
        wanted = list(store.read(region, after=behind))
        assert [facts(event) for event in got] == [facts(event) for event in wanted]


@no_backstop
def test_a_follower_that_waits_while_many_write_misses_nothing() -> None:
    with Journal(StoreConfig(segment_bytes=16_384)) as journal:
        store, total = journal.store, 20 + 3 * 150
        grow(store, 20)
        followers = [store.follow(EVERYTHING) for _ in range(3)]

        def consume(follower: Follower) -> list[int]:
            return [event.global_sequence for event, _ in zip(follower, range(total), strict=False)]

        consuming = [Task(lambda follower=follower: consume(follower)) for follower in followers]  # type: ignore[misc]
        writing = [Task(lambda: [store.append(ORDER, PLACED, each) for each in range(150)]) for _ in range(3)]
        for task in writing:
            task.outcome()
        grow(store, 1)  # `zip` takes one more before it stops
        assert [task.outcome() for task in consuming] == [list(range(total))] * 3


def test_a_page_goes_on_behind_the_token_that_it_was_sent(store: Store) -> None:
    grow(store, 10)
    first = store.follow(EVERYTHING)
    tokens = [str(event.place) for event in first.poll_batch(6)]
    for number, token in enumerate(tokens):
        assert there(store.follow(EVERYTHING, after=Place.parse(token))) == list(range(number + 1, 10))


def test_a_follower_behind_what_is_not_written_yet_begins_behind_it(store: Store) -> None:
    grow(store, 3)
    follower = store.follow(EVERYTHING, after=5)
    for number in range(3, 9):
        assert there(follower) == ([] if number < 7 else [number - 1])
        grow(store, 1)
    assert there(follower) == [8]


def test_a_follower_behind_another_event_is_stale(journal: Journal) -> None:
    grow(journal.store, 3)
    journal.store.sync()
    lost = grow(journal.store, 2)[-1].place
    store = journal.cut_power()
    with pytest.raises(StalePlaceError) as caught:
        store.follow(EVERYTHING, after=lost)
    assert (caught.value.given, caught.value.found) == (lost, None)
    mine = store.append_batch(new_events("a", "b", "c", entity="another"))
    with pytest.raises(StalePlaceError) as caught:
        store.follow(EVERYTHING, after=lost)
    assert (caught.value.given, caught.value.found) == (lost, mine[1].place)
    assert there(store.follow(EVERYTHING, after=mine[1].place)) == [5]


@pytest.mark.parametrize(
    ("region", "options"),
    [
        (None, {}),
        ("order", {}),
        (Region(), {"after": "1"}),
        (Region(), {"after": True}),
        (Region(), {"after": 1.5}),
        (Region(), {"durable": 1}),
        (Region(), {"durable": None}),
    ],
)
def test_what_cannot_be_followed_is_refused_at_once(store: Store, region: Loose, options: Loose) -> None:
    with pytest.raises(InvalidRequestError):
        store.follow(region, **options)


# Waiting and ending ----------------------------------------------------------------------------------------------


@no_backstop
def test_an_iteration_waits_for_more_and_ends_with_close(store: Store) -> None:
    grow(store, 2)
    follower = store.follow(Region(entity="order"))
    got: list[int] = []
    task = Task(lambda: got.extend(event.global_sequence for event in follower))
    until(lambda: waits(store), "follower that waits")
    assert got == [0, 1]
    grow(store, 1, entity="other")
    grow(store, 1)
    until(lambda: got == [0, 1, 3], "later event")
    until(lambda: waits(store), "follower that waits again")
    follower.close()
    task.outcome()
    assert not waits(store)
    assert there(follower) == []


@no_backstop
@pytest.mark.parametrize("durable", [False, True])
def test_a_store_that_closes_ends_whoever_follows(store: Store, durable: bool) -> None:
    task = Task(lambda: next(store.follow(EVERYTHING, durable=durable)))
    until(lambda: waits(store), "follower that waits")
    store.close()
    assert type(task.error()) is StoreClosedError


def test_a_closed_store_refuses(store: Store) -> None:
    follower = store.follow(EVERYTHING)
    store.close()
    for call in (follower.poll, lambda: follower.pull(1), lambda: next(follower), lambda: store.follow(EVERYTHING)):
        with pytest.raises(StoreClosedError):
            call()


def test_a_follower_that_nobody_reads_costs_the_writer_nothing(journal: Journal) -> None:
    followers = [journal.store.follow(EVERYTHING) for _ in range(3)]
    reads = journal.files.calls["pread"]
    for number in range(200):
        journal.store.append(ORDER, PLACED, number, max_wait_seconds=0)
    assert journal.files.calls["pread"] == reads
    assert not waits(journal.store)
    assert [there(follower, 3) for follower in followers] == [[0, 1, 2]] * 3


# Durable alone ---------------------------------------------------------------------------------------------------


def test_a_durable_follower_delivers_what_is_durable(store: Store) -> None:
    follower = store.follow(EVERYTHING, durable=True)
    grow(store, 3)
    assert there(follower) == []
    store.sync()
    assert there(follower, 2) == [0, 1]
    grow(store, 2)
    assert there(follower) == [2]
    store.append(ORDER, PLACED, "durable", durable=True)
    grow(store, 1)
    assert there(follower) == [3, 4, 5]
    assert there(follower) == []


@no_backstop
def test_a_durable_follower_is_woken_by_the_sync(store: Store) -> None:
    follower = store.follow(Region(entity="order"), durable=True)
    task = Task(lambda: follower.pull(10))
    until(lambda: waits(store), "follower that waits")
    grow(store, 2)
    assert waits(store)
    store.sync()
    assert [event.global_sequence for event in task.outcome()] == [0, 1]


@pytest.mark.parametrize("seed", range(8))
def test_what_a_durable_follower_has_delivered_survives_a_power_cut(seed: int) -> None:
    random = Random(seed)
    with Journal(StoreConfig(clock=HandClock(), segment_bytes=4096)) as journal:
        store = journal.store
        follower = store.follow(EVERYTHING, durable=True)
        got: list[StoredEvent] = []
        for _ in range(30):
            grow(store, random.randrange(1, 6))
            if random.random() < 0.3:
                store.sync()
            got += follower.poll_batch(random.randrange(1, 9))
        with Store(journal.disk.crashed(), journal.config) as after:
            left = list(after.read(EVERYTHING))
        assert got
        assert [facts(event) for event in got] == [facts(event) for event in left[: len(got)]]


def test_a_durable_follower_and_another_deliver_the_same(store: Store) -> None:
    durable, other = store.follow(EVERYTHING, durable=True), store.follow(EVERYTHING)
    got: list[int] = []
    for number in range(30):
        grow(store, number % 4)
        if number % 3 == 0:
            store.sync()
        got += there(durable, 5)
    store.sync()
    assert got + there(durable) == there(other)


# From a read-only store ------------------------------------------------------------------------------------------


@pytest.fixture
def reader(journal: Journal) -> Iterator[ReadOnlyStore]:
    with ReadOnlyStore(journal.disk.beside(), journal.config) as reader:
        yield reader


def test_a_reader_takes_in_what_the_writer_has_written(journal: Journal, reader: ReadOnlyStore) -> None:
    follower = reader.follow(EVERYTHING)
    got: list[int] = []
    for number in range(20):
        grow(journal.store, number % 4)
        got += [event.global_sequence for event in follower.pull(100, 0)]
    assert got == list(range(journal.store.stats().events))


def test_a_readers_durable_follower_delivers_what_is_durable(journal: Journal, reader: ReadOnlyStore) -> None:
    follower = reader.follow(EVERYTHING, durable=True)
    grow(journal.store, 3)
    assert follower.pull(9, 0) == []
    journal.store.sync()
    assert [event.global_sequence for event in follower.pull(9, 0)] == [0, 1, 2]
    grow(journal.store, 1)
    assert follower.pull(9, 0) == []
    journal.store.sync()
    assert [event.global_sequence for event in follower.pull(9, 0)] == [3]


def test_a_reader_follows_through_rotations_runs_and_reopens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batpak.actors.index.RUN_EVENTS", 32)
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    with Journal(StoreConfig(clock=HandClock(), segment_bytes=4096)) as journal:
        grow(journal.store, 10)
        with ReadOnlyStore(journal.disk.beside(), journal.config) as reader:
            follower = reader.follow(Region(entity="order"), after=4)
            got: list[int] = []
            for number in range(12):
                for _ in range(4):
                    grow(journal.store, 5)
                    grow(journal.store, 1, entity="other")
                    got += [event.global_sequence for event in follower.pull(7, 0)]
                if number % 4 == 3:
                    journal.reopen()
            while events := follower.pull(50, 0):
                got += [event.global_sequence for event in events]
            assert got == [entry.global_sequence for entry in journal.store.query(Region(entity="order"), after=4)]


def test_a_reader_that_closes_ends_whoever_follows(reader: ReadOnlyStore) -> None:
    task = Task(lambda: next(reader.follow(EVERYTHING, poll_seconds=3600)))
    until(lambda: any(bucket for table in reader._announcer._tables for bucket in table.values()), "one that waits")
    reader.close()
    assert type(task.error()) is StoreClosedError


@pytest.mark.parametrize("seconds", [0, -1, True, None, "1", float("nan"), float("inf"), 86_401])
def test_a_time_between_two_looks_out_of_its_limits_is_refused(reader: ReadOnlyStore, seconds: Loose) -> None:
    with pytest.raises(InvalidRequestError, match="poll_seconds"):
        reader.follow(EVERYTHING, poll_seconds=seconds)


def test_a_reader_refuses_a_stale_place(journal: Journal, reader: ReadOnlyStore) -> None:
    grow(journal.store, 2)
    reader.refresh()
    with pytest.raises(StalePlaceError):
        reader.follow(EVERYTHING, after=Place(1, bytes(32)))


WRITER = """
import sys
from batpak import *
life = int(sys.argv[2])
with Store.open(sys.argv[1], config=StoreConfig(segment_bytes=8192, sync_every_events=50)) as store:
    number = 0
    print("open", flush=True)
    while True:
        number += 1
        coordinate = Coordinate(f"order:{number % 5}", "shop")
        if number % 7:
            store.append(coordinate, EventKind(1, 1), {"life": life, "number": number})
        else:
            item = NewEvent(coordinate, EventKind(1, 1), {"life": life, "number": number})
            store.append_batch([item] * 5)
        if number == int(sys.argv[3]):
            store.append(coordinate, EventKind(1, 2), "the end")
            break
        if number % 50 == 0:
            print(number, flush=True)
"""


def live(directory: Path, life: int, appends: int, kill_after: int | None) -> None:
    """Let a process write, and kill it after so many lines that it printed, or let it end."""
    process = start_python(WRITER, directory, life, appends)
    assert told(process) == "open"
    if kill_after is not None:
        for _ in range(kill_after):
            told(process)
        process.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (0 if kill_after is None else -signal.SIGKILL), errors


@pytest.mark.parametrize("region", [EVERYTHING, Region(entity="order:3")])
def test_a_reader_sees_everything_while_the_writers_process_rotates_dies_and_begins_again(
    tmp_path: Path, region: Region
) -> None:
    Store.open(tmp_path).close()
    with Store.open_read_only(tmp_path) as reader:
        follower = reader.follow(region, poll_seconds=0.01)
        got: list[StoredEvent] = []

        def consume() -> None:
            for event in follower:
                got.append(event)  # looked at while it grows
                if event.payload == "the end":
                    return

        consuming = Task(consume)
        for life, kill_after in enumerate((1, 4, 2)):
            live(tmp_path, life, 100_000, kill_after)
        before = len(got)
        live(tmp_path, 9, 303, None)  # 303 % 5 == 3: the end lies in both regions
        consuming.outcome()
        assert 0 < before < len(got)
    with Store.open(tmp_path) as store:
        assert [facts(event) for event in got] == [facts(event) for event in store.read(region)]
        assert store.stats().segments > 5
        payloads: list[Loose] = [event.payload for event in got[:-1]]
        assert {payload["life"] for payload in payloads} == {0, 1, 2, 9}


def test_a_reader_in_another_process_than_the_writers_can_be_killed_at_any_time(tmp_path: Path) -> None:
    program = """
    import sys
    from batpak import *
    with Store.open_read_only(sys.argv[1]) as reader:
        for event in reader.follow(Region(), after=int(sys.argv[2]), poll_seconds=0.01):
            print(event.global_sequence, flush=True)
    """
    with Store.open(tmp_path, config=StoreConfig(segment_bytes=8192)) as store:
        grow(store, 20)
        seen = -1
        for life in range(3):
            process: subprocess.Popen[str] = start_python(program, tmp_path, seen)
            wanted = 30 * (life + 1)
            grow(store, wanted - store.stats().events)
            while seen < wanted - 1:
                line = int(told(process))
                assert line == seen + 1
                seen = line
            process.kill()
            process.communicate()
        assert store.stats().events == 90


def test_nothing_is_written_by_followers(journal: Journal) -> None:
    grow(journal.store, 5)
    journal.store.sync()
    disk: MemoryFiles = journal.disk
    changes = len(disk.journal)
    follower = journal.store.follow(EVERYTHING, after=1)
    assert there(follower) == [2, 3, 4]
    with ReadOnlyStore(disk.beside(), journal.config) as reader:
        assert [event.global_sequence for event in reader.follow(EVERYTHING).pull(9, 0)] == [0, 1, 2, 3, 4]
    assert len(disk.journal) == changes


def test_a_poll_of_a_reader_takes_in_what_the_writer_has_written(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store, Store.open_read_only(tmp_path) as reader:
        follower = reader.follow(Region())
        assert follower.poll() is None
        receipt = store.append(ORDER, PLACED, {})
        event = follower.poll()
        assert event is not None
        assert event.event_id == receipt.event_id
        assert follower.poll() is None
