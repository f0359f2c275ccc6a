"""What must be true of a store that a stop left behind, whatever stopped it: the oracles O1 to O6.

A `Model` is what is known of a journal from outside: the events that were issued, in order, and what was said of
them. `examine` opens what was left, twice, and compares every answer with a model of as many events as are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import UUID

from batpak import Anchor, IndexEntry, Region, Store
from batpak.errors import CorruptStoreError, PlaceConflictError, StalePlaceError, UnsupportedFormatError
from batpak.read_only import ReadOnlyStore
from batpak.reading import Reading
from batpak.receipt import Place
from batpak.storage import watermark
from batpak.storage.run_format import parse_run_name
from batpak.testing.memory import MemoryFiles, Operation
from batpak.testing.stepped import SteppedDrivers
from tests.directories import EVERYTHING, content, shown
from tests.faults.states import State
from tests.faults.workloads import ANSWERED, ANSWERS, ASKED, CURSOR, ORDERS, QUESTION, QUESTIONS, WORKER, configured

REFUSALS = (CorruptStoreError, UnsupportedFormatError)
"""How a store may be refused whose disk has lied."""


class Wrong(AssertionError):  # noqa: N818 - a verdict
    """A store gave a wrong answer, or lost what it had promised."""


@dataclass
class Promise:
    """What had been told, by the time of a stop, of events and places."""

    written: int = 0
    durable: int = 0
    placed: dict[str, int] = field(default_factory=dict)
    anchors: list[str] = field(default_factory=list)

    def hear(self, note: str) -> None:
        """Take in one note."""
        match note.split():
            case ["written", count]:
                self.written = max(self.written, int(count))
            case ["durable", count]:
                self.durable = max(self.durable, int(count))
            case ["placed", name, at]:
                self.placed[name] = int(at)
            case ["anchor", _, text]:
                self.anchors.append(text)

    def kept_by(self, state: State) -> int:
        """Return how many events have to be there."""
        return self.written if state.how == "killed" else self.durable


def promises(operations: Sequence[Operation]) -> list[Promise]:
    """Return what had been told before each operation, and after the last."""
    promise, found = Promise(), []
    for each in operations:
        found.append(promise)
        if each.action == "note":
            promise = Promise(promise.written, promise.durable, dict(promise.placed), list(promise.anchors))
            promise.hear(each.name)
    return [*found, promise]


class Model:
    """The events of a journal, in order, and what was said of them."""

    def __init__(self, events: Sequence[tuple[Any, ...]], notes: Iterable[str]) -> None:
        self.events = list(events)
        self.entries: list[IndexEntry] = [event[0] for event in events]
        self.units = {0}
        self.keys: dict[UUID, int] = {}
        self.needs: dict[tuple[str, int], int] = {}
        for note in notes:
            match note.split():
                case ["issued", count]:
                    self.units.add(int(count))
                case ["key", key, at]:
                    self.keys[UUID(hex=key)] = int(at)
                case ["place", name, at, count]:
                    self.needs[name, int(at)] = int(count)
        self._answers: dict[int, list[tuple[str, object]]] = {}

    @cached_property
    def answered(self) -> dict[UUID, int]:
        """Which question has all its answers among how many events."""
        found: dict[UUID, list[int]] = {}
        for at, entry in enumerate(self.entries):
            if entry.kind == ANSWERED and entry.causation_id is not None:
                found.setdefault(entry.causation_id, []).append(at)
        return {cause: places[ANSWERS - 1] + 1 for cause, places in found.items() if len(places) >= ANSWERS}

    def answers(self, count: int) -> list[tuple[str, object]]:
        """Return what a journal of the first *count* events answers to each question."""
        if count not in self._answers:
            self._answers[count] = list(self._think(self.entries[:count]))
        return self._answers[count]

    def _think(self, entries: list[IndexEntry]) -> Iterable[tuple[str, object]]:
        yield "query", entries
        yield "reverse", entries[::-1][:3]
        for entity in sorted({entry.coordinate.entity for entry in self.entries}):
            stream = [entry for entry in entries if entry.coordinate.entity == entity]
            yield f"stream {entity}", stream
            yield f"latest {entity}", stream[-1] if stream else None
        for value in sorted({entry.kind.value for entry in self.entries}):
            yield f"kind {value}", [entry for entry in entries if entry.kind.value == value]
        for scope in sorted({entry.coordinate.scope for entry in self.entries}):
            yield f"scope {scope}", [entry for entry in entries if entry.coordinate.scope == scope]
        for cause in entries[:3] + [entry for entry in entries if entry.kind == ASKED]:
            caused = [entry for entry in entries if entry.causation_id == cause.event_id]
            yield f"effects {cause.event_id}", caused

    def ask(self, store: Reading, question: str) -> object:
        """Put a question of `answers` to a store."""
        what, _, rest = question.partition(" ")
        match what:
            case "query":
                return store.query(EVERYTHING)
            case "reverse":
                return store.query(EVERYTHING, reverse=True, limit=3)
            case "stream":
                return store.stream(rest)
            case "latest":
                return store.latest(rest)
            case "kind":
                kind = next(entry.kind for entry in self.entries if entry.kind.value == int(rest))
                return store.query(Region(kind=kind, include_system=True))
            case "scope":
                return store.query(Region(scope=rest, include_system=True))
            case _:
                return [event.entry for event in store.effects(UUID(rest))]


def need(holds: object, what: str) -> None:
    """Raise `Wrong` unless that holds."""
    if not holds:
        raise Wrong(what)


def check_events(store: Reading, model: Model) -> int:
    """Check that a prefix is there, and whole batches; how many events."""
    found = shown(store)
    need(found == model.events[: len(found)], f"O2: {len(found)} events are no prefix of what was issued")
    need(len(found) in model.units, f"O2: {len(found)} events end within a batch")
    return len(found)


def check_answers(store: Reading, model: Model, count: int) -> None:
    """Check all chains, and every answer of the index, where *count* events are there."""
    report = store.verify_chain()
    need(report.intact and report.events_checked == count, f"O3: {report}")
    for question, answer in model.answers(count):
        need(model.ask(store, question) == answer, f"O6: {question}")


def check_keys(store: Store, model: Model, count: int) -> None:
    """Check that exactly the keys of the first *count* events are known."""
    for key, at in model.keys.items():
        need(store._has_event(key) == (at < count), f"O6: the key of event {at}, of {count}")


def check_places(store: Store, model: Model, count: int, told: Promise | None, *, killed: bool) -> None:
    """Check what the places on disk speak of; *told* is None where nothing has to be there."""
    places = {each.name: each for each in store.places()}
    for name, each in places.items():
        if told is None:
            continue
        need(each.damage is None, f"O1: a place that cannot be read: {each.damage}")
        if each.place is None or name is None:
            continue
        at = each.place.global_sequence
        need(at < count and each.place == model_place(model, at), f"O1: the place of {name} is at {at}, of {count}")
        needed = model.needs.get((name, at), at + 1)
        need(needed <= count, f"O1: the place of {name} at {at} speaks of {needed} events, {count} are there")
        if name == WORKER:
            asked = [entry.event_id for entry in model.entries[: at + 1] if entry.kind == ASKED]
            need(all(model.answered.get(each, count + 1) <= count for each in asked), f"O1: unanswered before {at}")
    for name, at in told.placed.items() if told is not None and killed else ():
        found = places[name].place if name in places else None
        need(found is not None and found.global_sequence >= at, f"O1: {name} was placed at {at}, found {found}")


def model_place(model: Model, at: int) -> Place:
    """Return the place of the event at a global sequence."""
    return Place(at, model.events[at][4])


def check_files(state: State, count: int) -> None:
    """Check that no file speaks of an event that is not there: the index's runs, the durable position."""
    for name in state.files:
        run = parse_run_name(name)
        need(run is None or run[1] < count, f"O1: {name} is there, of {count} events")
    for slot in watermark.slots(state.directory()):
        need(slot.sequence <= count, f"O1: the durable position is {slot.sequence}, of {count}")


def check_writing(store: Store, model: Model, count: int) -> None:
    """Check that a known key gives the first receipt, and that an event with a new one goes behind the others."""
    known = [(at, key) for key, at in model.keys.items() if at < count]
    if known:
        at, key = max(known)
        event = store.get(model.entries[at].event_id)
        receipt = store.append(event.coordinate, event.kind, event.payload, idempotency_key=key)
        need(receipt.duplicate and receipt.event_id == event.event_id, f"O6: the key of event {at} again")
    fresh = [key for key, at in model.keys.items() if at >= count]
    receipt = store.append(QUESTION, ASKED, "again", durable=True, idempotency_key=fresh[0] if fresh else None)
    need((receipt.global_sequence, receipt.duplicate) == (count, False), f"O6: {receipt} behind {count} events")


def same(files: MemoryFiles) -> dict[str, object]:
    """Return what a directory holds, but of the durable position only the event: every open counts its writes there."""
    held: dict[str, object] = dict(content(files))
    position = watermark.read(files)
    held[watermark.NAME] = None if position is None else position.sequence
    return held


def opened(files: MemoryFiles) -> Store:
    """Open a directory for writing."""
    return Store(files.beside(), configured(None), SteppedDrivers())


def examine(state: State, promise: Promise, model: Model, *, look_first: bool = False, close: bool = False) -> int:
    """Hold a state against everything that was told; how many events are there.

    *look_first* opens it read-only before; *close* closes it between the two opens, where it is killed otherwise.
    """
    files, kept = state.directory(), promise.kept_by(state)
    if look_first:
        with ReadOnlyStore(files.beside(), configured(None), SteppedDrivers()) as reader:
            count = check_events(reader, model)
            need(count >= kept, "O1: read-only")
            check_answers(reader, model, count)
        need(content(files) == content(state.directory()), "reading changed something")
    with opened(files) as store:
        need(store.stats().next_global_sequence >= kept, f"O1: {store.stats().next_global_sequence} of {kept} events")
        count = check_events(store, model)
        check_answers(store, model, count)
        check_keys(store, model, count)
        check_places(store, model, count, promise, killed=state.how == "killed")
        check_anchors(store, promise)
        check_files(state, count)
        left = same(files)
        if not close:
            files = files.copy()
    if close:
        left = same(files)
    with opened(files) as store:
        need(not store.diagnostics().open_report.quarantined, "O4: something torn was left behind")
        now = same(files)
        need(
            now == left, f"O4: a second open changed {[each for each in now | left if now.get(each) != left.get(each)]}"
        )
        need(check_events(store, model) == count, "O4: a second open shows something else")
        check_writing(store, model, count)
    return count


def check_anchors(store: Store, promise: Promise) -> None:
    """Check that the newest anchor that was given out still holds."""
    for text in promise.anchors[-1:]:
        need(store.verify_chain(anchor=Anchor.parse(text)).anchored, f"O1: the anchor {text}")


def examine_after_lies(state: State, model: Model) -> str:
    """Hold a state of a disk that lied against all but what was promised: "right" or "refused", each time the same.

    A refusal may come with a read: what a run of the index covers is not read by an open.
    """
    files = state.directory()
    found = [_looked_after_lies(files, model, last=last) for last in (False, True)]
    need(found[0] == found[1], f"O4: {found[1]} after {found[0]}")
    return "refused" if found[0] is None else "right"


def _looked_after_lies(files: MemoryFiles, model: Model, *, last: bool) -> int | None:
    """Return how many events are there, None for a refusal."""
    try:
        with opened(files) as store:
            count = check_events(store, model)
            check_answers(store, model, count)
            check_keys(store, model, count)
            check_places(store, model, count, None, killed=False)
            check_cursors(store, model, count)
            if last:
                check_writing(store, model, count)
            return count
    except REFUSALS:
        return None


def check_cursors(store: Store, model: Model, count: int) -> None:
    """Check that a cursor goes on behind the place that is there, or is refused with a reason."""
    for name, region in ((CURSOR, ORDERS), (WORKER, QUESTIONS)):
        try:
            with store.cursor(region, name=name) as cursor:
                behind = -1 if cursor.committed is None else cursor.committed.global_sequence
                found = [event.global_sequence for event in cursor.pull(count + 1, timeout_seconds=0)]
        except (StalePlaceError, PlaceConflictError, CorruptStoreError):
            continue
        wanted = [at for at, entry in enumerate(model.entries[:count]) if at > behind and region.matches(entry)]
        need(found == wanted, f"O6: {name} goes on with {found}, expected {wanted}")
