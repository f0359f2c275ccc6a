"""Where the command prints: lines of text or JSON to standard output, everything else to standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from batpak.clock import SystemClock
from batpak.errors import BatpakError, CorruptStoreError

if TYPE_CHECKING:
    from batpak.cli.forms import Json

NO: Final = 1
CANNOT: Final = 2

PATIENCE_SECONDS: Final = 1.0
"""What takes longer shows how far it is."""

MAX_NAMES: Final = 3
"""So many files are named, more are counted."""

Tell = Callable[[int, int], None]


def say(line: str = "", *, at_once: bool = False) -> None:
    """Print one line, without colours and without breaking it: so it stays one line for grep, and for a terminal."""
    sys.stdout.write(line + "\n")
    if at_once:
        sys.stdout.flush()


def say_aside(label: str, names: Sequence[str]) -> None:
    """Print what lies in the quarantine; of many files only how many."""
    if len(names) > MAX_NAMES:
        say(f"{label}{len(names)} files in {names[0].partition('/')[0]}/")
        return
    for name in names:
        say(f"{label}{name}")


def say_json(value: Json) -> None:
    """Print one value on one line, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Print one line to standard error."""
    sys.stdout.flush()
    sys.stderr.write(f"batpak: {line}\n")


def quiet_log() -> None:
    """Have the store log nothing: what a command finds, it says itself."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@contextmanager
def typed_errors(directory: str) -> Iterator[None]:
    """Turn errors into one line and an exit code."""
    try:
        yield
    except CorruptStoreError as error:
        complain(str(error))
        complain(f"what is damaged first, and what to do then: batpak verify {directory}")
        leave(NO)
    except BatpakError as error:
        complain(str(error))
        leave(CANNOT)


def leave(code: int) -> NoReturn:
    """End the command with an exit code."""
    raise typer.Exit(code)


@contextmanager
def progress(what: str) -> Iterator[Tell]:
    """Show how far a walk over bytes is, on a terminal, once it takes longer than a second."""
    clock = SystemClock()
    started = clock.monotonic()
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(what), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn(), console=console
    )
    task = bar.add_task(what, total=None)
    shown = False

    def tell(done: int, total: int) -> None:
        nonlocal shown
        if not shown and clock.monotonic() - started > PATIENCE_SECONDS and console.is_terminal:
            bar.start()
            shown = True
        if shown:
            bar.update(task, completed=done, total=total)

    try:
        yield tell
    finally:
        if shown:
            bar.stop()
