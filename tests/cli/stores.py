"""Stores in memory to look at from outside, and what may have happened to them."""

from __future__ import annotations

from contextlib import closing
from functools import cache
from random import Random
from typing import Literal, NamedTuple
from unittest.mock import patch

from batpak import Coordinate, EventKind, NewEvent, Region, Store, StoreConfig
from batpak.storage import watermark
from batpak.storage.scan import Found, Walk
from batpak.storage.segment import SegmentMeta, read_meta
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.directories import Content, content, directory, flipped, segments, shown
from tests.faults.operations import watch
from tests.model.disk import scattered

ORDER, OTHER = Coordinate("order:1", "shop"), Coordinate("order:2", "shop")
PLACED = EventKind(0x1, 0x001)
Format = Literal[1, 2]
FORMATS: tuple[Format, Format] = (2, 1)


def config(segment_format: Format | None = None) -> StoreConfig:
    segment_bytes = 11_000 if segment_format == 1 else 6144
    return StoreConfig(driver="stepped", segment_format=segment_format, segment_bytes=segment_bytes, clock=HandClock())


def opened(held: Content | MemoryFiles, segment_format: Format | None = None) -> Store:
    files = held if isinstance(held, MemoryFiles) else directory(held)
    return Store(files.beside(), config(segment_format), SteppedDrivers())


def frames(held: Content, name: str) -> list[Found]:
    files = directory(held)
    with closing(files.open_read(name)) as file:
        return list(Walk(file, read_meta(files, int(name[:-5]))))


class Life:
    """A journal of four segments with index runs and two named places: closed, and as a kill left it."""

    def __init__(self, segment_format: Format) -> None:
        files = MemoryFiles()
        drivers = SteppedDrivers()
        store = Store(files.beside(), config(segment_format), drivers)
        early = store.cursor(Region(entity="order:1"), name="early")
        late = store.cursor(Region(), name="late")
        for number in range(24):
            store.append(ORDER, PLACED, [number, "x" * 500])
            if number % 5 == 2:
                store.append_batch([NewEvent(OTHER, PLACED, [number, each, "y" * 100]) for each in range(2)])
            if number == 3:
                early.poll_batch(3)
                early.commit()
            while drivers.step("index") or drivers.step("writer"):
                pass
        store.append_batch([NewEvent(ORDER, PLACED, each) for each in range(3)])
        late.poll_batch(4096)
        late.commit()
        self.durable = store.stats().durable_sequence + 1
        store.append(ORDER, PLACED, "last")
        early.close()
        late.close()
        self.events = shown(store)
        self.killed = content(files)
        store.close()
        self.closed = content(files)
        self.names = segments(self.killed)
        assert len(self.names) >= 3

    def meta(self, name: str) -> SegmentMeta:
        return read_meta(directory(self.closed), int(name[:-5]))

    def frames(self, name: str) -> list[Found]:
        return frames(self.closed, name)


@cache
def life(segment_format: Format) -> Life:
    with patch("batpak.actors.index.RUN_EVENTS", 5), patch("batpak.actors.index.CLOSE_EVENTS", 4):
        return Life(segment_format)


class Moment(NamedTuple):
    """A directory as a kill or a power cut may leave it, and how many events must be there at least."""

    files: MemoryFiles
    acknowledged: int


@cache
def moments(segment_format: Format) -> list[Moment]:
    """Return states of a directory while three processes after one another write to it."""
    files, found, random = MemoryFiles(), list[Moment](), Random(segment_format)
    written = durable = 0
    seen: set[int] = set()

    def take() -> None:
        ways = ((files.copy(), written), (files.crashed(), durable), (scattered(files, random), durable))
        for state, acknowledged in ways:
            known = hash((acknowledged, tuple(sorted(content(state).items()))))
            if known not in seen:
                seen.add(known)
                found.append(Moment(state, acknowledged))

    watch(files, take)
    with patch("batpak.actors.index.RUN_EVENTS", 5), patch("batpak.actors.index.CLOSE_EVENTS", 4):
        for _ in range(3):
            drivers = SteppedDrivers()
            with Store(files.beside(), config(segment_format), drivers) as store:
                for number in range(9):
                    size = random.choice((10, 300, 900))
                    written = store.append(ORDER, PLACED, "x" * size, durable=number == 5).global_sequence + 1
                    durable = written if number == 5 else durable
                    if number % 4 == 1:
                        items = [NewEvent(OTHER, PLACED, "y" * size) for _ in range(3)]
                        written = store.append_batch(items)[-1].global_sequence + 1
                    while drivers.step("index") or drivers.step("writer"):
                        pass
            durable = written
    return found


def damaged(held: Content, name: str, at: int) -> Content:
    return held | {name: flipped(held[name], 8 * at)}


def without(held: Content, *names: str) -> Content:
    return {name: data for name, data in held.items() if name not in names}


def damages(past: Life) -> dict[str, Content]:
    """Return directories that refuse to open, by what happened to them."""
    first, second, *_, last = past.names
    middle = past.frames(second)[4]
    below = past.frames(last)[0]
    bare = without(past.closed, watermark.NAME)
    return {
        "a frame of a sealed segment": damaged(past.closed, second, middle.offset + 30),
        "the same, and no durable position": damaged(bare, second, middle.offset + 30),
        "the first frame of all": damaged(past.closed, first, past.frames(first)[0].offset + 30),
        "the first frame of a segment": damaged(past.closed, second, past.frames(second)[0].offset + 9),
        "the header of the first segment": damaged(past.closed, first, 1),
        "the header of the second segment": damaged(past.closed, second, 1),
        "the header of the last segment": damaged(past.closed, last, 1),
        "a missing segment": without(past.closed, second),
        "a missing last segment": without(past.closed, last),
        "no segments at all": without(past.closed, *past.names),
        "a durable frame of the last segment": damaged(past.closed, last, below.offset + 12),
        "the last frame, which was durable": damaged(past.closed, last, past.frames(last)[-1].end - 3),
        "the same after a kill": damaged(past.killed, last, below.offset + 12),
        "a frame that only the index knows to be durable": damaged(bare, last, past.frames(last)[-2].end - 3),
        "a last segment cut short": past.closed | {last: past.closed[last][: below.end + 3]},
        "the same, and no durable position ": bare | {last: bare[last][: below.end + 3]},
        "segments swapped": past.closed | {first: past.closed[second], second: past.closed[first]},
        "a name that is not canonical": past.closed | {"7.fbat": b"?"},
        "two damages": damaged(damaged(past.closed, last, below.offset + 12), second, middle.offset + 30),
    }
