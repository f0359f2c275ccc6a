"""Who is told of what: the protocol of arming, looking and waiting."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak import Coordinate, EventKind, Region
from batpak.actors.announcer import (
    ANYTHING,
    CATEGORY,
    CORRELATION,
    ENTITY,
    EVERYTHING,
    KIND,
    MORE_DURABLE,
    PLACE,
    SCOPE,
    Announcer,
    Interest,
    ThreadListener,
    interest_in,
    wait_until,
)
from batpak.errors import BatpakError
from batpak.event import entry_of
from batpak.kind import SYSTEM_KINDS
from batpak.storage.row import Record
from batpak.testing.clock import HandClock
from tests.delivery.listeners import ID, Ear, armed, record, size
from tests.store.journals import Task, until

# The protocol ----------------------------------------------------------------------------------------------------


def test_a_listener_is_told_once_until_it_arms_again() -> None:
    announcer, ear = Announcer(), Ear()
    announcer.arm((ANYTHING,), ear)
    announcer.announce([record(1)])
    announcer.announce([record(2)])
    assert ear.told == [ANYTHING]
    announcer.arm((ANYTHING,), ear)
    announcer.announce([record(3)])
    assert ear.told == [ANYTHING, ANYTHING]


def test_what_is_announced_between_arming_and_waiting_wakes_the_thread() -> None:
    announcer, listener = Announcer(), ThreadListener()
    announcer.arm((ANYTHING,), listener)
    announcer.announce([record()])
    task = Task(lambda: listener.wait(3600))
    task.outcome()


def test_a_listener_is_told_of_all_its_interests_in_one_call() -> None:
    announcer, calls = Announcer(), []

    class Counting(Ear):
        def tell(self, interests: Sequence[Interest]) -> None:
            calls.append(sorted(interests))

    mine = [Interest(ENTITY, "order"), Interest(SCOPE, "shop")]
    announcer.arm(mine, Counting())
    announcer.announce([record(1), record(2)])
    assert calls == [mine]


def test_nobody_is_told_of_an_announcement_of_nothing() -> None:
    announcer, ear = Announcer(), Ear()
    announcer.arm((ANYTHING, Interest(ENTITY, "order")), ear)
    announcer.announce([])
    assert ear.told == []


def test_whoever_disarms_is_told_no_more() -> None:
    announcer, ear, other = Announcer(), Ear(), Ear()
    announcer.arm((ANYTHING,), ear)
    announcer.arm((ANYTHING,), other)
    announcer.disarm((ANYTHING,), ear)
    announcer.disarm((ANYTHING, Interest(ENTITY, "never armed")), ear)
    announcer.announce([record()])
    assert (ear.told, other.told) == ([], [ANYTHING])


def test_a_listener_that_arms_again_while_it_is_told_waits_for_the_next() -> None:
    announcer = Announcer()

    class Eager(Ear):
        def tell(self, interests: Sequence[Interest]) -> None:
            super().tell(interests)
            announcer.arm((ANYTHING,), self)

    eager = Eager()
    announcer.arm((ANYTHING,), eager)
    for number in range(3):
        announcer.announce([record(number)])
        assert eager.told == [ANYTHING] * (number + 1)


def test_tell_reaches_those_who_wait_for_that_alone() -> None:
    announcer, durable, mine, other = Announcer(), Ear(), Ear(), Ear()
    announcer.arm((MORE_DURABLE,), durable)
    announcer.arm((Interest(PLACE, "mine"),), mine)
    announcer.arm((Interest(PLACE, "other"),), other)
    announcer.announce([record()])
    announcer.tell(Interest(PLACE, "mine"))
    assert (durable.told, mine.told, other.told) == ([], [Interest(PLACE, "mine")], [])
    announcer.tell(MORE_DURABLE)
    assert (durable.told, other.told) == ([MORE_DURABLE], [])


def test_tell_all_reaches_everybody() -> None:
    announcer, ears = Announcer(), [Ear() for _ in range(4)]
    interests = [ANYTHING, MORE_DURABLE, Interest(PLACE, "a"), Interest(ENTITY, "order")]
    for ear, interest in zip(ears, interests, strict=True):
        announcer.arm((interest,), ear)
    announcer.tell_all()
    assert [ear.told for ear in ears] == [[interest] for interest in interests]


# Interests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "interest"),
    [
        (Region(), ANYTHING),
        (Region(include_system=True), ANYTHING),
        (Region(sequences=(0, 3)), ANYTHING),
        (Region(category=1), Interest(CATEGORY, 1)),
        (Region(category=1, kind=EventKind(1, 2)), Interest(KIND, 0x1002)),
        (Region(kind=EventKind(1, 2), scope="shop"), Interest(SCOPE, "shop")),
        (Region(scope="shop", entity="order"), Interest(ENTITY, "order")),
        (Region(entity="order", correlation_id=ID), Interest(CORRELATION, ID.bytes)),
    ],
)
def test_a_region_waits_for_the_narrowest_of_its_parts(region: Region, interest: Interest) -> None:
    assert interest_in(region) == interest


def may_be_text(text: str) -> bool:
    try:
        Coordinate(text, text)
    except BatpakError:
        return False
    return True


TEXTS = st.text("ab:.ä", min_size=1, max_size=7).filter(may_be_text)
KINDS = st.sampled_from([0x1001, 0x1002, 0x2001, 0xF001, *sorted(SYSTEM_KINDS)[:3]])
IDS = st.integers(1, 4).map(lambda number: UUID(int=number))
REGIONS = st.builds(
    Region,
    entity=st.none() | TEXTS,
    scope=st.none() | TEXTS,
    kind=st.none() | KINDS.map(EventKind.from_value),
    category=st.none() | st.sampled_from([0, 1, 2, 15]),
    sequences=st.sampled_from([None, (0, 0), (0, 5), (3, 9)]),
    correlation_id=st.none() | IDS,
    include_system=st.booleans(),
)
RECORDS = st.builds(record, st.integers(1, 4), entity=TEXTS, scope=TEXTS, kind=KINDS, correlation_id=st.none() | IDS)


@given(st.lists(RECORDS, min_size=1, max_size=3), st.lists(REGIONS, min_size=1, max_size=5))
def test_whoever_waits_in_a_region_that_an_event_lies_in_is_told(records: list[Record], regions: list[Region]) -> None:
    announcer, ears = Announcer(), [Ear() for _ in regions]
    for region, ear in zip(regions, ears, strict=True):
        announcer.arm((interest_in(region),), ear)
    announcer.announce(records)
    for region, ear in zip(regions, ears, strict=True):
        if any(region.matches(entry_of(each)) for each in records):
            assert ear.told == [interest_in(region)]


@given(TEXTS, TEXTS)
def test_an_entity_is_announced_to_exactly_the_namespaces_it_lies_in(prefix: str, entity: str) -> None:
    announcer, ear = Announcer(), Ear()
    region = Region(entity=prefix)
    announcer.arm((interest_in(region),), ear)
    event = record(entity=entity)
    announcer.announce([event])
    assert bool(ear.told) == region.matches(entry_of(event))


# What is left ----------------------------------------------------------------------------------------------------


def test_consumers_that_come_and_go_leave_nothing() -> None:
    announcer = Announcer()
    most = 0
    for number in range(2000):
        interests = (Interest(ENTITY, f"order:{number}"), Interest(PLACE, str(number)))
        listener = ThreadListener()
        announcer.arm(interests, listener)
        if number % 3 == 0:
            announcer.announce([record(number, entity=f"order:{number}")])
        announcer.disarm(interests, listener)
        most = max(most, size(announcer))
        if number % 10 == 9:
            announcer.announce([record(number, entity="elsewhere")])
    assert most < 100
    for number in range(3):
        announcer.announce([record(number, entity="elsewhere")])
    assert size(announcer) < 5


def test_a_crowd_that_left_is_cleared_away_by_the_appends_that_follow() -> None:
    announcer = Announcer()
    for number in range(1000):
        interests = (Interest(ENTITY, f"order:{number}"),)
        listener = ThreadListener()
        announcer.arm(interests, listener)
        announcer.disarm(interests, listener)
    for number in range(20):
        announcer.announce([record(number, entity="elsewhere")])
    assert size(announcer) == 0


# Waiting ---------------------------------------------------------------------------------------------------------


def test_a_wait_returns_what_the_look_gives_and_leaves_nothing_armed() -> None:
    announcer, listener = Announcer(), ThreadListener()
    assert wait_until(announcer, (ANYTHING,), lambda: "found", None, HandClock(), listener=listener) == "found"
    assert armed(announcer, listener) == []


def test_a_wait_looks_before_it_gives_up() -> None:
    looks: list[int] = []
    assert not wait_until(Announcer(), (ANYTHING,), lambda: looks.append(1), 0, HandClock())
    assert looks == [1]


def test_a_wait_ends_when_the_time_is_up_on_the_given_clock() -> None:
    announcer, listener, clock = Announcer(), ThreadListener(), HandClock()
    task = Task(
        lambda: wait_until(announcer, (ANYTHING,), lambda: False, 5.0, clock, listener=listener, backstop_seconds=3600)
    )
    until(lambda: bool(armed(announcer, listener)), "armed listener")
    clock.advance(4.9)
    announcer.announce([record(1)])
    until(lambda: bool(armed(announcer, listener)), "listener that has armed again")
    assert not task.finished
    clock.advance(0.2)
    announcer.announce([record(2)])
    assert task.outcome() is False
    assert armed(announcer, listener) == []


def test_a_look_that_raises_leaves_nothing_armed() -> None:
    announcer, listener = Announcer(), ThreadListener()

    def look() -> bool:
        raise LookupError

    with pytest.raises(LookupError):
        wait_until(announcer, (ANYTHING,), look, None, HandClock(), listener=listener)
    assert armed(announcer, listener) == []


def test_the_tables_are_those_of_the_topics() -> None:
    assert list(range(6)) == [EVERYTHING, ENTITY, SCOPE, KIND, CATEGORY, CORRELATION]
    assert len(Announcer()._tables) == 9
