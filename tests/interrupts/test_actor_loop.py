"""One exception at each bytecode of an actor's own thread, while three askers wait and each asks exactly twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from batpak.actors import index
from tests.interrupts.conftest import LEAVES_DESCRIPTORS
from tests.interrupts.strike import Struck, StruckExit, ThreadTracer
from tests.interrupts.world import LONG, PATIENCE_SECONDS, World, until

pytestmark = LEAVES_DESCRIPTORS

ASKERS = 3
ROUNDS_A_STORE = 15
MISSES = 3
"""So many rounds in a row that end before the bytecode is reached are the end of the sweep."""

Ask = Callable[[World, range], list[Any]]


def ask_round(world: World, asks: tuple[Ask, ...], events: int) -> None:
    """Let three threads ask twice each, all first commands waiting before the first turn begins."""
    outcomes: list[tuple[range, Any]] = []

    def run(calls: list[tuple[Ask, range]]) -> None:
        for ask, numbers in calls:
            try:
                outcomes.append((numbers, ask(world, numbers)))
            except BaseException as error:
                outcomes.append((numbers, error))

    driver = world.store._writer
    threads = []
    with driver.turn:
        for number in range(ASKERS):
            calls = [(asks[(number + again) % len(asks)], world.numbers(events)) for again in (0, 1)]
            threads.append(Thread(target=run, args=(calls,), daemon=True))
            threads[-1].start()
        until(lambda: len(driver.mailbox.items) >= ASKERS, "three queued commands")
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive(), "an asker waits for ever"
    assert len(outcomes) == 2 * ASKERS
    for numbers, outcome in outcomes:
        # The interrupt met the actor's thread: whoever asked gets a receipt all the same.
        assert isinstance(outcome, list), f"found {outcome!r}"
        world.account(numbers, outcome)


def append(world: World, numbers: range) -> list[Any]:
    return world.append(numbers[0])


def append_durably(world: World, numbers: range) -> list[Any]:
    return world.append(numbers[0], durable=True)


def sweep(
    directory: Path,
    actor: str,
    *asks: Ask,
    step: int,
    exception: type[BaseException] = Struck,
    options: dict[str, Any] | None = None,
) -> tuple[int, int]:
    """Strike the thread of *actor* at every *step*-th bytecode; how many points, and how often it was restarted."""
    at, points, restarts, misses = 1, 0, 0, 0
    while misses < MISSES:
        with ThreadTracer(f"batpak-{actor}", exception) as tracer:
            world = World(directory / f"{at}", **{"driver": "threaded"} | (options or {}))
        with world:
            world.check()
            for _ in range(ROUNDS_A_STORE):
                tracer.arm(at)
                ask_round(world, asks or (append,), 1)
                where = tracer.disarm()
                misses = 0 if where else misses + 1
                if misses == MISSES:
                    break
                points += bool(where)
                at += step
                try:
                    world.check()
                except BaseException as error:
                    error.add_note(f"struck at bytecode {at - step}, in {where}")
                    raise
            restarts += sum(each.restarts for each in world.store.diagnostics().actors)
            world.check_all()
    return points, restarts


@pytest.mark.parametrize("exception", [Struck, StruckExit])
def test_an_exception_at_any_bytecode_of_the_writers_thread(exception: type[BaseException], tmp_path: Path) -> None:
    points, restarts = sweep(tmp_path, "writer", append, append_durably, step=1 if LONG else 61, exception=exception)
    print(f"writer, {exception.__name__}: {points} points, {points * 6} appends, {restarts} restarts")  # noqa: T201


def test_an_exception_at_any_bytecode_of_the_indexs_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "RUN_EVENTS", 5)
    monkeypatch.setattr(index, "CLOSE_EVENTS", 1)
    points, restarts = sweep(tmp_path, "index", step=1 if LONG else 61)
    print(f"index: {points} points, {restarts} restarts")  # noqa: T201 - shown with -s


def test_an_exception_at_any_bytecode_of_a_thread_that_seals_segments(tmp_path: Path) -> None:
    points, restarts = sweep(
        tmp_path, "writer", step=1 if LONG else 61, options={"segment_bytes": 4096, "text": 1500, "driver": "assisted"}
    )
    print(f"sealing: {points} points, {restarts} restarts")  # noqa: T201 - shown with -s
