"""What both tables in SQLite share: how the file is opened, and how its log gets into the state of every day."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from benchmarks.events import Item, make_items

CACHE_KIB = 65_536
"""Of pages; SQLite's own 2 MiB would cost reads a system call each."""

LOG_PAGES = 1_100
"""A little more than the pages after which SQLite moves its log into the table."""

PAGES_OF_AN_APPEND = 3
"""At least as many does a commit of one event write."""


def connect(directory: Path, *, durable: bool) -> sqlite3.Connection:
    """Open or make the file of a table, in WAL mode.

    *durable* waits for an fsync at each commit. Without it a commit survives the death of the process, and a power
    cut takes what came since the last checkpoint.
    """
    directory.mkdir(parents=True, exist_ok=True)
    table = sqlite3.connect(directory / "events.db", isolation_level=None, check_same_thread=False)
    table.execute("PRAGMA journal_mode=WAL")
    table.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    table.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    return table


class SqliteTable:
    """A file with one table; calls from several threads take turns."""

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self._turn = threading.Lock()
        self.table = connect(directory, durable=durable)

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Open or make the table in *directory*."""
        return cls(directory, durable=durable)

    def close(self) -> None:
        """Close the file; SQLite moves what stands in its log into the table."""
        self.table.close()

    def settle(self) -> None:
        """Have the log at its full length, to be written over from its start."""
        recycle_log(self.table, self.append)

    def append(self, item: Item) -> object:
        """Store one event."""
        raise NotImplementedError


def recycle_log(table: sqlite3.Connection, append: Callable[[Item], object]) -> None:
    """Append until the log has reached its full length, then have it written over from its start.

    The first pass over a new log makes its file grow, which costs each fsync a journal entry of the file system; a
    table that has been in use for a second is past that.
    """
    (synchronous,) = table.execute("PRAGMA synchronous").fetchone()
    table.execute("PRAGMA synchronous=OFF")
    for item in make_items(0, LOG_PAGES // PAGES_OF_AN_APPEND):
        append(item)
    table.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    table.execute(f"PRAGMA synchronous={synchronous}")
