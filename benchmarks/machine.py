"""What the figures were measured on, as far as the machine tells."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO = Path("/proc/meminfo")
MOUNTS = Path("/proc/self/mounts")
OURS = ("msgpack", "blake3", "crc32c", "anyio", "structlog")


def machine_facts(directory: Path, packages: Iterable[str] = ()) -> list[str]:
    """Return one line a fact: processor, memory, system, file system of *directory*, and the versions that matter."""
    return [
        f"{os.cpu_count()} cores, {_processor()}{_memory()}",
        f"{platform.system()} {platform.release()}, {_file_system(directory)}",
        f"{platform.python_implementation()} {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        + ", ".join(_versions((*OURS, *packages))),
    ]


def _versions(packages: Iterable[str]) -> list[str]:
    """Return names and versions of those that are installed."""
    found = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> str:
    """Return how much memory there is, where the system tells."""
    if not MEMORY_INFO.exists():
        return ""
    total = MEMORY_INFO.read_text(encoding="utf-8").partition("MemTotal:")[2].split()[:1]
    return f", {int(total[0]) / 2**20:.0f} GiB of memory" if total else ""


def _file_system(directory: Path) -> str:
    """Return the type of the mount that holds *directory*."""
    if not MOUNTS.exists():
        return "file system unknown"
    place = directory.resolve()
    mounts = [line.split()[1:3] for line in MOUNTS.read_text(encoding="utf-8").splitlines()]
    holding = [(point, kind) for point, kind in mounts if place.is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]))[1] if holding else "file system unknown"
