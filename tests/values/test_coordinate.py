"""Coordinates: which text is legal, which rule is reported first, and what a value may be used for."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError
from enum import StrEnum
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak.coordinate import MAX_COORDINATE_BYTES, Coordinate, check_text
from batpak.errors import InvalidCoordinateError


def refusal(entity: object, scope: object = "shop") -> InvalidCoordinateError:
    with pytest.raises(InvalidCoordinateError) as caught:
        Coordinate(cast("str", entity), cast("str", scope))
    return caught.value


def is_legal(text: str) -> bool:
    """The rules, written a second time and without a thought for speed."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return False
    forbidden = any(character in "/|=\x7f" or ord(character) < 0x20 for character in text)
    return 1 <= size <= MAX_COORDINATE_BYTES and not forbidden and ".." not in text


def test_a_coordinate_prints_as_entity_at_scope() -> None:
    assert str(Coordinate("order:42", "shop")) == "order:42@shop"
    assert repr(Coordinate("order:42", "shop")) == "Coordinate(entity='order:42', scope='shop')"


@pytest.mark.parametrize("text", ["a", " ", ":", "@", "a.b.c", "-_~", "{}", "Straße", "\x80\x9f", "订单", "\U0001f600"])
def test_spaces_colons_and_any_script_are_legal(text: str) -> None:
    coordinate = Coordinate(text, text)
    assert (coordinate.entity, coordinate.scope) == (text, text)


@pytest.mark.parametrize("text", ["a" * 1024, "é" * 512, "€" * 341 + "a", "\U0001f600" * 256])
def test_1024_bytes_are_legal(text: str) -> None:
    assert len(text.encode()) == MAX_COORDINATE_BYTES
    assert Coordinate(text, text).entity == text


@pytest.mark.parametrize("text", ["a" * 1025, "é" * 512 + "a", "\U0001f600" * 256 + "a"])
@pytest.mark.parametrize("part", ["entity", "scope"])
def test_1025_bytes_are_refused(text: str, part: str) -> None:
    error = refusal(text) if part == "entity" else refusal("order", text)
    assert (error.part, error.found, error.expected) == (part, "1025 bytes of UTF-8", "at most 1024")


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        ("", "no text", "at least one character"),
        ("a\x00", "U+0000 at character 1", "no NUL"),
        ("\n", "U+000A at character 0", "no control character"),
        ("ab\x1f", "U+001F at character 2", "no control character"),
        ("\x7f", "U+007F at character 0", "no control character"),
        ("a/b", "U+002F at character 1", 'neither "/" nor ".."'),
        ("a..b", "U+002E U+002E at character 1", 'neither "/" nor ".."'),
        ("a|b", "U+007C at character 1", 'neither "|" nor "="'),
        ("=", "U+003D at character 0", 'neither "|" nor "="'),
        ("é\ud800", "U+D800 at character 1", "no lone surrogate"),
        (b"order", "a bytes", "a str"),
        (None, "a NoneType", "a str"),
    ],
)
def test_each_rule_is_named_for_each_part(text: object, found: str, expected: str) -> None:
    error = refusal(text)
    assert (error.part, error.found, error.expected) == ("entity", found, expected)
    error = refusal("order", text)
    assert (error.part, error.found, error.expected) == ("scope", found, expected)
    with pytest.raises(InvalidCoordinateError) as caught:
        check_text("prefix", cast("str", text))
    assert (caught.value.part, caught.value.found, caught.value.expected) == ("prefix", found, expected)


@pytest.mark.parametrize(
    ("entity", "scope", "part", "expected"),
    [
        ("a" * 1025, "", "scope", "at least one character"),
        ("a/b", "a" * 1025, "scope", "at most 1024"),
        ("=", "\x00", "entity", 'neither "|" nor "="'),
        ("|/\x01\x00", "shop", "entity", "no NUL"),
        ("|/\x01", "shop", "entity", "no control character"),
        ("|/", "shop", "entity", 'neither "/" nor ".."'),
    ],
)
def test_the_first_broken_rule_is_the_one_reported(entity: str, scope: str, part: str, expected: str) -> None:
    error = refusal(entity, scope)
    assert (error.part, error.expected) == (part, expected)


@given(
    st.text(alphabet=st.characters(codec=None, categories=None), max_size=8) | st.text("a./|=\x00\x7f ~{}", max_size=6)
)
def test_exactly_the_legal_text_is_accepted(text: str) -> None:
    try:
        Coordinate("order", text)
        Coordinate(text, "shop")
        check_text("prefix", text)
    except InvalidCoordinateError:
        assert not is_legal(text)
    else:
        assert is_legal(text)


def test_equal_coordinates_hash_alike_and_order_by_entity_then_scope() -> None:
    assert Coordinate("a", "b") == Coordinate("a", "b")
    assert hash(Coordinate("a", "b")) == hash(Coordinate("a", "b"))
    assert Coordinate("a", "b") != Coordinate("b", "a")
    assert sorted([Coordinate("b", "a"), Coordinate("a", "b"), Coordinate("a", "a")]) == [
        Coordinate("a", "a"),
        Coordinate("a", "b"),
        Coordinate("b", "a"),
    ]


def test_a_coordinate_cannot_be_changed() -> None:
    coordinate = Coordinate("a", "b")
    with pytest.raises(FrozenInstanceError):
        coordinate.entity = "c"  # type: ignore[misc]
    assert not hasattr(coordinate, "__dict__")


@given(st.text(min_size=1, max_size=20).filter(is_legal))
def test_a_coordinate_survives_pickling_and_copying(text: str) -> None:
    coordinate = Coordinate(text, text)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(coordinate, protocol)) == coordinate
    assert copy.deepcopy(coordinate) == coordinate


def test_a_pickle_that_was_tampered_with_is_refused() -> None:
    tampered = pickle.dumps(Coordinate("a:b", "shop")).replace(b"a:b", b"a/b")
    with pytest.raises(InvalidCoordinateError):
        pickle.loads(tampered)


def test_text_of_a_subclass_is_kept_as_plain_text() -> None:
    class Shop(StrEnum):
        NORTH = "shop:north"

    coordinate = Coordinate(Shop.NORTH, Shop.NORTH)
    assert type(coordinate.entity) is str
    assert type(check_text("entity", Shop.NORTH)) is str
    assert str(coordinate) == "shop:north@shop:north"
