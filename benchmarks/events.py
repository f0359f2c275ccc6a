"""The events that every contender stores: five fields, about 80 bytes packed, spread over 1,000 entities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

ENTITIES = 1_000
SCOPE = "shop"
KIND = 0x1001
SCOPES = (SCOPE, "shop:east", "shop:north", "shop:west")
KINDS = (KIND, 0x1002, 0x1003, 0x1004)

Fields: TypeAlias = dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Item:
    """One event to be stored."""

    entity: str
    payload: Fields
    scope: str = SCOPE
    kind: int = KIND


def make_items(first: int, count: int, entities: int = ENTITIES) -> list[Item]:
    """Return the events with the numbers *first* to *first + count - 1*; the same number gives the same event.

    Each entity stays in one of four scopes; the four kinds take turns within it.
    """
    return [_make_item(number, number * 7919 % entities, number // entities) for number in range(first, first + count)]


def entity_name(number: int) -> str:
    """Return the name of the entity with this number."""
    return f"order:{number}"


def _make_item(number: int, entity: int, turn: int) -> Item:
    return Item(
        entity=entity_name(entity),
        payload={
            "order_id": number,
            "customer": f"customer-{number % 4096:04d}",
            "total": number % 10_000 / 100,
            "currency": "EUR",
            "status": "placed" if number % 3 else "paid",
        },
        scope=SCOPES[entity % len(SCOPES)],
        kind=KINDS[(turn + entity // len(SCOPES)) % len(KINDS)],
    )
