"""constraints.txt pins all that pyproject.toml asks for, and says nothing of where it comes from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==[A-Za-z0-9.]+")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def canonical(requirement: str) -> str:
    """Return the name in a requirement as package indexes compare it."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_line_is_one_exact_version() -> None:
    assert [line for line in pins() if not PIN.fullmatch(line)] == []


def test_everything_that_the_project_asks_for_is_pinned() -> None:
    asked = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["test"],
        *(entry for group in PROJECT["dependency-groups"].values() for entry in group if isinstance(entry, str)),
    ]
    assert {canonical(entry) for entry in asked} - {canonical(line) for line in pins()} == {"batpak"}


def test_every_rule_that_is_switched_off_has_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    start, end = lines.index("[tool.ruff.lint]"), lines.index("[tool.ruff.lint.mccabe]")
    codes = [line for line in lines[start:end] if re.match(r'\s+"[A-Z]+[0-9]*",', line)]
    assert codes
    assert [line for line in codes if "  # " not in line and ", # " not in line] == []
