"""Every block of README.md and docs/ that is marked `python run` runs, in a process and a directory of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|#)(?P<target>[^)#\s]+)[^)]*\)")
BLOCK = re.compile(r"^```python(?P<mark>[^\n]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


def runnable_blocks() -> list[tuple[str, str]]:
    """Return (page and line, code) of each runnable block; the code is moved down to its own line numbers."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            if block["mark"].split() == ["run"]:
                line = text.count("\n", 0, block.start()) + 1
                found.append((f"{page.name}:{line}", "\n" * line + block["code"]))
    return found


@pytest.mark.parametrize(("place", "code"), [pytest.param(*block, id=block[0]) for block in runnable_blocks()])
def test_a_block_runs_as_it_stands(place: str, code: str, tmp_path: Path) -> None:
    program = f"exec(compile({code!r}, {place!r}, 'exec'), {{'__name__': '__main__'}})"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_every_block_of_the_readme_is_one_that_runs() -> None:
    marks = [block["mark"].strip() for block in BLOCK.finditer(PAGES[0].read_text(encoding="utf-8"))]
    assert marks
    assert set(marks) == {"run"}


def test_working_code_stands_before_line_30() -> None:
    lines = PAGES[0].read_text(encoding="utf-8").splitlines()
    assert "```python run" in lines[:30]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    targets = [link["target"] for link in LINK.finditer(page.read_text(encoding="utf-8"))]
    assert [target for target in targets if not (page.parent / target).exists()] == []
