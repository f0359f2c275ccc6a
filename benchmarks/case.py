"""What is measured, how often, and what it has to reach.

A `Case` is one thing to do, with a function for each contender that does it once, from nothing, and returns its
figures by name. `measure` lets the contenders take turns, so that what else the machine does meets all of them. A
`Line` is one figure of a case, to be compared: its bounds are floors, which may not be missed, and goals.
"""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Figures: TypeAlias = Mapping[str, float]
"""What one run of one contender gave, by the names of the case's lines."""

Measure: TypeAlias = Callable[[], Figures]
"""Does the work once, in a directory that nobody else uses, and returns its figures."""

US = "batpak"
"""The contender that the bounds are about, where they do not name another."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a line has to reach: *figure* divided by *against* (by nothing: the figure itself) is within the limits.

    Both name contenders. *at* names another line of the case, of which *against* is taken.
    """

    level: Literal["floor", "goal"]
    against: str | None = None
    least: float | None = None
    most: float | None = None
    figure: str = US
    at: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of a case: its name among the figures, its unit, and what it has to reach."""

    name: str
    unit: str
    bounds: Sequence[Bound] = ()
    more_is_better: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to do, and who does it; ours first."""

    name: str
    lines: Sequence[Line]
    contenders: Mapping[str, Measure]


@dataclass(slots=True)
class Outcome:
    """The figures of a case: for each contender and line one of each round."""

    case: Case
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, contender: str, figures: Figures) -> None:
        """Take in what one run gave."""
        of = self.figures.setdefault(contender, {})
        for name, figure in figures.items():
            of.setdefault(name, []).append(figure)

    def median(self, contender: str, line: str) -> float:
        """Return the middle of what the rounds gave."""
        return statistics.median(self.figures[contender][line])

    def reached(self, line: Line, bound: Bound) -> float:
        """Return the figure or ratio that *bound* limits."""
        figure = self.median(bound.figure, line.name)
        return figure if bound.against is None else figure / self.median(bound.against, bound.at or line.name)


def meets(reached: float, bound: Bound) -> bool:
    """Whether *reached* is within the limits of *bound*."""
    return (bound.least is None or reached >= bound.least) and (bound.most is None or reached <= bound.most)


def measure(case: Case, rounds: int) -> Outcome:
    """Run every contender of *case* once in each round, the first in turn; progress goes to standard error."""
    print(case.name, file=sys.stderr, flush=True)
    outcome = Outcome(case)
    names = list(case.contenders)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            outcome.add(name, case.contenders[name]())
    return outcome
