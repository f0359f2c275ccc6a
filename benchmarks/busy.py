"""Single calls while two other threads are busy in pure Python, as the requests of a web app are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from random import Random
from threading import Thread
from typing import Final, TypeAlias, TypeVar

from benchmarks.case import US, Bound, Case, Figures, Line
from benchmarks.events import make_items
from benchmarks.loops import ASYNCIO, run
from benchmarks.reads import SEED, Filled
from benchmarks.rivals import installed
from benchmarks.sizes import Sizes
from benchmarks.tasks import ACTORS, Append, by_actor, on_loop, ours
from benchmarks.timing import MEAN, P50, P99, gaps, new_store, told

T = TypeVar("T")

BUSY_THREADS: Final = 2
TICK: Final = 1_000
OFFLOADED: Final = f"{US}, offloaded"
NOTES: Final = {OFFLOADED: "`await append` as it comes, which goes by a thread; `batpak` has `append_on_loop` set"}
"""What the contenders are that have no module of their own."""

Appending: TypeAlias = Callable[[object], AbstractAsyncContextManager[Append]]


def cases(sizes: Sizes, scratch: Path) -> list[Case]:
    """Return what is done beside busy threads."""
    names = installed(US, "fair SQLite", "plain SQLite", "LMDB", "rocksdict")
    filled = {name: Filled(name, sizes, scratch / "filled") for name in names}
    awaited: dict[str, tuple[str, Appending]] = {US: (US, on_loop), OFFLOADED: (US, ours)}
    awaited |= {name: (name, by_actor) for name in ACTORS}
    beside = f"beside {BUSY_THREADS} busy threads"
    return [
        Case(f"append, {beside}", _lines(), {name: partial(appends, name, sizes, scratch) for name in names}),
        Case(f"point read, {beside}", _lines(), {name: partial(reads, of, sizes) for name, of in filled.items()}),
        Case(
            f"await append, {beside}",
            _lines(),
            {
                name: partial(awaited_appends, of, appending, sizes, scratch)
                for name, (of, appending) in awaited.items()
            },
        ),
    ]


def _lines() -> list[Line]:
    """Return the lines of a case; the bounds compare with what the same contender takes where nobody is busy."""
    mean = [Bound("floor", US, most=10, at=f"{MEAN}, quiet"), Bound("goal", US, most=4, at=f"{MEAN}, quiet")]
    p99 = [Bound("goal", US, most=5, at=f"{P99}, quiet")]
    of = {MEAN: mean, P50: [], P99: p99, f"{MEAN}, quiet": [], f"{P99}, quiet": []}
    return [Line(name, "us", bounds, more_is_better=False) for name, bounds in of.items()]


@contextmanager
def busy_threads() -> Iterator[None]:
    """Have threads count beside the block."""
    over = False

    def work() -> None:
        while not over:
            sum(number * number for number in range(TICK))

    threads = [Thread(target=work, daemon=True) for _ in range(BUSY_THREADS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over = True
        for thread in threads:
            thread.join()


def seconds(sizes: Sizes) -> float:
    """Return how long each contender is measured: long enough to see the interpreter change hands many times."""
    return sizes.beside_busy / 200


def appends(name: str, sizes: Sizes, scratch: Path) -> Figures:
    """Append one event after the other, first with nobody beside it."""
    with new_store(name, scratch, sizes.warm_up) as store:
        return _quiet_and_busy(store.append, make_items(sizes.warm_up, sizes.written), sizes)


def reads(filled: Filled, sizes: Sizes) -> Figures:
    """Read one event by id after the other, in random order, first with nobody beside it."""
    with filled.opened() as store:
        return _quiet_and_busy(store.get, Random(SEED).choices(filled.ids, k=sizes.point_reads), sizes)


def awaited_appends(name: str, appending: Appending, sizes: Sizes, scratch: Path) -> Figures:
    """Have one task append one event after the other, first with nobody beside it."""
    items = make_items(sizes.warm_up, sizes.written)

    async def measured(append: Append) -> list[float]:
        clock, end = time.perf_counter, time.perf_counter() + seconds(sizes)
        stamps = [clock()]
        for item in cycle(items):
            await append(item)
            stamps.append(clock())
            if stamps[-1] >= end:
                break
        return stamps

    with new_store(name, scratch, sizes.warm_up) as store:

        async def work() -> Figures:
            async with appending(store) as append:
                quiet = await measured(append)
                with busy_threads():
                    return _told(quiet, await measured(append))

        return run(ASYNCIO, work)


def _quiet_and_busy(act: Callable[[T], object], items: Sequence[T], sizes: Sizes) -> Figures:
    """Do *act* with one item after the other, alone and then beside busy threads."""
    quiet = _stamps(act, items, seconds(sizes))
    with busy_threads():
        return _told(quiet, _stamps(act, items, seconds(sizes)))


def _stamps(act: Callable[[T], object], items: Sequence[T], duration: float) -> list[float]:
    """Do *act* with *items* over and over, for so long; the moments between, the first and the last included."""
    clock = time.perf_counter
    stamps = [clock()]
    end = stamps[0] + duration
    for item in cycle(items):
        act(item)
        stamps.append(clock())
        if stamps[-1] >= end:
            break
    return stamps


def _told(quiet: Sequence[float], busy: Sequence[float]) -> Figures:
    """Return the figures of calls between these moments."""
    alone, beside = (told(gaps(stamps), stamps[-1] - stamps[0]) for stamps in (quiet, busy))
    figures = {name: beside[name] for name in (MEAN, P50, P99)}
    return figures | {f"{name}, quiet": alone[name] for name in (MEAN, P99)}
