"""The event loops that tasks are measured on, and work that is shared out among tasks."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, TypeAlias, TypeVar

import anyio

from benchmarks.case import US, Figures
from benchmarks.timing import told

T = TypeVar("T")
Work: TypeAlias = Callable[[], Coroutine[Any, Any, Figures]]

TASKS: Final = 64
ASYNCIO: Final = "asyncio"
LOOPS: Final = (ASYNCIO, "uvloop", "trio")


def installed_loops() -> list[str]:
    """Return the event loops that can run."""
    return [loop for loop in LOOPS if loop == ASYNCIO or find_spec(loop)]


def on(loop: str, name: str = US) -> str:
    """Return what a contender is called on an event loop; its own name on asyncio."""
    return name if loop == ASYNCIO else f"{name}, {loop}"


def run(loop: str, work: Work) -> Figures:
    """Run *work* on a new event loop and return its figures."""
    if loop == "trio":
        return anyio.run(work, backend="trio")
    if loop == "uvloop":
        runner: Callable[[Coroutine[Any, Any, Figures]], Figures] = import_module("uvloop").run
        return runner(work())
    return asyncio.run(work())


async def share_out(act: Callable[[T], Awaitable[object]], items: Sequence[T], tasks: int = TASKS) -> Figures:
    """Have *tasks* tasks do *act* with all *items*, each with one after the other; rate and latencies."""
    latencies: list[float] = []

    async def work(share: Sequence[T]) -> None:
        clock, add = time.perf_counter, latencies.append
        before = clock()
        for item in share:
            await act(item)
            now = clock()
            add(now - before)
            before = now

    gc.collect()
    started = time.perf_counter()
    async with anyio.create_task_group() as group:
        for number in range(tasks):
            group.start_soon(work, items[number::tasks])
    return told(latencies, time.perf_counter() - started)
