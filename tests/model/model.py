"""The journal that a store is held against: lists, looked through from end to end.

What only the store can know, ids and hashes, is taken over from its receipts and must then stay what it was. A write is
issued before the store is asked and settled when it has answered: what lies between the two may be found after a kill,
whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from blake3 import blake3

from batpak.errors import ConflictError, IdempotencyConflictError, SequenceConflictError
from batpak.event import NO_STREAM, IndexEntry, NewEvent, StoredEvent
from batpak.ids import operation_key
from batpak.payload import encode_payload
from batpak.receipt import Receipt
from batpak.region import Region
from batpak.reports import AncestryEnd

UNKNOWN = UUID(int=0)


@dataclass(slots=True, eq=False)
class Fact:
    """One event; *unit* numbers what is written whole, *cause* is an earlier item of its batch."""

    item: NewEvent
    unit: int
    segment_format: int
    global_sequence: int
    sequence: int
    timestamp_us: int
    wall_ms: int
    before: Fact | None
    cause: Fact | None
    event_id: UUID = UNKNOWN
    event_hash: bytes = b""

    @property
    def entity(self) -> str:
        return self.item.coordinate.entity

    @property
    def keyed(self) -> bool:
        return self.item.idempotency_key is not None

    @property
    def prev_hash(self) -> bytes:
        return self.before.event_hash if self.before else bytes(32)

    @property
    def correlation_id(self) -> UUID:
        return self.item.correlation_id or self.event_id

    @property
    def causation_id(self) -> UUID | None:
        return self.cause.event_id if self.cause else self.item.causation_id

    def entry(self) -> IndexEntry:
        item = self.item
        return IndexEntry(
            self.event_id, item.coordinate, item.kind, self.global_sequence, self.sequence, self.wall_ms,
            self.correlation_id, self.causation_id, item.flags, 0,
        )  # fmt: skip

    def check(self, event: StoredEvent) -> None:
        raw = encode_payload(self.item.payload)
        assert event.entry == self.entry()
        assert (event.raw, event.payload, event.timestamp_us) == (raw, self.item.payload, self.timestamp_us)
        assert (event.event_hash, event.prev_hash) == (self.event_hash, self.prev_hash)
        assert event.content_hash == blake3(raw).digest()


def content_of(item: NewEvent) -> object:
    """Return what a retry has to repeat."""
    return item.coordinate, item.kind, encode_payload(item.payload)


def key_of(item: NewEvent) -> UUID | None:
    """Return the id that an item's key gives its event."""
    key = item.idempotency_key
    return operation_key("batpak.key", key) if isinstance(key, str) else key


@dataclass(slots=True)
class Model:
    """What is in the journal (*events*), and what may be (*pending*); up to *durable* a power cut takes nothing."""

    events: list[Fact] = field(default_factory=list)
    pending: list[Fact] = field(default_factory=list)
    durable: int = -1
    segment_format: int = 2
    units: int = 0

    # Writing -----------------------------------------------------------------------------------------------------

    def issue(self, items: Sequence[NewEvent], now_us: int, *, batch: bool) -> tuple[list[Fact], bool] | ConflictError:
        """Return the events that *items* become, or became (then True), or the conflict; keys are looked at first."""
        journal = self.events + self.pending
        known = [self._known(item) for item in items]
        for index, (item, fact) in enumerate(zip(items, known, strict=True)):
            foreign = fact is not None and not fact.keyed and fact.segment_format == 2
            if fact and (foreign or content_of(fact.item) != content_of(item)):
                return IdempotencyConflictError(key_of(item) or UNKNOWN, "", item_index=index if batch else None)
        if any(known):
            if None in known:
                missing = known.index(None)
                return IdempotencyConflictError(key_of(items[missing]) or UNKNOWN, "", item_index=missing)
            return [fact for fact in known if fact], True
        facts: list[Fact] = []
        self.units += 1
        for index, item in enumerate(items):
            fact = self._next(item, journal + facts, facts, now_us)
            if item.expected_sequence not in {None, fact.sequence - 1}:
                expected, at = item.expected_sequence or 0, index if batch else None
                return SequenceConflictError(fact.entity, expected, fact.sequence - 1, item_index=at)
            facts.append(fact)
        self.pending += facts
        return facts, False

    def _known(self, item: NewEvent) -> Fact | None:
        key = key_of(item)
        pending = [fact for fact in self.pending if key_of(fact.item) == key]
        return None if key is None else next(iter(pending), None) or self.find(key)

    def _next(self, item: NewEvent, journal: Sequence[Fact], batch: Sequence[Fact], now_us: int) -> Fact:
        head = next((fact for fact in reversed(journal) if fact.entity == item.coordinate.entity), None)
        wall_ms = max(now_us // 1000, head.wall_ms if head else 0)
        cause = None if item.caused_by is None else batch[item.caused_by]
        sequence = head.sequence if head else NO_STREAM
        return Fact(item, self.units, self.segment_format, len(journal), sequence + 1, now_us, wall_ms, head, cause)

    def settle(self, facts: Sequence[Fact], answers: Sequence[Receipt | StoredEvent]) -> None:
        """Take over what the store said of events that are in the journal from now on."""
        newest = max((fact.event_id for fact in self.events if not fact.keyed), default=UNKNOWN)
        for fact, answer in zip(facts, answers, strict=True):
            fact.event_id, fact.event_hash = answer.event_id, answer.event_hash
            assert fact.event_id == key_of(fact.item) if fact.keyed else fact.event_id > newest
            if fact.segment_format == 1:
                assert fact.event_hash == blake3(encode_payload(fact.item.payload)).digest()
            newest = newest if fact.keyed else fact.event_id
            assert self.pending.pop(0) is fact
            self.events.append(fact)

    def recover(self, count: int, unsettled: Sequence[StoredEvent], *, at_least: int) -> None:
        """Take over what a kill left: *count* events, a prefix of what was issued, in whole units.

        It holds *at_least* so many; *unsettled* are those of them whose write had not been answered.
        """
        issued = self.events + self.pending
        assert at_least <= count <= len(issued), f"{count} events recovered of {at_least} to {len(issued)}"
        assert count in {0, len(issued)} or issued[count - 1].unit != issued[count].unit, "half a batch recovered"
        new = self.pending[: max(0, count - len(self.events))]
        self.pending = list(new)
        self.settle(new, unsettled)
        for fact, event in zip(new, unsettled, strict=True):
            fact.check(event)
        del self.events[count:]

    def check_all(self, seen: Sequence[StoredEvent]) -> None:
        for fact, event in zip(self.events, seen, strict=True):
            fact.check(event)

    # Reading -----------------------------------------------------------------------------------------------------

    def prefix(self, count: int) -> Model:
        return Model(self.events[:count], [], min(self.durable, count - 1), self.segment_format)

    def find(self, event_id: UUID) -> Fact | None:
        return next((fact for fact in self.events if fact.event_id == event_id), None)

    def latest(self, entity: str) -> Fact | None:
        return next((fact for fact in reversed(self.events) if fact.entity == entity), None)

    def select(self, region: Region, after: int | None, limit: int | None, *, reverse: bool) -> list[Fact]:
        def wanted(fact: Fact) -> bool:
            item, first, last = fact.item, *(region.sequences or (0, fact.sequence))
            return (
                (region.entity is None or f"{fact.entity}:".startswith(f"{region.entity}:"))
                and region.scope in {None, item.coordinate.scope}
                and region.kind in {None, item.kind}
                and region.category in {None, item.kind.category}
                and first <= fact.sequence <= last
                and region.correlation_id in {None, fact.correlation_id}
                and (after is None or (fact.global_sequence < after if reverse else fact.global_sequence > after))
            )

        return [fact for fact in self.events[:: -1 if reverse else 1] if wanted(fact)][:limit]

    def stream(self, entity: str, after: int | None, limit: int | None, *, reverse: bool) -> list[Fact]:
        facts = [fact for fact in self.events[:: -1 if reverse else 1] if fact.entity == entity]
        if after is not None:
            facts = [fact for fact in facts if (fact.sequence < after if reverse else fact.sequence > after)]
        return facts[:limit]

    def place_at(self, wall_ms: int) -> Fact | None:
        return next((fact for fact in reversed(self.events) if fact.wall_ms <= wall_ms), None)

    def ancestors(self, fact: Fact, limit: int) -> tuple[list[Fact], AncestryEnd]:
        chain = [each for each in self.events if each.entity == fact.entity and each.sequence <= fact.sequence]
        return chain[::-1][:limit], AncestryEnd.LIMIT if limit < len(chain) else AncestryEnd.GENESIS

    def causes(self, fact: Fact, depth: int, limit: int) -> list[Fact]:
        def step(each: Fact) -> list[Fact]:
            cause = self.find(each.causation_id or UNKNOWN)
            return [cause] if cause else []

        return _walk(fact, step, depth)[:limit]

    def effects(self, fact: Fact, depth: int, limit: int) -> list[Fact]:
        def step(each: Fact) -> list[Fact]:
            return [effect for effect in self.events if effect.causation_id == each.event_id]

        return _walk(fact, step, depth)[:limit]


def _walk(start: Fact, step: Callable[[Fact], Iterable[Fact]], depth: int) -> list[Fact]:
    """Return what *step* leads to, breadth first, each event once."""
    found: dict[Fact, None] = {start: None}
    edge = [start]
    for _ in range(depth):
        edge = [fact for fact in dict.fromkeys(next_ for each in edge for next_ in step(each)) if fact not in found]
        found |= dict.fromkeys(edge)
    return list(found)[1:]
