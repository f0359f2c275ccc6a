"""System calls that fail, once or from then on: typed errors, what was acknowledged is read, a reopen goes on."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Table
from tests.faults.injection import Case, Farm, check, require_strace
from tests.faults.scale import TIMES, dice, times
from tests.faults.sites import BEGINNINGS, CHANGES, READS, spread

RUNS = 300
MARGIN = 24
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EFBIG", "EMFILE")


@pytest.mark.slow
@pytest.mark.timeout(300 * TIMES)
def test_a_call_that_fails_with_any_error_is_a_typed_error_and_nothing_acknowledged_is_lost(table: Table) -> None:
    require_strace()
    random = dice("failing calls")
    cases: list[Case] = []
    with Farm() as farm:
        for each in BEGINNINGS:
            counts = farm.counted(Case("", begins=each.begins, segment_format=each.segment_format), CHANGES + READS)
            for call, number in spread(counts, (times(RUNS) + MARGIN) // len(BEGINNINGS), random):
                when = f"{number}{random.choice(('', '', '+'))}"  # a third of them from then on
                cases.append(Case(call, f"error={random.choice(ERRORS)}", when, each.segment_format, each.begins))
        outcomes = farm.live(cases)
    table.add("ENOSPC, EDQUOT, EIO, EROFS, EFBIG, EMFILE on any call", times(RUNS), check(outcomes))
