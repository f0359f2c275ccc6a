"""Actors that run when a test says so: no thread is started, and an order that was drawn replays from its seed.

::

    drivers = SteppedDrivers(seed=7)
    store = Store(MemoryFiles(), StoreConfig(driver="stepped"), driver=drivers)
    store.append(...)                       # runs steps of any actor, drawn from the seed, until it is answered
    envelope = drivers["writer"].post(...)  # lays a command into the mailbox and leaves it there
    drivers.steps()                         # ("writer",): whose mailboxes hold something
    drivers.step("writer")                  # one turn; where nothing is queued, one slice of idle work
    envelope.result()
    drivers.schedule("index", "writer")     # the next steps that are not drawn

Without a seed a call runs the actor that it asks and nobody else. A turn that asks another actor, as the writer's
asks the index, runs that actor inside itself. A step takes what a thread would take in one round of its loop, so
every order of steps is one that threads could have run in; what they could do within a step is not shown.
"""

from __future__ import annotations

from collections import deque
from contextvars import copy_context
from dataclasses import replace
from random import Random
from threading import get_ident
from typing import TYPE_CHECKING, Any

from batpak.actors.actor import CommandT
from batpak.actors.driver import Driver
from batpak.actors.mailbox import Envelope
from batpak.actors.system import DriverOf
from batpak.errors import BackpressureError
from batpak.log import DEBUG

if TYPE_CHECKING:
    from batpak.actors.actor import Actor
    from batpak.config import StoreConfig
    from batpak.log import Log
    from batpak.reports import ActorReport


class SteppedDriver(Driver[CommandT]):
    """Runs one actor in the thread of whoever steps it; for one thread at a time."""

    def __init__(self, actor: Actor[CommandT], drivers: SteppedDrivers, config: StoreConfig, log: Log) -> None:
        """Prepare to run *actor* among *drivers*."""
        super().__init__(
            actor,
            capacity=config.mailbox_capacity,
            assisted=False,
            clock=config.clock,
            log=log,
            restart=config.restart,
            slow_seconds=config.slow_command_seconds,
        )
        self._drivers = drivers
        self._alive = False

    def start(self) -> None:
        """Start no thread."""
        self._alive = True

    def close(self) -> None:
        """Take no more commands and answer those inside."""
        super().close()
        self._alive = False

    def report(self) -> ActorReport:
        """Return the actor's numbers."""
        return replace(super().report(), alive=self._alive)

    def post(self, command: CommandT) -> Envelope:
        """Lay *command* into the mailbox; its envelope is `done` once a step has answered it. Errors as of `ask`."""
        return self._post(command, get_ident())

    def step(self) -> bool:
        """Run one turn of all that is queued, or else a slice of idle work; whether to go on at once.

        What idle work raises comes out here; a thread would count it as a crash.
        """
        if self.mailbox.items:
            self._take_turn()
            return True
        if self.mailbox.closed:
            return False
        pause = self.actor.idle()
        self.tell_lines()
        return pause is not None and pause <= 0

    def _post(self, command: object, me: int) -> Envelope:
        self.check_reentrancy(me)
        context = copy_context() if self._log.passes(DEBUG) else None
        envelope = Envelope(command, context, self._clock.monotonic())
        self._enqueue(envelope, me, 0)
        return envelope

    def _queue(self, command: object, me: int, max_wait_seconds: float | None) -> object:
        """Post *command* and run steps until it is answered; steps make room where there is none."""
        nested = any(each.owner == me for each in self._outer)
        started = self._clock.monotonic()
        envelope = None
        while envelope is None:
            try:
                envelope = self._post(command, me)
            except BackpressureError:
                if max_wait_seconds is not None and self._clock.monotonic() - started >= max_wait_seconds:
                    raise
                self.step()
        while not envelope.done:
            (self if nested else self._drivers.next_for(self)).step()
        return envelope.result()


class SteppedDrivers(DriverOf):
    """The drivers of one store, by actor; a store that is opened with them later takes their place."""

    def __init__(self, *, seed: int | str | None = None) -> None:
        """Draw the steps that a waiting call runs from *seed*; None runs only the actor that it waits for."""
        self._random = None if seed is None else Random(seed)  # noqa: S311 - an order, not a secret
        self._schedule: deque[str] = deque()
        self._by_name: dict[str, SteppedDriver[Any]] = {}

    def make(self, actor: Actor[CommandT], config: StoreConfig, log: Log) -> SteppedDriver[CommandT]:
        """Return a driver for *actor* that waits to be stepped."""
        self._by_name[actor.name] = driver = SteppedDriver(actor, self, config, log)
        return driver

    def __getitem__(self, name: str) -> SteppedDriver[Any]:
        """Return the driver of the actor of that name."""
        return self._by_name[name]

    def steps(self) -> tuple[str, ...]:
        """Name the actors that have something queued."""
        return tuple(name for name, driver in self._by_name.items() if driver.mailbox.items)

    def step(self, name: str) -> bool:
        """Run one turn of the actor *name*, or a slice of its idle work; whether to go on at once."""
        return self._by_name[name].step()

    def schedule(self, *names: str) -> None:
        """Let the next steps of calls that wait be of *names*; afterwards they are drawn again."""
        self._schedule.extend(names)

    def next_for(self, waited_for: SteppedDriver[Any]) -> SteppedDriver[Any]:
        """Return whom to step while a call waits for an actor."""
        if self._schedule:
            return self._by_name[self._schedule.popleft()]
        if self._random is not None and self._by_name.get(waited_for.name) is waited_for:
            return self._random.choice(tuple(self._by_name.values()))
        return waited_for
