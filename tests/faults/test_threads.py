"""Threads: one that cannot start, an actor that dies at any bytecode, memory that runs out at any allocation.

`tests/interrupts` does this at length and with more kinds of calls; here are the rows of the table, for every actor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from batpak import ActorFailedError, Store
from batpak.actors import index
from batpak.actors.reader import Reader
from tests.faults.conftest import Table
from tests.faults.injection import WHERE, Case, Farm, check, require_strace
from tests.faults.scale import TIMES, dice, times
from tests.faults.sites import BEGINNINGS
from tests.interrupts.conftest import (  # noqa: F401 - fixtures
    LEAVES_DESCRIPTORS,
    many_descriptors,
    no_thread_is_left,
    unraisable_is_let_go,
)
from tests.interrupts.strike import Struck, StruckExit
from tests.interrupts.test_actor_loop import Ask, append, append_durably, sweep
from tests.interrupts.world import EVERYTHING, World

CLONES = "clone,clone3"
ONCE_OR_FROM_THEN_ON = ("", "+")
THREADS = 6
"""How many threads a life starts, in two opens."""
STEPS = {"writer": 401, "index": 401, "reader": 121}
"""At every so manieth bytecode an actor's thread is struck, from a different first one in each run."""
MEMORY_STOP, MEMORY_STEP = 2001, 7


@pytest.mark.slow
@pytest.mark.timeout(200 * TIMES)
def test_a_thread_that_cannot_be_started_is_a_typed_error_and_the_next_open_goes_through(table: Table) -> None:
    require_strace()
    random = dice("threads that cannot start")
    cases = [
        Case(CLONES, "error=EAGAIN", f"{number}{random.choice(ONCE_OR_FROM_THEN_ON)}", each.segment_format, each.begins)
        for each in BEGINNINGS
        if each.begins == "torn"
        for number in range(1, THREADS + 1)
    ]
    with Farm() as farm:
        outcomes = farm.live(cases)
    found = check(outcomes)
    assert found["unnoticed"] == 0, "who cannot have a thread is told"
    table.add("a thread cannot start (clone3: EAGAIN)", 10, found)


def append_and_read(world: World, numbers: range) -> list[Any]:
    """Append, and have the reader load it."""
    receipts = world.append(numbers[0])
    world.store._maps.clear()
    assert world.store.get(receipts[0].event_id).payload == world.payload(numbers[0])
    return receipts


ASKS: dict[str, tuple[Ask, ...]] = {
    "writer": (append, append_durably),
    "index": (append,),
    "reader": (append_and_read,),
}


@pytest.mark.slow
@pytest.mark.timeout(200 * TIMES)
@pytest.mark.parametrize("actor", ASKS)
@LEAVES_DESCRIPTORS[0]
@LEAVES_DESCRIPTORS[1]
def test_an_actor_that_dies_at_any_bytecode_leaves_nobody_waiting(
    actor: str, tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "RUN_EVENTS", 5)
    monkeypatch.setattr(index, "CLOSE_EVENTS", 1)
    random = dice(f"actor {actor}")
    counts: Counter[str] = Counter()
    for segment_format in (2, 1):
        exception = random.choice((Struck, StruckExit))
        step = max(1, STEPS[actor] // times(1) - random.randrange(7))
        options = {"segment_format": segment_format}
        points, restarts = sweep(
            tmp_path / f"{segment_format}", actor, *ASKS[actor], step=step, exception=exception, options=options
        )
        assert points > 3
        counts["everybody answered"] += points
        counts["threads started again"] += restarts
    del counts["threads started again"]  # interrupts are no fault of the actor: most end no thread
    table.add(f"the {actor} dies at a bytecode", 8, counts)


def test_a_bug_of_the_reader_is_counted_and_a_second_one_ends_reads_of_payloads_alone(
    tmp_path: Path, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("a bug")

    with World(tmp_path / "journal") as world:
        numbers = world.numbers()
        receipts = world.append(numbers[0])
        world.account(numbers, receipts)
        event_id = receipts[0].event_id
        for state in ("degraded", "failed"):
            with monkeypatch.context() as patch:
                patch.setattr(Reader, "_load", bug)
                with pytest.raises(ActorFailedError) as caught:
                    world.store.get(event_id)
            assert caught.value.actor == "reader"
            assert world.store.diagnostics().state in {state, "degraded"}
        with pytest.raises(ActorFailedError):
            world.store.get(event_id)
        assert [entry.event_id for entry in world.store.query(EVERYTHING)] == [event_id]
        more = world.numbers()
        world.account(more, world.append(more[0]))
        world.store.close()
        with Store.open(tmp_path / "journal") as store:
            assert store.get(event_id).event_id == event_id
            assert store.stats().events == 2
    table.add("the reader has a bug, twice", 1, {"counted, then refused": 1})


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_memory_that_runs_out_at_any_allocation_costs_nothing_acknowledged(table: Table) -> None:
    pytest.importorskip("_testcapi", reason="this interpreter has no module that lets allocations fail")
    step = max(1, MEMORY_STEP // times(1))
    root = str(Path(__file__).parents[2])
    with TemporaryDirectory(prefix="batpak-faults-", dir=WHERE[-1]) as scratch:
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.nomemory", scratch, "0", str(MEMORY_STOP), str(step)],
            cwd=root,
            env=os.environ | {"PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    table.add("out of memory at the k-th allocation", 286, json.loads(done.stdout.splitlines()[-1]))
