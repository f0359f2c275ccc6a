"""Nobody waits in vain: interrupts at each bytecode, acts at each step, and threads in a race."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator
from threading import Event
from typing import Any

import pytest

from batpak.actors.announcer import (
    ANYTHING,
    CATEGORY,
    CORRELATION,
    ENTITY,
    KIND,
    MORE_DURABLE,
    PLACE,
    SCOPE,
    Announcer,
    Interest,
    ThreadListener,
    wait_until,
)
from batpak.storage.row import Record
from batpak.testing.clock import HandClock
from tests.delivery.listeners import ID, Ear, armed, record
from tests.interrupts.strike import Struck, strike
from tests.store.journals import LONG, PATIENCE_SECONDS, Task, until

# Interrupts ------------------------------------------------------------------------------------------------------

RECORDED = [record(1, entity="order:42:line"), record(2, scope="bank", kind=0x2001, correlation_id=ID)]
CONCERNED = [
    ANYTHING,
    Interest(ENTITY, "order"),
    Interest(ENTITY, "order:42:line"),
    Interest(SCOPE, "bank"),
    Interest(KIND, 0x2001),
    Interest(CATEGORY, 1),
    Interest(CORRELATION, ID.bytes),
]
UNCONCERNED = [Interest(ENTITY, "ord"), Interest(SCOPE, "elsewhere"), Interest(KIND, 0x1002), Interest(PLACE, "mine")]


class World:
    """An announcer with a listener for each interest, one for two of them, and a bucket that was left."""

    def __init__(self) -> None:
        self.announcer = Announcer()
        self.concerned = [self.listener(interest) for interest in CONCERNED]
        self.both = self.listener(CONCERNED[1], CONCERNED[3])
        self.unconcerned = [self.listener(interest) for interest in UNCONCERNED]
        left = Interest(SCOPE, "left")
        self.announcer.disarm((left,), self.listener(left))

    def listener(self, *interests: Interest) -> Ear:
        ear = Ear()
        self.announcer.arm(interests, ear)
        return ear


def each_strike(act: Callable[[World], object]) -> Iterator[tuple[World, list[str]]]:
    """Yield a world in which *act* was struck, for each bytecode of *act*."""
    at = 0
    while True:
        at += 1
        world = World()
        struck, outcome = strike(lambda world=world: act(world), at)  # type: ignore[misc]
        if not struck:
            assert not isinstance(outcome, BaseException), outcome
            break
        assert isinstance(outcome, Struck) or outcome is None, outcome
        yield world, struck
    assert at > 20


@pytest.mark.usefixtures("no_collection")
def test_an_interrupted_announcement_that_is_made_again_has_told_everybody() -> None:
    for world, struck in each_strike(lambda world: world.announcer.announce(RECORDED)):
        late = world.listener(CONCERNED[2])  # comes between the interrupt and the repair
        world.announcer.announce(RECORDED)
        for ear, interest in zip(world.concerned, CONCERNED, strict=True):
            assert set(ear.told) == {interest}, struck
        assert set(world.both.told) == {CONCERNED[1], CONCERNED[3]}, struck
        assert set(late.told) == {CONCERNED[2]}, struck
        for ear, interest in zip(world.unconcerned, UNCONCERNED, strict=True):
            assert (ear.told, armed(world.announcer, ear)) == ([], [interest]), struck


@pytest.mark.usefixtures("no_collection")
def test_who_is_told_by_an_interrupted_announcement_and_arms_again_is_told_of_the_next() -> None:
    for world, struck in each_strike(lambda world: world.announcer.announce(RECORDED)):
        told = [ear for ear in world.concerned if ear.told]
        again = [world.listener(ANYTHING) for _ in told]
        world.announcer.announce(RECORDED)
        later = [world.listener(ANYTHING) for _ in told]
        world.announcer.announce([record(9)])
        assert all(ear.told for ear in again + later), struck


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("interest", [MORE_DURABLE, Interest(PLACE, "mine")])
def test_an_interrupted_tell_loses_nobody(interest: Interest) -> None:
    ears: list[Ear] = []

    def act(world: World) -> None:
        world.announcer.tell(interest)

    at = 0
    while True:
        at += 1
        world = World()
        ears = [world.listener(interest) for _ in range(3)]
        struck, _ = strike(lambda world=world: act(world), at)  # type: ignore[misc]
        if not struck:
            break
        for ear in ears:
            assert ear.told or armed(world.announcer, ear), struck
    assert at > 10


@pytest.mark.usefixtures("no_collection")
def test_an_interrupted_arm_can_be_repeated_and_harms_nobody() -> None:
    extra = Ear()

    def act(world: World) -> None:
        world.announcer.arm((CONCERNED[1], Interest(SCOPE, "new")), extra)

    for world, struck in each_strike(act):
        act(world)
        world.announcer.announce([*RECORDED, record(3, scope="new")])
        assert set(extra.told) == {CONCERNED[1], Interest(SCOPE, "new")}, struck
        assert all(ear.told for ear in world.concerned), struck
        extra.told.clear()


@pytest.mark.usefixtures("no_collection")
def test_an_interrupted_disarm_can_be_repeated_and_harms_nobody() -> None:
    def act(world: World) -> None:
        world.announcer.disarm((CONCERNED[1], CONCERNED[3]), world.both)

    for world, struck in each_strike(act):
        act(world)
        assert armed(world.announcer, world.both) == [], struck
        world.announcer.announce(RECORDED)
        assert world.both.told == [], struck
        assert all(ear.told for ear in world.concerned), struck


# Interleavings ---------------------------------------------------------------------------------------------------


class Hooked(dict[Hashable, Any]):
    """A table at whose every step something else may happen."""

    def __init__(self, step: Callable[[], None]) -> None:
        super().__init__()
        self._step = step

    def get(self, *arguments: Any) -> Any:
        self._step()
        found = super().get(*arguments)
        self._step()
        return found

    def setdefault(self, *arguments: Any) -> Any:
        self._step()
        found = super().setdefault(*arguments)
        self._step()
        return found

    def pop(self, *arguments: Any) -> Any:
        self._step()
        found = super().pop(*arguments)
        self._step()
        return found

    def __bool__(self) -> bool:
        self._step()
        found = len(self) > 0
        self._step()
        return found


class HookedAnnouncer(Announcer):
    """An announcer whose tables are hooked, and what it says of itself as well."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step = step
        self._listening = False
        super().__init__()
        self._tables = tuple(Hooked(step) for _ in self._tables)

    @property
    def listening(self) -> bool:
        self._step()
        return self._listening

    @listening.setter
    def listening(self, listening: bool) -> None:
        self._step()
        self._listening = listening
        self._step()


class Interleaved:
    """An announcer; at the step numbered *at* of what runs, another *act* runs from beginning to end."""

    def __init__(self, at: int) -> None:
        self.act: Callable[[], None] | None = None
        self._left = at
        self.announcer = HookedAnnouncer(self._step)

    def _step(self) -> None:
        if self.act is not None:
            self._left -= 1
            if not self._left:
                act, self.act = self.act, None
                act()

    def during(self, run: Callable[[], None], act: Callable[[], None]) -> bool:
        """Run, with the act in between; whether there was such a step."""
        self.act = act
        run()
        met, self.act = self.act is None, None
        return met

    def publish(self, event: Record) -> None:
        """Announce as the index does."""
        if self.announcer.listening:
            self.announcer.announce([event])


@pytest.mark.parametrize("interest", [ANYTHING, Interest(ENTITY, "order"), Interest(SCOPE, "shop")])
@pytest.mark.parametrize("others", ["one that was told", "one that waits", "one that left"])
def test_whoever_arms_at_any_step_of_an_announcement_is_told_of_the_next(interest: Interest, others: str) -> None:
    at, met = 0, True
    while met:
        at += 1
        world, ear, other = Interleaved(at), Ear(), Ear()
        world.announcer.arm((interest,), other)
        if others == "one that was told":
            world.publish(record(0))
        if others == "one that left":
            world.announcer.disarm((interest,), other)
        met = world.during(lambda: world.publish(record(1)), lambda: world.announcer.arm((interest,), ear))  # noqa: B023
        if met:
            world.publish(record(2))
            assert ear.told, f"step {at}"
    assert at > 8


@pytest.mark.parametrize("others", [0, 1])
def test_what_is_announced_at_any_step_of_an_arm_is_told_or_the_next_is(others: int) -> None:
    interest = Interest(ENTITY, "order")
    at, met = 0, True
    while met:
        at += 1
        world, ear = Interleaved(at), Ear()
        for _ in range(others):
            world.announcer.arm((interest,), Ear())
        met = world.during(lambda: world.announcer.arm((interest,), ear), lambda: world.publish(record(1)))  # noqa: B023
        if met:
            world.publish(record(2))
            assert ear.told, f"step {at}"
    assert at > 4


@pytest.mark.parametrize("first", ["tell", "arm"])
def test_whoever_arms_at_any_step_of_a_tell_is_told_of_the_next(first: str) -> None:
    at, met = 0, True
    while met:
        at += 1
        world, ear = Interleaved(at), Ear()
        world.announcer.arm((MORE_DURABLE,), Ear())
        acts = [lambda: world.announcer.tell(MORE_DURABLE), lambda: world.announcer.arm((MORE_DURABLE,), ear)]  # noqa: B023
        met = world.during(*(acts if first == "tell" else acts[::-1]))
        if met:
            world.announcer.tell(MORE_DURABLE)
            assert ear.told, f"step {at}"
    assert at > 3


@pytest.mark.parametrize("run", ["announcement", "tell"])
def test_whoever_arms_behind_a_second_tell_of_the_same_is_told_of_the_next(run: str) -> None:
    interest = Interest(ENTITY, "order")
    at, met = 0, True
    while met:
        at += 1
        world, ear = Interleaved(at), Ear()
        world.announcer.arm((interest,), Ear())

        def announce(world: Interleaved = world) -> None:
            world.publish(record(1))

        def tell(world: Interleaved = world) -> None:
            world.announcer.tell(interest)

        def tell_and_arm(world: Interleaved = world, ear: Ear = ear) -> None:
            world.announcer.tell(interest)
            world.announcer.arm((interest,), ear)

        met = world.during(announce if run == "announcement" else tell, tell_and_arm)
        if met:
            world.publish(record(2))
            assert ear.told, f"step {at}"
    assert at > 3


def test_whoever_arms_at_any_step_of_clearing_away_is_told_of_the_next() -> None:
    interest = Interest(ENTITY, "order")
    at, met = 0, True
    while met:
        at += 1
        world, ear, left = Interleaved(at), Ear(), Ear()
        world.announcer.arm((interest,), left)
        world.announcer.disarm((interest,), left)

        def announce(world: Interleaved = world) -> None:
            world.publish(record(1, entity="elsewhere"))

        def arm(world: Interleaved = world, ear: Ear = ear) -> None:
            world.announcer.arm((interest,), ear)

        met = world.during(announce, arm)
        if met:
            world.publish(record(2))
            assert ear.told, f"step {at}"
    assert at > 8


def test_an_announcement_at_any_step_of_a_disarm_tells_the_others() -> None:
    interest = Interest(ENTITY, "order")
    at, met = 0, True
    while met:
        at += 1
        world, ear, leaving = Interleaved(at), Ear(), Ear()
        world.announcer.arm((interest,), leaving)
        world.announcer.arm((interest,), ear)
        met = world.during(lambda: world.announcer.disarm((interest,), leaving), lambda: world.publish(record(1)))  # noqa: B023
        if met:
            assert ear.told, f"step {at}"
    assert at > 1


# Races -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("switching")
def test_no_wake_up_is_lost_while_many_arm_and_one_announces() -> None:
    rounds, announcer = 3000 if LONG else 300, Announcer()
    interests = [ANYTHING, Interest(ENTITY, "order"), Interest(ENTITY, "order:42"), Interest(SCOPE, "shop")] * 2
    published, stop = [0], Event()
    seen = [0] * len(interests)

    def consume(number: int) -> None:
        listener = ThreadListener()
        while seen[number] < rounds:
            wait_until(
                announcer,
                (interests[number],),
                lambda: published[0] > seen[number],
                PATIENCE_SECONDS,
                clock,
                listener=listener,
                backstop_seconds=3600,
            )
            seen[number] += 1

    def come_and_go(number: int) -> None:
        while not stop.is_set():
            guest = ThreadListener()
            announcer.arm((interests[number],), guest)
            announcer.disarm((interests[number],), guest)

    clock = HandClock()
    consumers = [Task(lambda number=number: consume(number)) for number in range(len(interests))]  # type: ignore[misc]
    guests = [Task(lambda number=number: come_and_go(number)) for number in range(4)]  # type: ignore[misc]
    try:
        for number in range(1, rounds + 1):
            published[0] = number
            announcer.announce([record(number)])
            until(lambda number=number: min(seen) >= number, f"end of round {number}: {seen}")  # type: ignore[misc]
    finally:
        stop.set()
        published[0] = sys.maxsize
        for _ in consumers:
            announcer.tell_all()
    for task in consumers + guests:
        task.outcome()
