"""What is on disk when: durable writes, sync, the two cadences, group commit, and an fsync that fails."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import Event
from typing import Literal

import pytest

from batpak import (
    NO_STREAM,
    BatpakError,
    Receipt,
    Region,
    Store,
    StoreClosedError,
    StoreConfig,
    WriterFailedError,
)
from batpak.actors.writer import SYNC_EARLY
from batpak.storage import watermark
from batpak.testing.clock import HandClock
from batpak.testing.faulty import FaultyFiles
from batpak.testing.memory import MemoryFiles, MemoryWriteFile
from tests.store.conftest import Driver
from tests.store.journals import (
    EVERYTHING,
    ORDER,
    PLACED,
    Journal,
    Loose,
    Task,
    all_facts,
    close_anyhow,
    hand_clock,
    new_events,
    payloads,
    race,
    until,
)


def syncs(journal: Journal) -> int:
    return journal.files.calls["sync_data"]


# Durable writes and sync -----------------------------------------------------------------------------------------


def test_a_durable_receipt_survives_a_power_cut(journal: Journal) -> None:
    first = journal.store.append(ORDER, PLACED, 1)
    second = journal.store.append(ORDER, PLACED, 2, durable=True)
    journal.store.append(ORDER, PLACED, 3)
    assert (first.durable, second.durable) == (False, True)
    store = journal.cut_power()
    assert payloads(store) == [1, 2]
    assert store.append(ORDER, PLACED, 4, expected_sequence=1).global_sequence == 2


def test_the_first_durable_receipt_of_a_new_store_survives(config: StoreConfig) -> None:
    with Journal(config) as journal:
        assert journal.store.append(ORDER, PLACED, 1, durable=True).durable
        assert payloads(journal.cut_power()) == [1]


def test_sync_covers_all_that_was_accepted_and_says_how_far(driven: Journal) -> None:
    store = driven.store
    assert store.sync() == -1
    store.append_batch(new_events(*range(5)))
    assert store.stats().durable_sequence == -1
    assert store.sync() == 4
    assert store.stats().durable_sequence == 4
    before = syncs(driven)
    assert store.sync() == 4
    assert syncs(driven) == before  # there is nothing left to do
    assert payloads(driven.cut_power()) == list(range(5))


def test_without_a_wish_nothing_is_synced(driven: Journal) -> None:
    driven.store.append(ORDER, PLACED, 0)
    before = syncs(driven)
    for number in range(200):
        driven.store.append(ORDER, PLACED, number)
    assert syncs(driven) == before


def test_a_power_cut_takes_what_was_not_synced_and_a_kill_takes_nothing(journal: Journal) -> None:
    journal.store.append(ORDER, PLACED, 1, durable=True)
    journal.store.append(ORDER, PLACED, 2)
    assert payloads(journal.kill()) == [1, 2]
    journal.store.append(ORDER, PLACED, 3)
    assert payloads(journal.cut_power()) == [1, 2]  # an open makes durable what it shows


def test_the_durable_position_is_told_in_the_first_frame_behind_it() -> None:
    with Journal(StoreConfig(clock=HandClock())) as journal:
        store = journal.store
        store.append(ORDER, PLACED, 0, durable=True)
        position = watermark.read(journal.disk)
        assert position is not None
        store.append_batch(new_events(1, 2))
        store.append(ORDER, PLACED, 3)
        told = [event.extensions for event in store.read()]
        assert told == [{}, {"durable": [1, position.offset, 1]}, {}, {}]


# Cadences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 2, 10, 64])
def test_the_journal_is_synced_every_so_many_events(driver: Driver, every: int) -> None:
    with Journal(StoreConfig(driver=driver, sync_every_events=every, clock=HandClock())) as journal:
        store = journal.store
        for number in range(200):
            store.append(ORDER, PLACED, number)
            stats = store.stats()
            assert stats.visible_sequence - stats.durable_sequence < every + (every == 1)
        assert syncs(journal) <= SYNC_EARLY * 200 / every + 4
        lost = 200 - len(payloads(journal.cut_power()))
        assert lost < every + (every == 1)


@pytest.mark.parametrize("every", [3, 10])
def test_batches_count_by_their_events(driver: Driver, every: int) -> None:
    with Journal(StoreConfig(driver=driver, sync_every_events=every, clock=HandClock())) as journal:
        for number in range(40):
            journal.store.append_batch(new_events(*range(number % 7 + 1)))
            stats = journal.store.stats()
            assert stats.visible_sequence - stats.durable_sequence < every


def test_the_oldest_event_waits_no_longer_than_the_setting_also_in_an_idle_store(driver: Driver) -> None:
    with Journal(StoreConfig(driver=driver, sync_every_seconds=0.02, clock=HandClock())) as journal:
        store, clock = journal.store, hand_clock(journal)
        for number in range(5):
            store.append(ORDER, PLACED, number)
            clock.advance(0.019)
            store.append(ORDER, PLACED, -number)
            assert store.stats().durable_sequence < 2 * number  # its time has not come
            clock.advance(0.001)
            until(lambda at=2 * number: store.stats().durable_sequence > at, "sync")  # type: ignore[misc]


def test_the_time_counts_from_the_oldest_event_that_is_not_durable(driver: Driver) -> None:
    with Journal(StoreConfig(driver=driver, sync_every_seconds=0.05, clock=HandClock())) as journal:
        store, clock = journal.store, hand_clock(journal)
        for number in range(30):  # a store that is never idle
            store.append(ORDER, PLACED, number)
            clock.advance(0.01)
        until(lambda: store.stats().durable_sequence >= 20, "sync beside a steady stream")


@pytest.mark.parametrize("real_clock", [False, True])
def test_a_reopened_store_goes_on_with_its_cadence(driver: Driver, real_clock: bool) -> None:
    config = StoreConfig(driver=driver, sync_every_seconds=0.02)
    with Journal(config) as journal:
        journal.store.append(ORDER, PLACED, 1)
        store = journal.kill() if real_clock else journal.reopen()
        store.append(ORDER, PLACED, 2)
        until(lambda: store.stats().durable_sequence == 1, "sync")


# Group commit ----------------------------------------------------------------------------------------------------


@contextmanager
def slow_sync(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Event, Event]]:
    """Hold the next fsync of a segment: (it has begun, let it go on)."""
    begun, go_on = Event(), Event()
    original = MemoryWriteFile.sync_data

    def held(self: Loose) -> None:
        if self._name.endswith(".fbat") and not begun.is_set():
            begun.set()
            assert go_on.wait(20)
        original(self)

    monkeypatch.setattr(MemoryWriteFile, "sync_data", held)
    yield begun, go_on
    go_on.set()


def test_appends_go_on_while_an_fsync_runs_and_share_the_next_one(
    driven: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = driven.store
    store.append(ORDER, PLACED, "first", durable=True)
    with slow_sync(monkeypatch) as (begun, go_on):
        leader = Task(lambda: store.append(ORDER, PLACED, "leader", durable=True))
        assert begun.wait(20)
        assert store.append(ORDER, PLACED, "meanwhile").durable is False
        assert payloads(store) == ["first", "leader", "meanwhile"]  # visible, not durable
        assert store.stats().durable_sequence == 0
        before = syncs(driven)
        followers = [Task(partial(store.append, ORDER, PLACED, number, durable=True)) for number in range(16)]
        until(lambda: store.stats().events == 19, "appends that wait for the next fsync")
        assert not any(follower.finished for follower in followers)
        go_on.set()
        assert leader.outcome().durable
        assert all(follower.outcome().durable for follower in followers)
        assert syncs(driven) - before <= 2
    assert len(payloads(driven.cut_power())) == 19


def test_64_durable_appends_at_once_cost_at_most_4_fsyncs(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(StoreConfig(driver=driver)) as journal:
        store = journal.store
        store.append(ORDER, PLACED, "first", durable=True)
        before = syncs(journal)
        with slow_sync(monkeypatch) as (begun, go_on):
            tasks = [Task(partial(store.append, ORDER, PLACED, number, durable=True)) for number in range(64)]
            assert begun.wait(20)
            until(lambda: store.stats().events == 65, "64 appends")
            go_on.set()
            assert all(task.outcome().durable for task in tasks)
        assert syncs(journal) - before <= 4


def test_a_leader_that_is_interrupted_hands_over(driven: Journal) -> None:
    driven.store.append(ORDER, PLACED, 0)
    driven.files.fail("sync_data", KeyboardInterrupt(), name="*.fbat")
    with pytest.raises(KeyboardInterrupt):
        driven.store.append(ORDER, PLACED, 1, durable=True)
    assert driven.store.append(ORDER, PLACED, 2, durable=True).durable
    assert driven.store.diagnostics().state == "ok"
    assert payloads(driven.cut_power()) == [0, 1, 2]


# An fsync that fails ---------------------------------------------------------------------------------------------


def _append(store: Store) -> object:
    return store.append(ORDER, PLACED, "never", expected_sequence=1)


WRITES: list[Callable[[Store], object]] = [
    _append,
    lambda store: store.append(ORDER, PLACED, "never", durable=True),
    lambda store: store.append_batch(new_events("never")),
    lambda store: store.append_reaction(ORDER, PLACED, "never", cause=next(store.read())),
    lambda store: store.append(ORDER, PLACED, "known", idempotency_key="known", durable=True),
    lambda store: store.sync(),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_failed_fsync_poisons_the_writer_for_good_and_reads_go_on(
    driven: Journal, write: Callable[[Store], object]
) -> None:
    store = driven.store
    store.append(ORDER, PLACED, "durable", durable=True)
    store.append(ORDER, PLACED, "known", idempotency_key="known")
    driven.disk.fail_next_sync(errno.EIO)
    with pytest.raises(WriterFailedError) as first:
        store.sync()
    assert not first.value.retryable
    expected = all_facts(store)
    count = syncs(driven)
    for _ in range(3):  # the disk works again, but what it holds is not known
        with pytest.raises(WriterFailedError) as caught:
            write(store)
        assert "Input/output error" in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)
    assert syncs(driven) == count
    assert all_facts(store) == expected
    assert store.query(EVERYTHING) == store.query(Region())
    found = store.diagnostics()
    assert found.state == "failed"
    assert found.writer_error is not None
    assert "Input/output error" in found.writer_error
    assert found.stats.durable_sequence == 0
    with pytest.raises(WriterFailedError):
        store.append_batch(new_events(1), max_wait_seconds=0)


@pytest.mark.parametrize("end", ["kill", "close", "cut_power"])
def test_a_store_with_a_failed_fsync_is_sound_when_it_is_opened_again(journal: Journal, end: str) -> None:
    store = journal.store
    store.append(ORDER, PLACED, "durable", durable=True)
    durable = all_facts(store)
    receipt = store.append(ORDER, PLACED, "lost?")
    journal.disk.fail_next_sync()
    with pytest.raises(WriterFailedError):
        store.sync()
    if end == "close":
        close_anyhow(store)
        store = journal._open(journal.disk.beside(), {})
    else:
        store = getattr(journal, end)()
    found = all_facts(store)
    # The page cache is dropped before anything is believed, so what the disk lost is not shown.
    assert found == durable
    assert store.verify_chain().intact
    again = store.append(ORDER, PLACED, "again", expected_sequence=0, durable=True)
    assert again.global_sequence == receipt.global_sequence
    assert payloads(journal.cut_power()) == ["durable", "again"]


def test_everybody_who_waits_for_a_failed_fsync_is_told(driven: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    store = driven.store
    store.append(ORDER, PLACED, "first", durable=True)
    with slow_sync(monkeypatch) as (begun, go_on):
        tasks = [Task(partial(store.append, ORDER, PLACED, number, durable=True)) for number in range(8)]
        assert begun.wait(20)
        until(lambda: store.stats().events == 9, "eight appends")
        driven.disk.fail_next_sync()
        go_on.set()
        errors = [task.error() for task in tasks]
    assert {type(error) for error in errors} == {WriterFailedError}
    assert len(payloads(store)) == 9
    assert driven.cut_power().stats().events == 1


def test_a_failed_fsync_of_the_cadence_is_told_to_the_next_write(driver: Driver) -> None:
    with Journal(StoreConfig(driver=driver, sync_every_seconds=0.01)) as journal:
        store = journal.store
        store.append(ORDER, PLACED, 0, durable=True)
        journal.disk.fail_next_sync()
        store.append(ORDER, PLACED, 1)
        until(lambda: store.diagnostics().state == "failed", "failed writer")
        with pytest.raises(WriterFailedError):
            store.append(ORDER, PLACED, 2)
        assert payloads(store) == [0, 1]


def test_a_failed_fsync_of_a_rotation_poisons_too(config: StoreConfig) -> None:
    with Journal(replace(config, segment_bytes=4096)) as journal:
        store = journal.store
        store.append(ORDER, PLACED, b"x" * 3000)
        journal.files.fail("sync_data", errno.EIO, name="000001.fbat")
        for _ in range(2):
            with pytest.raises(WriterFailedError):
                store.append(ORDER, PLACED, b"y" * 3000)
        assert [event.payload for event in store.read()] == [b"x" * 3000]
        assert store.diagnostics().state == "failed"


def test_a_durable_position_that_cannot_be_saved_costs_nothing(driven: Journal) -> None:
    driven.store.append(ORDER, PLACED, 0)
    driven.files.fail("pwrite", errno.ENOSPC, name=watermark.NAME, repeat=True)
    assert driven.store.append(ORDER, PLACED, 1, durable=True).durable
    assert driven.store.sync() == 1
    assert driven.store.diagnostics().state == "ok"
    assert payloads(driven.cut_power()) == [0, 1]


# A disk that is full ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["allocate", "pwrite", "create", "size", "truncate"])
@pytest.mark.parametrize("call", range(1, 5))
@pytest.mark.parametrize("segment_format", [2, 1], indirect=True)
def test_whatever_fails_once_is_a_typed_error_and_the_next_try_goes_through(
    driver: Driver, segment_format: Literal[1, 2], operation: str, call: int
) -> None:
    config = StoreConfig(driver=driver, segment_format=segment_format, segment_bytes=4096)
    with Journal(config) as journal:
        store = journal.store
        journal.files.fail(operation, errno.ENOSPC, name="*.fbat", call=call)
        receipts: list[Receipt] = []
        errors = 0
        for number in range(12):
            payload: Loose = [number, "x" * 600]
            for _ in range(3):
                try:
                    receipts += (
                        store.append_batch(new_events(payload, payload))
                        if number % 3
                        else [store.append(ORDER, PLACED, payload, expected_sequence=len(receipts) - 1)]
                    )
                    break
                except BatpakError as error:
                    assert error.retryable, error  # noqa: PT017 - most tries raise nothing
                    errors += 1
        assert len(receipts) == 20
        assert errors <= 1
        assert [receipt.global_sequence for receipt in receipts] == list(range(20))
        expected = all_facts(store)
        journal.files.heal()  # what has not failed yet would fail the close
        for opened in journal.lives():
            assert all_facts(opened) == expected
            assert opened.verify_chain().intact


def test_a_full_disk_leaves_reads_and_everything_written(driver: Driver) -> None:
    with Journal(StoreConfig(driver=driver)) as journal:
        store = journal.store
        store.append(ORDER, PLACED, 0, durable=True)
        journal.files.fail("pwrite", errno.ENOSPC, repeat=True)
        outcomes = race(4, lambda number: store.append(ORDER, PLACED, number + 1))
        assert {getattr(outcome, "errno", None) for outcome in outcomes} == {errno.ENOSPC}
        assert payloads(store) == [0]
        assert store.diagnostics().state == "ok"
        journal.files.heal()
        assert store.append(ORDER, PLACED, 1, expected_sequence=0).sequence == 1


def test_memory_that_runs_out_is_the_callers_error_alone(driven: Journal) -> None:
    driven.store.append(ORDER, PLACED, 0)
    driven.files.fail("pwrite", MemoryError(), name="*.fbat")
    with pytest.raises(MemoryError):
        driven.store.append(ORDER, PLACED, 1)
    assert driven.store.append(ORDER, PLACED, 2, expected_sequence=0).global_sequence == 1
    assert driven.store.diagnostics().state == "ok"


def test_an_interrupt_in_a_write_leaves_nothing_half_there() -> None:
    for after in (False, True):
        with Journal(StoreConfig()) as journal:
            journal.store.append(ORDER, PLACED, 0)
            journal.files.fail("pwrite", KeyboardInterrupt(), name="*.fbat", after=after)
            with pytest.raises(KeyboardInterrupt):
                journal.store.append_batch(new_events(1, 2))
            found = payloads(journal.store)
            assert found in ([0], [0, 1, 2])
            journal.store.append(ORDER, PLACED, 3)
            expected = [0, 1, 2, 3] if after else [0, 3]
            assert payloads(journal.store) == expected
            assert payloads(journal.kill()) == expected


def test_a_repair_that_cannot_read_gives_up_and_a_reopen_is_sound(driven: Journal) -> None:
    store = driven.store
    store.append(ORDER, PLACED, 0)
    driven.files.shorten("pwrite", 40, name="*.fbat")
    driven.files.fail("pwrite", errno.EIO, name="*.fbat", call=2)
    driven.files.fail("pread", errno.EIO, name="*.fbat")
    with pytest.raises(BatpakError):
        store.append(ORDER, PLACED, 1)
    with pytest.raises(WriterFailedError):
        store.append(ORDER, PLACED, 2)
    assert store.diagnostics().state == "failed"
    assert payloads(store) == [0]
    driven.files.heal()
    store = driven.kill()
    assert payloads(store) == [0]
    assert store.append(ORDER, PLACED, 1, expected_sequence=0).global_sequence == 1
    assert NO_STREAM == -1


def test_files_that_lie_about_syncs_are_not_found_out_but_not_believed_after_a_cut() -> None:
    disk = MemoryFiles()
    store = Store(FaultyFiles(disk), StoreConfig())
    store.append(ORDER, PLACED, 0, durable=True)
    disk.lie_about_syncs()
    store.append(ORDER, PLACED, 1, durable=True)
    crashed = disk.crashed()
    close_anyhow(store)
    try:
        opened = Store(crashed, StoreConfig())
    except BatpakError:
        return  # a typed refusal is an answer too: the position says that more was durable
    assert payloads(opened) == [0]
    opened.close()


def test_an_index_that_cannot_be_written_costs_nothing_and_is_tried_again(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batpak.actors.index.RUN_EVENTS", 10)
    monkeypatch.setattr("batpak.actors.index.RETRY_SECONDS", 0.01)
    with Journal(StoreConfig(driver=driver)) as journal:
        store = journal.store
        journal.files.fail("create", errno.ENOSPC, name="index/*", repeat=True)
        for number in range(100):
            assert store.append(ORDER, PLACED, number, idempotency_key=str(number)).global_sequence == number
        assert payloads(store) == list(range(100))
        assert store.append(ORDER, PLACED, 7, idempotency_key="7").duplicate
        assert journal.disk.list("index") == []
        assert store.diagnostics().state == "ok"
        journal.files.heal()
        until(lambda: bool(journal.disk.list("index")), "runs")
        assert payloads(journal.kill()) == list(range(100))


def test_files_in_memory_bear_a_write_beside_a_sync() -> None:
    files = MemoryFiles()
    file = files.create("000001.fbat")
    done: list[bool] = []

    def keep_syncing() -> None:
        while not done:
            file.sync_data()

    syncing = Task(keep_syncing)
    for number in range(20_000):
        file.pwrite(number.to_bytes(4, "big"), 4 * number)
    done.append(True)
    syncing.outcome()
    file.sync()
    file.drop_cache()
    assert file.pread(80_000, 0) == b"".join(number.to_bytes(4, "big") for number in range(20_000))


def test_a_close_says_that_what_was_acknowledged_is_not_durable() -> None:
    with Journal(StoreConfig(sync_every_events=1000)) as journal:
        journal.store.append(ORDER, PLACED, 1)
        journal.files.fail("sync_data", errno.EIO)
        with pytest.raises(WriterFailedError):
            journal.store.close()
        with pytest.raises(StoreClosedError):
            journal.store.append(ORDER, PLACED, 2)


def test_a_close_makes_durable_what_a_writer_acknowledged_before_it_failed() -> None:
    with Journal(StoreConfig(sync_every_events=1000)) as journal:
        journal.store.append(ORDER, PLACED, 1)
        journal.store._system.writer.give_up(RuntimeError("a bug"))
        with pytest.raises(WriterFailedError):
            journal.store.append(ORDER, PLACED, 2)
        journal.store.close()
        assert [event.payload for event in journal.cut_power().read()] == [1]
