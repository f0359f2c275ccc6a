"""Editing a journal as somebody would who has a hex editor and our source: every checksum is right afterwards.

A `Forgery` reads a closed store to its frames. Whatever is done to them, `write` puts them back: events numbered
through, headers and footers made anew, checksums computed, the index left away, the durable position rewritten. There
are two strengths of it: with `relink` false the links from event to event stay as they were, with `relink` true the
chain of everything is computed anew as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from batpak.storage import format1, format2, watermark
from batpak.storage.frame import NO_HASH, Frame
from batpak.storage.scan import Walk
from batpak.storage.seal import seal_by_name
from batpak.storage.segment import (
    SegmentMeta,
    frame_bytes,
    header_bytes,
    list_segments,
    parse_header,
    read_meta,
)
from batpak.testing.memory import MemoryFiles
from tests.directories import Content, content, directory

HOUR_US = 3_600_000_000


@dataclass
class Part:
    """One segment: what its header says, its frames, and whether it is sealed."""

    meta: SegmentMeta
    frames: list[Frame]
    sealed: bool


class Forgery:
    """A journal as frames, to be edited and put back."""

    def __init__(self, held: Content) -> None:
        """Read a closed store."""
        self._held = held
        files = directory(held)
        self.parts = [self._part(files, segment) for segment in list_segments(files.list())]
        self.version = self.parts[-1].meta.version

    @staticmethod
    def _part(files: MemoryFiles, segment: int) -> Part:
        meta = read_meta(files, segment)
        with closing(files.open_read(meta.name)) as file:
            walk = Walk(file, meta)
            frames = [found.frame for found in walk]
        return Part(meta, frames, walk.end < meta.size)

    def events(self) -> list[Frame]:
        """Return the events in order, without the markers of batches."""
        return [frame for part in self.parts for frame in part.frames if frame.chained]

    def of(self, entity: str) -> list[Frame]:
        """Return the events of one entity in order."""
        return [frame for frame in self.events() if frame.entity == entity]

    def part_of(self, frame: Frame) -> tuple[Part, int]:
        """Return the segment that holds *frame*, and which of its frames it is."""
        for part in self.parts:
            for at, each in enumerate(part.frames):
                if each is frame:
                    return part, at
        raise AssertionError("that event is not there any more")

    def remove(self, frame: Frame) -> None:
        """Take an event out."""
        part, at = self.part_of(frame)
        del part.frames[at]

    def insert_behind(self, frame: Frame, new: Frame) -> None:
        """Put an event in."""
        part, at = self.part_of(frame)
        part.frames.insert(at + 1, new)

    def exchange(self, one: Frame, other: Frame) -> None:
        """Have two events change places in the journal."""
        (part, at), (other_part, other_at) = self.part_of(one), self.part_of(other)
        part.frames[at], other_part.frames[other_at] = other, one

    def renumber(self, entity: str) -> None:
        """Number the events of one entity through."""
        for number, frame in enumerate(self.of(entity)):
            frame.sequence = number

    def write(self, *, relink: bool) -> Content:
        """Return the whole directory, with every checksum right and, where asked for, every link too."""
        while not any(frame.chained for frame in self.parts[-1].frames):
            del self.parts[-1]
        files = MemoryFiles()
        heads: dict[str, bytes] = {}
        sequence, last_hash = 0, NO_HASH
        position = None
        for part in self.parts:
            meta, start = self._header(part, sequence, last_hash)
            before, data = sequence, bytearray(start)
            for frame in part.frames:
                if frame.chained:
                    frame.global_sequence = sequence
                    sequence += 1
                    if relink:
                        frame.prev_hash = heads.get(frame.entity, NO_HASH)
                        frame.event_hash = format1.event_hash(frame.payload)  # format 2 does not store it
                body = meta.encode(frame)
                if frame.chained:
                    last_hash = frame.event_hash if meta.version == format1.VERSION else format2.event_hash(body)
                    heads[frame.entity] = last_hash
                data += frame_bytes(meta, body)
            with closing(files.create(meta.name)) as file:
                file.pwrite(data, 0)
            if part.sealed:
                seal_by_name(files, replace(meta, size=len(data)), len(data), before)
            position = meta.store_id, meta.segment, meta.identity, len(data)
        assert position is not None
        return content(files) | {watermark.NAME: self._position(position, sequence)}

    @staticmethod
    def _header(part: Part, sequence: int, last_hash: bytes) -> tuple[SegmentMeta, bytes]:
        """Return the header of a segment that begins with event *sequence*."""
        meta = part.meta
        assert meta.store_id is not None
        start = header_bytes(
            version=meta.version,
            segment=meta.segment,
            created_ns=meta.created_ns,
            store_id=meta.store_id,
            salt=meta.salt,
            first_sequence=sequence,
            previous_hash=last_hash,
        )
        return parse_header(start, meta.segment, len(start)), start

    def _position(self, place: tuple[bytes | None, int, bytes, int], sequence: int) -> bytes:
        """Return the file of the durable position, which says that everything is durable."""
        store_id, segment, identity, offset = place
        whole = bytearray(588)
        for count in (7, 8):
            slot = watermark.encode(
                watermark.DurablePosition(store_id or b"", count, segment, identity, offset, sequence)
            )
            at = watermark.slot_offset(count)
            whole[at : at + len(slot)] = slot
        return bytes(whole)


# Edits: each changes something in the middle of the journal, if its name says nothing else ----------------------------

BUSY, OTHER, SHORT = "order:1", "order:2", "parcel:7"
ALONE_BYTES = 200
"""The entities of the journal that is edited: one with many events, another one, and one that ends early.

Payloads longer than this were written alone, those of batches are shorter.
"""


def _middle(forgery: Forgery) -> Frame:
    """Return an event in the middle of the busy entity, one that was written alone, as the one behind it was."""
    return _pair(forgery)[0]


def _pair(forgery: Forgery) -> tuple[Frame, Frame]:
    events = forgery.of(BUSY)
    pairs = [pair for pair in pairwise(events) if min(len(frame.payload) for frame in pair) > ALONE_BYTES]
    return pairs[len(pairs) // 2]


def edit_payload(forgery: Forgery) -> None:
    """Another amount."""
    frame = _middle(forgery)
    frame.payload = b"\x81\xa6amount\xcd\x27\x0f"
    frame.payload_size = len(frame.payload)


def edit_kind(forgery: Forgery) -> None:
    """An order that was paid was refunded."""
    _middle(forgery).kind ^= 0x003


def edit_timestamp(forgery: Forgery) -> None:
    """It was an hour earlier."""
    frame = _middle(forgery)
    frame.timestamp_us -= HOUR_US
    frame.wall_ms = frame.timestamp_us // 1000
    frame.extensions = {key: value for key, value in frame.extensions.items() if key != "wall_ms"}


def edit_scope(forgery: Forgery) -> None:
    """It was another shop."""
    _middle(forgery).scope = "elsewhere"


def edit_cause(forgery: Forgery) -> None:
    """Something else caused it."""
    _middle(forgery).causation_id = forgery.events()[0].event_id


def edit_correlation(forgery: Forgery) -> None:
    """It belonged to another process."""
    _middle(forgery).correlation_id = forgery.events()[0].event_id


def edit_id(forgery: Forgery) -> None:
    """It had another id."""
    frame = _middle(forgery)
    frame.event_id = frame.event_id[:-1] + bytes([frame.event_id[-1] ^ 1])
    if frame.correlation_id is not None:
        frame.correlation_id = frame.event_id


def edit_flags(forgery: Forgery) -> None:
    """Its flags were others; whether its id is a key, where that is stored."""
    frame = _middle(forgery)
    if forgery.version == format1.VERSION:
        frame.flags ^= 1
    else:
        frame.is_key = not frame.is_key


def move_event(forgery: Forgery) -> None:
    """It happened to something else; both are numbered through."""
    _middle(forgery).entity = OTHER
    forgery.renumber(BUSY)
    forgery.renumber(OTHER)


def remove_event(forgery: Forgery) -> None:
    """It never happened; what follows is numbered through."""
    forgery.remove(_middle(forgery))
    forgery.renumber(BUSY)


def remove_event_leaving_a_gap(forgery: Forgery) -> None:
    """It never happened; what follows in its entity keeps its numbers."""
    forgery.remove(_middle(forgery))


def insert_event(forgery: Forgery) -> None:
    """Something happened that never did."""
    frame = _middle(forgery)
    new = replace(frame, event_id=frame.event_id[:-2] + b"\xfa\xce", payload=b"\xc3", payload_size=1, is_key=False)
    if forgery.version == format1.VERSION:
        new.event_hash, new.correlation_id = format1.event_hash(new.payload), new.event_id
    forgery.insert_behind(frame, new)
    forgery.renumber(BUSY)


def reorder_events(forgery: Forgery) -> None:
    """Two events of one entity happened the other way round."""
    forgery.exchange(*_pair(forgery))
    forgery.renumber(BUSY)


def reorder_entities(forgery: Forgery) -> None:
    """Two neighbours of different entities happened the other way round."""
    events = forgery.events()
    for one, other in pairwise(events):
        followed = one in forgery.of(BUSY)[:-1] and other in forgery.of(OTHER)[:-1]
        if (
            followed
            and not one.remaining
            and not other.remaining
            and forgery.part_of(one)[0] is forgery.part_of(other)[0]
        ):
            forgery.exchange(one, other)
            return
    raise AssertionError("there are no such neighbours")


def move_batch_boundary(forgery: Forgery) -> None:
    """What was written as one was written as two."""
    if forgery.version == format1.VERSION:
        _shorten_marked_batch(forgery)
        return
    first = next(frame for frame in forgery.events() if frame.remaining)
    first.remaining = 0


def _shorten_marked_batch(forgery: Forgery) -> None:
    """Let the first item of a batch stand before the marker that begins it."""
    for part in forgery.parts:
        for at, frame in enumerate(part.frames):
            if frame.kind == format1.BATCH_BEGIN and not frame.chained:
                frame.payload_size -= 1
                part.frames[at], part.frames[at + 1] = part.frames[at + 1], frame
                return
    raise AssertionError("there is no batch")


def edit_last_of_entity(forgery: Forgery) -> None:
    """Another payload in the last event of an entity, which no event follows."""
    frame = forgery.of(SHORT)[-1]
    frame.payload = b"\x81\xa6amount\xcd\x27\x0f"
    frame.payload_size = len(frame.payload)


def cut_end(forgery: Forgery) -> None:
    """The last events of the journal never happened."""
    for frame in forgery.events()[-2:]:
        forgery.remove(frame)


def remove_entity(forgery: Forgery) -> None:
    """Nothing ever happened to it."""
    for frame in forgery.of(SHORT):
        forgery.remove(frame)


def remove_last_entity(forgery: Forgery) -> None:
    """Nothing ever happened to something whose events are the last ones in the journal."""
    entity = forgery.events()[-1].entity
    assert all(frame.entity == entity for frame in forgery.events()[-2:])
    for frame in forgery.of(entity):
        forgery.remove(frame)


def rewrite_everything(forgery: Forgery) -> None:
    """Everything from some event on went differently."""
    events = forgery.events()
    for frame in events[len(events) // 2 :]:
        frame.payload = b"\xa9rewritten"
        frame.payload_size = len(frame.payload)
        frame.timestamp_us += HOUR_US
        frame.wall_ms = frame.timestamp_us // 1000


class Edit(NamedTuple):
    """A kind of edit, and in which formats it shows: "12" in both, "" never.

    *chain*: to `verify_chain`, when the links stayed as they were; *relinked*: when the chain was made anew too;
    *anchored*: to `verify_chain` with an anchor that was taken before.
    """

    name: str
    apply: Callable[[Forgery], None]
    chain: str
    anchored: str
    relinked: str = ""


EDITS = (
    Edit("payload edited", edit_payload, "12", "12"),
    Edit("kind edited", edit_kind, "2", "2"),
    Edit("timestamp edited", edit_timestamp, "2", "2"),
    Edit("scope edited", edit_scope, "2", "2"),
    Edit("causation edited", edit_cause, "2", "2"),
    Edit("correlation edited", edit_correlation, "2", "2"),
    Edit("event id edited", edit_id, "2", "2"),
    Edit("key or flag edited", edit_flags, "2", "2"),
    Edit("event moved to another entity", move_event, "12", "12"),
    Edit("event removed, the rest renumbered", remove_event, "12", "12"),
    Edit("event removed, a gap left", remove_event_leaving_a_gap, "12", "12", "12"),
    Edit("event inserted", insert_event, "12", "12"),
    Edit("two events of an entity reordered", reorder_events, "12", "12"),
    Edit("two events of different entities reordered", reorder_entities, "2", "12"),
    Edit("batch boundary moved", move_batch_boundary, "2", "2"),
    Edit("last event of an entity edited", edit_last_of_entity, "1", "12"),
    Edit("last events of the journal cut off", cut_end, "", "12"),
    Edit("a whole entity removed", remove_entity, "2", "12"),
    Edit("a whole entity at the end removed", remove_last_entity, "", "12"),
    Edit("everything from an event on rewritten", rewrite_everything, "12", "12"),
)
HASHLESS = ("event moved to another entity",)
"""What format 1's hashes do not cover, but its links do: with a new chain, not even an anchor shows it."""
