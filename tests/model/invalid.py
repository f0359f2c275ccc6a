"""What no store can accept, call by call, and the error that says so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batpak.config import RestartPolicy, StoreConfig
from batpak.coordinate import Coordinate
from batpak.errors import (
    BatpakError,
    EventNotFoundError,
    InvalidConfigError,
    InvalidCoordinateError,
    InvalidDirectoryError,
    InvalidKindError,
    InvalidRegionError,
    InvalidRequestError,
    PayloadError,
    ReservedKindError,
    TooLargeError,
)
from batpak.event import NewEvent
from batpak.kind import EventKind
from batpak.receipt import Anchor, Receipt
from batpak.region import Region
from batpak.store import Store

if TYPE_CHECKING:
    from tests.model.world import World

Call = Callable[["World"], object]
HERE = Coordinate("a", "s")
KIND = EventKind(1, 1)
WRONG: Any = object()


def _appended(**given: object) -> Call:
    arguments: dict[str, Any] = {"coordinate": HERE, "kind": KIND, "payload": 1} | given
    return lambda world: world.live.append(**arguments)


def _batch(*items: object) -> Call:
    given: list[Any] = list(items)
    return lambda world: world.live.append_batch(given)


def _item(**given: object) -> NewEvent:
    arguments: dict[str, Any] = {"coordinate": HERE, "kind": KIND, "payload": 1} | given
    return NewEvent(**arguments)


def _always(call: Callable[[], object]) -> Call:
    """Make *call*, which needs no store."""
    return lambda _world: call()


def _coordinate(entity: str, scope: str) -> Call:
    return lambda world: world.live.append(Coordinate(entity, scope), KIND, 1)


def _at_item(index: int, call: Call) -> Call:
    """Make *call*, whose error has to name the item."""

    def checked(world: World) -> object:
        with pytest.raises(InvalidRequestError) as caught:
            call(world)
        assert caught.value.item_index == index
        raise caught.value

    return checked


def _deep() -> object:
    value: object = 1
    for _ in range(1100):
        value = [value]
    return value


def _lost_receipt(world: World) -> Receipt:
    return Receipt(world.uuid(), 0, 0, bytes(32), durable=True, duplicate=False)


_REQUESTS: list[tuple[str, Call]] = [
    ("append", _appended(coordinate="a@s")),
    ("append", _appended(kind=0x1001)),
    ("append", _appended(expected_sequence=-2)),
    ("append", _appended(expected_sequence=2**32)),
    ("append", _appended(expected_sequence=True)),
    ("append", _appended(idempotency_key="")),
    ("append", _appended(idempotency_key=5)),
    ("append", _appended(correlation_id="x")),
    ("append", _appended(causation_id=b"x" * 16)),
    ("append", _appended(flags=256)),
    ("append", _appended(flags="x")),
    ("append", _appended(durable=1)),
    ("append", _appended(max_wait_seconds=-1)),
    ("append", _appended(max_wait_seconds="1")),
    ("append_reaction", lambda world: world.live.append_reaction(HERE, KIND, 1, cause=WRONG)),
    ("append_batch", _at_item(1, _batch(_item(), "item"))),
    ("append_batch", _at_item(1, _batch(_item(idempotency_key="k"), _item()))),
    ("append_batch", _at_item(1, _batch(_item(idempotency_key="k"), _item(idempotency_key="k")))),
    ("append_batch", _at_item(0, _batch(_item(caused_by=0)))),
    ("append_batch", _at_item(1, _batch(_item(), _item(caused_by=-1)))),
    ("append_batch", _at_item(1, _batch(_item(), _item(expected_sequence="x")))),
    ("append_batch", lambda world: _item(caused_by=0, causation_id=world.uuid())),
    ("append_batch", lambda world: world.live.append_batch([_item()], durable="yes")),  # type: ignore[arg-type]
    ("get", lambda world: world.live.get("id")),  # type: ignore[arg-type]
    ("get_many", lambda world: world.live.get_many([5])),  # type: ignore[list-item]
    ("read", lambda world: world.live.read("order")),  # type: ignore[arg-type]
    ("read", lambda world: world.live.read(limit=-1)),
    ("query", lambda world: world.live.query("order")),  # type: ignore[arg-type]
    ("query", lambda world: world.live.query(Region(), after="x")),  # type: ignore[arg-type]
    ("query", lambda world: world.live.query(Region(), after=True)),
    ("query", lambda world: world.live.query(Region(), limit=1.5)),  # type: ignore[arg-type]
    ("stream", lambda world: world.live.stream("a", limit=-1)),
    ("stream", lambda world: world.live.stream("a", after_sequence="x")),  # type: ignore[arg-type]
    ("read_stream", lambda world: world.live.read_stream("a", after_sequence=1.5)),  # type: ignore[arg-type]
    ("by_scope", lambda world: world.live.by_scope(None)),  # type: ignore[arg-type]
    ("by_fact", lambda world: world.live.by_fact(None)),  # type: ignore[arg-type]
    ("place_at", lambda world: world.live.place_at(datetime(2024, 1, 1))),  # noqa: DTZ001
    ("place_at", lambda world: world.live.place_at("now")),  # type: ignore[arg-type]
    ("walk_ancestors", lambda world: world.live.walk_ancestors(world.uuid(), limit=-1)),
    ("causes", lambda world: world.live.causes(world.event_id(world.model), depth=-1)),
    ("effects", lambda world: world.live.effects(world.event_id(world.model), limit=-1)),
    ("verify_chain", lambda world: world.live.verify_chain("order")),  # type: ignore[arg-type]
    ("verify_chain", lambda world: world.live.verify_chain(anchor="0.x")),  # type: ignore[arg-type]
    ("verify_chain", lambda world: world.live.verify_chain(Region(entity="a"), anchor=Anchor(0, None, bytes(32)))),
]

_OTHERS: dict[type[BatpakError], list[tuple[str, Call]]] = {
    InvalidCoordinateError: [
        ("append", _coordinate(entity, scope))
        for entity, scope in (("", "s"), ("a", "a/b"), ("a..b", "s"), ("a\0", "s"), ("é" * 513, "s"), ("\ud800", "s"))
    ]
    + [
        ("stream", lambda world: world.live.stream(WRONG)),
        ("read_stream", lambda world: world.live.read_stream(WRONG)),
        ("latest", lambda world: world.live.latest("")),
    ],
    InvalidKindError: [
        ("append", lambda world: world.live.append(HERE, EventKind(16, 0), 1)),
        ("append", lambda world: world.live.append(HERE, EventKind(1, 4096), 1)),
        ("by_fact", lambda world: world.live.by_fact(EventKind.from_value(1 << 16))),
    ],
    ReservedKindError: [
        ("append", _appended(kind=EventKind(0, 5))),
        ("append", _appended(kind=EventKind(0xD, 1))),
        ("append_batch", _at_item(1, _batch(_item(), _item(kind=EventKind(0, 0))))),
    ],
    InvalidRegionError: [
        ("query", lambda world: world.live.query(Region(entity=""))),
        ("query", lambda world: world.live.query(Region(category=16))),
        ("read", lambda world: world.live.read(Region(sequences=(3, 2)))),
        ("by_scope", lambda world: world.live.by_scope("a/b")),
        ("verify_chain", lambda world: world.live.verify_chain(Region(correlation_id=WRONG))),
    ],
    InvalidConfigError: [
        ("open", lambda world: Store(world.disk.beside(), StoreConfig(segment_bytes=10))),
        ("open", _always(lambda: StoreConfig(driver="other"))),  # type: ignore[arg-type]
        ("open", _always(lambda: StoreConfig(restart=RestartPolicy(-1)))),
    ],
    PayloadError: [
        ("append", _appended(payload=WRONG)),
        ("append", _appended(payload=2**64)),
        ("append", _appended(payload={"at": datetime(2024, 1, 1)})),  # noqa: DTZ001
        ("append", _appended(payload=["\ud800"])),
        ("append", _appended(payload=_deep())),
        ("append_batch", _at_item(1, _batch(_item(), _item(payload={1, 2})))),
    ],
    TooLargeError: [
        ("append", _appended(payload=bytes(6000))),
        ("append_batch", _at_item(1, _batch(_item(), _item(payload=bytes(6000))))),
        ("append_batch", _batch(*[_item()] * 9)),
        ("append_batch", _batch(*[_item(payload=bytes(5000))] * 3)),
    ],
    EventNotFoundError: [
        ("append_reaction", lambda world: world.live.append_reaction(HERE, KIND, 1, cause=_lost_receipt(world))),
    ],
    InvalidDirectoryError: [
        ("open", _always(lambda: Store.open(Path(__file__)))),
        ("open_read_only", _always(lambda: Store.open_read_only(Path(__file__).parent / "nothing"))),
    ],
}

INVALID: list[tuple[type[BatpakError], list[tuple[str, Call]]]] = [
    (InvalidRequestError, _REQUESTS),
    (InvalidRequestError, _REQUESTS),
    *_OTHERS.items(),
]
"""By error class, so that each is drawn as often; the general one has most cases and comes twice."""
