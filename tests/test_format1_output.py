"""What is written with `segment_format=1`, taken apart by a reader of its own: the original must find nothing strange.

The reader below knows the original's description alone; nothing of `batpak.storage` is asked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgpack
import pytest
from blake3 import blake3

from batpak import Coordinate, EventFlags, EventKind, NewEvent, Store, StoreConfig
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.directories import Content, content, directory, segments, shown

ORDER, OTHER, LONG = Coordinate("order:1", "shop"), Coordinate("kunde:ä", "日本"), Coordinate("x" * 1024, "y")
PLACED, PAID = EventKind(0x1, 0x001), EventKind(0xF, 0xFFF)
BEGIN, COMMIT = 6, 7
ROW = struct.Struct("<16sIIHQIII32s32sQIQ16s16s")
ZERO = bytes(32)

FRAME_KEYS = ["event", "entity", "scope", "receipt_extensions", "global_sequence"]
EVENT_KEYS = ["header", "payload", "hash_chain"]
HEADER_KEYS = [
    "event_id",
    "correlation_id",
    "causation_id",
    "timestamp_us",
    "position",
    "payload_size",
    "event_kind",
    "flags",
    "content_hash",
    "payload_version",
]
POSITION_KEYS = ["wall_ms", "counter", "depth", "lane", "sequence"]
CHAIN_KEYS = ["prev_hash", "event_hash"]
TYPES: dict[str, tuple[type, int]] = {
    "event_id": (bytes, 16),
    "correlation_id": (bytes, 16),
    "content_hash": (bytes, 32),
    "prev_hash": (bytes, 32),
    "event_hash": (bytes, 32),
    "timestamp_us": (int, 63),
    "payload_size": (int, 32),
    "event_kind": (int, 16),
    "flags": (int, 8),
    "payload_version": (int, 16),
    "wall_ms": (int, 64),
    "counter": (int, 16),
    "depth": (int, 32),
    "lane": (int, 32),
    "sequence": (int, 32),
    "global_sequence": (int, 64),
}
RESERVED = {
    "index.ckpt",
    "index.fbati",
    "index.idemp",
    "visibility_ranges.fbv",
    "keyset.fbatk",
    "store.meta",
    "compaction.pending",
    "compaction.pending.json",
    "cursors",
}


@dataclass
class Found:
    """A frame as the original's reader finds it."""

    segment: int
    offset: int
    length: int
    fields: dict[str, Any]

    @property
    def header(self) -> dict[str, Any]:
        header: dict[str, Any] = self.fields["event"]["header"]
        return header

    @property
    def kind(self) -> int:
        kind: int = self.header["event_kind"]
        return kind


def strict_map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Refuse keys that stand twice or are no text."""
    assert all(type(key) is str for key, _ in pairs)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def unpacked(data: bytes) -> dict[str, Any]:
    value = msgpack.unpackb(data, object_pairs_hook=strict_map)
    assert type(value) is dict
    assert msgpack.packb(value) == data, "each value is spelled as short as it can be"
    return value


def header_of(data: bytes) -> tuple[dict[str, Any], int]:
    assert data[:4] == b"FBAT"
    length = int.from_bytes(data[4:8], "big")
    return unpacked(data[8 : 8 + length]), 8 + length


def walk(data: bytes, segment: int, end: int) -> Iterator[Found]:
    """Yield the frames up to *end*, back to back: length, CRC-32/IEEE over the body, body."""
    at = header_of(data)[1]
    while at < end:
        length, crc = struct.unpack_from(">II", data, at)
        body = data[at + 8 : at + 8 + length]
        assert 0 < length <= 256 * 1024 * 1024
        assert zlib.crc32(body) == crc
        yield Found(segment, at, 8 + length, unpacked(body))
        at += 8 + length
    assert at == end


def footer_of(data: bytes) -> tuple[int, list[tuple[Any, ...]], list[str]] | None:
    """Return a trusted footer: where frames end, its rows, its strings."""
    start, count = struct.unpack("<QI", data[-16:-4])
    if data[-4:] != b"SDX3":
        return None
    table_end = len(data) - 20 - ROW.size * count
    assert zlib.crc32(data[start:-20]) == int.from_bytes(data[-20:-16], "little")
    strings = msgpack.unpackb(data[start:table_end])
    assert msgpack.packb(strings) == data[start:table_end]
    return start, list(ROW.iter_unpack(data[table_end:-20])), strings


def frames_of(held: Content) -> dict[str, list[Found]]:
    """Return all frames by segment; a segment without a footer ends with its last frame."""
    found = {}
    for name in segments(held):
        footer = footer_of(held[name])
        found[name] = list(walk(held[name], int(name[:-5]), len(held[name]) if footer is None else footer[0]))
    return found


def committed(found: dict[str, list[Found]]) -> list[Found]:
    """Return the events, by the original's table for markers."""
    events: list[Found] = []
    for frames in found.values():
        staged: list[Found] | None = None
        left = 0
        for each in frames:
            if each.kind == BEGIN:
                assert staged is None
                staged, left = [], each.header["payload_size"]
            elif each.kind == COMMIT:
                assert staged is not None
                assert not left
                events += staged
                staged = None
            elif staged is None:
                events.append(each)
            else:
                left -= 1
                staged.append(each)
        assert staged is None, "no batch crosses a segment"
    return events


class Lives:
    """A journal after some lives, and what it was at the end of each: closed and killed."""

    def __init__(self) -> None:
        self.files, self.clock = MemoryFiles(), HandClock()
        self.closed: list[Content] = []
        self.killed: list[Content] = []
        self.ids: set[UUID] = set()

    def open(self, segment_format: int | None = 1) -> Store:
        config = StoreConfig(
            driver="stepped", segment_format=1 if segment_format else None, segment_bytes=4096, clock=self.clock
        )
        return Store(self.files.beside(), config, SteppedDrivers())

    def live(self, number: int) -> None:
        """Write what there is to write; the clock steps back once."""
        with self.open(number == 0 or None) as store:
            first = store.append(ORDER, PLACED, {"n": number}, idempotency_key=f"key {number}", flags=EventFlags(11))
            self.clock.advance(0.0123)
            store.append_batch(batch(3, number), durable=True)
            self.clock.set_wall(self.clock.now_us() - 2_000_000)
            store.append_reaction(OTHER, PAID, b"\0" * 300, cause=first)
            store.append(LONG, PAID, None, correlation_id=UUID(int=5), causation_id=UUID(int=7))
            self.clock.advance(9)
            for size in (900, 900, 1):
                store.append(ORDER, PAID, "z" * size)
            store.append_batch(batch(2, number))
            self.killed.append(content(self.files))
            self.events = shown(store)
        self.closed.append(content(self.files))


def batch(count: int, number: int) -> list[NewEvent]:
    items = [NewEvent(ORDER, PLACED, [number, each], flags=EventFlags(each)) for each in range(count)]
    return [*items, NewEvent(OTHER, PAID, {"cause": 0}, caused_by=0, idempotency_key=None)]


@pytest.fixture(scope="module")
def lives() -> Lives:
    lives = Lives()
    for number in range(3):
        lives.live(number)
    return lives


@pytest.fixture(scope="module")
def states(lives: Lives) -> list[Content]:
    """Every state that the original may come upon."""
    return [*lives.closed, *lives.killed]


@pytest.fixture(scope="module")
def frames(states: list[Content]) -> list[Found]:
    """All frames of all states."""
    return [found for held in states for each in frames_of(held).values() for found in each]


def test_the_journal_has_what_these_tests_are_about(lives: Lives) -> None:
    assert [len(segments(held)) for held in lives.closed] == [3, 6, 9]
    assert len(lives.events) == 3 * 13


# Segments


def test_headers_say_version_1_and_what_is_ours_under_a_key_of_its_own(states: list[Content]) -> None:
    for held in states:
        ids, sequence = set(), 0
        for name in segments(held):
            header, start = header_of(held[name])
            assert list(header) == ["version", "flags", "created_ns", "segment_id", "writer"]
            assert (header["version"], header["flags"], header["segment_id"]) == (1, 0, int(name[:-5]))
            assert start <= 8 + 65_536
            assert list(header["writer"]) == ["store_id", "first_sequence", "previous_hash"]
            ids.add(header["writer"]["store_id"])
            assert header["writer"]["first_sequence"] == sequence
            events = committed({name: frames_of(held)[name]})
            sequence += len(events)
        assert len(ids) == 1


def test_segments_have_the_originals_names_and_follow_one_another(states: list[Content]) -> None:
    for held in states:
        assert segments(held) == [f"{number:06}.fbat" for number in range(1, len(segments(held)) + 1)]


def test_nothing_stands_between_or_behind_frames_but_a_footer(states: list[Content]) -> None:
    for held in states:
        for name in segments(held):
            footer = footer_of(held[name])
            end = len(held[name]) if footer is None else footer[0]
            assert sum(each.length for each in frames_of(held)[name]) == end - header_of(held[name])[1]


def test_each_closed_segment_has_a_footer_the_last_one_too(lives: Lives) -> None:
    for held in lives.closed:
        assert all(footer_of(held[name]) is not None for name in segments(held))
    for held in lives.killed:
        assert footer_of(held[segments(held)[-1]]) is None


def test_an_open_gives_a_footer_to_each_segment_that_is_not_the_last(lives: Lives) -> None:
    held = lives.killed[0]
    for name in segments(held):
        footer = footer_of(held[name])
        if footer is not None:
            held = held | {name: held[name][: footer[0]]}
    files = directory(held)
    with Store(files.beside(), StoreConfig(clock=HandClock())):
        after = content(files)
        assert [footer_of(after[name]) is not None for name in segments(after)] == [True, True, False]
    after = content(files)
    assert {name: after[name] for name in segments(after)} == {
        name: data for name, data in lives.closed[0].items() if name.endswith(".fbat")
    }


def test_footers_hold_what_the_frames_hold(states: list[Content]) -> None:
    for held in states:
        for name, found in frames_of(held).items():
            footer = footer_of(held[name])
            if footer is None:
                continue
            _, rows, strings = footer
            events = committed({name: found})
            assert [row[:1] + row[3:] for row in rows] == [row_of(event) for event in events]
            places = [(strings[row[1]], strings[row[2]]) for row in rows]
            assert places == [(event.fields["entity"], event.fields["scope"]) for event in events]
            names = [text for place in places for text in place]
            assert strings == list(dict.fromkeys(names)), "in the order of first use"


def row_of(event: Found) -> tuple[Any, ...]:
    header, chain = event.header, event.fields["event"]["hash_chain"]
    position = header["position"]
    return (
        header["event_id"][::-1],
        header["event_kind"],
        position["wall_ms"],
        position["sequence"],
        position["lane"],
        position["depth"],
        chain["prev_hash"],
        chain["event_hash"],
        event.offset,
        event.length,
        event.fields["global_sequence"],
        header["correlation_id"][::-1],
        (header["causation_id"] or bytes(16))[::-1],
    )


# Frames


def test_keys_stand_in_the_originals_order_and_ours_behind_them(frames: list[Found]) -> None:
    for each in frames:
        event = each.fields["event"]
        marker = each.kind in {BEGIN, COMMIT}
        assert list(each.fields) == (FRAME_KEYS[:-1] if marker else FRAME_KEYS)
        assert list(event) == EVENT_KEYS
        assert list(event["header"]) == HEADER_KEYS
        assert list(event["header"]["position"]) == POSITION_KEYS
        assert event["hash_chain"] is None if marker else list(event["hash_chain"]) == CHAIN_KEYS
        assert each.fields["receipt_extensions"] == {}


def test_values_have_the_originals_types_and_fit_them(frames: list[Found]) -> None:
    for each in frames:
        event = each.fields["event"]
        fields = each.fields | event["header"] | event["header"]["position"] | (event["hash_chain"] or {})
        for name, (kind, size) in TYPES.items():
            if name not in fields:
                assert each.kind in {BEGIN, COMMIT}
                continue
            value: Any = fields[name]
            assert type(value) is kind
            assert fits(value, size)
        assert type(event["payload"]) is bytes
        assert fields["causation_id"] is None or len(fields["causation_id"]) == 16
        for text in (fields["entity"], fields["scope"]):
            assert 1 <= len(text.encode()) <= 1024


def fits(value: Any, size: int) -> bool:
    return len(value) == size if isinstance(value, bytes) else 0 <= value < 1 << size


def test_events_say_of_their_payload_what_is_true(frames: list[Found]) -> None:
    for each in frames:
        event = each.fields["event"]
        if each.kind not in {BEGIN, COMMIT}:
            digest = blake3(event["payload"]).digest()
            assert event["hash_chain"]["event_hash"] == event["header"]["content_hash"] == digest
            assert event["header"]["payload_size"] == len(event["payload"])
            assert (event["header"]["position"]["counter"], event["header"]["payload_version"]) == (0, 0)


def test_batches_stand_between_markers(states: list[Content]) -> None:
    for held in states:
        seen = 0
        for found in frames_of(held).values():
            for at, each in enumerate(found):
                if each.kind != BEGIN:
                    continue
                count = each.header["payload_size"]
                items, end = found[at + 1 : at + 1 + count], found[at + 1 + count]
                assert end.kind == COMMIT
                assert all(item.kind not in {BEGIN, COMMIT} for item in items)
                check_marker(each, count, items[0].fields["global_sequence"])
                check_marker(end, 0, items[0].fields["global_sequence"])
                assert [item.header["flags"] for item in items] == [*range(count - 1), 0]
                assert items[-1].header["causation_id"] == items[0].header["event_id"]
                seen += 1
        assert seen
        assert sum(each.kind == COMMIT for found in frames_of(held).values() for each in found) == seen


def check_marker(marker: Found, size: int, first: int) -> None:
    header = marker.header
    batch_id = first.to_bytes(16, "big")
    assert (header["event_id"], header["correlation_id"], header["causation_id"]) == (batch_id, batch_id, None)
    assert (header["payload_size"], header["flags"], header["payload_version"]) == (size, 0, 0)
    position = header["position"]
    assert position["wall_ms"] == header["timestamp_us"] // 1000
    assert [position[name] for name in POSITION_KEYS[1:]] == [0, 0, 0, 0]
    assert header["content_hash"] == ZERO
    assert (marker.fields["event"]["payload"], marker.fields["event"]["hash_chain"]) == (b"", None)
    assert (marker.fields["entity"], marker.fields["scope"]) == ("_batch", "_system")


def test_chains_clocks_and_numbers_go_on(states: list[Content]) -> None:
    for held in states:
        heads: dict[str, tuple[int, bytes, int]] = {}
        for number, event in enumerate(committed(frames_of(held))):
            chain, position = event.fields["event"]["hash_chain"], event.header["position"]
            sequence, previous, wall_ms = heads.get(event.fields["entity"], (-1, ZERO, 0))
            assert event.fields["global_sequence"] == number
            assert (position["sequence"], chain["prev_hash"]) == (sequence + 1, previous)
            assert position["wall_ms"] == max(wall_ms, event.header["timestamp_us"] // 1000)
            heads[event.fields["entity"]] = (position["sequence"], chain["event_hash"], position["wall_ms"])


def test_what_was_appended_is_what_the_other_reader_finds(lives: Lives) -> None:
    found = committed(frames_of(lives.closed[-1]))
    assert [
        (each.header["event_id"], each.fields["event"]["payload"], each.header["timestamp_us"]) for each in found
    ] == [(entry.event_id.bytes, raw, timestamp) for entry, timestamp, raw, *_ in lives.events]
    assert [each.header["flags"] for each in found] == [entry.flags for entry, *_ in lives.events]


# The directory


def test_no_name_is_one_that_the_original_reserves(states: list[Content]) -> None:
    for held in states:
        top = {name.split("/")[0] for name in held}
        assert not top & RESERVED
        others = [name for name in held if name not in segments(held)]
        assert others
        assert not [name for name in others if ".fbat" in name or ".compact-" in name]


def test_what_is_cut_lies_where_the_original_does_not_look(lives: Lives) -> None:
    name = segments(lives.killed[-1])[-1]
    files = directory(lives.killed[-1] | {name: lives.killed[-1][name] + b"torn"})
    with Store(files.beside(), StoreConfig(clock=HandClock())):
        pass
    new = content(files).keys() - lives.killed[-1].keys()
    assert {each.split("/")[0] for each in new} == {"quarantine"}
    assert all(each.endswith(".torn") for each in new)
