"""A wall clock that jumps, backwards and forwards: the order of events is that of their appends, and ids increase."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batpak import NewEvent, Store, StoreConfig
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.faults.conftest import Table
from tests.faults.program import EVERYTHING, PLACED, coordinate, number_of
from tests.faults.scale import SEED, TIMES, times
from tests.faults.witness import end

RUNS = 500
START_US = 1_700_000_000_000_000
DECADE_US = 10 * 365 * 86_400 * 1_000_000
JUMPS = st.one_of(
    st.integers(-DECADE_US, DECADE_US),
    st.integers(-2_000, 2_000),
    st.sampled_from((0, 1, -1, 999, -999, 1_000, -1_000)),
)
STEPS = st.lists(st.tuples(JUMPS, st.sampled_from(("one", "batch", "reopen", "kill"))), min_size=1, max_size=12)


@pytest.mark.slow
@pytest.mark.timeout(200 * TIMES)
def test_a_clock_that_jumps_changes_no_order_and_every_id_is_above_the_one_before(table: Table) -> None:
    counts = {"order unchanged, ids increase": 0}

    @settings(max_examples=times(RUNS), database=None)
    @given(STEPS, st.sampled_from((2, 1)))
    def jump(steps: list[tuple[int, str]], segment_format: Literal[1, 2]) -> None:
        live(steps, segment_format)
        counts["order unchanged, ids increase"] += 1

    jump._hypothesis_internal_use_seed = SEED  # type: ignore[attr-defined] # as its decorator does
    jump()
    table.add("a wall clock that jumps", times(RUNS), counts)


def live(steps: list[tuple[int, str]], segment_format: Literal[1, 2]) -> None:
    """Append while the clock jumps as *steps* say, and look at what is there after each."""
    clock = HandClock(wall_us=START_US)
    config = StoreConfig(segment_format=segment_format, segment_bytes=4096, driver="stepped", clock=clock)
    files = MemoryFiles()
    store = Store(files, config, SteppedDrivers())
    ids: list[UUID] = []
    number = 0
    try:
        for jump, what in steps:
            clock.set_wall(clock.now_us() + jump)
            if what == "reopen":
                store.close()
                store = Store(files.beside(), config, SteppedDrivers())
            elif what == "kill":
                files = files.copy()
                end(store)
                store = Store(files, config, SteppedDrivers())
            count = 3 if what == "batch" else 1
            numbers = range(number, number + count)
            number += count
            items = [NewEvent(coordinate(n), PLACED, {"n": n, "text": "x" * 300}) for n in numbers]
            ids += [receipt.event_id for receipt in store.append_batch(items)]
        events = list(store.read(EVERYTHING))
        assert [number_of(event) for event in events] == list(range(number)), "in the order of the appends"
        assert [event.event_id for event in events] == ids
        assert ids == sorted(set(ids)), "each id is above the one before"
        assert store.verify_chain().intact
    finally:
        store.close()
