"""Workers to test: handlers that keep what they are handed and fail when told to, and ways to look at what they did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeAlias

import structlog

from batpak import OnError, Receipt, Region, Store, StoredEvent, Worker
from tests.store.journals import ORDER, PATIENCE_SECONDS, PLACED, Loose, Task

Lines: TypeAlias = list[dict[str, Any]]

ORDERS = Region(kind=PLACED)
NAME = "mailer"


class Handler:
    """Keeps the payloads of each batch that it is handed, and does what *act* does."""

    def __init__(self, act: Callable[[list[Any]], Loose] = lambda batch: None) -> None:
        self.batches: list[list[Any]] = []
        self._act = act

    def __call__(self, events: list[StoredEvent]) -> Loose:
        batch = [event.payload for event in events]
        self.batches.append(batch)
        return self._act(batch)

    @property
    def seen(self) -> list[Any]:
        return [payload for batch in self.batches for payload in batch]


class FailedError(Exception):
    """What handlers here fail with."""


def failing_at(*payloads: object, times: int = 1000) -> Callable[[list[Any]], None]:
    """Return what raises when it is handed one of *payloads*, so many times."""
    left = times

    def act(batch: list[Any]) -> None:
        nonlocal left
        if left and any(payload in payloads for payload in batch):
            left -= 1
            raise FailedError

    return act


def place_orders(store: Store, *payloads: Loose) -> list[Receipt]:
    return [store.append(ORDER, PLACED, payload) for payload in payloads]


def caught_up(store: Store, name: str = NAME) -> None:
    """Wait until that worker has committed all there is by now."""
    store.wait_for(name, store.stats().visible_sequence, PATIENCE_SECONDS)


def committed(store: Store, name: str = NAME) -> int | None:
    """Return the global sequence that is committed under *name*."""
    (place,) = [each.place for each in store.places() if each.name == name]
    return None if place is None else place.global_sequence


def ended(worker: Worker) -> None:
    assert worker.join(PATIENCE_SECONDS), f"{worker!r} does not end"


def error_of(worker: Worker) -> BaseException:
    """Return the error that ended *worker*."""
    return Task(lambda: ended(worker)).error()


def park_at(store: Store, *bad: object, **options: Loose) -> Handler:
    """Run a worker over what there is, which sets *bad* payloads aside."""
    handler = Handler(failing_at(*bad))
    with store.cursor_worker(ORDERS, handler, name=NAME, **{"on_error": OnError.park, **options}):
        caught_up(store)
    return handler


@contextmanager
def logged() -> Iterator[Lines]:
    """Collect what is logged meanwhile, at debug."""
    lines: Lines = []

    def keep(_: object, level: str, fields: MutableMapping[str, Any]) -> NoReturn:
        lines.append({"level": level, **fields})
        raise structlog.DropEvent

    structlog.configure(processors=[keep], cache_logger_on_first_use=False)
    try:
        yield lines
    finally:
        structlog.reset_defaults()


def of(lines: Lines, *actors: str) -> Lines:
    """Return the lines that say something of *actors*."""
    return [line for line in lines if line["event"].startswith(actors)]
