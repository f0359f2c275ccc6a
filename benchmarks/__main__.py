"""`python -m benchmarks`: batpak beside its rivals, in alternating rounds, as Markdown tables.

The figures are kept in the directory as `benchmarks.json` (`-quick`, `-full`); `--from` tells them again, and measures
anew what `--only` names. A bound that is missed is said in the table and is no failure of the command.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from batpak import Store
from benchmarks import delivery
from benchmarks.case import Case, Outcome, measure
from benchmarks.document import printed, write
from benchmarks.machine import machine_facts
from benchmarks.report import Kept, Report, Section, without_measures
from benchmarks.rivals import ROSTER, is_installed
from benchmarks.sizes import Sizes

SECTIONS = {
    "One thread": "appends",
    "Several threads": "threads",
    "Event loops": "tasks",
    "Beside busy threads": "busy",
    "Reads": "reads",
    "What grows": "growing",
    "Where the time goes": "stages",
}
"""The modules that have cases, by their titles."""

DELIVERY = "delivery"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="small sizes, one round: a trial, not a measurement")
    sizes.add_argument("--full", action="store_true", help="more rounds, stores of up to a million events")
    parser.add_argument("--rounds", type=int, help="measurements of each figure")
    parser.add_argument(
        "--only", metavar="WORD", default="", help="only sections and workloads with a word that begins so"
    )
    parser.add_argument("--from", metavar="FILE", dest="earlier", type=Path, help="take figures from an earlier run")
    parser.add_argument("--directory", type=Path, default=Path("build"), help="where stores are made (%(default)s)")
    parser.add_argument(
        "--write", metavar="DIRECTORY", type=Path, nargs="?", const=Path("docs"), help="write page and plot (docs)"
    )
    options = parser.parse_args(arguments)
    if options.write and options.only and not options.earlier:
        parser.error("--write with --only needs --from FILE, for the rest of the page")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    options = parse(arguments)
    sizes = Sizes.quick() if options.quick else Sizes.full() if options.full else Sizes.ordinary()
    options.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as name:
        report = run(Path(name), sizes, options.rounds or sizes.rounds, options.only, options.earlier)
    report.trial = options.quick
    report.save(options.directory / _figures_name(options))
    print(printed(report))
    if options.write:
        for path in write(report, options.write):
            _say(f"wrote {path}")


def _figures_name(options: argparse.Namespace) -> str:
    """Return the name of the file that keeps the figures; those of one size are never mixed with those of another."""
    return "benchmarks-quick.json" if options.quick else "benchmarks-full.json" if options.full else "benchmarks.json"


def run(scratch: Path, sizes: Sizes, rounds: int, only: str, earlier: Path | None) -> Report:
    """Return the figures of everything whose section or name has *only* in it, and of the rest what is known earlier.

    With *earlier* and nothing in *only*, nothing is measured.
    """
    kept = Kept.load(earlier) if earlier else Kept()
    packages = [entry.distribution for entry in ROSTER.values() if entry.distribution]
    report = Report(
        machine=kept.machine or machine_facts(scratch, dict.fromkeys([*packages, "uvloop"])),
        largest=max(sizes.growth),
        missing=[name for name in ROSTER if not is_installed(name)],
    )
    measuring = not earlier or bool(only)
    for title, name in SECTIONS.items():
        module = import_module(f"benchmarks.{name}")
        section = Section(title, [], getattr(module, "NOTES", {}))
        place = scratch / name
        for case in _cases(module, sizes, place):
            if measuring and is_wanted(only, title, name, case.name):
                found = measure(case, rounds)
                section.outcomes.append(Outcome(without_measures(case), found.figures))
            elif (outcome := kept.outcome(case)) is not None:
                section.outcomes.append(outcome)
        report.sections.append(section)
        shutil.rmtree(place, ignore_errors=True)
    report.delivery = kept.delivery
    if measuring and is_wanted(only, DELIVERY):
        report.delivery = _delivery(scratch, sizes, rounds)
    return report


def _cases(module: ModuleType, sizes: Sizes, place: Path) -> list[Case]:
    """Return the cases of a section."""
    found: list[Case] = module.cases(sizes, place)
    return found


def is_wanted(only: str, *names: str) -> bool:
    """Whether a word of one of *names* begins with *only*; nothing wants everything."""
    return any(re.search(rf"(?<!\w){re.escape(only)}", name, re.IGNORECASE) for name in names)


def _delivery(scratch: Path, sizes: Sizes, rounds: int) -> str:
    """Return the tables of how soon and how many events reach their consumers."""
    _say(DELIVERY)
    with Store.open(scratch / DELIVERY) as store:
        return delivery.markdown(*delivery.measure(store, rounds, sizes.deliveries, sizes.subscribers))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
