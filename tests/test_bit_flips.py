"""One bit changed at rest, anywhere in a directory: the right answer or a typed error, never a wrong answer.

What was durable is never dropped in silence: where less is shown than was written, it was not durable, and a writable
open has a copy of it in ``quarantine/`` and says so. An ordinary run draws its bits from a seed; with
``BATPAK_ALL_BITS=1`` every bit of every file has its turn, which takes an hour.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Literal
from unittest.mock import patch

import pytest
from blake3 import blake3

from batpak import BatpakError, Coordinate, EventFlags, EventKind, NewEvent, ReadOnlyStore, Region, Store, StoreConfig
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.directories import EVERYTHING, Content, content, directory, flipped, load, shown
from tests.golden.walker import GOLDEN

ALL_BITS = bool(os.environ.get("BATPAK_ALL_BITS"))
SAMPLE = 600
WRITABLE_SAMPLE = 150
GOLDEN_SAMPLE = 80

FIRST, SECOND = Coordinate("order:1", "shop"), Coordinate("order:2", "depot")
PLACED, PAID = EventKind(0x1, 0x001), EventKind(0x2, 0x002)
Opened = Store | ReadOnlyStore


@dataclass(frozen=True)
class Image:
    """A directory, what it shows, and how many of its first events must always be there."""

    held: Content
    events: list[tuple[Any, ...]]
    durable: int

    def bits(self, count: int, seed: str) -> Iterator[tuple[str, int]]:
        """Draw *count* bits, half of them with equal shares for all files; or yield all, if that is asked for."""
        sizes = {name: 8 * min(len(data), len(data.rstrip(b"\0")) + 64) for name, data in self.held.items() if data}
        if ALL_BITS:
            yield from ((name, bit) for name, size in sizes.items() for bit in range(size))
            return
        random = Random(seed)
        for number in range(count):
            even = list(sizes)[number % len(sizes)]
            name = even if number % 2 else random.choices(list(sizes), list(sizes.values()))[0]
            yield name, random.randrange(sizes[name])


def configured(segment_format: Literal[1, 2] | None = None) -> StoreConfig:
    return StoreConfig(driver="stepped", segment_format=segment_format, segment_bytes=4096, clock=HandClock())


def write(store: Store, rest: Any) -> None:
    """Write what a journal may hold, over two segments, and runs of it; all but the end is durable."""
    first = store.append(FIRST, PLACED, {"text": "x" * 600}, idempotency_key="first")
    for number in range(5):
        store.append(SECOND, PAID, [number], flags=EventFlags.REPLAY)
        rest()
    store.append_reaction(SECOND, PLACED, {"pad": "y" * 900}, cause=first)
    store.append_batch([NewEvent(FIRST, PLACED, n, idempotency_key=f"k{n}") for n in range(3)], durable=True)
    rest()
    store.append(FIRST, PAID, "z" * 1500)
    store.append(FIRST, PAID, b"z" * 1300, idempotency_key="late")
    rest()
    store.append_batch([NewEvent(SECOND, PAID, None), NewEvent(FIRST, PLACED, {}, caused_by=0)])
    store.sync()
    rest()
    store.append(FIRST, PLACED, {"not": "durable"})
    store.append_batch([NewEvent(FIRST, PLACED, 1), NewEvent(SECOND, PLACED, 2)])


@cache
def image(segment_format: Literal[1, 2], *, killed: bool) -> Image:
    """Return a small journal with batches, keys, a rotation and runs, closed or left behind by a kill."""
    files, drivers = MemoryFiles(), SteppedDrivers()
    with patch("batpak.actors.index.RUN_EVENTS", 5), patch("batpak.actors.index.CLOSE_EVENTS", 1):
        store = Store(files.beside(), configured(segment_format), drivers)

        def rest() -> None:
            while drivers.step("index") or drivers.step("writer"):
                pass

        write(store, rest)
        events, durable = shown(store), store.stats().durable_sequence + 1
        left = content(files)
        store.close()
    held = left if killed else content(files)
    assert len([name for name in held if name.endswith(".fbat")]) >= 2
    assert len([name for name in held if name.endswith(".run")]) >= 2
    return Image(held, events, durable if killed else len(events))


@pytest.fixture(params=[(2, False), (2, True), (1, False), (1, True)], ids=["2", "2-killed", "1", "1-killed"])
def journal(request: pytest.FixtureRequest) -> Image:
    segment_format, killed = request.param
    return image(segment_format, killed=killed)


def looks(store: Opened) -> Iterator[bool]:
    """Ask everything else that can be asked, and compare it with what the events say."""
    events = list(store.read(EVERYTHING))
    entries = [event.entry for event in events]
    yield store.query(EVERYTHING) == entries
    yield store.query(EVERYTHING, reverse=True) == entries[::-1]
    for event in events:
        yield store.get(event.event_id) == event
        caused = {each.event_id for each in entries if each.causation_id == event.event_id}
        yield {each.event_id for each in store.effects(event.event_id)} == caused
    for coordinate in (FIRST, SECOND):
        stream = [entry for entry in entries if entry.coordinate.entity == coordinate.entity]
        yield store.stream(coordinate.entity) == stream
        yield store.latest(coordinate.entity) == (stream[-1] if stream else None)
        yield store.by_scope(coordinate.scope) == [entry for entry in entries if entry.coordinate == coordinate]
    for kind in (PLACED, PAID):
        yield store.query(Region(kind=kind)) == [entry for entry in entries if entry.kind == kind]
    yield store.verify_chain().intact


def check(store: Opened, journal: Image) -> None:
    """The answer is right: a prefix with everything durable, and every other answer agrees with it."""
    found = shown(store)
    assert found == journal.events[: len(found)]
    assert len(found) >= journal.durable
    assert all(looks(store))
    if isinstance(store, Store) and len(found) < len(journal.events):
        check_copies(store)


def check_copies(store: Store) -> None:
    """What was cut lies in a copy, and is told if it was cut just now."""
    assert store._files.list("quarantine")
    for each in store.diagnostics().open_report.quarantined:
        data = store._files.read_bytes(each.file, 1 << 30)
        assert (len(data), blake3(data).hexdigest()) == (each.length, each.digest)
        assert store._files.size(f"{each.segment:06}.fbat") >= each.offset


def opened(files: MemoryFiles, *, writable: bool) -> Opened:
    opener = Store if writable else ReadOnlyStore
    return opener(files.beside(), configured(), SteppedDrivers())


def outcome(journal: Image, held: Content, *, writable: bool) -> str:
    """Open *held* and read it to the end; "right" or "refused"."""
    files = directory(held)
    try:
        with opened(files, writable=writable) as store:
            check(store, journal)
            if isinstance(store, Store) and len(shown(store)) < len(journal.events):
                assert store.diagnostics().open_report.quarantined
            after = content(files)
    except BatpakError:
        return "refused"
    if writable:  # what was recovered stays so
        with opened(files, writable=True) as store:
            check(store, journal)
    else:
        assert after == held
    return "right"


def outcomes(journal: Image, bits: Iterator[tuple[str, int]], *, writable: bool) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, bit in bits:
        held = journal.held | {name: flipped(journal.held[name], bit)}
        try:
            found[outcome(journal, held, writable=writable)] += 1
        except BaseException as error:
            raise AssertionError(f"bit {bit} of {name}: {type(error).__name__}: {error}") from error
    return found


def test_the_image_itself_is_read(journal: Image) -> None:
    assert outcome(journal, journal.held, writable=False) == "right"
    assert outcome(journal, journal.held, writable=True) == "right"


@pytest.mark.slow
@pytest.mark.timeout(7200 if ALL_BITS else 120)
def test_one_bit_of_a_directory_that_is_only_read(journal: Image) -> None:
    found = outcomes(journal, journal.bits(SAMPLE, "read"), writable=False)
    assert min(found["right"], found["refused"]) > SAMPLE / 20, found


@pytest.mark.slow
@pytest.mark.timeout(7200 if ALL_BITS else 120)
def test_one_bit_of_a_directory_that_is_written_on_to(journal: Image) -> None:
    found = outcomes(journal, journal.bits(WRITABLE_SAMPLE, "write"), writable=True)
    assert min(found["right"], found["refused"]) > WRITABLE_SAMPLE / 20, found


# Stores of the original


@cache
def golden_image(name: str) -> Image:
    held = load(GOLDEN / "rust" / name / "store")
    with opened(directory(held), writable=False) as store:
        events = shown(store)
    return Image(held, events, 0)


def golden_outcome(journal: Image, held: Content, *, writable: bool) -> str:
    """Nothing tells how far the original was durable: a torn end may be cut, everything else is right or refused."""
    files, found = directory(held), []
    try:
        for _ in range(2):
            with opened(files, writable=writable) as store:
                found.append(shown(store))
                store.verify_chain()
    except BatpakError:
        assert not found, "refused at once or not at all"
        return "refused"
    events = found[0]
    assert found == [events, events]
    assert events == journal.events[: len(events)]
    if len(events) == len(journal.events):
        return "right"
    assert files.list("quarantine") or not writable
    return "cut"


CLOSED = ["0.10.0/rotation", "0.10.0/options", "0.10.0/batches", "0.9.0/rotated", "0.8.0/rotated", "0.3.0/rotated"]
KILLED = ["0.10.0/killed-rotated", "0.10.0/torn/whole", "0.1.0/rotated"]


@pytest.mark.parametrize("name", [*CLOSED, *KILLED])
def test_one_bit_of_a_store_of_the_original(name: str) -> None:
    journal = golden_image(name)
    found: Counter[str] = Counter()
    for number, (file, bit) in enumerate(journal.bits(GOLDEN_SAMPLE, name)):
        held = journal.held | {file: flipped(journal.held[file], bit)}
        try:
            found[golden_outcome(journal, held, writable=number % 2 > 0)] += 1
        except BaseException as error:
            raise AssertionError(f"bit {bit} of {file}: {type(error).__name__}: {error}") from error
    assert name in KILLED or not found["cut"], found
    assert found["refused"], found
