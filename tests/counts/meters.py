"""What is counted of each operation, in the thread that does it, and how.

Each meter measures some work and returns whole numbers by name. The first ones count calls of functions that a store
looks up when it is opened, so they are put in place once, before anything of a store is imported.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

SPEC = find_spec("batpak")
assert SPEC is not None
assert SPEC.origin is not None
OURS = str(Path(SPEC.origin).parent) + os.sep
GENERATED = "<string>"
"""Where the code of dataclasses stands."""

Work = Callable[[], object]
Figures = dict[str, int]


class Tally:
    """Counts what one thread does while it is asked to."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.thread = 0

    def note(self, name: str, amount: int = 1) -> None:
        if self.thread == threading.get_ident():
            self.found[name] += amount

    def measure(self, work: Work) -> Figures:
        self.found.clear()
        self.thread = threading.get_ident()
        try:
            work()
        finally:
            self.thread = 0
        return dict(self.found)


TALLY = Tally()


class CountingLock:
    """A lock that tells of each call."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.locked = self._counted(inner.locked) if hasattr(inner, "locked") else None

    @staticmethod
    def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: object, **options: object) -> Any:
            TALLY.note("locks")
            return function(*arguments, **options)

        return counted

    def acquire(self, *arguments: Any, **options: Any) -> bool:
        TALLY.note("locks")
        return bool(self._inner.acquire(*arguments, **options))

    def release(self) -> None:
        TALLY.note("locks")
        self._inner.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def count_locks() -> None:
    """Have batpak get locks that count; everybody else gets the real ones. Before batpak is imported."""
    assert "batpak" not in sys.modules, "found batpak imported, expected to come first"
    for name in ("Lock", "RLock"):
        setattr(threading, name, _maker(getattr(threading, name)))


def _maker(real: Callable[[], Any]) -> Callable[[], Any]:
    def make() -> Any:
        ours = sys._getframe(1).f_code.co_filename.startswith(OURS)
        return CountingLock(real()) if ours else real()

    return make


def count_files() -> None:
    """Count what goes to open files and what is drawn from the system's random numbers."""
    from batpak.storage.files import RealFiles
    from batpak.storage.open_files import RealReadFile, RealWriteFile

    for name in ("open_read", "open_write", "create"):
        _count(RealFiles, name, "files opened")
    _count(RealWriteFile, "pwrite", "writes", lambda written: ("bytes written", written))
    _count(RealReadFile, "pread", "reads", lambda data: ("bytes read", len(data)))
    _count(RealWriteFile, "sync_data", "syncs")
    _count(RealWriteFile, "sync", "syncs")
    for name in ("size", "map", "window", "drop_cache"):
        _count(RealReadFile, name, "other calls of files")
    for name in ("truncate", "allocate"):
        _count(RealWriteFile, name, "other calls of files")
    os.urandom = random.Random(0).randbytes  # the same ids each time: numbers of another length take other memory
    _count(os, "urandom", "random numbers drawn")


def _count(owner: Any, name: str, figure: str, amount: Callable[[Any], tuple[str, int]] | None = None) -> None:
    real = getattr(owner, name)

    @wraps(real)
    def counted(*arguments: Any, **options: Any) -> Any:
        TALLY.note(figure)
        result = real(*arguments, **options)
        if amount is not None:
            TALLY.note(*amount(result))
        return result

    setattr(owner, name, counted)


def _is_ours(code: CodeType) -> bool:
    return _is_our_file(code.co_filename)


def _is_our_file(name: str) -> bool:
    return name.startswith(OURS) or name == GENERATED


def bytecodes(work: Work) -> Figures:
    """Count the instructions of the interpreter in batpak's own code."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if not _is_ours(frame.f_code):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            count += 1
        return trace

    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for one when tracing begins
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return {"bytecodes": count}


def calls(work: Work) -> Figures:
    """Count the calls of batpak's own functions, each step of a generator too.

    Comprehensions do not count: they are functions up to Python 3.11 and none behind it.
    """
    count = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        code = frame.f_code
        count += event == "call" and _is_ours(code) and not code.co_name.endswith("comp>")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return {"calls": count}


def memory(work: Work) -> Figures:
    """Count the bytes and objects that stay allocated by batpak's own code, and the bytes that there are at once."""
    gc.collect()
    before = tracemalloc.take_snapshot()
    bytes_before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    grown = tracemalloc.take_snapshot().compare_to(before, "filename")
    ours = [each for each in grown if _is_our_file(each.traceback[0].filename)]
    return {
        "bytes kept": sum(each.size_diff for each in ours),
        "objects kept": sum(each.count_diff for each in ours),
        "bytes at the peak": peak - bytes_before,
    }


@contextmanager
def prepared(meter: Callable[[Work], Figures]) -> Iterator[None]:
    """Trace memory from before a store is there, for the meter of it: what came earlier is not seen when it goes."""
    if meter is memory:
        tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


METERS: tuple[Callable[[Work], Figures], ...] = (TALLY.measure, calls, bytecodes, memory)
VERSIONED = frozenset({"calls", "bytecodes", "bytes kept", "objects kept", "bytes at the peak"})
"""Figures that belong to one version of Python."""
