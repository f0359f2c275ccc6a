"""A look at a store from outside, beside whoever writes to it."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from batpak.check import opened_store
from batpak.config import StoreConfig
from batpak.errors import BatpakError
from batpak.read_only import ReadOnlyStore
from batpak.reports import NamedPlace, Overview
from batpak.storage import place_file
from batpak.storage.holder import lock_holder
from batpak.storage.mend import FOLDER
from batpak.storage.opening import adopt_runs
from batpak.storage.seam import TEMPORARY_PREFIX
from batpak.storage.survey import survey

if TYPE_CHECKING:
    from batpak.clock import Clock
    from batpak.storage.files import Files


def look_over(directory: str | os.PathLike[str], *, config: StoreConfig | None = None) -> Overview:
    """Say what the store in *directory* holds, how far it has come, and who uses it.

    The lag of a place costs as much as listing the events that it is behind by. Raises `InvalidDirectoryError` where
    there is no store, and whatever opening it read-only raises.
    """
    config = config or StoreConfig()
    with closing(opened_store(directory)) as files, ReadOnlyStore.open(directory, config=config) as store:
        found = survey(files, lambda: bytes(16))
        runs, _ = adopt_runs(files, found)
        holder = lock_holder(files)
        names = [name for name in files.list(place_file.FOLDER) if name.endswith(place_file.SUFFIX)]
        places = [
            _place(files, store, config.clock, found.catalog.store_id, f"{place_file.FOLDER}/{name}")
            for name in names
            if not name.startswith(TEMPORARY_PREFIX)
        ]
        return Overview(
            directory=files.directory,
            formats=tuple(sorted({meta.version for meta in found.catalog.metas()})),
            stats=store.stats(),
            index_runs=len(runs),
            indexed_events=sum(run.count for run in runs),
            places=tuple(sorted(places, key=lambda place: (place.name is not None, place.name or ""))),
            quarantine=tuple(f"{FOLDER}/{name}" for name in files.list(FOLDER)),
            notes=tuple(found.notes),
            holder=None if holder is None else _said(holder.pid, holder.host, holder.since),
            held=None if holder is None else holder.alive,
        )


def _place(files: Files, store: ReadOnlyStore, clock: Clock, store_id: bytes, file: str) -> NamedPlace:
    """Return what is known of one named place, with its lag."""
    try:
        head, slot = place_file.decode(file, files.read_bytes(file, place_file.MAX_BYTES))
    except FileNotFoundError:
        return NamedPlace(None, None, None, 0, 0.0, file, "the file has just been removed")
    except BatpakError as error:
        return NamedPlace(None, None, None, 0, 0.0, file, str(error))
    if head.store_id != store_id:
        return NamedPlace(head.name, head.region, None, 0, 0.0, file, "the file belongs to another store")
    after = None if slot.place is None else slot.place.global_sequence
    behind = store.query(head.region, after=after)
    seconds = max(0.0, clock.now_us() / 1e6 - behind[0].wall_ms / 1e3) if behind else 0.0
    return NamedPlace(head.name, head.region, slot.place, len(behind), seconds, file, None)


def _said(pid: int | None, host: str | None, since: str | None) -> str:
    """Say who holds the lock, as far as it is known."""
    on = f" on {host}" if host else ""
    return f"process {'unknown' if pid is None else pid}{on}" + (f" since {since}" if since else "")
