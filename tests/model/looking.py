"""Steps that read, from the store or from readers beside it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

from batpak.errors import (
    EventNotFoundError,
    StalePlaceError,
    StoreLockedError,
)
from batpak.read_only import ReadOnlyStore
from batpak.receipt import Anchor, Place
from batpak.region import Region
from batpak.storage.tree import Stretch
from batpak.store import Store
from batpak.testing.stepped import SteppedDrivers
from tests.model.model import Fact
from tests.model.world import ENTITIES, KINDS, SCOPES, World, check_events, expect
from tests.model.writing import append

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_READERS = 2


def get(world: World) -> None:
    store, model = world.somebody()
    event_id = world.event_id(model)
    fact = model.find(event_id)
    world.counts.calls["get"] += 1
    if fact is None:
        expect(world, EventNotFoundError, lambda: store.get(event_id), event_id=event_id)
    else:
        fact.check(store.get(event_id))


def get_many(world: World) -> None:
    store, model = world.somebody()
    ids = [world.event_id(model) for _ in range(world.random.randrange(5))]
    facts = [model.find(event_id) for event_id in ids]
    world.counts.calls["get_many"] += 1
    if None in facts:
        expect(world, EventNotFoundError, lambda: store.get_many(ids), event_id=ids[facts.index(None)])
    else:
        check_events(store.get_many(ids), [fact for fact in facts if fact])


def read(world: World) -> None:
    """Read a page; sometimes begin to, and go on while the store changes."""
    store, model = world.somebody()
    region = world.region()
    after, at, limit, reverse = world.page(model)
    wanted = model.select(region, at, limit, reverse=reverse)
    world.counts.calls["read"] += 1
    events = store.read(region, after=after, limit=limit, reverse=reverse)
    begin(world, events, wanted)


def read_stream(world: World) -> None:
    store, model = world.somebody()
    entity = world.random.choice(ENTITIES)
    _, _, limit, reverse = world.page(model)
    after = world.random.choice((None, world.random.randrange(-1, 8)))
    wanted = model.stream(entity, after, limit, reverse=reverse)
    world.counts.calls["read_stream"] += 1
    begin(world, store.read_stream(entity, after_sequence=after, limit=limit, reverse=reverse), wanted)


def begin(world: World, events: object, wanted: list[Fact]) -> None:
    assert hasattr(events, "__next__")
    if world.random.random() < 0.3 and len(world.iterators) < 4:
        world.iterators.append((events, wanted))  # type: ignore[arg-type]
    else:
        check_events(list(events), wanted)  # type: ignore[call-overload]


def go_on(world: World) -> None:
    """Go on with a read that was begun: it shows what was visible then."""
    if not world.iterators:
        return read(world)
    at = world.random.randrange(len(world.iterators))
    events, wanted = world.iterators[at]
    for _ in range(world.random.randrange(1, 9)):
        event = next(events, None)
        if event is None:
            assert not wanted
            del world.iterators[at]
            break
        wanted.pop(0).check(event)
    return None


def query(world: World) -> None:
    store, model = world.somebody()
    region = world.region()
    after, at, limit, reverse = world.page(model)
    wanted = model.select(region, at, limit, reverse=reverse)
    world.counts.calls["query"] += 1
    found = store.query(region, after=after, limit=limit, reverse=reverse)
    assert found == [fact.entry() for fact in wanted]
    assert all(region.matches(entry) for entry in found)


def stale_place(world: World) -> None:
    """A place that names another event than the one that stands there is refused, and both are named."""
    store, model = world.somebody()
    at = world.random.randrange(len(model.events) + 2)
    given = Place(at, world.random.randbytes(32))
    found = Place(at, model.events[at].event_hash) if at < len(model.events) else None
    world.counts.calls["query"] += 1
    expect(world, StalePlaceError, lambda: store.query(Region(), after=given), given=given, found=found)


def stream(world: World) -> None:
    store, model = world.somebody()
    entity = world.random.choice((*ENTITIES, "nobody"))
    _, _, limit, reverse = world.page(model)
    after = world.random.choice((None, world.random.randrange(-1, 8)))
    world.counts.calls["stream"] += 1
    found = store.stream(entity, after_sequence=after, limit=limit, reverse=reverse)
    assert found == [fact.entry() for fact in model.stream(entity, after, limit, reverse=reverse)]


def by_scope(world: World) -> None:
    store, model = world.somebody()
    scope = world.random.choice(SCOPES)
    world.counts.calls["by_scope"] += 1
    assert store.by_scope(scope) == [fact.entry() for fact in model.events if fact.item.coordinate.scope == scope]


def by_fact(world: World) -> None:
    store, model = world.somebody()
    kind = world.random.choice(KINDS)
    world.counts.calls["by_fact"] += 1
    assert store.by_fact(kind) == [fact.entry() for fact in model.events if fact.item.kind == kind]


def latest(world: World) -> None:
    store, model = world.somebody()
    entity = world.random.choice((*ENTITIES, "nobody"))
    world.counts.calls["latest"] += 1
    newest = model.latest(entity)
    assert store.latest(entity) == (newest and newest.entry())


def place_at(world: World) -> None:
    store, model = world.somebody()
    walls = [fact.wall_ms for fact in model.events] or [0]
    wall_ms = world.random.choice(walls) + world.random.choice((-1, 0, 1))
    world.counts.calls["place_at"] += 1
    fact = model.place_at(wall_ms)
    moment = EPOCH + timedelta(milliseconds=wall_ms, microseconds=world.random.choice((0, 999)))
    assert store.place_at(moment) == (fact and Place(fact.global_sequence, fact.event_hash))


def walk_ancestors(world: World) -> None:
    store, model = world.somebody()
    event_id, limit = world.event_id(model), world.limit()
    fact = model.find(event_id)
    world.counts.calls["walk_ancestors"] += 1
    if fact is None:
        expect(world, EventNotFoundError, lambda: store.walk_ancestors(event_id, limit=limit), event_id=event_id)
        return
    found = store.walk_ancestors(event_id, limit=limit)
    facts, end = model.ancestors(fact, 10_000 if limit is None else limit)
    check_events(list(found.events), facts)
    assert found.end is end


def causes_and_effects(world: World) -> None:
    store, model = world.somebody()
    event_id = world.event_id(model)
    depth, limit = world.random.randrange(5), world.random.choice((0, 1, 3, 1000))
    for name in ("causes", "effects"):
        world.collect()
        fact = model.find(event_id)
        world.counts.calls[name] += 1
        call = getattr(store, name)
        if fact is None:
            expect(world, EventNotFoundError, partial(call, event_id), event_id=event_id)
        else:
            wanted = getattr(model, name)(fact, depth, limit)
            check_events(call(event_id, depth=depth, limit=limit), wanted)


def verify_chain(world: World) -> None:
    store, model = world.somebody()
    region = world.region() if world.random.random() < 0.6 else Region()
    world.counts.calls["verify_chain"] += 1
    seen: list[tuple[int, int]] = []
    report = store.verify_chain(region, progress=lambda *at: seen.append(at))
    count = len(model.select(region, None, None, reverse=False))
    assert report.events_checked == count
    assert not report.content_mismatches
    if not region.parts:
        assert report.intact
    assert seen[-1:] == ([(count, len(model.events))] if count else [])


def anchor(world: World) -> None:
    """Take an anchor; it holds for ever, because it speaks of what is durable alone."""
    store, model = world.somebody()
    world.counts.calls["anchor"] += 1
    found = store.anchor()
    if store is world.store:
        assert found.events == len(model.events)
        model.durable = found.events - 1
    tree = Stretch()
    for fact in model.events[: found.events]:
        tree.add(fact.event_hash)
    last = model.events[found.events - 1] if found.events else None
    place = None if last is None else Place(last.global_sequence, last.event_hash)
    assert found == Anchor(found.events, place, tree.root())
    world.anchors.append(found)


def stats(world: World) -> None:
    store, model = world.somebody()
    world.counts.calls["stats"] += 1
    found = store.stats()
    count = len(model.events)
    assert (found.events, found.next_global_sequence, found.visible_sequence) == (count, count, count - 1)
    assert found.durable_sequence <= found.visible_sequence
    segments = [name for name in world.disk.list() if name.endswith(".fbat")]
    if store is world.store:
        assert found.durable_sequence >= model.durable
        model.durable = found.durable_sequence
        # A segment that was created and could not be used is one that nobody knows of.
        assert len(segments) - 1 <= found.segments <= len(segments)
        if found.segments == len(segments):
            assert found.bytes_on_disk == sum(map(world.disk.size, segments))


def diagnostics(world: World) -> None:
    store = world.live
    world.counts.calls["diagnostics"] += 1
    found = store.diagnostics()
    assert found.state == ("failed" if world.failed else "degraded" if any(a.restarts for a in found.actors) else "ok")
    assert found.stats == store.stats() or not world.stepped
    assert [actor.name for actor in found.actors] == ["index", "writer", "reader"]
    assert all(actor.alive for actor in found.actors)
    assert found.actors[1].queued == len(world.posted)
    assert (found.writer_error is not None) == world.failed


def open_read_only(world: World) -> None:
    if len(world.readers) >= MAX_READERS:
        reader, _ = world.readers.pop(0)
        reader.close()
    world.counts.calls["open_read_only"] += 1
    drivers = SteppedDrivers(seed=world.seed) if world.stepped else None
    reader = ReadOnlyStore(world.disk.beside(), world.live._config, drivers)
    world.readers.append((reader, len(world.model.events)))
    check_events(list(reader.read()), world.model.events)


def refresh(world: World) -> None:
    if not world.readers:
        open_read_only(world)
        append(world)
    at = world.random.randrange(len(world.readers))
    reader, _ = world.readers[at]
    world.counts.calls["refresh"] += 1
    count = len(world.model.events)
    assert reader.refresh() == count - 1
    world.readers[at] = (reader, count)
    if world.random.random() < 0.3:
        world.check_everything(reader, world.model)


def locked(world: World) -> None:
    world.counts.calls["open"] += 1
    expect(world, StoreLockedError, lambda: Store(world.disk.beside(), world.live._config), directory="memory")
