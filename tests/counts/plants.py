"""What may creep into an append, put in on purpose: each has to be found by the figure that is about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

KEPT: list[object] = []
"""What a planted append does not let go of."""


def _beside_each_append(extra: Callable[[Any], object]) -> None:
    """Have *extra* happen before each append of any store."""
    from batpak import Store

    real = Store.append

    def append(store: Store, *arguments: Any, **options: Any) -> Any:
        extra(store)
        return real(store, *arguments, **options)

    Store.append = append  # type: ignore[assignment, method-assign]


def _lock() -> None:
    from batpak.actors.mailbox import new_lock

    lock = new_lock()

    def take(_: object) -> None:
        with lock:
            pass

    _beside_each_append(take)


def _write() -> None:
    from batpak.storage.open_files import RealWriteFile

    real = RealWriteFile.pwrite

    def pwrite(file: Any, data: Any, offset: int) -> int:
        real(file, data, offset)
        return real(file, data, offset)

    RealWriteFile.pwrite = pwrite  # type: ignore[assignment, method-assign]


def _sync() -> None:
    def sync(store: Any) -> None:
        file = store._system.writer.journal.written.file
        if file is not None:
            file.sync_data()

    _beside_each_append(sync)


def _object() -> None:
    from batpak import operation_key

    _beside_each_append(lambda _: KEPT.append(operation_key("made by batpak's own code")))


def _call() -> None:
    from batpak import EventKind

    _beside_each_append(lambda _: EventKind(category=0x1, type_id=0x001))


def _draw() -> None:
    import os

    _beside_each_append(lambda _: os.urandom(8))


PLANTS = {
    "an extra lock": _lock,
    "a frame written twice": _write,
    "an extra fsync": _sync,
    "an object kept": _object,
    "an extra call": _call,
    "an extra draw": _draw,
}
