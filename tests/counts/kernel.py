"""What the kernel sees of a scene: the system calls of the thread that does the work, read from a log of strace.

    python -m tests.counts.kernel SCENE DIRECTORY

does the work of a scene once, between two calls that such a log shows.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.counts.counting import ENVIRONMENT, ROOT
from tests.counts.scenes import SCENES, on_stage

PREFIX = "system call "
BEGIN, END = "/begin-counting", "/end-counting"
NO_CONCERN = {"brk", "futex", "madvise", "mmap", "mprotect", "mremap", "munmap", "restart_syscall", "sched_yield"}
"""Calls for memory, and between threads: how often depends on what else the machine does."""

_CALL = re.compile(r"(?P<thread>\d+) +(?P<call>\w+)\(")


def strace_is_there() -> bool:
    """Whether system calls can be counted here."""
    return shutil.which("strace") is not None


def system_calls(scene: str) -> dict[str, int]:
    """Return how often the work of a scene makes each system call, by the names that the figures have."""
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "calls"
        command = [sys.executable, "-m", "tests.counts.kernel", scene, f"{name}/store"]
        traced = ["strace", "-f", "-qq", "-o", str(log), *command]
        subprocess.run(traced, check=True, timeout=100, cwd=ROOT, env=ENVIRONMENT)
        found = _between_the_marks(log.read_text(encoding="utf-8").splitlines())
    return {PREFIX + call: number for call, number in sorted(found.items()) if call not in NO_CONCERN}


def _between_the_marks(lines: list[str]) -> Counter[str]:
    """Return how often each call was begun between the marks by the thread that set them."""
    at = [number for number, line in enumerate(lines) if BEGIN in line or END in line]
    assert len(at) == 2, f"found {len(at)} marks, expected 2"
    thread = lines[at[0]].split()[0]
    matches = (_CALL.match(line) for line in lines[at[0] + 1 : at[1]])
    return Counter(found["call"] for found in matches if found and found["thread"] == thread)


def main() -> None:
    """Do the work between the marks."""
    gc.disable()
    (scene,) = (scene for scene in SCENES if scene.name == sys.argv[1])
    with on_stage(scene, Path(sys.argv[2])) as work:
        os.access(BEGIN, os.F_OK)
        work()
        os.access(END, os.F_OK)


if __name__ == "__main__":
    main()
