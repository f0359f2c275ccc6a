"""Four and eight threads that append at once, written and durable."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path

from benchmarks.case import Bound, Case, Figures
from benchmarks.events import Item, make_items
from benchmarks.rivals import Rival
from benchmarks.sizes import Sizes
from benchmarks.timing import gaps, latency_lines, new_store, stamped, told

NAMES = ("batpak", "fair SQLite", "fair SQLite actor", "plain SQLite", "plain SQLite actor")
PATIENCE_SECONDS = 120.0
GOALS_WRITTEN = {4: 2.5, 8: 2.0}
"""How many times the fair table's rate, by the number of threads."""


def cases(sizes: Sizes, scratch: Path) -> list[Case]:
    """Return what several threads do."""
    found = []
    for threads, goal in GOALS_WRITTEN.items():
        rate = [Bound("floor", "fair SQLite", least=1.5), Bound("goal", "fair SQLite", least=goal)]
        found.append(
            Case(
                f"{threads} threads, written",
                latency_lines(rate=rate, p99=[Bound("goal", most=1_000)]),
                {name: partial(from_threads, name, threads, sizes, scratch) for name in NAMES},
            )
        )
    for threads in GOALS_WRITTEN:
        rate = [Bound("floor", "fair SQLite", least=1.5), Bound("goal", "fair SQLite actor", least=1.15)]
        found.append(
            Case(
                f"{threads} threads, durable",
                latency_lines(rate=rate, p99=[Bound("goal", most=1_500)]),
                {name: partial(from_threads, name, threads, sizes, scratch, durable=True) for name in NAMES},
            )
        )
    return found


def from_threads(name: str, threads: int, sizes: Sizes, scratch: Path, *, durable: bool = False) -> Figures:
    """Append from so many threads at once; the rate of all, and how long one append took."""
    items = make_items(sizes.warm_up, sizes.durable_from_threads if durable else sizes.from_threads)
    with new_store(name, scratch, sizes.warm_up, durable=durable) as store:
        working = time.process_time()
        moments = _run(store, [items[number::threads] for number in range(threads)])
        working = time.process_time() - working
    latencies = [latency for stamps in moments for latency in gaps(stamps)]
    return told(latencies, max(stamps[-1] for stamps in moments) - min(stamps[0] for stamps in moments), working)


def _run(store: Rival[object], shares: list[list[Item]]) -> list[list[float]]:
    """Have a thread append each share; the moments between the appends of each."""
    together = threading.Barrier(len(shares), timeout=PATIENCE_SECONDS)
    moments: list[list[float]] = []

    def work(share: list[Item]) -> None:
        together.wait()
        moments.append(stamped(store.append, share))

    workers = [threading.Thread(target=work, args=(share,), daemon=True) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE_SECONDS)
    if len(moments) != len(shares):
        raise RuntimeError(f"found {len(moments)} threads that appended all, expected {len(shares)}")
    return moments
