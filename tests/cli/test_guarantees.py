"""docs/guarantees.md names tests, commands, options and exit codes: all of them are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

import batpak
from batpak.cli.app import app
from batpak.cli.forms import __doc__ as forms

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_each_test_that_is_named_is_there(file: str, name: str) -> None:
    assert name.startswith("test_")
    assert name in functions(file)


def test_each_promise_names_what_shows_it() -> None:
    promises = PAGE.partition("## 2.")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 20
    assert [row for row in rows if "`tests/" not in row] == []
    assert PAGE.count("`tests/") == len(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))


def test_each_command_has_its_row_and_its_options_are_there() -> None:
    table = PAGE.partition("## 5.")[2]
    named = set(re.findall(r"`batpak (\w+)", table))
    assert named == {each.name or each.callback.__name__ for each in app.registered_commands if each.callback}
    for row in re.findall(r"\| `batpak (\w+).*", table):
        said = CliRunner().invoke(app, [row, "--help"]).stdout
        line = next(line for line in table.splitlines() if line.startswith(f"| `batpak {row}"))
        assert [option for option in re.findall(r"--[a-z-]+", line) if option not in said] == []


def test_each_form_of_json_is_told() -> None:
    assert forms is not None
    assert set(re.findall(r"\$\w+", forms)) == set(re.findall(r'"(\$\w+)"', PAGE))


def test_each_name_that_it_uses_is_public() -> None:
    assert set(re.findall(r"`(\w+Error)`", PAGE)) <= set(batpak.__all__)
    assert set(re.findall(r"`batpak\.(\w+)\(", PAGE)) <= set(batpak.__all__)
