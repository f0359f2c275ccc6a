"""The events that every contender stores: five fields, about 80 bytes packed, spread over 1,000 entities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

ENTITIES = 1_000
SCOPE = "shop"
KIND = 0x1001

Fields: TypeAlias = dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Item:
    """One event to be stored."""

    entity: str
    payload: Fields


def make_items(first: int, count: int) -> list[Item]:
    """Return the events with the numbers *first* to *first + count - 1*; the same number gives the same event."""
    return [
        Item(
            entity=f"order:{number * 7919 % ENTITIES}",
            payload={
                "order_id": number,
                "customer": f"customer-{number % 4096:04d}",
                "total": number % 10_000 / 100,
                "currency": "EUR",
                "status": "placed" if number % 3 else "paid",
            },
        )
        for number in range(first, first + count)
    ]
