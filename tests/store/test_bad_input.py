"""Bad input: a typed error that says what was found and what was expected, and a store that is as before."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar
from uuid import UUID

import msgpack
import pytest
from crc32c import crc32c

from batpak import (
    NO_STREAM,
    BatpakError,
    Coordinate,
    CorruptStoreError,
    EventKind,
    InvalidConfigError,
    InvalidCoordinateError,
    InvalidDirectoryError,
    InvalidKindError,
    InvalidRegionError,
    InvalidRequestError,
    PayloadError,
    Region,
    ReservedKindError,
    Store,
    StoreConfig,
    StoreLockedError,
    TooLargeError,
    UnsupportedFormatError,
)
from batpak.storage import watermark
from batpak.storage.files import LOCK_NAME, OWNER_NAME
from batpak.storage.segment import read_meta
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from tests.store.journals import (
    ORDER,
    PLACED,
    Journal,
    Loose,
    all_facts,
    new_events,
    payloads,
)
from tests.store.processes import run_python

Call = Callable[[Store], object]


class Odd:
    """Nothing that a store has a use for; what it holds must not stand in an error."""

    secret: ClassVar[str] = "canary"

    def __repr__(self) -> str:
        return self.secret


ODD: Loose = Odd()


def deep(levels: int) -> Loose:
    value: Loose = None
    for _ in range(levels):
        value = [value]
    return value


# Arguments of writes ---------------------------------------------------------------------------------------------


WRITES: dict[str, tuple[Call, type[BatpakError]]] = {
    "coordinate of text": (lambda s: s.append("order:42@shop", PLACED, 1), InvalidRequestError),  # type: ignore[arg-type]
    "no coordinate": (lambda s: s.append(None, PLACED, 1), InvalidRequestError),  # type: ignore[arg-type]
    "kind as number": (lambda s: s.append(ORDER, 0x1001, 1), InvalidRequestError),  # type: ignore[arg-type]
    "system kind": (lambda s: s.append(ORDER, EventKind(0x0, 0x001), 1), ReservedKindError),
    "data of 0.1": (lambda s: s.append(ORDER, EventKind(0x0, 0x000), 1), ReservedKindError),
    "effect kind": (lambda s: s.append(ORDER, EventKind(0xD, 0xFFF), 1), ReservedKindError),
    "tombstone": (lambda s: s.append(ORDER, EventKind(0x0, 0xFFE), 1), ReservedKindError),
    "odd payload": (lambda s: s.append(ORDER, PLACED, ODD), PayloadError),
    "odd payload inside": (lambda s: s.append(ORDER, PLACED, {"a": [1, ODD]}), PayloadError),
    "set": (lambda s: s.append(ORDER, PLACED, {1, 2}), PayloadError),  # type: ignore[arg-type]
    "naive time": (lambda s: s.append(ORDER, PLACED, datetime(2024, 1, 1)), PayloadError),  # noqa: DTZ001
    "long int": (lambda s: s.append(ORDER, PLACED, 2**64), PayloadError),
    "surrogate": (lambda s: s.append(ORDER, PLACED, "\ud800"), PayloadError),
    "deep": (lambda s: s.append(ORDER, PLACED, deep(5_000)), PayloadError),
    "payload too large": (lambda s: s.append(ORDER, PLACED, b"x" * 1024), TooLargeError),
    "sequence -2": (lambda s: s.append(ORDER, PLACED, 1, expected_sequence=-2), InvalidRequestError),
    "sequence 2**32": (lambda s: s.append(ORDER, PLACED, 1, expected_sequence=2**32), InvalidRequestError),
    "sequence True": (lambda s: s.append(ORDER, PLACED, 1, expected_sequence=True), InvalidRequestError),
    "sequence 1.0": (lambda s: s.append(ORDER, PLACED, 1, expected_sequence=1.0), InvalidRequestError),  # type: ignore[arg-type]
    "sequence as text": (lambda s: s.append(ORDER, PLACED, 1, expected_sequence="0"), InvalidRequestError),  # type: ignore[arg-type]
    "empty key": (lambda s: s.append(ORDER, PLACED, 1, idempotency_key=""), InvalidRequestError),
    "key of bytes": (lambda s: s.append(ORDER, PLACED, 1, idempotency_key=b"k"), InvalidRequestError),  # type: ignore[arg-type]
    "key of int": (lambda s: s.append(ORDER, PLACED, 1, idempotency_key=0), InvalidRequestError),  # type: ignore[arg-type]
    "nil key": (lambda s: s.append(ORDER, PLACED, 1, idempotency_key=UUID(int=0)), InvalidRequestError),
    "key with a surrogate": (lambda s: s.append(ORDER, PLACED, 1, idempotency_key="\ud800"), InvalidRequestError),
    "correlation of text": (lambda s: s.append(ORDER, PLACED, 1, correlation_id="x"), InvalidRequestError),  # type: ignore[arg-type]
    "causation of int": (lambda s: s.append(ORDER, PLACED, 1, causation_id=7), InvalidRequestError),  # type: ignore[arg-type]
    "flags 256": (lambda s: s.append(ORDER, PLACED, 1, flags=256), InvalidRequestError),  # type: ignore[arg-type]
    "flags -1": (lambda s: s.append(ORDER, PLACED, 1, flags=-1), InvalidRequestError),  # type: ignore[arg-type]
    "flags None": (lambda s: s.append(ORDER, PLACED, 1, flags=None), InvalidRequestError),  # type: ignore[arg-type]
    "flags True": (lambda s: s.append(ORDER, PLACED, 1, flags=True), InvalidRequestError),  # type: ignore[arg-type]
    "flags of text": (lambda s: s.append(ORDER, PLACED, 1, flags=""), InvalidRequestError),  # type: ignore[arg-type]
    "durable 1": (lambda s: s.append(ORDER, PLACED, 1, durable=1), InvalidRequestError),  # type: ignore[arg-type]
    "durable of text": (lambda s: s.append(ORDER, PLACED, 1, durable="no"), InvalidRequestError),  # type: ignore[arg-type]
    "wait -1": (lambda s: s.append(ORDER, PLACED, 1, max_wait_seconds=-1), InvalidRequestError),
    "wait NaN": (lambda s: s.append(ORDER, PLACED, 1, max_wait_seconds=float("nan")), InvalidRequestError),
    "wait True": (lambda s: s.append(ORDER, PLACED, 1, max_wait_seconds=True), InvalidRequestError),
    "wait of text": (lambda s: s.append(ORDER, PLACED, 1, max_wait_seconds="1"), InvalidRequestError),  # type: ignore[arg-type]
    "cause of id": (lambda s: s.append_reaction(ORDER, PLACED, 1, cause=UUID(int=1)), InvalidRequestError),  # type: ignore[arg-type]
    "no cause": (lambda s: s.append_reaction(ORDER, PLACED, 1, cause=None), InvalidRequestError),  # type: ignore[arg-type]
    "no batch": (lambda s: s.append_batch(None), InvalidRequestError),  # type: ignore[arg-type]
    "one event as batch": (lambda s: s.append_batch(new_events(1)[0]), InvalidRequestError),  # type: ignore[arg-type]
    "text as batch": (lambda s: s.append_batch("ab"), InvalidRequestError),  # type: ignore[arg-type]
    "batch durable 1": (lambda s: s.append_batch(new_events(1), durable=1), InvalidRequestError),  # type: ignore[arg-type]
    "batch wait -1": (lambda s: s.append_batch(new_events(1), max_wait_seconds=-1), InvalidRequestError),
    "empty batch, durable 1": (lambda s: s.append_batch([], durable=1), InvalidRequestError),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", WRITES)
def test_a_write_of_something_impossible_is_refused_and_changes_nothing(case: str) -> None:
    call, error = WRITES[case]
    with Journal(StoreConfig(max_payload_bytes=1000)) as journal:
        journal.store.append(ORDER, PLACED, 1)
        before, written = all_facts(journal.store), journal.files.calls["pwrite"]
        with pytest.raises(error) as caught:
            call(journal.store)
        assert isinstance(caught.value, ValueError)
        assert not caught.value.retryable
        assert error is PayloadError or "found" in str(caught.value)
        assert Odd.secret not in str(caught.value) + repr(caught.value.__dict__)
        assert journal.files.calls["pwrite"] == written
        assert all_facts(journal.store) == before
        assert journal.store.append(ORDER, PLACED, 2).global_sequence == 1


def test_a_clock_that_no_id_can_hold_is_refused() -> None:
    for now_us in (-1, 2**48 * 1000, 2**63):
        with Journal(StoreConfig(clock=HandClock(now_us))) as journal:
            with pytest.raises(InvalidRequestError, match=str(now_us)):
                journal.store.append(ORDER, PLACED, 1)
            with pytest.raises(InvalidRequestError, match=str(now_us)):
                journal.store.append_batch(new_events(1))
            assert payloads(journal.store) == []


# Values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "x" * 1025, "ü" * 513, "a\0", "a\n", "a\x7f", "a/b", "a..b", "a|b", "a=b", "\udc80"]
)
def test_p69_hostile_coordinates_are_refused_wherever_they_come_from(store: Store, text: str) -> None:
    for make in (
        lambda: Coordinate(text, "s"),
        lambda: Coordinate("e", text),
        lambda: Region(entity=text),
        lambda: Region(scope=text),
        lambda: store.by_scope(text),
        lambda: store.stream(text),
        lambda: store.read_stream(text),
        lambda: store.latest(text),
    ):
        with pytest.raises((InvalidCoordinateError, InvalidRegionError)):
            make()
    assert payloads(store) == []


def test_p69_a_frame_with_a_hostile_coordinate_is_refused(journal: Journal) -> None:
    from batpak.storage.scan import Walk
    from batpak.storage.segment import frame_bytes

    for number in range(3):
        journal.store.append(ORDER, PLACED, number)
    journal.store.close()
    for entity in ("../../x:", "order\n42", "order|42"):
        files = journal.disk.copy()
        meta = read_meta(files, 1)
        file = files.open_write(meta.name)
        found = list(Walk(file, meta, meta.frames_start, file.size()))[1]
        data = frame_bytes(meta, meta.encode(replace(found.frame, entity=entity)))
        assert len(data) == found.end - found.offset
        file.pwrite(data, found.offset)
        file.close()
        with pytest.raises(BatpakError):
            _read_all(files, journal.config)


def _read_all(files: MemoryFiles, config: StoreConfig) -> None:
    store = Store(files, config)
    try:
        for entry in store.query(Region()):
            assert entry.coordinate == ORDER
    finally:
        store.close()


@pytest.mark.parametrize("text", ["x" * 1024, "ü" * 512, " ", "a:b@c.d-e_f", "日本", "a:", ":"])
def test_p69_valid_coordinates_survive(journal: Journal, text: str) -> None:
    coordinate = Coordinate(text, text)
    journal.store.append(coordinate, PLACED, 1)
    for store in journal.lives():
        assert store.query(Region())[0].coordinate == coordinate
        assert len(store.stream(text)) == len(store.by_scope(text)) == 1


# Arguments of reads ----------------------------------------------------------------------------------------------


READS: dict[str, tuple[Call, type[BatpakError]]] = {
    "id of text": (lambda s: s.get("x"), InvalidRequestError),  # type: ignore[arg-type]
    "no id": (lambda s: s.get(None), InvalidRequestError),  # type: ignore[arg-type]
    "no ids": (lambda s: s.get_many(None), InvalidRequestError),  # type: ignore[arg-type]
    "ids of text": (lambda s: s.get_many(["x"]), InvalidRequestError),  # type: ignore[list-item]
    "region of text": (lambda s: s.query("order"), InvalidRequestError),  # type: ignore[arg-type]
    "no region": (lambda s: s.query(None), InvalidRequestError),  # type: ignore[arg-type]
    "read of text": (lambda s: s.read("order"), InvalidRequestError),  # type: ignore[arg-type]
    "check of text": (lambda s: s.verify_chain("order"), InvalidRequestError),  # type: ignore[arg-type]
    "after text": (lambda s: s.query(Region(), after="1"), InvalidRequestError),  # type: ignore[arg-type]
    "after True": (lambda s: s.query(Region(), after=True), InvalidRequestError),
    "after 1.5": (lambda s: s.read(after=1.5), InvalidRequestError),  # type: ignore[arg-type]
    "limit -1": (lambda s: s.query(Region(), limit=-1), InvalidRequestError),
    "limit True": (lambda s: s.read(limit=True), InvalidRequestError),
    "limit text": (lambda s: s.stream("e", limit="1"), InvalidRequestError),  # type: ignore[arg-type]
    "read_stream limit": (lambda s: s.read_stream("e", limit=-1), InvalidRequestError),
    "stream of None": (lambda s: s.stream(None), InvalidRequestError),  # type: ignore[arg-type]
    "read_stream of int": (lambda s: s.read_stream(5), InvalidRequestError),  # type: ignore[arg-type]
    "after_sequence text": (lambda s: s.stream("e", after_sequence="0"), InvalidRequestError),  # type: ignore[arg-type]
    "after_sequence -2": (lambda s: s.stream("e", after_sequence=-2), InvalidRequestError),
    "after_sequence True": (lambda s: s.read_stream("e", after_sequence=True), InvalidRequestError),
    "latest of int": (lambda s: s.latest(5), InvalidRequestError),  # type: ignore[arg-type]
    "latest of a coordinate": (lambda s: s.latest(ORDER), InvalidRequestError),  # type: ignore[arg-type]
    "scope of int": (lambda s: s.by_scope(5), InvalidRequestError),  # type: ignore[arg-type]
    "fact of int": (lambda s: s.by_fact(0x1001), InvalidRequestError),  # type: ignore[arg-type]
    "naive moment": (lambda s: s.place_at(datetime(2024, 1, 1)), InvalidRequestError),  # noqa: DTZ001
    "moment of int": (lambda s: s.place_at(0), InvalidRequestError),  # type: ignore[arg-type]
    "walk of text": (lambda s: s.walk_ancestors("x"), InvalidRequestError),  # type: ignore[arg-type]
    "walk limit": (lambda s: s.walk_ancestors(s.query(Region())[0].event_id, limit=-1), InvalidRequestError),
    "depth -1": (lambda s: s.causes(s.query(Region())[0].event_id, depth=-1), InvalidRequestError),
    "depth text": (lambda s: s.effects(s.query(Region())[0].event_id, depth="1"), InvalidRequestError),  # type: ignore[arg-type]
    "graph limit": (lambda s: s.effects(s.query(Region())[0].event_id, limit=-1), InvalidRequestError),
    "kind 16": (lambda s: s.by_fact(EventKind(16, 0)), InvalidKindError),
    "inverted": (lambda s: s.query(Region(sequences=(2, 1))), InvalidRegionError),
}


@pytest.mark.parametrize("case", READS)
@pytest.mark.parametrize("in_run", [False, True], ids=["tail", "run"])
def test_a_read_of_something_impossible_is_refused(case: str, in_run: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    call, error = READS[case]
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    with Journal() as journal:
        journal.store.append(ORDER, PLACED, 1)
        store = journal.reopen() if in_run else journal.store
        with pytest.raises(error) as caught:
            call(store)
        assert isinstance(caught.value, ValueError)
        assert payloads(store) == [1]


# Configuration ---------------------------------------------------------------------------------------------------


def test_every_setting_out_of_its_limits_is_refused_by_name() -> None:
    wrong: dict[str, list[Loose]] = {
        "durable": [1, None],
        "segment_bytes": [4095, 2**30 + 1, "64"],
        "sync_every_events": [0, True],
        "sync_every_seconds": [0, -1, float("nan"), "1"],
        "segment_format": [0, 3, "2"],
        "max_payload_bytes": [0, 2**26 + 1],
        "max_batch_events": [0, 65_537],
        "max_batch_bytes": [0, 2**26 + 1],
        "mailbox_capacity": [0, -1],
        "restart": [None, 1],
        "driver": ["async", None],
        "append_on_loop": ["yes"],
        "clock": [None, 5],
        "verify_on_open": [True, "all"],
        "slow_command_seconds": [0, None],
    }
    assert set(wrong) == {field.name for field in fields(StoreConfig)}
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(InvalidConfigError) as caught:
                StoreConfig(**{name: value})
            assert caught.value.field == name


@pytest.mark.parametrize("config", [{"durable": True}, "config", StoreConfig])
def test_something_else_in_the_place_of_a_config_is_refused(tmp_path: Path, config: Loose) -> None:
    for opener in (Store.open, Store.open_read_only):
        with pytest.raises(InvalidRequestError, match="config"):
            opener(tmp_path, config=config)
    assert list(tmp_path.iterdir()) == []


# Directories -----------------------------------------------------------------------------------------------------


def _file(path: Path) -> None:
    path.write_text("not a directory")


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def _below_a_file(path: Path) -> None:
    path.parent.joinpath("file").write_text("")
    path.symlink_to(path.parent / "file" / "journal")


def _loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [_file, _dangling, _below_a_file, _loop])
def test_what_is_no_directory_is_refused_and_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "journal"
    make(path)
    before = sorted((entry.name, entry.lstat().st_mtime_ns) for entry in tmp_path.iterdir())
    for opener in (Store.open, Store.open_read_only):
        with pytest.raises(InvalidDirectoryError) as caught:
            opener(path)
        assert caught.value.directory == str(path)
        assert "expected" in caught.value.reason
    assert sorted((entry.name, entry.lstat().st_mtime_ns) for entry in tmp_path.iterdir()) == before


def test_paths_that_are_none_are_refused(tmp_path: Path) -> None:
    for opener in (Store.open, Store.open_read_only):
        for path in ("", "a\0b", f"{tmp_path}/{'x' * 300}"):
            with pytest.raises(InvalidDirectoryError):
                opener(path)
        odd: Loose
        for odd in (None, 5, b"journal", ODD):
            with pytest.raises(InvalidRequestError):
                opener(odd)
    with pytest.raises(InvalidDirectoryError):
        Store.open_read_only(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


UNPRIVILEGED = """
import os, sys
from batpak import *
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    Store.open(sys.argv[1])
except InvalidDirectoryError as error:
    print("write:", error.reason)
with Store.open_read_only(sys.argv[1]) as store:
    print("read:", [event.payload for event in store.read()])
"""


def test_a_directory_that_is_read_only_can_be_read_and_not_written() -> None:
    with TemporaryDirectory() as temporary:  # pytest's own is closed to other users
        directory = Path(temporary) / "journal"
        with Store.open(directory) as store:
            store.append(ORDER, PLACED, 1)
        for path in directory.rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        directory.chmod(0o555)
        directory.parent.chmod(0o755)
        before = sorted((path.name, path.stat().st_mtime_ns) for path in directory.iterdir())
        done = run_python(UNPRIVILEGED, directory)
        assert sorted((path.name, path.stat().st_mtime_ns) for path in directory.iterdir()) == before
        directory.chmod(0o755)
    write, read = done.stdout.splitlines()
    assert write == "write: found a directory that is read-only, expected a writable one"
    assert read == "read: [1]"


def test_a_directory_that_somebody_holds_says_who(tmp_path: Path) -> None:
    import socket

    with Store.open(tmp_path) as store:
        store.append(ORDER, PLACED, 1)
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(StoreLockedError) as caught:
            Store.open(tmp_path)
        error = caught.value
        assert (error.pid, error.host, error.directory) == (os.getpid(), socket.gethostname(), str(tmp_path))
        assert error.since is not None
        assert abs((datetime.now(UTC) - datetime.fromisoformat(error.since)).total_seconds()) < 100
        assert error.retryable
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        store.append(ORDER, PLACED, 2)
    with Store.open(tmp_path) as store:
        assert payloads(store) == [1, 2]
    assert not (tmp_path / OWNER_NAME).exists()
    assert (tmp_path / LOCK_NAME).stat().st_size == 0


# Newer software and links ----------------------------------------------------------------------------------------


def _newer_segment(directory: Path) -> None:
    path = directory / "000001.fbat"
    data = path.read_bytes()
    (length,) = struct.unpack_from(">I", data, 4)
    header = msgpack.packb(msgpack.unpackb(data[8 : 8 + length]) | {"version": 3})
    start = data[:4] + struct.pack(">I", len(header)) + header
    path.write_bytes(start + struct.pack(">I", crc32c(start)) + data[12 + length :])


def _newer_position(directory: Path) -> None:
    path = directory / watermark.NAME
    data = bytearray(path.read_bytes())
    for start in (0, 512):
        slot = data[start : start + 72]
        if slot[:6] == b"BPDPOS":
            slot[6:8] = (2).to_bytes(2, "little")
            data[start : start + 76] = bytes(slot) + struct.pack("<I", crc32c(bytes(slot)))
    path.write_bytes(data)


@pytest.mark.parametrize("make", [_newer_segment, _newer_position])
def test_a_store_of_newer_software_is_refused_and_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    with Store.open(tmp_path) as store:
        store.append(ORDER, PLACED, 1)
    make(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for opener in (Store.open, Store.open_read_only):
        with pytest.raises(UnsupportedFormatError) as caught:
            opener(tmp_path)
        assert caught.value.file in before
        assert str(caught.value.found).split()[-1] in {"2", "3"}
        assert not caught.value.retryable
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("name", ["000001.fbat", watermark.NAME, LOCK_NAME])
def test_no_link_is_followed(tmp_path: Path, name: str) -> None:
    directory, elsewhere = tmp_path / "journal", tmp_path / "elsewhere"
    with Store.open(directory) as store:
        store.append(ORDER, PLACED, 1)
    (directory / name).rename(elsewhere)
    (directory / name).symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    with pytest.raises(CorruptStoreError) as caught:
        Store.open(directory)
    assert caught.value.file == name
    assert "link" in caught.value.found
    assert elsewhere.read_bytes() == before
    if name != LOCK_NAME:
        with pytest.raises(CorruptStoreError):
            Store.open_read_only(directory)


def test_a_linked_folder_of_the_index_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    directory, elsewhere = tmp_path / "journal", tmp_path / "elsewhere"
    with Store.open(directory) as store:
        store.append(ORDER, PLACED, 1)
    (directory / "index").rename(elsewhere)
    (directory / "index").symlink_to(elsewhere)
    before = sorted(path.name for path in elsewhere.iterdir())
    with pytest.raises(BatpakError):
        Store.open(directory)
    assert sorted(path.name for path in elsewhere.iterdir()) == before


def test_files_that_are_not_ours_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    with Store.open(tmp_path) as store:
        store.append(ORDER, PLACED, 1, expected_sequence=NO_STREAM)
    with Store.open(tmp_path) as store:
        assert payloads(store) == [1]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert stat.S_ISDIR((tmp_path / "folder").stat().st_mode)
