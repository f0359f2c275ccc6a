"""Headers and footers of segments: what is written, and that nothing else passes for it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from batpak.errors import CorruptStoreError, UnsupportedFormatError
from batpak.storage.segment import (
    MAX_HEADER_BYTES,
    Footer,
    SegmentMeta,
    file_name,
    footer_bytes,
    frame_bytes,
    header_bytes,
    is_stub,
    list_segments,
    parse_header,
    read_footer,
    read_meta,
)
from tests.directories import directory, flipped

STORE_ID, HASH = bytes(range(16)), b"h" * 32


def header(version: int = 2, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "version": version,
        "segment": 3,
        "created_ns": 1_720_000_000_000_000_000,
        "store_id": STORE_ID,
        "salt": 0xDEADBEEF,
        "first_sequence": 7,
        "previous_hash": HASH,
    }
    return header_bytes(**(fields | changes))


def framed(fields: object, *, checked: bool = True) -> bytes:
    """Return a header around any map, with its CRC."""
    packed: bytes = msgpack.packb(fields)
    start = b"FBAT" + len(packed).to_bytes(4, "big") + packed
    return start + crc32c(start).to_bytes(4, "big") if checked else start


def fields_of(data: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = msgpack.unpackb(data[8 : 8 + int.from_bytes(data[4:8], "big")])
    return fields


def parse(data: bytes) -> SegmentMeta:
    return parse_header(data, 3, len(data))


# Names


def test_names_are_numbers_with_six_digits_or_more() -> None:
    assert [file_name(number) for number in (1, 999_999, 1_000_000)] == ["000001.fbat", "999999.fbat", "1000000.fbat"]
    names = ["1000000.fbat", "000002.fbat", "x", ".fbat", "000001.fbat", "000001.fbat.compact-src", "index.fbati"]
    assert list_segments(names) == [1, 2, 1_000_000]


@given(st.text(max_size=12))
def test_no_other_name_is_taken_for_a_segment(stem: str) -> None:
    try:
        found = list_segments([f"{stem}.fbat"])
    except CorruptStoreError:
        return
    assert [file_name(number) for number in found] in ([], [f"{stem}.fbat"])


# Headers


def test_a_header_comes_back() -> None:
    for version in (1, 2):
        data = header(version)
        meta = parse(data + b"frames")
        assert (meta.segment, meta.version, meta.frames_start) == (3, version, len(data))
        assert (meta.store_id, meta.first_sequence, meta.previous_hash) == (STORE_ID, 7, HASH)
        assert meta.salt == (0xDEADBEEF if version == 2 else 0)
        assert (meta.ours, meta.name) == (True, "000003.fbat")


def test_the_identity_is_that_of_the_header_alone() -> None:
    assert parse(header()).identity == parse(header() + b"frames").identity
    assert len({parse(header(salt=salt)).identity for salt in range(5)}) == 5


def test_one_changed_bit_in_our_header_refuses() -> None:
    for bit in range(8 * len(header())):
        with pytest.raises(CorruptStoreError):
            parse(flipped(header(), bit))


def test_one_changed_bit_in_a_header_of_format_1_is_another_segment_or_refuses() -> None:
    """It has no checksum; whoever compares identities knows."""
    whole = parse(header(1))
    for bit in range(8 * len(header(1))):
        try:
            meta = parse(flipped(header(1), bit))
        except (CorruptStoreError, UnsupportedFormatError):
            continue
        assert meta.identity != whole.identity
        assert not meta.ours or type(meta.first_sequence) is int


def test_a_header_that_is_cut_refuses() -> None:
    for length in range(len(header())):
        with pytest.raises(CorruptStoreError):
            parse(header()[:length])


@pytest.mark.parametrize(
    "key", ["version", "created_ns", "segment_id", "store_id", "first_sequence", "previous_hash", "salt"]
)
@pytest.mark.parametrize("value", [None, "x", b"short", -1, 2**64 - 1, [], {}, 1.0, True])
def test_a_checked_header_with_a_key_of_another_type_refuses(key: str, value: object) -> None:
    if (key, value) in [("created_ns", -1), ("created_ns", 2**64 - 1), ("first_sequence", 2**64 - 1)]:
        return  # numbers like others
    fields = fields_of(header()) | {key: value}
    with pytest.raises((CorruptStoreError, UnsupportedFormatError)):
        parse(framed(fields))
    del fields[key]
    with pytest.raises(CorruptStoreError):
        parse(framed(fields))


@pytest.mark.parametrize(
    "writer", [None, 1, "x", [], {}, {"store_id": STORE_ID}, {"store_id": [], "first_sequence": 0}]
)
def test_a_writer_that_says_something_else_is_not_us(writer: object) -> None:
    fields = fields_of(header(1)) | {"writer": writer}
    meta = parse(framed(fields, checked=False))
    assert (meta.ours, meta.version, meta.store_id) == (False, 1, None)


def test_keys_that_are_new_are_passed_over() -> None:
    for version in (1, 2):
        fields = fields_of(header(version)) | {"later": [1, {2: 3}]}
        assert parse(framed(fields, checked=version == 2)).ours


def test_a_newer_format_refuses_as_such_and_damage_as_damage() -> None:
    newer = framed(fields_of(header()) | {"version": 3})
    with pytest.raises(UnsupportedFormatError, match="formats 1 and 2"):
        parse(newer)
    with pytest.raises(CorruptStoreError):
        parse(newer[:-1] + b"x")


def test_a_segment_under_another_number_refuses_if_it_is_ours() -> None:
    for version in (1, 2):
        with pytest.raises(CorruptStoreError, match="the header of segment 3"):
            parse_header(header(version), 4, 1000)
    theirs = {key: value for key, value in fields_of(header(1)).items() if key != "writer"}
    assert parse_header(framed(theirs, checked=False), 4, 1000).segment == 4  # the original goes by the name


def test_a_header_longer_than_64_kib_is_not_read() -> None:
    with pytest.raises(CorruptStoreError):
        parse(b"FBAT" + (MAX_HEADER_BYTES + 1).to_bytes(4, "big") + bytes(70_000))
    long = framed(fields_of(header()) | {"pad": "x" * 60_000})
    assert read_meta(directory({"000003.fbat": long + bytes(100)}), 3).frames_start == len(long)


@given(st.binary(max_size=80))
def test_any_bytes_are_safe(data: bytes) -> None:
    for start in (b"", b"FBAT", b"FBAT\0\0\0" + bytes([len(data)])):
        try:
            parse(start + data)
        except (CorruptStoreError, UnsupportedFormatError):
            pass
        is_stub(start + data)


def test_lengths_and_numbers_that_the_index_cannot_hold_refuse() -> None:
    files = directory({"4294967296.fbat": header()})
    with pytest.raises(UnsupportedFormatError):
        read_meta(files, 2**32)


# Stubs


@pytest.mark.parametrize("version", [1, 2])
def test_a_header_that_a_crash_cut_short_is_a_stub_and_a_whole_one_is_none(version: int) -> None:
    whole = header(version)
    for length in range(len(whole)):
        assert is_stub(whole[:length])
        filled = whole[:length] + bytes(len(whole) - length)
        assert is_stub(filled) or filled == whole or parse(filled).ours
    assert is_stub(bytes(4096))
    for rest in (b"", bytes(500), b"\0\0\1\0frame" * 20):
        assert not is_stub(whole + rest)


def test_a_header_of_ours_without_its_last_bytes_is_a_stub_in_format_1_too() -> None:
    """They are those of the hash of the last event before it: with zeros there it is still a map."""
    whole = header(1)
    assert parse(whole).previous_hash != bytes(32)
    for length in range(len(whole) - 32, len(whole)):
        assert is_stub(whole[:length] + bytes(len(whole) - length))
        assert is_stub(whole[:length] + bytes(4000))
    first = framed(
        fields_of(whole) | {"writer": fields_of(whole)["writer"] | {"first_sequence": 0, "previous_hash": bytes(32)}},
        checked=False,
    )
    assert not is_stub(first)


@pytest.mark.parametrize("version", [1, 2])
def test_a_damaged_header_with_something_behind_it_is_no_stub(version: int) -> None:
    for rest in (60, 400):
        for bit in range(8 * len(header(version))):
            assert not is_stub(flipped(header(version), bit) + b"\x55" * rest), bit


def test_something_else_is_no_stub() -> None:
    assert not is_stub(b"something else")
    assert not is_stub(b"FBAX")
    assert not is_stub(framed(fields_of(header()) | {"version": 3}))


# Footers


def sealed(footer: Footer | None = None) -> tuple[bytes, SegmentMeta]:
    start = header() + b"\0\0\0\5frame"
    meta = parse(start)
    footer = footer or Footer(len(start), 1, 7, 7, HASH, 7, (b"d" * 32,))
    data = start + footer_bytes(meta, footer)
    return data, replace(meta, size=len(data))


def footer_in(data: bytes, meta: SegmentMeta) -> Footer | None:
    with closing(directory({"000003.fbat": data}).open_read("000003.fbat")) as file:
        return read_footer(file, replace(meta, size=len(data)))


def test_a_footer_comes_back() -> None:
    data, meta = sealed()
    found = footer_in(data, meta)
    assert found == read_meta(directory({"000003.fbat": data}), 3).footer
    assert found == Footer(meta.frames_start + 9, 1, 7, 7, HASH, 7, (b"d" * 32,))


def test_one_changed_bit_is_no_footer() -> None:
    data, meta = sealed()
    start = meta.frames_start + 9
    for bit in range(8 * start, 8 * len(data)):
        assert footer_in(flipped(data, bit), meta) is None


def test_a_footer_that_is_cut_or_goes_on_is_none() -> None:
    data, meta = sealed()
    assert all(footer_in(data[:length], meta) is None for length in range(len(data)))
    assert footer_in(data + b"\0", meta) is None


def test_a_footer_of_another_segment_or_place_is_none() -> None:
    data, meta = sealed()
    assert footer_in(data, replace(meta, salt=1)) is None
    moved, meta = sealed(Footer(9999, 1, 7, 7, HASH, 7, (b"d" * 32,)))
    assert footer_in(moved, meta) is None


def test_a_footer_with_more_keys_is_read_and_one_with_fewer_refuses() -> None:
    data, meta = sealed()
    end = meta.frames_start + 9
    fields = msgpack.unpackb(data[end + 4 : -12])
    for changed in (fields | {"later": 1}, {key: value for key, value in fields.items() if key != "part"}, [1]):
        body = bytes(4) + msgpack.packb(changed)
        trailer = len(body).to_bytes(4, "big") + crc32c(body, meta.salt).to_bytes(4, "big") + b"FBF2"
        if len(changed) > len(fields):
            found = footer_in(data[:end] + body + trailer, meta)
            assert found is not None
            assert found.part == (b"d" * 32,)
        else:
            with pytest.raises(CorruptStoreError, match="footer that cannot be read"):
                footer_in(data[:end] + body + trailer, meta)


def test_a_frame_is_length_checksum_and_body() -> None:
    assert (
        frame_bytes(parse(header()), b"body") == b"\0\0\0\4" + crc32c(b"body", 0xDEADBEEF).to_bytes(4, "big") + b"body"
    )
