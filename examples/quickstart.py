"""Append, read, follow causes, retry safely: the whole idea in one page.

Run it anywhere; it makes its journal in a temporary directory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from batpak import (
    NO_STREAM,
    Coordinate,
    EventKind,
    NewEvent,
    Region,
    SequenceConflictError,
    Store,
    operation_key,
)

PLACED = EventKind(category=0x1, type_id=0x001)
PAID = EventKind(category=0x1, type_id=0x002)
SHIPPED = EventKind(category=0x1, type_id=0x003)


def main() -> None:
    """Tell the story of two orders."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "journal"
        write(directory)
        read(directory)


def write(directory: Path) -> None:
    """Append single events, a caused one, a retry, a conflict and a batch."""
    order = Coordinate("order:42", "shop")
    with Store.open(directory) as store:
        # A receipt means written and visible; durable=True waits for the disk as well.
        placed = store.append(order, PLACED, {"total": 10}, expected_sequence=NO_STREAM, durable=True)
        print(f"placed: sequence {placed.sequence}, durable {placed.durable}")

        # The payment carries the order's correlation, and names the order as its cause. With a key it can be
        # retried without fear: the second call is answered with the first receipt.
        key = operation_key("payment", "order:42", "attempt-1")
        event = store.get(placed.event_id)
        paid = store.append_reaction(
            Coordinate("payment:42", "shop"), PAID, {"by": "card"}, cause=event, idempotency_key=key
        )
        again = store.append_reaction(
            Coordinate("payment:42", "shop"), PAID, {"by": "card"}, cause=event, idempotency_key=key
        )
        print(f"paid: {paid.event_id == again.event_id}, the second time a duplicate: {again.duplicate}")

        # Somebody else was faster: nothing is written.
        try:
            store.append(order, SHIPPED, {}, expected_sequence=NO_STREAM)
        except SequenceConflictError as error:
            print(f"conflict: {error.entity} stands at {error.actual}")

        # All of a batch, or none of it, for readers and across crashes.
        store.append_batch(
            [
                NewEvent(Coordinate("order:43", "shop"), PLACED, {"total": 25}),
                NewEvent(Coordinate("order:43:parcel:1", "shop"), SHIPPED, {}, caused_by=0),
                NewEvent(Coordinate("order:43:parcel:2", "shop"), SHIPPED, {}, caused_by=0),
            ]
        )


def read(directory: Path) -> None:
    """Open the journal again and ask it."""
    with Store.open(directory) as store:
        for found in store.read(Region(entity="order")):  # order, and everything below order:
            print(f"{found.global_sequence} {found.coordinate} {found.kind.value:#06x} {found.payload}")

        newest = store.latest("order:42")
        print(f"order:42 stands at {newest.sequence if newest else None}")
        first = store.query(Region(entity="order:42"), limit=1)[0]
        print(f"what the order caused: {[effect.coordinate.entity for effect in store.effects(first.event_id)]}")
        report = store.verify_chain()
        print(f"{report.events_checked} events checked, intact: {report.intact}")


if __name__ == "__main__":
    main()
