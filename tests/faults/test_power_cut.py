"""Power cuts and kills at every moment: nothing durable is lost, nothing is refused, no answer is wrong."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from batpak import NewEvent
from batpak.testing.memory import MemoryFiles
from tests.directories import content, load
from tests.faults.conftest import Table
from tests.faults.operations import played
from tests.faults.oracle import Promise, examine, promises
from tests.faults.recordings import Recording, after_a_cut, first_lives, real_lives, recorded, second_life
from tests.faults.scale import dice, times
from tests.faults.states import Disk, State
from tests.faults.strace_log import strace_is_there
from tests.faults.workloads import ENTITIES, PLACED, Format, scribe_in_memory, small

LOOK_FIRST = 8
"""Of so many states one is opened read-only first."""
STOPS = 250
"""How many states of one recording are examined."""


class Search:
    """Examines states, each once for what was told; counts those that are distinct."""

    def __init__(self, random: Random, asked: int) -> None:
        self.random = random
        self.asked = asked
        self.outcomes: Counter[str] = Counter()
        self._distinct: set[int] = set()
        self._examined: set[int] = set()

    @property
    def goes_on(self) -> bool:
        return len(self._distinct) < self.asked

    def look(self, recording: Recording) -> None:
        """Examine what stops may leave of a recording."""
        found = list(recording.states(self.random, draws=2))
        for state, promise in self.random.sample(found, min(STOPS, len(found))):
            if self.goes_on:
                self._examine(recording, state, promise)

    def _examine(self, recording: Recording, state: State, promise: Promise) -> None:
        print_ = state.fingerprint()
        told = hash((print_, promise.kept_by(state), tuple(sorted(promise.placed.items())), len(promise.anchors)))
        if told in self._examined:
            return
        self._examined.add(told)
        number = len(self._examined)
        try:
            examine(state, promise, recording.model, look_first=not number % LOOK_FIRST, close=bool(number % 2))
        except Exception as error:
            held = {name: len(data) for name, data in state.files.items()}
            raise AssertionError(f"state {number}, {state.how}, {promise}, of {held}: {error!r}") from error
        if print_ not in self._distinct:
            self._distinct.add(print_)
            self.outcomes[state.how] += 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("segment_format", [2, 1])
def test_at_every_moment_a_prefix_is_found_with_all_that_was_promised(segment_format: Format, table: Table) -> None:
    random = dice(f"power cut {segment_format}")
    search = Search(random, times(4500))
    with small():
        while search.goes_on:
            first = first_lives(segment_format, random)
            search.look(first)
            search.look(second_life(first, random))
            cuts = [state for state, _ in first.states(random, 1) if state.how != "killed"]
            search.look(after_a_cut(first, random.choice(cuts), random))
    table.add(f"power cut, format {segment_format}", search.asked, search.outcomes)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("segment_format", [2, 1])
def test_a_real_process_with_threads_leaves_nothing_else(segment_format: Format, table: Table, tmp_path: Path) -> None:
    if not strace_is_there():
        pytest.fail("no strace") if os.environ.get("CI") else pytest.skip("no strace")
    random = dice(f"strace {segment_format}")
    search = Search(random, times(500))
    with small():
        while search.goes_on:
            folder = tmp_path / f"{search.outcomes.total()}"
            search.look(real_lives(folder, segment_format, random))
    table.add(f"power cut, a real process, format {segment_format}", search.asked, search.outcomes)


def test_the_log_of_a_process_gives_what_stands_in_its_directory(tmp_path: Path) -> None:
    if not strace_is_there():
        pytest.fail("no strace") if os.environ.get("CI") else pytest.skip("no strace")
    recording = real_lives(tmp_path, 2, dice("log"))
    found = load(tmp_path / "store")
    assert content(played(recording.operations)) == {name: found[name] for name in found if ".batpak" not in name}


@pytest.mark.parametrize("segment_format", [2, 1])
def test_a_write_torn_at_any_byte_is_there_or_not(segment_format: Format) -> None:
    """Every byte of the last batch of a journal has its turn, by a kill or a power cut."""
    files = MemoryFiles()
    with small():
        scribe = scribe_in_memory(files, segment_format, dice("any byte"))
        scribe.append(scribe.events(2), durable=True)
        scribe.append([NewEvent(ENTITIES[0], PLACED, "small") for _ in range(2)])
        scribe.store.close()
        recording = recorded(files)
        at = next(at for at, each in enumerate(recording.operations) if each.name == "written 4") - 1
        last, told = recording.operations[at], promises(recording.operations)[at]
        disk = Disk()
        for each in recording.operations[:at]:
            if each.action != "note":
                disk.apply(each)
        counts: Counter[int] = Counter()
        for length in range(1, len(last.data) + 1):
            state = disk.killed_within(last, length)._replace(how=("killed", "cut")[length % 2])
            counts[examine(state, told, recording.model)] += 1
    assert counts == {2: len(last.data) - 1, 4: 1}
