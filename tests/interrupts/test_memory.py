"""Each allocation of the interpreter fails once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interrupts.world import LONG

pytest.importorskip("_testcapi", reason="this interpreter has no module that lets allocations fail")

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["single", "keyed", "batch", "durable", "rotation"])
@pytest.mark.parametrize("driver", ["assisted", "threaded"])
@pytest.mark.parametrize("in_a_row", [1, 12])
def test_an_allocation_that_fails_is_a_memory_error_or_typed_and_the_store_goes_on(
    tmp_path: Path, name: str, driver: str, in_a_row: int
) -> None:
    arguments = [str(tmp_path), name, driver, "1" if LONG else "5", str(in_a_row)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.interrupts.nomemory", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(name, driver, found)  # noqa: T201 - shown with -s
    assert found["MemoryError"]
