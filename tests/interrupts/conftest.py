"""What an exception at any bytecode may do without being a fault."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.interrupts.world import until

LEAVES_DESCRIPTORS = [
    pytest.mark.may_leak("what `os.open` returns into an interrupt is lost: a number has no destructor"),
    pytest.mark.usefixtures("no_thread_is_left"),
]
"""For modules that interrupt opens of files by the thousand."""


@pytest.fixture(autouse=True)
def unraisable_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let go of what a destructor was interrupted by, in C: a hook in Python would be interrupted itself."""
    monkeypatch.setattr("sys.unraisablehook", id)


@pytest.fixture(scope="session")
def many_descriptors() -> None:
    """Allow as many open files as the system does."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@pytest.fixture
def no_thread_is_left(many_descriptors: None) -> Iterator[None]:
    """Fail a test that leaves a thread running, whatever `threading` believes."""
    before = set(sys._current_frames())
    yield
    threads_end(before)


def threads_end(before: set[int]) -> None:
    """Wait until no thread runs but those of *before*."""
    free_stuck_starts()
    until(lambda: set(sys._current_frames()) <= before, "end of all threads")


def free_stuck_starts() -> None:
    """Let threads begin whose `Thread.start` was interrupted while it held the lock of its event."""
    for thread in threading.enumerate():
        lock = thread._started._cond._lock  # type: ignore[attr-defined]
        if not thread._started.is_set() and lock.locked():  # type: ignore[attr-defined]
            lock.release()
