from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from batpak.errors import CorruptStoreError, UnsupportedFormatError
from batpak.storage import format1
from batpak.storage.original_footer import (
    SDX2,
    SDX3,
    SIDX,
    Boundary,
    FooterRow,
    Pread,
    encode_footer,
    find_boundary,
    read_rows,
)
from batpak.storage.original_sidecars import (
    IdempotencyEntry,
    read_hidden_ranges,
    read_idempotency,
    refuse_pending_compaction,
)
from batpak.storage.original_snapshot import Snapshot, SnapshotDamaged, read_checkpoint, read_mmap_index
from tests.golden.walker import DERIVED, GOLDEN, SEGMENTS, STORES, expected, name_of, raw_frames, segments

TOMBSTONE = 0x0FFE
FIXTURES = GOLDEN / "rust-fixtures"
MMAP_V4 = FIXTURES / "mmap-v4"
CHECKPOINT_V5 = FIXTURES / "checkpoint-v5"


def reader_of(data: bytes) -> Pread:
    return lambda length, offset: data[offset : offset + length]


def boundary_of(data: bytes) -> Boundary | None:
    return find_boundary(reader_of(data), len(data), "000001.fbat")


def rows_of(data: bytes) -> tuple[FooterRow, ...] | None:
    boundary = boundary_of(data)
    assert boundary is not None
    return read_rows(reader_of(data), boundary)


def a_row(**changes: object) -> FooterRow:
    facts: dict[str, Any] = {
        "event_id": bytes(range(16)),
        "entity": "acct:1",
        "scope": "bank",
        "kind": 0x1000,
        "wall_ms": 1_700_000_000_000,
        "sequence": 3,
        "lane": 0,
        "depth": 0,
        "prev_hash": b"p" * 32,
        "event_hash": b"e" * 32,
        "offset": 57,
        "length": 400,
        "global_sequence": 9,
    }
    facts.update(changes)
    return FooterRow(**facts)


FOOTER = bytes(57) + encode_footer([a_row(), a_row(scope="acct:1", causation_id=b"c" * 16)], 57)


# Footers the original wrote


def expected_footers() -> dict[Path, dict[str, Any]]:
    return {
        store / "store" / f"{facts['segment']:06}.fbat": facts
        for store in STORES
        for facts in expected(store).get("segments", [])
    }


FOOTERS = expected_footers()


@pytest.mark.parametrize("path", FOOTERS, ids=name_of)
def test_a_golden_footer_is_found_for_what_it_is(path: Path) -> None:
    facts = FOOTERS[path]
    boundary = boundary_of(path.read_bytes())
    if facts["footer"] is None:
        assert boundary is None
        return
    assert boundary is not None
    assert boundary.magic.decode() == facts["footer"]
    assert (boundary.end, boundary.rows) == (facts["frames_end"], facts["footer_rows"])
    assert boundary.trusted == (boundary.magic == SDX3)


@pytest.mark.parametrize("path", [*SEGMENTS, DERIVED], ids=name_of)
def test_rows_agree_with_the_frames_and_encode_to_the_same_footer(path: Path) -> None:
    data = path.read_bytes()
    boundary = boundary_of(data)
    if boundary is None:
        return
    rows = read_rows(reader_of(data), boundary)
    assert rows is not None
    frames = {raw.offset: (raw, format1.decode_body(raw.body)) for raw in raw_frames(path)}
    from_frames = []
    for row in rows:
        raw, frame = frames[row.offset]
        from_frames.append(
            FooterRow(
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
                raw.offset,
                raw.end - raw.offset,
                row.global_sequence,
                frame.correlation_id,
                frame.causation_id,
            )
        )
    assert rows == tuple(from_frames)
    if boundary.magic == SDX3:
        assert encode_footer(from_frames, boundary.end) == data[boundary.end :]


def test_the_derived_footer_is_the_one_in_the_tables() -> None:
    data = DERIVED.read_bytes()
    assert blake3(data).hexdigest() == "c098e1e89053e33d01de835f840199e6f8f477637f0f2d63073e21ef0503dbcc"
    table = bytes.fromhex("93a6616363743a31a462616e6ba6616363743a32")
    first_row = bytes.fromhex(
        "a1000000000000000000000000000000000000000100000000100068e5cf8b010000000000000000000000000000"
        "00000000000000000000000000000000000000000000000000000000000000007be2f6ba1a9ebb6454bae81c36b2"
        "f3416e4ffe75827066ecc0856478a8c75a7f3900000000000000da0100000000000000000000a100000000000000"
        "000000000000000000000000000000000000000000000000"
    )
    ending = bytes.fromhex("1e46fd8e810a0000000000000400000053445833")
    footer = data[2689:]
    assert footer.startswith(table + first_row)
    assert footer.endswith(ending)
    rows = rows_of(data)
    assert rows is not None
    assert encode_footer(rows, 2689) == footer
    assert [row.global_sequence for row in rows] == [0, 1, 2, 3]


# Footers that are not to be believed


def test_a_footer_with_a_wrong_crc_is_a_hint_only() -> None:
    damaged = bytearray(FOOTER)
    damaged[100] ^= 1
    boundary = boundary_of(bytes(damaged))
    assert boundary == Boundary(SDX3, 57, 2, trusted=False, size=len(FOOTER))


def test_a_forged_offset_is_not_trusted() -> None:
    for forged in (0, 56, 58, len(FOOTER), 2**64 - 1):
        data = FOOTER[:-16] + struct.pack("<QI4s", forged, 2, SDX3)
        boundary = boundary_of(data)
        assert boundary is not None
        assert not boundary.trusted


@pytest.mark.parametrize("rows", [3, 2**32 - 1])
def test_rows_that_do_not_fit_are_not_read(rows: int) -> None:
    data = FOOTER[:-16] + struct.pack("<QI4s", 57, rows, SDX3)
    boundary = boundary_of(data)
    assert boundary is not None
    assert not boundary.trusted
    assert read_rows(reader_of(data), boundary) is None


def test_a_row_that_names_no_string_makes_the_footer_unreadable() -> None:
    table = msgpack.packb(["acct:1"])
    old = encode_footer([a_row()], 57)
    body = table + old[len(msgpack.packb(["acct:1", "bank"])) : -20]
    data = bytes(57) + body + struct.pack("<I", zlib.crc32(body)) + old[-16:]
    boundary = boundary_of(data)
    assert boundary is not None
    assert boundary.trusted
    assert read_rows(reader_of(data), boundary) is None


def test_an_empty_footer_has_no_rows() -> None:
    assert rows_of(encode_footer([], 0)) == ()


@pytest.mark.parametrize("magic", [SIDX, SDX2])
def test_older_footers_are_never_trusted(magic: bytes) -> None:
    data = bytes(57) + msgpack.packb([]) + struct.pack("<QI4s", 57, 0, magic)
    boundary = boundary_of(data)
    assert boundary == Boundary(magic, 57, 0, trusted=False, size=len(data))
    assert read_rows(reader_of(data), boundary) == ()


@pytest.mark.parametrize("ending", [b"", b"SDX3", bytes(16), bytes(12) + b"SDX0", bytes(12) + b"SDX:"])
def test_other_endings_are_no_footer(ending: bytes) -> None:
    assert boundary_of(ending) is None


@pytest.mark.parametrize("digit", [b"4", b"9"])
def test_a_newer_footer_is_refused(digit: bytes) -> None:
    with pytest.raises(UnsupportedFormatError) as caught:
        boundary_of(FOOTER[:-1] + digit)
    assert caught.value.file == "000001.fbat"
    assert caught.value.found == f"footer SDX{digit.decode()}"


def test_a_file_that_shrinks_meanwhile_has_no_footer() -> None:
    assert find_boundary(reader_of(FOOTER), len(FOOTER) + 100, "000001.fbat") is None
    boundary = boundary_of(FOOTER)
    assert boundary is not None
    assert read_rows(reader_of(FOOTER[:300]), boundary) is None


@given(st.binary(max_size=400), st.sampled_from([SIDX, SDX2, SDX3]), st.integers(0, 300), st.integers(0, 3))
def test_any_footer_is_read_or_not_and_never_fails(data: bytes, magic: bytes, end: int, rows: int) -> None:
    data += struct.pack("<QI4s", end, rows, magic)
    boundary = boundary_of(data)
    assert boundary is not None
    read_rows(reader_of(data), boundary)


IDS = st.binary(min_size=16, max_size=16)


@given(
    st.lists(
        st.builds(
            a_row,
            event_id=IDS,
            entity=st.text(max_size=5),
            scope=st.text(max_size=5),
            kind=st.integers(0, 2**16 - 1),
            offset=st.integers(0, 2**64 - 1),
            length=st.integers(0, 2**32 - 1),
            global_sequence=st.integers(0, 2**64 - 1),
            correlation_id=st.none() | IDS,
            causation_id=st.none() | IDS.filter(any),
        ),
        max_size=5,
    )
)
def test_what_is_encoded_is_read_again(rows: list[FooterRow]) -> None:
    rows = [replace(row, correlation_id=None) if row.correlation_id == row.event_id else row for row in rows]
    data = bytes(7) + encode_footer(rows, 7)
    boundary = boundary_of(data)
    assert boundary is not None
    assert boundary.trusted
    assert read_rows(reader_of(data), boundary) == tuple(rows)


# Snapshots

Reader = Callable[[bytes], Snapshot | SnapshotDamaged]


def with_prefix(magic: bytes, version: int, body: bytes) -> bytes:
    return struct.pack("<6sHI", magic, version, zlib.crc32(body)) + body


def read_snapshot(reader: Reader, data: bytes) -> Snapshot:
    snapshot = reader(data)
    assert isinstance(snapshot, Snapshot), snapshot
    return snapshot


def snapshots_beside(store: Path) -> list[Snapshot]:
    readers: dict[str, Reader] = {"index.fbati": read_mmap_index, "index.ckpt": read_checkpoint}
    return [
        read_snapshot(reader, (store / "store" / name).read_bytes())
        for name, reader in readers.items()
        if (store / "store" / name).exists()
    ]


@pytest.mark.parametrize("store", STORES, ids=name_of)
def test_a_golden_snapshot_knows_where_every_visible_event_stands(store: Path) -> None:
    facts = expected(store)
    for snapshot in snapshots_beside(store):
        events = {(event["segment"], event["offset"]): event["global_sequence"] for event in facts["events"]}
        assert events.items() <= snapshot.sequences.items()
        assert snapshot.allocator > max(snapshot.sequences.values())
        last = segments(store)[-1]
        watermark = (snapshot.watermark_segment, snapshot.watermark_offset)
        assert watermark == (int(last.stem), last.stat().st_size)


def test_the_fixtures_of_older_snapshots_are_read() -> None:
    old_map = read_snapshot(read_mmap_index, (MMAP_V4 / "index.fbati").read_bytes())
    assert old_map == Snapshot(1, 2675, 3, {(1, 57): 0, (1, 1077): 1, (1, 1584): 2})
    old_checkpoint = read_snapshot(read_checkpoint, (CHECKPOINT_V5 / "index.ckpt").read_bytes())
    assert (old_checkpoint.watermark_segment, old_checkpoint.watermark_offset) == (1, 2701)
    assert sorted(old_checkpoint.sequences.values()) == [0, 1, 2]
    assert old_checkpoint.sequences.keys() == {(1, raw.offset) for raw in raw_frames(CHECKPOINT_V5 / "000001.fbat")}


ROW_BYTES = {1: 162, 2: 162, 3: 170, 4: 170, 5: 218}
EXTENSION = msgpack.packb({"a.b": b"x"})


def an_index(
    version: int,
    *,
    strings: int = 3,
    digest: bytes | None = None,
    entity: int = 1,
    summary: object = (),
    beyond: int = 0,
) -> bytes:
    """Build an index of two rows, the second with an extension in version 5."""
    table = msgpack.packb(["", "acct:1", "bank"])
    about = b"" if version == 1 else msgpack.packb({"routing": {}} if summary == () else summary)
    blob = EXTENSION if version == 5 else b""
    lengths = [len(table), len(about), len(blob)][: 1 if version == 1 else 2 if version < 5 else 3]
    head = struct.pack(f"<QQQIQ{len(lengths)}Q", 4, 999, 30, strings, 2, *lengths)
    rows = b""
    for number, (offset, sequence) in enumerate([(57, 20), (457, 21)]):
        lane_and_depth = bytes(8 if version > 2 else 0)
        row = bytes(16) + struct.pack("<IIHQI", entity, 2, 0x1000, 1, 1) + lane_and_depth + bytes(64)
        row += struct.pack("<QQIQ", 4, offset, 400, sequence) + bytes(32)
        if version == 5:
            hash_of_slice = digest or blake3(EXTENSION).digest()
            row += struct.pack("<QQ32s", beyond, number * len(EXTENSION), hash_of_slice if number else bytes(32))
        assert len(row) == ROW_BYTES[version]
        rows += row
    return with_prefix(b"FBATIX", version, head + table + about + blob + rows)


@pytest.mark.parametrize("version", ROW_BYTES)
def test_every_version_of_the_mapped_index_is_read(version: int) -> None:
    found = read_mmap_index(an_index(version))
    assert found == Snapshot(4, 999, 30, {(4, 57): 20, (4, 457): 21})


def a_checkpoint(version: int, **changes: object) -> bytes:
    entry: dict[str, object] = {
        "event_id": bytes(16),
        "correlation_id": bytes(16),
        "causation_id": None,
        "entity_id": 1,
        "scope_id": 2,
        "kind": 0x1000,
        "wall_ms": 1,
        "clock": 0,
        "dag_lane": 0,
        "dag_depth": 0,
        "prev_hash": [0] * 32,
        "event_hash": [255] * 32,
        "segment_id": 4,
        "offset": 57,
        "length": 400,
        "global_sequence": 20,
        "receipt_extensions": {},
    }
    since = {"dag_lane": 4, "dag_depth": 4, "receipt_extensions": 6}
    body: dict[str, object] = {
        "global_sequence": 30,
        "watermark_segment_id": 4,
        "watermark_offset": 999,
        "interner_strings": ["", "acct:1", "bank"],
        "routing": {"chunks": []},
        "reserved_kind_fallbacks": {},
        "entries": [{key: value for key, value in entry.items() if since.get(key, 0) <= version}],
    }
    if version < 5:
        del body["reserved_kind_fallbacks"]
    if version < 3:
        del body["routing"]
    return with_prefix(b"FBATCK", version, msgpack.packb(body | changes))


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_every_version_of_the_checkpoint_is_read(version: int) -> None:
    assert read_checkpoint(a_checkpoint(version)) == Snapshot(4, 999, 30, {(4, 57): 20})


@pytest.mark.parametrize(
    "changes",
    [
        {"global_sequence": None},
        {"watermark_offset": -1},
        {"interner_strings": ["", "acct:1"]},
        {"interner_strings": [1, 2, 3]},
        {"entries": None},
        {"entries": [{}]},
        {"entries": [[]]},
    ],
)
def test_a_checkpoint_with_a_wrong_part_is_damaged(changes: dict[str, Any]) -> None:
    assert isinstance(read_checkpoint(a_checkpoint(6, **changes)), SnapshotDamaged)


def test_a_checkpoint_may_have_positions_for_keys_but_no_key_twice() -> None:
    fields = msgpack.unpackb(a_checkpoint(6)[12:])
    positions = dict(enumerate(fields.values())) | {99: None}
    assert read_checkpoint(with_prefix(b"FBATCK", 6, msgpack.packb(positions))) == read_checkpoint(a_checkpoint(6))
    twice = with_prefix(b"FBATCK", 6, msgpack.packb(fields | {0: 30}))
    assert read_checkpoint(twice) == SnapshotDamaged("found the key 'global_sequence' twice, expected it once")


def test_a_checkpoint_without_a_part_is_damaged() -> None:
    fields = msgpack.unpackb(a_checkpoint(6)[12:])
    for key in ("global_sequence", "interner_strings", "entries"):
        rest = {name: value for name, value in fields.items() if name != key}
        assert isinstance(read_checkpoint(with_prefix(b"FBATCK", 6, msgpack.packb(rest))), SnapshotDamaged)


@pytest.mark.parametrize(
    "data",
    [
        an_index(5, strings=4),
        an_index(5, entity=3),
        an_index(5, digest=b"d" * 32),
        an_index(5, beyond=1),
        an_index(5, summary=[]),
        an_index(5)[:-1],
        with_prefix(b"FBATIX", 5, an_index(5)[12:] + b"\x00"),
        with_prefix(b"FBATIX", 4, an_index(5)[12:]),
        with_prefix(b"FBATIX", 5, b""),
        with_prefix(b"FBATIX", 0, an_index(1)[12:]),
    ],
)
def test_a_mapped_index_with_a_wrong_part_is_damaged(data: bytes) -> None:
    assert isinstance(read_mmap_index(data), SnapshotDamaged)


@pytest.mark.parametrize(
    ("reader", "data"), [(read_mmap_index, an_index(5)), (read_checkpoint, a_checkpoint(6))], ids=["fbati", "ckpt"]
)
def test_a_snapshot_with_any_bit_flipped_is_damaged_or_newer(reader: Reader, data: bytes) -> None:
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        if position in {6, 7}:
            with pytest.raises(UnsupportedFormatError):
                reader(bytes(flipped))
        else:
            assert isinstance(reader(bytes(flipped)), SnapshotDamaged)


@pytest.mark.parametrize(
    ("reader", "magic", "version"), [(read_mmap_index, b"FBATIX", 6), (read_checkpoint, b"FBATCK", 7)]
)
def test_a_newer_snapshot_is_refused_before_its_crc_is_looked_at(reader: Reader, magic: bytes, version: int) -> None:
    with pytest.raises(UnsupportedFormatError) as caught:
        reader(struct.pack("<6sHI", magic, version, 0) + b"anything")
    assert caught.value.found == version


# Idempotency keys

ENTRY = bytes.fromhex(
    "8ea36b6579c410000000000000000000000000000000e1a86576656e745f6964c410000000000000000000000000000000e1"
    "af676c6f62616c5f73657175656e636509b06469736b5f706f735f7365676d656e7401af6469736b5f706f735f6f66667365"
    "7439af6469736b5f706f735f6c656e677468cd0190ac636f6e74656e745f68617368dc002011111111111111111111111111"
    "11111111111111111111111111111111111111a9707265765f68617368dc0020000000000000000000000000000000000000"
    "0000000000000000000000000000a6656e74697479a6616363743a31a573636f7065a462616e6ba46b696e64cd1000b87265"
    "636f726465645f676c6f62616c5f73657175656e636509ad6576656e745f65766963746564c2b2726563656970745f657874"
    "656e73696f6e7380"
)
IMAGE_1 = bytes.fromhex("4642415449440100570ef05c91") + ENTRY
IMAGE_2 = (
    bytes.fromhex(
        "4642415449440200ad3b5a6886a76c696e65616765c4100000000000000000000000000000000aa8696d6167655f6964c410"
        "0000000000000000000000000000000bb170726576696f75735f696d6167655f6964c0ad636f6d70616374696f6e5f6964c0"
        "a6616e63686f7283b7636f76657265645f676c6f62616c5f73657175656e636509ab6576656e745f69645f6174c410000000"
        "000000000000000000000000e1b0636861696e5f636f6d6d69746d656e74dc0020111111111111111111111111111111111"
        "1111111111111111111111111111111"
    )
    + b"\xa7entries\x91"
    + ENTRY
)
THE_ENTRY = IdempotencyEntry(
    key=bytes(15) + b"\xe1",
    event_id=bytes(15) + b"\xe1",
    global_sequence=9,
    segment=1,
    offset=57,
    length=400,
    content_hash=b"\x11" * 32,
    prev_hash=bytes(32),
    entity="acct:1",
    scope="bank",
    kind=0x1000,
    evicted=False,
)


@pytest.mark.parametrize("image", [IMAGE_1, IMAGE_2], ids=["v1", "v2"])
def test_both_versions_of_the_idempotency_image_are_read(image: bytes) -> None:
    assert read_idempotency(image) == [THE_ENTRY]


def test_an_image_without_the_later_ids_is_read() -> None:
    fields = msgpack.unpackb(IMAGE_2[12:])
    del fields["previous_image_id"], fields["compaction_id"]
    assert read_idempotency(with_prefix(b"FBATID", 2, msgpack.packb(fields))) == [THE_ENTRY]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("rust/**/index.idemp")), ids=name_of)
def test_golden_keys_are_those_of_events_in_the_store(path: Path) -> None:
    facts = expected(path.parents[1])
    events = {
        event["event_id"]: (event["entity"], event["scope"], event["kind"], event["event_hash"])
        for event in facts["events"] + facts.get("frames_not_visible", [])
    }
    entries = read_idempotency(path.read_bytes())
    assert entries
    for entry in entries:
        assert entry.key == entry.event_id
        if not entry.evicted:
            entity, scope, kind, event_hash = events[entry.event_id.hex()]
            assert (entry.entity, entry.scope, entry.content_hash.hex()) == (entity, scope, event_hash)
            assert kind in {entry.kind, TOMBSTONE}  # a compaction changes the frame alone


def entry_with(**changes: object) -> bytes:
    fields = msgpack.unpackb(ENTRY) | changes
    return with_prefix(b"FBATID", 1, msgpack.packb([fields]))


def test_an_evicted_key_and_its_extensions_are_read() -> None:
    entry = read_idempotency(entry_with(event_evicted=True, receipt_extensions={"a.b": [1, 2]}))[0]
    assert (entry.evicted, entry.extensions) == (True, {"a.b": b"\x01\x02"})


def test_an_entry_without_the_keys_that_have_a_default_is_read() -> None:
    fields = msgpack.unpackb(ENTRY)
    del fields["event_evicted"], fields["receipt_extensions"]
    assert read_idempotency(with_prefix(b"FBATID", 1, msgpack.packb([fields]))) == [THE_ENTRY]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"FBATID",
        IMAGE_1[:-1],
        IMAGE_1[:30] + b"x" + IMAGE_1[31:],
        b"FBATIX" + IMAGE_1[6:],
        with_prefix(b"FBATID", 0, IMAGE_1[12:]),
        with_prefix(b"FBATID", 1, b""),
        with_prefix(b"FBATID", 1, b"\xc0"),
        with_prefix(b"FBATID", 2, b"\x80"),
        with_prefix(b"FBATID", 2, msgpack.packb([1, 2])),
        with_prefix(b"FBATID", 2, IMAGE_2[12:].replace(b"\xa7lineage", b"\xa7lineag\xff")[:-20]),
        entry_with(key=b"short"),
        entry_with(global_sequence=-1),
        entry_with(event_evicted=None),
        entry_with(receipt_extensions=None),
        entry_with(entity=7),
    ],
)
def test_damaged_keys_refuse(data: bytes) -> None:
    with pytest.raises(CorruptStoreError) as caught:
        read_idempotency(data)
    assert caught.value.file == "index.idemp"


def test_a_newer_image_is_refused() -> None:
    with pytest.raises(UnsupportedFormatError) as caught:
        read_idempotency(struct.pack("<6sHI", b"FBATID", 3, 0))
    assert (caught.value.found, caught.value.supported) == (3, "versions 1 to 2")


# Hidden ranges

RANGES_2 = bytes.fromhex(
    "4642415456520200e3be0bbe82a672616e6765739182a5737461727403a3656e6407ab6c616e655f72616e6765739182a46c61"
    "6e6502a672616e6765739182a5737461727403a3656e6404"
)


def ranges_file(body: object, version: int = 2) -> bytes:
    return with_prefix(b"FBATVR", version, msgpack.packb(body))


def test_hidden_ranges_are_read_and_those_of_lanes_passed_over() -> None:
    assert read_hidden_ranges(RANGES_2) == [(3, 7)]


def test_hidden_ranges_of_the_first_version_have_no_lanes() -> None:
    assert read_hidden_ranges(ranges_file({"ranges": [{"start": 28, "end": 29}]}, 1)) == [(28, 29)]


def test_hidden_ranges_come_in_order_and_apart() -> None:
    pairs = [(9, 12), (1, 3), (3, 4), (10, 11), (20, 21)]
    body = {"ranges": [{"start": start, "end": end} for start, end in pairs], "lane_ranges": []}
    assert read_hidden_ranges(ranges_file(body)) == [(1, 4), (9, 12), (20, 21)]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("rust/**/visibility_ranges.fbv")), ids=name_of)
def test_golden_ranges_hide_what_is_not_visible(path: Path) -> None:
    ranges = read_hidden_ranges(path.read_bytes())
    visible = {event["global_sequence"] for event in expected(path.parents[1])["events"]}
    assert ranges
    assert not any(start <= sequence < end for start, end in ranges for sequence in visible)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        RANGES_2[:-1],
        b"X" + RANGES_2[1:],
        with_prefix(b"FBATVR", 0, RANGES_2[12:]),
        with_prefix(b"FBATVR", 2, b"\xc1"),
        ranges_file({}),
        ranges_file({"ranges": None}),
        ranges_file({"ranges": [{"start": 3, "end": 3}]}),
        ranges_file({"ranges": [{"start": 4, "end": 3}]}),
        ranges_file({"ranges": [{"start": 4}]}),
        ranges_file({"ranges": [{"start": -4, "end": 3}]}),
        ranges_file({"ranges": [], "lane_ranges": None}),
        ranges_file({"ranges": [], "lane_ranges": [{"lane": 2**32, "ranges": []}]}),
        ranges_file({"ranges": [], "lane_ranges": [{"lane": 1, "ranges": [{"start": 2, "end": 1}]}]}),
    ],
)
def test_damaged_ranges_refuse(data: bytes) -> None:
    with pytest.raises(CorruptStoreError) as caught:
        read_hidden_ranges(data)
    assert caught.value.file == "visibility_ranges.fbv"


def test_newer_ranges_are_refused() -> None:
    with pytest.raises(UnsupportedFormatError):
        read_hidden_ranges(struct.pack("<6sHI", b"FBATVR", 3, 0))


# Anything else


@pytest.mark.parametrize("marker", ["compaction.pending", "compaction.pending.json"])
def test_an_unfinished_compaction_is_refused(marker: str) -> None:
    with pytest.raises(UnsupportedFormatError) as caught:
        refuse_pending_compaction(["000001.fbat", marker])
    assert caught.value.file == marker


def test_without_a_marker_nothing_is_refused() -> None:
    refuse_pending_compaction(["000001.fbat", "compaction.pending.tmp", "keyset.fbatk"])


SIDECARS: list[tuple[Callable[[bytes], object], bytes, int]] = [
    (read_mmap_index, b"FBATIX", 5),
    (read_checkpoint, b"FBATCK", 6),
    (read_idempotency, b"FBATID", 2),
    (read_hidden_ranges, b"FBATVR", 2),
]
PIECES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.sampled_from(["entries", "ranges", "lane_ranges", "start", "end", "interner_strings", "key"])
            | st.integers(0, 5),
            inner,
        )
    ),
    max_leaves=10,
)


@pytest.mark.parametrize(("reader", "magic", "newest"), SIDECARS)
@given(data=st.data())
def test_any_sidecar_is_read_or_refused(
    reader: Callable[[bytes], object], magic: bytes, newest: int, data: st.DataObject
) -> None:
    body = data.draw(st.binary(max_size=300) | PIECES.map(msgpack.packb))
    try:
        reader(with_prefix(magic, data.draw(st.integers(1, newest)), body))
    except CorruptStoreError:
        pass
