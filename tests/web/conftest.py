"""Servers to test: one for a whole module, and one for each test that ends it or wants other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.web.serving import Board

Start: TypeAlias = Callable[..., Board]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A server with the default settings, for tests that look at their own topics only."""
    with Board(tmp_path_factory.mktemp("shared") / "journal", "--log", "debug") as board:
        yield board


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers on one and the same journal, each with options and a port of its own."""
    with ExitStack() as servers:

        def start_one(*options: str, port: int = 0) -> Board:
            return servers.enter_context(Board(tmp_path / "journal", *options, port=port))

        yield start_one
