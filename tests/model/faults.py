"""Steps in which the store ends, the disk fails, something is damaged, or a call cannot be accepted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from unittest.mock import patch

from batpak.actors.decision import Standing
from batpak.actors.journal import Journal
from batpak.errors import (
    ActorFailedError,
    CorruptStoreError,
    ForkedStoreError,
    InvalidConfigError,
    ReentrantCallError,
    StorageError,
    StoreClosedError,
    UnsupportedFormatError,
    WriterFailedError,
)
from batpak.read_only import ReadOnlyStore
from batpak.region import Region
from batpak.storage import watermark
from batpak.store import Store
from batpak.testing.stepped import SteppedDrivers
from tests.model.disk import Killed, no_room, pick
from tests.model.invalid import INVALID
from tests.model.looking import EPOCH, diagnostics, stats
from tests.model.model import Fact
from tests.model.world import SCATTERED, World, check_events, expect
from tests.model.writing import append, append_batch, index_work, sync

# Where a process may end, and where its recovery may; each with its weight, by how often it is come by.
KILL_POINTS = (
    (2, "allocate segment"), (1, "create run"), (3, "create segment"), (3, "remove run"), (1, "replace run"),
    (1, "sync run"), (1, "sync segment"), (1, "sync_folder directory"), (1, "sync_folder run"),
    (1, "truncate segment"), (1, "write position"), (1, "write run"), (1, "write segment"),
)  # fmt: skip
RECOVERY_POINTS = (
    (3, "create quarantine"), (3, "write quarantine"), (3, "sync quarantine"), (3, "replace quarantine"),
    (3, "sync_folder quarantine"), (1, "sync segment"), (1, "sync_folder directory"), (2, "truncate segment"),
    (1.5, "write position"), (1, "replace lock"),
)  # fmt: skip
BETWEEN = "between two calls"


def reopen(world: World) -> None:
    store = world.live
    world.drain()
    world.reopen()
    assert store.diagnostics().state == "closed"


def closed(world: World) -> None:
    """After a close every call is refused, a read that had begun too."""
    store, iterators = world.live, world.iterators[:]
    world.drain()
    world.close()
    for call in every_call(world, store):
        expect(world, StoreClosedError, call)
    for events, wanted in iterators:
        with suppress(StoreClosedError):
            check_events(list(events), wanted)
    store.close()
    world.open(at_least=len(world.model.events))


def forked(world: World) -> None:
    """A child's copy of a store is dead."""
    twin = Store(world.disk.copy(), replace(world.live._config, driver="stepped"), SteppedDrivers())
    twin.forget_parent()
    for call in every_call(world, twin):
        expect(world, ForkedStoreError, call)


def every_call(world: World, store: Store) -> list[Callable[[], object]]:
    item, some_id = world.item(), world.uuid()
    where = item.coordinate, item.kind, item.payload
    entry = Fact(item, 0, 2, 0, 0, 0, 0, None, None, some_id).entry()
    return [
        lambda: store.append(*where), lambda: store.append_batch([item]), lambda: store.append_batch([]),
        lambda: store.append_reaction(*where, cause=entry), store.sync, store.stats, lambda: store.get(some_id),
        lambda: store.get_many([some_id]), lambda: store.get_many([]), lambda: store.query(Region()), store.read,
        lambda: store.by_scope("s"), lambda: store.by_fact(item.kind), lambda: store.latest("a"),
        lambda: store.stream("a"), lambda: store.read_stream("a"), lambda: store.place_at(EPOCH),
        lambda: store.walk_ancestors(some_id), lambda: store.causes(some_id), lambda: store.effects(some_id),
        store.verify_chain, store.anchor,
    ]  # fmt: skip


def kill(world: World) -> None:
    world.kill(BETWEEN)


def kill_within(world: World) -> None:
    """Let the process end at a change of some kind, and make calls that lead to one."""
    if not world.stepped:
        return world.kill(BETWEEN)
    point = pick(world.random, KILL_POINTS)
    world.trap.arm(Killed(), point, skip=world.random.choice((0, 0, 1)), part=world.random.choice((0, 0.5, 1)))
    kind = point if point == "remove run" else point.split()[-1]
    calls = {
        "remove run": (append_batch, reopen, append_batch, reopen, append_batch, reopen, index_work),
        "run": (index_work, append_batch, append_batch, reopen),
        "position": (sync, append, sync),
    }
    for call in calls.get(kind, (append, append_batch, append, reopen)):
        call(world)
    return None


def kill_in_recovery(world: World) -> None:
    """End the process in the midst of a write, or the power when much is not durable; then its recovery as well."""
    if not world.stepped:
        return world.kill(BETWEEN)
    point, how = pick(world.random, ((1, (BETWEEN, SCATTERED)), (4, ("write segment", "kill"))))
    items = [
        replace(world.item(keyed=False), expected_sequence=None, payload=world.random.randbytes(300)) for _ in range(6)
    ]
    try:
        for item in items[:2]:
            append(world, item)
        if how == "kill":
            world.trap.arm(Killed(), point, part=world.random.choice((0.1, 0.5, 0.9)))
        append_batch(world, items[2:])
    except Killed:
        pass
    at_least = world.fall(point, how)
    world.ends_ahead = [pick(world.random, RECOVERY_POINTS) for _ in range(3)]
    world.open(at_least=at_least)
    return None


def interrupted(world: World) -> None:
    """An interrupt in the midst of a write: its event is there, whole, or it is not, and all goes on."""
    if not world.stepped:
        return append(world)
    world.drain()
    world.trap.arm(KeyboardInterrupt(), skip=world.random.randrange(4), part=world.random.choice((0, 0.5, 1)))
    try:
        world.random.choice((append, append_batch))(world)
    except KeyboardInterrupt:
        world.counts.kills[f"interrupt at {world.trap.sprung}"] += 1
        world.settle_interrupted()
    world.trap.disarm()
    return None


def no_space(world: World) -> None:
    """A write that finds no room is not made; the next one may be."""
    world.drain()
    world.trap.arm(no_room(), "write segment", part=world.random.choice((0, 0.3, 0.9)))
    item = replace(world.item(keyed=False), expected_sequence=None)
    world.counts.calls["append"] += 1
    before = len(world.model.events)
    world.model.issue([item], world.clock.now_us(), batch=False)
    try:
        world.live.append(item.coordinate, item.kind, item.payload)
    except StorageError:
        world.counts.errors["StorageError"] += 1
        world.model.pending.clear()
    world.trap.disarm()
    if world.model.pending:  # what found no room was a footer: the segment is sealed another time
        world.settle_interrupted()
        assert len(world.model.events) == before + 1
    check_events(list(world.live.read()), world.model.events)


def failed_sync(world: World) -> None:
    """A sync that fails is the writer's end: reads go on, and what was durable is there after a reopen."""
    world.drain()
    if world.model.durable >= len(world.model.events) - 1:
        append(world, replace(world.item(keyed=False), expected_sequence=None))
    store = world.live
    if store.stats().durable_sequence >= len(world.model.events) - 1:
        return
    world.model.durable = store.stats().durable_sequence
    world.disk.fail_next_sync()
    world.failed = True
    world.counts.calls["sync"] += 1
    expect(world, WriterFailedError, store.sync)
    item = world.item()
    expect(world, WriterFailedError, lambda: store.append(item.coordinate, item.kind, item.payload))
    world.check_everything(store, world.model)
    diagnostics(world)
    for reader, _ in world.readers:
        reader.close()
    world.readers.clear()
    expect(world, WriterFailedError, store.close)  # acknowledged events are not durable: nobody else says so
    world.reopen()


def bug_in_reader(world: World) -> None:
    """A bug in an actor's turn reaches its caller alone."""
    pool = world.live._system.reader._pool
    if not world.model.events:
        return append(world)
    event_id = world.model.events[-1].event_id

    def broken(places: object) -> list[bytes]:
        raise RuntimeError(str(type(places)))

    pool.load = broken  # type: ignore[method-assign]
    try:
        expect(world, ActorFailedError, lambda: world.live.get(event_id), actor="reader")
    finally:
        del pool.load
    world.model.events[-1].check(world.live.get(event_id))
    return None


def bug_in_writer(world: World) -> None:
    """A bug after the write: what is in the file counts, and its receipt is given."""
    world.drain()
    owner, method = world.random.choice(((Journal, "advance"), (Standing, "take")))
    plain = getattr(owner, method)
    calls: list[object] = []

    def broken(*given: object) -> None:
        calls.append(given)
        if len(calls) == 1:
            raise RuntimeError(method)
        plain(*given)

    with patch.object(owner, method, broken):
        append(world, replace(world.item(keyed=False), expected_sequence=None))
    assert len(calls) == 2


def reentrant(world: World) -> None:
    """A call from within a turn of the same thread is refused, whoever would have to be asked."""
    world.drain()
    store, item = world.live, world.item()
    calls = [
        lambda: store.append(item.coordinate, item.kind, item.payload),
        lambda: store.append_batch([item]),
        store.sync,
        lambda: store.get_many([]),
    ]
    for call in calls:
        store._writer.within_turn(partial(expect, world, ReentrantCallError, call))


def damaged(world: World) -> None:
    """One byte of a durable event changes on a copy of the disk: it is never read as if nothing had happened."""
    stats(world)
    durable = world.model.durable
    if durable < 0:
        return append(world)
    fact = world.model.events[world.random.randrange(durable + 1)]
    view = world.live._system.index.view
    record = view.find_id(fact.event_id.bytes)
    assert record is not None
    copy = world.disk.copy()
    inode = copy._disk.names[world.live._catalog.meta(record.segment).name]
    inode.visible[record.offset + world.random.randrange(record.length)] ^= 1 << world.random.randrange(8)
    inode.durable[:] = inode.visible

    def look() -> object:
        with Store(copy.beside(), replace(world.live._config, driver="stepped"), SteppedDrivers()) as store:
            return store.get(fact.event_id)

    expect(world, CorruptStoreError, look)
    return None


def damaged_run(world: World) -> None:
    """One byte of a file of the index changes: what it held is read from the segments again."""
    world.drain()
    world.close()
    runs = [name for name in world.disk.list("index") if name.endswith(".run")]
    if runs:
        inode = world.disk._disk.names[f"index/{world.random.choice(runs)}"]
        inode.visible[world.random.randrange(len(inode.visible))] ^= 1 << world.random.randrange(8)
        inode.durable[:] = inode.visible
    world.open(at_least=len(world.model.events))


def too_new(world: World) -> None:
    """A file of a newer format is refused."""
    copy = world.disk.copy()
    version, watermark.VERSION = watermark.VERSION, 2  # type: ignore[misc]
    try:
        slot = watermark.encode(watermark.DurablePosition(bytes(16), 1 << 60, 0, bytes(16), 0, 0))
    finally:
        watermark.VERSION = version  # type: ignore[misc]
    file = copy.open_write(watermark.NAME)
    file.pwrite(slot, 0)
    config = world.live._config
    expect(
        world, UnsupportedFormatError, lambda: ReadOnlyStore(copy, replace(config, driver="stepped"), SteppedDrivers())
    )


def wrong_format(world: World) -> None:
    """A store that has a segment of format 2 does not go back to format 1."""
    if not any(meta.version == 2 for meta in world.live._catalog.metas()):
        return append(world)
    world.drain()
    world.close()
    world.counts.calls["open"] += 1
    drivers = world.drivers if world.stepped else None
    expect(
        world, InvalidConfigError, lambda: Store(world.disk.beside(), world.config(1), drivers), field="segment_format"
    )
    world.open(at_least=len(world.model.events))
    return None


def invalid(world: World) -> None:
    """What cannot be accepted is refused by name, and nothing has happened."""
    error, cases = world.random.choice(INVALID)
    name, call = world.random.choice(cases)
    world.counts.calls[name] += 1
    expect(world, error, lambda: call(world))
