"""Clocks: the system's, and the one that a test moves."""

from __future__ import annotations

import pickle
import time

import pytest

from batpak.clock import Clock, SystemClock
from batpak.testing.clock import HandClock


def test_both_clocks_are_clocks() -> None:
    clocks: list[Clock] = [SystemClock(), HandClock()]
    assert all(isinstance(clock, Clock) for clock in clocks)


def test_the_system_clock_tells_microseconds_since_1970(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_123_456_789)
    assert SystemClock().now_us() == 1_700_000_000_123_456


def test_the_system_clock_never_goes_backwards() -> None:
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)


def test_system_clocks_are_equal_and_pickle() -> None:
    assert SystemClock() == SystemClock()
    assert hash(SystemClock()) == hash(SystemClock())
    assert pickle.loads(pickle.dumps(SystemClock())) == SystemClock()


def test_a_hand_clock_stands_still() -> None:
    clock = HandClock(wall_us=5, monotonic=2.0)
    assert (clock.now_us(), clock.now_us(), clock.monotonic(), clock.monotonic()) == (5, 5, 2.0, 2.0)


def test_advancing_moves_both_readings() -> None:
    clock = HandClock(wall_us=0)
    clock.advance(1.5)
    clock.advance(0)
    clock.advance(0.000001)
    assert clock.now_us() == 1_500_001
    assert clock.monotonic() == pytest.approx(1.500001)


@pytest.mark.parametrize("seconds", [-0.001, float("nan")])
def test_time_does_not_run_backwards(seconds: float) -> None:
    clock = HandClock(wall_us=0)
    with pytest.raises(ValueError, match="does not run backwards"):
        clock.advance(seconds)
    assert (clock.now_us(), clock.monotonic()) == (0, 0.0)


@pytest.mark.parametrize("us", [0, 2_000_000_000_000_000, -1])
def test_the_wall_clock_jumps_alone(us: int) -> None:
    clock = HandClock()
    clock.set_wall(us)
    assert (clock.now_us(), clock.monotonic()) == (us, 0.0)


def test_a_hand_clock_shows_its_readings() -> None:
    assert repr(HandClock(wall_us=5, monotonic=2.0)) == "<HandClock wall_us=5 monotonic=2.0>"
