"""What an open makes of what it finds: torn ends, damage, missing files, and many lives one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from time import perf_counter

import pytest

from batpak import BatpakError, CorruptStoreError, Store, StoreConfig, UnsupportedFormatError
from batpak.storage import watermark
from batpak.storage.segment import list_segments
from batpak.testing.memory import MemoryFiles
from tests.store.journals import (
    EVERYTHING,
    LONG,
    ORDER,
    PLACED,
    Journal,
    all_facts,
    close_anyhow,
    new_events,
    patient,
    payloads,
)


def append_raw(files: MemoryFiles, name: str, data: bytes, at: int | None = None) -> int:
    """Write *data* into a file, behind its end or at *at*; where it was written."""
    file = files.open_write(name)
    offset = file.size() if at is None else at
    file.pwrite(data, offset)
    file.close()
    return offset


def last_offset(journal: Journal) -> int:
    return journal.store._system.writer.journal.end


# Torn ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"\x01", b"\0\0\0\x05abc", b"x" * 700, bytes(100) + b"x", b"FBAT" * 50])
def test_p57_a_torn_end_is_cut_copied_and_told(journal: Journal, garbage: bytes) -> None:
    journal.store.append_batch(new_events(*range(5)), durable=True)
    expected, end = all_facts(journal.store), last_offset(journal)
    segment = f"{list_segments(journal.disk.list())[-1]:06}.fbat"
    append_raw(journal.disk, segment, garbage, end)
    store = journal.kill()
    assert all_facts(store) == expected
    (torn,) = store.diagnostics().open_report.quarantined
    assert (torn.segment, torn.offset, torn.length) == (1, end, len(garbage))
    assert journal.disk.read_bytes(torn.file, 1 << 20) == garbage
    assert store.append(ORDER, PLACED, 5, expected_sequence=4).global_sequence == 5
    assert store.verify_chain().intact
    assert journal.reopen().diagnostics().open_report.quarantined == ()


def test_p57_recovery_run_twice_gives_the_same_bytes(journal: Journal) -> None:
    journal.store.append_batch(new_events(*range(5)))
    append_raw(journal.disk, "000001.fbat", b"torn", last_offset(journal))
    start = journal.disk.copy()
    images = []
    for _ in range(2):
        store = Store(start.beside(), journal.config)
        close_anyhow(store)
        twin = start.beside()
        images.append({name: twin.read_bytes(name, 1 << 20) for name in twin.list() if name.endswith(".fbat")})
        start = start.copy()
    assert images[0] == images[1]


@pytest.mark.parametrize("at_event", [0, 2, 4])
def test_p57_damage_below_the_durable_position_refuses_and_changes_nothing(journal: Journal, at_event: int) -> None:
    receipts = [journal.store.append(ORDER, PLACED, number, durable=number == 4) for number in range(5)]
    journal.store.append(ORDER, PLACED, 5)
    record = journal.store._view().find_id(receipts[at_event].event_id.bytes)
    assert record is not None
    file = journal.disk.open_write("000001.fbat")
    byte = file.pread(1, record.offset + 20)
    append_raw(journal.disk, "000001.fbat", bytes([byte[0] ^ 4]), record.offset + 20)
    damaged = journal.disk.copy()
    before = {name: damaged.read_bytes(name, 1 << 24) for name in damaged.list() if name.endswith(".fbat")}
    for _ in range(2):
        with pytest.raises(CorruptStoreError) as caught:
            Store(damaged.beside(), journal.config)
        error = caught.value
        assert (error.file, error.offset) == ("000001.fbat", record.offset)
        assert error.provable
        assert not error.retryable
    assert {name: damaged.read_bytes(name, 1 << 24) for name in before} == before


def test_p57_damage_in_a_sealed_segment_refuses(config: StoreConfig) -> None:
    with Journal(replace(config, segment_bytes=4096)) as journal:
        for number in range(30):
            journal.store.append(ORDER, PLACED, [number, "x" * 300])
        journal.store.close()
        for segment in (1, 2):
            for shorten in (False, True):
                damaged = journal.disk.copy()
                file = damaged.open_write(f"{segment:06}.fbat")
                if shorten:  # by its footer, and more
                    file.truncate(file.size() // 2)
                else:
                    file.pwrite(bytes([file.pread(1, 1000)[0] ^ 1]), 1000)
                with pytest.raises(CorruptStoreError) as caught:
                    close_anyhow(Store(damaged, journal.config))
                assert caught.value.file in {f"{segment:06}.fbat", f"{segment + 1:06}.fbat"}


@pytest.mark.parametrize("at", [0, 1, -1], ids=["first", "second", "last"])
def test_a_segment_that_is_missing_is_noticed(config: StoreConfig, at: int) -> None:
    with Journal(replace(config, segment_bytes=4096)) as journal:
        for number in range(30):
            journal.store.append(ORDER, PLACED, [number, "x" * 300])
        journal.store.close()
        files = journal.disk.copy()
        segments = list_segments(files.list())
        assert len(segments) > 3
        files.remove(f"{segments[at]:06}.fbat")
        with pytest.raises(CorruptStoreError):
            close_anyhow(Store(files, journal.config))


# Files that only help --------------------------------------------------------------------------------------------


def _remove(files: MemoryFiles, name: str) -> None:
    files.remove(name)


def _empty(files: MemoryFiles, name: str) -> None:
    files.open_write(name).truncate(0)


def _halve(files: MemoryFiles, name: str) -> None:
    file = files.open_write(name)
    file.truncate(file.size() // 2)


def _scramble(files: MemoryFiles, name: str) -> None:
    file = files.open_write(name)
    file.pwrite(Random(1).randbytes(file.size()), 0)


def _zero(files: MemoryFiles, name: str) -> None:
    file = files.open_write(name)
    file.pwrite(bytes(file.size()), 0)


@pytest.mark.parametrize("harm", [_remove, _empty, _halve, _scramble, _zero])
@pytest.mark.parametrize("which", ["index", watermark.NAME])
def test_p57_a_damaged_helper_costs_time_and_no_answer(
    config: StoreConfig,
    harm: Callable[[MemoryFiles, str], None],
    which: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    with Journal(config) as journal:
        for round_ in range(3):
            journal.store.append_batch(new_events(*range(10 * round_, 10 * round_ + 10)))
            journal.reopen()
        expected = all_facts(journal.store)
        journal.store.close()
        names = [f"index/{name}" for name in journal.disk.beside().list("index")] if which == "index" else [which]
        for name in names:
            files = journal.disk.copy()
            harm(files, name)
            store = Store(files, config)
            try:
                assert all_facts(store) == expected
                assert store.append(ORDER, PLACED, 30, expected_sequence=29).global_sequence == 30
                assert store.verify_chain().intact
            finally:
                close_anyhow(store)


def test_p57_a_run_of_a_future_version_refuses_or_is_rebuilt_but_never_answers_wrong(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crc32c import crc32c

    from batpak.storage.run_format import HEADER, HEADER_BYTES

    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    with Journal(config) as journal:
        journal.store.append_batch(new_events(*range(10)))
        journal.store.close()
        files = journal.disk.copy()
        name = f"index/{files.list('index')[0]}"
        file = files.open_write(name)
        head = bytearray(file.pread(HEADER_BYTES, 0))
        head[6:8] = (2).to_bytes(2, "little")
        head[HEADER.size :] = crc32c(bytes(head[: HEADER.size])).to_bytes(4, "little")
        file.pwrite(bytes(head), 0)
        with pytest.raises(UnsupportedFormatError) as caught:
            Store(files, config)
        assert caught.value.file == name


@patient
def test_one_flipped_bit_anywhere_is_a_typed_error_or_the_right_answer(
    config: StoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    with Journal(replace(config, segment_bytes=4096)) as journal:
        for number in range(12):
            journal.store.append(ORDER, PLACED, [number, "x" * 250], idempotency_key=str(number))
        journal.store.append_batch(new_events("a", "b"))
        expected = all_facts(journal.store)
        keyed = journal.store.query(EVERYTHING)[3].event_id
        journal.store.close()
        image = journal.disk.beside()
        names = [*image.list(), *(f"index/{name}" for name in image.list("index"))]
        random = Random(7)
        outcomes = {"right": 0, "refused": 0}
        for name in names:
            size = image.size(name)
            for _ in range(min(size, 900 if LONG else 60)):
                files = journal.disk.copy()
                file = files.open_write(name)
                offset = random.randrange(size)
                file.pwrite(bytes([file.pread(1, offset)[0] ^ 1 << random.randrange(8)]), offset)
                try:
                    store = Store(files, journal.config)
                except BatpakError:
                    outcomes["refused"] += 1
                    continue
                try:
                    assert all_facts(store) == expected, (name, offset)
                    assert store.get(keyed).event_id == keyed
                    assert [entry.sequence for entry in store.stream("order:42")] == list(range(len(expected)))
                    outcomes["right"] += 1
                except BatpakError:
                    outcomes["refused"] += 1
                finally:
                    close_anyhow(store)
        assert min(outcomes.values()) > 20, outcomes


# Many lives ------------------------------------------------------------------------------------------------------


def test_random_ends_of_many_lives_lose_nothing_that_was_promised(config: StoreConfig) -> None:
    random = Random(11)
    with Journal(replace(config, segment_bytes=4096, sync_every_events=50)) as journal:
        model: list[int] = []
        durable = 0
        number = 0
        for _ in range(60):
            for _ in range(random.randrange(8)):
                size = random.choice([1, 1, 1, 4])
                wish = random.random() < 0.2
                items = list(range(number, number + size))
                number += size
                if size == 1:
                    journal.store.append(ORDER, PLACED, items[0], durable=wish)
                else:
                    journal.store.append_batch(new_events(*items), durable=wish)
                model += items
                durable = max(durable, journal.store.stats().durable_sequence + 1)
            end = random.choice(["reopen", "kill", "cut_power"])
            store = getattr(journal, end)()
            found = payloads(store)
            if end == "cut_power":
                assert found == model[: len(found)]
                assert len(found) >= durable
            else:
                assert found == model
            model, durable = found, len(found)
            assert [entry.global_sequence for entry in store.query(EVERYTHING)] == list(range(len(model)))
        assert journal.store.verify_chain().intact
        assert len(model) > 60


@patient
@pytest.mark.slow
def test_thousands_of_lives_leave_few_files_and_quick_opens(tmp_path: Path) -> None:
    lives = 10_000 if LONG else 600
    slowest: list[float] = []
    for number in range(lives):
        started = perf_counter()
        store = Store.open(tmp_path)
        slowest.append(perf_counter() - started)
        store.append(ORDER, PLACED, number)
        store.close()
    slowest.sort()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    median, late = slowest[lives // 2] * 1e3, slowest[-lives // 100] * 1e3
    print(f"{lives} lives: {len(files)} files, an open takes {median:.1f} ms, 99 in 100 take {late:.1f}")  # noqa: T201
    assert len(files) < 20
    with Store.open(tmp_path) as store:
        assert store.stats().events == lives
        assert store.verify_chain().intact


def test_thousands_of_lives_in_memory_leave_few_files_in_both_formats(config: StoreConfig) -> None:
    with Journal(config) as journal:
        for number in range(80):
            journal.store.append(ORDER, PLACED, number)
            journal.reopen()
        names = [*journal.disk.list(), *journal.disk.list("index"), *journal.disk.list("quarantine")]
        assert len(names) < (20 if config.segment_format == 2 else 100)
        assert len(payloads(journal.store)) == 80
