"""What came of an item of a flight: a receipt, the receipts of a batch, or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batpak.receipt import Receipt, durable_receipt

if TYPE_CHECKING:
    from batpak.actors.messages import Outcome


def last_sequence(outcome: Outcome) -> int:
    """Return the highest global sequence that an outcome speaks of."""
    match outcome:
        case Receipt():
            return outcome.global_sequence
        case list():
            return max(receipt.global_sequence for receipt in outcome)
        case _:
            return -1


def made_durable(outcome: Outcome) -> Outcome:
    """Return an outcome that an fsync has covered."""
    match outcome:
        case Receipt():
            return durable_receipt(outcome)
        case list():
            return [durable_receipt(receipt) for receipt in outcome]
        case _:
            return outcome
