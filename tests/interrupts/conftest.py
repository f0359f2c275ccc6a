"""What an exception at any bytecode may do without being a fault."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import open_files


@pytest.fixture(autouse=True)
def unraisable_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let go of what a destructor was interrupted by, in C: a hook in Python would be interrupted itself."""
    monkeypatch.setattr("sys.unraisablehook", id)


@pytest.fixture
def may_lose_descriptors(tmp_path: Path) -> Iterator[None]:
    """Close what `os.open` returned into an interrupt: a number has no destructor, so nobody can."""
    yield
    for descriptor, path in open_files():
        if path.startswith(f"{tmp_path}/"):
            os.close(int(descriptor))
