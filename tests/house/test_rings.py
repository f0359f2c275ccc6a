"""What import-linter cannot see: the built-in `open`, single functions of `os`, the time in `datetime`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "batpak"
THE_SEAM = {PACKAGE / "storage" / "files.py", PACKAGE / "storage" / "open_files.py"}
THE_CLOCK = PACKAGE / "clock.py"

# Of `os`, what neither opens nor changes a file; everything else belongs to storage/files.py and open_files.py.
HARMLESS = {"PathLike", "fsencode", "fspath", "getpid", "register_at_fork", "strerror", "uname", "urandom"}
AMBIENT_TIME = {"now", "today", "utcnow"}
MAX_FUNCTION_LINES = 70
MAX_MODULE_LINES = 500

modules = pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE.parent))
)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def used_of_os(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=name):
                yield node.lineno, name
            case ast.ImportFrom(module="os" | "os.path" | "posix", names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names if alias.name in {"os.path", "posix"})
            case _:
                pass


@modules
def test_only_the_seam_touches_files(path: Path) -> None:
    if path in THE_SEAM:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    opened = [call.lineno for call in calls(tree) if isinstance(call.func, ast.Name) and call.func.id == "open"]
    assert not opened, f"open() is called in lines {opened}"
    assert [use for use in used_of_os(tree) if use[1] not in HARMLESS] == []


@modules
def test_only_the_clock_asks_datetime_for_the_time(path: Path) -> None:
    if path == THE_CLOCK:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    asked = [
        (call.lineno, call.func.attr)
        for call in calls(tree)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in AMBIENT_TIME
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id in {"datetime", "date"}
    ]
    assert asked == []


@modules
def test_functions_and_modules_stay_readable(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    long = [
        f"{node.name} has {length} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []
    assert source.count("\n") <= MAX_MODULE_LINES
