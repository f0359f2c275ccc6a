"""A process that is killed at an exact system call loses nothing that it was given a receipt for."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.conftest import Table
from tests.faults.injection import Case, Farm, check, require_strace
from tests.faults.scale import TIMES, dice, times
from tests.faults.sites import BEGINNINGS, CHANGES, spread

KILLS = 200
MARGIN = 16
"""Some cases more than are asked for: threads do not always make as many calls as they did when they were counted."""


@pytest.mark.slow
@pytest.mark.timeout(300 * TIMES)
def test_a_kill_at_any_call_loses_nothing_that_has_a_receipt(table: Table) -> None:
    require_strace()
    random = dice("killed at a call")
    cases: list[Case] = []
    kinds: Counter[str] = Counter()
    with Farm() as farm:
        for each in BEGINNINGS:
            counts = farm.counted(Case("", begins=each.begins, segment_format=each.segment_format), CHANGES)
            for call, number in spread(counts, (times(KILLS) + MARGIN) // len(BEGINNINGS), random):
                cases.append(Case(call, "signal=KILL", f"{number}", each.segment_format, each.begins))
        outcomes = farm.live(cases)
    found = check(outcomes)
    kinds.update(outcome.case.syscall for outcome in outcomes if outcome.struck)
    assert set(kinds) >= set(CHANGES) - {"mkdir"}, kinds
    table.add("kill -9 at an exact system call", times(KILLS), found)
