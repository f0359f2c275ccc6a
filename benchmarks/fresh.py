"""What only a fresh process can tell: how long an open takes, what stays in memory, what a kill leaves.

    python -m benchmarks.fresh open "fair SQLite" DIRECTORY ID TIMES
    python -m benchmarks.fresh kill batpak DIRECTORY FIRST COUNT
    python -m benchmarks.fresh tail DIRECTORY keyed
    python -m benchmarks.fresh runs DIRECTORY

Each prints one JSON object, but for the one that kills itself.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID, uuid4

from batpak import Coordinate, Region, Store
from benchmarks.case import US, Figures
from benchmarks.events import Item, make_items
from benchmarks.rivals import Rival, load
from benchmarks.rivals.ours import EVENT_KINDS

MIB = 1 << 20
READS = 2_000
CHUNK_ROWS = 1_024
"""The tail of the index takes memory for so many events at once."""

TAIL_ROWS = 6 * CHUNK_ROWS
"""Events whose memory is measured, from one full chunk to another; a tail of so many is not yet written out."""


def ask(*arguments: object) -> Figures:
    """Have a process of its own measure, and return the figures that it prints."""
    ended = _ended(arguments)
    if ended.returncode:
        raise RuntimeError(f"found exit status {ended.returncode}, expected figures: {ended.stderr}")
    figures: dict[str, float] = json.loads(ended.stdout)
    return figures


def kill(name: str, directory: Path, first: int, count: int) -> None:
    """Have a process append one by one and kill itself behind the last acknowledgement."""
    ended = _ended(("kill", name, directory, first, count))
    if ended.returncode != -signal.SIGKILL:
        raise RuntimeError(f"found exit status {ended.returncode}, expected a kill: {ended.stderr}")


def _ended(arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.fresh", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, text=True)


def id_text(event_id: object) -> str:
    """Return an id, of whichever rival, as the command takes it."""
    if isinstance(event_id, UUID):
        return event_id.hex
    if isinstance(event_id, bytes):
        return event_id.hex()
    raise TypeError(f"found an id of type {type(event_id).__name__}, expected UUID or bytes")


def _id_of(name: str, text: str) -> object:
    return UUID(text) if name == US else bytes.fromhex(text)


def _open(name: str, directory: str, event_id: str, times: str) -> Figures:
    """Open, read one event, close: the median of each, and the memory of the first open and read."""
    rival, path, wanted = load(name), Path(directory), _id_of(name, event_id)
    log = path / "events.db-wal"
    read_again = log.stat().st_size if log.exists() else 0
    opens, closes, memory = [], [], 0
    for number in range(int(times)):
        gc.collect()
        before = _resident("VmRSS")
        started = time.perf_counter()
        store = rival.open(path)
        store.get(wanted)
        opens.append(time.perf_counter() - started)
        if not number:
            memory = _resident("VmRSS") - before
            read_again = _read_again(store, read_again)
        started = time.perf_counter()
        store.close()
        closes.append(time.perf_counter() - started)
    return {
        "open": statistics.median(opens) * 1e3,
        "close": statistics.median(closes) * 1e3,
        "memory": memory / MIB,
        "read again": read_again / MIB,
    }


def _read_again(store: Rival[object], otherwise: int) -> int:
    """Return how many bytes of events this open had to read to know them."""
    ours = getattr(store, "store", None)
    return ours.diagnostics().open_report.tail_bytes if isinstance(ours, Store) else otherwise


def _kill(name: str, directory: str, first: str, count: str) -> Figures:
    """Append and die."""
    store = load(name).open(Path(directory))
    for item in make_items(int(first), int(count)):
        store.append(item)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process outlived SIGKILL")


def _tail(directory: str, keyed: str) -> Figures:
    """Append to a new store: bytes an event that stay allocated, entities and scopes being known before."""
    items = make_items(0, CHUNK_ROWS + TAIL_ROWS)
    tracemalloc.start()  # now: memory that was taken before it is not seen when it is given back
    with Store.open(directory) as store:
        _append(store, items[:CHUNK_ROWS], keyed=keyed == "keyed")
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        _append(store, items[CHUNK_ROWS:], keyed=keyed == "keyed")
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    return {"bytes": grown / TAIL_ROWS}


def _append(store: Store, items: Sequence[Item], *, keyed: bool) -> None:
    for item in items:
        store.append(
            Coordinate(item.entity, item.scope),
            EVENT_KINDS[item.kind],
            item.payload,
            idempotency_key=uuid4() if keyed else None,
        )


def _runs(directory: str) -> Figures:
    """Open a store and read here and there: bytes an event that it takes, apart from files that are mapped."""
    gc.collect()
    before = _resident("RssAnon")
    with Store.open(directory) as store:
        count = store.stats().events
        for at in random.Random(1).sample(range(count - 1), READS):
            for entry in store.query(Region(entity="order"), after=at - 1, limit=1):
                store.get(entry.event_id)
        gc.collect()
        grown = _resident("RssAnon") - before
    return {"bytes": grown / count}


def _resident(field: str) -> int:
    """Return a field of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"found no {field} in /proc/self/status")


COMMANDS: dict[str, Callable[..., Figures]] = {"open": _open, "kill": _kill, "tail": _tail, "runs": _runs}


if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])))
