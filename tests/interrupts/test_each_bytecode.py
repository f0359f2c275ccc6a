"""One exception, or one signal with a handler, at each bytecode of a call, in the thread that calls."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import Any, NoReturn

import pytest
import structlog

from batpak import BatpakError, ReentrantCallError, StorageError, StoreClosedError
from batpak.actors import driver, index
from batpak.storage.files import RealWriteFile
from tests.interrupts.conftest import LEAVES_DESCRIPTORS
from tests.interrupts.strike import Struck, strike
from tests.interrupts.world import LONG, World, key_of

pytestmark = LEAVES_DESCRIPTORS

POINTS_A_STORE = 25
COMPARE_EVERY = 8
"""At every so manieth bytecode the index is compared with the file, before anything else is done."""
LIMIT = 40_000

Act = Callable[[World, range], Any]


@dataclass(frozen=True)
class Call:
    """A call to be struck: what it does, with how many events, in what store."""

    act: Act
    events: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    step: int = 1  # in an ordinary run only every so manieth bytecode is struck


@pytest.fixture(autouse=True)
def no_backstop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may need the look that a waiter takes after a while; and every close writes its index out."""
    monkeypatch.setattr(driver, "BACKSTOP_SECONDS", 3600)
    monkeypatch.setattr(index, "CLOSE_EVENTS", 1)


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
    "single": Call(append, step=2),
    "keyed": Call(append_keyed, step=3),
    "batch": Call(append_batch, 3, step=7),
    "durable": Call(append_durably, step=3),
    "durable batch": Call(append_batch_durably, 3, step=11),
    "queued single": Call(append, options=THREADED),
    "queued keyed": Call(append_keyed, options=THREADED, step=3),
    "queued batch": Call(append_batch, 3, options=THREADED, step=5),
    "queued durable": Call(append_durably, options=THREADED, step=3),
    "rotation": Call(append, options=SMALL_SEGMENTS, step=7),
    "rotation by a batch": Call(append_batch, 3, options={"segment_bytes": 16_384, "text": 3000}, step=17),
    "rotation, durable": Call(append_durably, options=SMALL_SEGMENTS, step=17),
    "format 1": Call(append, options=ORIGINAL, step=7),
    "format 1, batch": Call(append_batch, 3, options=ORIGINAL, step=17),
    "format 1, rotation": Call(append, options=ORIGINAL | SMALL_SEGMENTS, step=17),
    "cover": Call(cover, 0),
    "reads": Call(read, 0, step=7),
    "queued reads": Call(read, 0, options=THREADED, step=7),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_exception_at_any_bytecode_loses_nothing_and_doubles_nothing(name: str, tmp_path: Path) -> None:
    call = CALLS[name]
    points = sweep(tmp_path, call, 1 if LONG else call.step)
    print(f"{name}: {points} points")  # noqa: T201 - shown with -s
    assert points * call.step > 400


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
        if not again and at % COMPARE_EVERY == 0:
            world.check_settled()
            world.check_against_file()
        world.check(settled=not again)
    except BaseException as error:
        error.add_note(f"struck at bytecode {at}, in {where}")
        raise
    return where


def test_an_exception_at_any_bytecode_of_an_append_that_freezes_the_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "RUN_EVENTS", 2)
    monkeypatch.setattr(index, "CLOSE_EVENTS", 1)
    sweep(tmp_path / "single", Call(append), 1 if LONG else 17)
    sweep(tmp_path / "batch", Call(append_batch, 3), 1 if LONG else 41)
    sweep(tmp_path / "queued", Call(append, options=THREADED), 1 if LONG else 17)


def test_an_exception_at_any_bytecode_of_an_append_whose_lines_are_all_logged(tmp_path: Path) -> None:
    with every_line_logged():
        sweep(tmp_path / "single", Call(append_durably), 1 if LONG else 7)
        sweep(tmp_path / "queued", Call(append, options=THREADED), 1 if LONG else 7)


@contextmanager
def every_line_logged() -> Iterator[None]:
    def drop(_: object, __: str, ___: object) -> NoReturn:
        raise structlog.DropEvent

    structlog.configure(
        processors=[drop],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.reset_defaults()


def test_an_exception_at_any_bytecode_of_the_first_append(tmp_path: Path) -> None:
    at, step = 1, 1 if LONG else 61
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
        sweep(tmp_path / f"{again}", call, 7 if LONG else 67, again, first=1 + again % 7)


@contextmanager
def turn_held_until_queued(world: World) -> Iterator[None]:
    """Hold the writer's turn in another thread until a command waits, or the block is left."""
    writer = world.store._writer
    held, left = Lock(), Lock()
    held.acquire()
    left.acquire()

    def hold() -> None:
        with writer.turn:
            held.release()
            while not writer.mailbox.items and not left.acquire(timeout=0.0005):
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
    at: int | None = 1
    while at is not None:
        with World(tmp_path / f"{at}") as world:
            for _ in range(POINTS_A_STORE):
                numbers = world.numbers()
                with turn_held_until_queued(world):
                    where, outcome = strike(lambda: world.append(numbers[0]), at)  # noqa: B023 - called at once
                world.account(numbers, outcome)
                world.check()
                if not where:
                    at = None
                    break
                at += 1 if LONG else 11
            world.check_all()


# Handlers that return ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["single", "durable", "rotation", "queued single", "queued durable"])
def test_a_handler_that_appends_at_any_bytecode_is_served_or_refused(name: str, tmp_path: Path) -> None:
    counts = sweep_with_handler(tmp_path, CALLS[name], 1 if LONG else 11 * CALLS[name].step)
    print(f"handler in {name}: {dict(counts)}")  # noqa: T201 - shown with -s
    assert counts["served"] > 0
    assert counts["refused"] > 0 or "queued" in name


def sweep_with_handler(directory: Path, call: Call, step: int, first: int = 1) -> Counter[str]:
    """Append, durably at times, from a handler at every *step*-th bytecode; how many were served and refused."""
    counts: Counter[str] = Counter()
    at: int | None = first
    while at is not None:
        with World(directory / f"{at}", **call.options) as world:
            for _ in range(POINTS_A_STORE):
                numbers, inner = world.numbers(call.events), world.numbers()

                def handler(world: World = world, inner: range = inner, at: int = at) -> None:
                    try:
                        world.account(inner, world.append(inner[0], durable=at % 2 == 0))
                        counts["served"] += 1
                    except ReentrantCallError:
                        counts["refused"] += 1

                where, outcome = strike(lambda: call.act(world, numbers), at, handler=handler)  # noqa: B023
                try:
                    assert isinstance(outcome, list), f"found {outcome!r}"
                    world.account(numbers, outcome)
                    world.check()
                except BaseException as error:
                    error.add_note(f"struck at bytecode {at}, in {where}")
                    raise
                if not where:
                    at = None
                    break
                at += step
            world.check_all()
    return counts


@pytest.mark.parametrize("name", ["single", "durable", "rotation", "queued durable", "reads"])
def test_a_handler_that_closes_at_any_bytecode_closes_at_once_or_behind_the_call(name: str, tmp_path: Path) -> None:
    call, at = CALLS[name], 1
    while True:
        world = World(tmp_path / f"{at}", **call.options)
        world.check()
        numbers = world.numbers(call.events)
        where, outcome = strike(lambda: call.act(world, numbers), at, handler=world.store.close)  # noqa: B023
        if not where:
            world.store.close()
            break
        try:
            assert isinstance(outcome, list | StoreClosedError), f"found {outcome!r}"
            assert world.store._ended, "not closed"
            world.account(numbers, outcome)
            world.reopen()
            with world:
                world.check_all()
        except BaseException as error:
            error.add_note(f"struck at bytecode {at}, in {where}")
            raise
        at += 1 if LONG else 211


# Writes that are cut short -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["single", "batch", "format 1, batch", "queued batch"])
@pytest.mark.parametrize("ending", [Struck(), OSError(errno.ENOSPC, "no room"), OSError(errno.EIO, "a failure")])
def test_a_write_that_stops_after_any_number_of_bytes_leaves_whole_events_alone(
    name: str, ending: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = CALLS[name]
    original = RealWriteFile.pwrite
    left: int | None = None

    def pwrite(file: RealWriteFile, data: Any, offset: int) -> int:
        nonlocal left
        if left is None or not file._name.endswith(".fbat"):
            return original(file, data, offset)
        if left >= len(data):
            left -= len(data)
            return original(file, data, offset)
        piece, left = bytes(data[:left]), None if left == 0 else 0
        if not piece:
            raise ending
        return original(file, piece, offset)

    with World(tmp_path, **call.options) as world:
        world.check()
        monkeypatch.setattr(RealWriteFile, "pwrite", pwrite)
        for count in range(0, 2000, 7 if LONG else 61):
            numbers = world.numbers(call.events)
            left = count
            outcome: Any
            try:
                outcome = call.act(world, numbers)
            except (Struck, StorageError) as error:
                outcome = error
            reached = left is not None
            left = None
            world.account(numbers, outcome)
            if isinstance(outcome, BatpakError):
                world.not_written.append(numbers)
            world.check()
            if reached:
                break
        world.check_all()
