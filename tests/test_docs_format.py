"""The bytes that docs/format.md shows: what a store writes, what the code reads from them, and what it makes again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgpack
import pytest
from blake3 import blake3

from batpak import Coordinate, EventKind, NewEvent, Place, Region, Store, StoreConfig, operation_key
from batpak.actors.journal import FIRST_STEP_BYTES, MAX_STEP_BYTES
from batpak.coordinate import MAX_COORDINATE_BYTES
from batpak.storage import original_footer, place_file, segment, watermark
from batpak.storage.frame import FRAME, MAX_BODY_BYTES
from batpak.storage.scan import Batches, Found, Walk
from batpak.storage.segment import SegmentMeta
from batpak.storage.tree import Stretch
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles

PAGE = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```hex (?P<name>[^\n]+)\n(?P<lines>.*?)^```$", re.DOTALL | re.MULTILINE)
LINE = re.compile(r"^ *(?P<offset>\d+)  (?P<bytes>[0-9a-f]{2}(?: [0-9a-f]{2})*)(?: +(?P<remark>\S.*))?$")

STORE_ID = bytes(range(16))
SALT = bytes.fromhex("5a17c0de")
WALL_US = 1_720_000_000_707_123
ORDER = Coordinate("order:1", "shop")
PARCEL = Coordinate("parcel:7", "shop")
PLACED, PAID, PACKED = (EventKind(0x1, number) for number in (1, 2, 3))
KEY = operation_key("place-order", "order:1")
SEGMENT = "000001.fbat"
FIELDS = [
    "event id",
    "global sequence",
    "remaining",
    "kind",
    "entity",
    "scope",
    "sequence",
    "timestamp_us",
    "previous hash",
    "correlation id",
    "causation id",
    "flags",
    "payload version",
    "payload",
    "extensions",
]


class Piece(NamedTuple):
    """Some bytes that the page shows with one remark, which may take several lines."""

    offset: int
    data: bytes
    remark: str


def pieces(name: str) -> list[Piece]:
    """Return what the block *name* shows; its lines follow one another without a gap."""
    block = next(block for block in BLOCK.finditer(PAGE) if block["name"] == name)
    found: list[Piece] = []
    end = None
    for text in block["lines"].splitlines():
        line = LINE.match(text)
        assert line is not None, text
        offset, data = int(line["offset"]), bytes.fromhex(line["bytes"])
        assert end in {None, offset}, text
        end = offset + len(data)
        if line["remark"]:
            found.append(Piece(offset, data, line["remark"]))
        else:
            found[-1] = found[-1]._replace(data=found[-1].data + data)
    return found


def joined(*names: str, start: int = 0) -> bytes:
    """Return the bytes of blocks that follow one another from offset *start* on."""
    data = b""
    for name in names:
        for piece in pieces(name):
            assert piece.offset == start + len(data), piece
            data += piece.data
    return data


def table(first_column: str) -> list[list[str]]:
    """Return the cells of the table whose first heading is *first_column*."""
    lines = PAGE.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    rows = []
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.fixture
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let random bytes be those of the page."""
    known = {len(STORE_ID): STORE_ID, len(SALT): SALT}
    monkeypatch.setattr("os.urandom", lambda count: known.get(count) or bytes(at & 0xFF for at in range(count)))


def write_example(segment_format: int) -> MemoryFiles:
    """Return a directory whose first segment is the page's; in format 1 it holds the first event alone."""
    files = MemoryFiles()
    clock = HandClock(WALL_US)
    config = StoreConfig(clock=clock, segment_format=1 if segment_format == 1 else 2, segment_bytes=4096)
    with closing(Store(files.beside(), config)) as store:
        store.append(ORDER, PLACED, {"total": 10}, idempotency_key=KEY, durable=True)
        if segment_format == 2:
            clock.advance(2)
            store.append_batch(
                [NewEvent(ORDER, PAID, {"by": "card"}), NewEvent(PARCEL, PACKED, {}, caused_by=0)],
            )
            writer = store._system.writer
            ends = writer.standing.next_sequence, writer.standing.last_hash
            store._writer.within_turn(lambda: writer.journal.rotate(*ends, clock.now_us()))
    return files


def directory_of(data: bytes) -> MemoryFiles:
    """Return a directory that holds *data* as its only segment."""
    files = MemoryFiles()
    files.write_atomic(SEGMENT, data)
    return files


@contextmanager
def walked(data: bytes) -> Iterator[tuple[SegmentMeta, list[Found], Walk]]:
    """Read a segment: what it says of itself, its frames, and the walk that ended behind them."""
    files = directory_of(data)
    meta = segment.read_meta(files, 1)
    with closing(files.open_read(SEGMENT)) as file:
        walk = Walk(file, meta, meta.frames_start, meta.size)
        found = list(walk)
        yield meta, found, walk


FORMAT_2 = joined("header", "frame", "batch 1", "batch 2", "footer")
FORMAT_1 = joined("header 1", "frame 1", "footer 1")
SLOT = joined("slot", start=512)


@pytest.mark.usefixtures("no_chance")
@pytest.mark.parametrize(("segment_format", "shown"), [(2, FORMAT_2), (1, FORMAT_1)])
def test_a_store_writes_the_segment_that_the_page_shows(segment_format: int, shown: bytes) -> None:
    assert write_example(segment_format).read_bytes(SEGMENT, 1 << 20) == shown
    assert f"of {len(FORMAT_2)} bytes" in PAGE


@pytest.mark.usefixtures("no_chance")
def test_a_store_writes_the_durable_position_that_the_page_shows() -> None:
    data = write_example(2).read_bytes(watermark.NAME, 1 << 20)
    assert data[512:] == SLOT
    assert f"it is {len(data)} bytes long" in PAGE


def test_the_header_says_what_the_page_says_and_is_made_again() -> None:
    with walked(FORMAT_2) as (meta, _, _):
        assert (meta.version, meta.segment, meta.store_id) == (2, 1, STORE_ID)
        assert (meta.salt, meta.created_ns) == (int.from_bytes(SALT, "big"), WALL_US * 1000)
        assert (meta.first_sequence, meta.previous_hash) == (0, bytes(32))
    header = joined("header")
    assert meta.frames_start == len(header)
    assert meta.identity == blake3(header).digest()[:16]
    assert header == segment.header_bytes(
        version=2,
        segment=1,
        created_ns=WALL_US * 1000,
        store_id=STORE_ID,
        salt=meta.salt,
        first_sequence=0,
        previous_hash=bytes(32),
    )
    assert msgpack.unpackb(header[8:-4]).keys() == {row[0].strip("`") for row in table("header key")}


def test_the_header_of_format_1_says_what_the_page_says_and_is_made_again() -> None:
    with walked(FORMAT_1) as (meta, _, _):
        assert (meta.version, meta.segment, meta.ours, meta.first_sequence) == (1, 1, True, 0)
    assert joined("header 1") == segment.header_bytes(
        version=1,
        segment=1,
        created_ns=WALL_US * 1000,
        store_id=STORE_ID,
        salt=0,
        first_sequence=0,
        previous_hash=bytes(32),
    )


@pytest.mark.parametrize(
    ("shown", "names"), [(FORMAT_2, ("frame", "batch 1", "batch 2")), (FORMAT_1, ("frame 1",))], ids=["2", "1"]
)
def test_each_frame_decodes_and_encodes_to_the_same_bytes(shown: bytes, names: tuple[str, ...]) -> None:
    with walked(shown) as (meta, found, _):
        assert len(found) == len(names)
        for each, name in zip(found, names, strict=True):
            frame = joined(name, start=each.offset)
            assert frame == shown[each.offset : each.end]
            assert segment.frame_bytes(meta, meta.encode(each.frame)) == frame


def test_the_frames_of_the_example_hold_what_the_page_says() -> None:
    with walked(FORMAT_2) as (_, found, walk):
        placed, paid, packed = (each.frame for each in found)
        assert walk.why == "a frame length of 0"
    assert (placed.event_id, placed.is_key, placed.global_sequence) == (KEY.bytes, True, 0)
    assert (placed.kind, placed.entity, placed.scope, placed.sequence) == (PLACED.value, "order:1", "shop", 0)
    assert msgpack.unpackb(placed.payload) == {"total": 10}
    assert [frame.remaining for frame in (placed, paid, packed)] == [0, 1, 0]
    assert paid.prev_hash == placed.event_hash
    assert paid.extensions == {"durable": [1, found[1].offset, 1]}
    assert (packed.causation_id, packed.prev_hash) == (paid.event_id, bytes(32))


def test_the_hash_of_an_event_is_that_of_its_body() -> None:
    with walked(FORMAT_2) as (_, found, _):
        for each in found:
            assert each.frame.event_hash == blake3(FORMAT_2[each.offset + FRAME.size : each.end]).digest()
    with walked(FORMAT_1) as (_, found, _):
        assert found[0].frame.event_hash == blake3(found[0].frame.payload).digest()


def test_a_batch_counts_only_with_its_last_frame() -> None:
    with walked(FORMAT_2) as (meta, found, _):
        batches = Batches()
        assert [len(batches.feed(each, meta.version)) for each in found] == [1, 0, 2]


@pytest.mark.parametrize("name", ["frame", "batch 1", "batch 2"])
def test_a_body_is_shown_element_by_element(name: str) -> None:
    elements = pieces(name)[3:]
    assert [piece.remark.partition(":")[0] for piece in elements] == FIELDS == [row[1] for row in table("#")]
    with walked(FORMAT_2) as (_, found, _):
        each = next(each for each in found if each.offset == pieces(name)[0].offset)
    values = msgpack.unpackb(FORMAT_2[each.offset + FRAME.size : each.end])
    assert [piece.data for piece in elements] == [msgpack.packb(value) for value in values]


def test_the_footer_says_what_the_page_says_and_is_made_again() -> None:
    with walked(FORMAT_2) as (meta, found, walk):
        footer = meta.footer
    assert footer is not None
    assert (footer.frames, footer.first_sequence, footer.last_sequence) == (3, 0, 2)
    assert footer.end == walk.end == pieces("footer")[0].offset
    assert footer.last_hash == found[-1].frame.event_hash
    assert segment.footer_bytes(meta, footer) == joined("footer", start=footer.end)


def test_the_part_and_the_root_are_those_that_the_page_describes() -> None:
    with walked(FORMAT_2) as (meta, found, _):
        assert meta.footer is not None
        a, b, c = (blake3(b"\0" + each.frame.event_hash).digest() for each in found)
        first = blake3(b"\1" + a + b).digest()
        assert (meta.footer.before, meta.footer.part) == (0, (first, c))
        assert Stretch(0, 3, meta.footer.part).root() == blake3(b"\1" + first + c).digest()
    assert Stretch().root() == blake3(b"").digest()


def test_the_footer_of_format_1_says_what_the_page_says_and_is_made_again() -> None:
    end = pieces("footer 1")[0].offset
    with closing(directory_of(FORMAT_1).open_read(SEGMENT)) as file:
        boundary = original_footer.find_boundary(file.pread, len(FORMAT_1), SEGMENT)
        assert boundary is not None
        rows = original_footer.read_rows(file.pread, boundary)
    assert (boundary.trusted, boundary.end, boundary.rows) == (True, end, 1)
    assert rows is not None
    assert (rows[0].event_id, rows[0].entity, rows[0].scope) == (KEY.bytes, "order:1", "shop")
    assert original_footer.encode_footer(rows, end) == joined("footer 1", start=end)


def test_the_table_of_a_row_is_the_row_that_is_shown() -> None:
    rows = [(int(offset), int(size)) for offset, size, _ in table("offset in the row")]
    shown = pieces("footer 1")[1:-4]
    assert [(piece.offset - shown[0].offset, len(piece.data)) for piece in shown] == rows
    assert sum(size for _, size in rows) == 162


def test_the_slot_says_what_the_page_says_and_is_made_again() -> None:
    files = MemoryFiles()
    files.write_atomic(watermark.NAME, bytes(512) + SLOT)
    position = watermark.read(files)
    assert position is not None
    with walked(FORMAT_2) as (meta, _, walk):
        assert position == watermark.DurablePosition(STORE_ID, 3, 1, meta.identity, walk.end, 3)
    assert watermark.encode(position) == SLOT
    assert watermark.slot_offset(position.count) == 512
    rows = [(int(offset), int(size)) for offset, size, _ in table("offset in the slot")]
    assert [(piece.offset - 512, len(piece.data)) for piece in pieces("slot")] == rows


def test_the_named_place_says_what_the_page_says_and_is_made_again() -> None:
    region, place = Region(entity="order"), Place(2, bytes(range(32)))
    whole, head = place_file.encode(STORE_ID, "mailer", region, None)
    shown = joined("place").ljust(place_file.SLOTS[0], b"\0") + joined("place's slot", start=place_file.SLOTS[0])
    shown = shown.ljust(place_file.SLOTS[1], b"\0") + joined("first slot", start=place_file.SLOTS[1])
    slot = place_file.encode_slot(head.crc, 2, place)
    assert whole[: place_file.SLOTS[0]] + slot + whole[place_file.SLOTS[0] + len(slot) :] == shown
    assert len(shown) == 4668
    assert place_file.decode("it", shown) == (head, place_file.PlaceSlot(2, place))
    rows = [(int(offset), int(size)) for offset, size, _ in table("offset in the place's slot")]
    sizes = [len(piece.data) for piece in pieces("place's slot")]
    assert sizes == [size for _, size in rows]
    assert [len(piece.data) for piece in pieces("place")][:4] == [
        int(size) for _, size, _ in table("offset in the head")[:4]
    ]


@pytest.mark.parametrize(("shown", "count"), [(FORMAT_2, 3), (FORMAT_1, 1)], ids=["2", "1"])
def test_a_directory_with_the_shown_segment_opens(shown: bytes, count: int) -> None:
    with closing(Store(directory_of(shown), StoreConfig())) as store:
        events = list(store.read())
        assert [event.payload for event in events] == [{"total": 10}, {"by": "card"}, {}][:count]
        assert store.verify_chain().intact
        assert store.append(ORDER, PLACED, {"total": 10}, idempotency_key=KEY).duplicate


def test_a_torn_end_is_copied_under_the_name_that_the_page_gives() -> None:
    end, torn = pieces("batch 2")[0].offset, b"\0\0\1\0 half a frame"
    files = directory_of(FORMAT_2[:end] + torn + bytes(100))
    with closing(Store(files.beside(), StoreConfig())) as store:
        assert [event.global_sequence for event in store.read()] == [0]  # the batch was not complete
    start = pieces("batch 1")[0].offset
    cut = FORMAT_2[start:end] + torn
    assert "quarantine/<segment>-<offset>-<digest>.torn" in PAGE
    assert files.list("quarantine") == [f"000001-{start:012}-{blake3(cut).hexdigest()[:16]}.torn"]
    assert files.read_bytes(f"quarantine/{files.list('quarantine')[0]}", 1 << 20) == cut
    assert files.read_bytes(SEGMENT, 1 << 20) == FORMAT_2[:start]


def test_every_name_in_a_directory_stands_on_the_page() -> None:
    files = MemoryFiles()
    with closing(Store(files.beside(), StoreConfig(segment_bytes=4096))) as store:
        for number in range(600):
            store.append(ORDER, PLACED, {"number": number})
        names = {re.sub(r"\d{6}", "000001", name) for name in files.list()} | {
            name for name in ("index", "quarantine") if files.list(name)
        }
    assert [name for name in names if f"| `{name}" not in PAGE] == []
    assert files.list("index")


def test_the_extensions_that_are_written_stand_on_the_page() -> None:
    files = MemoryFiles()
    clock = HandClock(WALL_US)
    with closing(Store(files, StoreConfig(clock=clock))) as store:
        store.append(ORDER, PLACED, {}, durable=True)
        clock.set_wall(WALL_US - 5_000_000)
        receipt = store.append(ORDER, PLACED, {})
        written = store.get(receipt.event_id).extensions
    assert written.keys() == {"wall_ms", "durable"}
    shown = {name.strip(" `") for row in table("extension") for name in row[0].split(",")}
    assert written.keys() < shown == {"wall_ms", "durable", "lane", "depth"}


def test_the_limits_are_those_of_the_code() -> None:
    limits = {row[0]: row[1] for row in table("what")}
    config = StoreConfig()
    mib = 1024 * 1024
    assert limits["body that is read"] == f"{MAX_BODY_BYTES // mib} MiB"
    assert limits["header, and the footer's map"] == f"{segment.MAX_HEADER_BYTES // 1024} KiB"
    assert limits["packed payload"].startswith(f"{config.max_payload_bytes // mib} MiB,")
    assert limits["batch"].startswith(f"{config.max_batch_events:,} events and {config.max_batch_bytes // mib} MiB")
    assert limits["segment"].startswith(f"{config.segment_bytes // mib} MiB,")
    assert limits["entity, scope"] == f"{MAX_COORDINATE_BYTES:,} bytes each"
    assert f"first\n{FIRST_STEP_BYTES // mib} MiB" in PAGE
    assert f"up to {MAX_STEP_BYTES // mib} MiB" in PAGE
