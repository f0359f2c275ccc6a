"""A clock that stands still until a test moves it."""

from __future__ import annotations


class HandClock:
    """A clock driven by hand: time passes by `advance` alone, and the wall clock jumps by `set_wall`."""

    __slots__ = ("_monotonic", "_wall_us")

    def __init__(self, wall_us: int = 1_700_000_000_000_000, monotonic: float = 0.0) -> None:
        """Start at *wall_us* microseconds since 1970, UTC, and at *monotonic* seconds."""
        self._wall_us = wall_us
        self._monotonic = monotonic

    def now_us(self) -> int:
        """Give the wall clock's time in whole microseconds since 1970, UTC."""
        return self._wall_us

    def monotonic(self) -> float:
        """Give the seconds that have passed, and those it started at."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let *seconds* pass on both clocks; a negative number is a `ValueError`."""
        if not seconds >= 0:
            message = f"found {seconds} s, expected 0 or more: time does not run backwards"
            raise ValueError(message)
        self._monotonic += seconds
        self._wall_us += round(seconds * 1_000_000)

    def set_wall(self, us: int) -> None:
        """Make the wall clock jump to *us* microseconds since 1970, in either direction."""
        self._wall_us = us

    def __repr__(self) -> str:
        """Show both clocks."""
        return f"<HandClock wall_us={self._wall_us} monotonic={self._monotonic}>"
