"""The table of faults: each suite says what it did, and the run prints it at its end."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pytest

from tests.faults.scale import SEED, TIMES


class Row(NamedTuple):
    """What one suite did: how many cases were asked for and done, and how they came out."""

    fault: str
    asked: int
    done: int
    outcomes: str


class Table:
    """Rows of the table, in the order of the suites."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, fault: str, asked: int, outcomes: Counter[str] | dict[str, int]) -> None:
        """Add a row: *outcomes* counts the cases by how they came out; as many as were *asked* for have to be there."""
        done = sum(outcomes.values())
        how = ", ".join(f"{count} {each}" for each, count in sorted(outcomes.items()))
        self.rows.append(Row(fault, asked, done, how))
        assert done >= asked, f"{fault}: {done} cases, {asked} were asked for"


TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    """Start an empty table."""
    config.stash[TABLE] = Table()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the rows over, where this is one process of several."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["faults"] = [list(row) for row in session.config.stash[TABLE].rows]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over the rows of a process in which tests ran."""
    table = node.config.stash[TABLE]
    table.rows = sorted([*table.rows, *(Row(*row) for row in node.workeroutput.get("faults", []))])


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    """The table of this run."""
    return request.config.stash[TABLE]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    rows = config.stash[TABLE].rows
    if not rows:
        return
    terminalreporter.section(f"faults, seed {SEED}, {TIMES} x the ordinary size")
    width = max(len(row.fault) for row in rows)
    for row in rows:
        terminalreporter.write_line(f"{row.fault:{width}}  {row.done:7,} of {row.asked:7,}  {row.outcomes}")
