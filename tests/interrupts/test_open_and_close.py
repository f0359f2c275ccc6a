"""One exception at each bytecode of an open, a close, a read-only open and a refresh."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batpak import ReadOnlyStore, Store, StoreClosedError
from tests.conftest import store_threads
from tests.interrupts.conftest import LEAVES_DESCRIPTORS, threads_end
from tests.interrupts.strike import Struck, strike
from tests.interrupts.world import EVERYTHING, LONG, World, facts

pytestmark = [
    *LEAVES_DESCRIPTORS,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # a store that is lost to an interrupt closes itself
]

STEP = 1 if LONG else 97


def each_point(act: Callable[[int], list[str]], step: int = STEP) -> int:
    """Strike at every *step*-th bytecode until there is none; how many there were."""
    at = 1
    while where := act(at):
        at += step
        del where
    return at // step


@pytest.mark.parametrize("driver", ["assisted", "threaded"])
@pytest.mark.parametrize("segment_format", [2, 1])
def test_a_close_that_was_interrupted_can_be_called_again(driver: str, segment_format: int, tmp_path: Path) -> None:
    before = set(sys._current_frames())

    def act(at: int) -> list[str]:
        world = World(tmp_path / f"{at}", driver=driver, segment_format=segment_format, segment_bytes=4096, text=1500)
        for _ in range(3):
            world.check()
        receipts = world.acknowledged
        where, outcome = strike(world.store.close, at)
        try:
            assert isinstance(outcome, Struck | None)
            if world.store._closed is not None:
                with pytest.raises(StoreClosedError):
                    world.append(0)
            world.store.close()
            world.store.close()
            assert not world.store._files._lock_fd >= 0  # type: ignore[attr-defined]
            threads_end(before)
            world.reopen()
            assert world.acknowledged is receipts
            world.check_all()
            world.store.close()
        except BaseException as error:
            error.add_note(f"struck at bytecode {at}, in {where}")
            raise
        return where

    points = each_point(act)
    print(f"close: {points} points")  # noqa: T201 - shown with -s


@pytest.mark.parametrize("new", [True, False], ids=["new", "there"])
def test_an_open_that_was_interrupted_leaves_nothing_running_and_no_lock(new: bool, tmp_path: Path) -> None:
    before = set(sys._current_frames())

    def act(at: int) -> list[str]:
        directory = tmp_path / (f"{at}" if new else "journal")
        where, outcome = strike(lambda: Store.open(directory), at)
        try:
            if isinstance(outcome, Store):
                outcome.close()
            outcome = None
            threads_end(before)
            world = World(directory)
            if new:
                world.check_all()
            else:
                assert world.store.stats().events == 2
            world.store.close()
        except BaseException as error:
            error.add_note(f"struck at bytecode {at}, in {where}")
            raise
        return where

    if not new:
        with World(tmp_path / "journal") as world:
            world.check()
            world.check()
    points = each_point(act)
    print(f"open: {points} points")  # noqa: T201 - shown with -s


def test_a_reader_that_was_interrupted_can_go_on(tmp_path: Path) -> None:
    before = set(sys._current_frames())
    directory = tmp_path / "journal"
    with World(directory) as world:
        world.check()
        outer = set(sys._current_frames())

        def refresh(at: int) -> list[str]:
            where, outcome = strike(reader.refresh, at)
            assert isinstance(outcome, Struck | int), outcome
            world.check()
            reader.refresh()
            assert facts(reader) == facts(world.store), where
            return where

        def close(at: int) -> list[str]:
            other = Store.open_read_only(directory)
            where, outcome = strike(other.close, at)
            assert isinstance(outcome, Struck | None)
            other.close()
            threads_end(outer)
            return where

        def read(at: int) -> list[str]:
            where, outcome = strike(lambda: Store.open_read_only(directory), at)
            if isinstance(outcome, ReadOnlyStore):
                outcome.close()
            outcome = None
            threads_end(outer)
            return where

        points = each_point(close), each_point(read)
        with Store.open_read_only(directory) as reader:
            print(f"refresh, close, open: {each_point(refresh)}, {points} points")  # noqa: T201 - shown with -s
        world.check_all()
    threads_end(before)


def test_an_iteration_that_was_interrupted_leaves_the_reader_usable(tmp_path: Path) -> None:
    with World(tmp_path / "journal") as world:
        for _ in range(5):
            world.check()

        def act(at: int) -> list[str]:
            where, outcome = strike(lambda: sum(1 for _ in world.store.read(EVERYTHING)), at)
            assert isinstance(outcome, Struck | int)
            world.check_locks()
            return where

        each_point(act, max(1, STEP // 10))
        world.check_all()


def test_no_thread_of_a_store_is_left(tmp_path: Path) -> None:
    before: set[Any] = store_threads()
    with World(tmp_path / "journal") as world:
        assert {each.name for each in store_threads() - before} == {"batpak-writer", "batpak-index", "batpak-reader"}
        world.check()
    assert store_threads() == before
    assert threading.active_count() >= 1
