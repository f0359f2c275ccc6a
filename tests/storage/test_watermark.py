from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak.errors import UnsupportedFormatError
from batpak.storage import watermark
from batpak.storage.watermark import DurablePosition
from tests.directories import directory, flipped

POSITION = DurablePosition(bytes(range(16)), 7, 3, b"i" * 16, 4096, 12)
SLOT_BYTES = 76


def file_of(*positions: DurablePosition) -> bytes:
    data = bytearray(1024)
    for position in positions:
        slot = watermark.encode(position)
        at = watermark.slot_offset(position.count)
        data[at : at + len(slot)] = slot
    return bytes(data)


def read(data: bytes) -> DurablePosition | None:
    return watermark.read(directory({watermark.NAME: data}))


@given(
    st.builds(
        DurablePosition,
        st.binary(min_size=16, max_size=16),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
        st.binary(min_size=16, max_size=16),
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
    )
)
def test_a_position_comes_back(position: DurablePosition) -> None:
    assert len(watermark.encode(position)) == SLOT_BYTES
    assert read(file_of(position)) == position


def test_writes_go_to_one_slot_in_turn_and_the_newer_is_believed() -> None:
    newer = replace(POSITION, count=8, offset=5000)
    assert {watermark.slot_offset(count) for count in range(10)} == {0, 512}
    assert read(file_of(POSITION, newer)) == newer
    assert watermark.slots(directory({watermark.NAME: file_of(POSITION, newer)})) == [newer, POSITION]


def test_a_torn_write_leaves_the_other_slot() -> None:
    newer = file_of(POSITION, replace(POSITION, count=8))
    older = file_of(POSITION)
    for torn in range(1, SLOT_BYTES):
        assert read(newer[:torn] + older[torn:]) == POSITION


def test_one_changed_bit_is_no_position() -> None:
    for bit in range(8 * SLOT_BYTES):
        assert read(flipped(file_of(replace(POSITION, count=8)), bit)) is None


def test_a_file_that_is_short_or_not_there_tells_nothing() -> None:
    data = file_of(replace(POSITION, count=8))
    assert [read(data[:length]) for length in range(SLOT_BYTES)] == [None] * SLOT_BYTES
    assert read(data[:SLOT_BYTES]) == replace(POSITION, count=8)
    assert watermark.read(directory({})) is None
    assert watermark.slots(directory({})) == []


def test_a_newer_version_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermark, "VERSION", 2)
    data = file_of(POSITION)
    monkeypatch.setattr(watermark, "VERSION", 1)
    with pytest.raises(UnsupportedFormatError) as caught:
        read(data)
    assert caught.value.file == watermark.NAME


@given(st.binary(max_size=1100))
def test_any_bytes_are_safe(data: bytes) -> None:
    assert read(data) is None
