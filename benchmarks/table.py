"""Figures as a Markdown table: medians with their least and greatest, and how the two contenders compare."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.workloads import Workload

HEADER = """\
| workload | unit | batpak | SQLite | batpak : SQLite |
|---|---|---:|---:|---:|"""


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of one workload, one of each contender for each round."""

    workload: Workload
    batpak: Sequence[float]
    sqlite: Sequence[float]

    @property
    def ratio(self) -> float:
        """How many times faster batpak's median is; below one it is slower."""
        batpak, sqlite = statistics.median(self.batpak), statistics.median(self.sqlite)
        return batpak / sqlite if self.workload.more_is_better else sqlite / batpak


def markdown(results: Sequence[Result]) -> str:
    """Return the whole table."""
    return "\n".join([HEADER, *(_row(result) for result in results)])


def _row(result: Result) -> str:
    workload = result.workload
    cells = (workload.name, workload.unit, _spread(result.batpak), _spread(result.sqlite), f"{result.ratio:.2f} x")
    return "| " + " | ".join(cells) + " |"


def _spread(figures: Sequence[float]) -> str:
    """Return the median with least and greatest behind it, in as many digits as mean something."""
    digits = 0 if max(figures) >= 100 else 2
    middle, least, greatest = statistics.median(figures), min(figures), max(figures)
    return f"**{middle:,.{digits}f}** ({least:,.{digits}f} to {greatest:,.{digits}f})"
