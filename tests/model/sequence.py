"""One sequence of steps, from its seed; and, for one that fails, the few steps that it takes."""

from __future__ import annotations

import io
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from random import Random
from unittest.mock import patch

from batpak import read_only, reading
from batpak.actors import index, journal, system
from batpak.storage import opening, run_builder
from tests.model import faults, looking, writing
from tests.model.steps import run_step
from tests.model.world import Counts, DriverName, World

STEPS = 60
MAX_ATTEMPTS = 300


@contextmanager
def small() -> Iterator[None]:
    """Make everything small that so few steps would not fill, and keep the log out of the way."""
    with ExitStack() as stack:
        for patched in (
            patch.multiple(index, RUN_EVENTS=16, CLOSE_EVENTS=4),
            patch.multiple(run_builder, SMALLEST_CLASS_ROWS=16, MERGED_RUNS=3),
            patch.multiple(opening, SPILL_EVENTS=24),
            patch.multiple(reading, FIRST_BLOCK=3, READ_AHEAD=5),
            patch.multiple(read_only, MAX_FROZEN_TAILS=1),
            patch.multiple(system, MAX_HEADS=4),
            patch.multiple(journal, FIRST_STEP_BYTES=8192),
        ):
            stack.enter_context(patched)
        stack.enter_context(redirect_stdout(io.StringIO()))
        yield


def run_sequence(seed: int, driver: DriverName = "stepped", steps: Sequence[int] = range(STEPS)) -> Counts:
    """Run the steps of one sequence; where there are no threads, all of it follows from the seed."""
    counts = Counts()
    counts.drivers[driver] += 1
    with small(), patch.object(os, "urandom", Random(seed).randbytes):
        world = World(seed, driver, counts)
        try:
            for number in steps:
                run_step(world, number)
            world.finish()
        except BaseException as error:
            error.add_note("\n".join(world.trace))
            raise
        finally:
            world.drop()
    return counts


def shrink(seed: int, error: BaseException, steps: Sequence[int] = range(STEPS)) -> tuple[list[int], BaseException]:
    """Return the fewest steps found that still fail in the same place, and their error."""
    kept, place = list(steps), _place(error)
    attempts, size = 0, len(kept) // 2
    while size and attempts < MAX_ATTEMPTS:
        at = 0
        while at < len(kept) and attempts < MAX_ATTEMPTS:
            fewer = kept[:at] + kept[at + size :]
            attempts += 1
            try:
                run_sequence(seed, "stepped", fewer)
            except BaseException as again:
                if _place(again) == place:
                    kept, error = fewer, again
                    continue
            at += size
        size //= 2
    return kept, error


def _place(error: BaseException) -> tuple[str, int | None]:
    """Return what kind of error it is and which line of which step it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    return type(error).__name__, next((each.lineno for each in frames if each.filename in _STEP_FILES), None)


_STEP_FILES = {module.__file__ for module in (faults, looking, writing)}
