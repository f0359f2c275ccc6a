"""Steps that write, and those in which nobody asks and work is done all the same."""

from __future__ import annotations

from dataclasses import replace

from batpak.errors import (
    BackpressureError,
)
from batpak.event import NewEvent
from batpak.receipt import Receipt
from tests.model.world import World, expect


def append(world: World, item: NewEvent | None = None) -> None:
    item = item or world.item()
    durable = world.random.choice((None, None, False, True))
    given = {
        "expected_sequence": item.expected_sequence,
        "idempotency_key": item.idempotency_key,
        "correlation_id": item.correlation_id,
        "causation_id": item.causation_id,
        "flags": item.flags,
        "durable": durable,
        "max_wait_seconds": world.random.choice((None, 1, 0.5)),
    }
    world.write(
        "append",
        lambda: world.live.append(item.coordinate, item.kind, item.payload, **given),  # type: ignore[arg-type]
        [item],
        durable=world.live._config.durable if durable is None else durable,
    )


def append_reaction(world: World) -> None:
    facts = world.model.events
    if not facts:
        return append(world)
    fact = world.random.choice(facts)
    receipt = Receipt(fact.event_id, fact.global_sequence, fact.sequence, fact.event_hash, durable=True, duplicate=True)
    cause = world.random.choice((receipt, fact.entry(), world.live.get(fact.event_id)))
    item = replace(world.item(), correlation_id=fact.correlation_id, causation_id=fact.event_id)
    durable = world.random.choice((None, True))
    world.write(
        "append_reaction",
        lambda: world.live.append_reaction(
            item.coordinate,
            item.kind,
            item.payload,
            cause=cause,
            expected_sequence=item.expected_sequence,
            idempotency_key=item.idempotency_key,
            flags=item.flags,
            durable=durable,
        ),
        [item],
        durable=bool(durable) or world.live._config.durable,
    )
    return None


def append_batch(world: World, items: list[NewEvent] | None = None) -> None:
    items = _batch(world) if items is None else items
    durable = world.random.choice((None, False, True)) if items else None
    world.write(
        "append_batch",
        lambda: world.live.append_batch(items, durable=durable),
        items,
        durable=bool(items) and (world.live._config.durable if durable is None else durable),
    )


def _batch(world: World) -> list[NewEvent]:
    """Draw a batch; its expectations count what stands before them, and a keyed one may have been seen before."""
    random = world.random
    keyed = random.random() < 0.4
    seen = [fact for fact in world.model.events if fact.keyed]
    if keyed and seen and random.random() < 0.5:
        unit = random.choice(seen).unit
        items = [replace(fact.item, causation_id=None) for fact in seen if fact.unit == unit]
        if random.random() < 0.2:
            at = random.randrange(len(items))
            items[at] = replace(items[at], payload={"changed": at})
        if random.random() < 0.2:
            items.append(replace(world.item(keyed=True), idempotency_key=world.uuid()))
        return items
    heads: dict[str, int] = {}
    items = []
    for index in range(random.randrange(7)):
        caused_by = random.randrange(index) if index and random.random() < 0.3 else None
        item = world.item(keyed=False, caused_by=caused_by)
        entity = item.coordinate.entity
        latest = world.model.latest(entity)
        head = heads.get(entity, latest.sequence if latest else -1)
        heads[entity] = head + 1
        # The right expectation mostly: otherwise no long batch would ever pass.
        expected = head if item.expected_sequence is not None and random.random() < 0.9 else None
        items.append(replace(item, expected_sequence=expected, idempotency_key=world.uuid() if keyed else None))
    return items


def sync(world: World) -> None:
    world.counts.calls["sync"] += 1
    answer = world.live.sync()
    world.collect()
    assert answer == len(world.model.events) - 1
    world.model.durable = answer


def post(world: World) -> None:
    """Fill the writer's mailbox; who will not wait is refused, and who waits comes after what lies there."""
    capacity = world.live._config.mailbox_capacity
    if not world.stepped or capacity > 3:
        return append(world)
    world.collect()
    while len(world.posted) < capacity:
        world.post(world.item())
    item = world.item()
    for _ in range(2):
        world.counts.calls["append"] += 1
        expect(world, BackpressureError, lambda: world.live.append(item.coordinate, item.kind, 1, max_wait_seconds=0))
    if world.random.random() < 0.5:
        append(world)
    return None


def index_work(world: World) -> None:
    """Let the index write out and merge what it can."""
    if not world.stepped:
        return append(world)
    for _ in range(world.random.choice((20, 200, 2000))):
        if not world.drivers.step("index"):
            break
    return None


def time_passes(world: World) -> None:
    """Move the clock; what waited long enough is made durable by nobody's asking."""
    if world.random.random() < 0.3:
        world.clock.set_wall(world.clock.now_us() - world.random.randrange(600_000_000))
    if not world.stepped:
        return world.clock.advance(world.random.choice((0.001, 0.5, 2.0)))
    world.drain()
    for seconds in (0.001, 1.5):
        world.clock.advance(seconds)
        while world.drivers.step("writer"):
            pass
    stats = world.live.stats()
    assert stats.durable_sequence == stats.visible_sequence
    return None
