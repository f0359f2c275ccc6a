"""The tests of this folder notice what they are for: each tempting variant of the protocol, planted, is found.

A variant is the method's own source with one passage changed, so it changes with the code, or says that it cannot.
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
from typing import Any, NoReturn

import pytest

from batpak.actors import driver
from batpak.actors.driver import Driver
from batpak.actors.gate import Gate
from batpak.actors.index import Index
from batpak.actors.journal import Journal
from batpak.actors.mailbox import Envelope, Mailbox
from batpak.actors.writer import Writer
from batpak.log import Log
from batpak.storage.tail import Tail
from batpak.store import Store
from tests.interrupts import test_actor_loop as loop
from tests.interrupts import test_each_bytecode as each
from tests.interrupts import world as worlds
from tests.interrupts.conftest import free_stuck_starts
from tests.interrupts.strike import Struck, strike
from tests.interrupts.world import World, until

pytestmark = [
    pytest.mark.may_leak("a broken store leaves what it leaves"),
    pytest.mark.filterwarnings("ignore"),
]

HANG_SECONDS = 1.0

Attack = Callable[[Path], object]


class Hung(BaseException):
    """The main thread waited for a lock that nobody would release."""


def rewrite(patch: pytest.MonkeyPatch, owner: type, name: str, *changes: tuple[str, str]) -> None:
    """Put the method *name* of *owner* in place anew, passages of its source changed."""
    method = owner.__dict__[name]
    source = textwrap.dedent(inspect.getsource(method))
    for found, put in changes:
        assert source.count(found) == 1, f"found {found!r} {source.count(found)} times in {name}"
        source = source.replace(found, put)
    namespace: dict[str, Any] = {}
    code = compile(source, f"<variant of {name}>", "exec", flags=__future__.annotations.compiler_flag)
    exec(code, sys.modules[owner.__module__].__dict__, namespace)
    patch.setattr(owner, name, namespace[name])


@dataclass(frozen=True)
class Variant:
    """Something that looks as good: what is changed, and the attack that tells."""

    owner: type
    name: str
    changes: tuple[tuple[str, str], ...]
    attack: Attack


# Attacks -------------------------------------------------------------------------------------------------------------


def strike_call(name: str, step: int = 7) -> Attack:
    return lambda directory: each.sweep(directory, each.CALLS[name], step)


def strike_logged(directory: Path) -> None:
    with each.every_line_logged():
        each.sweep(directory, each.CALLS["single"], 7)


def strike_writers_thread(step: int) -> Attack:
    return lambda directory: loop.sweep(directory, "writer", step=step)


def append_in_handlers(name: str, step: int) -> Attack:
    return lambda directory: each.sweep_with_handler(directory, each.CALLS[name], step)


def lay_slowly(directory: Path) -> None:
    """Let the actor's thread look between the bell and the item."""

    class Slow(deque[Any]):
        def append(self, item: Any) -> None:
            pause = Lock()
            pause.acquire()
            pause.acquire(timeout=0.05)
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


def look_at_a_living_thread(directory: Path) -> None:
    """Interrupt who asks whether the thread lives, and who waits for its end."""
    with World(directory) as world:
        writer = world.store._writer
        thread = writer._thread
        assert thread is not None
        for at in range(1, 60):
            strike(thread.is_alive, at)
        writer._backstop()
        assert writer.restarts == 0, "a second thread was started"


VARIANTS = {
    "choose the batch, then repair": Variant(
        Driver,
        "_take_turn",
        (
            (
                "            if self.actor.mark is not None:\n",
                "            batch = self.mailbox.take()\n            if self.actor.mark is not None:\n",
            ),
            (
                "                self._repair()\n            batch = self.mailbox.take()\n",
                "                self._repair()\n",
            ),
        ),
        strike_writers_thread(11),
    ),
    "no repair before the batch": Variant(
        Driver, "_take_turn", (("if self.actor.mark is not None:", "if False:"),), strike_writers_thread(11)
    ),
    "no repair before an assisted turn": Variant(
        Driver, "_assist", (("if actor.mark is not None:", "if False:"),), strike_call("single")
    ),
    "drop from the mailbox, then answer": Variant(
        Driver,
        "_run_batch",
        (("    for envelope, outcome in", "    self.mailbox.items.clear()\n    for envelope, outcome in"),),
        strike_writers_thread(3),
    ),
    "take out of the mailbox, then run": Variant(
        Mailbox,
        "take",
        (("            return batch\n", "            self.items.clear()\n            return batch\n"),),
        strike_writers_thread(11),
    ),
    "clear the mark, then answer": Variant(
        Driver,
        "_run_batch",
        (("    for envelope, outcome in", "    self.actor.mark = None\n    for envelope, outcome in"),),
        strike_writers_thread(3),
    ),
    "item first, bell second": Variant(
        Mailbox,
        "put_nowait",
        (
            (
                "    ring(self.bell)\n    self.items.append(envelope)\n",
                "    self.items.append(envelope)\n    ring(self.bell)\n",
            ),
        ),
        strike_call("queued single", 1),
    ),
    "no bell where the turn is held": Variant(
        Mailbox, "put_nowait", (("    ring(self.bell)\n", ""),), queue_behind_a_turn
    ),
    "look without the guard": Variant(Driver, "_step", (("    with mailbox.guard:\n", "    if True:\n"),), lay_slowly),
    "sleep after a crash without looking": Variant(
        Driver,
        "_survive",
        (("self._crashed(error)", "self._crashed(error); self.mailbox.bell.acquire()"),),
        strike_writers_thread(11),
    ),
    "acquire and release the turn by hand": Variant(
        Driver,
        "ask",
        (
            ("            with self.turn:\n", "            self.turn.acquire()\n            if True:\n"),
            (
                "                    self.owner = 0\n",
                "                    self.owner = 0\n                    self.turn.release()\n",
            ),
        ),
        strike_call("single", 1),
    ),
    "owner = get_ident() within the turn": Variant(
        Driver,
        "ask",
        (("            self.owner = me\n", "            self.owner = get_ident()\n"),),
        append_in_handlers("single", 1),
    ),
    "owner never stored": Variant(
        Driver, "ask", (("            self.owner = me\n", ""),), append_in_handlers("single", 7)
    ),
    "guard's owner never stored": Variant(
        Driver,
        "_enqueue",
        (("                    mailbox.guard_owner = me\n", ""),),
        append_in_handlers("queued single", 1),
    ),
    "gate asks nobody who holds the device": Variant(
        Gate,
        "leads",
        (("return thread in {self.owner, self._generation.owner}", "return False"),),
        append_in_handlers("durable", 5),
    ),
    "nothing rung for after an interrupted turn": Variant(
        Driver, "ask", (("            self.wake()", "            pass"),), strike_call("single")
    ),
    "the thread does not look for a mark": Variant(
        Driver,
        "_step",
        (("bool(mailbox.items) or self._was_cut_short()", "bool(mailbox.items)"),),
        strike_call("single"),
    ),
    "write, then mark": Variant(
        Writer,
        "_write",
        (
            ("    self.mark = plan = Plan(", "    plan = Plan("),
            ("    journal.write(plan.data, start)\n", "    journal.write(plan.data, start)\n    self.mark = plan\n"),
        ),
        strike_call("single", 1),
    ),
    "advance, then publish": Variant(
        Writer,
        "_publish",
        (
            (
                "    self._index.ask(Publish(events))\n",
                "    self.journal.advance(end, events[-1].global_sequence + 1)\n    self.mark = None\n    self._index.ask(Publish(events))\n",
            ),
        ),
        strike_call("single", 1),
    ),
    "repair without cutting": Variant(Writer, "repair", (("    self.journal.cut(end)\n", ""),), stop_short),
    "repair takes in halves of batches": Variant(
        Writer,
        "repair",
        (
            (
                "    count = max((unit.count for unit in whole), default=0)\n",
                "    end, count = self.journal.meta.frames_start and reached, 1\n",
            ),
        ),
        stop_short,
    ),
    "publish without taking back half puts": Variant(
        Index, "_publish", (("    if self._half_put:\n", "    if False:\n"),), strike_call("batch", 3)
    ),
    "show rows, then put them": Variant(
        Index,
        "_publish",
        (
            (
                "    for record in records:\n",
                "    self.view = View(view.parts, row + len(records))\n    for record in records:\n",
            ),
        ),
        strike_call("batch", 3),
    ),
    "a put that counts its row last": Variant(
        Tail,
        "put",
        (
            ("    self._count = row + 1\n", ""),
            ("    self._seen_bits |= bits\n", "    self._seen_bits |= bits\n"),
            (
                "    if linked:\n        self._link(row, record.correlation_id, record.causation_id)\n",
                "    if linked:\n        self._link(row, record.correlation_id, record.causation_id)\n    self._count = row + 1\n",
            ),
        ),
        strike_call("batch", 1),
    ),
    "answer without tolerating a second one": Variant(
        Envelope, "answer", (("    ring(self._lock)", "    self._lock.release()"),), strike_writers_thread(3)
    ),
    "emit behind an unprotected add": Variant(
        Log,
        "emit",
        (("    try:\n        self.emitting.add(me)", "    self.emitting.add(me)\n    try:\n        pass"),),
        strike_logged,
    ),
    "believe Thread.is_alive": Variant(
        Driver, "_is_dead", (("not self._life.locked()", "not self._thread.is_alive()"),), look_at_a_living_thread
    ),
    "begin the next segment where the last attempt left off": Variant(
        Journal,
        "_create",
        (("        self._files.remove(name)\n        return self._files.create(name)", "        raise"),),
        strike_call("rotation", 11),
    ),
    "close in a handler within the turn": Variant(
        Store,
        "_inside",
        (("    me = get_ident()\n", "    return False\n"),),
        lambda directory: each.test_a_handler_that_closes_at_any_bytecode_closes_at_once_or_behind_the_call(
            "single", directory
        ),
    ),
}


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait no longer than it takes to see a hang, and let a deadlock of the main thread end."""
    monkeypatch.setattr(driver, "BACKSTOP_SECONDS", 3600)
    for module in (worlds, loop):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", HANG_SECONDS)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_tempting_variant_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = VARIANTS[name]
    rewrite(monkeypatch, variant.owner, variant.name, *variant.changes)
    found = attacked(variant.attack, tmp_path)
    print(f"{name}: {type(found).__name__}: {str(found)[:100]}")  # noqa: T201 - shown with -s
    assert found is not None, "the attack has found nothing"
    free_stuck_starts()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_attack_finds_nothing_in_what_is_right(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.skip("the attacks are tests of their own")


def attacked(attack: Attack, directory: Path) -> BaseException | None:
    """What an attack has found; the main thread is fetched out of a deadlock."""

    def on_alarm(_: int, __: FrameType | None) -> NoReturn:
        raise Hung

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 20)
    try:
        attack(directory)
    except BaseException as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return None
