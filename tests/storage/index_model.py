"""What the parts of the index are held against: a list of records, asked by looking at each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from hypothesis import strategies as st

from batpak.kind import EventKind
from batpak.region import Region
from batpak.storage.files import Files
from batpak.storage.row import BRANCH, FOREIGN, HIDDEN, KEY, LINKED, SYSTEM, Head, Part, Record
from batpak.storage.run import Run
from batpak.storage.run_builder import build
from batpak.storage.run_format import RunMeta
from batpak.storage.tail import Tail

STORE_ID = bytes(range(16))
ENTITIES = (
    "a",
    "a:b",
    "a:",
    "a::",
    "ab",
    "a:b:c",
    "a!",
    "a!:b",
    "a;",
    "é:ü",
    "é",
    "日本:東京",
    "z",
    "::",
    "\U0001f600:x",
)
DEEP = ":".join("abcdefghijkl")
PREFIXES = (*ENTITIES, "a:b:c:d", "日本", "nothing", ":", DEEP, DEEP[:17], DEEP[:15], DEEP[:13], DEEP + ":m")
SCOPES = ("s", "scope", "größe", "s:s")
KINDS = (0x0001, 0x0010, 0x0FFE, 0x1000, 0x1001, 0x1FFF, 0x2000, 0xF000)


def event_id(number: int) -> bytes:
    """Return an id; small numbers differ in their last byte only, large ones in their first."""
    return (
        number.to_bytes(1, "big") + bytes(14) + number.to_bytes(1, "big")
        if number >= 128
        else bytes(15) + bytes([number])
    )


IDS = st.integers(0, 255).map(event_id)
LINKS = st.none() | IDS


@st.composite
def record_lists(draw: st.DrawFn, max_size: int = 40, min_size: int = 1) -> list[Record]:
    """Draw records in their order, with everything that journals of the original may hold."""
    count = draw(st.integers(min_size, max_size))
    fresh = draw(st.booleans())
    records = []
    for at in range(count):
        kind = draw(st.sampled_from(KINDS))
        bits = draw(st.sampled_from((0, 0, 0, KEY, BRANCH, HIDDEN, FOREIGN, KEY | HIDDEN, BRANCH | HIDDEN)))
        in_order = (0x0190_0000 + at // 3).to_bytes(6, "big") + at.to_bytes(2, "big") + bytes([at % 256]) * 8
        records.append(
            Record(
                draw(st.one_of(st.just(in_order), IDS)) if fresh else draw(IDS),
                draw(st.integers(0, 30)),
                draw(st.integers(0, 20)),
                draw(st.integers(1, 2)),
                draw(st.integers(0, 2**32 - 1)),
                draw(st.integers(8, 99)),
                draw(st.sampled_from((*ENTITIES, DEEP, DEEP + ":m", DEEP[:15], DEEP[:17]))),
                draw(st.sampled_from(SCOPES)),
                draw(st.integers(0, 6) | st.just(at)),
                kind,
                draw(st.integers(0, 2)),
                draw(st.integers(0, 15)),
                bits | (SYSTEM if kind in {1, 0x10} else 0),
                draw(LINKS),
                draw(LINKS),
                draw(st.binary(min_size=32, max_size=32)),
            )
        )
    return sorted(records, key=lambda each: (each.global_sequence, each.segment, each.offset))


@st.composite
def regions(draw: st.DrawFn) -> Region:
    """Draw regions of any parts."""
    first = draw(st.integers(0, 6))
    return Region(
        entity=draw(st.none() | st.sampled_from(PREFIXES)),
        scope=draw(st.none() | st.sampled_from((*SCOPES, "none"))),
        kind=draw(st.none() | st.sampled_from((*KINDS, 0x3000)).map(EventKind.from_value)),
        category=draw(st.none() | st.integers(0, 3)),
        sequences=draw(st.none() | st.integers(first, 2**40).map(lambda last: (first, last))),
        correlation_id=draw(st.none() | IDS.map(lambda each: UUID(bytes=each))),
        include_system=draw(st.booleans()),
    )


@dataclass
class Model:
    """A part that looks at every record for every answer."""

    records: Sequence[Record]

    def visible(self, rows: Iterable[int]) -> list[int]:
        return [row for row in rows if not self.records[row].bits & HIDDEN]

    def matches(self, region: Region, row: int) -> bool:
        record = self.records[row]
        correlation_id = record.event_id if record.correlation_id is None else record.correlation_id
        entity = region.entity
        return all(
            (
                region.include_system or not record.bits & SYSTEM,
                entity is None or record.entity == entity or record.entity.startswith(f"{entity}:"),
                region.scope is None or record.scope == region.scope,
                region.kind is None or record.kind == region.kind.value,
                region.category is None or record.kind >> 12 == region.category,
                region.sequences is None or region.sequences[0] <= record.sequence <= region.sequences[1],
                region.correlation_id is None or correlation_id == region.correlation_id.bytes,
            )
        )

    def match(self, region: Region, start: int, stop: int) -> list[int]:
        return self.visible(row for row in range(start, stop) if self.matches(region, row))

    def rows_of(self, entity: str, start: int, stop: int) -> list[int]:
        return [row for row in range(start, stop) if self.records[row].entity == entity]

    def row_of_sequence(self, after: int, bound: int) -> int:
        return next((row for row in range(bound) if self.records[row].global_sequence > after), bound)

    def find_id(self, wanted: bytes, bound: int) -> int | None:
        return max((row for row in range(bound) if self.records[row].event_id == wanted), default=None)

    def head(self, entity: str, bound: int) -> Head | None:
        rows = [row for row in self.rows_of(entity, 0, bound) if not self.records[row].bits & BRANCH]
        if not rows:
            return None
        record = self.records[rows[-1]]
        return Head(record.sequence, record.wall_ms, record.event_hash, record.global_sequence)

    def newest_until(self, wall_ms: int, bound: int) -> int | None:
        return max(self.visible(row for row in range(bound) if self.records[row].wall_ms <= wall_ms), default=None)

    def effects(self, cause: bytes, bound: int) -> list[int]:
        return self.visible(row for row in range(bound) if self.records[row].causation_id == cause)

    def record(self, row: int) -> Record:
        record = self.records[row]
        linked = record.correlation_id is not None or record.causation_id is not None
        return replace(record, bits=record.bits | LINKED if linked else record.bits)


def make_tail(records: Sequence[Record]) -> Tail:
    """Return a tail that holds *records*."""
    tail = Tail(0)
    for row, record in enumerate(records):
        tail.put(row, record)
    return tail


def make_run(
    files: Files,
    source: Tail | Sequence[Run],
    generation: int = 0,
    *,
    bound: int | None = None,
    salt: int | None = None,
) -> Run:
    """Build a run to its end and open it."""
    job = build(
        files, source, RunMeta(STORE_ID, generation, ((1, b"identity", 0, 99, 7),), b"tree"), bound=bound, salt=salt
    )
    while True:
        try:
            next(job)
        except StopIteration as stopped:
            return Run.open(files, stopped.value, STORE_ID)


def same_record(part: Part, row: int, expected: Record) -> bool:
    """Whether a part tells the facts of *expected*, its hash only if it is a tail."""
    found = part.record(row)
    return found == (expected if isinstance(part, Tail) else replace(expected, event_hash=b""))


def check_part(part: Part, model: Model, bound: int) -> None:
    """Compare every answer that does not depend on a region."""
    assert part.first_sequence == model.records[0].global_sequence
    assert part.last_sequence == model.records[-1].global_sequence
    least = min(record.wall_ms for record in model.records)
    assert part.min_wall == (0 if isinstance(part, Tail) else least)
    for row in range(bound):
        assert same_record(part, row, model.record(row))
    for after in range(-1, 32):
        assert part.row_of_sequence(after, bound) == model.row_of_sequence(after, bound)
        assert part.newest_until(after, bound) == model.newest_until(after, bound)
    for wanted in {event_id(number) for number in range(256)} | {record.event_id for record in model.records}:
        assert part.find_id(wanted, bound) == model.find_id(wanted, bound)
        assert part.find_key(wanted, bound) == model.find_id(wanted, bound)
        assert list(part.effects(wanted, bound)) == model.effects(wanted, bound)
    for entity in PREFIXES:
        check_entity(part, model, bound, entity)


def check_entity(part: Part, model: Model, bound: int, entity: str) -> None:
    """Compare every answer about one entity."""
    rows = model.rows_of(entity, 0, bound)
    assert part.head(entity, bound) == model.head(entity, bound)
    assert part.newest(entity, bound) == max(model.visible(rows), default=None)
    for start, stop in ((0, bound), (bound // 3, bound), (bound // 4, bound // 2)):
        expected = model.visible(model.rows_of(entity, start, stop))
        assert list(part.stream(entity, start, stop)) == expected
        assert list(part.stream(entity, start, stop, reverse=True)) == expected[::-1]
    for sequence in range(8):
        expected = [row for row in rows if model.records[row].sequence == sequence]
        assert part.by_sequence(entity, sequence, bound) == expected


def check_region(part: Part, model: Model, region: Region, start: int, stop: int) -> None:
    """Compare the matches of a region."""
    expected = model.match(region, start, stop)
    assert list(part.match(region, start, stop)) == expected
    assert list(part.match(region, start, stop, reverse=True)) == expected[::-1]
