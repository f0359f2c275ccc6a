"""Payloads: what goes through unchanged, what is refused, and that no value is ever in an error."""

from __future__ import annotations

import threading
import traceback
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import NamedTuple, NoReturn, cast
from uuid import UUID

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak import payload as payloads
from batpak.errors import PayloadError
from batpak.payload import Payload, decode_payload, encode_payload

SECRET = "hunter2-password"
EXPECTED = "None, bool, int, float, str, bytes, list, dict or a datetime with a zone"

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.just(UTC))
)
keys = st.text() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.none()
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)


class Colour(IntEnum):
    RED = 1


class Name(StrEnum):
    SHOP = "shop"


class Point(NamedTuple):
    x: int
    y: int


class BrokenZone(tzinfo):
    def utcoffset(self, _moment: datetime | None) -> timedelta | None:
        raise RuntimeError(SECRET)

    def dst(self, _moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, _moment: datetime | None) -> str | None:
        return None


class NoZone(BrokenZone):
    def utcoffset(self, _moment: datetime | None) -> timedelta | None:
        return None


class PackingZone(BrokenZone):
    """A zone that packs something itself while it is asked for its offset."""

    def utcoffset(self, _moment: datetime | None) -> timedelta | None:
        encode_payload({"inner": [1, 2, 3]})
        return timedelta(hours=1)


def refused(value: object) -> PayloadError:
    with pytest.raises(PayloadError) as caught:
        encode_payload(cast("Payload", value))
    return caught.value


def nested(levels: int, leaf: object) -> Payload:
    value: object = leaf
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return cast("Payload", value)


@given(values)
def test_what_is_packed_comes_back_equal(value: Payload) -> None:
    assert decode_payload(encode_payload(value)) == value


@given(values)
def test_packing_is_what_msgpack_does(value: Payload) -> None:
    assert encode_payload(value) == msgpack.packb(value, datetime=True)


@pytest.mark.parametrize(
    ("value", "raw", "back"),
    [
        ({"total": 10}, "81a5746f74616c0a", {"total": 10}),
        ((1, 2), "920102", [1, 2]),
        (Point(1, 2), "920102", [1, 2]),
        (bytearray(b"ab"), "c4026162", b"ab"),
        (memoryview(b"ab"), "c4026162", b"ab"),
        (b"ab", "c4026162", b"ab"),
        (Colour.RED, "01", 1),
        (Name.SHOP, "a473686f70", "shop"),
        (OrderedDict(b=1, a=2), "82a16201a16102", {"b": 1, "a": 2}),
        (
            datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
            "d6ff65920080",
            datetime(2024, 1, 1, tzinfo=UTC),
        ),
        (2**64 - 1, "cfffffffffffffffff", 2**64 - 1),
        (-(2**63), "d38000000000000000", -(2**63)),
    ],
)
def test_the_stored_bytes_never_change(value: Payload, raw: str, back: object) -> None:
    assert encode_payload(value).hex() == raw
    assert decode_payload(bytes.fromhex(raw)) == back


@pytest.mark.parametrize(
    ("value", "where", "found"),
    [
        ({1, 2}, "payload", "the type set"),
        (object(), "payload", "the type object"),
        (UUID(int=1), "payload", "the type uuid.UUID"),
        ({"price": Decimal("1.5")}, "payload.price", "the type decimal.Decimal"),
        ({"day": date(2024, 1, 1)}, "payload.day", "the type datetime.date"),
        (MappingProxyType({"a": 1}), "payload", "the type mappingproxy"),
        (range(3), "payload", "the type range"),
        (2**64, "payload", "an int that does not fit 64 bits"),
        ([1, [2, 3], [-(2**63) - 1]], "payload[2][0]", "an int that does not fit 64 bits"),
        ({"a": [{}, {"b": "x\ud800"}]}, "payload.a[1].b", "text with a lone surrogate"),
        ({"when": datetime(2024, 1, 1)}, "payload.when", "a datetime without a zone"),  # noqa: DTZ001
        ({"when": datetime(2024, 1, 1, tzinfo=NoZone())}, "payload.when", "a datetime without a zone"),
        ({"when": datetime(2024, 1, 1, tzinfo=BrokenZone())}, "payload.when", "a datetime without a zone"),
        (memoryview(b"abcd")[::2], "payload", "a memoryview that is not contiguous"),
        ({"a": 1, "x\ud800": 2}, "payload[key 1]", "text with a lone surrogate"),
        ({"a": 1, frozenset(): 2}, "payload[key 1]", "the type frozenset"),
        ({"a": 1, (1, 2**64): 2}, "payload[key 1][1]", "an int that does not fit 64 bits"),
        ({"not a name": {1: {b"bytes": set()}}}, "payload[value 0][value 0][value 0]", "the type set"),
        ({"a" * 41: set()}, "payload[value 0]", "the type set"),
        ({"a" * 40: set()}, f"payload.{'a' * 40}", "the type set"),
        ({"a": {"b": 1}, "c": [[], set()]}, "payload.c[1]", "the type set"),
    ],
)
def test_the_first_fault_is_named_by_path_and_type(value: object, where: str, found: str) -> None:
    error = refused(value)
    assert error.reason == f"{where}: found {found}, expected {EXPECTED}"
    assert str(error) == error.reason


@pytest.mark.parametrize(
    "value",
    [
        {"password": SECRET + "\ud800"},
        {SECRET: {1, 2}},
        [SECRET, {SECRET}],
        {"a": SECRET, SECRET + "\ud800": SECRET},
        {(SECRET, 1): object()},
        datetime(2024, 1, 1, tzinfo=BrokenZone()),
    ],
)
def test_no_value_is_in_an_error_or_in_what_it_was_raised_from(value: object) -> None:
    error = refused(value)
    assert (error.__cause__, error.__context__) == (None, None)
    assert SECRET not in "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))


def test_a_dataclass_is_refused_by_its_name_and_not_by_its_values() -> None:
    @dataclass
    class Login:
        password: str

    error = refused({"login": Login(SECRET)})
    assert error.reason.startswith("payload.login: found the type ")
    assert "Login" in error.reason
    assert SECRET not in error.reason


@pytest.mark.parametrize("leaf", [1, "x", [], {}])
def test_whatever_depth_is_packed_can_be_unpacked_again(leaf: object) -> None:
    depths = range(1000, 1040)
    packed = 0
    for depth in depths:
        try:
            raw = encode_payload(nested(depth, leaf))
        except PayloadError as error:
            assert error.reason == f"payload: found more than 1023 levels, expected {EXPECTED}"  # noqa: PT017
        else:
            packed += 1
            decode_payload(raw)
    assert 0 < packed < len(depths)


def test_a_dict_whose_own_code_fails_is_refused_without_what_it_says() -> None:
    class Failing(dict[str, int]):
        def items(self) -> NoReturn:
            raise KeyError(SECRET)

    error = refused({"a": Failing(b=1)})
    assert error.reason == f"payload: found something that msgpack refuses, expected {EXPECTED}"
    assert (error.__cause__, error.__context__) == (None, None)


def test_a_structure_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.extend([loop, loop])
    ring: dict[str, object] = {}
    ring["again"] = {"ring": ring}
    for value in (loop, ring):
        assert refused(value).reason == f"payload: found more than 1023 levels, expected {EXPECTED}"


def test_a_zone_that_packs_while_it_is_asked_disturbs_nothing() -> None:
    moment = datetime(2024, 1, 1, 1, tzinfo=PackingZone())
    value: Payload = ["before", moment, "after"]
    assert decode_payload(encode_payload(value)) == ["before", datetime(2024, 1, 1, tzinfo=UTC), "after"]


def test_threads_that_pack_at_once_do_not_disturb_one_another() -> None:
    failures: list[object] = []

    def pack(number: int) -> None:
        value: Payload = {"number": number, "moment": datetime(2024, 1, 1, tzinfo=PackingZone())}
        raw = encode_payload(value)
        failures.extend(1 for _ in range(300) if encode_payload(value) != raw)

    threads = [threading.Thread(target=pack, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_packing_works_on_after_a_refusal() -> None:
    refused(["x" * 100, set()])
    assert encode_payload(1) == b"\x01"


def test_the_buffer_of_a_large_payload_is_not_kept() -> None:
    encode_payload(b"x")
    kept = len(payloads._packers)
    encode_payload(b"x" * 2_000_000)
    assert len(payloads._packers) == kept - 1
    assert encode_payload(b"x" * 1_000_000)[-1:] == b"x"


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ("", "bytes that are not MessagePack, or not all of it"),
        ("c1", "bytes that are not MessagePack, or not all of it"),
        ("9201", "bytes that are not MessagePack, or not all of it"),
        ("ddffffffff", "bytes that are not MessagePack, or not all of it"),
        ("d4ff00", "bytes that are not MessagePack, or not all of it"),
        ("0101", "bytes behind the value"),
        ("a1ff", "text that is not UTF-8"),
        ("91" * 2000 + "01", "nesting deeper than a thousand levels"),
    ],
)
def test_bytes_that_are_not_one_value_are_refused(raw: str, found: str) -> None:
    stored = bytes.fromhex(raw)
    with pytest.raises(PayloadError) as caught:
        decode_payload(stored)
    error = caught.value
    assert error.reason == f"stored payload of {len(stored)} bytes: found {found}, expected one MessagePack value"
    assert (error.__cause__, error.__context__) == (None, None)


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused_by_a_typed_error(raw: bytes) -> None:
    try:
        value = decode_payload(raw)
    except PayloadError:
        return
    hash(repr(value))


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("81920102" + "03", {(1, 2): 3}),
        ("8181010203", {((1, 2),): 3}),
        ("819192c0a16101", {((None, "a"),): 1}),
        ("c70505" + "0102030405", msgpack.ExtType(5, b"\x01\x02\x03\x04\x05")),
        ("81c001", {None: 1}),
        ("81cb3ff800000000000001", {1.5: 1}),
        ("c70cff000000007fffffffffffffff", msgpack.Timestamp(2**63 - 1, 0)),
        ("91c70cff000000007fffffffffffffff", [msgpack.Timestamp(2**63 - 1, 0)]),
        (
            "82a161d6ff00000001a162c70cff000000007fffffffffffffff",
            {"a": datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), "b": msgpack.Timestamp(2**63 - 1, 0)},
        ),
    ],
)
def test_what_python_cannot_hold_as_written_has_a_stand_in(raw: str, value: object) -> None:
    assert decode_payload(bytes.fromhex(raw)) == value


@pytest.mark.parametrize("key", [(1, 2), ("a", (b"b", None)), ()])
def test_a_tuple_that_is_a_key_comes_back_as_a_tuple(key: tuple[object, ...]) -> None:
    value = cast("Payload", {key: [1]})
    assert decode_payload(encode_payload(value)) == {key: [1]}


@pytest.mark.parametrize("moment", [datetime.min, datetime.max])  # noqa: DTZ901 (a zone is put on below)
@pytest.mark.parametrize("hours", [-14, 0, 14])
def test_a_datetime_at_the_end_of_time_can_be_read_back(moment: datetime, hours: int) -> None:
    value = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    back = decode_payload(encode_payload({"when": value}))
    assert isinstance(back, dict)
    assert isinstance(back["when"], datetime | msgpack.Timestamp)
    if isinstance(back["when"], datetime):
        assert back["when"] == value


def test_running_out_of_memory_is_not_called_a_fault_of_the_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        def pack(self, _value: object) -> bytes:
            raise MemoryError

    monkeypatch.setattr(payloads, "_packers", [Exhausted()])
    with pytest.raises(MemoryError):
        encode_payload(1)
    assert encode_payload(1) == b"\x01"


def test_a_type_checker_takes_any_dict_that_can_be_packed() -> None:
    counts: dict[str, int] = {"a": 1}
    names: dict[int, str] = {1: "a"}
    mixed: Payload = {"n": 1, "when": datetime(2024, 1, 1, tzinfo=UTC), "rows": [{"a": 1}, {1: b"b"}], "none": None}
    for value in (counts, names, mixed):
        assert decode_payload(encode_payload(value)) == value
    match decode_payload(encode_payload(mixed)):
        case {"n": int() as number}:
            assert number == 1
        case _:
            pytest.fail("a dict was packed")
