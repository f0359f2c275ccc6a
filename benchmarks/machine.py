"""What the figures were measured on, as far as the machine tells."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
MOUNTS = Path("/proc/self/mounts")


def machine_facts(directory: Path) -> list[str]:
    """Return one line a fact: processor, system, file system of *directory*, and the versions that matter."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("msgpack", "blake3", "anyio"))
    return [
        f"{os.cpu_count()} cores, {_processor()}",
        f"{platform.system()} {platform.release()}, {_file_system(directory)}",
        f"{platform.python_implementation()} {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {packages}",
    ]


def _processor() -> str:
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(directory: Path) -> str:
    """Return the type of the mount that holds *directory*."""
    if not MOUNTS.exists():
        return "file system unknown"
    place = directory.resolve()
    mounts = [line.split()[1:3] for line in MOUNTS.read_text(encoding="utf-8").splitlines()]
    holding = [(point, kind) for point, kind in mounts if place.is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]))[1] if holding else "file system unknown"
