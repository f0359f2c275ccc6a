"""A process that ends without closing: in time, with its own exit code, and with everything receipted on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from tests.interrupts.world import EVERYTHING, World, number_of

ROOT = Path(__file__).parents[2]
ENDING_SECONDS = 2.0

PROGRAM = """
import os, signal, sys, threading
from pathlib import Path
from tests.interrupts.world import World

world = World(Path(sys.argv[1]), driver=sys.argv[2])
told = threading.Lock()

def work(first):
    for number in range(first, first + 100_000):
        world.append(number)
        with told:
            os.write(1, b"%d\\n" % number)

for first in (1_000_000, 2_000_000):
    threading.Thread(target=work, args=(first,), daemon=True).start()
for number in range(200):
    world.append(number, durable=number % 50 == 0)
    with told:
        os.write(1, b"%d\\n" % number)
"""

ENDINGS = {
    "raises": ("raise RuntimeError('unforeseen')", 1),
    "exits": ("sys.exit(7)", 7),
    "ends": ("", 0),
    "interrupted": (
        "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)",
        -2,
    ),
    "exits at once": ("os._exit(9)", 9),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "exits in a thread's absence": ("del world; sys.exit(3)", 3),
}


@pytest.mark.parametrize("driver", ["assisted", "threaded"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_that_does_not_close_ends_in_time_and_loses_nothing(tmp_path: Path, ending: str, driver: str) -> None:
    statement, code = ENDINGS[ending]
    program = PROGRAM + "os.write(1, b'ending\\n')\n" + statement
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "journal"), driver],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            if line == b"ending\n":
                break
            told.append(int(line))
        started = monotonic()
        rest, errors = process.communicate(timeout=60)
        seconds = monotonic() - started
    told += [int(line) for line in rest.splitlines() if line.isdigit()]
    assert process.returncode == code, errors
    assert seconds < ENDING_SECONDS, errors
    with World(tmp_path / "journal") as world:
        there = [number_of(event) for event in world.store.read(EVERYTHING)]
        assert len(set(there)) == len(there)
        assert set(told) <= set(there)
        assert world.store.verify_chain().intact
