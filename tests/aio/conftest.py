"""A store in memory with the facade on it, which works on whatever event loop a test runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batpak import Store, StoreConfig
from batpak.aio import AsyncStore
from tests.aio.calls import Commands
from tests.store.journals import Journal


@pytest.fixture
def config() -> StoreConfig:
    return StoreConfig()


@pytest.fixture
def journal(config: StoreConfig) -> Iterator[Journal]:
    with Journal(config) as journal:
        yield journal


@pytest.fixture
def store(journal: Journal) -> Store:
    return journal.store


@pytest.fixture
def facade(store: Store) -> AsyncStore:
    return AsyncStore.wrap(store)


@pytest.fixture
def commands(store: Store) -> Commands:
    return Commands(store)
