"""Those hazards of the original's format that concern the numbers of its events: H4, H12 and H21."""

from __future__ import annotations

import struct
import zlib

import msgpack
import pytest

from batpak import Coordinate, CorruptStoreError, EventKind, NewEvent
from batpak.storage import original_footer
from batpak.storage.frame import Frame
from tests.directories import EVERYTHING, directory, looked_at, opened, segments
from tests.golden.by_hand import HEADER, an_event, framed, golden, ids
from tests.golden.walker import GOLDEN, expected, raw_frames

RUST = GOLDEN / "rust"
ORDER, PLACED = Coordinate("order:1", "shop"), EventKind(0x1, 0x001)


def a_checkpoint(rows: list[tuple[int, int, int]], watermark: int) -> bytes:
    """Return an `index.ckpt` that numbers events of segment 1 by (id, offset, global sequence)."""
    entry = {"correlation_id": bytes(16), "causation_id": None, "entity_id": 0, "scope_id": 0, "kind": 0x1000}
    entry |= {"wall_ms": 1, "clock": 0, "dag_lane": 0, "dag_depth": 0, "prev_hash": bytes(32), "event_hash": bytes(32)}
    body: bytes = msgpack.packb(
        {
            "global_sequence": 100,
            "watermark_segment_id": 1,
            "watermark_offset": watermark,
            "interner_strings": [""],
            "routing": {},
            "reserved_kind_fallbacks": {},
            "entries": [
                {"event_id": event_id.to_bytes(16, "big")}
                | entry
                | {"segment_id": 1, "offset": offset, "length": 1, "global_sequence": sequence}
                for event_id, offset, sequence in rows
            ],
        }
    )
    return b"FBATCK" + struct.pack("<HI", 6, zlib.crc32(body)) + body


def test_h04_a_snapshot_from_before_a_compaction_numbers_no_event_but_those_it_names() -> None:
    parts = [framed(an_event(number)) for number in (1, 2, 3)]
    offsets = [len(HEADER) + sum(map(len, parts[:number])) for number in range(3)]
    stale = a_checkpoint([(1, offsets[0], 5), (9, offsets[1], 40), (3, offsets[2], 60), (4, 9999, 70)], 10_000)
    with looked_at({"000001.fbat": HEADER + b"".join(parts), "index.ckpt": stale}) as store:
        assert [(event.event_id.int, event.global_sequence) for event in store.read()] == [(1, 5), (2, 6), (3, 60)]


def test_h04_an_event_that_a_snapshot_knows_and_that_is_not_there_refuses() -> None:
    parts = [framed(an_event(number)) for number in (1, 2)]
    fresh = a_checkpoint([(1, 57, 0), (2, 57 + len(parts[0]), 1)], 1000)
    assert len(HEADER) == 57
    with looked_at({"000001.fbat": HEADER + b"".join(parts), "index.ckpt": fresh}) as store:
        assert ids(store) == [1, 2]
    for cut in (1, len(parts[1])):
        with pytest.raises(CorruptStoreError, match="of which the original knew"):
            looked_at({"000001.fbat": (HEADER + b"".join(parts))[:-cut], "index.ckpt": fresh})


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
