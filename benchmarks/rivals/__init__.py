"""Who takes part: batpak, its rivals, and the interface that all of them stand behind.

Each rival has a module of its own, imported when it is asked for, so that one that is not installed is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Protocol, Self, TypeVar, cast

from benchmarks.events import Item

Id = TypeVar("Id")


class Rival(Protocol[Id]):
    """An open event store under measurement; payloads are packed and unpacked inside its calls.

    Not every rival can do everything: what one lacks raises `NotImplementedError`, and no section asks for it.
    """

    HOW: ClassVar[str]

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Open or make the store in *directory*; *durable* makes every append survive a power cut."""
        ...

    def close(self) -> None:
        """Close it, with everything written."""
        ...

    def settle(self) -> None:
        """Bring its files into the state of a store that has run for long; called before the clock starts."""
        ...

    def append(self, item: Item) -> object:
        """Store one event; what comes back is its acknowledgement."""
        ...

    def append_batch(self, items: Sequence[Item]) -> list[Id]:
        """Store all events or none and return their ids."""
        ...

    def get(self, event_id: Id) -> object:
        """Return the decoded payload of one event."""
        ...

    def stream(self, entity: str) -> list[object]:
        """Return the decoded payloads of one entity, in order."""
        ...

    def replay(self) -> int:
        """Decode every payload in global order and return how many there were."""
        ...

    def page(self, part: str, after: int, limit: int) -> Sequence[object]:
        """Return what is known about *limit* events behind global sequence *after*, without payloads.

        *part* names the region: one of `benchmarks.rivals.regions.PARTS`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a rival is found: the class *name* of *module*, which imports the package *needs*."""

    module: str
    name: str
    needs: str | None = None
    distribution: str | None = None


ROSTER = {
    "batpak": Entry("ours", "Batpak"),
    "fair SQLite": Entry("fair", "FairSqlite"),
    "plain SQLite": Entry("plain", "PlainSqlite"),
    "indexed SQLite": Entry("plain", "IndexedSqlite"),
    "fair SQLite actor": Entry("actor", "FairActor"),
    "plain SQLite actor": Entry("actor", "PlainActor"),
    "LMDB": Entry("lmdb_table", "LmdbTable", "lmdb", "lmdb"),
    "rocksdict": Entry("rocks", "Rocks", "rocksdict", "rocksdict"),
    "LMDB put": Entry("lmdb_table", "LmdbPut", "lmdb", "lmdb"),
    "rocksdict put": Entry("rocks", "RocksPut", "rocksdict", "rocksdict"),
    "eventsourcing": Entry("recorder", "Recorder", "eventsourcing", "eventsourcing"),
    "salamander-db": Entry("salamander_log", "SalamanderLog", "salamander", "salamander-db"),
    "raw write": Entry("raw", "RawWrite"),
    "fdatasync": Entry("raw", "RawSync"),
    "growing fdatasync": Entry("raw", "GrowingSync"),
}
"""Every contender that is a store, by the name it has in every table."""


def is_installed(name: str) -> bool:
    """Whether what this rival needs can be imported."""
    needs = ROSTER[name].needs
    return needs is None or find_spec(needs) is not None


def installed(*names: str) -> list[str]:
    """Return those of *names* that can take part, in their order."""
    return [name for name in names if is_installed(name)]


def load(name: str) -> type[Rival[object]]:
    """Return the class of an installed rival; its ids are whatever it hands out."""
    entry = ROSTER[name]
    return cast("type[Rival[object]]", getattr(import_module(f"benchmarks.rivals.{entry.module}"), entry.name))
