"""One exception at each bytecode of a call, in the thread that calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest

from batpak.actors import index
from tests.interrupts.strike import Struck, strike
from tests.interrupts.world import LONG, World, key_of

pytestmark = pytest.mark.usefixtures("may_lose_descriptors")

POINTS_A_STORE = 25
LIMIT = 20_000

Act = Callable[[World, range], Any]


@dataclass(frozen=True)
class Call:
    """A call to be struck: what it does, with how many events, in what store."""

    act: Act
    events: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    step: int = 1  # in an ordinary run only every so manieth bytecode is struck


def append(world: World, numbers: range) -> Any:
    return world.append(numbers[0])


def append_durably(world: World, numbers: range) -> Any:
    return world.append(numbers[0], durable=True)


def append_keyed(world: World, numbers: range) -> Any:
    return world.append(numbers[0], idempotency_key=key_of(numbers[0]))


def append_batch(world: World, numbers: range) -> Any:
    return world.append_batch(numbers)


def append_batch_durably(world: World, numbers: range) -> Any:
    return world.append_batch(numbers, durable=True)


def cover(world: World, _: range) -> Any:
    world.store.sync()
    return []


def read(world: World, _: range) -> Any:
    events = list(world.store.read(limit=2, reverse=True))
    assert world.store.get(events[0].event_id).raw == events[0].raw
    return []


SMALL_SEGMENTS = {"segment_bytes": 4096, "text": 3000}
THREADED = {"driver": "threaded"}
ORIGINAL = {"segment_format": 1}

CALLS = {
    "single": Call(append),
    "keyed": Call(append_keyed),
    "batch": Call(append_batch, 3),
    "durable": Call(append_durably),
    "durable batch": Call(append_batch_durably, 3, step=3),
    "queued single": Call(append, options=THREADED),
    "queued keyed": Call(append_keyed, options=THREADED, step=3),
    "queued batch": Call(append_batch, 3, options=THREADED, step=3),
    "queued durable": Call(append_durably, options=THREADED, step=3),
    "rotation": Call(append, options=SMALL_SEGMENTS),
    "rotation by a batch": Call(append_batch, 3, options={"segment_bytes": 16_384, "text": 3000}, step=5),
    "rotation, durable": Call(append_durably, options=SMALL_SEGMENTS, step=5),
    "format 1": Call(append, options=ORIGINAL, step=3),
    "format 1, batch": Call(append_batch, 3, options=ORIGINAL, step=3),
    "format 1, rotation": Call(append, options=ORIGINAL | SMALL_SEGMENTS, step=5),
    "cover": Call(cover, 0),
    "reads": Call(read, 0, step=3),
    "queued reads": Call(read, 0, options=THREADED, step=3),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_exception_at_any_bytecode_loses_nothing_and_doubles_nothing(name: str, tmp_path: Path) -> None:
    call = CALLS[name]
    points = sweep(tmp_path, call, 1 if LONG else call.step)
    print(f"{name}: {points} points")  # noqa: T201 - shown with -s
    assert points > 40


def sweep(directory: Path, call: Call, step: int = 1, *again: int, first: int = 1) -> int:
    """Strike *call* at every *step*-th bytecode; how many that were."""
    points = 0
    at: int | None = first
    while at is not None:
        with World(directory / f"{at}", **call.options) as world:
            world.check()
            for _ in range(POINTS_A_STORE):
                if not strike_once(world, call, at, *again):
                    at = None
                    break
                points += 1
                at += step
                assert at < LIMIT
            world.check_all()
    return points


def strike_once(world: World, call: Call, at: int, *again: int) -> list[str]:
    """Strike *call* once and look at what has become of the store; where it was struck."""
    numbers = world.numbers(call.events)
    if call.act is cover:
        world.account(more := world.numbers(), world.append(more[0]))
    where, outcome = strike(lambda: call.act(world, numbers), at, *again)
    try:
        assert isinstance(outcome, Struck | list), f"found {outcome!r}"
        if call.act is append_keyed:
            # A key makes the retry safe, whatever has come of the first attempt.
            outcome = call.act(world, numbers)
        world.account(numbers, outcome)
        world.check()
    except BaseException as error:
        error.add_note(f"struck at bytecode {at}, in {where}")
        raise
    return where


def test_an_exception_at_any_bytecode_of_an_append_that_freezes_the_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "RUN_EVENTS", 2)
    monkeypatch.setattr(index, "CLOSE_EVENTS", 1)
    sweep(tmp_path / "single", Call(append), 1 if LONG else 5)
    sweep(tmp_path / "batch", Call(append_batch, 3), 1 if LONG else 10)
    sweep(tmp_path / "queued", Call(append, options=THREADED), 1 if LONG else 10)


def test_an_exception_at_any_bytecode_of_the_first_append(tmp_path: Path) -> None:
    at, step = 1, 1 if LONG else 40
    while True:
        with World(tmp_path / f"{at}") as world:
            found = strike_once(world, CALLS["single"], at)
            world.check_all()
        if not found:
            break
        at += step


@pytest.mark.parametrize("name", ["single", "batch", "durable", "rotation"])
def test_a_second_exception_soon_after_the_first_does_no_harm(name: str, tmp_path: Path) -> None:
    call = CALLS[name]
    for again in range(1, 30, 1 if LONG else 7):
        sweep(tmp_path / f"{again}", call, 7 if LONG else 41, again, first=1 + again % 7)


@contextmanager
def turn_held_until_queued(world: World) -> Iterator[None]:
    """Hold the writer's turn in another thread until a command waits, or the block is left."""
    driver = world.store._writer
    held, left = Lock(), Lock()
    held.acquire()
    left.acquire()

    def hold() -> None:
        with driver.turn:
            held.release()
            while not driver.mailbox.items and not left.acquire(timeout=0.0005):
                pass

    thread = Thread(target=hold)
    thread.start()
    held.acquire()
    try:
        yield
    finally:
        left.release()
        thread.join()


def test_an_exception_at_any_bytecode_of_an_append_that_finds_the_turn_taken(tmp_path: Path) -> None:
    at, step = 1, 1 if LONG else 3
    while at:
        with World(tmp_path / f"{at}") as world:
            for _ in range(POINTS_A_STORE):
                numbers = world.numbers()
                with turn_held_until_queued(world):
                    where, outcome = strike(lambda: world.append(numbers[0]), at)  # noqa: B023 - called at once
                world.account(numbers, outcome)
                world.check()
                if not where:
                    at = -step
                    break
                at += step
            world.check_all()
            at = max(at, 0)
