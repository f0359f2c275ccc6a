"""Time, as the store sees it; no other module of batpak reads a clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """Where a store takes its time from; called from several threads at once."""

    def now_us(self) -> int:
        """Give the wall clock's time in whole microseconds since 1970, UTC; it may jump, backwards as well."""
        ...

    def monotonic(self) -> float:
        """Give seconds since an arbitrary moment; it never goes backwards."""
        ...


@dataclass(frozen=True, slots=True)
class SystemClock:
    """The time of the operating system; all instances are equal."""

    def now_us(self) -> int:
        """Give the wall clock's time in whole microseconds since 1970, UTC."""
        return time.time_ns() // 1000

    # The function itself: one call less, twice at each turn.
    monotonic = staticmethod(time.monotonic)


def worked_seconds() -> float:
    """Give the seconds of a processor that the calling thread has used, to tell waiting from working."""
    return time.thread_time()
