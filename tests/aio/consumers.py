"""Consumers on an event loop, cancelled at any point, and what they may leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from threading import Event, Lock, get_ident
from typing import Any, Generic, Self, TypeVar

import anyio
import pytest
from anyio.lowlevel import checkpoint

from batpak import Coordinate, Place, Receipt, Region, Store, StoreConfig, StoredEvent
from batpak.aio import AsyncCursor, AsyncFollower, AsyncStore
from batpak.aio.reading import MAX_READS
from batpak.delivery.course import Verdict
from tests.aio.calls import PATIENCE_SECONDS, PLACED, NativeCall, until

T = TypeVar("T")

NATIVE = pytest.mark.parametrize(
    ("anyio_backend", "native"),
    [("asyncio", False), ("trio", False), ("asyncio", True)],
    ids=["asyncio", "trio", "asyncio-tasks"],
)
"""Cancelled by a scope of anyio's on both event loops, and as asyncio cancels its tasks."""


ALL = Region()
ORDER_42 = Region(entity="order:42")
SELDOM = StoreConfig(sync_every_events=1_000_000, sync_every_seconds=3600.0)
"""Nothing is made durable but on request."""


def numbers(events: list[StoredEvent]) -> list[Any]:
    """Return the payloads."""
    return [event.payload for event in events]


async def take(follower: AsyncFollower | AsyncCursor, wanted: int) -> list[Any]:
    """Return the payloads of the next events, which must come."""
    with anyio.fail_after(PATIENCE_SECONDS):
        return [(await anext(follower)).payload for _ in range(wanted)]


def names(store: Store) -> dict[str | None, Place | None]:
    """Return the named places on disk."""
    return {place.name: place.place for place in store.places()}


def append(store: Store, number: Any, entity: str = "order:42") -> Receipt:
    """Append one event."""
    return store.append(Coordinate(entity, "shop"), PLACED, number)


def fill(store: Store, count: int, first: int = 0) -> list[int]:
    """Append *count* events with consecutive payloads, which are returned."""
    numbers = list(range(first, first + count))
    for number in numbers:
        append(store, number)
    return numbers


# Cancelling ------------------------------------------------------------------------------------------------------


class _Stepped(Generic[T]):
    """Awaits a coroutine and cancels whoever awaits it when it suspends for the *at*-th time."""

    def __init__(self, awaited: Awaitable[T], at: int, cancel: Callable[[], object]) -> None:
        self._awaited = awaited
        self._at = at
        self._cancel = cancel
        self.suspended = 0

    def __await__(self) -> Generator[Any, Any, T]:
        inner: Any = self._awaited.__await__()
        sent, thrown = None, None
        while True:
            try:
                asked = inner.send(sent) if thrown is None else inner.throw(thrown)
            except StopIteration as end:
                result: T = end.value
                return result
            self.suspended += 1
            if self.suspended == self._at:
                self._cancel()
            sent, thrown = None, None
            try:
                sent = yield asked
            except BaseException as error:
                thrown = error


async def cancelled_at(step: int, act: Callable[[], Awaitable[object]], *, native: bool = False) -> bool:
    """Await *act* and cancel it when it suspends for the *step*-th time, from 1; whether it came so far."""
    if native:
        stepped: list[_Stepped[object]] = []

        async def run() -> None:
            task = asyncio.current_task()
            assert task is not None
            stepped.append(_Stepped(act(), step, task.cancel))
            await stepped[0]

        call = NativeCall(run)
        await call.end()
        if not call.was_cancelled:
            await call.outcome()
        return stepped[0].suspended >= step
    with anyio.CancelScope() as scope:
        one = _Stepped(act(), step, scope.cancel)
        await one
    return one.suspended >= step


# Holding ---------------------------------------------------------------------------------------------------------


class Hold:
    """Stops threads in a function of *owner* that is called *name*: after its work, or before it."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, before: bool = False, first: bool = False
    ) -> None:
        self._lock = Lock()
        self.calls = 0
        self.done = 0
        real = getattr(owner, name)

        def held(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            free = first and self.calls > 1
            if before and not free:
                self._wait()
            try:
                return real(*arguments, **options)
            finally:
                if not before and not free:
                    self._wait()
                self.done += 1

        monkeypatch.setattr(owner, name, held)

    def _wait(self) -> None:
        with self._lock:
            pass

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock.locked():
            self._lock.release()

    release = __exit__

    async def until_called(self, calls: int = 1) -> None:
        """Wait until it has been called so often."""
        await until(lambda: self.calls >= calls, f"call number {calls}")


# What is left ----------------------------------------------------------------------------------------------------


def waiting_tasks(facade: AsyncStore) -> int:
    """Return how many tasks of this event loop wait to be told."""
    return len({told for waiting in facade._hubs.get()._waiting.values() for told in waiting})


def listeners(store: Store) -> int:
    """Return how many threads and event loops the store would tell of something."""
    return sum(len(bucket) for table in store._announcer._tables for bucket in table.values())


async def until_waiting(facade: AsyncStore, count: int) -> None:
    """Let tasks run until *count* of them wait to be told."""
    await until(lambda: waiting_tasks(facade) == count, f"{count} waiting tasks")


async def assert_nobody_waits(facade: AsyncStore) -> None:
    """No task waits, no listener is known, and no thread works for this event loop."""
    threads = facade._threads.get()
    await until(lambda: threads._places._free == MAX_READS, "idle threads")
    assert waiting_tasks(facade) == 0
    assert facade._hubs.get()._waiting == {}
    assert listeners(facade._store) == 0


@contextmanager
def told(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Collect every call by which the store tells the event loops of something."""
    from batpak.aio.hub import Hub

    calls: list[object] = []
    tell = Hub.tell

    def counted(hub: Hub, interests: Any) -> None:
        if hub._announcer is store._announcer:
            calls.append(tuple(interests))
        tell(hub, interests)

    with monkeypatch.context() as patch:
        patch.setattr(Hub, "tell", counted)
        yield calls


async def wait_in_thread(event: Event) -> None:
    """Let tasks run until *event* is set by a thread."""
    await until(event.is_set, "event")


async def in_time(act: Awaitable[T]) -> T:
    """Await *act*, which must not take for ever."""
    with anyio.fail_after(PATIENCE_SECONDS):
        return await act


# Workers ---------------------------------------------------------------------------------------------------------


class Handled:
    """A handler that keeps what it has been given; *act* decides what comes of a batch."""

    def __init__(self, act: Callable[[list[Any]], Verdict | None] = lambda _: None) -> None:
        self.batches: list[list[Any]] = []
        self.threads: set[int] = set()
        self._act = act

    @property
    def payloads(self) -> list[Any]:
        return [payload for batch in self.batches for payload in batch]

    def plain(self, events: list[StoredEvent]) -> Verdict | None:
        self.threads.add(get_ident())
        self.batches.append([event.payload for event in events])
        return self._act(self.batches[-1])

    async def awaited(self, events: list[StoredEvent]) -> Verdict | None:
        await checkpoint()
        return self.plain(events)

    async def until(self, wanted: int) -> None:
        """Wait until so many events have been handled."""
        await until(lambda: len(self.payloads) >= wanted, f"{wanted} handled events")


def place_of(store: Store, name: str) -> int:
    """Return how far a name has come, -1 for nowhere."""
    (place,) = [place.place for place in store.places() if place.name == name]
    return -1 if place is None else place.global_sequence
