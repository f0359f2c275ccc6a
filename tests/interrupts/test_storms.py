"""Interrupts at random moments, into every thread, while all of them append."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interrupts.test_handlers import storm
from tests.interrupts.world import LONG

INTERRUPTS = 5000


@pytest.mark.parametrize(
    ("driver", "switch_seconds", "share"),
    [("assisted", 0.005, 0.4), ("threaded", 0.005, 0.2), ("assisted", 1e-6, 0.2), ("threaded", 1e-6, 0.2)],
)
def test_thousands_of_interrupts_lose_nothing_double_nothing_and_leave_no_lock(
    tmp_path: Path, driver: str, switch_seconds: float, share: float
) -> None:
    count = INTERRUPTS * 4 if LONG else round(INTERRUPTS * share)
    found = storm(tmp_path, 1, count, driver, switch_seconds, "interrupt")
    assert sum(found["hits"].values()) >= count
    assert {"MainThread", "asker-1", "batpak-writer", "batpak-index"} <= set(found["hits"])
    assert found["acknowledged"] > count
