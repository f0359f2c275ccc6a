"""Outcomes as Markdown: what was to be reached, the figures of each case, and where a rival is ahead."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.case import US, Bound, Line, Outcome, meets
from benchmarks.rivals import ROSTER

FLOORS = {"raw write", "fdatasync", "growing fdatasync", "SimpleQueue", "to_thread"}
"""Contenders that store nothing or only bytes: what cannot be undercut, no rivals."""

DIFFERENCE = "more than"
"""In the name of a line that is the difference of two figures: its ratio to a rival's means nothing."""

SUMMARY_HEADER = "| workload | figure | reached | floor | goal |\n|---|---|---:|---|---|"


def summary(outcomes: Iterable[Outcome]) -> str:
    """Return one row for each figure that has bounds and each rival it is compared with: reached, asked, met or not."""
    rows = [SUMMARY_HEADER]
    for outcome in outcomes:
        for line in outcome.case.lines:
            compared: dict[tuple[str, str | None, str | None], list[Bound]] = {}
            for bound in line.bounds:
                compared.setdefault((bound.figure, bound.against, bound.at), []).append(bound)
            rows += [_row(outcome.case.name, *_summed_up(outcome, line, bounds)) for bounds in compared.values()]
    return "\n".join(rows)


def counts(outcomes: Iterable[Outcome]) -> str:
    """Return one sentence: how many floors and goals there are and how many are met."""
    met: dict[str, list[bool]] = {"floor": [], "goal": []}
    for outcome in outcomes:
        for line in outcome.case.lines:
            for bound in line.bounds:
                if is_known(outcome, line, bound):
                    met[bound.level].append(meets(outcome.reached(line, bound), bound))
    floors, goals = met.values()
    return f"{sum(floors)} of {len(floors)} floors and {sum(goals)} of {len(goals)} goals are met."


def is_known(outcome: Outcome, line: Line, bound: Bound) -> bool:
    """Whether the figures that *bound* is about were measured; a rival may not be installed."""
    wanted = [(bound.figure, line.name)]
    if bound.against is not None:
        wanted.append((bound.against, bound.at or line.name))
    return all(name in outcome.figures.get(contender, {}) for contender, name in wanted)


def case_table(outcome: Outcome) -> str:
    """Return the figures of one case; contenders are the rows, or the columns where there are fewer of them."""
    lines = [line for line in outcome.case.lines if any(line.name in of for of in outcome.figures.values())]
    heads = [f"{line.name}, {line.unit}" if line.unit else line.name for line in lines]
    names = list(outcome.figures)
    if len(lines) <= len(names):
        rows = [[name, *(_cell(outcome, line, name) for line in lines)] for name in names]
        heads = ["", *heads]
    else:
        rows = [
            [head, *(_cell(outcome, line, name) for name in names)] for head, line in zip(heads, lines, strict=True)
        ]
        heads = ["", *names]
    rule = "|---|" + "---:|" * (len(heads) - 1)
    return "\n".join([_row(*heads), rule, *(_row(*row) for row in rows)])


def losses(outcomes: Iterable[Outcome]) -> list[str]:
    """Return a sentence for each case in which rivals are ahead of batpak, with the worst of its lines for each."""
    found = []
    for outcome in outcomes:
        ahead = []
        for name in outcome.figures:
            if name not in ROSTER or name in FLOORS or name == US:
                continue
            ratios = [(ratio, line) for line in outcome.case.lines if (ratio := advantage(outcome, line, name))]
            worst = min(ratios, default=None, key=lambda pair: pair[0])
            if worst is not None and worst[0] < 1:
                ahead.append(f"{name} {number(1 / worst[0])} x ({worst[1].name})")
        if ahead:
            found.append(f"{outcome.case.name}: {', '.join(ahead)}")
    return found


def advantage(outcome: Outcome, line: Line, contender: str) -> float | None:
    """Return how many times better batpak's median is than *contender*'s; None where there is no such ratio."""
    if DIFFERENCE in line.name or any(line.name not in outcome.figures.get(name, {}) for name in (US, contender)):
        return None
    ours, theirs = outcome.median(US, line.name), outcome.median(contender, line.name)
    better, worse = (ours, theirs) if line.more_is_better else (theirs, ours)
    return better / worse if better > 0 and worse > 0 else None


def spread(figures: Sequence[float]) -> str:
    """Return the median with least and greatest behind it, where there are several."""
    if len(figures) == 1:
        return f"**{number(figures[0])}**"
    return f"**{number(statistics.median(figures))}** ({number(min(figures))} to {number(max(figures))})"


def number(figure: float) -> str:
    """Return a figure in as many digits as mean something."""
    digits = 0 if abs(figure) >= 100 else 1 if abs(figure) >= 10 else 2
    return f"{figure:,.{digits}f}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(outcome: Outcome, line: Line, contender: str) -> str:
    """Return the figures of one contender, and how batpak compares with it."""
    figures = outcome.figures[contender].get(line.name)
    if not figures:
        return ""
    ratio = None if contender == US else advantage(outcome, line, contender)
    return spread(figures) if ratio is None else f"{spread(figures)} {number(ratio)} x"


def _summed_up(outcome: Outcome, line: Line, bounds: Sequence[Bound]) -> tuple[str, str, str, str]:
    """Return the cells of one row: the figure, what was reached, and for floor and goal whether that is enough."""
    first = bounds[0]
    figure = line.name if first.figure == US else f"{line.name} of {first.figure}"
    if first.against is not None:
        figure += f" : {first.against}" + (f" ({first.at})" if first.at else "")
    unit = "x" if first.against is not None else line.unit
    if not is_known(outcome, line, first):
        return figure, "not measured", "", ""
    reached = outcome.reached(line, first)
    verdicts = {"floor": "", "goal": ""}
    for bound in bounds:
        verdicts[bound.level] = f"{_asked(bound, unit)}: {'met' if meets(reached, bound) else '**missed**'}"
    return figure, f"{number(reached)} {unit}".strip(), verdicts["floor"], verdicts["goal"]


def _asked(bound: Bound, unit: str) -> str:
    """Return what *bound* asks for, in words."""
    limits = (("at least", bound.least), ("at most", bound.most))
    return " and ".join(f"{word} {limit:,.4g} {unit}".strip() for word, limit in limits if limit is not None)
