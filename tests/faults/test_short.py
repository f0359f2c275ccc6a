"""Writes and reads that do less than they were asked for, or are interrupted: loops go on, or a typed error says so.

Three ways: the system call is made with a shorter length, so that what it answers is true; strace answers a length
and does nothing, which is a lie; or the call is interrupted by a signal before it did anything (EINTR).
"""

from __future__ import annotations

import ctypes
import errno
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, Literal
from unittest.mock import patch

import pytest

from batpak.storage import open_files
from batpak.storage.files import RealFiles
from tests.faults.conftest import Table
from tests.faults.injection import WHERE, Case, Farm, check, require_strace
from tests.faults.scale import TIMES, dice, times
from tests.faults.sites import BEGINNINGS, FORMATS, INTERRUPTIBLE, spread
from tests.faults.witness import Witness, site

A_SITE = 1
"""How many calls of each site are shortened, and how many interrupted, in an ordinary run and each format."""
LIES = 24
INTERRUPTS = 36
PREAD, PWRITE = "_pread", "_pwrite"


class Short:
    """Stands for the system call *name*: its call numbered *at* takes *length* bytes, or is interrupted without one."""

    def __init__(self, name: str, at: int, length: int | None) -> None:
        self._call: Callable[..., int] = getattr(open_files, name)
        self.at = at
        self.length = length
        self.count = 0
        self.sites: dict[str, list[int]] = {}
        self.struck = ""

    def __call__(self, descriptor: int, data: Any, length: int, offset: int) -> int:
        self.count += 1
        if not self.at:
            self.sites.setdefault(site(), []).append(self.count)
        elif self.count == self.at:
            self.struck = site()
            if self.length is None:
                ctypes.set_errno(errno.EINTR)
                return -1
            length = min(self.length, length)
        return self._call(descriptor, data, length, offset)


@contextmanager
def instead(name: str, short: Short) -> Iterator[None]:
    """Have the storage call *short* and not the system."""
    with (
        patch.object(open_files, name, short),
        patch("batpak.actors.index.RUN_EVENTS", 6),
        patch("batpak.actors.index.CLOSE_EVENTS", 1),
    ):
        yield


def lived(segment_format: Literal[1, 2], name: str, at: int, length: int | None) -> Short:
    """Live through a life with one such call, and hold what it left against what it had promised."""
    short = Short(name, at, length)
    with TemporaryDirectory(prefix="batpak-faults-", dir=WHERE[-1]) as scratch:
        witness = Witness(lambda: RealFiles.open(f"{scratch}/store", create=True), segment_format)
        live(witness, short, name)
    return short


def live(witness: Witness, short: Short, name: str) -> None:
    """Have *witness* live with *short* in the place of the call."""
    try:
        with instead(name, short):
            witness.live()
        may_fail = name == PWRITE and short.length is not None
        assert may_fail or witness.errors == [], "a call that was interrupted, or read too little, is made again"
        witness.check()
    except BaseException as error:
        error.add_note(f"{name} {short.at}, {short.length} bytes, in {short.struck}: {witness.errors}")
        raise


@pytest.mark.slow
@pytest.mark.timeout(300 * TIMES)
@pytest.mark.parametrize("name", [PREAD, PWRITE])
def test_a_call_that_does_less_or_is_interrupted_goes_on_or_is_a_typed_error(name: str, table: Table) -> None:
    random = dice(f"short {name}")
    counts: Counter[str] = Counter()
    sites: set[str] = set()
    for segment_format in FORMATS:
        unharmed = lived(segment_format, name, 0, 0)
        for where, calls in unharmed.sites.items():
            sites.add(where)
            for length in (None, random.choice((0, 1, 8, 40)) if name == PWRITE else random.choice((1, 8, 40))):
                for at in random.sample(calls, min(len(calls), times(A_SITE))):
                    short = lived(segment_format, name, at, length)
                    assert short.struck == where
                    counts["interrupted" if length is None else "short"] += 1
    assert len(sites) > 5, sites
    table.add(f"short and interrupted {name[1:]}, {len(sites)} sites", 2 * len(sites), counts)


@pytest.mark.slow
@pytest.mark.timeout(300 * TIMES)
def test_a_call_interrupted_by_a_signal_is_made_again(table: Table) -> None:
    require_strace()
    random = dice("interrupted")
    cases: list[Case] = []
    with Farm() as farm:
        for each in BEGINNINGS:
            counts = farm.counted(Case("", begins=each.begins, segment_format=each.segment_format), INTERRUPTIBLE)
            for call, number in spread(counts, times(INTERRUPTS) // len(BEGINNINGS) + 3, random):
                cases.append(Case(call, "error=EINTR", f"{number}", each.segment_format, each.begins))
        outcomes = farm.live(cases)
    found = check(outcomes)
    failed = [outcome for outcome in outcomes if outcome.struck and outcome.how != "unnoticed"]
    assert not failed, [(outcome.case, outcome.log) for outcome in failed]
    table.add("EINTR at any call", times(INTERRUPTS), found)


@pytest.mark.slow
@pytest.mark.timeout(300 * TIMES)
def test_a_call_that_lies_about_what_it_did_is_found_out_or_costs_nothing_durable(table: Table) -> None:
    require_strace()
    random = dice("lies")
    cases: list[Case] = []
    with Farm() as farm:
        for each in BEGINNINGS:
            counts = farm.counted(
                Case("", begins=each.begins, segment_format=each.segment_format), ("pread64", "pwrite64")
            )
            for call, number in spread(counts, times(LIES) // len(BEGINNINGS) + 2, random):
                what = f"retval={random.choice((1, 8, 40))}"
                cases.append(Case(call, what, f"{number}", each.segment_format, each.begins, lies=True))
        outcomes = farm.live(cases)
    table.add("a write or read that answers a length and does nothing", times(LIES), check(outcomes))
