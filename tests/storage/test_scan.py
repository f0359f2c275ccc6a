"""Frames: which bytes are some, which of them have been committed, and what is found behind damage."""

from __future__ import annotations

from contextlib import closing
from typing import Literal

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from batpak.errors import CorruptStoreError
from batpak.kind import OPEN_COMPLETED
from batpak.storage import format1, scan
from batpak.storage.frame import FRAME, MAX_BODY_BYTES, NO_HASH, Frame
from batpak.storage.scan import Batches, Found, Walk, behind
from batpak.storage.segment import SegmentMeta, frame_bytes, header_bytes, parse_header
from batpak.testing.memory import MemoryReadFile
from tests.directories import directory, flipped

NAME = "000001.fbat"
Version = Literal[1, 2]


def header(version: Version) -> bytes:
    return header_bytes(
        version=version,
        segment=1,
        created_ns=1,
        store_id=bytes(16),
        salt=99,
        first_sequence=0,
        previous_hash=NO_HASH,
    )


@pytest.fixture(params=[2, 1], ids=["format2", "format1"])
def version(request: pytest.FixtureRequest) -> Version:
    found: Version = request.param
    return found


def an_event(number: int, *, size: int = 10, remaining: int = 0, kind: int = 0x1000) -> Frame:
    payload = b"\xc5" + size.to_bytes(2, "big") + bytes([number & 0xFF]) * size
    return Frame(
        event_id=b"\x01" + number.to_bytes(15, "big"),
        global_sequence=number,
        remaining=remaining,
        kind=kind,
        entity="order:1",
        scope="shop",
        sequence=number,
        timestamp_us=1_000_000,
        wall_ms=1_000,
        prev_hash=NO_HASH,
        correlation_id=None,
        causation_id=None,
        flags=0,
        is_key=False,
        payload_version=0,
        payload=payload,
        event_hash=blake3(payload).digest(),
    )


class Segment:
    """A segment as data, and what there is to know to walk it."""

    def __init__(self, version: Version, frames: list[Frame], tail: bytes = b"") -> None:
        start = header(version)
        self.meta = parse_header(start, 1, 0)
        self.parts = [frame_bytes(self.meta, self.meta.encode(frame)) for frame in frames]
        self.data = start + b"".join(self.parts) + tail
        self.end = len(self.data) - len(tail)

    def walked(self, data: bytes | None = None, start: int | None = None) -> tuple[list[Found], Walk]:
        data = self.data if data is None else data
        meta = parse_header(header(1 if self.meta.version == 1 else 2), 1, len(data))
        with opened(data) as file:
            walk = Walk(file, meta, start)
            return list(walk), walk

    def offset(self, number: int) -> int:
        return self.meta.frames_start + sum(len(part) for part in self.parts[:number])


def opened(data: bytes) -> closing[MemoryReadFile]:
    return closing(directory({NAME: data}).open_read(NAME))


# Walking


def test_a_walk_yields_each_frame_and_where_it_lies(version: Version) -> None:
    segment = Segment(version, [an_event(number) for number in range(5)])
    found, walk = segment.walked()
    assert [each.frame.event_id[-1] for each in found] == [0, 1, 2, 3, 4]
    assert [(each.offset, each.end) for each in found] == [
        (segment.offset(number), segment.offset(number + 1)) for number in range(5)
    ]
    assert [each.crc for each in found] == [FRAME.unpack_from(part)[1] for part in segment.parts]
    assert (walk.end, walk.why) == (segment.end, "the end of the file")


def test_a_walk_begins_and_stops_where_it_is_told(version: Version) -> None:
    segment = Segment(version, [an_event(number) for number in range(5)])
    with opened(segment.data) as file:
        walk = Walk(file, segment.meta, segment.offset(1), segment.offset(3))
        assert [each.offset for each in walk] == [segment.offset(1), segment.offset(2)]
        assert walk.end == segment.offset(3)
        walk = Walk(file, segment.meta, segment.offset(1), segment.offset(3) - 1)
        assert [each.offset for each in walk] == [segment.offset(1)]
        assert walk.why == "a frame that ends behind the file"


@pytest.mark.parametrize("first_block", [64, 100, 1000])
def test_frames_may_lie_across_what_is_read_at_once(
    version: Version, first_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "FIRST_BLOCK_BYTES", first_block)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 2 * first_block)
    sizes = [0, 1, 3, 30, 60, 61, 62, 63, 64, 65, 500, 2000, 5, 7, 9000, 1]
    segment = Segment(version, [an_event(number, size=size) for number, size in enumerate(sizes)])
    found, _ = segment.walked()
    assert [len(each.frame.payload) - 3 for each in found] == sizes


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        (b"", "the end of the file"),
        (b"\0" * 7, "the first bytes of a frame"),
        (b"\0" * 8, "a frame length of 0"),
        (b"\0" * 5000, "a frame length of 0"),
        (b"\0\0\0\5\0\0\0\0", "a frame that ends behind the file"),
        (b"\0\0\0\2\0\0\0\0xx", "a frame whose checksum is wrong"),
        ((MAX_BODY_BYTES + 1).to_bytes(4, "big") + b"\0\0\0\0", f"a frame length of {MAX_BODY_BYTES + 1}"),
        (b"\xff" * 8, f"a frame length of {2**32 - 1}"),
    ],
)
def test_a_walk_says_what_stopped_it(version: Version, tail: bytes, why: str) -> None:
    segment = Segment(version, [an_event(1)], tail)
    found, walk = segment.walked()
    assert (len(found), walk.end, walk.why) == (1, segment.end, why)


def test_a_file_that_shrinks_meanwhile_ends_the_walk(version: Version) -> None:
    segment = Segment(version, [an_event(number) for number in range(3)])
    with opened(segment.data[:-1]) as file:
        walk = Walk(file, segment.meta, None, len(segment.data))
        assert len(list(walk)) == 2
        assert walk.end == segment.offset(2)


def test_a_checked_frame_that_holds_no_event_refuses(version: Version) -> None:
    segment = Segment(version, [an_event(1)])
    bad = frame_bytes(segment.meta, b"\x93\1\2\3")
    with pytest.raises(CorruptStoreError, match="a checked frame that holds") as caught:
        segment.walked(segment.data + bad)
    assert (caught.value.file, caught.value.offset) == (NAME, segment.end)


def test_one_changed_bit_ends_the_walk_before_its_frame(version: Version) -> None:
    segment = Segment(version, [an_event(number) for number in range(3)])
    for bit in range(8 * segment.offset(1), 8 * segment.offset(2)):
        found, walk = segment.walked(flipped(segment.data, bit))
        assert (len(found), walk.end) == (1, segment.offset(1))


def test_frames_of_another_segment_of_format_2_are_none() -> None:
    segment = Segment(2, [an_event(1)])
    other = parse_header(header(2).replace(b"\x63", b"\x63"), 1, 0)
    assert segment.walked(segment.data + frame_bytes(other, other.encode(an_event(2))))[1].end > segment.end
    salted = SegmentMeta(1, 2, 0, 0, 100, b"", bytes(16), 0, NO_HASH, 0)
    found, walk = segment.walked(segment.data + frame_bytes(salted, salted.encode(an_event(2))))
    assert (len(found), walk.end) == (1, segment.end)


@given(st.binary(max_size=300), st.sampled_from([1, 2]))
def test_any_bytes_are_safe(data: bytes, version: Version) -> None:
    segment = Segment(version, [an_event(1)], data)
    found, walk = segment.walked()
    assert (len(found), walk.end) == (1, segment.end)
    with opened(segment.data) as file:
        behind(file, segment.meta, segment.end, len(segment.data))


# Batches


def fed(frames: list[Frame], version: Version, batches: Batches | None = None) -> list[list[int]]:
    batches = batches or Batches()
    return [
        [each.frame.event_id[-1] for each in batches.feed(Found(1, 100 * at, 0, 0, frame), version)]
        for at, frame in enumerate(frames)
    ]


def test_frames_of_a_batch_count_down_and_come_together() -> None:
    frames = [an_event(number, remaining=left) for number, left in enumerate((0, 2, 1, 0, 0, 1, 0))]
    assert fed(frames, 2) == [[0], [], [], [1, 2, 3], [4], [], [5, 6]]


@pytest.mark.parametrize("counts", [(2, 0), (2, 2), (1, 1), (3, 2, 0), (1, 2)])
def test_a_count_that_does_not_go_down_by_one_refuses(counts: tuple[int, ...]) -> None:
    with pytest.raises(CorruptStoreError, match="frames still to come"):
        fed([an_event(number, remaining=left) for number, left in enumerate(counts)], 2)


def test_a_batch_is_open_until_it_is_complete() -> None:
    batches = Batches()
    steps: list[tuple[list[Frame], Version]] = [
        ([an_event(0, remaining=1)], 2),
        ([an_event(1)], 2),
        ([format1.begin_marker(0, 1, 0), an_event(2)], 1),
        ([format1.commit_marker(0, 0)], 1),
    ]
    opened_at = []
    for frames, version in steps:
        fed(frames, version, batches)
        opened_at.append(batches.open)
    assert opened_at == [True, False, True, False]


def test_what_another_segment_left_open_is_not_torn_there() -> None:
    theirs = SegmentMeta(1, 1, 57, 0, 0, b"", None, None, None, 0)
    ours = parse_header(header(1), 1, 0)
    batches = Batches()
    fed([format1.begin_marker(0, 2, 0), an_event(1)], 1, batches)
    batches.enter(theirs)
    assert not batches.open
    assert fed([an_event(2), format1.commit_marker(0, 0)], 1, batches) == [[], [1, 2]]
    fed([format1.begin_marker(0, 2, 0), an_event(1)], 1, batches)
    batches.enter(ours)
    assert fed([an_event(3)], 1, batches) == [[3]]


def test_a_session_that_begins_ends_what_the_last_one_left_open() -> None:
    frames = [format1.begin_marker(0, 2, 0), an_event(1), an_event(2, kind=OPEN_COMPLETED), an_event(3)]
    assert fed(frames, 1) == [[], [], [2], [3]]


def test_a_batch_that_lacks_its_last_marker_alone_can_be_had() -> None:
    batches = Batches()
    fed([format1.begin_marker(0, 2, 0), an_event(1)], 1, batches)
    assert batches.complete() == []
    fed([format1.begin_marker(0, 2, 0), an_event(1), an_event(2)], 1, batches)
    assert [each.frame.event_id[-1] for each in batches.complete()] == [1, 2]
    assert not batches.open
    assert batches.complete() == []
    fed([an_event(1, remaining=1)], 2, batches)
    assert batches.complete() == []


def test_an_event_without_a_chain_refuses() -> None:
    frame = an_event(1)
    frame.chained = False
    with pytest.raises(CorruptStoreError, match="without a hash chain"):
        fed([frame], 1)


# The search behind damage


def test_every_frame_behind_damage_is_found(version: Version) -> None:
    segment = Segment(version, [an_event(number) for number in range(6)], b"\0" * 50)
    damaged = flipped(segment.data, 8 * (segment.offset(2) + 40))
    with opened(damaged) as file:
        for start in range(segment.offset(1) + 1, segment.offset(3) + 1, 7):
            found = behind(file, segment.meta, start, len(damaged))
            offsets = [segment.offset(number) for number in (1, 3, 4, 5)]
            assert [each.offset for each in found] == [offset for offset in offsets if offset >= start]
            assert [each.end - each.offset for each in found] == [
                len(segment.parts[number]) for number in (1, 3, 4, 5) if segment.offset(number) >= start
            ]
        assert behind(file, segment.meta, len(damaged), len(damaged)) == []
        assert behind(file, segment.meta, len(damaged) + 1, len(damaged)) == []


def test_a_frame_that_is_not_all_there_is_not_found(version: Version) -> None:
    segment = Segment(version, [an_event(number) for number in range(3)])
    with opened(segment.data[:-1]) as file:
        found = behind(file, segment.meta, segment.offset(0) + 1, len(segment.data) - 1)
    assert [each.offset for each in found] == [segment.offset(1)]


def test_the_work_of_the_search_is_bounded(version: Version) -> None:
    first_bytes = b"\x9f\xc4\x10" if version == 2 else b"\x84\xa5event"
    bait = b"".join((50_000 - 20 * number).to_bytes(4, "big") + b"1234" + first_bytes for number in range(2000))
    segment = Segment(version, [an_event(1)], bait + bytes(50_000))
    with (
        opened(segment.data) as file,
        pytest.raises(CorruptStoreError, match="more frames than can be checked") as caught,
    ):
        behind(file, segment.meta, segment.end, len(segment.data))
    assert caught.value.offset == segment.end


def test_a_tail_full_of_first_bytes_without_a_length_costs_little(version: Version) -> None:
    first_bytes = b"\x9f\xc4\x10" if version == 2 else b"\x84\xa5event"
    segment = Segment(version, [an_event(1)], first_bytes * 20_000)
    with opened(segment.data) as file:
        assert behind(file, segment.meta, segment.end, len(segment.data)) == []
