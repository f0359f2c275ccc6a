"""Small directories as data: what they show, how much of it is durable, and every question with its right answer.

An `Image` is a directory that was left behind, and a model of it that was made from what was appended: `ask_all` puts
everything that can be asked to a store that was opened on a damaged copy, and compares each answer with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple
from unittest.mock import patch
from uuid import UUID

from batpak import (
    BatpakError,
    Coordinate,
    EventFlags,
    EventKind,
    NewEvent,
    Place,
    ReadOnlyStore,
    Receipt,
    Region,
    Store,
    StoreConfig,
)
from batpak.storage import place_file
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles, _Disk, _Inode
from batpak.testing.stepped import SteppedDrivers
from tests.directories import EVERYTHING, FOLDERS, Content, directory, load, segments, shown
from tests.golden.walker import GOLDEN

Format = Literal[1, 2]
Opened = Store | ReadOnlyStore
Shown = tuple[Any, ...]
Ask = Callable[[Opened], object]

FIRST, SECOND = Coordinate("order:1", "shop"), Coordinate("order:2", "depot")
PLACED, PAID = EventKind(0x1, 0x001), EventKind(0x2, 0x002)
PLACES = {"mailer": Region(entity="order"), "filer": Region(kind=PAID)}
RESERVED = 600
LOCK_FILES = (".batpak.lock", ".batpak.owner")


class Question(NamedTuple):
    """One question to a store, and its right answer."""

    name: str
    ask: Ask
    answer: object


@dataclass(frozen=True, eq=False)
class Image:
    """A directory, what it shows, how many of its first events must always be there, and what its places say.

    *keys* are idempotency keys and what was appended with them; *places* the names and the places that were
    committed, in order.
    """

    name: str
    held: Content
    events: list[Shown]
    durable: int
    keys: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)
    _questions: dict[int, list[Question]] = field(default_factory=dict)

    def questions(self, count: int) -> list[Question]:
        """Return every question with the answer that the first *count* events give."""
        if count not in self._questions:
            self._questions[count] = list(questions(self.events[:count]))
        return self._questions[count]


def one(event: Any) -> Shown:
    """Return everything that a read tells of one event."""
    return (event.entry, event.timestamp_us, event.raw, event.prev_hash, event.event_hash, event.content_hash)


def questions(events: list[Shown]) -> Iterator[Question]:
    """Yield what can be asked of a store that holds *events*, and the answers."""
    entries = [event[0] for event in events]
    yield Question("read", shown, events)
    yield Question("query", lambda store: store.query(EVERYTHING), entries)
    yield Question("query backwards", lambda store: store.query(EVERYTHING, reverse=True), entries[::-1])
    yield Question("get", _get_all([event[0].event_id for event in events]), events)
    for event in events:
        event_id = event[0].event_id
        caused = {each.event_id for each in entries if each.causation_id == event_id}
        if caused:
            yield Question(f"effects {event_id}", _effects(event_id), caused)
    for entity in sorted({entry.coordinate.entity for entry in entries} | {FIRST.entity, SECOND.entity}):
        stream = [entry for entry in entries if entry.coordinate.entity == entity]
        yield Question(f"stream {entity}", _stream(entity), stream)
        yield Question(f"latest {entity}", _latest(entity), stream[-1] if stream else None)
    for coordinate in (FIRST, SECOND):
        region = Region(scope=coordinate.scope)
        yield Question(f"{region}", _query(region), [each for each in entries if each.coordinate == coordinate])
    for kind in (PLACED, PAID):
        region = Region(kind=kind)
        yield Question(f"{region}", _query(region), [each for each in entries if each.kind == kind])
    yield Question("verify", _verify, (len(events), True))


def _get_all(event_ids: list[UUID]) -> Ask:
    return lambda store: [one(event) for event in store.get_many(event_ids)]


def _effects(event_id: UUID) -> Ask:
    return lambda store: {each.event_id for each in store.effects(event_id)}


def _stream(entity: str) -> Ask:
    return lambda store: store.stream(entity)


def _latest(entity: str) -> Ask:
    return lambda store: store.latest(entity)


def _query(region: Region) -> Ask:
    return lambda store: store.query(region)


def _verify(store: Opened) -> tuple[int, bool]:
    report = store.verify_chain()
    return report.events_checked, report.intact


def ask_all(store: Opened, image: Image) -> tuple[int, list[str]]:
    """Ask everything; how many events there are, and which questions got a typed error. A wrong answer fails."""
    count = store.stats().visible_sequence + 1
    assert image.durable <= count <= len(image.events), f"{count} events, of which {image.durable} were durable"
    refused = []
    for question in image.questions(count):
        try:
            found = question.ask(store)
        except BatpakError:
            refused.append(question.name)
        else:
            assert found == question.answer, f"{question.name}: found {found!r}, expected {question.answer!r}"
    if "get" in refused:  # then each by itself: what is sound is still there
        for event in image.events[:count]:
            try:
                assert one(store.get(event[0].event_id)) == event
            except BatpakError:
                refused.append(f"get {event[0].event_id}")
    if isinstance(store, Store):
        refused += _ask_keys(store, image)
    return count, refused


def _ask_keys(store: Store, image: Image) -> list[str]:
    """Append again what was appended with keys; the keys that got a typed error. Anything but the first event fails."""
    refused = []
    first = {event[0].event_id: event for event in image.events}
    for key, arguments in image.keys.items():
        try:
            receipt = store.append(*arguments, idempotency_key=key)
        except BatpakError:
            refused.append(f"key {key}")
        else:
            event = first[receipt.event_id]
            assert receipt.duplicate, f"key {key} wrote another event"
            assert (receipt.global_sequence, receipt.event_hash) == (event[0].global_sequence, event[4])
    return refused


def ask_places(store: Store, image: Image) -> dict[str, Place | BatpakError | None]:
    """Go on with every named place: where it stands, or why it cannot be used. What comes must be what lies behind."""
    found: dict[str, Place | BatpakError | None] = {}
    for name in image.places:
        try:
            with store.cursor(PLACES[name], name=name) as cursor:
                found[name] = place = cursor.committed
                after = -1 if place is None else place.global_sequence
                expected = [event for event in store.query(PLACES[name]) if event.global_sequence > after]
                assert [event.entry for event in cursor.poll_batch(100)] == expected
        except BatpakError as error:
            found[name] = error
    return found


# Making them -------------------------------------------------------------------------------------------------------


def configured(segment_format: Format | None = None) -> StoreConfig:
    """Return the configuration that images are made and opened with."""
    return StoreConfig(driver="stepped", segment_format=segment_format, segment_bytes=4096, clock=HandClock())


def open_image(files: MemoryFiles, *, writable: bool) -> Opened:
    """Open a directory in memory without threads."""
    opener = Store if writable else ReadOnlyStore
    return opener(files.beside(), configured(), SteppedDrivers())


def laid_out(held: Content) -> MemoryFiles:
    """Return a directory in memory with that content, all of it durable and nothing in its journal."""
    names = {name: _Inode(number, data, data) for number, (name, data) in enumerate(held.items(), 1)}
    folders = {name.split("/", maxsplit=1)[0] for name in held if "/" in name}
    return MemoryFiles._over(_Disk(names, folders, dict(names), set(folders), inodes=len(names)))


def whole(files: MemoryFiles) -> Content:
    """Return all that a directory holds, by name."""
    names = [*files.list(), *(f"{folder}/{name}" for folder in FOLDERS for name in files.list(folder))]
    return {name: files.read_bytes(name, 1 << 30) for name in names}


class Builder:
    """Writes an image: a small journal with batches, keys, a rotation, runs, places and something in quarantine."""

    def __init__(self) -> None:
        self.files = MemoryFiles()
        self.keys: dict[str, tuple[Any, ...]] = {}
        self.places: dict[str, list[Place]] = {}
        self._open(None)

    def _open(self, segment_format: Format | None) -> None:
        self.drivers = SteppedDrivers()
        self.store = Store(self.files.beside(), configured(segment_format), self.drivers)

    def begin(self, segment_format: Format) -> None:
        """Go on in that format; what a crash before left torn has gone to quarantine."""
        self.store.close()
        self._open(segment_format)

    def tear(self) -> None:
        """Lose the process, and leave something torn behind the last frame."""
        held = whole(self.files.copy())
        self.store.close()
        name = segments(held)[-1]
        end = len(held[name].rstrip(b"\0")) + 40
        held[name] = held[name][:end].ljust(end, b"\0") + b"torn" * 8
        self.files = directory({name: data for name, data in held.items() if name not in LOCK_FILES})
        self._open(None)

    def rest(self) -> None:
        """Let the threads do all that they would do between turns."""
        while self.drivers.step("index") or self.drivers.step("writer"):
            pass

    def keyed(self, key: str, *arguments: Any) -> Receipt:
        """Append with a key, durably."""
        self.keys[key] = arguments
        return self.store.append(*arguments, idempotency_key=key, durable=True)

    def commit(self, name: str, count: int) -> None:
        """Have a cursor handle some events more."""
        with self.store.cursor(PLACES[name], name=name) as cursor:
            cursor.poll_batch(count)
            cursor.commit()
            assert cursor.committed is not None
            self.places.setdefault(name, []).append(cursor.committed)

    def fill(self) -> None:
        """Write what a journal may hold."""
        store = self.store
        first = self.keyed("first", FIRST, PLACED, {"text": "x" * 300})
        for number in range(3):
            store.append(SECOND, PAID, [number], flags=EventFlags.REPLAY)
            self.rest()
        store.append_reaction(SECOND, PLACED, {"pad": "y" * 900}, cause=first)
        self.commit("mailer", 2)
        store.append_batch([NewEvent(FIRST, PLACED, n, idempotency_key=f"k{n}") for n in range(3)], durable=True)
        self.rest()
        store.append(FIRST, PAID, "z" * 1200)
        self.commit("filer", 3)
        self.keyed("late", FIRST, PAID, b"z" * 1300)
        self.rest()
        store.append_batch([NewEvent(SECOND, PAID, None), NewEvent(FIRST, PLACED, {}, caused_by=0)])
        store.sync()
        self.commit("mailer", 3)
        self.rest()

    def overhang(self) -> None:
        """Write what no fsync covers."""
        self.store.append(FIRST, PLACED, {"not": "durable"})
        self.store.append_batch([NewEvent(FIRST, PLACED, 1), NewEvent(SECOND, PLACED, 2)])

    def image(self, name: str, *, killed: bool) -> Image:
        """Leave it as a kill would, or closed."""
        events, durable = shown(self.store), self.store.stats().durable_sequence + 1
        left = whole(self.files.copy())
        self.store.close()
        held = left if killed else whole(self.files)
        last = segments(held)[-1]
        held[last] = held[last][: len(held[last].rstrip(b"\0")) + RESERVED]  # as much of the reserved space is enough
        return Image(name, held, events, durable if killed else len(events), self.keys, self.places)


@cache
def image(name: str) -> Image:
    """Return an image by name: a format, or "1to2", and whether it was "closed" or "killed"."""
    how, end = name.split("-")
    with patch("batpak.actors.index.RUN_EVENTS", 5), patch("batpak.actors.index.CLOSE_EVENTS", 1):
        builder = Builder()
        builder.begin(2 if how == "2" else 1)
        builder.store.append(FIRST, PLACED, "of an earlier life", durable=True)
        builder.tear()
        builder.fill()
        if how == "1to2":
            builder.begin(2)
            builder.store.append(SECOND, PAID, "in the other format", durable=True)
            builder.rest()
        builder.overhang()
        made = builder.image(name, killed=end == "killed")
    assert len(segments(made.held)) >= 2
    assert len([each for each in made.held if each.endswith(".run")]) >= 2
    assert any(each.startswith("quarantine/") for each in made.held)
    assert len([each for each in made.held if each.startswith("cursors/")]) == len(PLACES)
    return made


IMAGES = ("2-closed", "2-killed", "1-closed", "1-killed", "1to2-closed", "1to2-killed")


def place_of(image: Image, file: str) -> str | None:
    """Return the name whose place stands in *file*; None for any other file."""
    return next((name for name in image.places if place_file.file_name(name) == file), None)


# Stores of the original ----------------------------------------------------------------------------------------------

CLOSED = ("0.10.0/rotation", "0.10.0/options", "0.10.0/batches", "0.10.0/cursors", "0.9.0/rotated", "0.8.0/rotated",
          "0.3.0/rotated")  # fmt: skip
KILLED = ("0.10.0/killed-rotated", "0.10.0/torn/whole", "0.1.0/rotated")


@cache
def golden_image(name: str) -> Image:
    """Return a store of the original; nothing tells how far it was durable."""
    held = load(GOLDEN / "rust" / name / "store")
    with open_image(directory(held), writable=False) as store:
        events = shown(store)
    return Image(name, held, events, 0)
