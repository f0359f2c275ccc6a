"""The facade has the store's names and parameters, and opens, wraps and closes as it says."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from batpak import (
    BatpakError,
    Cursor,
    EventKind,
    Follower,
    InvalidDirectoryError,
    NewEvent,
    PayloadError,
    ReadOnlyStore,
    Region,
    Store,
    StoreClosedError,
    StoreConfig,
    StoreLockedError,
    Subscription,
    Worker,
)
from batpak.aio import (
    AsyncCursor,
    AsyncEvents,
    AsyncFollower,
    AsyncReadOnlyStore,
    AsyncStore,
    AsyncSubscription,
    AsyncWorker,
    Opening,
)
from tests.aio.calls import ORDER, PLACED
from tests.store.journals import Journal

pytestmark = pytest.mark.anyio

INSIDE = {"forget_parent", "load_contents", "load_records", "selected"}
"""What the parts of a store share among themselves and no user calls."""
PAIRS = [(Store, AsyncStore), (ReadOnlyStore, AsyncReadOnlyStore)]
CONSUMERS = [(Subscription, AsyncSubscription), (Follower, AsyncFollower), (Cursor, AsyncCursor), (Worker, AsyncWorker)]
OPENING = {"open", "open_read_only"}
NEVER_WAITS = {"stop"}
"""May be called by a signal handler and from another thread, so it is no coroutine."""
DELIVERING = {
    "cursor",
    "cursor_worker",
    "delete_place",
    "drop_parked",
    "follow",
    "parked",
    "places",
    "react_loop",
    "reset_place",
    "retry_parked",
    "subscribe",
    "wait_for",
}
OTHER_TYPES = re.compile(r"\b(Subscription|Cursor|Follower|Worker|Handler|Reactor)\b")
"""In the place of these the facade takes and returns its own."""


def public_methods(of: type[Any]) -> dict[str, Any]:
    return {
        name: inspect.getattr_static(of, name)
        for name in dir(of)
        if not name.startswith("_") and callable(getattr(of, name)) and name not in INSIDE
    }


def properties(of: type[Any]) -> set[str]:
    return {name for name in dir(of) if isinstance(inspect.getattr_static(of, name), property)}


def awaited(annotation: object) -> str:
    """Return what the facade says where the store says *annotation*."""
    return OTHER_TYPES.sub(r"Async\1", str(annotation))


METHODS = [
    pytest.param(sync, aio, name, id=f"{sync.__name__}.{name}")
    for sync, aio in PAIRS + CONSUMERS
    for name in public_methods(sync)
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(("sync", "aio", "name"), METHODS)
def test_each_method_is_here_with_the_same_parameters(sync: type[Any], aio: type[Any], name: str) -> None:
    expected = inspect.signature(getattr(sync, name)).parameters
    found = inspect.signature(getattr(aio, name)).parameters
    assert [str(each) for each in found.values()] == [awaited(each) for each in expected.values()]
    assert type(inspect.getattr_static(aio, name)) is type(inspect.getattr_static(sync, name))


@pytest.mark.parametrize(("sync", "aio", "name"), METHODS)
def test_what_returns_a_value_is_awaited_and_what_iterates_is_iterated(
    sync: type[Any], aio: type[Any], name: str
) -> None:
    returned = inspect.signature(getattr(sync, name)).return_annotation
    method = getattr(aio, name)
    found = inspect.signature(method).return_annotation
    if name in OPENING:
        assert found.startswith("Opening[")
    elif returned.startswith("Iterator"):
        assert found == "AsyncEvents"
    elif OTHER_TYPES.search(returned) or name in NEVER_WAITS:
        assert not inspect.iscoroutinefunction(method)
        assert found == awaited(returned)
    else:
        assert inspect.iscoroutinefunction(method)
        assert found == returned


@pytest.mark.parametrize(("sync", "aio"), CONSUMERS)
def test_a_consumer_has_the_same_properties_and_no_other_name(sync: type[Any], aio: type[Any]) -> None:
    assert properties(aio) == properties(sync)
    more = {"run"} if aio is AsyncWorker else {"aclose"}
    assert set(public_methods(aio)) - set(public_methods(sync)) == more
    assert hasattr(sync, "__iter__") == hasattr(aio, "__aiter__")
    assert hasattr(sync, "__enter__") == hasattr(aio, "__aenter__") is True


def test_everything_that_delivers_is_among_what_is_compared() -> None:
    assert public_methods(AsyncStore).keys() >= DELIVERING
    assert public_methods(Store).keys() >= DELIVERING


def test_there_is_nothing_else_but_wrap_and_aclose() -> None:
    for sync, aio in PAIRS:
        assert set(public_methods(aio)) - set(public_methods(sync)) == {"aclose", "wrap"}


def test_the_docstrings_say_what_cancelling_a_write_means() -> None:
    for name in ("append", "append_reaction", "append_batch", "sync"):
        assert "ancel" in (inspect.getdoc(getattr(AsyncStore, name)) or "")


async def test_open_is_an_async_context(tmp_path: Path) -> None:
    async with AsyncStore.open(tmp_path) as store:
        receipt = await store.append(ORDER, PLACED, {"total": 10})
        assert (await store.get(receipt.event_id)).payload == {"total": 10}
    with pytest.raises(StoreClosedError):
        await store.append(ORDER, PLACED, {"total": 10})
    with Store.open(tmp_path) as reopened:
        assert [event.payload for event in reopened.read()] == [{"total": 10}]


async def test_open_can_be_awaited(tmp_path: Path) -> None:
    store = await AsyncStore.open(tmp_path, config=StoreConfig(durable=True))
    async with store:
        assert (await store.append(ORDER, PLACED, 1)).durable
    with pytest.raises(StoreClosedError):
        await store.stats()


async def test_an_opening_serves_once_and_does_nothing_before(tmp_path: Path) -> None:
    opening = AsyncStore.open(tmp_path)
    assert isinstance(opening, Opening)
    with Store.open(tmp_path):
        pass
    async with opening:
        pass
    with pytest.raises(RuntimeError, match="call open again"):
        await opening


async def test_what_open_refuses_is_refused_here(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidDirectoryError):
        await AsyncStore.open(tmp_path / "file")
    async with AsyncStore.open(tmp_path / "journal"):
        with pytest.raises(StoreLockedError):
            await AsyncStore.open(tmp_path / "journal")


async def test_a_read_only_store_follows_a_writer(tmp_path: Path) -> None:
    async with AsyncStore.open(tmp_path) as writer:
        first = await writer.append(ORDER, PLACED, 1)
        async with AsyncStore.open_read_only(tmp_path) as reader:
            assert isinstance(reader, AsyncReadOnlyStore)
            second = await writer.append(ORDER, PLACED, 2)
            assert [event.event_id async for event in reader.read()] == [first.event_id]
            assert await reader.refresh() == second.global_sequence
            assert (await reader.get(second.event_id)).payload == 2
            assert (await reader.stats()).events == 2
            assert not hasattr(reader, "append")
        with pytest.raises(StoreClosedError):
            await reader.refresh()
        reader = await AsyncReadOnlyStore.open(tmp_path)
        async with aclosing(reader):
            assert (await reader.verify_chain()).intact


async def test_a_wrapped_store_is_closed_by_nobody_but_close(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store, ReadOnlyStore.open(tmp_path) as reader:
        facade = AsyncStore.wrap(store)
        assert repr(facade) == f"<AsyncStore of {store!r}>"
        async with facade:
            receipt = await facade.append(ORDER, PLACED, 1)
        async with AsyncReadOnlyStore.wrap(reader) as other:
            await other.refresh()
        assert store.get(receipt.event_id) == reader.get(receipt.event_id)
        await facade.close()
        await facade.aclose()
        with pytest.raises(StoreClosedError):
            store.get(receipt.event_id)
        assert (await facade.diagnostics()).state == "closed"


def test_one_facade_serves_one_event_loop_after_another(journal: Journal) -> None:
    facade = AsyncStore.wrap(journal.store)

    async def append() -> None:
        await facade.append(ORDER, PLACED, 1)
        await facade.latest("order:42")

    for backend in ("asyncio", "trio", "asyncio", "trio"):
        anyio.run(append, backend=backend)
    assert journal.store.stats().events == 4


async def test_every_read_answers_as_the_store_does(journal: Journal) -> None:
    store, facade = journal.store, AsyncStore.wrap(journal.store)
    first = await facade.append(ORDER, PLACED, 1)
    second = await facade.append_reaction(ORDER, EventKind(2, 2), 2, cause=first)
    ids = [second.event_id, first.event_id]
    now = datetime.now(UTC)
    region = Region(entity="order")
    assert await facade.get(first.event_id) == store.get(first.event_id)
    assert await facade.get_many(ids) == store.get_many(ids)
    assert await facade.latest("order:42") == store.latest("order:42")
    assert await facade.place_at(now) == store.place_at(now) == second.place
    assert await facade.query(region, after=0, limit=3) == store.query(region, after=0, limit=3)
    assert await facade.by_scope("shop") == store.by_scope("shop")
    assert await facade.by_fact(PLACED) == store.by_fact(PLACED)
    assert await facade.stream("order:42", reverse=True) == store.stream("order:42", reverse=True)
    assert await facade.walk_ancestors(second.event_id) == store.walk_ancestors(second.event_id)
    assert await facade.causes(second.event_id) == store.causes(second.event_id)
    assert await facade.effects(first.event_id) == store.effects(first.event_id)
    assert await facade.verify_chain() == store.verify_chain()
    assert await facade.stats() == store.stats()
    assert await facade.sync() == second.global_sequence == store.stats().durable_sequence
    assert (await facade.diagnostics()).state == "ok"
    assert [event async for event in facade.read(region, reverse=True)] == list(store.read(region, reverse=True))
    assert [event async for event in facade.read_stream("order:42")] == list(store.read_stream("order:42"))


async def test_a_wrong_argument_is_a_typed_error_at_once(journal: Journal) -> None:
    facade: Any = AsyncStore.wrap(journal.store)
    batch = [NewEvent(ORDER, PLACED, 1)]
    calls: list[Callable[[], Any]] = [
        lambda: facade.append(ORDER, PLACED, {1, 2}),
        lambda: facade.append("order:42@shop", PLACED, 1),
        lambda: facade.append(ORDER, PLACED, 1, durable=1),
        lambda: facade.append(ORDER, PLACED, 1, max_wait_seconds=-1),
        lambda: facade.append_batch(batch, durable="yes"),
        lambda: facade.append_batch(batch, max_wait_seconds="1"),
        lambda: facade.append_batch([1]),
        lambda: facade.append_reaction(ORDER, PLACED, 1, cause=None),
        lambda: facade.get("id"),
    ]
    for call in calls:
        with pytest.raises((ValueError, BatpakError)):
            await call()
    with pytest.raises(PayloadError):
        await facade.append(ORDER, PLACED, object())
    calls = [lambda: facade.read("order"), lambda: facade.read(limit=-1), lambda: facade.read(after="1")]
    for iterate in calls:
        with pytest.raises(ValueError, match="expected"):
            iterate()
    assert journal.store.stats().events == 0


def test_events_are_what_async_for_wants() -> None:
    assert issubclass(AsyncEvents, AsyncIterator)
    assert not issubclass(AsyncEvents, Iterator)
