"""Opening and closing: the directory, modes, reports, what close promises, and stores that nobody closed."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from batpak import (
    ActorReport,
    Diagnostics,
    InvalidConfigError,
    ReadOnlyStore,
    Receipt,
    Region,
    StalePlaceError,
    Stats,
    StorageError,
    Store,
    StoreClosedError,
    StoreConfig,
    StoreLockedError,
    WriterFailedError,
)
from batpak.living import OPEN
from batpak.storage.segment import list_segments
from batpak.testing.faulty import FaultyFiles
from batpak.testing.memory import MemoryFiles, MemoryReadFile, MemoryWriteFile
from tests.conftest import open_files
from tests.store.journals import (
    EVERYTHING,
    ORDER,
    PLACED,
    Held,
    Journal,
    Loose,
    Task,
    all_facts,
    new_events,
    payloads,
    race,
    until,
    waiting,
)

# Opening ---------------------------------------------------------------------------------------------------------


def test_open_creates_the_directory_and_only_its_owner_may_look(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "journal"
    before = os.umask(0)  # whatever the program allows
    try:
        with Store.open(directory, config=StoreConfig(segment_bytes=4096)) as store:
            for number in range(40):
                store.append(ORDER, PLACED, b"x" * 300, durable=number % 10 == 0)
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            store._system.index.write_out()
            files = [path for path in directory.rglob("*") if path.is_file()]
            assert len(files) > 5
            assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
            folders = [path for path in directory.rglob("*") if path.is_dir()]
            assert {stat.S_IMODE(path.stat().st_mode) for path in folders} <= {0o700}
    finally:
        os.umask(before)


@pytest.mark.parametrize("as_path", [str, Path, lambda path: f"{path}/../journal/"])
def test_a_directory_is_named_in_any_way(tmp_path: Path, as_path: Callable[[Path], str]) -> None:
    directory = tmp_path / "journal"
    directory.mkdir()
    with Store.open(as_path(directory)) as store:
        assert store.diagnostics().directory == str(directory)
        store.append(ORDER, PLACED, 1)
    with Store.open_read_only(as_path(directory)) as reader:
        assert payloads(reader) == [1]


def test_a_symlink_to_a_directory_is_that_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with Store.open(tmp_path / "link") as store:
        store.append(ORDER, PLACED, 1)
        with pytest.raises(StoreLockedError):
            Store.open(tmp_path / "real")
    assert (tmp_path / "real" / "000001.fbat").exists()


def test_a_new_store_writes_nothing_that_looks_like_an_event(journal: Journal) -> None:
    assert list_segments(journal.disk.list()) == []
    assert journal.store.query(EVERYTHING) == []
    assert journal.store.sync() == -1
    for store in journal.lives():
        assert store.stats() == Stats(0, 0, -1, -1, 0, 0)
        assert store.latest("order:42") is None
    assert list_segments(journal.disk.list()) == []


def test_the_format_is_chosen_once(tmp_path: Path) -> None:
    one, two = StoreConfig(segment_format=1), StoreConfig(segment_format=2)
    with Store.open(tmp_path, config=one) as store:
        store.append(ORDER, PLACED, 1)
    with Store.open(tmp_path) as store:
        store.append(ORDER, PLACED, 2)
        assert {meta.version for meta in store._catalog.metas()} == {1}
    with Store.open(tmp_path, config=two) as store:
        store.append(ORDER, PLACED, 3)
    with pytest.raises(InvalidConfigError) as caught:
        Store.open(tmp_path, config=one)
    assert caught.value.field == "segment_format"
    with Store.open(tmp_path) as store:
        store.append(ORDER, PLACED, 4, expected_sequence=2)
        assert payloads(store) == [1, 2, 3, 4]
        assert [meta.version for meta in store._catalog.metas()][-1] == 2
        assert store.verify_chain().intact


def test_the_report_says_how_the_store_was_opened(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    report = journal.store.diagnostics().open_report
    assert (report.path, report.runs, report.tail_events, report.quarantined) == ("new", 0, 0, ())
    journal.store.append_batch(new_events(*range(20)))
    report = journal.kill().diagnostics().open_report
    assert (report.path, report.runs, report.tail_events) == ("rebuild", 0, 20)
    assert report.tail_bytes > 20 * 60
    assert [name for name, _ in report.phases]
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    journal.reopen()
    journal.store.append(ORDER, PLACED, 20)
    report = journal.kill().diagnostics().open_report
    assert (report.path, report.runs, report.tail_events) == ("runs", 1, 1)
    assert pickle.loads(pickle.dumps(report)) == report


def test_stats_and_diagnostics_say_how_far_things_have_come(driven: Journal) -> None:
    store = driven.store
    store.append_batch(new_events(*range(10)), durable=True)
    store.append(ORDER, PLACED, 10)
    stats = store.stats()
    assert (stats.events, stats.next_global_sequence, stats.visible_sequence) == (11, 11, 10)
    assert (stats.durable_sequence, stats.segments) == (9, 1)
    assert stats.bytes_on_disk == driven.disk.size("000001.fbat")
    found = store.diagnostics()
    assert found.stats == stats
    assert (found.state, found.directory, found.writer_error) == ("ok", "memory", None)
    assert {actor.name for actor in found.actors} == {"index", "writer", "reader"}
    writer = next(actor for actor in found.actors if actor.name == "writer")
    assert writer.handled >= 2
    assert (writer.queued, writer.restarts, writer.alive) == (0, 0, True)
    assert isinstance(pickle.loads(pickle.dumps(found)), Diagnostics)
    store.sync()
    assert store.stats().durable_sequence == 10
    store.close()
    closed = store.diagnostics()
    assert (closed.state, closed.stats.events, closed.stats.durable_sequence) == ("closed", 11, 10)
    assert not any(actor.alive for actor in closed.actors)
    assert all(isinstance(actor, ActorReport) for actor in closed.actors)


def test_a_store_says_whether_it_is_open(journal: Journal) -> None:
    assert repr(journal.store) == "<Store 'memory' open>"
    journal.store.close()
    assert repr(journal.store) == "<Store 'memory' closed>"


# Closing ---------------------------------------------------------------------------------------------------------


CALLS: list[Callable[[Store, Receipt], object]] = [
    lambda store, _: store.append(ORDER, PLACED, 1),
    lambda store, first: store.append_reaction(ORDER, PLACED, 1, cause=first),
    lambda store, _: store.append_batch(new_events(1)),
    lambda store, first: store.get(first.event_id),
    lambda store, first: store.get_many([first.event_id]),
    lambda store, _: store.read(),
    lambda store, _: store.query(Region()),
    lambda store, _: store.stream("order:42"),
    lambda store, _: store.read_stream("order:42"),
    lambda store, _: store.by_scope("shop"),
    lambda store, _: store.by_fact(PLACED),
    lambda store, _: store.latest("order:42"),
    lambda store, first: store.walk_ancestors(first.event_id),
    lambda store, first: store.causes(first.event_id),
    lambda store, first: store.effects(first.event_id),
    lambda store, _: store.verify_chain(),
    lambda store, _: store.sync(),
    lambda store, _: store.stats(),
    lambda store, first: store.query(Region(), after=first.place),
]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_on_a_closed_store_says_so(driven: Journal, call: Callable[[Store, Receipt], object]) -> None:
    first = driven.store.append(ORDER, PLACED, 1)
    reading = driven.store.read()
    call(driven.store, first)
    driven.store.close()
    driven.store.close()
    with pytest.raises(StoreClosedError):
        call(driven.store, first)
    with pytest.raises(StoreClosedError):
        list(reading)
    assert len(payloads(driven.reopen())) <= 2


def test_with_closes_also_when_the_body_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Store.open(tmp_path) as store:
        store.append(ORDER, PLACED, 1 // 0)
    with Store.open(tmp_path) as store:
        assert payloads(store) == []


def test_close_makes_everything_durable_and_cuts_what_was_preallocated(journal: Journal) -> None:
    journal.store.append_batch(new_events(*range(5)))
    expected = all_facts(journal.store)
    journal.store.close()
    assert journal.store.diagnostics().stats.durable_sequence == 4
    twin = journal.disk.beside()
    size = twin.size("000001.fbat")
    assert size < 4096
    assert twin.crashed().size("000001.fbat") == size
    assert all_facts(journal.cut_power()) == expected


def test_format_2_goes_on_in_the_same_segment_and_format_1_in_the_next(journal: Journal) -> None:
    for number in range(3):
        journal.store.append(ORDER, PLACED, number)
        journal.reopen()
    segments = list_segments(journal.disk.list())
    assert segments == ([1] if journal.config.segment_format == 2 else [1, 2, 3])


def test_close_answers_what_is_queued(driven: Journal) -> None:
    store = driven.store
    with Held(store) as held:
        tasks = [waiting(store, lambda number=number: store.append(ORDER, PLACED, number)) for number in range(5)]  # type: ignore[misc]
        closing = Task(store.close)
        until(lambda: store._writer.mailbox.closed, "a closed mailbox")
        with pytest.raises(StoreClosedError):
            store.append(ORDER, PLACED, "too late")
        held.release()
        assert [task.outcome().global_sequence for task in tasks] == list(range(5))
    closing.outcome()
    assert payloads(driven.reopen()) == list(range(5))


@pytest.mark.parametrize("step", ["write", "read"])
def test_close_waits_for_a_call_that_is_at_work_in_another_thread(
    driven: Journal, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = driven.store
    first = store.append(ORDER, PLACED, "first")
    arrived, leave = Event(), Event()
    cls: type = MemoryWriteFile if step == "write" else MemoryReadFile
    operation = "pwrite" if step == "write" else "pread"
    original = getattr(cls, operation)

    def slow(self: Loose, *args: Loose) -> Loose:
        if not arrived.is_set() and (step == "read" or len(args[0]) > 40):
            arrived.set()
            assert leave.wait(20)
        return original(self, *args)

    monkeypatch.setattr(cls, operation, slow)
    act = (lambda: store.append(ORDER, PLACED, "second")) if step == "write" else (lambda: store.get(first.event_id))
    task = Task(act)
    assert arrived.wait(20)
    closing = Task(store.close)
    until(lambda: store._closed is not None, "a closing store")
    closing.join(0.05)
    assert closing.is_alive()
    leave.set()
    outcome = task.outcome()
    closing.outcome()
    assert payloads(driven.reopen()) == (["first", "second"] if step == "write" else ["first"])
    assert driven.store.get(outcome.event_id) is not None


def test_calls_in_a_race_with_close_are_done_or_refused(driven: Journal) -> None:
    for _ in range(8):
        store = driven.store
        before = len(payloads(store))

        def work(number: int, store: Store = store) -> Loose:
            if number == 0:
                return store.close()
            done = []
            for count in range(200):
                try:
                    done.append(store.append(ORDER, PLACED, [number, count], durable=count % 50 == 9).event_id)
                    store.get(done[-1])
                    store.stats()
                    assert store.diagnostics().state in {"ok", "closed"}
                except StoreClosedError:
                    break
            return done

        outcomes = race(4, work)
        assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
        written = {event_id for done in outcomes[1:] for event_id in done}
        store = driven.reopen()
        assert written <= {event.event_id for event in store.read()}
        assert len(payloads(store)) - before == len(written)
        assert store.verify_chain().intact


def test_two_threads_that_close_at_once_both_return_when_it_is_done(driven: Journal) -> None:
    driven.store.append(ORDER, PLACED, 1)
    seen: list[bool] = []

    def close(_: int) -> None:
        driven.store.close()
        seen.append(driven.disk._open)

    assert race(3, close) == [None] * 3
    assert seen == [False] * 3


@pytest.mark.parametrize("operation", ["sync_data", "truncate"])
def test_a_close_that_the_disk_refuses_says_so_and_closes_all_the_same(driven: Journal, operation: str) -> None:
    driven.store.append(ORDER, PLACED, 1)
    driven.files.fail(operation, errno.EIO, name="*.fbat")
    with pytest.raises(WriterFailedError if operation == "sync_data" else StorageError):
        driven.store.close()
    driven.store.close()
    assert driven.store.diagnostics().state == "closed"
    assert payloads(driven.reopen()) == [1]


def test_a_close_that_is_interrupted_can_be_repeated(driven: Journal) -> None:
    driven.store.append(ORDER, PLACED, 1)
    driven.files.fail("sync_data", KeyboardInterrupt(), name="*.fbat")
    with pytest.raises(KeyboardInterrupt):
        driven.store.close()
    with pytest.raises(StoreClosedError):
        driven.store.append(ORDER, PLACED, 2)
    assert driven.store in OPEN  # the end of the process would close it
    driven.store.close()
    assert driven.store not in OPEN
    assert payloads(driven.cut_power()) == [1]


# Openings that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation", ["lock", "list", "open_write", "sync", "sync_folder", "create", "pwrite", "replace"]
)
@pytest.mark.parametrize("call", [1, 2])
def test_an_open_that_the_disk_refuses_is_a_typed_error_and_changes_nothing(operation: str, call: int) -> None:
    with Journal() as journal:
        journal.store.append_batch(new_events(1, 2, 3))
        journal.store.close()
        files = FaultyFiles(disk := journal.disk.copy())
        files.fail(operation, errno.EACCES, call=call)
        try:
            Store(files, StoreConfig()).close()
        except StorageError as error:
            assert error.errno == errno.EACCES  # noqa: PT017 - not every operation comes twice
        store = Store(disk.beside(), StoreConfig())
        assert payloads(store) == [1, 2, 3]
        store.close()


def test_a_store_that_did_not_open_is_collected_in_silence() -> None:
    files = MemoryFiles()
    with Store(files, StoreConfig()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(StoreLockedError):
                Store(files.beside(), StoreConfig())
            gc.collect()
        with pytest.raises(StoreLockedError) as caught:
            Store(files.beside(), StoreConfig())
        assert caught.value.pid == os.getpid()


# Nobody closed it ------------------------------------------------------------------------------------------------


def test_a_store_that_nobody_holds_any_more_is_closed_with_a_warning(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.append(ORDER, PLACED, 1)
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031 - either may be the end
        del store
        gc.collect()
    with Store.open(tmp_path) as store:
        assert payloads(store) == [1]
    reader = Store.open_read_only(tmp_path)
    assert isinstance(reader, ReadOnlyStore)
    with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031 - either may be the end
        del reader
        gc.collect()


def test_a_closed_store_holds_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    before = open_files()
    with Store.open(tmp_path) as store:
        store.append(ORDER, PLACED, 1)
    with Store.open(tmp_path) as store, Store.open_read_only(tmp_path) as reader:
        assert payloads(store) == payloads(reader) == [1]
        assert len(open_files()) > len(before)
    assert open_files() == before
    assert (store.diagnostics().state, repr(reader)[-7:]) == ("closed", "closed>")  # they are still here


def test_many_stores_at_once_do_not_mix(tmp_path: Path) -> None:
    stores = [Store.open(tmp_path / str(number)) for number in range(5)]
    try:
        for number, store in enumerate(stores):
            store.append(ORDER, PLACED, number, idempotency_key="the same")
        assert [payloads(store) for store in stores] == [[number] for number in range(5)]
        with pytest.raises(StalePlaceError):
            stores[0].query(Region(), after=next(stores[1].read()).place)
    finally:
        for store in stores:
            store.close()
