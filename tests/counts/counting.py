"""Counting in a process of its own, so that what is counted depends on nothing that other tests have done.

    python -m tests.counts.counting [--plant NAME] [SCENE ...]

prints one JSON object: scene, figure, number.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

Counted = dict[str, dict[str, int]]
ROOT = Path(__file__).parents[2]
MAX_COUNTS = 5
ENVIRONMENT = {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR") if name in os.environ} | {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": str(ROOT),
    "PYTHONPYCACHEPREFIX": os.devnull,
}
"""Of the processes that count: nothing in it makes one run differ from another.

Modules are always compiled, never read from where the last run may or may not have kept them: strings of the two are
shared in other ways, and take other memory.
"""


def counted(scenes: Sequence[str] = (), *, plant: str | None = None) -> Counted:
    """Have a fresh process count *scenes*, all by default; *plant* names what is put in to be found."""
    command = [sys.executable, "-m", "tests.counts.counting", *scenes]
    if plant is not None:
        command += ["--plant", plant]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT, env=ENVIRONMENT, check=False)
    assert ended.returncode == 0, ended.stderr
    found: Counted = json.loads(ended.stdout)
    return found


def counted_alike() -> Counted:
    """Count everything until two counts agree: once in hundreds of them one object is there, or not, by chance."""
    earlier: list[Counted] = []
    while (found := counted()) not in earlier:
        earlier.append(found)
        assert len(earlier) < MAX_COUNTS, "found no two counts that agree"
    return found


def main() -> None:
    """Count what is asked for and print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.counts.counting")
    parser.add_argument("scenes", nargs="*")
    parser.add_argument("--plant")
    options = parser.parse_args()

    from tests.counts import meters

    meters.count_locks()
    meters.count_files()

    from tests.counts.plants import PLANTS
    from tests.counts.scenes import SCENES, on_stage

    if options.plant:
        PLANTS[options.plant]()
    gc.disable()
    found: Counted = {}
    for scene in SCENES:
        if scene.name in (options.scenes or [scene.name]):
            figures = found.setdefault(scene.name, {})
            for meter in meters.METERS:
                with tempfile.TemporaryDirectory() as name, meters.prepared(meter), on_stage(scene, Path(name)) as work:
                    figures |= meter(work)
            if "files opened" in figures:  # the set of them takes more memory or less, depending on addresses
                del figures["bytes at the peak"]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
