"""What every test shares: two event loops, profiles of hypothesis, and a look for what a test left behind."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

SLOW_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]

# The machine decides how long an example takes, so no example has a deadline.
settings.register_profile(
    "ordinary", deadline=None, max_examples=100, suppress_health_check=SLOW_CHECKS, print_blob=True
)
settings.register_profile("ci", settings.get_profile("ordinary"), derandomize=True)
settings.register_profile("long", settings.get_profile("ordinary"), max_examples=5_000)
settings.load_profile(os.environ.get("BATPAK_HYPOTHESIS", "ci" if os.environ.get("CI") else "ordinary"))

PATIENCE_SECONDS = 2.0
DESCRIPTORS = Path("/proc/self/fd")
NOT_OURS = ("/dev/", "/proc/", "/sys/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test the time that it takes in full, where that is asked for."""
    if os.environ.get("BATPAK_LONG"):
        for item in items:
            item.add_marker(pytest.mark.timeout(7200))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run an async test once on each event loop."""
    name: str = request.param
    return name


def open_files() -> set[tuple[str, str]]:
    """Return (descriptor, path) of each file or directory that is open; nothing where /proc does not tell."""
    found = set()
    for entry in DESCRIPTORS.iterdir() if DESCRIPTORS.is_dir() else ():
        try:
            target = str(entry.readlink())
        except OSError:  # the descriptor of this very listing
            continue
        if target.startswith("/") and not target.startswith(NOT_OURS) and ".coverage" not in target:
            found.add((entry.name, target))
    return found


def store_threads() -> set[threading.Thread]:
    """Return the living threads of stores; event loops keep idle threads of their own, which are no leak."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("batpak")}


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread of a store or an open file, unless it is marked `may_leak`."""
    if request.node.get_closest_marker("may_leak"):
        yield
        return
    threads, files = store_threads(), open_files()
    yield
    for thread in store_threads() - threads:
        thread.join(PATIENCE_SECONDS)
    left_files = open_files() - files
    if left_files:  # an exception that a test caught may still hold a store in its traceback
        gc.collect()
        left_files &= open_files()
    left_threads = sorted(thread.name for thread in store_threads() - threads)
    assert not left_threads, f"threads left running: {left_threads}"
    assert not left_files, f"files left open: {sorted(left_files)}"
