"""A program that uses a store in every way and tells what it was promised; it is what the faults strike.

What it tells are lists, in the order of its calls, so that whoever hears them knows what must be there afterwards:

::

    ["opening"]                   the store is about to be opened
    ["try", numbers]              the events with these numbers are about to be written by one call
    ["ack", numbers, durable]     that call gave receipts
    ["refused", numbers, error]   that call raised a typed error, or answered "nothing" to an open that failed
    ["placing", sequence]         a cursor is about to commit behind this global sequence, and
    ["placed", sequence]          has done so
    ["error", call, error, errno] any other call raised a typed error
    ["unread", error]             a read raised a typed error
    ["missing", numbers]          a read did not show what was acknowledged: never
    ["untyped", call, trace]      a call raised what is no error of ours: never
    ["slow", call, seconds]       a call took longer than five seconds: never
    ["poisoned"]                  the writer takes nothing any more
    ["end"]                       everything is closed
"""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Lock
from time import monotonic
from typing import Any, Literal, TypeVar

from batpak import (
    BatpakError,
    Coordinate,
    Cursor,
    EventKind,
    NewEvent,
    Receipt,
    Region,
    Store,
    StoreConfig,
    StoredEvent,
)
from batpak.actors import index
from batpak.errors import WriterFailedError

PLACED = EventKind(0x1, 0x001)
EVERYTHING = Region(include_system=True)
NAME = "place"
SLOW_SECONDS = 5.0
STEPS = 8
ENTITIES = 3
MAX_REST_SECONDS = 0.02
T = TypeVar("T")
Tell = Callable[[list[Any]], None]


@dataclass(frozen=True)
class Life:
    """What the program does: *opens* times it opens the store, works and closes; *first* is its first number."""

    seed: int
    segment_format: Literal[1, 2]
    opens: int = 2
    first: int = 0
    leaves: bool = False
    """Whether it ends in the middle, without closing anything."""

    @property
    def config(self) -> StoreConfig:
        """Small segments, and syncs by every way there is."""
        return StoreConfig(
            segment_format=self.segment_format, segment_bytes=4096, sync_every_events=9, sync_every_seconds=0.02
        )


def hurry() -> None:
    """Let the index write after a few events, and try again soon what failed."""
    index.RUN_EVENTS = 6  # type: ignore[misc] # in this process alone
    index.CLOSE_EVENTS = 1  # type: ignore[misc]
    index.RETRY_SECONDS = 0.02  # type: ignore[misc]


def coordinate(number: int) -> Coordinate:
    """Return where the event with this number goes."""
    return Coordinate(f"order:{number % ENTITIES}", "shop")


def number_of(event: StoredEvent) -> int:
    """Return the number in an event's payload."""
    payload: Any = event.payload
    number: int = payload["n"]
    return number


def key(number: int) -> str:
    """Return the idempotency key of the event with this number."""
    return f"key:{number}"


class Program:
    """One life of the program in *directory*."""

    def __init__(self, directory: Path, life: Life, tell: Tell) -> None:
        self._directory = directory
        self._life = life
        self._tell = tell
        self._random = Random(life.seed)
        self._next = life.first
        self._acknowledged: set[int] = set()
        self._store: Store | None = None
        self._cursor: Cursor | None = None

    def run(self) -> None:
        """Live."""
        hurry()
        for _ in range(self._life.opens):
            self._open()
            store = self._store
            if store is None:
                continue
            for number in range(STEPS):
                if self._life.leaves and number == STEPS * 3 // 4:
                    self._append(store, 1)
                    return
                self._step(store, number)
            self._close(store)
            store = self._store = None
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join(SLOW_SECONDS)
        gc.collect()  # an exception that was caught may still hold a store in its traceback
        self._tell(["end"])

    def call(self, name: str, act: Callable[[], T]) -> T | None:
        """Run *act*; a typed error is told, and gives None."""
        begun = monotonic()
        try:
            return act()
        except BatpakError as error:
            self._tell(["error", name, type(error).__name__, getattr(error, "errno", None)])
            if isinstance(error, WriterFailedError):
                self._tell(["poisoned"])
        except BaseException:
            self._tell(["untyped", name, traceback.format_exc()])
        finally:
            took = monotonic() - begun
            if took > SLOW_SECONDS:
                self._tell(["slow", name, took])
        return None

    def _open(self) -> None:
        """Open the store; where that fails, once more."""
        for _ in range(2):
            self._tell(["opening"])
            self._store = self.call("open", lambda: Store.open(self._directory, config=self._life.config))
            if self._store is not None:
                return

    def _close(self, store: Store) -> None:
        """Close the store, with or without the cursor before it."""
        if self._cursor is not None and self._random.random() < 0.5:
            self.call("close cursor", self._cursor.close)
        self.call("close", store.close)
        self._cursor = self._store = None

    def _step(self, store: Store, number: int) -> None:
        """Do one thing."""
        what = self._random.choices(("one", "batch", "cursor", "sync", "rest", "look"), (8, 3, 3, 1, 2, 1))[0]
        match what:
            case "one" | "batch":
                self._append(store, 1 if what == "one" else self._random.randrange(2, 5))
            case "cursor":
                self._commit(store)
            case "sync":
                self.call("sync", store.sync)
            case "rest":
                rest(store)
            case _:
                self.call("places", store.places)
                self.call("stats", store.stats)
                self.call("verify", store.verify_chain)
                self._read(store)

    def _append(self, store: Store, count: int) -> None:
        """Append some events, whole or not at all."""
        numbers = list(range(self._next, self._next + count))
        self._next += count
        durable = self._random.random() < 0.4
        text = "x" * self._random.choice((10, 300, 900))
        self._tell(["try", numbers])
        failed: list[str] = []

        def write() -> list[Receipt]:
            try:
                if count > 1:
                    items = [NewEvent(coordinate(n), PLACED, {"n": n, "text": text}) for n in numbers]
                    return store.append_batch(items, durable=durable)
                n = numbers[0]
                payload: Any = {"n": n, "text": text}
                return [store.append(coordinate(n), PLACED, payload, durable=durable, idempotency_key=key(n))]
            except BatpakError as error:
                failed.append(type(error).__name__)
                raise

        receipts = self.call("append", write)
        if receipts is None:
            self._tell(["refused", numbers, failed[0] if failed else "untyped"])
            self._read(store)
            return
        self._tell(["ack", numbers, all(receipt.durable for receipt in receipts)])
        self._acknowledged.update(numbers)

    def _commit(self, store: Store) -> None:
        """Take a few events and commit the place behind them."""
        if self._cursor is None:
            self._cursor = self.call("cursor", lambda: store.cursor(Region(entity="order"), name=NAME))
        cursor = self._cursor
        if cursor is None:
            return
        events = self.call("poll", lambda: cursor.poll_batch(3))
        if not events:
            return
        self._tell(["placing", events[-1].global_sequence])

        def commit() -> bool:
            cursor.commit()
            return True

        if self.call("commit", commit):
            self._tell(["placed", events[-1].global_sequence])

    def _read(self, store: Store) -> None:
        """Read everything: all that was acknowledged is shown, in order."""
        found: list[int] = []
        try:
            found = [number_of(event) for event in store.read(EVERYTHING)]
        except BatpakError as error:
            self._tell(["unread", type(error).__name__])
            return
        except BaseException:
            self._tell(["untyped", "read", traceback.format_exc()])
            return
        missing = sorted(self._acknowledged - set(found))
        if missing or found != sorted(set(found)):
            self._tell(["missing", missing])


def rest(store: Store) -> None:
    """Let the actors' threads do what they have to, within reason: faults may keep them from it."""
    writer, journal = store._system.writer, store._system.writer.journal
    pause = Lock()
    pause.acquire()
    give_up = monotonic() + MAX_REST_SECONDS
    while monotonic() < give_up and (journal.needs_care or store._system.index._job or len(store._view().parts) > 3):
        with suppress(BatpakError):
            writer.failure  # noqa: B018
        pause.acquire(timeout=0.001)
