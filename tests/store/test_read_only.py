"""Read-only stores: beside a running writer, in other processes, through rotations, kills and restarts."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from threading import get_ident

import pytest

from batpak import (
    CorruptStoreError,
    EventNotFoundError,
    ReadOnlyStore,
    ReentrantCallError,
    Region,
    StorageError,
    Store,
    StoreClosedError,
    StoreConfig,
)
from batpak.reading import Reading
from batpak.storage.files import RealReadFile
from batpak.storage.scan import Walk
from batpak.testing.faulty import FaultyFiles
from tests.store.conftest import Driver
from tests.store.journals import (
    EVERYTHING,
    LONG,
    ORDER,
    PLACED,
    Journal,
    Loose,
    Task,
    all_facts,
    close_anyhow,
    new_events,
    patient,
    payloads,
    until,
)
from tests.store.processes import start_python, told


def reader_of(journal: Journal, config: StoreConfig | None = None) -> ReadOnlyStore:
    return ReadOnlyStore(journal.disk.beside(), config or journal.config)


# The type --------------------------------------------------------------------------------------------------------


def test_it_has_every_read_and_no_write() -> None:
    names = {name for name in dir(ReadOnlyStore) if not name.startswith("_")}
    reads = {name for name in dir(Reading) if not name.startswith("_")}
    assert reads <= names
    writes = {"append", "append_batch", "append_reaction", "sync"}
    assert not names & writes
    assert writes <= set(dir(Store))
    assert names - reads == {"close", "forget_parent", "open", "refresh", "stats"}


def test_it_reads_what_a_writer_reads(journal: Journal) -> None:
    journal.store.append_batch(new_events(*range(20)))
    with reader_of(journal) as reader:
        assert all_facts(reader) == all_facts(journal.store)
        assert reader.verify_chain() == journal.store.verify_chain()
        assert reader.stats().events == 20
        assert repr(reader) == "<ReadOnlyStore 'memory' open>"
    assert repr(reader) == "<ReadOnlyStore 'memory' closed>"


def test_it_changes_nothing_and_needs_no_lock(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.append_batch(new_events(*range(5)), durable=True)
        before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
        readers = [Store.open_read_only(tmp_path) for _ in range(3)]
        for reader in readers:
            assert payloads(reader) == list(range(5))
            reader.refresh()
            reader.close()
        after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
        assert after == before


def test_a_torn_end_is_passed_over_and_left_where_it_is(journal: Journal) -> None:
    journal.store.append_batch(new_events(*range(3)), durable=True)
    end = journal.store._system.writer.journal.end
    journal.disk.open_write("000001.fbat").pwrite(b"torn torn torn", end)
    image = journal.disk.copy()
    before = image.read_bytes("000001.fbat", 1 << 24)
    with ReadOnlyStore(image.beside(), journal.config) as reader:
        assert payloads(reader) == [0, 1, 2]
        assert reader.refresh() == 2
    assert image.read_bytes("000001.fbat", 1 << 24) == before
    assert image.list("quarantine") == []


def test_every_call_on_a_closed_reader_says_so(journal: Journal) -> None:
    receipt = journal.store.append(ORDER, PLACED, 1)
    reader = reader_of(journal)
    reading = reader.read()
    reader.close()
    reader.close()
    calls: list[Callable[[], object]] = [
        lambda: reader.get(receipt.event_id),
        lambda: reader.query(Region()),
        reader.read,
        lambda: next(reading),
        lambda: reader.stream("order:42"),
        lambda: reader.latest("order:42"),
        reader.refresh,
        reader.stats,
        reader.verify_chain,
    ]
    for call in calls:
        with pytest.raises(StoreClosedError):
            call()


# Following -------------------------------------------------------------------------------------------------------


def test_a_reader_sees_nothing_new_until_it_refreshes(journal: Journal) -> None:
    store = journal.store
    store.append(ORDER, PLACED, 0)
    with reader_of(journal) as reader:
        receipt = store.append(ORDER, PLACED, 1)
        assert payloads(reader) == [0]
        with pytest.raises(EventNotFoundError):
            reader.get(receipt.event_id)
        assert reader.refresh() == 1
        assert reader.get(receipt.event_id).payload == 1
        assert reader.refresh() == 1
        store.append_batch(new_events(2, 3))
        reading = reader.read()
        assert next(reading).payload == 0
        assert reader.refresh() == 3
        assert [event.payload for event in reading] == [1]  # what began before the refresh stays as it was
        assert payloads(reader) == [0, 1, 2, 3]


def test_an_empty_store_is_followed_from_its_beginning(journal: Journal) -> None:
    with reader_of(journal) as reader:
        assert reader.refresh() == -1
        assert payloads(reader) == []
        assert reader.stats().events == 0
        journal.store.append(ORDER, PLACED, 0)
        assert reader.refresh() == 0
        assert payloads(reader) == [0]


@pytest.mark.parametrize("run_events", [5, 50, 100_000])
def test_rotations_runs_reopens_and_kills_are_followed(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch, run_events: int
) -> None:
    monkeypatch.setattr("batpak.actors.index.RUN_EVENTS", run_events)
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 7)
    random = Random(run_events)
    with Journal(replace(config, segment_bytes=4096)) as journal:
        # A kill leaves the directory as it is: the reader stays on it.
        readers = [reader_of(journal), reader_of(journal, replace(config, driver="threaded"))]
        expected: list[Loose] = []
        for _ in range(60):
            size = random.choice([1, 1, 2, 9])
            items = [f"{len(expected) + number}:{'x' * random.randrange(300)}" for number in range(size)]
            expected += items
            journal.store.append_batch(new_events(*items), durable=random.random() < 0.1)
            if random.random() < 0.1:
                journal.reopen()
            for reader in readers:
                if random.random() < 0.6:
                    assert reader.refresh() == len(expected) - 1
                    assert payloads(reader, after=len(expected) - 20) == expected[-19:]
        for reader in readers:
            reader.refresh()
            assert all_facts(reader) == all_facts(journal.store)
            assert reader.verify_chain().intact
            reader.close()


def test_a_refresh_costs_what_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    here = get_ident()
    original = RealReadFile.pread

    def counted(self: RealReadFile, length: int, offset: int) -> bytes:
        data = original(self, length, offset)
        if get_ident() == here:  # the writer's index thread reads too, when it writes a run
            read.append(len(data))
        return data

    with Store.open(tmp_path, config=StoreConfig(segment_bytes=256 * 1024)) as store:
        store.append_batch(new_events(*["x" * 500] * 2000))
        with Store.open_read_only(tmp_path) as reader:
            monkeypatch.setattr(RealReadFile, "pread", counted)
            store.append_batch(new_events(*["x" * 500] * 1000))
            read.clear()
            assert reader.refresh() == 2999
            assert 550_000 < sum(read) < 1_700_000  # a last block of 1 MiB may reach into reserved space
            for _ in range(3):
                store.append(ORDER, PLACED, "one more")
                read.clear()
                reader.refresh()
                assert sum(read) < 60_000
            assert reader.stats().events == 3003


def test_a_batch_that_is_half_written_is_not_seen(config: StoreConfig) -> None:
    with Journal(config) as journal:
        store = journal.store
        store.append(ORDER, PLACED, 0)
        start = store._system.writer.journal.end
        store.append_batch(new_events(1, 2, 3))
        end = store._system.writer.journal.end
        whole = journal.disk.open_read("000001.fbat").pread(end - start, start)
        image = journal.disk.copy()
        file = image.open_write("000001.fbat")
        file.pwrite(bytes(end - start), start)
        with ReadOnlyStore(image.beside(), config) as reader:
            for size in range(0, end - start, 5):  # the writer's write becomes visible bit by bit
                file.pwrite(whole[:size], start)
                assert reader.refresh() == 0
                assert payloads(reader) == [0]
            file.pwrite(whole, start)
            assert reader.refresh() == 3
            assert payloads(reader) == [0, 1, 2, 3]


def test_damage_is_told_and_what_was_seen_stays(journal: Journal) -> None:
    journal.store.append_batch(new_events(*range(3)))
    reader = reader_of(journal)
    records = list(journal.store._view().select(EVERYTHING, None, None))
    journal.store.append(ORDER, PLACED, 3, durable=True)
    record = list(journal.store._view().select(EVERYTHING, None, None))[-1]
    file = journal.disk.open_write("000001.fbat")
    byte = file.pread(1, record.offset + 30)
    file.pwrite(bytes([byte[0] ^ 1]), record.offset + 30)
    for _ in range(2):
        with pytest.raises(CorruptStoreError) as caught:
            reader.refresh()
        assert (caught.value.file, caught.value.offset) == ("000001.fbat", record.offset)
        assert payloads(reader) == [0, 1, 2]
    file.pwrite(byte, record.offset + 30)
    assert reader.refresh() == 3
    assert payloads(reader) == [0, 1, 2, 3]
    assert len(records) == 3
    reader.close()


@pytest.mark.parametrize("operation", ["list", "open_read", "pread", "size"])
@pytest.mark.parametrize("call", range(1, 7))
def test_a_refresh_that_the_disk_refuses_is_repeated_without_harm(
    config: StoreConfig, operation: str, call: int
) -> None:
    config = replace(config, segment_bytes=4096)
    with Journal(config) as journal:
        journal.store.append_batch(new_events(*range(3)))
        files = FaultyFiles(journal.disk.beside())
        with ReadOnlyStore(files, config) as reader:
            for number in range(12):
                journal.store.append_batch(new_events(*[[number, "x" * 400]] * 3))
            expected = all_facts(journal.store)
            files.fail(operation, errno.EMFILE, call=call)
            try:
                reader.refresh()
            except StorageError as error:
                assert error.errno == errno.EMFILE  # noqa: PT017 - not every operation comes so often
                assert all_facts(reader) == expected[: len(all_facts(reader))]
            files.heal()
            assert reader.refresh() == 38
            assert all_facts(reader) == expected


def test_a_segment_that_was_begun_withdrawn_and_begun_anew_is_followed(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(replace(config, segment_bytes=4096)) as journal:
        store = journal.store
        store.append(ORDER, PLACED, b"x" * 3000)
        with reader_of(journal) as reader:
            original = journal.files.remove

            def remove(name: str) -> bool:
                assert reader.refresh() == 0  # it has seen the segment that goes now
                return original(name)

            monkeypatch.setattr(journal.files, "remove", remove)
            journal.files.fail("pwrite", errno.EIO, name="000002.fbat", after=True)
            with pytest.raises(StorageError):
                store.append(ORDER, PLACED, b"y" * 3000)
            monkeypatch.undo()
            assert reader.stats().segments == 2
            store.append(ORDER, PLACED, b"z" * 100)
            assert reader.refresh() == 1
            store.append(ORDER, PLACED, b"y" * 3000)
            assert reader.refresh() == 2
            assert [event.payload for event in reader.read()] == [b"x" * 3000, b"z" * 100, b"y" * 3000]


def test_readers_in_threads_refresh_and_read_at_once(driver: Driver) -> None:
    config = StoreConfig(driver=driver, segment_bytes=64 * 1024)
    with Journal(config) as journal:
        done: list[bool] = []
        with reader_of(journal) as reader:

            def follow() -> int:
                last = 0
                while not done:
                    seen = reader.refresh() + 1
                    assert seen >= last
                    assert seen % 5 == 0
                    found = payloads(reader, after=seen - 11)
                    assert len(found) >= min(10, seen)
                    last = seen
                return last

            tasks = [Task(follow) for _ in range(3)]
            for number in range(300):
                journal.store.append_batch(new_events(*range(number, number + 5)))
            until(lambda: reader.stats().events == 1500, "reader that has caught up")
            done.append(True)
            assert [task.outcome() for task in tasks]
            assert reader.refresh() == 1499


def test_a_refresh_from_within_a_refresh_is_refused_and_a_close_put_off(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.store.append(ORDER, PLACED, 0)
    reader = reader_of(journal)
    journal.store.append(ORDER, PLACED, 1)
    errors: list[Exception] = []

    def handler(*_: object) -> None:  # as a signal handler would be run, somewhere in the middle
        monkeypatch.undo()
        try:
            reader.refresh()
        except ReentrantCallError as error:
            errors.append(error)
        reader.close()

    original = Walk.__iter__

    def interrupted(self: Walk) -> Loose:
        handler()
        return original(self)

    monkeypatch.setattr(Walk, "__iter__", interrupted)
    with pytest.raises(StoreClosedError):
        reader.refresh()  # it did its work, and then the close that was put off came
    assert len(errors) == 1
    with pytest.raises(StoreClosedError):
        reader.query(Region())


# Another process -------------------------------------------------------------------------------------------------


WRITER = """
import os, sys
from random import Random
from threading import get_ident
from batpak import *
directory, life = sys.argv[1], int(sys.argv[2])
random = Random(life)
config = StoreConfig(segment_bytes=16 * 1024, sync_every_events=200)
with Store.open(directory, config=config) as store:
    latest = store.latest("count:all")
    batch = 0 if latest is None else next(store.read_stream("count:all", reverse=True, limit=1)).payload[0] + 1
    print(batch, flush=True)
    while True:
        size = random.choice([1, 1, 3, 10])
        place, kind = Coordinate("count:all", "test"), EventKind(1, 1)
        items = [NewEvent(place, kind, [batch, number, size, "x" * random.randrange(200)]) for number in range(size)]
        if size == 1:
            store.append(items[0].coordinate, items[0].kind, items[0].payload, durable=random.random() < 0.02)
        else:
            store.append_batch(items)
        batch += 1
"""


def check_prefix(reader: ReadOnlyStore, seen: int, last: Loose) -> tuple[int, Loose]:
    """Check what has come behind the first *seen* events; (events seen, the last one's payload)."""
    events = list(reader.read(after=seen - 1 if seen else None))
    for event in events:
        assert event.global_sequence == seen == event.sequence
        payload: Loose = event.payload
        batch, number, size, _ = payload
        if last is None:
            assert (batch, number) == (0, 0)
        elif last[1] + 1 < last[2]:
            assert (batch, number, size) == (last[0], last[1] + 1, last[2])
        else:
            assert (batch, number) == (last[0] + 1, 0)
        seen, last = seen + 1, event.payload
    if last is not None:
        assert last[1] + 1 == last[2], "a batch is not whole"
    return seen, last


@patient
def test_a_reader_follows_a_writer_that_rotates_and_is_killed_and_restarted(tmp_path: Path) -> None:
    lives, rounds = (60, 40) if LONG else (4, 10)
    seen, last, refreshes = 0, None, 0
    with Store.open(tmp_path):
        reader = Store.open_read_only(tmp_path)
    with reader:
        for life in range(lives):
            writer = start_python(WRITER, tmp_path, life)
            try:
                assert int(told(writer)) >= 0
                goal = seen + 1000
                while refreshes < rounds * (life + 1) or seen < goal:
                    assert reader.refresh() >= seen - 1
                    seen, last = check_prefix(reader, seen, last)
                    refreshes += 1
            finally:
                writer.kill()
                writer.communicate()
            reader.refresh()
            seen, last = check_prefix(reader, seen, last)
            with Store.open_read_only(tmp_path) as fresh:
                assert check_prefix(fresh, 0, None) == (seen, last)
        assert reader.verify_chain().intact
        assert reader.stats().segments > 5
        with Store.open(tmp_path) as store:
            assert store.stats().events == seen
            assert all_facts(store)[-1000:] == all_facts(reader)[-1000:]


@patient
def test_readers_that_are_opened_again_and_again_beside_a_writer_never_refuse(tmp_path: Path) -> None:
    writer = start_python(WRITER, tmp_path, 1)
    try:
        told(writer)
        seen = 0
        for _ in range(200 if LONG else 10):
            with Store.open_read_only(tmp_path) as reader:
                found = reader.stats().events
                assert found >= seen
                start = max(found - 300, 0)
                first: Loose = list(reader.read(after=start - 1, limit=1))
                if first:
                    assert check_prefix(reader, start + 1, first[0].payload)[0] == found
                seen = found
    finally:
        writer.kill()
        writer.communicate()
    close_anyhow(Store.open(tmp_path))
