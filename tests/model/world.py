"""One store and the model beside it: opening, killing, and values drawn for calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Literal
from uuid import UUID

from batpak.actors.mailbox import Envelope
from batpak.config import RestartPolicy, StoreConfig
from batpak.coordinate import Coordinate
from batpak.errors import BatpakError, ConflictError
from batpak.event import NO_STREAM, EventFlags, NewEvent, StoredEvent
from batpak.kind import EventKind
from batpak.payload import Payload
from batpak.read_only import ReadOnlyStore
from batpak.receipt import Anchor, Place, Receipt
from batpak.region import Region
from batpak.store import Store
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.model.disk import Killed, Trap, pick, scattered
from tests.model.model import Fact, Model

DriverName = Literal["stepped", "assisted", "threaded"]
Expected = tuple[list[Fact], bool] | ConflictError

ENTITIES = ("a", "a:b", "a:b:c", "ab", "order:1", "order:2", "größe:é", "z")
SCOPES = ("s", "shop", "größe")
KINDS = (EventKind(1, 0), EventKind(1, 1), EventKind(2, 1), EventKind(0xE, 7), EventKind(0xF, 0xFFF))
MAX_PAYLOAD_BYTES = 6000
MAX_BATCH_BYTES = 12_000
MAX_BATCH_EVENTS = 8
SCATTERED = "power cut, sectors at random"


@dataclass
class Counts:
    """What was reached: calls, error classes, and where a store was killed."""

    calls: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    drivers: Counter[str] = field(default_factory=Counter)
    steps: int = 0

    def add(self, other: Counts) -> None:
        for mine, theirs in (
            (self.calls, other.calls), (self.errors, other.errors), (self.kills, other.kills),
            (self.drivers, other.drivers),
        ):  # fmt: skip
            mine.update(theirs)
        self.steps += other.steps


class World:
    """A store on a disk in memory, readers beside it, and what they all have to say."""

    def __init__(self, seed: int, driver: DriverName, counts: Counts) -> None:
        self.seed = seed
        self.driver: DriverName = driver
        self.counts = counts
        self.trace: list[str] = []
        self.random = Random(f"{seed}/world")
        self.clock = HandClock(monotonic=100.0)
        self.model = Model(segment_format=pick(self.random, ((3, 2), (2, 1))))
        self.disk = MemoryFiles(allocates=self.random.random() < 0.7)
        self.trap = Trap(self.disk)
        self.drivers = SteppedDrivers(seed=seed)
        self.store: Store | None = None
        self.failed = False
        self.readers: list[tuple[ReadOnlyStore, int]] = []
        self.iterators: list[tuple[Iterator[StoredEvent], list[Fact]]] = []
        self.anchors: list[Anchor] = []
        self.posted: list[tuple[Envelope, Expected]] = []
        self.lost: list[UUID] = []
        self.ends_ahead: list[str] = []
        self.open(at_least=0)

    @property
    def stepped(self) -> bool:
        return self.driver == "stepped"

    @property
    def live(self) -> Store:
        assert self.store is not None
        return self.store

    # Opening and closing -----------------------------------------------------------------------------------------

    def config(self, segment_format: Literal[1, 2] | None = None) -> StoreConfig:
        random = self.random
        return StoreConfig(
            segment_bytes=4096,
            segment_format=segment_format,
            durable=random.random() < 0.1,
            sync_every_events=random.choice((1, 3, 10, 1000)),
            max_payload_bytes=MAX_PAYLOAD_BYTES,
            max_batch_bytes=MAX_BATCH_BYTES,
            max_batch_events=MAX_BATCH_EVENTS,
            mailbox_capacity=random.choice((2, 3, 4096)),
            restart=RestartPolicy(1000),
            driver=self.driver,
            clock=self.clock,
            verify_on_open=pick(random, ((8, "recovery"), (1, "checksums"), (1, "chain"))),
        )

    def open(self, *, at_least: int) -> None:
        """Open what is on the disk; it holds *at_least* so many events, and a prefix of what was issued."""
        wanted = None
        while self.store is None:
            wanted = self._wanted_format()
            config = self.config(wanted)
            if self.ends_ahead:
                self.trap.arm(Killed(), self.ends_ahead.pop(), part=self.random.choice((0, 0.5, 1)))
            try:
                self.counts.calls["open"] += 1
                self.store = Store(self.disk.beside(), config, self.drivers if self.stepped else None)
                self.store._verify_as_configured()
            except Killed:
                at_least = min(at_least, self.fall(f"recovery: {self.trap.sprung}"))
        assert wanted in {None, self.store._system.segment_format}
        before = [fact.event_id for fact in self.model.events]
        self.recover(at_least)
        self.lost += before[len(self.model.events) :]
        self.model.segment_format = self.store._system.segment_format
        self.model.durable = len(self.model.events) - 1
        assert self.store.stats().durable_sequence == self.model.durable
        self.failed = False

    def recover(self, at_least: int) -> None:
        """Take over what the store holds after a kill or an interrupt, and compare it; each frame now and then."""
        store, model = self.live, self.model
        entries = store.query(Region())
        model.recover(len(entries), list(store.read(after=len(model.events) - 1)), at_least=at_least)
        assert entries == [fact.entry() for fact in model.events]
        if self.random.random() < 0.2:
            model.check_all(list(store.read()))

    def _wanted_format(self) -> Literal[1, 2] | None:
        if not any(name.endswith(".fbat") for name in self.disk.list()):
            return 1 if self.model.segment_format == 1 else 2
        return 2 if self.random.random() < 0.1 else None

    def close(self) -> None:
        """Close the store in the ordinary way."""
        self.counts.calls["close"] += 1
        store, self.store = self.live, None
        try:
            store.close()
        except BaseException:
            self.store = store
            raise
        self.collect()
        self.iterators.clear()

    def reopen(self) -> None:
        self.close()
        self.open(at_least=self.model.durable + 1 if self.failed else len(self.model.events))

    def kill(self, point: str) -> None:
        """End the process, perhaps with the power, and open what is left."""
        self.open(at_least=self.fall(point))

    def fall(self, point: str, how: str | None = None) -> int:
        """End the process, perhaps with the power; how many events must be left."""
        self.counts.kills[point] += 1
        how = how or self.random.choice(("kill", "power cut", SCATTERED))
        self.trace.append(f"{how} at {point}")
        random = self.random
        left = {"kill": self.disk.copy, "power cut": self.disk.crashed}.get(how, lambda: scattered(self.disk, random))()
        self.drop()
        self.disk, self.trap = left, Trap(left)
        return len(self.model.events) if how == "kill" and not self.failed else self.model.durable + 1

    def drop(self) -> None:
        """Let go of the store and of all that reads it."""
        self.trap.disarm()
        self.posted.clear()
        self.iterators.clear()
        for reader, _ in self.readers:
            reader.close()
        self.readers.clear()
        store, self.store = self.store, None
        if store is not None and self.stepped:
            store.forget_parent()
        elif store is not None:
            store.close()

    def finish(self) -> None:
        """Compare everything, twice: as it stands, and after a clean reopen."""
        self.trap.disarm()
        self.drain()
        self.check_everything(self.live, self.model)
        self.reopen()
        self.check_everything(self.live, self.model)

    def check_everything(self, store: Store | ReadOnlyStore, model: Model) -> None:
        model.check_all(list(store.read()))
        assert store.query(Region()) == [fact.entry() for fact in model.events]
        for entity in ENTITIES:
            newest = model.latest(entity)
            assert store.latest(entity) == (newest and newest.entry())
        for anchor in (None, *self.anchors[-2:]):
            known = anchor is None or anchor.events <= len(model.events)
            report = store.verify_chain(anchor=anchor)
            assert report.intact == known, report
            assert report.events_checked == len(model.events)

    # Writing -----------------------------------------------------------------------------------------------------

    def write(
        self, name: str, call: Callable[[], Receipt | list[Receipt]], items: Sequence[NewEvent], *, durable: bool
    ) -> None:
        """Make a writing call and compare its answer, or its error, with the model's."""
        self.counts.calls[name] += 1
        expected = self.model.issue(items, self.clock.now_us(), batch=name == "append_batch")
        try:
            answer = call()
        except ConflictError as error:
            self.collect()
            self.check_conflict(error, expected)
            return
        self.collect()
        self.check_receipts(answer if isinstance(answer, list) else [answer], expected, durable=durable)
        behind = self.live._system.writer.journal.sequence - self.live._gate.durable
        assert not items or behind < self.live._config.sync_every_events

    def check_conflict(self, error: BaseException, expected: Expected) -> None:
        assert isinstance(expected, ConflictError), f"found {error!r}, expected a receipt"
        self.counts.errors[type(error).__name__] += 1
        hidden = {"reason"}
        found, wanted = ({k: v for k, v in vars(each).items() if k not in hidden} for each in (error, expected))
        assert (type(error), found) == (type(expected), wanted)

    def check_receipts(self, receipts: Sequence[Receipt], expected: Expected, *, durable: bool) -> None:
        assert not isinstance(expected, ConflictError), f"found {receipts}, expected {expected!r}"
        facts, duplicate = expected
        if not duplicate:
            self.model.settle(facts, receipts)
        assert list(receipts) == [
            Receipt(
                fact.event_id, fact.global_sequence, fact.sequence, fact.event_hash,
                durable=durable, duplicate=duplicate,
            )
            for fact in facts
        ]  # fmt: skip
        if durable:
            self.model.durable = max(self.model.durable, *(fact.global_sequence for fact in facts))

    def post(self, item: NewEvent) -> None:
        """Lay an append into the writer's mailbox; only where drivers are stepped."""
        command = self.live._requests._item(item, 0, self.live._requests.now_us())
        expected = self.model.issue([item], self.clock.now_us(), batch=False)
        self.posted.append((self.drivers["writer"].post(command), expected))

    def collect(self) -> None:
        """Compare the answers of what was posted and has been answered."""
        while self.posted and self.posted[0][0].done:
            envelope, expected = self.posted.pop(0)
            try:
                receipt = envelope.result()
            except ConflictError as error:
                self.check_conflict(error, expected)
            else:
                assert isinstance(receipt, Receipt)
                self.check_receipts([receipt], expected, durable=False)

    def drain(self) -> None:
        """Have everything answered that was posted."""
        while self.posted:
            self.drivers.step("writer")
            self.collect()

    def settle_interrupted(self) -> None:
        """After a write that was cut short: it is in the journal, whole, or it is not."""
        if self.stepped:
            while self.drivers["writer"].mailbox.items:
                self.drivers.step("writer")
        self.live._writer.within_turn(lambda: None)
        self.recover(len(self.model.events))

    # Reading -----------------------------------------------------------------------------------------------------

    def somebody(self) -> tuple[Store | ReadOnlyStore, Model]:
        """Return the store or a reader beside it, and what it sees."""
        self.collect()
        if self.readers and self.random.random() < 0.3:
            reader, count = self.random.choice(self.readers)
            return reader, self.model.prefix(count)
        return self.live, self.model

    # Values ------------------------------------------------------------------------------------------------------

    def payload(self) -> Payload:
        random = self.random
        size = pick(random, ((6, 8), (3, 300), (2, 900), (1, 4500)))
        payloads: tuple[Payload, ...] = (
            {"total": random.randrange(1 << 40), "text": "é" * random.randrange(size // 2)},
            random.randbytes(random.randrange(size)),
            [None, True, -1, 2**64 - 1, 1.5, {"x": {1: b"y"}}],
            datetime(2024, 2, 29, 12, 30, 15, 250, tzinfo=UTC),
            None,
        )
        return random.choice(payloads)

    def uuid(self) -> UUID:
        return UUID(int=self.random.getrandbits(128), version=4)

    def event_id(self, model: Model) -> UUID:
        """Return an id that is known, more often than not."""
        roll = self.random.random()
        if model.events and roll < 0.85:
            return self.random.choice(model.events).event_id
        return self.random.choice(self.lost) if self.lost and roll < 0.9 else self.uuid()

    def item(self, *, keyed: bool | None = None, caused_by: int | None = None) -> NewEvent:
        """Draw the arguments of an append; a key that is known comes with its content, or nearly."""
        random = self.random
        if keyed is None:
            keyed = random.random() < 0.4
        if keyed and random.random() < 0.4 and (earlier := self._retry()) is not None:
            return earlier
        entity = random.choice(ENTITIES)
        caused = caused_by is None and random.random() < 0.4
        return NewEvent(
            Coordinate(entity, random.choice(SCOPES)),
            random.choice(KINDS),
            self.payload(),
            expected_sequence=self._expectation(entity),
            idempotency_key=self._key() if keyed else None,
            correlation_id=self._correlation() if random.random() < 0.4 else None,
            causation_id=self.event_id(self.model) if caused else None,
            flags=EventFlags(random.choice((0, 0, 1, 2, 8, 11))),
            caused_by=caused_by,
        )

    def _expectation(self, entity: str) -> int | None:
        head = self.model.latest(entity)
        newest = head.sequence if head else NO_STREAM
        return pick(self.random, ((6, None), (3, newest), (0.5, NO_STREAM), (0.5, newest + 1), (0.3, 2**32 - 1)))

    def _key(self) -> UUID | str:
        if self.model.events and self.random.random() < 0.05:
            return self.random.choice(self.model.events).event_id
        return self.random.choice((self.uuid(), f"key {self.random.randrange(10**6)}"))

    def _correlation(self) -> UUID:
        shared = UUID(int=self.random.randrange(1, 4))
        return self.event_id(self.model) if self.random.random() < 0.5 else shared

    def _retry(self) -> NewEvent | None:
        """Draw the arguments of a keyed append that was made before, sometimes with another content."""
        known = [fact for fact in (*self.model.events, *self.model.pending) if fact.keyed]
        if not known:
            return None
        random = self.random
        old = random.choice(known).item
        change = random.random() < 0.3
        return NewEvent(
            random.choice((old.coordinate, Coordinate("a", "other"))) if change else old.coordinate,
            random.choice((old.kind, EventKind(3, 3))) if change else old.kind,
            random.choice((old.payload, {"changed": 1})) if change else old.payload,
            expected_sequence=old.expected_sequence,
            idempotency_key=old.idempotency_key,
            correlation_id=random.choice((old.correlation_id, self.uuid())),
        )

    def region(self) -> Region:
        random = self.random
        roll = [random.random() < 0.35 for _ in range(6)]
        first = random.randrange(4)
        return Region(
            entity=random.choice((*ENTITIES, "order", "größe", "nothing")) if roll[0] else None,
            scope=random.choice((*SCOPES, "nowhere")) if roll[1] else None,
            kind=random.choice((*KINDS, EventKind(9, 9))) if roll[2] else None,
            category=random.choice((1, 2, 0xE, 0xF, 0)) if roll[3] else None,
            sequences=(first, first + random.randrange(6)) if roll[4] else None,
            correlation_id=self._correlation() if roll[5] else None,
            include_system=random.random() < 0.5,
        )

    def page(self, model: Model) -> tuple[int | Place | None, int | None, int | None, bool]:
        """Draw where a page begins, as given and as a number, how long it is, and its direction."""
        random = self.random
        after: int | Place | None = None
        at: int | None = None
        if random.random() < 0.5:
            after = at = random.randrange(-2, len(model.events) + 2)
            if 0 <= at < len(model.events) and random.random() < 0.5:
                after = Place(at, model.events[at].event_hash)
                self.drain()  # the look at the place may let the writer go on before the page is read
        return after, at, self.limit(), random.random() < 0.4

    def limit(self) -> int | None:
        return pick(self.random, ((5, None), (1, 0), (2, 1), (4, self.random.randrange(12)), (1, 1000)))


def check_events(events: list[StoredEvent], facts: list[Fact]) -> None:
    for event, fact in zip(events, facts, strict=True):
        fact.check(event)


def expect(world: World, error: type[BatpakError], call: Callable[[], object], **attributes: object) -> None:
    """Make a call that has to raise exactly *error*, with these attributes."""
    raised: BatpakError | None = None
    answer: object = None
    try:
        answer = call()
    except error as caught:
        raised = caught
    assert type(raised) is error, f"found {raised or answer!r}, expected {error.__name__}"
    assert {name: getattr(raised, name) for name in attributes} == attributes
    world.counts.errors[error.__name__] += 1
