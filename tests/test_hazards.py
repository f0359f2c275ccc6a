"""The hazards of the original's format, H1 to H23 of its description: each is fixed or decided here.

Left out, because they concern compaction, which is not there yet: H5 (outputs without a footer; what is read of such is
tested in `test_golden`), H7 (retention drops the newest event of a chain), H8 (merge refuses a torn source), H9
(tombstones of sealed events), H16 (compaction revives uncommitted batches).
"""

from __future__ import annotations

import re
import struct
import zlib
from contextlib import closing
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
from batpak.storage import format1, original_footer
from batpak.storage.frame import FRAME, Frame
from batpak.storage.segment import header_bytes
from batpak.testing.memory import MemoryFiles
from tests import test_hazards_numbers
from tests.directories import EVERYTHING, content, directory, looked_at, opened, segments, shown
from tests.golden.by_hand import COMMIT, HEADER, an_event, begin, framed, golden, ids
from tests.golden.walker import GOLDEN, expected

RUST = GOLDEN / "rust"
TORN = RUST / "0.10.0" / "torn"
WHOLE = (TORN / "whole" / "store" / "000001.fbat").read_bytes()
ORDER, PLACED = Coordinate("order:1", "shop"), EventKind(0x1, 0x001)
OPENING = 0x0008


def seen(*parts: bytes) -> list[int]:
    """Return the ids of what a directory with these segments shows."""
    held = {f"{number:06}.fbat": HEADER + part for number, part in enumerate(parts, 1)}
    with looked_at(held) as store:
        return ids(store)


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
    everywhere = {*globals(), *vars(test_hazards_numbers)}
    names = {name[:8] for name in everywhere if re.match(r"test_h\d\d_", name)}
    tested = {int(name[6:8]) for name in names}
    left_out = {5, 7, 8, 9, 16}
    assert tested | left_out == set(range(1, 24))
    assert not tested & left_out
    assert all(f"H{number}" in (__doc__ or "") for number in left_out)
