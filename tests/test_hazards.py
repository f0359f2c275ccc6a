"""The hazards of the original's format, H1 to H23 of its description: each is fixed or decided here.

Left out, because they concern compaction, which is not there yet: H5 (outputs without a footer; what is read of such is
tested in `test_golden`), H7 (retention drops the newest event of a chain), H8 (merge refuses a torn source), H9
(tombstones of sealed events), H16 (compaction revives uncommitted batches).
"""

from __future__ import annotations

import struct
import zlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import msgpack
import pytest
from crc32c import crc32c

from batpak import (
    Coordinate,
    CorruptStoreError,
    EventFlags,
    EventKind,
    EventNotFoundError,
    NewEvent,
    StoreConfig,
    UnsupportedFormatError,
)
from batpak.reading import Reading
from batpak.storage import format1, original_footer
from batpak.storage.frame import FRAME, NO_HASH, Frame
from batpak.storage.segment import header_bytes
from batpak.testing.memory import MemoryFiles
from tests.directories import EVERYTHING, Content, content, directory, load, looked_at, opened, segments, shown
from tests.golden.walker import GOLDEN, expected, raw_frames

RUST = GOLDEN / "rust"
TORN = RUST / "0.10.0" / "torn"
WHOLE = (TORN / "whole" / "store" / "000001.fbat").read_bytes()
ORDER, PLACED = Coordinate("order:1", "shop"), EventKind(0x1, 0x001)
OPENING = 0x0008
HEADER = bytes.fromhex(
    "464241540000003184a776657273696f6e01a5666c61677300aa637265617465645f6e73cf17979cfe362a0000aa7365676d656e745f696401"
)


def an_event(number: int, **changes: object) -> Frame:
    """Return an event as the original writes it: without a global sequence."""
    payload = msgpack.packb({"n": number})
    frame = Frame(
        event_id=number.to_bytes(16, "big"),
        global_sequence=None,
        remaining=0,
        kind=0x1000,
        entity=f"acct:{number}",
        scope="bank",
        sequence=0,
        timestamp_us=1_700_000_000_000_000,
        wall_ms=1_700_000_000_000,
        prev_hash=NO_HASH,
        correlation_id=None,
        causation_id=None,
        flags=0,
        is_key=False,
        payload_version=0,
        payload=payload,
        event_hash=format1.event_hash(payload),
    )
    return replace(frame, **changes)  # type: ignore[arg-type]


def framed(*frames: Frame) -> bytes:
    """Return frames of format 1, one behind another."""
    bodies = [format1.encode_body(frame) for frame in frames]
    return b"".join(FRAME.pack(len(body), zlib.crc32(body)) + body for body in bodies)


def begin(count: int) -> Frame:
    return format1.begin_marker(0, count, 1_700_000_000_000_000)


COMMIT = format1.commit_marker(0, 1_700_000_000_000_000)


def ids(store: Reading) -> list[int]:
    return [event.event_id.int for event in store.read(EVERYTHING)]


def seen(*parts: bytes) -> list[int]:
    """Return the ids of what a directory with these segments shows."""
    held = {f"{number:06}.fbat": HEADER + part for number, part in enumerate(parts, 1)}
    with looked_at(held) as store:
        return ids(store)


def golden(name: str) -> Content:
    return load(RUST / name / "store")


@pytest.mark.parametrize("cut", [7011, 7277, 6200, 5000])
def test_h01_a_torn_end_is_cut_before_a_new_segment_begins(cut: int) -> None:
    files = directory({"000001.fbat": WHOLE[:cut]})
    for _ in range(3):  # after each life the original must be able to open the journal
        with opened(files) as store:
            store.append(ORDER, PLACED, {})
        for name in segments(content(files)):
            data = files.read_bytes(name, 1 << 20)
            boundary = original_footer.find_boundary(
                lambda length, offset, data=data: data[offset : offset + length],  # type: ignore[misc]
                len(data),
                name,
            )
            end = len(data) if boundary is None else boundary.end
            assert last_frame_end(files, name) == end


def last_frame_end(files: MemoryFiles, name: str) -> int:
    """Walk a segment by length and checksum alone, as the original does."""
    data = files.read_bytes(name, 1 << 20)
    at = 8 + int.from_bytes(data[4:8], "big")
    while at + FRAME.size <= len(data):
        length, crc = FRAME.unpack_from(data, at)
        if zlib.crc32(data[at + 8 : at + 8 + length]) != crc or not length:
            break
        at += 8 + length
    return at


def test_h01_torn_bytes_in_a_segment_that_is_not_the_last_are_passed_over() -> None:
    held = golden("0.10.0/torn/last-frame-half-then-reopened")
    del held["index.fbati"]
    told = expected(TORN / "last-frame-half-then-reopened")
    with opened(held) as store:
        assert [event.event_id.hex for event in store.read(EVERYTHING)] == [e["event_id"] for e in told["events"]]
        assert store.diagnostics().open_report.notes == ("000001.fbat: 267 torn bytes at offset 7010 were passed over",)


def test_h01_a_chain_that_misses_the_torn_bytes_refuses() -> None:
    lost = an_event(1, sequence=1, prev_hash=an_event(1).event_hash, payload=b"\x05")
    lost.event_hash = format1.event_hash(lost.payload)
    after = an_event(3, entity="acct:1", sequence=2, prev_hash=lost.event_hash)
    first = framed(an_event(1))
    assert seen(first + framed(lost), framed(after)) == [1, 1, 3]
    with pytest.raises(CorruptStoreError, match="whose predecessor is not there"):
        seen(first + framed(lost)[:-1], framed(after))
    assert seen(first + framed(lost)[:-1], framed(an_event(2))) == [1, 2]


@pytest.mark.parametrize("size", [0, 3, 4, 7, 8, 20, 56])
@pytest.mark.parametrize("zeros", [0, 100])
@pytest.mark.parametrize("segment_format", [1, 2])
def test_h02_a_segment_that_ends_inside_its_header_is_removed(size: int, zeros: int, segment_format: int) -> None:
    header = header_bytes(
        version=segment_format,
        segment=2,
        created_ns=1,
        store_id=bytes(16),
        salt=0xFFFFFFFF,
        first_sequence=1,
        previous_hash=b"h" * 32,
    )
    held = {"000001.fbat": HEADER + framed(an_event(1)), "000002.fbat": header[:size] + bytes(zeros)}
    with looked_at(held) as store:
        assert ids(store) == [1]
    files = directory(held)
    with opened(files) as store:
        assert ids(store) == [1]
        assert [each.offset for each in store.diagnostics().open_report.quarantined] == ([0] if size else [])
        assert not files.exists("000002.fbat")
        store.append(ORDER, PLACED, {})
    with opened(files) as store:
        assert len(ids(store)) == 2


def test_h02_a_damaged_header_with_events_behind_it_is_no_torn_one() -> None:
    whole = HEADER + framed(an_event(1))
    for damaged in (whole[:4] + b"\0\0\xff\xff" + whole[8:], whole[:8] + b"\xc1" + whole[9:], b"\0" + whole[1:]):
        with pytest.raises(CorruptStoreError):
            looked_at({"000001.fbat": damaged})


def test_h03_a_batch_that_a_crash_left_open_swallows_no_session_after_it() -> None:
    half = framed(an_event(1), begin(3), an_event(2))
    session = framed(an_event(3, kind=OPENING, entity="batpak:store"), an_event(4), an_event(5))
    assert seen(half, session) == [1, 3, 4, 5]


def test_h03_our_segments_do_not_go_on_with_a_batch_of_the_original() -> None:
    files = directory({"000001.fbat": HEADER + framed(an_event(1), begin(3), an_event(2))})
    with opened(files) as store:
        written = [store.append(ORDER, PLACED, number).event_id for number in range(4)]
    with opened(files) as store:
        assert [event.event_id for event in store.read()][1:] == written
        with pytest.raises(EventNotFoundError):
            store.get(UUID(int=2))


def test_h03_batches_of_old_releases_may_straddle_segments() -> None:
    first, second = framed(an_event(1), begin(2), an_event(2)), framed(an_event(3), COMMIT, an_event(4))
    assert seen(first, second) == [1, 2, 3, 4]
    assert seen(first, framed(an_event(3))) == [1]
    files = directory({"000001.fbat": HEADER + first, "000002.fbat": HEADER + framed(an_event(3))})
    with opened(files) as store:  # nothing in the last segment is torn: its frames may be a batch's that went on
        assert not store.diagnostics().open_report.quarantined


@pytest.mark.parametrize(
    ("frames", "shown_ids"),
    [
        ([begin(2), an_event(1), an_event(2), COMMIT, an_event(3)], [1, 2, 3]),
        ([begin(2), an_event(1), COMMIT, an_event(3)], [3]),
        ([begin(1), an_event(1), an_event(2), an_event(3)], [3]),
        ([begin(2), an_event(1), begin(1), an_event(2), COMMIT], [2]),
        ([COMMIT, an_event(1)], [1]),
        ([an_event(1), begin(1), an_event(2)], [1]),
    ],
)
def test_h03_markers_are_read_by_the_originals_table(frames: list[Frame], shown_ids: list[int]) -> None:
    assert seen(framed(*frames)) == shown_ids


@pytest.mark.parametrize("count", [0, 1_000_001])
def test_h03_an_impossible_count_refuses(count: int) -> None:
    with pytest.raises(CorruptStoreError, match=f"a batch of {count} items"):
        seen(framed(begin(count)))


def test_h04_a_snapshot_from_before_a_compaction_gives_no_wrong_numbers() -> None:
    """The list of numbers that was true before lies beside what a retention left; no newer one is there."""
    before, after = golden("0.10.0/compacted-retention/before"), golden("0.10.0/compacted-retention/after")
    told = {e["event_id"]: e["global_sequence"] for e in expected(RUST / "0.10.0/compacted-retention/before")["events"]}
    held = {name: data for name, data in after.items() if name != "index.fbati"}
    held["index.fbati"] = before["index.fbati"]
    with looked_at(held) as store:
        numbers = {event.event_id.hex: event.global_sequence for event in store.read(EVERYTHING)}
    with looked_at({name: data for name, data in held.items() if name != "index.fbati"}) as store:
        counted = {event.event_id.hex: event.global_sequence for event in store.read(EVERYTHING)}
    assert numbers.keys() == counted.keys()
    survivors = numbers.keys() & told.keys()
    assert survivors
    for (
        event_id
    ) in survivors:  # the number it was first given, or a new one where it stands elsewhere now: never another's
        assert numbers[event_id] in {told[event_id], *range(max(told.values()) + 1, max(told.values()) + 100)} or (
            numbers[event_id] == counted[event_id]
        )


def test_h06_extensions_are_there_whichever_way_a_store_is_opened() -> None:
    held = golden("0.10.0/options")
    wanted = [event.get("extensions", {}) for event in expected(RUST / "0.10.0" / "options")["events"]]
    assert any(wanted)
    for without in ("", "index.fbati"):
        with looked_at({name: data for name, data in held.items() if name != without}) as store:
            found = [
                {name: bytes(value).hex() for name, value in event.extensions.items()}  # type: ignore[call-overload]
                for event in store.read(EVERYTHING)
            ]
        assert found == wanted


@pytest.mark.parametrize("segment_format", [1, 2])
def test_h10_items_of_a_batch_keep_their_flags(segment_format: int) -> None:
    files = MemoryFiles()
    flags = EventFlags.REPLAY | EventFlags.REQUIRES_ACK
    with opened(files, StoreConfig(segment_format=1 if segment_format == 1 else 2)) as store:
        receipts = store.append_batch([NewEvent(ORDER, PLACED, {}, flags=flags), NewEvent(ORDER, PLACED, {})])
    with opened(files) as store:
        assert [event.flags for event in store.get_many([each.event_id for each in receipts])] == [flags, 0]


@pytest.mark.parametrize("name", ["7.fbat", "0000007.fbat", "+000007.fbat", "1.fbat", "000000.fbat"])
def test_h11_a_name_that_is_not_canonical_refuses(name: str) -> None:
    for held in ({name: WHOLE}, {name: WHOLE, "000001.fbat": WHOLE}):
        with pytest.raises(CorruptStoreError) as caught:
            looked_at(held)
        assert caught.value.file == name


@pytest.mark.parametrize(
    "name", ["x.fbat", ".fbat", "000001.FBAT", "٣٣٣٣٣٣.fbat", "²²²²²².fbat", "000002.fbat.compact-src"]
)
def test_h11_other_names_are_passed_over(name: str) -> None:
    with looked_at({name: b"junk", "000001.fbat": WHOLE}) as store:
        assert len(ids(store)) == 12


@pytest.mark.parametrize("name", ["0.8.0/rotated", "0.3.0/rotated", "0.2.0/rotated"])
def test_h12_rows_without_a_checksum_say_where_frames_end_and_nothing_else(name: str) -> None:
    held = {key: data for key, data in golden(name).items() if key not in {"index.fbati", "index.ckpt"}}
    told = expected(RUST / name)["events"]
    for segment in segments(held):  # the sequences in the rows are lies now; nobody believes them
        data = bytearray(held[segment])
        frames = list(raw_frames(RUST / name / "store" / segment))
        data[frames[-1].end + 60 : -16] = b"\xee" * (len(data) - frames[-1].end - 76)
        held[segment] = bytes(data)
    with looked_at(held) as store:
        found = [(event.event_id.hex, event.global_sequence) for event in store.read(EVERYTHING)]
    assert found == [(event["event_id"], event["global_sequence"]) for event in told]


def test_h13_keys_are_known_without_the_file_of_keys() -> None:
    held = golden("0.10.0/options")
    del held["index.idemp"]
    with opened(held) as store:
        keyed = next(event for event in store.read() if event.event_id.hex == "feed0000000000000000000000000002")
        again = store.append(keyed.coordinate, keyed.kind, keyed.payload, idempotency_key=keyed.event_id)
        assert (again.duplicate, again.global_sequence) == (True, keyed.global_sequence)


def test_h14_events_of_a_fence_that_a_crash_left_open_are_visible() -> None:
    told = expected(RUST / "0.10.0" / "fence-open-killed")["events"]
    with opened(golden("0.10.0/fence-open-killed")) as store:
        assert [event.event_id.hex for event in store.read(EVERYTHING)] == [event["event_id"] for event in told]


@pytest.mark.parametrize("segment_format", [1, 2, None])
def test_h15_opening_writes_no_event_and_begins_no_segment(segment_format: int | None) -> None:
    files = directory(golden("0.10.0/basic")) if segment_format is None else MemoryFiles()
    config = StoreConfig(segment_format=None if segment_format is None else (1 if segment_format == 1 else 2))
    with opened(files, config) as store:
        count = len(shown(store))
    before = {name: data for name, data in content(files).items() if name.endswith(".fbat")}
    for _ in range(3):
        with opened(files) as store:
            assert len(shown(store)) == count
    assert {name: data for name, data in content(files).items() if name.endswith(".fbat")} == before


def test_h17_the_originals_own_metadata_is_not_read() -> None:
    with looked_at(golden("0.10.0/basic") | {"store.meta": b"junk"}) as store:
        assert len(ids(store)) == 63


def test_h18_the_trailers_bytes_in_a_torn_frame_are_not_believed() -> None:
    trailer = struct.pack("<QI4s", 57, 0, b"SDX3")
    torn = framed(an_event(2, payload=b"\xc4\x40" + bytes(48) + trailer))
    cut = torn[: torn.index(b"SDX3") + 4]
    assert seen(framed(an_event(1)) + cut) == [1]
    files = directory({"000001.fbat": HEADER + framed(an_event(1)) + cut})
    with opened(files) as store:
        assert ids(store) == [1]
        assert len(store.diagnostics().open_report.quarantined) == 1


def test_h19_the_search_behind_damage_is_bounded() -> None:
    """Each candidate claims all that is left: the square of the tail would have to be checked."""
    bait = b"".join(struct.pack(">II", 1_000_000 - 14 * number, 7) + b"\x84\xa5event" for number in range(70_000))
    with pytest.raises(CorruptStoreError, match="more frames than can be checked"):
        seen(framed(an_event(1)) + b"\xff" + bait)


def test_h20_keys_of_the_original_that_are_still_there_take_no_memory() -> None:
    with opened(golden("0.10.0/compacted-retention/after")) as store:
        assert len(store._system.found.evicted) == 2


def closed(frames: list[Frame], sequences: list[int]) -> bytes:
    """Return a segment with a footer that gives its events those global sequences."""
    rows, data = [], HEADER
    for frame, sequence in zip(frames, sequences, strict=True):
        part = framed(frame)
        place = (len(data), len(part), sequence)
        rows.append(
            original_footer.FooterRow(
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
                *place,
            )
        )
        data += part
    return data + original_footer.encode_footer(rows, len(data))


@pytest.mark.parametrize("runs", [False, True])
def test_h21_repeated_and_reordered_sequences_are_read_in_one_order_and_written_on_to(
    runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runs:
        monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    held = {
        "000001.fbat": closed([an_event(number) for number in (1, 2, 3, 4)], [0, 1, 2, 7]),
        "000002.fbat": closed([an_event(number) for number in (5, 6, 7)], [1, 2, 3]),
    }
    wanted = [(1, 0), (2, 1), (5, 1), (3, 2), (6, 2), (7, 3), (4, 7)]
    files = directory(held)
    for life in range(4):
        with opened(files) as store:
            assert store.diagnostics().open_report.path == ("runs" if runs and life else "rebuild")
            events = list(store.read(EVERYTHING))
            assert [(event.event_id.int, event.global_sequence) for event in events][:7] == wanted
            entries = [event.entry for event in events]
            for limit in range(1, len(events)):
                page = store.query(EVERYTHING, limit=limit)
                assert page == entries[: len(page)]
                assert page + store.query(EVERYTHING, after=page[-1].global_sequence) == entries
            assert [each.global_sequence for each in store.append_batch(batch(2))] == [8 + 2 * life, 9 + 2 * life]
            assert store.verify_chain().intact


def batch(count: int) -> list[NewEvent]:
    return [NewEvent(ORDER, PLACED, number) for number in range(count)]


def test_h21_numbers_that_a_retention_moved_are_those_of_the_original() -> None:
    told = expected(RUST / "0.10.0" / "renumbered")
    held = golden("0.10.0/renumbered")
    del held["index.fbati"]
    moved = {e["event_id"]: e["global_sequence"][1] for e in told["rebuild_without_snapshot"]["differences"]}
    files = directory(held)
    for _ in range(2):
        with opened(files) as store:
            numbers = {event.event_id.hex: event.global_sequence for event in store.read(EVERYTHING)}
            assert numbers.items() >= moved.items()
            assert store.append(ORDER, PLACED, {}).global_sequence == max(numbers.values()) + 1


def test_h22_an_entity_and_a_sequence_do_not_name_one_event() -> None:
    held = golden("0.8.0/one")
    files = directory(held)
    with opened(files) as store:
        stream = store.stream("account:1")
        places = [entry.sequence for entry in stream]
        assert len(places) > len(set(places))
        last = stream[-1].sequence
        assert store.append(Coordinate("account:1", "bank"), PLACED, {}, expected_sequence=last).sequence == last + 1
        assert store.verify_chain().intact
    with opened(files) as store:
        assert [entry.sequence for entry in store.stream("account:1")] == [*places, last + 1]


def test_h23_another_checksum_under_the_originals_version_refuses() -> None:
    body = format1.encode_body(an_event(1))
    foreign = HEADER + FRAME.pack(len(body), crc32c(body)) + body
    for look in (looked_at, opened):
        with pytest.raises(CorruptStoreError, match="CRC-32C"):
            look({"000001.fbat": foreign})


def test_h23_our_other_checksum_stands_under_another_version_without_a_footer_of_the_original() -> None:
    files = MemoryFiles()
    with opened(files, StoreConfig(segment_bytes=4096)) as store:
        for number in range(30):
            store.append(ORDER, PLACED, {"n": number, "text": "x" * 300})
    for name in segments(content(files)):
        data = files.read_bytes(name, 1 << 20)
        assert msgpack.unpackb(data[8 : 8 + int.from_bytes(data[4:8], "big")])["version"] == 2
        assert data[-4:] not in {b"SDX3", b"SDX2", b"SIDX"}


def test_a_later_version_of_anything_refuses() -> None:
    held = golden("0.10.0/options")
    for name in ("index.fbati", "index.idemp", "visibility_ranges.fbv"):
        newer = held[name][:6] + struct.pack("<H", 99) + held[name][8:]
        with pytest.raises(UnsupportedFormatError) as caught:
            looked_at(held | {name: newer})
        assert caught.value.file == name
    with closing(directory(held).open_read("000001.fbat")) as file:
        data = file.pread(1 << 20, 0)
    with pytest.raises(UnsupportedFormatError):
        looked_at(held | {"000001.fbat": data[:-1] + b"4"})


@pytest.mark.parametrize("name", ["compaction.pending", "compaction.pending.json"])
def test_an_unfinished_compaction_refuses(name: str) -> None:
    with pytest.raises(UnsupportedFormatError):
        looked_at(golden("0.10.0/basic") | {name: b"{}"})


@pytest.mark.parametrize("entity", ["", "a/b", "a|b", "a=b", "a..b", "x" * 1025, "a\0"])
def test_names_that_cannot_be_asked_for_refuse(entity: str) -> None:
    with pytest.raises(CorruptStoreError, match="entity") as caught:
        seen(framed(an_event(1), an_event(2, entity=entity)))
    assert caught.value.provable == "the events below global sequence 1"


def test_every_hazard_has_its_test_or_is_named_as_left_out() -> None:
    names = {name[:8] for name in globals() if name.startswith("test_h")}
    tested = {int(name[6:8]) for name in names}
    left_out = {5, 7, 8, 9, 16}
    assert tested | left_out == set(range(1, 24))
    assert not tested & left_out
    assert all(f"H{number}" in (__doc__ or "") for number in left_out)
    assert Path(__file__).stem == "test_hazards"
