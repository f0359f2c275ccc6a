"""The tests of this folder notice what they are for: each tempting variant of the protocol, planted, is found.

A variant is the method's own source with a passage changed, so it changes with the code, or says that it cannot.
"""

from __future__ import annotations
import __future__

import inspect
import signal
import sys
import textwrap
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from types import FrameType
from typing import Any

import pytest

from batpak.actors import driver, index
from batpak.actors.decision import Standing
from batpak.actors.driver import Driver
from batpak.actors.gate import Gate
from batpak.actors.index import Index
from batpak.actors.journal import Journal
from batpak.actors.mailbox import Envelope, Mailbox
from batpak.actors.writer import Writer
from batpak.living import OPEN
from batpak.log import Log
from batpak.store import Store
from tests.interrupts import test_actor_loop as loop
from tests.interrupts import test_each_bytecode as each
from tests.interrupts import world as worlds
from tests.interrupts.conftest import free_stuck_starts
from tests.interrupts.strike import Struck, first_within, strike
from tests.interrupts.world import World, until

pytestmark = [
    pytest.mark.may_leak("a broken store leaves what it leaves"),
    pytest.mark.filterwarnings("ignore"),
]

HANG_SECONDS = 1.0
MAX_SECONDS = 60
NEVER = 10**9

Attack = Callable[[Path], object]


class HungError(Exception):
    """The main thread waits for a lock that nobody will release."""


@dataclass(frozen=True)
class Variant:
    """Something that looks as good: the passages of a method that are changed, and the attack that tells."""

    owner: type
    name: str
    changes: tuple[tuple[str, str], ...]
    attack: Attack

    def plant(self, patch: pytest.MonkeyPatch) -> None:
        """Put the method in place anew."""
        source = inspect.getsource(self.owner.__dict__[self.name])
        for found, put in self.changes:
            assert source.count(found) == 1, f"found {found!r} {source.count(found)} times in {self.name}"
            source = source.replace(found, put)
        namespace: dict[str, Any] = {}
        flags = __future__.annotations.compiler_flag
        code = compile(textwrap.dedent(source), f"<variant of {self.name}>", "exec", flags=flags)
        exec(code, sys.modules[self.owner.__module__].__dict__, namespace)
        patch.setattr(self.owner, self.name, namespace[self.name])


def lines(*texts: str, indent: int = 8) -> str:
    """Lines of a method, as they stand in its source."""
    return "".join(f"{' ' * indent}{text}\n" for text in texts)


# Attacks -------------------------------------------------------------------------------------------------------------


def strike_call(name: str, step: int = 7) -> Attack:
    return lambda directory: each.sweep(directory, each.CALLS[name], step)


def strike_within(name: str, function: str, step: int = 1) -> Attack:
    """Strike a call from where it comes into a function on."""

    def attack(directory: Path) -> None:
        call = each.CALLS[name]
        with World(directory / "first", **call.options) as world:
            world.check()
            numbers = world.numbers(call.events)
            first = first_within(lambda: call.act(world, numbers), function)
        each.sweep(directory, call, step, first=first)

    return attack


def strike_and_go_on(name: str, step: int = 7) -> Attack:
    """Let nobody settle what an interrupt left before the next append comes."""
    return lambda directory: each.sweep(directory, each.CALLS[name], step, NEVER)


def strike_logged(directory: Path) -> None:
    with each.every_line_logged():
        each.sweep(directory, each.CALLS["single"], 7)


def strike_writers_thread(step: int) -> Attack:
    return lambda directory: loop.sweep(directory, "writer", step=step)


def append_in_handlers(name: str, function: str, step: int = 1) -> Attack:
    """Append from a handler from where a call comes into a function on."""

    def attack(directory: Path) -> None:
        call = each.CALLS[name]
        with World(directory / "first", **call.options) as world:
            world.check()
            numbers = world.numbers(call.events)
            first = first_within(lambda: call.act(world, numbers), function)
        each.sweep_with_handler(directory, call, step, first)

    return attack


def answer_twice(_: Path) -> None:
    envelope = Envelope(None, None, 0.0)
    envelope.answer("first")
    envelope.answer("second")
    assert envelope.wait(0)
    assert envelope.result() == "first"


def close_in_handlers(directory: Path) -> None:
    each.test_a_handler_that_closes_at_any_bytecode_closes_at_once_or_behind_the_call("single", directory)


def lay_slowly(directory: Path) -> None:
    """Let the actor's thread look between the bell and the item."""

    class Slow(deque[Any]):
        def append(self, item: Any) -> None:
            bell = world.store._writer.mailbox.bell
            until(bell.locked, "thread that has heard the bell")
            pause = Lock()
            pause.acquire()
            pause.acquire(timeout=0.2)
            super().append(item)

    with World(directory, driver="threaded") as world:
        world.check()
        world.store._writer.mailbox.items = Slow()
        thread = Thread(target=lambda: world.append(world.numbers()[0]), daemon=True)
        thread.start()
        thread.join(HANG_SECONDS)
        assert not thread.is_alive(), "an asker waits for ever"


def queue_behind_a_turn(directory: Path) -> None:
    with World(directory) as world:
        world.check()
        until(world.store._writer.mailbox.bell.locked, "thread that sleeps")
        with each.turn_held_until_queued(world):
            thread = Thread(target=lambda: world.append(world.numbers()[0]), daemon=True)
            thread.start()
            until(lambda: bool(world.store._writer.mailbox.items), "queued command")
        thread.join(HANG_SECONDS)
        assert not thread.is_alive(), "an asker waits for ever"


def stop_short(directory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        each.test_a_write_that_stops_after_any_number_of_bytes_leaves_whole_events_alone(
            "batch", Struck(), directory, patch
        )


def fail_behind_the_write(directory: Path) -> None:
    """Let memory run out behind the write, once."""
    original = Standing.take
    failed: list[bool] = []

    def take(*arguments: Any) -> None:
        if not failed:
            failed.append(True)
            raise MemoryError
        original(*arguments)

    with World(directory) as world, pytest.MonkeyPatch.context() as patch:
        world.check()
        patch.setattr(Standing, "take", take)
        world.append(world.numbers()[0])


def look_at_a_living_thread(directory: Path) -> None:
    """Interrupt whoever asks whether the thread lives."""
    with World(directory) as world:
        writer = world.store._writer
        assert writer._thread is not None
        for at in range(1, 60):
            strike(writer._thread.is_alive, at)
        writer._backstop()
        assert writer.restarts == 0, "a second thread was started"


# Variants ------------------------------------------------------------------------------------------------------------

VARIANTS = {
    "choose the batch, then repair": Variant(
        Driver,
        "_take_turn",
        (
            (
                lines("if self.actor.mark is not None:", indent=16),
                lines("batch = self.mailbox.take()", "if self.actor.mark is not None:", indent=16),
            ),
            (
                lines("    self._repair()", "batch = self.mailbox.take()", indent=16),
                lines("    self._repair()", indent=16),
            ),
        ),
        strike_writers_thread(11),
    ),
    "no repair before the batch": Variant(
        Driver, "_take_turn", (("if self.actor.mark is not None:", "if False:"),), strike_writers_thread(11)
    ),
    "no repair before an assisted turn": Variant(
        Driver, "_assist", (("if actor.mark is not None:", "if False:"),), strike_and_go_on("single")
    ),
    "leave the repair of an error to the next turn": Variant(
        Driver, "_failed", (("if actor.mark is not None:", "if False:"),), fail_behind_the_write
    ),
    "drop from the mailbox, then answer": Variant(
        Driver,
        "_run_batch",
        (
            (
                lines("for envelope, outcome in zip(batch, outcomes, strict=False):"),
                lines("self.mailbox.items.clear()", "for envelope, outcome in zip(batch, outcomes, strict=False):"),
            ),
        ),
        strike_writers_thread(17),
    ),
    "take out of the mailbox, then run": Variant(
        Mailbox,
        "take",
        ((lines("return batch", indent=16), lines("self.items.clear()", "return batch", indent=16)),),
        strike_writers_thread(11),
    ),
    "clear the mark, then answer": Variant(
        Driver,
        "_run_batch",
        (
            (
                lines("for envelope, outcome in zip(batch, outcomes, strict=False):"),
                lines("self.actor.mark = None", "for envelope, outcome in zip(batch, outcomes, strict=False):"),
            ),
        ),
        strike_writers_thread(17),
    ),
    "item first, bell second": Variant(
        Mailbox,
        "put_nowait",
        (
            (
                lines("ring(self.bell)", "self.items.append(envelope)"),
                lines("self.items.append(envelope)", "ring(self.bell)"),
            ),
        ),
        strike_within("queued single", "_enqueue"),
    ),
    "no bell where the turn is held": Variant(
        Mailbox, "put_nowait", ((lines("ring(self.bell)"), ""),), queue_behind_a_turn
    ),
    "look without the guard": Variant(
        Driver, "_step", ((lines("with mailbox.guard:"), lines("if True:")),), lay_slowly
    ),
    "sleep after a crash without looking": Variant(
        Driver,
        "_survive",
        (("self._crashed(error)", "self._crashed(error); self.mailbox.bell.acquire()"),),
        strike_writers_thread(11),
    ),
    "acquire and release the turn by hand": Variant(
        Driver,
        "_assist",
        (
            (lines("with self.turn:", indent=12), lines("self.turn.acquire()", "if True:", indent=12)),
            (
                lines("self.owner = 0", indent=20),
                lines("self.owner = 0", "self.turn.release()", indent=20),
            ),
        ),
        strike_within("single", "_assist"),
    ),
    "owner = get_ident() within the turn": Variant(
        Driver, "_assist", (("self.owner = me", "self.owner = get_ident()"),), append_in_handlers("single", "_assist")
    ),
    "owner never stored": Variant(
        Driver, "_assist", (("self.owner = me", "pass"),), append_in_handlers("single", "_assist")
    ),
    "the guard's owner never stored": Variant(
        Driver, "_enqueue", (("mailbox.guard_owner = me", "pass"),), append_in_handlers("queued single", "_enqueue")
    ),
    "the gate does not tell who holds the device": Variant(
        Gate,
        "leads",
        (("return thread == self.owner or thread == self._generation.owner", "return False"),),
        append_in_handlers("durable", "cover"),
    ),
    "nothing rung for after an interrupted turn": Variant(
        Driver, "_assist", (("self.wake()", "pass"),), strike_call("single")
    ),
    "the thread does not look for a mark": Variant(
        Driver, "_step", ((" or self._was_cut_short()", ""),), strike_call("single")
    ),
    "write, then mark": Variant(
        Writer,
        "_write",
        (
            ("self.mark = Plan(", "plan = Plan("),
            (
                lines("journal.write(data, start)"),
                lines("journal.write(data, start)", "self.mark = plan"),
            ),
        ),
        strike_within("single", "_write"),
    ),
    "advance, then publish": Variant(
        Writer,
        "_publish",
        (
            (
                lines("self._index.pass_on(Publish(events))"),
                lines(
                    "self.journal.advance(end, events[-1].global_sequence + 1)",
                    "self.mark = None",
                    "self._index.pass_on(Publish(events))",
                ),
            ),
        ),
        strike_within("single", "_write"),
    ),
    "repair without cutting": Variant(Writer, "repair", ((lines("self.journal.cut(end)"), ""),), stop_short),
    "repair takes in a part of a batch": Variant(
        Writer,
        "repair",
        (
            (
                lines("count = max((unit.count for unit in whole), default=0)"),
                lines("count = max((unit.count for unit in whole), default=1)"),
            ),
        ),
        stop_short,
    ),
    "show rows, then put them": Variant(
        Index,
        "_publish",
        (
            (
                lines("for record in records:"),
                lines("self.view = View(view.parts, row + len(records))", "for record in records:"),
            ),
        ),
        strike_within("batch", "_publish", 3),
    ),
    "an answer that tolerates no second one": Variant(
        Envelope,
        "answer",
        ((lines("ring(self._lock)"), lines("self._lock.release()")),),
        answer_twice,
    ),
    "emit behind an unprotected add": Variant(
        Log,
        "emit",
        (
            ("self.emitting.add(me)", "pass"),
            (lines("try:"), lines("self.emitting.add(me)", "try:")),
        ),
        strike_logged,
    ),
    "believe Thread.is_alive": Variant(
        Driver, "_is_dead", (("not self._life.locked()", "not self._thread.is_alive()"),), look_at_a_living_thread
    ),
    "refuse what an interrupted rotation left": Variant(
        Journal,
        "_create",
        (
            (
                "            self._files.remove(name)\n            return self._files.create(name)\n",
                "            raise\n",
            ),
        ),
        strike_call("rotation", 11),
    ),
    "close within the turn": Variant(Store, "_inside", (("me = get_ident()\n", "return False\n"),), close_in_handlers),
}


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait no longer than it takes to see a hang; nobody is helped out of one."""
    monkeypatch.setattr(driver, "BACKSTOP_SECONDS", 3600)
    monkeypatch.setattr(index, "CLOSE_EVENTS", 1)
    for module in (worlds, loop):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", HANG_SECONDS)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_tempting_variant_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = VARIANTS[name]
    variant.plant(monkeypatch)
    found = attacked(variant.attack, tmp_path, monkeypatch)
    notes = "; ".join(getattr(found, "__notes__", ()))
    print(f"{name}: {type(found).__name__}: {str(found)[:100]} {notes}")  # noqa: T201 - shown with -s
    assert found is not None, "the attack has found nothing"
    assert not isinstance(found, TimeoutError), "the attack takes too long"
    free_stuck_starts()
    abandon_broken_stores()


def abandon_broken_stores() -> None:
    """Let go of what an attack has left open: closing it might hang, and so might the end of the interpreter."""
    for store in list(OPEN):
        store.forget_parent()
        OPEN.discard(store)


def attacked(attack: Attack, directory: Path, patch: pytest.MonkeyPatch) -> BaseException | None:
    """What an attack has found; the main thread is fetched out of a deadlock."""
    seconds, progress, seen = 0.0, 0, -1
    numbers = World.numbers

    def counted(*arguments: Any) -> range:
        nonlocal progress
        progress += 1
        return numbers(*arguments)

    def on_alarm(_: int, __: FrameType | None) -> None:
        nonlocal seconds, seen
        seconds += HANG_SECONDS
        if progress == seen:
            raise HungError
        if seconds > MAX_SECONDS:
            raise TimeoutError
        seen = progress

    patch.setattr(World, "numbers", counted)
    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS, HANG_SECONDS)
    try:
        attack(directory)
    except BaseException as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return None
