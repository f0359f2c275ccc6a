"""The plot: a panel of bars for each case, and one of lines for each figure that was measured at several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from benchmarks.case import US, Line, Outcome
from benchmarks.growing import points
from benchmarks.table import DIFFERENCE, FLOORS, number

COLUMNS = 3
PANEL_INCHES = (5.2, 2.4)
LEAST_BARS = 4
TITLE_CHARACTERS = 52
OURS_COLOUR, RIVAL_COLOUR, FLOOR_COLOUR = "#c2410c", "#64748b", "#cbd5e1"

Points = Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Growth:
    """A figure at several sizes, for each contender."""

    title: str
    unit: str
    points: Points


def draw(outcomes: Sequence[Outcome], largest: int, path: Path) -> None:
    """Write the plot of everything that was measured, as SVG; *largest* is the size of contenders that say none."""
    growth = [grown for outcome in outcomes for grown in _growth(outcome, largest)]
    outcomes = [each for each in outcomes if len(each.figures) > 1 and not _growth(each, largest)]
    # Text stays text, and the same figures make the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "batpak", "font.size": 8, "axes.titlesize": 9}):
        panels = len(outcomes) + len(growth)
        rows = max(1, -(-panels // COLUMNS))
        figure = Figure(figsize=(PANEL_INCHES[0] * COLUMNS, PANEL_INCHES[1] * rows), layout="constrained")
        axes = [figure.add_subplot(rows, COLUMNS, number + 1) for number in range(panels)]
        for axis, outcome in zip(axes, outcomes, strict=False):
            _bars(axis, outcome)
        for axis, grown in zip(axes[len(outcomes) :], growth, strict=True):
            _lines(axis, grown)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _growth(outcome: Outcome, largest: int) -> list[Growth]:
    """Return the figures of a case that were measured at several sizes."""
    found = [(line, points(outcome, line.name, largest)) for line in outcome.case.lines if DIFFERENCE not in line.name]
    name = outcome.case.name.removesuffix(f", at {largest:,} events")
    return [Growth(f"{name}: {line.name}", line.unit, each) for line, each in found if each]


def _bars(axis: Axes, outcome: Outcome) -> None:
    """Draw the first line of a case: a bar for each contender, from least to greatest a stroke."""
    line: Line = outcome.case.lines[0]
    names = [name for name, figures in outcome.figures.items() if line.name in figures][::-1]
    medians = [outcome.median(name, line.name) for name in names]
    colours = [_colour(name) for name in names]
    axis.barh(names, medians, color=colours, height=0.7)
    for place, (name, median) in enumerate(zip(names, medians, strict=True)):
        figures = outcome.figures[name][line.name]
        axis.plot([min(figures), max(figures)], [place, place], color="black", linewidth=0.8)
        axis.annotate(number(median), (max(median, *figures), place), (3, 0), textcoords="offset points", va="center")
    axis.set_ylim(-0.6, max(len(names), LEAST_BARS) - 0.4)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.set_title(fill(outcome.case.name, TITLE_CHARACTERS), loc="left")
    axis.set_xlabel(f"{line.unit or line.name}{'' if line.more_is_better else ' (less is better)'}")
    axis.margins(x=0.18)
    axis.spines[["top", "right"]].set_visible(False)


def _colour(name: str) -> str:
    """Return the colour of a contender: ours, of a rival, or of what stores nothing."""
    if name.startswith(US):
        return OURS_COLOUR
    return FLOOR_COLOUR if name in FLOORS else RIVAL_COLOUR


def _lines(axis: Axes, grown: Growth) -> None:
    """Draw a figure by size, a line for each contender."""
    for name, by_size in grown.points.items():
        colour = OURS_COLOUR if name == US else None
        axis.plot([size for size, _ in by_size], [figure for _, figure in by_size], "o-", label=name, color=colour)
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_title(fill(grown.title, TITLE_CHARACTERS), loc="left")
    axis.set_xlabel("events in the store")
    axis.set_ylabel(grown.unit)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
