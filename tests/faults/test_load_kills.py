"""kill -9 at a random moment while 64 tasks append: what was acknowledged is there, once, whole and in order."""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from batpak import Coordinate, Region, Store
from tests.faults.conftest import Table
from tests.faults.load import NAME, PLACED, TASKS, config, key, serve
from tests.faults.scale import TIMES, dice, times
from tests.faults.sites import FORMATS
from tests.store.processes import start_python, tell, told

KILLS = 20
OPEN_SECONDS = 5.0


class Record:
    """What the lives of one directory were promised, and the comparison with what is there."""

    def __init__(self, directory: Path, segment_format: int) -> None:
        self._directory = directory
        self.segment_format = segment_format
        self.tried: dict[tuple[int, int], int] = {}
        self.acknowledged: dict[tuple[int, int], list[int]] = {}
        self.placed = -1
        self.recovered = 0

    def take(self, facts: list[list[Any]]) -> None:
        """Take in what a life told."""
        for what, *fact in facts:
            if what == "try":
                self.tried[fact[0], fact[1]] = fact[2]
            elif what == "ack":
                self.acknowledged[fact[0], fact[1]] = fact[2]
            elif what == "placed":
                self.placed = max(self.placed, fact[0])
            else:
                raise AssertionError(fact[0])

    def check(self) -> int:
        """Open the store and compare; the number from which the next life goes on."""
        begun = monotonic()
        with Store.open(self._directory, config=config(self.segment_format)) as store:
            assert monotonic() - begun < OPEN_SECONDS
            found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
            last: dict[int, int] = {}
            for at, event in enumerate(store.read(Region(entity="task"))):
                assert event.global_sequence == at or self.segment_format == 1, "no holes"
                payload: Any = event.payload
                task, number, part = (payload[name] for name in ("task", "number", "part"))
                assert part == len(found[task, number]), "the events of a call stand together, each once"
                assert number >= last.get(task, -1), "in the order of the calls"
                last[task] = number
                found[task, number].append(event.global_sequence)
            for call, sequences in self.acknowledged.items():
                assert found.get(call) == sequences, f"{call} was acknowledged"
            for call, sequences in found.items():
                assert len(sequences) == self.tried[call], f"{call} is there whole"
                assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
            self.recovered += len(set(found) - set(self.acknowledged))
            assert store.verify_chain().intact
            self._check_place(store)
            self._retry(store, found)
        return max((number for _, number in self.tried), default=-1) + 1

    def _check_place(self, store: Store) -> None:
        places = store.places()
        assert places or self.placed == -1
        for each in places:
            assert each.name == NAME
            found = -1 if each.place is None else each.place.global_sequence
            assert self.placed <= found <= store.stats().visible_sequence
            self.placed = found

    def _retry(self, store: Store, found: dict[tuple[int, int], list[int]]) -> None:
        """Make calls again whose outcome nobody knows: with a key that is safe."""
        unknown = [
            call for call in self.tried if call not in self.acknowledged and call[1] % 2 and self.tried[call] == 1
        ]
        for task, number in unknown:
            payload: Any = {"task": task, "number": number, "part": 0, "text": "x" * 50}
            receipt = store.append(
                Coordinate(f"task:{task}", "load"), PLACED, payload, idempotency_key=key(task, number)
            )
            known = found.get((task, number))
            assert receipt.duplicate == (known is not None)
            assert known is None or known == [receipt.global_sequence]
            self.acknowledged[task, number] = [receipt.global_sequence]


def lived(process: subprocess.Popen[str], **life: Any) -> list[list[Any]]:
    """Have *process* live a life; what it was promised."""
    tell(process, json.dumps(life))
    facts: list[list[Any]] = json.loads(told(process))
    return facts


@pytest.mark.slow
@pytest.mark.timeout(300 * TIMES)
def test_a_kill_at_any_time_under_load_loses_nothing_that_was_acknowledged(tmp_path: Path, table: Table) -> None:
    random = dice("load kills")
    counts: Counter[str] = Counter()
    with start_python(f"from {serve.__module__} import serve; serve()") as process:
        for segment_format in FORMATS:
            directory = tmp_path / f"{segment_format}"
            record = Record(directory, segment_format)
            first = 0
            for number in range((times(KILLS) + 1) // 2):
                life = {
                    "directory": str(directory),
                    "segment_format": segment_format,
                    "seed": random.randrange(2**32),
                    "first": first,
                    "acks": random.choice((0, random.randrange(64), random.randrange(1000))),
                    "delay": random.uniform(0, 0.02),
                }
                record.take(lived(process, **life))
                try:
                    first = record.check()
                except BaseException as error:
                    error.add_note(f"life {number}: {life}")
                    raise
                counts["recovered, nothing lost"] += 1
            assert len(record.acknowledged) > TASKS
        process.kill()
    table.add("kill -9 under 64 tasks that append", times(KILLS), counts)
