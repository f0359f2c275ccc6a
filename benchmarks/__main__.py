"""`python -m benchmarks`: measure both contenders in alternating rounds and print one Markdown table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import Batpak
from benchmarks.machine import machine_facts
from benchmarks.sqlite_events import SqliteEvents
from benchmarks.table import Result, markdown
from benchmarks.workloads import Sizes, Trial, workloads

QUICK = Sizes(written=1_000, durable=50, point_reads=1_000, stored=5_000)
NOTES = """\
Rounds alternate between the two; figures are medians with least and greatest. The ratio is above one where batpak is
faster. SQLite is a table in WAL mode with ids, unique keys, a sequence for each entity and a BLAKE3 chain, without
batpak's indexes by scope, kind, correlation and cause. Appends are answered once they survive the death of the
process, durable ones once an fsync has returned. One event is five fields, 80 bytes packed, of 1,000 entities."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--size", type=int, default=Sizes().stored, help="events to read from and to open (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each figure (%(default)s)")
    parser.add_argument("--directory", type=Path, default=Path("build"), help="where stores are made (%(default)s)")
    parser.add_argument("--only", metavar="WORD", help="only workloads with this word in their name")
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds: a trial, not a measurement")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(arguments)
    sizes = QUICK if options.quick else Sizes(stored=options.size)
    rounds = 2 if options.quick else options.rounds
    options.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as name:
        directory = Path(name)
        facts = machine_facts(directory)
        results = measure(directory, sizes, rounds, options.only or "")
    print(f"{markdown(results)}\n\n{NOTES}\n")
    for fact in facts:
        print(f"* {fact}")


def measure(directory: Path, sizes: Sizes, rounds: int, only: str) -> list[Result]:
    """Return the figures of the workloads whose name contains *only*; progress goes to standard error."""
    batpak = Trial(Batpak, directory / "batpak", sizes)
    sqlite = Trial(SqliteEvents, directory / "sqlite", sizes)
    _say(f"filling both stores with {sizes.stored:,} events")
    batpak.fill()
    sqlite.fill()
    results = []
    for workload in workloads(sizes):
        if only in workload.name:
            _say(workload.name)
            pairs = [(workload.measure(batpak), workload.measure(sqlite)) for _ in range(rounds)]
            results.append(Result(workload, *map(tuple, zip(*pairs, strict=True))))
    return results


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
