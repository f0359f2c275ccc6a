"""``demo``: a small journal to look at, made by the calls that any program makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batpak.cli.screen import CANNOT, complain, leave, say, typed_errors
from batpak.coordinate import Coordinate
from batpak.event import NewEvent
from batpak.kind import EventKind
from batpak.region import Region
from batpak.store import Store

if TYPE_CHECKING:
    from batpak.delivery.reactor import Reactions
    from batpak.event import StoredEvent

ORDERS: Final = 100
PLACED: Final = EventKind(category=0x1, type_id=0x001)
PAID: Final = EventKind(category=0x1, type_id=0x002)
SHIPPED: Final = EventKind(category=0x1, type_id=0x003)
INVOICED: Final = EventKind(category=0x2, type_id=0x001)
GOODS: Final = ("lamp", "chair", "teapot", "kite", "clock", "drum", "globe")


def make(directory: str) -> None:
    """Make a journal of a shop: orders, what became of them, and invoices that a reactor writes."""
    with typed_errors(directory), Store.open(directory) as store:
        if store.stats().events:
            complain(f"{directory}: found a store with events, expected a new or an empty directory")
            leave(CANNOT)
        with store.react_loop(Region(kind=PLACED), _invoice, name="invoices"):
            for number in range(ORDERS):
                _order(store, number)
            last = store.stats().visible_sequence
            store.wait_for("invoices", last, timeout_seconds=60)
        looked = store.cursor(Region(scope="shop"), name="stock")
        looked.poll_batch(ORDERS)
        looked.commit()
        looked.close()
        store.sync()
        stats = store.stats()
    say(f"{stats.events:,} events of {ORDERS} orders are in {directory}. Try:")
    for command in (
        f"batpak info {directory}",
        f"batpak log {directory} --entity order:42 --payload",
        f"batpak log {directory} --scope billing --limit 3 --reverse --payload --json",
        f"batpak tail {directory} --after 0        (Ctrl-C ends it)",
        f"batpak verify {directory} --anchor $(batpak anchor {directory})",
        f"batpak recover {directory} --dry-run",
    ):
        say(f"  {command}")


def _order(store: Store, number: int) -> None:
    """Append what happens to one order: placed and paid together, shipped later, because of that."""
    order = Coordinate(f"order:{number}", "shop")
    total = 5 + number * 37 % 90
    items = [
        NewEvent(
            order, PLACED, {"item": GOODS[number % len(GOODS)], "total": total}, idempotency_key=f"place:{number}"
        ),
        NewEvent(order, PAID, {"by": "card" if number % 3 else "cash"}, idempotency_key=f"pay:{number}", caused_by=0),
    ]
    paid = store.append_batch(items)[-1]
    if number % 4:
        store.append_reaction(order, SHIPPED, {"parcels": 1 + number % 2}, cause=paid)


def _invoice(order: StoredEvent, reactions: Reactions) -> None:
    """Write an invoice for an order."""
    entity = f"invoice:{order.coordinate.entity.partition(':')[2]}"
    reactions.append(Coordinate(entity, "billing"), INVOICED, {"for": order.payload})
