"""The original may have been at a journal of format 1 between two of our lives: it appends, and it compacts.

What it does to the files is done here by hand, as its description has it.
"""

from __future__ import annotations

import zlib
from contextlib import closing
from dataclasses import replace

import msgpack
import pytest

from batpak import Coordinate, CorruptStoreError, EventKind, NewEvent, Store, StoreConfig
from batpak.storage import format1, watermark
from batpak.storage.frame import FRAME, NO_HASH, Frame
from batpak.storage.original_footer import FooterRow, encode_footer
from batpak.storage.scan import Walk
from batpak.storage.segment import read_meta
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from tests.directories import EVERYTHING, Content, content, directory, looked_at, segments, shown

ORDER, OTHER, PLACED = Coordinate("order:1", "shop"), Coordinate("order:2", "shop"), EventKind(0x1, 0x001)
OPEN, CLOSE = 0x0008, 0x0009


def opened(held: Content | MemoryFiles) -> Store:
    files = held if isinstance(held, MemoryFiles) else directory(held)
    return Store(files.beside(), StoreConfig(segment_format=1, segment_bytes=4096, clock=HandClock()))


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Content:
    """A closed journal of format 1 with runs and several segments."""
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    files = MemoryFiles()
    with opened(files) as store:
        for number in range(9):
            store.append(ORDER, PLACED, [number, "x" * 200])
        store.append_batch([NewEvent(ORDER, PLACED, number) for number in range(3)])
    held = content(files)
    assert len(segments(held)) == 3
    return held


def header(segment: int) -> bytes:
    fields = {"version": 1, "flags": 0, "created_ns": 5, "segment_id": segment}
    packed: bytes = msgpack.packb(fields)
    return b"FBAT" + len(packed).to_bytes(4, "big") + packed


def body_of(frame: Frame) -> bytes:
    return format1.encode_body(replace(frame, global_sequence=None))


def session(held: Content, count: int) -> Content:
    """Return *held* with a segment that the original appended: OPEN, some events of an entity, CLOSE, footer."""
    with looked_at(held) as store:
        first = store.stats().next_global_sequence
        newest = store.latest("order:1")
        assert newest is not None
        head = (newest.sequence, store.get(newest.event_id).event_hash)
    segment = int(segments(held)[-1][:-5]) + 1
    data = header(segment)
    rows: list[FooterRow] = []
    for number in range(count + 2):
        payload = msgpack.packb({"theirs": number})
        mine = 0 < number <= count
        frame = Frame(
            event_id=(0xABC000 + 100 * segment + number).to_bytes(16, "big"),
            global_sequence=None,
            remaining=0,
            kind=PLACED.value if mine else OPEN if not number else CLOSE,
            entity="order:1" if mine else f"batpak:store{segment}",
            scope="shop",
            sequence=head[0] + number if mine else number and 1,
            timestamp_us=1_800_000_000_000_000,
            wall_ms=1_800_000_000_000,
            prev_hash=head[1] if mine else NO_HASH if not number else rows[0].event_hash,
            correlation_id=None,
            causation_id=None,
            flags=0,
            is_key=False,
            payload_version=0,
            payload=payload,
            event_hash=format1.event_hash(payload),
        )
        body = body_of(frame)
        if mine:
            head = (head[0], frame.event_hash)
        place = (len(data), len(body) + FRAME.size, first + number)
        rows.append(row_of(frame, *place))
        data += FRAME.pack(len(body), zlib.crc32(body)) + body
    return held | {f"{segment:06}.fbat": data + encode_footer(rows, len(data))}


def row_of(frame: Frame, offset: int, length: int, sequence: int) -> FooterRow:
    return FooterRow(
        frame.event_id,
        frame.entity,
        frame.scope,
        frame.kind,
        frame.wall_ms,
        frame.sequence,
        frame.lane,
        frame.depth,
        frame.prev_hash,
        frame.event_hash,
        offset,
        length,
        sequence,
    )


def merged(held: Content) -> Content:
    """Return *held* after a Merge: all segments but the last have become one, without a footer."""
    files = directory(held)
    *sealed, _ = segments(held)
    data = header(1)
    for name in sealed:
        meta = read_meta(files, int(name[:-5]))
        with closing(files.open_read(name)) as file:
            data += b"".join(held[name][found.offset : found.end] for found in Walk(file, meta))
    return {name: kept for name, kept in held.items() if name not in sealed} | {"000001.fbat": data}


def test_what_the_original_appended_is_there_and_is_gone_on_behind(ours: Content) -> None:
    with looked_at(ours) as store:
        old = shown(store)
    files = directory(session(ours, 3))
    with opened(files) as store:
        assert store.diagnostics().open_report.path == "runs"
        assert shown(store)[: len(old)] == old
        assert [entry.global_sequence for entry in store.query(EVERYTHING)] == list(range(len(old) + 5))
        assert store.append(ORDER, PLACED, {"ours": "again"}).global_sequence == len(old) + 5
        assert store.verify_chain().intact
        wanted = shown(store)
    files = directory(session(content(files), 2))
    for _ in range(2):
        with opened(files) as store:
            assert shown(store)[: len(wanted)] == wanted
            assert store.verify_chain().intact
            store.append(ORDER, PLACED, {"ours": "once more"})


def test_a_merge_of_the_original_takes_nothing_and_moves_no_number(ours: Content) -> None:
    with looked_at(ours) as store:
        old = [entry[0] for entry in shown(store)]
    held = merged(session(ours, 2))
    assert watermark.NAME in held
    files = directory(held)
    for _ in range(2):
        with opened(files) as store:
            assert store.query(EVERYTHING)[: len(old)] == old
            assert store.verify_chain().intact
            store.append(ORDER, PLACED, {"ours": "again"})
    with opened(held) as store:
        assert store.diagnostics().open_report.notes
        assert store.diagnostics().open_report.path == "rebuild"


def test_without_a_segment_of_the_original_a_missing_one_of_ours_still_refuses(ours: Content) -> None:
    for name in segments(ours):
        with pytest.raises(CorruptStoreError):
            opened({key: data for key, data in ours.items() if key != name})


def test_a_segment_of_ours_that_is_missing_in_front_of_one_of_the_original_is_noticed(ours: Content) -> None:
    held = session(ours, 2)
    for name in segments(ours):
        with pytest.raises(CorruptStoreError):
            opened({key: data for key, data in held.items() if key != name})


def killed(count: int) -> Content:
    """A journal of format 1 with one segment that a kill left open; nothing of it is known to be durable."""
    files = MemoryFiles()
    store = opened(files)
    for number in range(count):
        store.append(ORDER if number % 2 else OTHER, PLACED, number)
    held = content(files)
    store.close()
    return {name: data for name, data in held.items() if name != watermark.NAME}


def test_what_a_kill_left_open_before_the_original_came_is_sealed() -> None:
    held = session(killed(6), 2)
    files = directory(held)
    with opened(files) as store:
        assert len(shown(store)) == 10
        assert store.verify_chain().intact
    after = content(files)
    assert after["000001.fbat"].startswith(held["000001.fbat"])
    assert after["000001.fbat"][-4:] == b"SDX3"


@pytest.mark.parametrize("cut", [1, 100, 500])
def test_a_torn_end_of_ours_that_the_original_found_is_passed_over_as_its_own(cut: int) -> None:
    left = killed(6)
    held = session(left, 2) | {"000001.fbat": left["000001.fbat"] + left["000001.fbat"][200 : 200 + cut]}
    files = directory(held)
    for _ in range(2):
        with opened(files) as store:
            assert len(shown(store)) == 10
            assert store.verify_chain().intact
            assert [note for note in store.diagnostics().open_report.notes if f"{cut} torn bytes" in note]
        assert content(files)["000001.fbat"] == held["000001.fbat"]


def test_an_event_of_ours_that_is_missed_behind_its_torn_end_refuses() -> None:
    held = session(killed(6), 2)
    for lost in (1, 3, 100):
        with pytest.raises(CorruptStoreError, match="whose predecessor is not there"):
            opened(held | {"000001.fbat": held["000001.fbat"][:-lost]})


def test_an_event_of_ours_that_was_durable_is_missed_behind_the_originals_segment() -> None:
    files = MemoryFiles()
    with opened(files) as store:
        store.append(ORDER, PLACED, 0)
        for number in range(4):
            store.append(OTHER, PLACED, number, durable=True)
        left = content(files)
    held = session(left, 2)
    with opened(held) as store:
        assert len(shown(store)) == 9
    with pytest.raises(CorruptStoreError, match="durable"):
        opened(held | {"000001.fbat": held["000001.fbat"][:-1]})


def test_zeros_that_a_power_cut_left_are_cut_for_the_original() -> None:
    held = killed(3)
    files = directory(held | {"000001.fbat": held["000001.fbat"] + bytes(3000)})
    with opened(files) as store:
        assert len(shown(store)) == 3
        assert content(files)["000001.fbat"] == held["000001.fbat"]
        assert not store.diagnostics().open_report.quarantined
