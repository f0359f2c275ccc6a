"""What a run of the command found, kept so that it can be told again without measuring again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.case import Case, Outcome


@dataclass(slots=True)
class Section:
    """One part of the table: the outcomes of a module's cases, and what it says of contenders of its own."""

    title: str
    outcomes: list[Outcome]
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """Everything that is told."""

    machine: Sequence[str]
    largest: int
    """The size that contenders have which do not say one, where figures are compared by size."""

    trial: bool = False
    """Whether the sizes were too small to mean anything."""

    missing: Sequence[str] = ()
    """Rivals that are not installed."""

    sections: list[Section] = field(default_factory=list)
    delivery: str = ""
    """The tables of `benchmarks.delivery`, as Markdown."""

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of all sections, in order."""
        return [outcome for section in self.sections for outcome in section.outcomes]

    def save(self, path: Path) -> None:
        """Write the figures to *path*; what was measured earlier and is not part of this report stays."""
        kept = Kept.load(path) if path.exists() else Kept()
        kept.by_case |= {outcome.case.name: outcome.figures for outcome in self.outcomes}
        kept.machine = [*self.machine]
        kept.delivery = self.delivery or kept.delivery
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"machine": kept.machine, "cases": kept.by_case, "delivery": kept.delivery}, indent=1),
            encoding="utf-8",
        )


@dataclass(slots=True)
class Kept:
    """What earlier runs found."""

    machine: list[str] = field(default_factory=list)
    by_case: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    delivery: str = ""

    @classmethod
    def load(cls, path: Path) -> Kept:
        """Read what `Report.save` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(found["machine"], found["cases"], found["delivery"])

    def outcome(self, case: Case) -> Outcome | None:
        """Return what was found for *case*, if it was measured."""
        figures = self.by_case.get(case.name)
        return None if figures is None else Outcome(without_measures(case), figures)


def without_measures(case: Case) -> Case:
    """Return *case* without what it would hold in memory."""
    return replace(case, contenders={})
