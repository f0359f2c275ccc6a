"""`python -m tests.counts`: count everything and print what differs; with `--write` write it down as expected."""

from __future__ import annotations

import argparse
import sys

from tests.counts.counting import counted_alike
from tests.counts.kernel import strace_is_there, system_calls
from tests.counts.table import HERE, TIMES, Kind, differences, expected, write


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main() -> None:
    """Count, print, and write where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.counts", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"put what was counted into {HERE}")
    options = parser.parse_args()
    found = counted_alike()
    if strace_is_there():
        for scene in found:
            found[scene] |= system_calls(scene)
    for scene, figures in found.items():
        _say(f"{scene}, {TIMES[scene]} times")
        for name, figure in figures.items():
            wanted = expected(scene, name)
            note = "" if wanted == figure else f"   expected {'nothing yet' if wanted is None else f'{wanted:,}'}"
            _say(f"    {name:22} {figure:>10,} {figure / TIMES[scene]:>12,.2f} each{note}")
    kinds = Kind if strace_is_there() else (Kind.PLAIN, Kind.VERSIONED)
    changed = [line for scene in found for kind in kinds for line in differences(scene, found[scene], kind)]
    _say(f"{len(changed)} figures differ from {HERE}")
    if options.write:
        write(found)


if __name__ == "__main__":
    main()
