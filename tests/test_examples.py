"""Every file in examples/ runs as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
TESTED_ELSEWHERE = {
    "demo.py",  # below
    "web.py",  # tests/web
    "worker.py",  # tests/delivery/test_worker_example.py
}
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


def run_example(name: str, *arguments: str, cwd: Path) -> str:
    """Run one example with warnings as errors and return what it printed."""
    run = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in TESTED_ELSEWHERE])
def test_an_example_runs_as_it_is(name: str, tmp_path: Path) -> None:
    assert run_example(name, cwd=tmp_path)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_demo_loads_verifies_and_answers(backend: str, tmp_path: Path) -> None:
    printed = run_example("demo.py", "--commits", "400", "--backend", backend, cwd=tmp_path)
    assert "every chain holds" in printed
    assert "actor.command" in printed


def test_a_second_run_of_the_demo_writes_nothing(tmp_path: Path) -> None:
    arguments = ("--commits", "200", "--journal", "journal")
    first = run_example("demo.py", *arguments, cwd=tmp_path)
    second = run_example("demo.py", *arguments, cwd=tmp_path)
    assert " 0 new" not in first
    assert " 0 new" in second
