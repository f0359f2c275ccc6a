"""A program that appends from many threads while interrupts rain on it; it prints what it found as JSON.

    python -m tests.interrupts.storm DIRECTORY SEED INTERRUPTS DRIVER SWITCH_SECONDS {interrupt,append}

Signals meet the main thread, asynchronous exceptions the other askers and the actors' threads. With ``append`` the
signal's handler appends instead of raising. What does not end is reported by the watchdog with every thread's stack.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import sleep
from types import FrameType
from typing import Any, ClassVar

from batpak import BatpakError, Receipt, ReentrantCallError
from batpak.actors import index
from batpak.clock import SystemClock
from tests.interrupts.strike import interrupt
from tests.interrupts.world import PATIENCE_SECONDS, World, key_of

ASKERS = 3
WATCHDOG_SECONDS = 100
SHORTEST, LONGEST = 20e-6, 2e-3
NUMBERS_APART = 10_000_000


class Asker:
    """Appends in all ways, one after the other, and writes down what has been acknowledged."""

    def __init__(self, world: World, number: int, seed: int) -> None:
        self.world = world
        self.numbers = itertools.count(number * NUMBERS_APART)
        self.acknowledged: list[tuple[range, list[Receipt]]] = []
        self.open_calls: list[range] = []
        self.under_way: range | None = None
        self.keyed: int | None = None
        self.interrupts = 0
        self.stopping = False
        self.random = random.Random(seed)
        self.thread = threading.Thread(target=self.work, name=f"asker-{number}", daemon=True)

    def work(self) -> None:
        while not self.stopping:
            try:
                # Two loops: a second exception may land on the back edge of one, outside its `try`.
                while not self.stopping:
                    try:
                        while not self.stopping:
                            self.step()
                    except KeyboardInterrupt:
                        self.interrupts += 1
            except KeyboardInterrupt:
                self.interrupts += 1

    def step(self) -> None:
        if self.under_way is not None:
            self.open_calls.append(self.under_way)
            self.under_way = None
        way = 3 if self.keyed is not None else self.random.randrange(6)
        if way == 3:
            self.append_keyed()
        elif way == 4:
            numbers = self.take(3)
            self.note(numbers, self.world.append_batch(numbers, durable=self.random.random() < 0.2))
        else:
            numbers = self.take(1)
            self.note(numbers, self.world.append(numbers[0], durable=way == 5))

    def append_keyed(self) -> None:
        """Append with a key, again and again until there is a receipt: the retry of an open outcome is safe."""
        if self.keyed is None:
            self.keyed = next(self.numbers)
        number = self.keyed
        receipts = self.world.append(number, idempotency_key=key_of(number))
        self.note(range(number, number + 1), receipts)
        self.keyed = None

    def take(self, count: int) -> range:
        first = next(self.numbers)
        for _ in range(count - 1):
            next(self.numbers)
        self.under_way = numbers = range(first, first + count)
        return numbers

    def note(self, numbers: range, receipts: list[Receipt]) -> None:
        self.acknowledged.append((numbers, receipts))
        self.under_way = None


class Drop(KeyboardInterrupt):
    """One interrupt; counted where it lands, for what is raised in a thread that sleeps may never."""

    landed: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.landed[threading.current_thread().name] += 1


class Storm:
    """Interrupts the main thread by a timer, every other by asynchronous exceptions, until *count* have landed."""

    def __init__(self, world: World, askers: list[Asker], seed: int, count: int) -> None:
        self.world = world
        self.askers = askers
        self.random = random.Random(seed)
        self.count = count
        self.raining = False
        self.stopping = False

    def on_signal(self, _: int, frame: FrameType | None) -> None:
        if self.raining:
            self.next_signal()
            raise Drop

    def next_signal(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self.random.uniform(SHORTEST, LONGEST))

    def rain(self) -> None:
        """Interrupt other threads until there has been enough; the actors' threads as often as all askers'."""
        while Drop.landed.total() < self.count:
            sleep(self.random.uniform(SHORTEST, LONGEST))
            actors = [each for each in threading.enumerate() if each.name.startswith("batpak-")]
            target = self.random.choice(actors if self.random.random() < 0.5 else [each.thread for each in self.askers])
            if target.ident is not None:
                interrupt(target.ident, Drop)
        self.stopping = True


def rain_on(world: World, seed: int, count: int) -> dict[str, Any]:
    """Let it rain until *count* interrupts have been raised."""
    askers = [Asker(world, number, seed + number) for number in range(1, ASKERS + 1)]
    main = Asker(world, 0, seed)
    storm = Storm(world, askers, seed, count)
    signal.signal(signal.SIGALRM, storm.on_signal)
    for each in askers:
        each.thread.start()
    rain = threading.Thread(target=storm.rain, daemon=True)
    rain.start()
    storm.raining = True
    storm.next_signal()
    under_fire(main, storm)
    storm.raining = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    rain.join()
    end(askers)
    return {"hits": Drop.landed, "restarts": restarts(world)} | settle(world, [main, *askers])


def under_fire(main: Asker, storm: Storm) -> None:
    """Be the asker in the main thread, as a program that survives Ctrl-C."""
    while not storm.stopping:
        try:
            while not storm.stopping:
                try:
                    while not storm.stopping:
                        main.step()
                except KeyboardInterrupt:
                    main.interrupts += 1
        except KeyboardInterrupt:
            main.interrupts += 1


def end(askers: list[Asker]) -> None:
    """Let the askers end; nobody hangs."""
    for each in askers:
        each.stopping = True
    for each in askers:
        each.thread.join(PATIENCE_SECONDS)
        assert not each.thread.is_alive(), f"{each.thread.name} hangs"


def append_on_signals(world: World, seed: int, count: int) -> dict[str, Any]:
    """Append from a signal's handler while the main thread appends; refused by name where it cannot be."""
    askers = [Asker(world, number, seed + number) for number in range(1, ASKERS + 1)]
    main, handler = Asker(world, 0, seed), Asker(world, ASKERS + 1, seed)
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    raining = True

    def on_signal(_: int, frame: FrameType | None) -> None:
        if not raining:
            return
        numbers = handler.take(1)
        try:
            handler.note(numbers, world.append(numbers[0], durable=rng.random() < 0.3))
            outcomes["appended"] += 1
        except ReentrantCallError as error:
            outcomes[type(error).__name__] += 1
        except BatpakError as error:
            outcomes[f"unexpected {error!r}"] += 1
        if handler.under_way is not None:
            handler.open_calls.append(numbers)
            handler.under_way = None
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(SHORTEST, LONGEST))

    signal.signal(signal.SIGALRM, on_signal)
    for each in askers:
        each.thread.start()
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    while outcomes.total() < count:
        main.step()
        world.store.sync()
    raining = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    end(askers)
    return {"hits": outcomes, "restarts": restarts(world)} | settle(world, [main, handler, *askers])


def restarts(world: World) -> int:
    return sum(each.restarts for each in world.store.diagnostics().actors)


def settle(world: World, askers: list[Asker]) -> dict[str, Any]:
    """Ask the oracle; the counts."""
    acknowledged = 0
    for each in askers:
        if each.keyed is not None:
            each.append_keyed()
        if each.under_way is not None:
            each.open_calls.append(each.under_way)
        last = -1
        for numbers, receipts in each.acknowledged:
            world.account(numbers, receipts)
            acknowledged += len(receipts)
            if not receipts[0].duplicate:
                assert receipts[0].global_sequence > last, "an asker's events changed places"
                last = receipts[-1].global_sequence
        world.open_calls += each.open_calls
    world.claim(NUMBERS_APART * (len(askers) + 1))
    world.check_all()
    open_calls = sum(len(each.open_calls) for each in askers)
    return {"acknowledged": acknowledged, "open": open_calls, "caught": sum(each.interrupts for each in askers)}


WEATHER: dict[str, Callable[[World, int, int], dict[str, Any]]] = {"interrupt": rain_on, "append": append_on_signals}


def main() -> None:
    directory, seed, count, driver, switch_seconds, weather = sys.argv[1:]
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True)
    sys.setswitchinterval(float(switch_seconds))
    vars(index)["RUN_EVENTS"] = 1000  # many freezes, runs and merges in a short time
    with World(
        Path(directory), clock=SystemClock(), text=100, driver=driver, segment_bytes=256 * 1024, sync_every_events=500
    ) as world:
        found = WEATHER[weather](world, int(seed), int(count))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
