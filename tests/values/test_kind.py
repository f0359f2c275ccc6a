"""Event kinds: 16 bits, which of them are reserved, and which are hidden."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from typing import cast

import pytest

from batpak import kind as kinds
from batpak.errors import InvalidKindError
from batpak.kind import SYSTEM_KINDS, EventKind


def test_every_16_bit_number_splits_and_recombines() -> None:
    for value in range(0x10000):
        kind = EventKind.from_value(value)
        assert kind.value == value
        assert (kind.category, kind.type_id) == (value >> 12, value & 0xFFF)


def test_categories_0_and_d_are_reserved_and_no_other() -> None:
    by_category = [EventKind(category, 1) for category in range(16)]
    assert [kind.category for kind in by_category if kind.is_system] == [0x0]
    assert [kind.category for kind in by_category if kind.is_effect] == [0xD]
    assert [kind.category for kind in by_category if kind.is_reserved] == [0x0, 0xD]


def test_the_numbers_that_stand_in_files_never_change() -> None:
    named = (kinds.BATCH_BEGIN, kinds.BATCH_COMMIT, kinds.OPEN_COMPLETED, kinds.CLOSE_COMPLETED)
    assert named == (0x0006, 0x0007, 0x0008, 0x0009)
    assert (kinds.DENIAL, kinds.PARKED, kinds.TOMBSTONE) == (0x000F, 0x0010, 0x0FFE)
    assert frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 0x10}) == SYSTEM_KINDS
    assert EventKind(0x1, 0x000) == EventKind.DATA
    assert EventKind.DATA.value == 0x1000


@pytest.mark.parametrize(("category", "type_id"), [(0, 0), (0xF, 0xFFF)])
def test_the_limits_are_within(category: int, type_id: int) -> None:
    assert EventKind(category, type_id).category == category


@pytest.mark.parametrize(
    ("category", "type_id", "part", "found", "expected"),
    [
        (16, 0, "category", "0x10", "an int from 0x0 to 0xf"),
        (-1, 0, "category", "-0x1", "an int from 0x0 to 0xf"),
        (0, 0x1000, "type_id", "0x1000", "an int from 0x0 to 0xfff"),
        (0, -1, "type_id", "-0x1", "an int from 0x0 to 0xfff"),
        ("1", 0, "category", "str", "an int from 0x0 to 0xf"),
        (True, 0, "category", "bool", "an int from 0x0 to 0xf"),
        (1, 1.0, "type_id", "float", "an int from 0x0 to 0xfff"),
    ],
)
def test_what_does_not_fit_is_refused(category: object, type_id: object, part: str, found: str, expected: str) -> None:
    with pytest.raises(InvalidKindError) as caught:
        EventKind(cast("int", category), cast("int", type_id))
    assert (caught.value.part, caught.value.found, caught.value.expected) == (part, found, expected)


@pytest.mark.parametrize(("value", "found"), [(-1, "-0x1"), (0x10000, "0x10000"), (True, "bool"), ([], "list")])
def test_a_number_outside_16_bits_is_refused(value: object, found: str) -> None:
    with pytest.raises(InvalidKindError) as caught:
        EventKind.from_value(cast("int", value))
    assert (caught.value.part, caught.value.found) == ("value", found)
    assert caught.value.expected == "an int from 0x0 to 0xffff"


def test_a_kind_prints_in_hexadecimal() -> None:
    kind = EventKind(0x1, 0x00A)
    assert str(kind) == "0x100a"
    assert repr(kind) == "EventKind(category=0x1, type_id=0x00a)"


def test_kinds_compare_hash_order_and_pickle_by_value() -> None:
    kind = EventKind(0x1, 0x002)
    assert kind == EventKind.from_value(0x1002)
    assert hash(kind) == hash(EventKind.from_value(0x1002))
    assert EventKind(1, 0xFFF) < EventKind(2, 0)
    assert pickle.loads(pickle.dumps(kind)) == kind


def test_a_kind_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        EventKind.DATA.category = 2  # type: ignore[misc]
