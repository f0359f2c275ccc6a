"""Calls from within: signal handlers that close or append, log processors and destructors that append."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from time import monotonic
from types import FrameType
from typing import Any, NoReturn

import pytest
import structlog

from batpak import (
    BatpakError,
    Receipt,
    ReentrantCallError,
    Store,
    StoreClosedError,
)
from batpak.actors import index
from batpak.actors.decision import Standing
from batpak.actors.gate import Gate
from batpak.actors.reader import Reader
from batpak.actors.writer import Writer
from batpak.storage.mapped import SegmentMaps
from batpak.storage.view import View
from tests.interrupts.conftest import threads_end
from tests.interrupts.world import LONG, PATIENCE_SECONDS, World, until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Set what SIGUSR2 does."""
    before = signal.getsignal(signal.SIGUSR2)

    def set_handler(act: Callable[[], Any]) -> None:
        def handler(_: int, __: FrameType | None) -> None:
            act()

        signal.signal(signal.SIGUSR2, handler)

    yield set_handler
    signal.signal(signal.SIGUSR2, before)


def during(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Send the signal once from within a method, behind its work."""
    original = getattr(owner, name)
    sent = False

    def act(*arguments: Any, **options: Any) -> Any:
        nonlocal sent
        outcome = original(*arguments, **options)
        if not sent and threading.current_thread() is threading.main_thread():
            sent = True
            signal.raise_signal(signal.SIGUSR2)
        return outcome

    monkeypatch.setattr(owner, name, act)


# What a handler may do, at the places where it matters ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["_write", "repair"])
def test_a_handler_that_appends_from_within_a_turn_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_signal: Callable[..., None], name: str
) -> None:
    with World(tmp_path) as world:
        world.check()
        refused: list[BaseException] = []
        event_id = next(iter(world.acknowledged.values())).event_id

        def append() -> None:
            for call in (
                lambda: world.append(1000),
                lambda: world.append_batch([1000]),
                lambda: world.store.load_contents([]),
                world.store.sync,
            ):
                with pytest.raises(ReentrantCallError) as caught:
                    call()
                refused.append(caught.value)
            assert world.store.stats().events >= 1  # what asks nobody goes on, a read of what is mapped too
            assert world.store.get(event_id).event_id == event_id

        on_signal(append)
        if name == "repair":
            fail_once(monkeypatch, Standing, "take")
        during(monkeypatch, Writer, name)
        numbers = world.numbers()
        world.account(numbers, world.append(numbers[0]))
        assert len(refused) == 4
        world.check_all()


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Let a method fail for want of memory, once: a repair follows at once."""
    original = getattr(owner, name)
    failed = False

    def act(*arguments: Any) -> Any:
        nonlocal failed
        if not failed:
            failed = True
            raise MemoryError
        return original(*arguments)

    monkeypatch.setattr(owner, name, act)


def test_a_handler_that_appends_while_its_thread_runs_an_fsync_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_signal: Callable[..., None]
) -> None:
    """It might rotate, and wait for the device that its own thread holds."""
    with World(tmp_path, segment_bytes=4096, text=3000) as world:
        world.check()
        outcomes: list[object] = []

        def append() -> None:
            with pytest.raises(ReentrantCallError):
                world.append(1000)
            with pytest.raises(ReentrantCallError):
                world.append_batch([1000, 1001])
            with pytest.raises(ReentrantCallError):
                world.store.sync()
            outcomes.append(True)

        on_signal(append)
        during(monkeypatch, Gate, "sync_device")
        numbers = world.numbers()
        world.account(numbers, world.append(numbers[0], durable=True))
        assert outcomes == [True]
        world.check_all()


def test_a_handler_that_appends_while_its_thread_waits_is_served(
    tmp_path: Path, on_signal: Callable[..., None]
) -> None:
    """Waiting is no turn: for an answer, for room in the mailbox, for the fsync of others."""
    with World(tmp_path, driver="threaded") as world:
        world.check()
        inner: list[tuple[range, list[Receipt]]] = []

        def append() -> None:
            numbers = world.numbers()
            inner.append((numbers, world.append(numbers[0])))

        on_signal(append)
        turn = world.store._writer.turn
        turn.acquire()
        releaser = Thread(target=signal_then_release, args=(world, turn))
        releaser.start()
        numbers = world.numbers()
        world.account(numbers, world.append(numbers[0]))
        releaser.join()
        assert len(inner) == 1
        world.account(*inner[0])
        world.check_all()


def signal_then_release(world: World, turn: Any) -> None:
    mailbox = world.store._writer.mailbox
    until(lambda: len(mailbox.items) == 1, "queued command")
    os.kill(os.getpid(), signal.SIGUSR2)
    until(lambda: len(mailbox.items) == 2, "command of the handler")
    turn.release()


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Writer, "_write"), (Gate, "sync_device"), (Writer, "_publish"), (index.Index, "_publish")],
)
def test_a_close_by_a_handler_is_put_off_to_the_end_of_what_its_thread_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_signal: Callable[..., None], owner: type, name: str
) -> None:
    world = World(tmp_path)
    world.check()
    before = set(sys._current_frames())
    on_signal(world.store.close)
    during(monkeypatch, owner, name)
    numbers = world.numbers()
    world.account(numbers, world.append(numbers[0], durable=True))
    assert world.store.diagnostics().state == "closed"
    with pytest.raises(StoreClosedError):
        world.append(1000)
    assert len(set(sys._current_frames())) < len(before)
    monkeypatch.undo()
    world.reopen()
    with world:
        world.check_all()


@pytest.mark.parametrize("read", ["get", "get mapped", "query", "read", "read mapped", "sync"])
def test_a_close_by_a_handler_in_the_middle_of_another_call_happens_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_signal: Callable[..., None], read: str
) -> None:
    world = World(tmp_path)
    world.check()
    store = world.store
    event_id = next(iter(world.acknowledged.values())).event_id
    calls: dict[str, Callable[[], Any]] = {
        "get": lambda: store.get(event_id),
        "query": lambda: store.by_scope("shop"),
        "read": lambda: list(store.read()),
        "sync": store.sync,
    }
    inside = {
        "get": (Reader, "handle"),
        "get mapped": (SegmentMaps, "body"),
        "query": (View, "select"),
        "read": (Reader, "handle"),
        "read mapped": (SegmentMaps, "bodies"),
        "sync": (Gate, "sync_device"),
    }
    on_signal(store.close)
    if read == "sync":
        world.append(0)
    if "mapped" not in read:
        store._maps.clear()
    during(monkeypatch, *inside[read])
    calls[read.removesuffix(" mapped")]()
    assert store.diagnostics().state == "closed"


@pytest.mark.parametrize("name", ["_finish", "stop"])
def test_a_second_signal_while_the_first_closes_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_signal: Callable[..., None], name: str
) -> None:
    world = World(tmp_path)
    world.check()
    on_signal(world.store.close)
    during(monkeypatch, type(world.store._system), name)
    world.store.close()
    assert world.store.diagnostics().state == "closed"
    world.reopen()
    with world:
        world.check_all()


def test_a_second_signal_while_a_reader_closes_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_signal: Callable[..., None]
) -> None:
    with World(tmp_path):
        reader = Store.open_read_only(tmp_path)
        on_signal(reader.close)
        during(monkeypatch, type(reader._reader_actor), "close")
        reader.close()
        reader.close()
        with pytest.raises(StoreClosedError):
            reader.stats()


def test_a_destructor_that_appends_within_a_turn_is_refused_and_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with World(tmp_path) as world:
        world.check()
        outcomes: list[BaseException] = []

        class Last:
            def __del__(self) -> None:
                try:
                    world.append(1000)
                except BatpakError as error:
                    outcomes.append(error)

        original = Writer._publish

        def publish(*arguments: Any) -> Any:
            loop: list[Any] = [Last()]
            loop.append(loop)
            del loop
            gc.collect()
            return original(*arguments)

        monkeypatch.setattr(Writer, "_publish", publish)
        world.check()
        assert [type(each) for each in outcomes] == [ReentrantCallError]
        monkeypatch.undo()
        world.check_all()


# Log processors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["assisted", "threaded"])
def test_a_log_processor_that_calls_the_store_is_refused_by_name_and_nothing_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    monkeypatch.setattr(index, "RUN_EVENTS", 8)
    world_of: list[World] = []
    refused: list[str] = []
    lines: list[str] = []

    def append(_: object, __: str, fields: Any) -> NoReturn:
        lines.append(fields["event"])
        for world in world_of:
            for call in (lambda: world.append(1000), world.store.sync, lambda: list(world.store.read(limit=1))):  # noqa: B023
                try:
                    call()
                except BatpakError as error:
                    refused.append(type(error).__name__)
        raise structlog.DropEvent

    structlog.configure(processors=[append], cache_logger_on_first_use=False)
    try:
        with World(tmp_path, driver=driver, segment_bytes=4096, text=500, slow_command_seconds=0.000001) as world:
            world_of.append(world)
            for count in range(20):
                numbers = world.numbers(3)
                world.account(numbers, world.append_batch(numbers, durable=count % 4 == 0))
                assert len(list(world.store.read(limit=5))) >= 3
            world.check()
            world_of.clear()
            world.check_all()
    finally:
        structlog.reset_defaults()
    assert len(lines) > 50
    assert set(refused) == {"ReentrantCallError"}
    assert world.store._log.lost == 0


def test_a_log_processor_that_closes_the_store_closes_it_behind_the_call(tmp_path: Path) -> None:
    world_of: list[World] = []

    def close(_: object, __: str, ___: Any) -> NoReturn:
        for world in world_of:
            world.store.close()
        raise structlog.DropEvent

    structlog.configure(processors=[close], cache_logger_on_first_use=False)
    try:
        world = World(tmp_path)
        world.check()
        world_of.append(world)
        numbers = world.numbers()
        world.account(numbers, world.append(numbers[0]))
        until(lambda: world.store._closed is not None, "closed store")
        world.store.close()
        world_of.clear()
        world.reopen()
        with world:
            world.check_all()
    finally:
        structlog.reset_defaults()


# Many at random ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["assisted", "threaded"])
def test_a_sigterm_handler_that_closes_the_store_loses_nothing(tmp_path: Path, driver: str) -> None:
    rng = random.Random(driver)
    before = set(sys._current_frames())
    handler = signal.getsignal(signal.SIGTERM)
    try:
        for round_number in range(200 if LONG else 25):
            close_on_sigterm(World(tmp_path / f"{round_number}", driver=driver), rng)
            threads_end(before)
    finally:
        signal.signal(signal.SIGTERM, handler)


def close_on_sigterm(world: World, rng: random.Random) -> None:
    """Append from four threads until a SIGTERM closes the store, and a second one comes on top of it."""
    store, outcomes = world.store, []

    def on_sigterm(_: int, __: FrameType | None) -> None:
        store.close()

    def work(numbers: range) -> None:
        for first in numbers[::3]:
            several = range(first, first + rng.choice((1, 3)))
            try:
                if len(several) == 1:
                    receipts = world.append(first, durable=rng.random() < 0.3)
                else:
                    receipts = world.append_batch(several)
            except StoreClosedError:
                break
            outcomes.append((several, receipts))

    signal.signal(signal.SIGTERM, on_sigterm)
    threads = [Thread(target=work, args=(world.numbers(30_000),), daemon=True) for _ in range(3)]
    killer = Thread(target=kill_twice, args=(rng.uniform(0.001, 0.03), rng.uniform(0, 0.005)))
    for each in (*threads, killer):
        each.start()
    started = monotonic()
    work(world.numbers(300_000))
    for each in (*threads, killer):
        each.join(PATIENCE_SECONDS)
        assert not each.is_alive()
    store.close()
    assert monotonic() - started < PATIENCE_SECONDS
    for several, receipts in outcomes:
        world.account(several, receipts)
    world.reopen()
    with world:
        world.check_all()


def kill_twice(first: float, second: float) -> None:
    pause = threading.Lock()
    pause.acquire()
    for seconds in (first, second):
        pause.acquire(timeout=seconds)
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("driver", "switch_seconds"), [("assisted", 0.005), ("threaded", 1e-6)])
def test_a_handler_that_appends_at_random_moments_is_served_or_refused(
    tmp_path: Path, driver: str, switch_seconds: float
) -> None:
    count = 5000 if LONG else 400
    found = storm(tmp_path, 7, count, driver, switch_seconds, "append")
    assert set(found["hits"]) <= {"appended", "ReentrantCallError"}
    assert found["hits"].get("appended", 0) > count // 20
    if driver == "assisted":
        assert found["hits"].get("ReentrantCallError", 0) > count // 20


def storm(directory: Path, seed: int, count: int, driver: str, switch_seconds: float, weather: str) -> dict[str, Any]:
    """Run `tests.interrupts.storm` in a process of its own; what it counted."""
    arguments = [str(directory / "journal"), str(seed), str(count), driver, str(switch_seconds), weather]
    done = subprocess.run(
        [sys.executable, "-m", "tests.interrupts.storm", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(weather, driver, switch_seconds, found)  # noqa: T201 - shown with -s
    return found
