"""What grows with a journal and what does not: the same figures at several sizes.

    python -m benchmarks.growth            10,000, 100,000 and 1,000,000 events
    python -m benchmarks.growth 10000      other sizes

Each size is loaded in batches into a directory of its own, closed, and measured by fresh processes: seconds and
memory of an open and a close, a page of 64 from the middle, a point read, the bytes that an open reads.
"""

from __future__ import annotations

import json
import mmap
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from batpak import Coordinate, EventKind, NewEvent, Region, Store
from batpak.payload import Payload

SIZES = (10_000, 100_000, 1_000_000)
ENTITIES = 1000
BATCH = 500
READS = 2000
PLACED = EventKind(category=0x1, type_id=0x001)


def load(directory: Path, events: int) -> float:
    """Fill a journal; the seconds it took."""
    started = time.perf_counter()
    with Store.open(directory) as store:
        for first in range(0, events, BATCH):
            store.append_batch([_event(number) for number in range(first, min(first + BATCH, events))])
    return time.perf_counter() - started


def _event(number: int) -> NewEvent:
    """Return an event of five fields, about 80 bytes packed."""
    payload: Payload = {
        "order": number,
        "total": number % 997,
        "currency": "EUR",
        "customer": f"customer-{number % 5000}",
        "note": "x" * 24,
    }
    return NewEvent(Coordinate(f"order:{number % ENTITIES}", "shop"), PLACED, payload)


def measure(directory: Path) -> dict[str, float]:
    """Open, read and close one journal; run in a process of its own."""
    memory = _resident_bytes()
    started = time.perf_counter()
    store = Store.open(directory)
    opened = time.perf_counter() - started
    grown = _resident_bytes() - memory
    count = store.stats().events
    rng = random.Random(7)
    middle = count // 2
    pages = []
    for _ in range(200):
        at = middle + rng.randrange(1000) - 500
        started = time.perf_counter()
        page = store.query(Region(entity="order"), after=at, limit=64)
        pages.append(time.perf_counter() - started)
        assert len(page) == 64
    ids = [
        entry.event_id
        for at in rng.sample(range(count - 8), READS // 8)
        for entry in store.query(Region(), after=at, limit=8)
    ]
    points = []
    for event_id in ids:
        started = time.perf_counter()
        store.get(event_id)
        points.append(time.perf_counter() - started)
    started = time.perf_counter()
    store.close()
    closed = time.perf_counter() - started
    return {
        "open_ms": opened * 1e3,
        "open_mib": grown / 2**20,
        "page64_us": statistics.median(pages) * 1e6,
        "get_us": statistics.median(points) * 1e6,
        "close_ms": closed * 1e3,
    }


def _resident_bytes() -> int:
    """Return how much memory of this process is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def main() -> None:
    """Measure every size and print a Markdown table."""
    if len(sys.argv) == 3 and sys.argv[1] == "--measure":
        print(json.dumps(measure(Path(sys.argv[2]))))
        return
    sizes = [int(text) for text in sys.argv[1:]] or list(SIZES)
    print("| events | load s | bytes/event | files | open ms | open MiB | page of 64 us | get us | close ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for events in sizes:
        directory = Path(tempfile.mkdtemp(prefix="batpak-growth-"))
        try:
            seconds = load(directory, events)
            files = [path for path in directory.rglob("*") if path.is_file()]
            size = sum(path.stat().st_size for path in files) / events
            command = [sys.executable, "-m", "benchmarks.growth", "--measure", str(directory)]
            rounds = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(5)]
            cells = [
                _spread([each[name] for each in rounds])
                for name in ("open_ms", "open_mib", "page64_us", "get_us", "close_ms")
            ]
            print(f"| {events:,} | {seconds:.1f} | {size:.0f} | {len(files)} | " + " | ".join(cells) + " |", flush=True)
        finally:
            shutil.rmtree(directory)


def _spread(values: list[float]) -> str:
    """Return the median, with minimum and maximum."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    main()
