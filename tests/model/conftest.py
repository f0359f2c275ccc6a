"""Prints what the sequences of the model reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    from tests.model.test_model import REACHED

    if not REACHED.steps:
        return
    terminalreporter.section("model")
    terminalreporter.line(f"{sum(REACHED.drivers.values())} sequences, {REACHED.steps} steps")
    for name in ("drivers", "calls", "errors", "kills"):
        counts = getattr(REACHED, name).most_common()
        terminalreporter.line(f"{name}: " + ", ".join(f"{what} {count}" for what, count in counts))
