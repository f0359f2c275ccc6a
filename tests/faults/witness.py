"""A store whose actors are stepped by hand, so that each of its calls has a number; and what it has promised."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from traceback import extract_stack
from typing import Final, Literal

from batpak import BatpakError, Cursor, NewEvent, Region, Store, StoreClosedError, StoreConfig
from batpak.storage.files import Files
from batpak.testing.clock import HandClock
from batpak.testing.stepped import SteppedDrivers
from tests.faults.program import EVERYTHING, PLACED, coordinate, number_of

STEPS: Final = 12
GARBAGE: Final = bytes(range(1, 100))


class Witness:
    """Works in three lives: the second is killed in a write, so that the third has something to mend.

    *opener* opens the directory for a life. *written* and *durable* are the numbers of the events that were
    acknowledged; *refused* those of calls that may be made again.
    """

    def __init__(self, opener: Callable[[], Files], segment_format: Literal[1, 2]) -> None:
        self._opener = opener
        self._config = StoreConfig(
            driver="stepped", segment_format=segment_format, segment_bytes=4096, clock=HandClock(), sync_every_events=7
        )
        self._number = 0
        self.written: list[int] = []
        self.durable: list[int] = []
        self.refused: list[int] = []
        self.errors: list[BatpakError] = []
        self.life = 0
        self.state = "ok"
        """What the store of the last life said of itself when it had worked."""

    def live(self) -> None:
        """Work, three times."""
        for self.life in range(3):
            self.work(killed=self.life == 1)

    def work(self, *, killed: bool = False) -> None:
        """Open, work and close; a refused open is tried once more."""
        drivers = SteppedDrivers()
        store = self._open(drivers)
        if store is None:
            return
        try:
            self._work(store, drivers)
            self.state = store.diagnostics().state
        except BaseException:
            end(store)
            raise
        if killed:
            leave(store)
        else:
            with self._noting():
                store.close()
            end(store)

    def promised(self) -> list[int]:
        """Return the numbers of the events that have to be there now."""
        return self.written

    def _open(self, drivers: SteppedDrivers) -> Store | None:
        for _ in range(2):
            files = None
            try:
                files = self._opener()
                return Store(files, self._config, drivers)
            except BatpakError as error:
                self.errors.append(error)
                if files is not None:
                    files.close()
        return None

    def _work(self, store: Store, drivers: SteppedDrivers) -> None:
        cursor: Cursor | None = None
        for step in range(STEPS):
            self.append(store, 3 if step % 4 == 2 else 1, durable=step % 3 == 1)
            with self._noting():
                cursor = cursor or store.cursor(Region(entity="order"), name="place")
                cursor.poll_batch(2)
                cursor.commit()
            with self._noting():
                found = [number_of(event) for event in store.read(EVERYTHING)]
                missing = set(self.promised()) - set(found)
                assert not missing, f"{sorted(missing)} were acknowledged and are not read"
            for actor in ("index", "writer"):
                while drivers.step(actor):
                    pass

    def append(self, store: Store, count: int, *, durable: bool) -> None:
        """Append so many events by one call."""
        numbers = list(range(self._number, self._number + count))
        self._number += count
        items = [NewEvent(coordinate(n), PLACED, {"n": n, "text": "x" * 500}) for n in numbers]
        try:
            receipts = store.append_batch(items, durable=durable)
        except BatpakError as error:
            self.errors.append(error)
            if error.retryable:
                self.refused += numbers
            return
        self.written += numbers
        if all(receipt.durable for receipt in receipts):
            self.durable += numbers

    def _noting(self) -> _Noting:
        return _Noting(self.errors)

    def check(self, opener: Callable[[], Files] | None = None) -> None:
        """Open the directory that was left, or another, and hold it against the promises."""
        with Store(
            (opener or self._opener)(), StoreConfig(driver="stepped", clock=HandClock()), SteppedDrivers()
        ) as store:
            found = [number_of(event) for event in store.read(EVERYTHING)]
            assert found == sorted(set(found)), "the order in which they were issued, each once"
            missing = set(self.promised()) - set(found)
            assert not missing, f"{sorted(missing)} are missing"
            assert not set(self.refused) & set(found), "what was refused is not there"
            assert store.verify_chain().intact


class _Noting:
    """Notes the typed error that ends its block."""

    def __init__(self, errors: list[BatpakError]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, BatpakError):
            self._errors.append(error)
            return True
        return False


def leave(store: Store) -> None:
    """End a store as a kill in the middle of a write would."""
    written = store._system.writer.journal.written
    with suppress(OSError):
        if written.file is not None:
            written.file.pwrite(GARBAGE, written.offset)
    end(store)


def end(store: Store) -> None:
    """Let go of everything; nothing is finished by this."""
    store._system.stop()
    store._end()
    store._closed = StoreClosedError


def site() -> str:
    """Return where in the library this is called from, innermost first."""
    stack = [frame for frame in extract_stack() if "/batpak/" in frame.filename and "/testing/" not in frame.filename]
    names = [f"{frame.filename.rpartition('/')[2][:-3]}.{frame.name}" for frame in reversed(stack)]
    return " < ".join([name for name in names if not name.startswith(("files.", "open_files."))][:3])
