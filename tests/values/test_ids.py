"""Ids: keys that depend on the operation alone, and ids that strictly increase whatever the clock does."""

from __future__ import annotations

import os
from typing import cast
from uuid import RFC_4122, UUID

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from batpak.errors import InvalidRequestError
from batpak.ids import MAX_UNIX_MS, IdGenerator, operation_key

NOW = 1_700_000_000_000
LAST_ID = UUID(int=2**128 - 1).bytes


def time_and_count(raw: bytes) -> tuple[int, int]:
    high = int.from_bytes(raw[:8], "big")
    return high >> 16, high & 0xFFF


class Source:
    """Random bytes that are not, and a count of how often they were asked for."""

    def __init__(self, byte: int = 0xFF) -> None:
        self.calls: list[int] = []
        self.byte = byte

    def __call__(self, size: int) -> bytes:
        self.calls.append(size)
        return bytes([self.byte]) * size


def test_the_key_of_a_known_operation_never_changes() -> None:
    key = operation_key("transfer", "acct:1", "acct:2", "req:42")
    assert key == UUID("778a4035d27f90aa9ebe02decb3aafdf")


def test_where_one_part_ends_counts() -> None:
    keys = {
        operation_key("a", "bc"),
        operation_key("ab", "c"),
        operation_key("a", "b", "c"),
        operation_key("abc"),
        operation_key("abc", ""),
        operation_key("", "abc"),
        operation_key(""),
    }
    assert len(keys) == 7


@given(st.text(), st.lists(st.text(), max_size=4))
def test_a_key_is_the_hash_of_its_parts_with_their_lengths(domain: str, parts: list[str]) -> None:
    name, rest = domain.encode(), [part.encode() for part in parts]
    cover = len(name).to_bytes(8, "little") + name + len(rest).to_bytes(8, "little")
    cover += b"".join(len(part).to_bytes(8, "little") + part for part in rest)
    assert operation_key(domain, *parts).bytes == blake3(cover).digest()[:16]


@pytest.mark.parametrize(("domain", "parts"), [(1, ()), ("a", (b"b",)), ("a", (None,))])
def test_a_part_that_is_no_text_is_refused(domain: object, parts: tuple[object, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="expected a str"):
        operation_key(cast("str", domain), *cast("tuple[str, ...]", parts))


def test_a_lone_surrogate_is_refused_without_showing_the_text() -> None:
    with pytest.raises(InvalidRequestError, match="lone surrogate") as caught:
        operation_key("domain", "secret\ud800")
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_an_id_is_a_uuid_of_version_7_with_the_time_in_front() -> None:
    event_id = UUID(bytes=IdGenerator(os.urandom).next(NOW))
    assert event_id.version == 7
    assert event_id.variant == RFC_4122
    assert time_and_count(event_id.bytes) == (NOW, 0)


@pytest.mark.parametrize(("byte", "low"), [(0x00, 0x8000_0000_0000_0000), (0xFF, 0xBFFF_FFFF_FFFF_FFFF)])
def test_62_bits_of_an_id_are_random(byte: int, low: int) -> None:
    assert int.from_bytes(IdGenerator(Source(byte)).next(NOW)[8:], "big") == low


def test_random_bytes_are_taken_4096_at_a_time() -> None:
    source = Source()
    ids = IdGenerator(source)
    for _ in range(512):
        ids.next(NOW)
    assert source.calls == [4096]
    ids.next(NOW)
    assert source.calls == [4096, 4096]


def test_a_millisecond_holds_4096_ids_and_then_borrows_from_the_next() -> None:
    ids = IdGenerator(os.urandom)
    places = [time_and_count(ids.next(NOW)) for _ in range(4098)]
    assert places[0] == (NOW, 0)
    assert places[4095] == (NOW, 4095)
    assert places[4096:] == [(NOW + 1, 0), (NOW + 1, 1)]
    assert time_and_count(ids.next(NOW + 1)) == (NOW + 1, 2)
    assert time_and_count(ids.next(NOW + 2)) == (NOW + 2, 0)


def test_a_clock_that_goes_back_leaves_the_last_time_in_force() -> None:
    ids = IdGenerator(os.urandom)
    ids.next(NOW)
    assert time_and_count(ids.next(NOW - 5000)) == (NOW, 1)
    assert time_and_count(ids.next(0)) == (NOW, 2)


@given(st.lists(st.integers(0, 50) | st.integers(0, MAX_UNIX_MS - 100), max_size=100))
def test_ids_strictly_increase_under_any_clock(times: list[int]) -> None:
    ids = IdGenerator(os.urandom)
    made = [ids.next(unix_ms) for unix_ms in times]
    assert made == sorted(set(made))


@given(st.binary(min_size=16, max_size=16).filter(lambda raw: raw[:6] != b"\xff" * 6), st.integers(0, MAX_UNIX_MS))
def test_ids_are_greater_than_what_they_start_above(above: bytes, unix_ms: int) -> None:
    first = IdGenerator(os.urandom, above).next(unix_ms)
    assert first > above
    assert UUID(bytes=first).version == 7


@pytest.mark.parametrize(
    ("above", "place"),
    [
        ("018bcfe5-6800-7005-bfff-ffffffffffff", (NOW, 6)),
        ("018bcfe5-6800-7fff-bfff-ffffffffffff", (NOW + 1, 0)),
        ("018bcfe5-6800-6fff-bfff-ffffffffffff", (NOW, 0)),
        ("018bcfe5-6800-8000-8000-000000000000", (NOW + 1, 0)),
        ("018bcfe5-67ff-7005-8000-000000000000", (NOW, 0)),
    ],
)
def test_the_next_id_wastes_nothing_above_the_last_one(above: str, place: tuple[int, int]) -> None:
    assert time_and_count(IdGenerator(os.urandom, UUID(above).bytes).next(NOW)) == place


@pytest.mark.parametrize("unix_ms", [0, MAX_UNIX_MS])
def test_the_first_and_the_last_millisecond_have_ids(unix_ms: int) -> None:
    assert time_and_count(IdGenerator(os.urandom).next(unix_ms)) == (unix_ms, 0)


@pytest.mark.parametrize("unix_ms", [-1, MAX_UNIX_MS + 1])
def test_a_time_that_no_id_can_carry_is_refused_and_changes_nothing(unix_ms: int) -> None:
    ids = IdGenerator(os.urandom)
    ids.next(NOW)
    with pytest.raises(InvalidRequestError, match=f"found {unix_ms} ms, expected 0 to {MAX_UNIX_MS}"):
        ids.next(unix_ms)
    assert time_and_count(ids.next(NOW)) == (NOW, 1)


def test_the_last_id_of_all_is_given_once() -> None:
    ids = IdGenerator(os.urandom, UUID("ffffffff-ffff-7ffe-bfff-ffffffffffff").bytes)
    assert time_and_count(ids.next(NOW)) == (MAX_UNIX_MS, 0xFFF)
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="expected one more to be left"):
            ids.next(NOW)
    with pytest.raises(InvalidRequestError, match="expected one more to be left"):
        IdGenerator(os.urandom, LAST_ID).next(NOW)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_an_id_to_start_above_has_16_bytes(size: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"found {size} bytes, expected 16"):
        IdGenerator(os.urandom, b"\0" * size)


def test_a_failure_of_the_random_source_gives_nothing_away() -> None:
    calls = 0

    def failing_once(size: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyboardInterrupt
        return os.urandom(size)

    ids = IdGenerator(failing_once)
    with pytest.raises(KeyboardInterrupt):
        ids.next(NOW)
    assert time_and_count(ids.next(NOW)) == (NOW, 0)
