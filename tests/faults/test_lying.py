"""Power cuts on a disk that lied about syncs: events may be gone and a store refused, but no answer is wrong."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from tests.faults.conftest import Table
from tests.faults.oracle import examine_after_lies
from tests.faults.recordings import Recording, first_lives, second_life
from tests.faults.scale import dice, times
from tests.faults.states import stops
from tests.faults.workloads import Format, small

SYNCS = ("sync", "sync_folder")
STOPS = 40
"""How many states of one recording are examined."""


def lied_about(recording: Recording, random: Random, share: float) -> Recording:
    """Return a recording in which such a share of the syncs did nothing."""
    operations = [each for each in recording.operations if each.action not in SYNCS or random.random() >= share]
    return Recording(operations, recording.model)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("segment_format", [2, 1])
def test_after_syncs_that_did_nothing_no_answer_is_wrong(segment_format: Format, table: Table) -> None:
    random = dice(f"lies {segment_format}")
    asked, distinct = times(500), set[int]()
    outcomes: Counter[str] = Counter()
    with small():
        while len(distinct) < asked:
            first = first_lives(segment_format, random)
            for whole in (first, second_life(first, random)):
                recording = lied_about(whole, random, random.choice((1.0, 1.0, 0.5, 0.1)))
                states = [state for _, state in stops(recording.operations, random, 2) if state.how != "killed"]
                for state in random.sample(states, min(STOPS, len(states))):
                    print_ = state.fingerprint()
                    if print_ in distinct:
                        continue
                    distinct.add(print_)
                    try:
                        outcomes[examine_after_lies(state, recording.model)] += 1
                    except Exception as error:
                        held = {name: len(data) for name, data in state.files.items()}
                        raise AssertionError(f"state {len(distinct)}, {state.how}, of {held}: {error!r}") from error
    assert min(outcomes["right"], outcomes["refused"]) > asked / 20, outcomes
    table.add(f"lying fsync, format {segment_format}", asked, outcomes)
