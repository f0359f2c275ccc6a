from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from batpak.storage import format1
from batpak.storage.frame import FRAME, NO_HASH, Frame, FrameError
from tests.golden.walker import DERIVED, STORES, expected, name_of, raw_frames, segments

EVENT_ID = bytes(range(16))
PAYLOAD = msgpack.packb({"n": 1})
ENCRYPTED = next(store for store in STORES if store.name == "encrypted")
REWRITTEN = next(store for store in STORES if name_of(store) == "rust/0.8.0/compacted-retention")


def an_event(**changes: object) -> Frame:
    payload = changes.get("payload", PAYLOAD)
    assert isinstance(payload, bytes)
    facts: dict[str, Any] = {
        "event_id": EVENT_ID,
        "global_sequence": 9,
        "remaining": 0,
        "kind": 0x1000,
        "entity": "acct:1",
        "scope": "bank",
        "sequence": 3,
        "timestamp_us": 1_700_000_000_000_123,
        "wall_ms": 1_700_000_000_000,
        "prev_hash": b"p" * 32,
        "correlation_id": None,
        "causation_id": None,
        "flags": 0,
        "is_key": False,
        "payload_version": 0,
        "payload": payload,
        "event_hash": format1.event_hash(payload),
        "payload_size": len(payload),
    }
    facts.update(changes)
    return Frame(**facts)


def as_the_original(value: object, key: str = "") -> object:
    """Spell byte vectors as arrays of integers, ids excepted, and leave out what only we write."""
    if isinstance(value, dict):
        return {k: as_the_original(v, k) for k, v in value.items() if k != "global_sequence"}
    if isinstance(value, bytes) and not key.endswith("_id"):
        return list(value)
    return value


def fields_of(frame: Frame) -> dict[str, Any]:
    fields: dict[str, Any] = msgpack.unpackb(format1.encode_body(frame))
    return fields


def repacked(fields: object) -> Frame:
    return format1.decode_body(msgpack.packb(fields))


def assert_is_refused(fields: object) -> None:
    with pytest.raises(FrameError):
        repacked(fields)


# What the original wrote


def facts_of(store: Path) -> dict[tuple[int, int], dict[str, Any]]:
    facts = expected(store)
    groups = (facts.get(name, []) for name in ("events", "frames_not_visible", "batch_markers"))
    return {(event["segment"], event["offset"]): event for group in groups for event in group}


def assert_agrees(frame: Frame, fact: dict[str, Any]) -> None:
    numbers_and_names = (
        *("kind", "entity", "scope", "sequence", "timestamp_us", "wall_ms", "lane", "depth"),
        *("flags", "payload_version", "payload_size"),
    )
    for name in numbers_and_names:
        if name in fact:  # markers are described by five facts alone
            assert getattr(frame, name) == fact[name], name
    assert frame.event_id.hex() == fact["event_id"]
    if "prev_hash" in fact:
        assert (frame.correlation_id or frame.event_id).hex() == fact["correlation_id"]
        assert (frame.causation_id.hex() if frame.causation_id else None) == fact["causation_id"]
        assert frame.prev_hash.hex() == fact["prev_hash"]
        assert frame.event_hash.hex() == fact["event_hash"]
    assert frame.chained == (frame.kind not in {format1.BATCH_BEGIN, format1.BATCH_COMMIT})
    extensions = {key: value.hex() for key, value in frame.extensions.items() if isinstance(value, bytes)}
    assert extensions == fact.get("extensions", {})
    if "payload_hex" in fact:
        assert frame.payload.hex() == fact["payload_hex"]


@pytest.mark.parametrize("store", STORES, ids=name_of)
def test_every_frame_of_a_golden_store_says_what_is_expected(store: Path) -> None:
    facts = facts_of(store)
    found = {}
    for path in segments(store):
        for raw in raw_frames(path):
            frame = format1.decode_body(raw.body)
            found[raw.segment, raw.offset] = frame
            if (raw.segment, raw.offset) in facts:
                assert_agrees(frame, facts[raw.segment, raw.offset])
            if frame.chained and not frame.payload_doubtful:
                assert blake3(frame.payload).digest() == frame.event_hash
    assert facts.keys() <= found.keys()


@pytest.mark.parametrize("store", STORES, ids=name_of)
def test_what_we_write_is_the_originals_encoding_but_for_bin_and_the_global_sequence(store: Path) -> None:
    for path in segments(store):
        for raw in raw_frames(path):
            frame = format1.decode_body(raw.body)
            stored = msgpack.unpackb(raw.body)
            if (
                frame.encrypted
                or len(stored["event"]["header"]) < 10
                or len(stored) < 4
                or not isinstance(stored["event"]["payload"], list)
            ):
                continue
            ours = format1.encode_body(replace(frame, global_sequence=7))
            assert msgpack.packb(as_the_original(msgpack.unpackb(ours))) == raw.body
            assert format1.decode_body(ours) == replace(frame, global_sequence=7)


def test_the_derived_segment_decodes_as_its_table_says() -> None:
    frames = [(raw.offset, raw.end - raw.offset, format1.decode_body(raw.body)) for raw in raw_frames(DERIVED)]
    assert [(offset, size) for offset, size, _ in frames] == [
        (57, 474),
        (531, 346),
        (877, 486),
        (1363, 492),
        (1855, 346),
        (2201, 488),
    ]
    first, begin, second, third, commit, fourth = (frame for _, _, frame in frames)
    assert (begin.kind, begin.payload_size, begin.event_id[-1]) == (format1.BATCH_BEGIN, 2, 1)
    assert (commit.kind, commit.payload_size, commit.event_id[-1]) == (format1.BATCH_COMMIT, 0, 1)
    assert [msgpack.unpackb(frame.payload)["n"] for frame in (first, second, third, fourth)] == [1, 2, 200, 4]
    assert (second.prev_hash, fourth.prev_hash) == (first.event_hash, second.event_hash)
    assert (third.correlation_id, third.causation_id) == (first.event_id, second.event_id)
    assert (third.entity, third.scope, third.kind, third.prev_hash) == ("acct:2", "bank", 0xF001, NO_HASH)


def test_our_markers_are_the_originals_but_for_bin() -> None:
    bodies = [raw.body for raw in raw_frames(DERIVED)]
    markers = (
        (format1.begin_marker(1, 2, 1_700_000_000_000_000), bodies[1]),
        (format1.commit_marker(1, 1_700_000_000_000_000), bodies[4]),
    )
    for marker, body in markers:
        ours = format1.encode_body(marker)
        assert msgpack.packb(as_the_original(msgpack.unpackb(ours))) == body
        assert format1.decode_body(ours) == format1.decode_body(body) == marker


def test_encrypted_frames_are_marked() -> None:
    frames = [format1.decode_body(raw.body) for path in segments(ENCRYPTED) for raw in raw_frames(path)]
    assert [frame.encrypted for frame in frames] == [False, *[True] * 6, False]


# Payloads that compactions up to 0.8.3 stored decoded


def test_a_rewritten_payload_is_found_again_where_its_hash_confirms_it() -> None:
    frames = [format1.decode_body(raw.body) for path in segments(REWRITTEN) for raw in raw_frames(path)]
    doubtful = [frame for frame in frames if frame.payload_doubtful]
    assert [(frame.kind, frame.entity) for frame in doubtful] == [(0x0008, "batpak:store")]
    assert msgpack.unpackb(doubtful[0].payload)["path"] == "Rebuild"


def rewritten(value: object, event_hash: bytes) -> Frame:
    fields = fields_of(an_event())
    fields["event"]["payload"] = value
    fields["event"]["hash_chain"]["event_hash"] = list(event_hash)
    return repacked(fields)


@pytest.mark.parametrize("value", [{"a": [1, 2]}, [1, 2, 3], [True, 1], [300], "text", 1.5, -7, None, [], {}])
def test_a_payload_stored_as_its_value_is_read_as_its_bytes(value: object) -> None:
    original = msgpack.packb(value)
    frame = rewritten(value, format1.event_hash(original))
    assert (frame.payload, frame.payload_doubtful) == (original, False)


def test_an_array_of_small_integers_is_bytes_where_the_hash_says_so() -> None:
    frame = rewritten([1, 2, 3], format1.event_hash(b"\x01\x02\x03"))
    assert (frame.payload, frame.payload_doubtful) == (b"\x01\x02\x03", False)


def test_without_a_hash_an_array_of_small_integers_is_bytes() -> None:
    frame = rewritten([1, 2, 3], NO_HASH)
    assert (frame.payload, frame.payload_doubtful) == (b"\x01\x02\x03", False)


@pytest.mark.parametrize(
    ("value", "likelier"), [([1, 2, 3], b"\x01\x02\x03"), ([True], b"\x91\xc3"), ({"b": 1}, b"\x81\xa1b\x01")]
)
def test_a_payload_that_no_hash_confirms_is_doubtful(value: object, likelier: bytes) -> None:
    frame = rewritten(value, b"h" * 32)
    assert (frame.payload, frame.payload_doubtful) == (likelier, True)


def test_a_rewritten_payload_is_found_behind_other_keys_and_in_arrays() -> None:
    value = {"b": 1, "a": 2}
    fields = fields_of(an_event(event_hash=format1.event_hash(msgpack.packb(value))))
    header, chain = fields["event"]["header"], fields["event"]["hash_chain"]
    shuffled = {
        "x": [{}],
        "scope": "s",
        "entity": "e",
        "event": {2: chain, "y": {"payload": 3}, "payload": value, "header": header},
    }
    assert repacked(shuffled).payload == msgpack.packb(value)
    assert repacked([[header, value, chain], "e", "s", {}]).payload == msgpack.packb(value)


# What a reader tolerates


def test_keys_may_come_in_any_order_with_others_between() -> None:
    def stirred(value: object) -> object:
        if not isinstance(value, dict) or not value:
            return value
        return {"unknown": [1, {"x": None}], **{key: stirred(value[key]) for key in reversed(value)}, "more": b""}

    assert repacked(stirred(fields_of(an_event()))) == an_event()


def test_structs_may_be_arrays_and_keys_positions() -> None:
    frame = an_event()
    fields = fields_of(frame)
    event = fields["event"]
    header = event["header"]
    header["position"] = list(header["position"].values())
    event["hash_chain"] = list(event["hash_chain"].values())
    as_arrays = [[list(header.values()), event["payload"], event["hash_chain"]], "acct:1", "bank", {}]
    assert repacked(as_arrays) == replace(frame, global_sequence=None)
    assert repacked({0: event, 1: "acct:1", 2: "bank", 3: {}, 99: None}) == replace(frame, global_sequence=None)


def test_ids_may_be_arrays_and_other_vectors_bin() -> None:
    fields = fields_of(an_event(causation_id=b"c" * 16))
    for key in ("event_id", "correlation_id", "causation_id"):
        fields["event"]["header"][key] = list(fields["event"]["header"][key])
    assert repacked(fields) == an_event(causation_id=b"c" * 16)


def test_bytes_behind_the_body_are_ignored() -> None:
    assert format1.decode_body(format1.encode_body(an_event()) + b"\xc1rest") == an_event()


def test_a_view_is_as_good_as_bytes() -> None:
    assert format1.decode_body(memoryview(format1.encode_body(an_event()))) == an_event()


@pytest.mark.parametrize("key", ["causation_id", "content_hash", "payload_version"])
def test_header_keys_with_a_default_may_be_absent(key: str) -> None:
    fields = fields_of(an_event())
    del fields["event"]["header"][key]
    assert repacked(fields) == an_event()


def test_without_extensions_and_sequence_the_frame_is_an_early_one() -> None:
    fields = fields_of(an_event())
    del fields["receipt_extensions"], fields["global_sequence"]
    assert repacked(fields) == replace(an_event(), global_sequence=None)


@pytest.mark.parametrize("chain", ["absent", None])
def test_without_a_chain_the_frame_is_not_chained(chain: str | None) -> None:
    fields = fields_of(an_event())
    del fields["event"]["hash_chain"]
    if chain is None:
        fields["event"]["hash_chain"] = None
    frame = repacked(fields)
    assert (frame.chained, frame.prev_hash, frame.event_hash) == (False, NO_HASH, NO_HASH)


@pytest.mark.parametrize("sequence", [None, -1, "7", 1.0, True])
def test_a_global_sequence_of_another_type_is_an_unknown_key(sequence: object) -> None:
    fields = fields_of(an_event()) | {"global_sequence": sequence}
    assert repacked(fields).global_sequence is None


def test_a_causation_of_zero_is_none() -> None:
    assert format1.decode_body(format1.encode_body(an_event(causation_id=bytes(16)))).causation_id is None


# What a reader refuses


@pytest.mark.parametrize("key", ["event", "entity", "scope"])
def test_a_frame_without_a_needed_key_is_refused(key: str) -> None:
    fields = fields_of(an_event())
    del fields[key]
    assert_is_refused(fields)


@pytest.mark.parametrize("key", ["header", "payload"])
def test_an_event_without_a_needed_key_is_refused(key: str) -> None:
    fields = fields_of(an_event())
    del fields["event"][key]
    assert_is_refused(fields)


@pytest.mark.parametrize(
    "key", ["event_id", "correlation_id", "timestamp_us", "position", "payload_size", "event_kind", "flags"]
)
def test_a_header_without_a_needed_key_is_refused(key: str) -> None:
    fields = fields_of(an_event())
    del fields["event"]["header"][key]
    assert_is_refused(fields)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("event_id", b"short"),
        ("event_id", [256] * 16),
        ("correlation_id", None),
        ("causation_id", "c" * 16),
        ("timestamp_us", 2**63),
        ("timestamp_us", 1.0),
        ("payload_size", 2**32),
        ("event_kind", 2**16),
        ("event_kind", True),
        ("flags", 256),
        ("flags", -1),
        ("content_hash", b"h" * 31),
        ("payload_version", 2**16),
        ("position", None),
        ("position", [0, 0, 0, 0]),
    ],
)
def test_a_header_field_out_of_its_type_is_refused(key: str, value: object) -> None:
    fields = fields_of(an_event())
    fields["event"]["header"][key] = value
    assert_is_refused(fields)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("wall_ms", -1),
        ("counter", 2**16),
        ("depth", 2**32),
        ("lane", None),
        ("sequence", 2**32),
    ],
)
def test_a_position_out_of_its_type_is_refused(key: str, value: object) -> None:
    fields = fields_of(an_event())
    fields["event"]["header"]["position"][key] = value
    assert_is_refused(fields)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("entity", b"bytes"),
        ("scope", None),
        ("receipt_extensions", None),
        ("receipt_extensions", [["a.b", b""]]),
        ("receipt_extensions", {"a.b": "text"}),
        ("receipt_extensions", {1: b""}),
        ("event", []),
    ],
)
def test_a_frame_field_of_another_type_is_refused(key: str, value: object) -> None:
    assert_is_refused(fields_of(an_event()) | {key: value})


def test_a_known_key_that_comes_twice_is_refused() -> None:
    body = format1.encode_body(an_event())
    twice = bytes([body[0] + 1]) + body[1:] + msgpack.packb("scope") + msgpack.packb("other")
    with pytest.raises(FrameError, match="'scope' twice"):
        format1.decode_body(twice)


def test_an_unknown_key_may_come_twice() -> None:
    body = format1.encode_body(an_event())
    twice = bytes([body[0] + 2]) + body[1:] + 2 * (msgpack.packb("x") + msgpack.packb([1]))
    assert format1.decode_body(twice) == an_event()


def test_a_key_that_is_neither_text_nor_a_position_is_refused() -> None:
    assert_is_refused(fields_of(an_event()) | {b"x": 1})
    assert_is_refused(fields_of(an_event()) | {None: 1})


def test_text_that_is_not_utf_8_is_refused() -> None:
    body = format1.encode_body(an_event()).replace(b"acct:1", b"acct:\xff")
    with pytest.raises(FrameError, match="UTF-8"):
        format1.decode_body(body)


def test_an_unknown_value_may_be_anything() -> None:
    body = format1.encode_body(an_event())
    unknown = bytes([body[0] + 1]) + body[1:] + msgpack.packb("x") + b"\x82\xa1\xff\x90\x91\x80\x81\x90\xc0"
    assert format1.decode_body(unknown) == an_event()


# Any bytes at all


@given(st.binary(max_size=2_000))
def test_any_bytes_are_a_frame_or_a_frame_error(body: bytes) -> None:
    try:
        format1.decode_body(body)
    except FrameError:
        pass


PIECES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=40) | st.text(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner),
    max_leaves=8,
)


@given(st.data())
def test_a_frame_with_any_part_replaced_is_a_frame_or_a_frame_error(data: st.DataObject) -> None:
    fields = fields_of(an_event())
    parts = [fields, fields["event"], fields["event"]["header"], fields["event"]["header"]["position"]]
    part = data.draw(st.sampled_from([*parts, fields["event"]["hash_chain"]]))
    part[data.draw(st.sampled_from([*part, "other", 1, 3]))] = data.draw(PIECES)
    try:
        repacked(fields)
    except FrameError:
        pass


@given(st.data())
def test_a_damaged_body_is_a_frame_or_a_frame_error(data: st.DataObject) -> None:
    body = bytearray(format1.encode_body(an_event(extensions={"a.b": b"x"})))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        format1.decode_body(bytes(body))
    except FrameError:
        pass


@pytest.mark.parametrize("opening", [b"\xdd\xff\xff\xff\xff", b"\xdd\x00\x01\x00\x00", b"\xdf\x00\x01\x00\x00"])
def test_lengths_that_lie_take_no_memory(opening: bytes) -> None:
    body = opening * (300_000 // len(opening))
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            format1.decode_body(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000


def test_a_value_nested_too_deeply_is_refused() -> None:
    with pytest.raises(FrameError):
        format1.decode_body(b"\x91" * 5_000 + b"\xc0")


# What we write

FRAMES = st.builds(
    an_event,
    event_id=st.binary(min_size=16, max_size=16),
    global_sequence=st.none() | st.integers(0, 2**64 - 1),
    kind=st.integers(0, 2**16 - 1),
    entity=st.text(max_size=20),
    scope=st.text(max_size=20),
    sequence=st.integers(0, 2**32 - 1),
    timestamp_us=st.integers(-(2**63), 2**63 - 1),
    wall_ms=st.integers(0, 2**64 - 1),
    prev_hash=st.binary(min_size=32, max_size=32),
    correlation_id=st.none() | st.binary(min_size=16, max_size=16),
    causation_id=st.none() | st.binary(min_size=16, max_size=16).filter(any),
    flags=st.integers(0, 255),
    payload_version=st.integers(0, 2**16 - 1),
    payload=st.binary(max_size=400),
    lane=st.integers(0, 2**32 - 1),
    depth=st.integers(0, 2**32 - 1),
    extensions=st.dictionaries(st.text(max_size=8), st.binary(max_size=8), max_size=3),
)


@given(FRAMES)
def test_what_is_encoded_is_decoded_again(frame: Frame) -> None:
    own = frame.correlation_id == frame.event_id
    decoded = format1.decode_body(format1.encode_body(frame))
    assert decoded == replace(frame, correlation_id=None if own else frame.correlation_id)


def test_the_global_sequence_is_the_last_key_and_extensions_are_sorted() -> None:
    fields = fields_of(an_event(extensions={"b.b": b"2", "a.a": b"1"}))
    assert list(fields) == ["event", "entity", "scope", "receipt_extensions", "global_sequence"]
    assert list(fields["receipt_extensions"]) == ["a.a", "b.b"]


def test_every_body_begins_as_recovery_expects() -> None:
    for frame in (an_event(), replace(an_event(), global_sequence=None), format1.begin_marker(1, 2, 0)):
        assert format1.encode_body(frame).startswith(format1.FIRST_BYTES)
    for path in segments(STORES[0]):
        assert all(raw.body.startswith(format1.FIRST_BYTES) for raw in raw_frames(path))


@pytest.mark.parametrize(
    "changes",
    [
        {"event_id": b"short"},
        {"correlation_id": b""},
        {"prev_hash": b""},
        {"event_hash": b""},
        {"encrypted": True},
        {"extensions": {"durable": 7}},
    ],
)
def test_a_frame_that_no_reader_could_take_is_never_written(changes: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        format1.encode_body(an_event(**changes))


@pytest.mark.parametrize("changes", [{"sequence": 2**32}, {"flags": 256}, {"kind": -1}, {"timestamp_us": 2**63}])
def test_a_number_that_does_not_fit_is_never_written(changes: dict[str, int]) -> None:
    with pytest.raises(struct.error):
        format1.encode_body(an_event(**changes))


def test_the_checksum_is_that_of_zlib() -> None:
    assert format1.checksum(b"123456789") == 0xCBF43926
    length, crc = FRAME.unpack_from(DERIVED.read_bytes(), 57)
    assert (length, format1.checksum(next(raw_frames(DERIVED)).body)) == (466, crc)
