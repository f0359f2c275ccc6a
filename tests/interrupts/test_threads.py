"""What an actor's thread may suffer: it is killed, it is refused, its actor has a bug, its idle work fails for ever."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest

from batpak import ActorFailedError, BatpakError, Store, StoreClosedError, StoreConfig, WriterFailedError
from batpak.actors import driver, index
from batpak.actors.decision import Decision
from batpak.actors.driver import Driver
from batpak.config import RestartPolicy
from batpak.errors import StorageError
from tests.interrupts.strike import Struck, StruckExit, interrupt, strike
from tests.interrupts.world import PATIENCE_SECONDS, World, until

ACTORS = ["writer", "index", "reader"]


@pytest.fixture(params=["assisted", "threaded"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with World(tmp_path / "journal", driver=request.param) as world:
        yield world


def driver_of(world: World, name: str) -> Driver[Any]:
    return next(each for each in world.store._system.drivers if each.name == name)


def thread_of(world: World, name: str) -> Thread:
    thread = driver_of(world, name)._thread
    assert thread is not None
    return thread


def in_background(act: Callable[[], Any]) -> tuple[Thread, list[Any]]:
    """Run *act* in a thread; its outcome, errors as values, comes into the list."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(act())
        except BaseException as error:
            outcome.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def kill(world: World, name: str) -> None:
    """End the actor's thread though its mailbox is open; no exception can do that, three at once might."""
    actors_driver = driver_of(world, name)
    thread = thread_of(world, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actors_driver, "_step", lambda: False)
        actors_driver.wake()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


@pytest.mark.parametrize("name", ACTORS)
def test_a_thread_that_was_killed_is_started_again(world: World, name: str) -> None:
    world.check()
    kill(world, name)
    world.check()
    with driver_of(world, "writer").turn:  # so that the next command is queued, whoever takes the turns
        thread, outcome = in_background(lambda: world.append(world.numbers()[0]))
        until(lambda: bool(driver_of(world, "writer").mailbox.items), "queued command")
    thread.join(PATIENCE_SECONDS)
    assert isinstance(outcome[0], list)
    world.account(range(world._next - 1, world._next), outcome[0])
    driver_of(world, name).wake()
    until(lambda: driver_of(world, name).report().alive, "new thread")
    assert driver_of(world, name).report().restarts == 1
    assert world.store.diagnostics().state == "degraded"
    world.check_all()


def test_background_work_goes_on_after_its_thread_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "RUN_EVENTS", 4)
    with World(tmp_path / "journal") as world:
        world.check()
        kill(world, "index")
        for _ in range(6):
            world.check()
        until(lambda: bool(list((tmp_path / "journal" / "index").glob("*.run"))), "run written by the new thread")
        world.check_all()


def test_an_asker_is_answered_though_the_thread_is_dead_and_no_other_can_be_started(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.check()
    kill(world, "writer")
    with driver_of(world, "writer").turn:
        asker, outcome = in_background(lambda: world.append(world.numbers()[0]))
        until(lambda: bool(driver_of(world, "writer").mailbox.items), "queued command")
        monkeypatch.setattr(Thread, "start", refuse)
    asker.join(PATIENCE_SECONDS)
    assert isinstance(outcome[0], list), outcome
    world.account(range(world._next - 1, world._next), outcome[0])
    monkeypatch.undo()
    world.check_all()


def refuse(_: Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("refused", [0, 1, 2])
def test_a_store_whose_threads_are_refused_is_not_opened_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    start, count = Thread.start, 0

    def start_some(thread: Thread) -> None:
        nonlocal count
        count += 1
        if count > refused:
            refuse(thread)
        start(thread)

    monkeypatch.setattr(Thread, "start", start_some)
    before = set(threading.enumerate())
    with pytest.raises(ActorFailedError) as caught:
        Store.open(tmp_path / "journal")
    assert caught.value.actor in ACTORS
    monkeypatch.undo()
    until(lambda: set(threading.enumerate()) <= before, "end of the threads that had been started")
    with Store.open(tmp_path / "journal") as store:  # the lock has been let go of
        assert store.stats().events == 0


def test_a_bug_in_the_writers_turn_is_counted_and_a_second_one_ends_it_visibly(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.check()
    receipts = world.append(world.numbers()[0])

    def bug(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(Decision, "append", bug)
        with pytest.raises(ActorFailedError) as caught:
            world.append(1)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert world.store.diagnostics().state == "degraded"
    assert driver_of(world, "writer").report().restarts == 1
    world.account(range(world._next - 1, world._next), receipts)
    world.check()
    with monkeypatch.context() as patch:
        patch.setattr(Decision, "append", bug)
        with pytest.raises(ActorFailedError):
            world.append(1)
    with pytest.raises(WriterFailedError):
        world.append(1)
    diagnostics = world.store.diagnostics()
    assert diagnostics.state == "failed"
    assert diagnostics.writer_error == "RuntimeError: a bug"
    assert world.store.get(receipts[0].event_id).payload == world.payload(world._next - 2)  # reads go on
    world.store.close()
    world.reopen()
    world.check_all()


@pytest.mark.parametrize("after", ["write", "publish"])
def test_a_bug_behind_the_write_is_repaired_at_once_and_answered_with_the_truth(
    world: World, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    world.check()
    writer = world.store._system.writer
    target = writer.journal if after == "write" else writer.standing
    name = "write" if after == "write" else "take"
    original = getattr(type(target), name)
    struck: list[bool] = []

    def bug(*arguments: Any) -> None:
        original(*arguments)
        if not struck:
            struck.append(True)
            raise RuntimeError("a bug")

    monkeypatch.setattr(type(target), name, bug)
    numbers = world.numbers(3)
    world.account(numbers, world.append_batch(numbers))
    assert struck
    world.check_all()


def test_no_restarts_are_allowed_where_the_policy_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with World(tmp_path / "journal", restart=RestartPolicy.never()) as world:
        world.check()

        def bug(*_: object) -> None:
            raise RuntimeError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(Decision, "append", bug)
            with pytest.raises(ActorFailedError):
                world.append(1)
        with pytest.raises(WriterFailedError):
            world.append(1)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "a failure"), StorageError("read", "a file", errno.EIO), MemoryError()]
)
def test_idle_work_that_fails_again_and_again_does_not_keep_a_processor_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    calls = 0

    def fail(_: object) -> None:
        nonlocal calls
        calls += 1
        raise error

    with World(tmp_path / "journal") as world:
        monkeypatch.setattr(world.store._system.index, "idle", lambda: fail(None))
        driver_of(world, "index").wake()
        until(lambda: calls > 0, "call")
        pause = Lock()
        pause.acquire()
        pause.acquire(timeout=0.3)
        assert calls < 10
        world.check_all()


def test_a_bug_in_idle_work_ends_the_index_visibly_and_not_the_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with World(tmp_path / "journal") as world:
        world.check()

        def bug() -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(world.store._system.index, "idle", bug)
        driver_of(world, "index").wake()
        until(lambda: world.store._system.index._failed is not None, "index that gave up")
        monkeypatch.undo()
        assert len(list(world.store.read())) == world._next
        numbers = world.numbers()
        with pytest.raises(BatpakError) as caught:
            world.append(numbers[0])
        assert isinstance(caught.value, ActorFailedError)
        world.account(numbers, caught.value)  # it is in the file and not in the index: open
        with pytest.raises(WriterFailedError):
            world.append(1)
        world.store.close()
        world.reopen()
        world.check_all()


def test_a_thread_that_was_interrupted_while_it_was_looked_at_is_not_started_twice(world: World) -> None:
    """`Thread.is_alive` and `Thread.join` take a living thread for dead once they have been interrupted."""
    actors_driver, thread = driver_of(world, "writer"), thread_of(world, "writer")
    before = {each.ident for each in threading.enumerate()} | set(sys._current_frames())
    for at in range(1, 60):
        strike(thread.is_alive, at)
        strike(lambda: thread.join(0.0001), at)
        strike(actors_driver.report, at)
    assert not thread.is_alive()
    actors_driver._backstop()
    assert actors_driver.report().alive
    assert {each.ident for each in threading.enumerate()} <= before
    assert len([ident for ident in sys._current_frames() if ident not in before]) == 0
    assert actors_driver.report().restarts == 0
    world.check_all()


def test_a_close_waits_for_whoever_is_inside_a_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = Lock(), Lock()
    inside.acquire()
    go_on.acquire()
    original = Decision.append

    def append_slowly(*arguments: Any) -> Any:
        inside.release()
        go_on.acquire()
        return original(*arguments)

    with World(tmp_path / "journal") as world:
        world.check()
        monkeypatch.setattr(Decision, "append", append_slowly)
        numbers = world.numbers()
        asker, outcome = in_background(lambda: world.append(numbers[0]))
        inside.acquire()
        closer, closed = in_background(world.store.close)
        until(lambda: world.store._writer.mailbox.closed, "closed mailbox")
        closer.join(0.2)
        assert closer.is_alive()
        go_on.release()
        asker.join(PATIENCE_SECONDS)
        closer.join(PATIENCE_SECONDS)
        assert closed == [None]
        world.account(numbers, outcome[0])
        assert isinstance(outcome[0], list), outcome
        monkeypatch.undo()
        world.reopen()
        world.check_all()


def test_nobody_waits_for_an_answer_after_a_close_that_was_interrupted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors_driver = driver_of(world, "writer")
    world.check()
    kill(world, "writer")
    numbers = world.numbers()
    with actors_driver.turn:
        asker, outcome = in_background(lambda: world.append(numbers[0]))
        until(lambda: bool(actors_driver.mailbox.items), "queued command")

        def cut_short(*_: object) -> None:
            raise Struck

        with monkeypatch.context() as patch:
            patch.setattr(driver.Driver, "within_turn", cut_short)
            patch.setattr(driver.Driver, "_drain", cut_short)
            with pytest.raises(Struck):
                world.store.close()
        assert not outcome
    asker.join(PATIENCE_SECONDS)
    assert isinstance(outcome[0], list | StoreClosedError), outcome
    world.account(numbers, outcome[0])
    world.store.close()
    world.reopen()
    world.check_all()


def test_a_log_line_that_another_thread_has_taken_is_no_error(world: World) -> None:
    class Taken(list[Any]):
        def pop(self, *_: Any) -> Any:
            self.clear()
            raise IndexError("pop from empty list")

    lines = Taken([(10, "writer.commit", {})])
    world.store._system.writer.lines = lines
    world.check_all()
    assert not lines


def test_waiting_for_room_leaves_nothing_behind(tmp_path: Path) -> None:
    with World(tmp_path / "journal", mailbox_capacity=1) as world:
        world.check()
        writer = driver_of(world, "writer")
        with writer.turn:
            first, _ = in_background(lambda: world.append(world.numbers()[0]))
            until(lambda: bool(writer.mailbox.items), "queued command")
            others = [in_background(lambda: world.append(0, max_wait_seconds=PATIENCE_SECONDS)) for _ in range(3)]
            until(lambda: len(writer.mailbox._waiting) == 3, "three who wait for room")
            for thread, _ in others[:2]:
                assert thread.ident is not None
                interrupt(thread.ident, Struck)
            until(lambda: len(writer.mailbox._waiting) == 1, "end of two of them")
        for thread, _ in [(first, None), *others]:
            thread.join(PATIENCE_SECONDS)
        assert not writer.mailbox._waiting
        assert all(isinstance(outcome[0], Struck) for _, outcome in others[:2])
        assert isinstance(others[2][1][0], list)


def test_the_configured_restarts_are_those_of_bugs(tmp_path: Path) -> None:
    """Interrupts of an actor's thread are no fault of the actor and cost nothing of its budget."""
    with World(tmp_path / "journal", driver="threaded", restart=RestartPolicy.never()) as world:
        for _ in range(5):
            ident = thread_of(world, "writer").ident
            assert ident is not None
            interrupt(ident, StruckExit)
            world.check()
        assert world.store.diagnostics().state == "ok"
        world.check_all()


def test_the_default_policy_is_one_restart() -> None:
    assert StoreConfig().restart == RestartPolicy.once()
