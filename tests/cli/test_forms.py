"""How payloads, events and reports look as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgpack
import pytest

from batpak import Anchor, Coordinate, EventKind, NewEvent, Place, Region, Store, StoreConfig
from batpak.cli.forms import counted, event_form, event_line, moment, payload_form, report_form, size
from batpak.testing.memory import MemoryFiles

HASH = bytes(range(32))


@pytest.mark.parametrize(
    ("payload", "form"),
    [
        (None, None),
        (True, True),
        (1, 1),
        (2**53 - 1, 2**53 - 1),
        (2**53, {"$int": "9007199254740992"}),
        (-(2**63), {"$int": "-9223372036854775808"}),
        (2**64 - 1, {"$int": "18446744073709551615"}),
        (1.5, 1.5),
        (float("nan"), {"$float": "nan"}),
        (float("-inf"), {"$float": "-inf"}),
        ("text", "text"),
        (b"\0\xff", {"$bytes": "AP8="}),
        (datetime(2026, 1, 2, 3, 4, 5, 6, UTC), {"$time": "2026-01-02T03:04:05.000006+00:00"}),
        (msgpack.Timestamp(2**40, 7), {"$timestamp": [2**40, 7]}),
        (msgpack.ExtType(5, b"ab"), {"$ext": [5, "YWI="]}),
        ([1, b"", (2,)], [1, {"$bytes": ""}, [2]]),
        ({"a": {"b": [None]}}, {"a": {"b": [None]}}),
        ({1: "x", None: b""}, {"$map": [[1, "x"], [None, {"$bytes": ""}]]}),
        ({"$bytes": "AP8="}, {"$map": [["$bytes", "AP8="]]}),
        ({"a": 1, "$x": 2}, {"$map": [["a", 1], ["$x", 2]]}),
        ({}, {}),
    ],
)
def test_a_payload_has_one_form_that_tells_it_from_every_other(payload: Any, form: Any) -> None:
    assert payload_form(payload) == form
    json.dumps(payload_form(payload), allow_nan=False)


def test_an_event_has_all_that_the_index_and_the_frame_know() -> None:
    with Store(MemoryFiles(), StoreConfig()) as store:
        first, second = store.append_batch(
            [
                NewEvent(Coordinate("order:1", "shop"), EventKind(1, 1), {"total": 10}),
                NewEvent(Coordinate("order:1", "shop"), EventKind(1, 2), {"by": "card"}, caused_by=0),
            ]
        )
        event = store.get(second.event_id)
    form = event_form(event, payload=True)
    assert form == {
        "global_sequence": 1,
        "event_id": str(second.event_id),
        "entity": "order:1",
        "scope": "shop",
        "sequence": 1,
        "kind": "0x1002",
        "time": moment(event.timestamp_us),
        "correlation_id": str(event.correlation_id),
        "causation_id": str(first.event_id),
        "flags": 0,
        "place": str(second.place),
        "payload_bytes": 9,
        "payload": {"by": "card"},
    }
    assert event_form(event, payload=False) == {name: part for name, part in form.items() if name != "payload"}
    line = event_line(event, payload=True)
    assert line == f"     1  {moment(event.timestamp_us)}  order:1@shop  #1  0x1002  " + '{"by": "card"}'


def test_times_are_in_utc_and_one_that_no_calendar_has_is_a_number() -> None:
    zoned = datetime(2026, 1, 2, 3, 4, 5, 600_000, timezone(timedelta(hours=2)))
    assert moment(int(zoned.timestamp() * 1e6)) == "2026-01-02T01:04:05.600Z"
    assert moment(2**62) == f"{2**62} us"


def test_reports_are_told_field_by_field() -> None:
    assert report_form((Place(3, HASH), UUID(int=1), EventKind(1, 2), {1: [None, 2.5]})) == [
        str(Place(3, HASH)),
        str(UUID(int=1)),
        "0x1002",
        {"1": [None, 2.5]},
    ]
    assert report_form(Anchor(0, None, HASH)) == str(Anchor(0, None, HASH))
    assert report_form(Region(entity="order", kind=EventKind(1, 1), sequences=(0, 3))) == {
        "entity": "order",
        "kind": "0x1001",
        "sequences": [0, 3],
    }


def test_numbers_for_people() -> None:
    assert [counted(1, "event"), counted(12345, "event")] == ["1 event", "12,345 events"]
    assert [size(0), size(1023), size(1536), size(5 << 20), size(3 << 40)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5.0 MiB",
        "3072.0 GiB",
    ]
