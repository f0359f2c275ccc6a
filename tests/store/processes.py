"""Programs that open journals in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

TIMEOUT_SECONDS = 60.0
ROOT = Path(__file__).parents[2]


def _command(program: str, arguments: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-c", dedent(program), *map(str, arguments)]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}


def run_python(program: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run *program* to its end; what it printed is in the result."""
    done = subprocess.run(
        _command(program, arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
        env=_environment(),
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def start_python(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start *program*; it is told things by lines on its standard input, and tells by lines on its output."""
    return subprocess.Popen(
        _command(program, arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(),
    )


def told(process: subprocess.Popen[str]) -> str:
    """Return the next line that *process* prints; its errors where there is none."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(f"found no line, expected one; errors: {process.communicate()[1]}")
    return line.rstrip("\n")


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Send *line* to the standard input of *process*."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
