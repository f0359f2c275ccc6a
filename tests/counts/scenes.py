"""What is counted: operations on small stores that are in the same state each time.

Whoever counts meets the same work again and again: the clock stands still, nothing is due to be synced, and the
threads of the store are held where they can do no harm, so that none of them wakes up in between or takes a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event
from uuid import UUID

from batpak import Coordinate, EventKind, NewEvent, Receipt, Region, Store, StoreConfig
from batpak.payload import Payload
from batpak.testing.clock import HandClock

KIND = EventKind(category=0x1, type_id=0x001)
ENTITIES = 50
WARM_UP = 300
"""Appends before anything is counted; the index has room for 1,024 events at once."""

IN_RUN = 1_500
"""Events of a store that has been closed; a close writes them out as a run."""

DAY = 86_400.0
PATIENCE_SECONDS = 30.0

Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Scene:
    """One operation, done *times* times by the work that *prepare* returns for a store in a directory.

    A store that is *reopened* holds a run, half of its events keyed; *warm_up* events are appended behind that.
    """

    name: str
    times: int
    prepare: Callable[[Store, int], Work]
    reopened: bool = False
    warm_up: int = WARM_UP


@contextmanager
def opened(directory: Path) -> Iterator[Store]:
    """Open a store that does nothing of its own accord."""
    config = StoreConfig(clock=HandClock(), sync_every_events=1_000_000, sync_every_seconds=DAY)
    with Store.open(directory, config=config) as store:
        yield store


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Hold each thread of *store* outside its turns, in its idle work, once it has done all there is."""
    leave = Event()
    actors = [driver.actor for driver in store._system.drivers]
    arrived = [Event() for _ in actors]
    for actor, event in zip(actors, arrived, strict=True):
        setattr(actor, "idle", partial(_stand, actor.idle, event, leave))  # noqa: B010 - no assignment to the type checker
    try:
        for driver, event in zip(store._system.drivers, arrived, strict=True):
            driver.wake()
            assert event.wait(PATIENCE_SECONDS), f"the thread of the {driver.name} did not come to rest"
            driver.wake()  # whether the bell has been heard before is chance: rung it stays
        yield
    finally:
        for actor in actors:
            del actor.idle
        leave.set()


def _stand(idle: Callable[[], float | None], arrived: Event, leave: Event) -> float:
    while idle() == 0.0:
        pass
    arrived.set()
    leave.wait()
    return 0.0


@contextmanager
def on_stage(scene: Scene, directory: Path) -> Iterator[Work]:
    """Give the work of *scene* on a store of its own."""
    if scene.reopened:
        half = IN_RUN // 2
        with opened(directory) as store:
            store.append_batch([_event(number) for number in range(half)])
            keys = _keys(half, salt=1)
            store.append_batch([replace(_event(half + at), idempotency_key=key) for at, key in enumerate(keys)])
    with opened(directory) as store:
        _append(store, 0, scene.warm_up)
        with alone(store):
            yield scene.prepare(store, scene.times)


def _event(number: int) -> NewEvent:
    payload: Payload = {
        "order_id": 100_000 + number,
        "customer": f"customer-{number % 4096:04d}",
        "total": number / 4,
        "currency": "EUR",
        "status": "placed",
    }
    return NewEvent(Coordinate(f"order:{number % ENTITIES}", "shop"), KIND, payload)


def _append(store: Store, first: int, times: int, *, durable: bool = False, keys: Sequence[UUID] = ()) -> list[Receipt]:
    events = [_event(number) for number in range(first, first + times)]
    return [
        store.append(
            event.coordinate,
            event.kind,
            event.payload,
            durable=durable,
            idempotency_key=keys[at] if keys else None,
        )
        for at, event in enumerate(events)
    ]


def _append_each(store: Store, times: int) -> Work:
    events = [_event(number) for number in range(WARM_UP, WARM_UP + times)]

    def work() -> None:
        for event in events:
            store.append(event.coordinate, event.kind, event.payload)

    return work


def _append_durable(store: Store, times: int) -> Work:
    _append(store, WARM_UP, 1, durable=True)
    events = [_event(number) for number in range(WARM_UP + 1, WARM_UP + 1 + times)]

    def work() -> None:
        for event in events:
            store.append(event.coordinate, event.kind, event.payload, durable=True)

    return work


def _append_batches(store: Store, times: int) -> Work:
    batches = [[_event(100 * number + each) for each in range(100)] for number in range(times + 1)]
    store.append_batch(batches.pop())

    def work() -> None:
        for batch in batches:
            store.append_batch(batch)

    return work


def _append_keyed(store: Store, times: int) -> Work:
    keys = _keys(2 * times)
    _append(store, WARM_UP, times, keys=keys[:times])
    events = [_event(number) for number in range(WARM_UP + times, WARM_UP + 2 * times)]

    def work() -> None:
        for event, key in zip(events, keys[times:], strict=True):
            store.append(event.coordinate, event.kind, event.payload, idempotency_key=key)

    return work


def _append_again(store: Store, times: int) -> Work:
    keys = _keys(times)
    _append(store, WARM_UP, times, keys=keys)
    events = [_event(number) for number in range(WARM_UP, WARM_UP + times)]

    def work() -> None:
        for event, key in zip(events, keys, strict=True):
            assert store.append(event.coordinate, event.kind, event.payload, idempotency_key=key).duplicate

    return work


def _append_to_new(store: Store, times: int) -> Work:
    events = [_event(number) for number in range(times)]
    places = [Coordinate(f"order:new-{number}", "shop") for number in range(times)]

    def work() -> None:
        for event, coordinate in zip(events, places, strict=True):
            store.append(coordinate, event.kind, event.payload)

    return work


def _keys(count: int, salt: int = 0) -> list[UUID]:
    """Return keys that differ in every part and are the same each time."""
    spread = 0x9E3779B97F4A7C15F39CC0605CEDC835
    return [UUID(int=(2 * number + salt + 1) * spread % (1 << 128)) for number in range(count)]


def _get_from_tail(store: Store, times: int) -> Work:
    return _get_each(store, [receipt.event_id for receipt in _append(store, WARM_UP, times)])


def _get_from_run(store: Store, times: int) -> Work:
    entries = store.query(Region(), after=200, limit=times)
    return _get_each(store, [entry.event_id for entry in entries])


def _get_each(store: Store, ids: Sequence[UUID]) -> Work:
    def work() -> None:
        for event_id in ids:
            store.get(event_id).payload  # noqa: B018 - decoding is part of a read

    work()  # what is read once and kept is read now
    return work


def _get_first(store: Store, times: int) -> Work:
    assert times == 1
    (entry,) = store.query(Region(), after=200, limit=1)

    def work() -> None:
        store.get(entry.event_id).payload  # noqa: B018 - as above

    return work


def _replay(store: Store, times: int) -> Work:
    def work() -> None:
        count = 0
        for event in store.read():
            event.payload  # noqa: B018 - as above
            count += 1
        assert count == times, f"found {count} events, expected {times}"

    return work


def _pages(store: Store, times: int) -> Work:
    def work() -> None:
        for number in range(times):
            assert len(store.query(Region(entity="order"), after=100 * number, limit=64)) == 64

    work()
    return work


SCENES = (
    Scene("append", 200, _append_each),
    Scene("append, durable", 20, _append_durable),
    Scene("append, keyed", 100, _append_keyed),
    Scene("append, keyed, beside a run", 100, _append_keyed, reopened=True),
    Scene("append, its key known", 100, _append_again),
    Scene("append to a new entity", 100, _append_to_new),
    Scene("append to a new entity, beside a run", 100, _append_to_new, reopened=True),
    Scene("batch of 100", 4, _append_batches),
    Scene("get from the tail", 100, _get_from_tail),
    Scene("get from a run", 100, _get_from_run, reopened=True, warm_up=0),
    Scene("get for the first time", 1, _get_first, reopened=True, warm_up=0),
    Scene("event of a replay", IN_RUN, _replay, reopened=True, warm_up=0),
    Scene("page of 64", 10, _pages, reopened=True, warm_up=0),
)
