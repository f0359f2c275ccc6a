"""Subscriptions: live events of a region, whole and in order, to whoever is fast enough, at no cost to the writer."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from threading import Event
from uuid import UUID

import pytest

from batpak import (
    Coordinate,
    EventKind,
    InvalidRequestError,
    Notification,
    Receipt,
    Region,
    Store,
    StoreClosedError,
    StoreConfig,
    Subscription,
    SubscriptionOverflowError,
)
from batpak.actors.announcer import ANYTHING, MORE_DURABLE, PLACE, Interest
from batpak.delivery.feed import BLOCK
from batpak.delivery.subscription import MAX_CAPACITY
from batpak.testing.clock import HandClock
from tests.delivery.growing import waits
from tests.store.conftest import Driver
from tests.store.journals import (
    EVERYTHING,
    LONG,
    ORDER,
    PAID,
    PLACED,
    SHIPPED,
    Held,
    Journal,
    Loose,
    Task,
    hand_clock,
    new_events,
    race,
    until,
)
from tests.store.processes import run_python

pytestmark = pytest.mark.usefixtures("no_backstop")


@pytest.fixture(params=["assisted", "threaded"])
def driven(request: pytest.FixtureRequest) -> Iterator[Journal]:
    driver: Driver = request.param
    with Journal(StoreConfig(driver=driver)) as journal:
        yield journal


def taken(subscription: Subscription[Notification]) -> list[int]:
    """Return the global sequences of what is there by now."""
    return [each.global_sequence for each in iter(subscription.poll, None)]


def append(store: Store, *payloads: Loose) -> list[Receipt]:
    return [store.append(ORDER, PLACED, payload) for payload in payloads]


# What is delivered -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("switching")
def test_p19_a_notification_is_never_observed_before_its_event_can_be_read(driven: Journal) -> None:
    store, rounds = driven.store, 2000 if LONG else 150
    subscription = store.subscribe(EVERYTHING)

    def look() -> int:
        for notification in subscription.take(rounds * 4):
            event = store.get(notification.event_id)
            assert event.event_hash == notification.event_hash
            newest = store.latest(notification.coordinate.entity)
            assert newest is not None
            assert newest.sequence >= notification.sequence
            assert store.stats().visible_sequence >= notification.global_sequence
        return 1

    looking = Task(look)
    for number in range(rounds):
        store.append(ORDER, PLACED, number)
        store.append_batch(new_events(*range(3), entity="other"))
    assert looking.outcome() == 1


class Looking:
    """A listener that looks at once when it is told."""

    def __init__(self, look: Callable[[], Loose]) -> None:
        self._look = look
        self.seen: list[Loose] = []

    def tell(self, interests: Sequence[Interest]) -> None:
        self.seen += [self._look() for _ in interests]


def test_p19_nobody_is_told_of_an_event_before_it_can_be_read(driven: Journal) -> None:
    store = driven.store
    looking = Looking(lambda: store._view().last_sequence())
    for number in range(1, 11):
        store._announcer.arm((ANYTHING,), looking)
        store.append_batch(new_events(*range(number)))
        assert looking.seen[-1] == store.stats().visible_sequence
        assert len(looking.seen) == number


def test_nobody_is_told_of_what_is_durable_before_it_is(store: Store) -> None:
    looking = Looking(store._durable_sequence)
    for number in range(1, 4):
        store._announcer.arm((MORE_DURABLE,), looking)
        store.append(ORDER, PLACED, number, durable=True)
        assert looking.seen == list(range(number))


def test_nobody_is_told_of_a_place_before_it_is_kept(store: Store) -> None:
    append(store, 0, 1, 2)
    cursor = store.cursor(EVERYTHING, name="mine")
    looking = Looking(lambda: store._has_applied("mine", cursor.place.global_sequence) if cursor.place else None)
    for number in range(1, 4):
        store._announcer.arm((Interest(PLACE, "mine"),), looking)
        assert cursor.poll() is not None
        cursor.commit()
        assert looking.seen == [True] * number


def test_a_subscription_begins_with_what_comes_from_now_on(store: Store) -> None:
    append(store, 1, 2)
    subscription = store.subscribe(EVERYTHING)
    assert subscription.poll() is None
    append(store, 3)
    assert taken(subscription) == [2]
    assert subscription.poll() is None


def test_a_notification_tells_what_a_query_tells_and_the_hash(store: Store) -> None:
    subscription = store.subscribe(EVERYTHING)
    receipt = store.append(ORDER, PAID, {"n": 1}, correlation_id=UUID(int=5), causation_id=UUID(int=6))
    notification = subscription.poll()
    (entry,) = store.query(EVERYTHING)
    assert notification is not None
    assert notification.event_hash == receipt.event_hash
    assert notification.place == receipt.place
    assert notification.entry == entry
    assert all(getattr(notification, name) == getattr(entry, name) for name in entry.__slots__)


CORRELATION = UUID(int=77)


@pytest.mark.parametrize(
    ("region", "sequences"),
    [
        (Region(), [0, 1, 2, 3, 4, 5]),
        (Region(entity="order"), [0, 1, 2, 4]),
        (Region(entity="order:42"), [0, 1, 4]),
        (Region(scope="bank"), [3, 4]),
        (Region(kind=PAID), [1, 4]),
        (Region(category=2), [5]),
        (Region(sequences=(1, 1)), [1, 5]),
        (Region(correlation_id=CORRELATION), [2, 5]),
        (Region(entity="order", kind=PAID, scope="bank"), [4]),
        (Region(entity="ord"), []),
        (Region(include_system=True), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_subscription_delivers_what_its_region_matches(store: Store, region: Region, sequences: list[int]) -> None:
    subscription = store.subscribe(region)
    store.append(ORDER, PLACED, 0)
    store.append(ORDER, PAID, 1)
    store.append(Coordinate("order:43", "shop"), PLACED, 2, correlation_id=CORRELATION)
    store.append(Coordinate("orders", "bank"), PLACED, 3)
    store.append(Coordinate("order:42:line", "bank"), PAID, 4)
    store.append(Coordinate("orders", "shop"), SHIPPED, 5, correlation_id=CORRELATION)
    assert taken(subscription) == sequences
    assert [entry.global_sequence for entry in store.query(region)] == sequences


def test_what_is_hidden_is_delivered_to_those_who_ask_for_it(store: Store) -> None:
    cause = store.get(store.append(ORDER, PLACED, 1).event_id)
    shown, hidden = store.subscribe(Region()), store.subscribe(EVERYTHING)
    store._append_system(ORDER, EventKind.from_value(0x0010), {}, cause)
    assert taken(shown) == []
    assert taken(hidden) == [1]


def test_a_batch_is_delivered_whole(driven: Journal) -> None:
    store, size, rounds = driven.store, 7, 40
    subscription = store.subscribe(EVERYTHING)

    def look() -> int:
        for number in range(rounds):
            first = subscription.pull()
            assert first is not None
            assert first.global_sequence == number * size
            rest = [subscription.poll() for _ in range(size - 1)]  # nothing waits: all of it is there
            assert None not in rest
        return 1

    looking = Task(look)
    for _ in range(rounds):
        store.append_batch(new_events(*range(size)))
    assert looking.outcome() == 1


def test_the_sequences_of_a_subscriber_strictly_increase(driven: Journal) -> None:
    store, count = driven.store, 60
    subscriptions = [store.subscribe(EVERYTHING), store.subscribe(Region(entity="order:1")), store.subscribe(Region())]
    wanted = [8 * count, 2 * count, 8 * count]
    found: list[list[int]] = [[], [], []]

    def look(number: int) -> None:
        for notification in subscriptions[number].take(wanted[number]):
            found[number].append(notification.global_sequence)

    looking = [Task(lambda number=number: look(number)) for number in range(3)]  # type: ignore[misc]

    def write(number: int) -> None:
        for each in range(count):
            store.append_batch(new_events(each, -each, entity=f"order:{number}"))

    assert race(4, write) == [None] * 4
    for task in looking:
        task.outcome()
    assert all(before < after for each in found for before, after in pairwise(each))
    assert found[0] == found[2] == list(range(8 * count))
    assert found[1] == [entry.global_sequence for entry in store.query(Region(entity="order:1"))]


def test_two_subscribers_are_independent(store: Store) -> None:
    first = store.subscribe(EVERYTHING)
    append(store, 1)
    second = store.subscribe(EVERYTHING)
    append(store, 2)
    assert taken(second) == [1]
    first.close()
    append(store, 3)
    assert taken(second) == [2]
    assert first.poll() is None


def test_events_that_the_index_has_written_out_are_delivered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batpak.actors.index.RUN_EVENTS", 64)
    with Journal(StoreConfig(clock=HandClock())) as journal:
        store = journal.store
        subscription = store.subscribe(EVERYTHING)
        receipts = [receipt for _ in range(10) for receipt in store.append_batch(new_events(*range(40)))]
        store.sync()
        hashes = [each.event_hash for each in iter(subscription.poll, None)]
        assert hashes == [receipt.event_hash for receipt in receipts]


# Too slow --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 5, BLOCK, BLOCK + 1])
def test_as_many_as_the_capacity_may_wait(store: Store, capacity: int) -> None:
    subscription = store.subscribe(EVERYTHING, capacity=capacity)
    store.append_batch(new_events(*range(capacity)))
    assert taken(subscription) == list(range(capacity))
    store.append_batch(new_events(*range(capacity)))
    assert taken(subscription) == list(range(capacity, 2 * capacity))


@pytest.mark.parametrize("capacity", [1, 5, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_a_subscriber_that_is_too_slow_gets_its_capacity_and_then_an_error(store: Store, capacity: int) -> None:
    subscription = store.subscribe(EVERYTHING, capacity=capacity)
    store.append_batch(new_events(*range(capacity + 1)))
    for number in range(capacity):
        assert next(subscription).global_sequence == number
        store.append(ORDER, PLACED, "more")
    with pytest.raises(SubscriptionOverflowError) as caught:
        next(subscription)
    assert caught.value.capacity == capacity
    assert not caught.value.retryable
    for take in (subscription.poll, subscription.pull, lambda: next(subscription)):
        with pytest.raises(SubscriptionOverflowError):
            take()


def test_what_lies_outside_the_region_does_not_count(store: Store) -> None:
    subscription = store.subscribe(Region(entity="order:42"), capacity=2)
    store.append_batch(new_events(*range(50), entity="other"))
    append(store, 1)
    store.append_batch(new_events(*range(50), entity="other"))
    append(store, 2)
    assert taken(subscription) == [50, 101]
    append(store, 3, 4, 5)
    assert [subscription.poll() is not None for _ in range(2)] == [True, True]
    with pytest.raises(SubscriptionOverflowError):
        subscription.poll()


def test_an_overflow_reaches_a_subscriber_through_its_operators(store: Store) -> None:
    subscription = store.subscribe(EVERYTHING, capacity=3).map(lambda each: each.global_sequence)
    append(store, 1, 2, 3, 4)
    assert [subscription.poll() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(SubscriptionOverflowError):
        subscription.poll()


def test_the_writer_never_waits_for_a_subscriber(store: Store) -> None:
    subscription = store.subscribe(EVERYTHING, capacity=1)
    for number in range(300):
        store.append(ORDER, PLACED, number, max_wait_seconds=0)
    assert store.stats().events == 300
    assert taken(store.subscribe(EVERYTHING)) == []
    subscription.close()


def test_a_subscriber_that_is_handling_does_not_hold_the_writer(store: Store) -> None:
    subscription = store.subscribe(EVERYTHING)
    handling, go_on = Event(), Event()

    def handle(notification: Notification) -> int:
        handling.set()
        assert go_on.wait(20)
        return notification.global_sequence

    task = Task(lambda: next(subscription.map(handle)))
    append(store, 0)
    assert handling.wait(20)
    append(store, 1, 2)
    assert store.stats().visible_sequence == 2
    go_on.set()
    assert task.outcome() == 0


# Waiting and ending ----------------------------------------------------------------------------------------------


def test_a_waiting_subscriber_is_woken_by_its_event_alone(store: Store) -> None:
    subscription = store.subscribe(Region(entity="order:42"))
    task = Task(lambda: next(subscription))
    until(lambda: waits(store), "subscriber that waits")
    store.append_batch(new_events(1, entity="other"))
    assert waits(store)
    append(store, 2)
    assert task.outcome().global_sequence == 1


def test_a_pull_gives_up_when_its_time_is_up(store: Store) -> None:
    subscription = store.subscribe(EVERYTHING)
    assert subscription.pull(0) is None
    task = Task(lambda: subscription.pull(3.0))
    until(lambda: waits(store), "subscriber that waits")
    hand_clock(store).advance(3.5)
    store._announcer.tell_all()
    assert task.outcome() is None
    append(store, 1)
    assert taken(subscription) == [0]


def test_a_pull_that_was_too_early_misses_nothing(store: Store) -> None:
    subscription = store.subscribe(EVERYTHING)
    for number in range(5):
        assert subscription.pull(0) is None
        append(store, number)
        notification = subscription.pull(0)
        assert notification is not None
        assert notification.global_sequence == number


def test_close_from_another_thread_ends_the_iteration(store: Store) -> None:
    subscription = store.subscribe(EVERYTHING)
    task = Task(lambda: list(subscription))
    until(lambda: waits(store), "subscriber that waits")
    subscription.close()
    subscription.close()
    assert task.outcome() == []
    assert not waits(store)


def test_close_from_another_thread_ends_a_pull(store: Store) -> None:
    subscription = store.subscribe(EVERYTHING)
    task = Task(subscription.pull)
    until(lambda: waits(store), "subscriber that waits")
    subscription.close()
    assert task.outcome() is None


def test_a_closed_subscription_delivers_nothing_more(store: Store) -> None:
    with store.subscribe(EVERYTHING) as subscription:
        append(store, 1, 2)
        assert subscription.poll() is not None
    assert subscription.poll() is None
    assert subscription.pull() is None
    assert list(subscription) == []


def test_a_store_that_closes_ends_whoever_waits(store: Store) -> None:
    tasks = [Task(lambda: next(store.subscribe(EVERYTHING))) for _ in range(3)]
    tasks += [Task(lambda: store.subscribe(Region(entity="order")).pull(3600))]
    until(lambda: sum(map(len, (b for t in store._announcer._tables for b in t.values()))) == 4, "four that wait")
    store.close()
    for task in tasks:
        assert type(task.error()) is StoreClosedError


def test_a_closed_store_refuses(store: Store) -> None:
    subscription = store.subscribe(EVERYTHING)
    append(store, 1)
    store.close()
    for call in (subscription.poll, subscription.pull, lambda: next(subscription), lambda: store.subscribe(EVERYTHING)):
        with pytest.raises(StoreClosedError):
            call()


def test_a_forked_childs_copies_are_dead_and_the_parents_go_on(tmp_path: Path) -> None:
    program = """
    import os, sys
    from batpak import *
    store = Store.open(sys.argv[1])
    reader = Store.open_read_only(sys.argv[1])
    order, placed = Coordinate("order:42", "shop"), EventKind(1, 1)
    subscription = store.subscribe(Region())
    cursor = store.cursor(Region(), name="mine")
    follower, reading = store.follow(Region()), reader.follow(Region())
    store.append(order, placed, 1)
    assert cursor.poll().payload == 1
    cursor.commit()
    store.append(order, placed, 2)
    assert cursor.poll().payload == 2
    child = os.fork()
    if child == 0:
        calls = [subscription.poll, subscription.pull, lambda: next(subscription), cursor.poll, cursor.commit,
            lambda: cursor.pull(1), lambda: next(follower), reading.poll, lambda: store.subscribe(Region()),
            lambda: store.cursor(Region()), lambda: store.cursor(Region(), name="other"), store.places,
            lambda: store.delete_place("mine"), lambda: store.reset_place("mine", None),
            lambda: store.wait_for("mine", 0, 1)]
        wrong = []
        for number, call in enumerate(calls):
            try:
                wrong.append((number, call()))
            except ForkedStoreError:
                pass
            except BaseException as error:
                wrong.append((number, repr(error)))
        print(wrong, flush=True)
        os._exit(len(wrong))
    assert os.waitpid(child, 0)[1] == 0
    store.append(order, placed, 3)
    assert next(subscription).global_sequence == 0
    assert [event.payload for event in cursor.pull(5)] == [3]
    cursor.commit()
    cursor.close()
    store.close()
    reader.close()
    with Store.open(sys.argv[1]) as store:
        assert store.cursor(Region(), name="mine").poll() is None
    print("parent done")
    """
    assert run_python(program, tmp_path).stdout.splitlines() == ["[]", "parent done"]


def test_a_subscription_that_nobody_refers_to_leaves_nothing(store: Store) -> None:
    for _ in range(100):
        subscription = store.subscribe(EVERYTHING)
        assert subscription.pull(0) is None
        del subscription
    gc.collect()
    append(store, 1)
    append(store, 2)
    assert not waits(store)
    assert len(store._announcer._forgotten) == 0


def test_a_subscriber_reads_while_the_writer_is_busy(store: Store) -> None:
    subscription = store.subscribe(EVERYTHING)
    append(store, 1)
    with Held(store):
        assert taken(subscription) == [0]


@pytest.mark.parametrize("capacity", [0, -1, MAX_CAPACITY + 1, True, 1.5, None, "8"])
def test_a_capacity_out_of_its_limits_is_refused(store: Store, capacity: Loose) -> None:
    with pytest.raises(InvalidRequestError, match="capacity"):
        store.subscribe(EVERYTHING, capacity=capacity)


@pytest.mark.parametrize("region", [None, "order", PLACED])
def test_what_is_no_region_is_refused(store: Store, region: Loose) -> None:
    with pytest.raises(InvalidRequestError, match="region"):
        store.subscribe(region)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "1", True])
def test_a_timeout_that_is_no_time_is_refused(store: Store, seconds: Loose) -> None:
    with pytest.raises(InvalidRequestError, match="timeout_seconds"):
        store.subscribe(EVERYTHING).pull(seconds)
