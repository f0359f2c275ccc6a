"""Where the time of one append and of one point read goes: its parts, each done alone again and again.

Processor time of the calling thread, the least of some repetitions: what is left when nothing else disturbs. The parts
are called from outside, so each costs some 20 ns more here than in its place. What is not listed is the way between
them: turns, marks, receipts and the bookkeeping of the writer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import msgpack
from blake3 import blake3

from batpak import Coordinate, Store
from batpak.actors.decision import Decision
from batpak.event import NO_FLAGS, StoredEvent
from batpak.storage.content import FORMAT_2
from batpak.storage.segment import frame_bytes
from batpak.storage.tail import Tail
from benchmarks.case import Case, Figures, Line
from benchmarks.events import make_items
from benchmarks.rivals.ours import Batpak, new_event
from benchmarks.sizes import Sizes
from benchmarks.timing import fresh_directory

TIMES = 2_000
REPETITIONS = 7


def cases(sizes: Sizes, scratch: Path) -> list[Case]:
    """Return the two calls and their parts."""
    append = ("whole append", "coordinate", "arguments, clock", "payload", "decide", "hash", "body", "frame", "row")
    read = ("whole read, decoded", "find the id", "slice and check", "event", "payload")
    return [
        _case("parts of one append", (*append, "write"), partial(append_parts, sizes, scratch)),
        _case("parts of one point read", read, partial(read_parts, sizes, scratch)),
    ]


def _case(name: str, parts: tuple[str, ...], measure: Callable[[], Figures]) -> Case:
    return Case(name, [Line(part, "us", more_is_better=False) for part in parts], {"batpak": measure})


def append_parts(sizes: Sizes, scratch: Path) -> Figures:
    """Do what an append does, part by part; the hash and the body are parts of deciding."""
    times = min(TIMES, sizes.written)
    item = make_items(0, 1)[0]
    with fresh_directory(scratch) as directory, closing(Batpak.open(directory)) as ours:
        store, event = ours.store, new_event(item)
        for _ in range(sizes.warm_up):
            ours.append(item)
        coordinate, kind, payload = event.coordinate, event.kind, event.payload
        whole = microseconds(lambda: store.append(coordinate, kind, payload), times)
        command = store._requests.append(coordinate, kind, payload, None, None, None, None, NO_FLAGS)
        arguments = microseconds(
            lambda: store._requests.append(coordinate, kind, payload, None, None, None, None, NO_FLAGS), times
        )
        packer, hasher = msgpack.Packer(), blake3()
        packing = microseconds(lambda: packer.pack(payload), times)
        writer = store._system.writer
        decision = Decision(writer.standing)
        decision.append(command)
        body, record, meta = decision.bodies[0], decision.records[0], writer.journal.meta
        assert record is not None, "a marker is not decided on alone"
        fields, frame, file = msgpack.unpackb(body), frame_bytes(meta, body), writer.journal.written.file
        assert file is not None, "the store has been appended to"
        tail = Tail()

        def hash_body() -> bytes:
            hasher.reset()
            hasher.update(body)
            return hasher.digest()

        parts = {
            "coordinate": microseconds(lambda: Coordinate(item.entity, item.scope), times),
            "arguments, clock": arguments - packing,
            "payload": packing,
            "decide": microseconds(lambda: Decision(writer.standing).append(command), times),
            "hash": microseconds(hash_body, times),
            "body": microseconds(lambda: packer.pack(fields), times),
            "frame": microseconds(lambda: frame_bytes(meta, body), times),
            "row": microseconds(lambda: tail.put(0, record), times),
            # Into space that is reserved and that no event has: the next append overwrites it.
            "write": microseconds(lambda: file.pwrite(frame, writer.journal.end), times),
        }
    return {"whole append": whole, **parts}


def read_parts(sizes: Sizes, scratch: Path) -> Figures:
    """Do what a point read does, part by part, in a store whose events stand in a run."""
    times = min(TIMES, sizes.point_reads)
    with fresh_directory(scratch) as directory:
        with closing(Batpak.open(directory)) as ours:
            ids = [ours.append(item).event_id for item in make_items(0, sizes.written)]
        with closing(Store.open(directory)) as store:
            wanted = ids[len(ids) // 2]
            store.get(wanted)
            view, number = store._view(), wanted.int >> 64
            place = view.place_of(wanted.bytes, number)
            body = None if place is None else store._maps.body(place)
            assert place is not None, "it was appended"
            assert body is not None, "it has been read"
            packed = store.get(wanted).raw
            return {
                "whole read, decoded": microseconds(lambda: store.get(wanted).payload, times),
                "find the id": microseconds(lambda: view.place_of(wanted.bytes, number), times),
                "slice and check": microseconds(lambda: store._maps.body(place), times),
                "event": microseconds(lambda: StoredEvent(body, FORMAT_2), times),
                "payload": microseconds(lambda: msgpack.unpackb(packed), times),
            }


def microseconds(work: Callable[[], object], times: int) -> float:
    """Return the processor time of one call, the least of some repetitions."""
    least = float("inf")
    for _ in range(REPETITIONS):
        started = time.thread_time_ns()
        for _ in range(times):
            work()
        least = min(least, (time.thread_time_ns() - started) / times / 1e3)
    return least
