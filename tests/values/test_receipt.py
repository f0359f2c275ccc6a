"""Places, receipts and anchors: the tokens, what is refused, and what the values may be used for."""

from __future__ import annotations

import pickle
import re
from dataclasses import FrozenInstanceError, replace
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak.errors import InvalidRequestError
from batpak.receipt import MAX_GLOBAL_SEQUENCE, Anchor, Place, Receipt

HASH = bytes(range(32))
TOKEN = "42.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
RECEIPT = Receipt(UUID(int=1), 42, 7, HASH, durable=True, duplicate=False)

places = st.builds(Place, st.integers(0, MAX_GLOBAL_SEQUENCE), st.binary(min_size=32, max_size=32))


def test_the_token_of_a_place_never_changes() -> None:
    assert str(Place(42, HASH)) == TOKEN
    assert Place.parse(TOKEN) == Place(42, HASH)


@given(places)
def test_a_token_is_short_url_safe_and_gives_its_place_back(place: Place) -> None:
    token = str(place)
    assert re.fullmatch(r"[A-Za-z0-9_.-]{45,64}", token)
    assert Place.parse(token) == place


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "42",
        "42.",
        TOKEN.removeprefix("42"),
        "-" + TOKEN,
        "+" + TOKEN,
        " " + TOKEN,
        TOKEN + " ",
        TOKEN + "\n",
        "0" + TOKEN,
        "4_2" + TOKEN[2:],
        "\u0664" + TOKEN[2:],
        TOKEN[:-1],
        TOKEN[:-1] + "9",
        TOKEN + "A",
        TOKEN + "=",
        TOKEN[:-2] + "+8",
        TOKEN[:-2] + "é8",
        TOKEN.replace("AA", "A*", 1),
        f"{2**64}{TOKEN[2:]}",
        "9" * 5000 + TOKEN[2:],
        5,
        None,
        TOKEN.encode(),
    ],
)
def test_any_other_text_is_refused(token: object) -> None:
    with pytest.raises(InvalidRequestError, match="expected the str"):
        Place.parse(cast("str", token))


@given(st.text(max_size=70))
def test_arbitrary_text_is_refused_by_a_typed_error(token: str) -> None:
    with pytest.raises(InvalidRequestError):
        Place.parse(token)


@pytest.mark.parametrize(
    ("sequence", "event_hash", "message"),
    [
        (-1, HASH, "place's global_sequence: found -1, expected an int from 0 to 18446744073709551615"),
        (2**64, HASH, "place's global_sequence: found 18446744073709551616, expected an int from 0 to 1844"),
        (True, HASH, "place's global_sequence: found a bool, expected an int"),
        ("1", HASH, "place's global_sequence: found a str, expected an int"),
        (1, b"", "place's event_hash: found 0 bytes, expected 32 bytes"),
        (1, HASH + b"a", "place's event_hash: found 33 bytes, expected 32 bytes"),
        (1, "a" * 32, "place's event_hash: found a str, expected 32 bytes"),
    ],
)
def test_what_cannot_be_a_place_is_refused(sequence: object, event_hash: object, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Place(cast("int", sequence), cast("bytes", event_hash))


def test_the_limits_are_within() -> None:
    assert Place(0, HASH).global_sequence == 0
    assert Place.parse(str(Place(MAX_GLOBAL_SEQUENCE, HASH))).global_sequence == MAX_GLOBAL_SEQUENCE


def test_places_compare_hash_order_and_pickle_by_value() -> None:
    assert Place(1, HASH) == Place(1, HASH)
    assert hash(Place(1, HASH)) == hash(Place(1, HASH))
    assert Place(1, HASH) != Place(1, b"b" * 32)
    assert Place(9, HASH) < Place(10, HASH)
    assert pickle.loads(pickle.dumps(Place(1, HASH))) == Place(1, HASH)


def test_a_receipt_knows_its_place() -> None:
    assert RECEIPT.place == Place(42, HASH)


def test_receipts_compare_hash_and_pickle_by_value() -> None:
    again = pickle.loads(pickle.dumps(RECEIPT))
    assert again == RECEIPT
    assert hash(again) == hash(RECEIPT)
    assert replace(RECEIPT, duplicate=True) != RECEIPT


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("global_sequence", -1, "receipt's global_sequence: found -1"),
        ("sequence", -2, "receipt's sequence: found -2"),
        ("event_hash", b"short", "receipt's event_hash: found 5 bytes"),
    ],
)
def test_a_receipt_for_what_cannot_have_been_written_is_refused(field: str, value: object, message: str) -> None:
    change: dict[str, Any] = {field: value}
    with pytest.raises(InvalidRequestError, match=message):
        replace(RECEIPT, **change)


@pytest.mark.parametrize("value", [RECEIPT, RECEIPT.place])
def test_a_receipt_and_a_place_cannot_be_changed(value: Receipt | Place) -> None:
    with pytest.raises(FrozenInstanceError):
        value.global_sequence = 1  # type: ignore[misc]
    assert not hasattr(value, "__dict__")


# Anchors ---------------------------------------------------------------------------------------------------------

ANCHOR = Anchor(43, Place(42, HASH), bytes(reversed(HASH)))
ANCHOR_TOKEN = "43.Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA." + TOKEN
EMPTY = Anchor(0, None, HASH)
EMPTY_TOKEN = "0.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


def test_the_token_of_an_anchor_never_changes() -> None:
    assert (str(ANCHOR), str(EMPTY)) == (ANCHOR_TOKEN, EMPTY_TOKEN)
    assert (Anchor.parse(ANCHOR_TOKEN), Anchor.parse(EMPTY_TOKEN)) == (ANCHOR, EMPTY)


@given(places, st.integers(1, MAX_GLOBAL_SEQUENCE), st.binary(min_size=32, max_size=32))
def test_a_token_gives_its_anchor_back(place: Place, events: int, digest: bytes) -> None:
    token = str(Anchor(events, place, digest))
    assert re.fullmatch(r"[A-Za-z0-9_.-]{90,129}", token)
    assert Anchor.parse(token) == Anchor(events, place, digest)


@pytest.mark.parametrize(
    "token",
    [
        "",
        TOKEN,
        ANCHOR_TOKEN[:-1],
        ANCHOR_TOKEN + "A",
        ANCHOR_TOKEN + "\n",
        "0" + ANCHOR_TOKEN,
        "0" + ANCHOR_TOKEN[2:],
        EMPTY_TOKEN + ".",
        "1" + EMPTY_TOKEN[1:],
        ANCHOR_TOKEN.replace("Hx4d", "H*4d"),
        ANCHOR_TOKEN.replace("QA.", "QB."),
        f"{2**64}{ANCHOR_TOKEN[2:]}",
        "9" * 5000 + ANCHOR_TOKEN[2:],
        5,
        None,
        ANCHOR_TOKEN.encode(),
    ],
)
def test_any_other_text_is_no_anchor(token: object) -> None:
    with pytest.raises(InvalidRequestError, match="expected the str\\(\\) of an Anchor"):
        Anchor.parse(cast("str", token))


@given(st.text(alphabet="0123456789.AQ_-=", max_size=140))
def test_text_of_the_right_letters_is_refused_by_a_typed_error(token: str) -> None:
    with pytest.raises(InvalidRequestError):
        Anchor.parse(token)


@pytest.mark.parametrize(
    ("events", "place", "digest", "message"),
    [
        (-1, None, HASH, "anchor's events: found -1"),
        (True, None, HASH, "anchor's events: found a bool"),
        (0, Place(0, HASH), HASH, "with 0 events"),
        (1, None, HASH, "with 1 events"),
        (1, TOKEN, HASH, "expected a Place"),
        (1, Place(0, HASH), HASH[1:], "anchor's digest: found 31 bytes"),
        (1, Place(0, HASH), "x", "anchor's digest: found a str"),
    ],
)
def test_what_cannot_be_an_anchor_is_refused(events: Any, place: Any, digest: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Anchor(events, place, digest)


def test_an_anchor_is_a_frozen_value() -> None:
    with pytest.raises(FrozenInstanceError):
        ANCHOR.events = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(ANCHOR)) == ANCHOR
    assert {ANCHOR, Anchor.parse(ANCHOR_TOKEN)} == {ANCHOR}
