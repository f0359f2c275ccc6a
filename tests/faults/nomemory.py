"""A program in which one allocation of a store's life fails; it prints how each life came out, as JSON.

By turns it is one of everything that a store without threads does, its opening included, and one behind the opening of
a store that has them: `Thread.start` of CPython waits for ever for a thread that had no memory to begin.

python -m tests.faults.nomemory DIRECTORY FIRST STOP STEP
"""

from __future__ import annotations

import _testcapi  # type: ignore[import-not-found]
import faulthandler
import gc
import json
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from batpak import BatpakError, NewEvent, Store, StoreConfig
from batpak.storage.files import RealFiles
from batpak.testing.stepped import SteppedDrivers
from tests.faults.program import EVERYTHING, PLACED, coordinate, hurry, number_of

HANGS_SECONDS = 20


class Life:
    """Opens, writes, reads and closes a store; *acknowledged* are the numbers of its events."""

    def __init__(self, directory: Path, segment_format: Literal[1, 2], *, threads: bool) -> None:
        self.directory = directory
        self.threads = threads
        self.config = StoreConfig(
            segment_format=segment_format,
            segment_bytes=4096,
            sync_every_seconds=3600,
            driver="assisted" if threads else "stepped",
        )
        self.acknowledged: list[int] = []
        self.errors: list[str] = []
        self.store: Store | None = None

    def live(self, at: int | None) -> None:
        """Do everything once, the allocation numbered *at* failing; what fails as it may is passed over."""
        if self.threads:
            self.open()
        try:
            if at is not None:
                _testcapi.set_nomemory(at, at + 1)
            self.attempt(self.work)
        finally:
            _testcapi.remove_mem_hooks()
        if self.store is not None:
            self.attempt(self.store.close)
            self.store = None

    def work(self) -> None:
        """Open the store, unless it is, and use it."""
        if self.store is None:
            self.attempt(self.open)
        store = self.store
        if store is None:
            return
        for number in range(0, 16, 2):
            numbers = [number] if number % 4 else [number, number + 1]
            self.attempt(partial(self.append, store, numbers))
            self.attempt(partial(self.read, store))
        self.attempt(store.close)

    def open(self) -> None:
        """Open the store."""
        if self.threads:
            self.store = Store.open(self.directory, config=self.config)
        else:
            self.store = Store(RealFiles.open(self.directory, create=True), self.config, SteppedDrivers())

    def read(self, store: Store) -> None:
        """Read everything."""
        for _ in store.read(EVERYTHING):
            pass

    def append(self, store: Store, numbers: list[int]) -> None:
        """Append these events, whole or not at all."""
        items = [NewEvent(coordinate(n), PLACED, {"n": n, "text": "x" * 1500}) for n in numbers]
        store.append_batch(items, durable=True)
        self.acknowledged += numbers

    def attempt(self, act: Callable[[], object]) -> None:
        """Run *act*, which may fail for a lack of memory."""
        try:
            act()
        except (MemoryError, BatpakError) as error:
            self.errors.append(type(error).__name__)
        except SystemError as error:  # what CPython makes of it where it has no memory for the MemoryError
            assert "without setting an exception" in str(error)  # noqa: PT017 - few raise it
            self.errors.append("MemoryError")

    def check(self) -> None:
        """The store opens, and holds what was acknowledged."""
        with Store.open(self.directory) as store:
            found = [number_of(event) for event in store.read(EVERYTHING)]
            assert found == sorted(set(found))
            assert set(self.acknowledged) <= set(found), f"{self.acknowledged} were acknowledged, there is {found}"
            assert store.verify_chain().intact


def main() -> None:
    directory, *numbers = sys.argv[1:]
    hurry()
    warnings.simplefilter("ignore")
    sys.unraisablehook = id
    outcomes: Counter[str] = Counter()
    for number in range(2):
        Life(Path(directory) / f"unharmed-{number}", 2, threads=number > 0).live(None)
    for at in range(*map(int, numbers)):
        faulthandler.dump_traceback_later(HANGS_SECONDS, exit=True)
        chosen: Literal[1, 2] = 1 if at // 7 % 4 > 1 else 2
        life = Life(Path(directory) / f"{at}", chosen, threads=at % 2 > 0)
        try:
            life.live(at)
        except MemoryError:  # in this program itself
            life.errors.append("MemoryError")
        gc.collect()
        try:
            life.check()
        except BaseException as error:
            error.add_note(f"allocation {at}: {life.errors}")
            raise
        alive = [thread.name for thread in threading.enumerate() if thread.name.startswith("batpak")]
        assert not alive, f"allocation {at}: {alive} are left running"
        outcomes[life.errors[0] if life.errors else "unnoticed"] += 1
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(outcomes))  # noqa: T201


if __name__ == "__main__":
    main()
