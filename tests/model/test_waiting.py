"""Waiting goes one way: the table has no cycle, and a turn that asks against it is refused."""

from __future__ import annotations

from graphlib import TopologicalSorter
from itertools import product
from typing import Any

import pytest

from batpak.actors import WAITS_FOR
from batpak.actors.messages import Command, Load, Publish
from batpak.actors.system import START_ORDER
from batpak.config import StoreConfig
from batpak.errors import ReentrantCallError
from batpak.store import Store
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers

RUNNING = ("index", "writer", "reader")


def test_no_actor_can_wait_for_itself_in_the_end() -> None:
    order = list(TopologicalSorter(WAITS_FOR).static_order())
    assert sorted(order) == sorted(WAITS_FOR)
    assert all(order.index(asked) < order.index(asker) for asker, all_ in WAITS_FOR.items() for asked in all_)


def test_who_is_asked_starts_before_who_asks() -> None:
    assert sorted(START_ORDER) == sorted(RUNNING)
    waits = [(asker, asked) for asker in RUNNING for asked in WAITS_FOR[asker] if asked in RUNNING]
    assert all(START_ORDER.index(asked) < START_ORDER.index(asker) for asker, asked in waits)


@pytest.mark.parametrize(("asker", "asked"), list(product(RUNNING, RUNNING)))
def test_a_turn_may_ask_whom_the_table_lets_it_wait_for_and_nobody_else(asker: str, asked: str) -> None:
    drivers = SteppedDrivers()
    with Store(MemoryFiles(), StoreConfig(driver="stepped"), drivers) as store:
        commands: dict[str, Command[Any]] = {
            "index": Publish([]),
            "reader": Load([]),
            "writer": store._requests.batch([]),
        }

        def ask() -> None:
            drivers[asked].ask(commands[asked])

        if asked in WAITS_FOR[asker]:
            drivers[asker].within_turn(ask)
        else:
            with pytest.raises(ReentrantCallError):
                drivers[asker].within_turn(ask)
        assert drivers.steps() == ()
