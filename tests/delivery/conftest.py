"""Journals in memory for those who deliver, and waiters that have nothing but being told."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from batpak import Store, StoreConfig
from batpak.actors.announcer import wait_until
from batpak.delivery.cursor import Follower
from batpak.testing.clock import HandClock
from tests.delivery.working import Lines, logged
from tests.store.journals import Journal


@pytest.fixture
def journal() -> Iterator[Journal]:
    """A directory in memory and the store on it, with a clock driven by hand: no time passes by itself."""
    with Journal(StoreConfig(clock=HandClock())) as journal:
        yield journal


@pytest.fixture(params=["assisted", "threaded"])
def driven(request: pytest.FixtureRequest) -> Iterator[Journal]:
    """The same under both drivers of a program."""
    with Journal(StoreConfig(driver=request.param, clock=HandClock())) as journal:
        yield journal


@pytest.fixture
def store(journal: Journal) -> Store:
    return journal.store


@pytest.fixture
def no_backstop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks for himself after a while: who is not told waits for ever."""
    for function, name in ((wait_until, "backstop_seconds"), (Follower.__init__, "poll_seconds")):
        defaults = function.__kwdefaults__
        assert defaults is not None
        assert name in defaults
        monkeypatch.setitem(defaults, name, 3600.0)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged, at debug."""
    with logged() as lines:
        yield lines


@pytest.fixture
def no_collection(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For tests that interrupt at each bytecode: no garbage is collected meanwhile, destructors may be interrupted."""
    monkeypatch.setattr("sys.unraisablehook", id)
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def switching() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
