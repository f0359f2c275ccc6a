"""A workload, and the directory as it may be found at every moment of it.

Before each change that it makes to the directory the directory is taken aside in several ways: with all that was
written (a kill), with what was synced alone (the worst power cut), and with a part of the rest, at random, sector by
sector (other power cuts).
"""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

from batpak import Coordinate, EventKind, NewEvent, Receipt, Store, StoreConfig
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.directories import content, shown
from tests.faults.operations import watch
from tests.model.disk import scattered

ORDER, OTHER, PLACED = Coordinate("order:1", "shop"), Coordinate("order:2", "shop"), EventKind(0x1, 0x001)
SCATTERED = 2
Format = Literal[1, 2]


class Moment(NamedTuple):
    """A directory as it may be found, and how many events must be there at least."""

    how: str
    files: MemoryFiles
    acknowledged: int


class History:
    """A workload: the events that were issued, the units that must not be torn, and every moment on the way."""

    def __init__(self, segment_format: Format) -> None:
        self.files = MemoryFiles()
        self.moments: list[Moment] = []
        self.units: set[int] = {0}
        self.written = self.durable = self.issued = 0
        self.events: list[tuple[Any, ...]] = []
        self._random = Random(segment_format)
        self._config = StoreConfig(
            driver="stepped", segment_format=segment_format, segment_bytes=4096, clock=HandClock(), sync_every_events=9
        )
        self._seen: set[int] = set()
        watch(self.files, self._take)
        for life in range(3):
            self._live(life)
        self._take()

    def _take(self) -> None:
        """Take the directory aside, unless it was just so."""
        ways = [("killed", self.files.copy()), ("cut", self.files.crashed())]
        ways += [("scattered", scattered(self.files, self._random)) for _ in range(SCATTERED)]
        for how, files in ways:
            acknowledged = self.written if how == "killed" else self.durable
            state = hash((how == "killed", acknowledged, tuple(sorted(content(files).items()))))
            if state not in self._seen:
                self._seen.add(state)
                self.moments.append(Moment(how, files, acknowledged))

    def _live(self, life: int) -> None:
        drivers = SteppedDrivers()
        store = Store(self.files.beside(), self._config, drivers)

        def rest() -> None:
            while drivers.step("index") or drivers.step("writer"):
                pass

        for number in range(7):
            self._append(store, 1, durable=number == 3)
            if number % 3 == life:
                self._append(store, 3, durable=number == 4)
            rest()
        if life == 1:
            self.durable = store.sync() + 1
        self._append(store, 2)
        rest()
        self.events = shown(store)
        store.close()
        self.durable = self.written

    def _append(self, store: Store, count: int, *, durable: bool = False) -> None:
        """Append one event or a batch; what a receipt promises holds from then on."""
        size = self._random.choice((10, 200, 700))
        self.issued += count
        self.units.add(self.issued)
        if count == 1:
            receipts = [store.append(ORDER, PLACED, "x" * size, durable=durable, idempotency_key=str(self.issued))]
        else:
            items = [NewEvent(OTHER if each % 2 else ORDER, PLACED, "y" * size) for each in range(count)]
            receipts = store.append_batch(items, durable=durable)
        self._acknowledge(receipts)

    def _acknowledge(self, receipts: list[Receipt]) -> None:
        self.written = receipts[-1].global_sequence + 1
        if receipts[-1].durable:
            self.durable = self.written


@cache
def history(segment_format: Format) -> History:
    with patch("batpak.actors.index.RUN_EVENTS", 5), patch("batpak.actors.index.CLOSE_EVENTS", 4):
        return History(segment_format)
