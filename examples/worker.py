"""A worker process: it answers every order with an invoice, logs lines of JSON, and ends cleanly when it is told to.

    python examples/worker.py --journal DIRECTORY --orders 20

With `--orders` it plays the shop as well: another thread places sample orders, and the worker ends when it has caught
up with them. Without, it works until SIGTERM or SIGINT: Ctrl-C, `docker stop`, `systemctl stop`. Kill it as hard as
you like and start it again: each order has one invoice. One of the sample orders cannot be answered; it is set aside.
"""

from __future__ import annotations

import argparse
import logging
import signal
import tempfile
from pathlib import Path
from threading import Thread

import structlog

from batpak import (
    Coordinate,
    EventKind,
    OnError,
    Reactions,
    Receipt,
    Region,
    Store,
    StoreClosedError,
    StoredEvent,
    Worker,
)

PLACED = EventKind(category=0x1, type_id=0x001)
INVOICED = EventKind(category=0x2, type_id=0x001)
SCOPE = "shop"
NAME = "invoices"
TAX_PERCENT = 19
SAMPLE_ORDERS = 10
IMPOSSIBLE_ORDER = 4
CATCH_UP_SECONDS = 600.0

log = structlog.get_logger("shop")


def main() -> None:
    """Work on the journal that the command line names, or on a temporary one."""
    parser = argparse.ArgumentParser(description="Answer orders with invoices.")
    parser.add_argument("--journal", type=Path, help="the directory to work in; a temporary one by default")
    parser.add_argument("--orders", type=int, help="place so many sample orders, and end when they are answered")
    arguments = parser.parse_args()
    log_json_lines()
    if arguments.journal is not None:
        work(arguments.journal, arguments.orders or 0)
    else:
        with tempfile.TemporaryDirectory() as directory:
            work(Path(directory), arguments.orders or SAMPLE_ORDERS)


def log_json_lines() -> None:
    """Have structlog write each line as JSON; the store's own lines and ours look alike."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


def work(directory: Path, orders: int) -> None:
    """Run the worker until it is told to stop, or has caught up with *orders* sample orders."""
    shop: Thread | None = None
    with Store.open(directory) as store:
        # What fails is tried three times and then parked: one bad order does not keep the others waiting.
        on_error = OnError.retry(3, wait_seconds=0.05, then=OnError.park)
        worker = store.react_loop(Region(kind=PLACED), invoice, name=NAME, on_error=on_error)

        # A signal only asks. The worker ends behind the order that it is at; then `join` returns, and the block ends.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())

        if orders:
            shop = Thread(target=place_orders, args=(store, worker, orders), name="shop")
            shop.start()
        worker.join()
        for parked in store.parked(NAME):
            log.warning("order.parked", event_id=str(parked.event_id), error=parked.error, attempts=parked.attempts)
    if shop is not None:
        shop.join()


def invoice(event: StoredEvent, reactions: Reactions) -> None:
    """Answer one order.

    What is appended here is written when this returns, as one batch, once: after a crash too. What this does besides,
    such as sending a letter, may happen again after a crash.
    """
    match event.payload:
        case {"number": int(number), "cents": int(cents)} if cents > 0:
            due = cents * (100 + TAX_PERCENT) // 100
            reactions.append(Coordinate(f"invoice:{number}", SCOPE), INVOICED, {"order": number, "cents": due})
            log.info("order.answered", order=number, cents=due)
        case _:
            raise ValueError("found an order without a number or a price, expected both")


def place_orders(store: Store, worker: Worker, count: int) -> None:
    """Place orders, wait until all are answered, and send the worker home."""
    try:
        placed = [place_order(store, number) for number in range(1, count + 1)]
        store.wait_for(NAME, placed[-1].global_sequence, CATCH_UP_SECONDS)
        log.info("orders.answered", orders=count)
    except StoreClosedError:
        log.info("orders.interrupted", orders=count)  # a signal came first
    finally:
        worker.stop()


def place_order(store: Store, number: int) -> Receipt:
    """Place a sample order, unless an earlier run has: its key says that it is the same one."""
    return store.append(
        Coordinate(f"order:{number}", SCOPE),
        PLACED,
        {"number": number, "cents": 0 if number == IMPOSSIBLE_ORDER else 100 * number},
        idempotency_key=f"sample-order-{number}",
    )


if __name__ == "__main__":
    main()
