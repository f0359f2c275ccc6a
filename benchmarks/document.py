"""The report as one Markdown document: words written by hand, and the tables between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from string import Template

from benchmarks.case import Outcome
from benchmarks.report import Report, Section
from benchmarks.rivals import ROSTER, is_installed, load
from benchmarks.rivals.fair import SCHEMA
from benchmarks.table import case_table, counts, losses, summary

PREFACE = Path(__file__).parent / "preface.md"
TRIAL = "\n**A trial: the sizes were too small for these figures to mean anything.**\n"


def document(report: Report) -> str:
    """Return the whole page."""
    template = Template(PREFACE.read_text(encoding="utf-8"))
    return template.substitute(
        trial=TRIAL if report.trial else "",
        counts=counts(report.outcomes),
        summary=summary(report.outcomes),
        losses=_list(losses(report.outcomes)) or "Nowhere.",
        sections="\n\n".join(_sections(report)),
        machine=_list(report.machine),
        contenders=_list(_contenders(report)),
        schema=SCHEMA.strip(),
    )


def printed(report: Report) -> str:
    """Return what the command prints: every table, what each contender is, and the machine."""
    parts = [
        f"{counts(report.outcomes)}\n\n{summary(report.outcomes)}",
        *_sections(report),
        f"## Configured\n\n{_list(_contenders(report))}\n\nThe fair table:\n\n```sql\n{SCHEMA.strip()}\n```",
        f"## Machine\n\n{_list(report.machine)}",
    ]
    return "\n\n".join(parts)


def _sections(report: Report) -> list[str]:
    """Return each section with the tables of its cases, behind those of delivery what the command measures beside."""
    found = [_section(section) for section in report.sections if section.outcomes]
    if report.delivery:
        found.append(f"## Delivery\n\n{report.delivery}")
    return found


def _section(section: Section) -> str:
    return "\n\n".join([f"## {section.title}", *(_case(outcome) for outcome in section.outcomes)])


def _case(outcome: Outcome) -> str:
    return f"### {outcome.case.name}\n\n{case_table(outcome)}"


def _contenders(report: Report) -> list[str]:
    """Return one line for each contender that took part, and one for each that was left out."""
    took_part = {name for outcome in report.outcomes for name in outcome.figures}
    found = [f"**{name}**: {load(name).HOW}" for name in ROSTER if name in took_part and is_installed(name)]
    notes = {name: note for section in report.sections for name, note in section.notes.items()}
    found += [f"**{name}**: {note}" for name, note in notes.items() if _took_part(name, took_part)]
    found += [f"**{name}** was left out: `{ROSTER[name].distribution}` is not installed" for name in report.missing]
    return found


def _took_part(name: str, contenders: Iterable[str]) -> bool:
    """Whether one of *contenders* has this name, or the name and behind it where it ran."""
    return any(contender == name or contender.startswith((f"{name} ", f"{name},")) for contender in contenders)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def write(report: Report, directory: Path) -> Sequence[Path]:
    """Write the page, and the plot where matplotlib is installed; return what was written."""
    directory.mkdir(parents=True, exist_ok=True)
    page = directory / "performance.md"
    page.write_text(document(report), encoding="utf-8")
    if find_spec("matplotlib") is None:
        return [page]
    from benchmarks.plot import draw  # noqa: PLC0415 - the tables do without matplotlib

    plot = directory / "performance.svg"
    draw(report.outcomes, report.largest, plot)
    return [page, plot]
