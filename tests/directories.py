"""Whole directories as data: put into memory, taken out again, altered, opened, and read to the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from batpak import Region, Store, StoreConfig
from batpak.read_only import ReadOnlyStore
from batpak.reading import Reading
from batpak.testing.memory import MemoryFiles

FOLDERS = ("index", "quarantine", "cursors")
EVERYTHING = Region(include_system=True)

Content = dict[str, bytes]


def load(folder: Path) -> Content:
    """Return what a real directory holds, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def directory(content: Mapping[str, bytes]) -> MemoryFiles:
    """Return a directory in memory with that content."""
    files = MemoryFiles()
    for name, data in content.items():
        if "/" in name:
            files.make_folder(name.split("/", maxsplit=1)[0])
        with closing(files.create(name)) as file:
            file.pwrite(data, 0)
            file.sync()
    for folder in ("", *FOLDERS):
        if not folder or files.exists(folder):
            files.sync_folder(folder)
    return files


def content(files: MemoryFiles) -> Content:
    """Return what a directory in memory holds, by name; who holds its lock is left out."""
    names = [name for name in files.list() if not name.startswith(".batpak")]
    names += [f"{folder}/{name}" for folder in FOLDERS for name in files.list(folder)]
    return {name: files.read_bytes(name, 1 << 30) for name in names}


def segments(held: Mapping[str, bytes]) -> list[str]:
    """Return the names of the segments, in order."""
    return sorted(name for name in held if name.endswith(".fbat"))


def flipped(data: bytes, bit: int) -> bytes:
    """Return *data* with one bit changed."""
    changed = bytearray(data)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


def opened(held: Mapping[str, bytes] | MemoryFiles, config: StoreConfig | None = None) -> Store:
    """Open a directory for writing."""
    return Store(held.beside() if isinstance(held, MemoryFiles) else directory(held), config or StoreConfig())


def looked_at(held: Mapping[str, bytes] | MemoryFiles) -> ReadOnlyStore:
    """Open a directory read-only."""
    return ReadOnlyStore(held.beside() if isinstance(held, MemoryFiles) else directory(held), StoreConfig())


def shown(store: Reading) -> list[tuple[Any, ...]]:
    """Return everything that reads tell of every event, in global order."""
    return [
        (event.entry, event.timestamp_us, event.raw, event.prev_hash, event.event_hash, event.content_hash)
        for event in store.read(EVERYTHING)
    ]


def answers(store: Reading) -> Iterator[tuple[str, Any]]:
    """Yield the answers of every kind of read, by question; they must agree with one another."""
    events = list(store.read(EVERYTHING))
    yield "read", shown(store)
    yield "read backwards", [event.entry for event in store.read(EVERYTHING, reverse=True)]
    yield "query", store.query(EVERYTHING)
    yield "get", [store.get(event.event_id).entry for event in events]
    for entity in sorted({event.coordinate.entity for event in events}):
        yield f"stream {entity}", store.stream(entity)
        yield f"latest {entity}", store.latest(entity)
    for kind in sorted({event.kind.value for event in events}):
        region = Region(kind=next(event.kind for event in events if event.kind.value == kind), include_system=True)
        yield f"kind {kind}", store.query(region)
    for scope in sorted({event.coordinate.scope for event in events}):
        yield f"scope {scope}", store.query(Region(scope=scope, include_system=True))
    yield "effects", [[each.event_id for each in store.effects(event.event_id)] for event in events]
    yield "verify", store.verify_chain()
