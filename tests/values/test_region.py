"""Regions: what each part matches, that parts intersect, and what is refused."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak.coordinate import Coordinate
from batpak.errors import InvalidRegionError
from batpak.kind import SYSTEM_KINDS, EventKind
from batpak.region import Region, is_within

ONE, TWO = UUID(int=1), UUID(int=2)
PLACE = Coordinate("order:42", "shop")


@dataclass(frozen=True)
class Entry:
    coordinate: Coordinate = PLACE
    kind: EventKind = EventKind.DATA
    sequence: int = 5
    correlation_id: UUID = ONE


def test_the_empty_region_matches_everything_that_is_not_hidden() -> None:
    assert Region().matches(Entry())
    assert Region().parts == 0


@pytest.mark.parametrize(
    ("prefix", "entity", "matched"),
    [
        ("order", "order", True),
        ("order", "order:42", True),
        ("order", "order:42:lines", True),
        ("order", "order:", True),
        ("order", "orders", False),
        ("order", "orde", False),
        ("order:42", "order:421", False),
        ("order:42", "order", False),
        ("order", "Order", False),
        ("Straße", "Straße:1", True),
    ],
)
def test_an_entity_part_is_a_namespace(prefix: str, entity: str, matched: bool) -> None:
    assert Region(entity=prefix).matches(Entry(Coordinate(entity, "shop"))) is matched
    assert is_within(prefix, entity) is matched


@given(st.text("ab:", min_size=1, max_size=4), st.text("ab:", min_size=1, max_size=6))
def test_a_namespace_is_its_name_or_its_name_and_a_colon(prefix: str, entity: str) -> None:
    assert is_within(prefix, entity) is (entity == prefix or entity.startswith(prefix + ":"))


@pytest.mark.parametrize(
    ("region", "matched"),
    [
        (Region(scope="shop"), True),
        (Region(scope="sho"), False),
        (Region(kind=EventKind.DATA), True),
        (Region(kind=EventKind(1, 1)), False),
        (Region(category=1), True),
        (Region(category=2), False),
        (Region(category=0), False),
        (Region(sequences=(5, 5)), True),
        (Region(sequences=(0, 5)), True),
        (Region(sequences=(5, 2**32)), True),
        (Region(sequences=(0, 4)), False),
        (Region(sequences=(6, 9)), False),
        (Region(correlation_id=ONE), True),
        (Region(correlation_id=TWO), False),
    ],
)
def test_each_part_decides_alone(region: Region, matched: bool) -> None:
    assert region.matches(Entry()) is matched
    assert region.parts == 1


FULL = Region(
    entity="order",
    scope="shop",
    kind=EventKind.DATA,
    category=1,
    sequences=(5, 5),
    correlation_id=ONE,
    include_system=True,
)


def test_all_parts_together_match_what_each_matches() -> None:
    assert FULL.parts == 6
    assert FULL.matches(Entry())


@pytest.mark.parametrize(
    "entry",
    [
        Entry(coordinate=Coordinate("orders", "shop")),
        Entry(coordinate=Coordinate("order:42", "depot")),
        Entry(kind=EventKind(2, 0)),
        Entry(sequence=4),
        Entry(correlation_id=TWO),
    ],
)
def test_one_part_that_does_not_match_is_enough(entry: Entry) -> None:
    assert not FULL.matches(entry)


@pytest.mark.parametrize("value", sorted(SYSTEM_KINDS))
def test_system_kinds_are_seen_only_when_asked_for(value: int) -> None:
    kind = EventKind.from_value(value)
    entry = Entry(kind=kind)
    assert not Region().matches(entry)
    assert not Region(kind=kind).matches(entry)
    assert not Region(category=0).matches(entry)
    assert Region(include_system=True).matches(entry)
    assert Region(kind=kind, include_system=True).matches(entry)
    assert Region(include_system=True).parts == 0


@pytest.mark.parametrize("value", [0x0000, 0x000A, 0x000F, 0x0011, 0x0FFE, 0xD001])
def test_other_reserved_kinds_are_ordinary_events(value: int) -> None:
    assert Region().matches(Entry(kind=EventKind.from_value(value)))


@pytest.mark.parametrize(
    ("part", "value", "found", "expected"),
    [
        ("entity", "", "no text", "at least one character"),
        ("entity", "a/b", "U+002F at character 1", 'neither "/" nor ".."'),
        ("entity", 5, "a int", "a str"),
        ("entity", "a" * 1025, "1025 bytes of UTF-8", "at most 1024"),
        ("scope", "", "no text", "at least one character"),
        ("scope", "a=b", "U+003D at character 1", 'neither "|" nor "="'),
        ("kind", 0x1000, "4096", "an EventKind"),
        ("kind", "data", "a str", "an EventKind"),
        ("category", -1, "-1", "an int from 0 to 15"),
        ("category", 16, "16", "an int from 0 to 15"),
        ("category", True, "a bool", "an int from 0 to 15"),
        ("sequences", (2, 1), "(2, 1)", "a tuple of two ints, 0 <= first <= last"),
        ("sequences", (-1, 1), "(-1, 1)", "a tuple of two ints, 0 <= first <= last"),
        ("sequences", (1,), "(1,)", "a tuple of two ints, 0 <= first <= last"),
        ("sequences", (1, 2, 3), "(1, 2, 3)", "a tuple of two ints, 0 <= first <= last"),
        ("sequences", [1, 2], "a list", "a tuple of two ints, 0 <= first <= last"),
        ("sequences", (0, True), "a tuple", "a tuple of two ints, 0 <= first <= last"),
        ("sequences", (0, 1.0), "a tuple", "a tuple of two ints, 0 <= first <= last"),
        ("sequences", 5, "5", "a tuple of two ints, 0 <= first <= last"),
        ("correlation_id", b"a" * 16, "a bytes", "a UUID"),
        ("include_system", 1, "1", "a bool"),
        ("include_system", None, "a NoneType", "a bool"),
    ],
)
def test_a_part_that_cannot_match_is_refused(part: str, value: object, found: str, expected: str) -> None:
    change: dict[str, Any] = {part: value}
    with pytest.raises(InvalidRegionError) as caught:
        replace(Region(), **change)
    assert (caught.value.part, caught.value.found, caught.value.expected) == (part, found, expected)


def test_the_limits_are_within() -> None:
    assert Region(category=0).category == 0
    assert Region(category=15).category == 15
    assert Region(sequences=(0, 0)).sequences == (0, 0)
    assert Region(entity="a" * 1024).parts == 1


def test_regions_compare_hash_and_pickle_by_value() -> None:
    again = pickle.loads(pickle.dumps(FULL))
    assert again == FULL
    assert hash(again) == hash(FULL)
    assert Region() != FULL


def test_a_region_cannot_be_changed_and_takes_keywords_only() -> None:
    with pytest.raises(FrozenInstanceError):
        FULL.entity = "x"  # type: ignore[misc]
    assert all(field.kw_only for field in fields(Region))
