"""Stores to test: in memory, under both drivers of a program and in both segment formats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest

from batpak import Store, StoreConfig
from batpak.testing.clock import HandClock
from tests.store.journals import Journal

Driver = Literal["assisted", "threaded"]


@pytest.fixture(params=["assisted", "threaded"])
def driver(request: pytest.FixtureRequest) -> Driver:
    found: Driver = request.param
    return found


@pytest.fixture(params=[2, 1], ids=["format2", "format1"])
def segment_format(request: pytest.FixtureRequest) -> Literal[1, 2]:
    found: Literal[1, 2] = request.param
    return found


@pytest.fixture
def config(segment_format: Literal[1, 2]) -> StoreConfig:
    """Settings in one of the two formats, with a clock driven by hand."""
    return StoreConfig(segment_format=segment_format, clock=HandClock())


@pytest.fixture
def journal(config: StoreConfig) -> Iterator[Journal]:
    """A directory in memory and the store on it, in both formats."""
    with Journal(config) as journal:
        yield journal


@pytest.fixture
def driven(driver: Driver) -> Iterator[Journal]:
    """The same in format 2, under both drivers."""
    with Journal(StoreConfig(driver=driver, clock=HandClock())) as journal:
        yield journal


@pytest.fixture
def store(journal: Journal) -> Store:
    return journal.store
