"""A tail, a run made of it and runs merged in any grouping give the answers of a list that is looked through."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from threading import RLock
from types import FrameType
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batpak.errors import ReentrantCallError
from batpak.kind import EventKind
from batpak.region import Region
from batpak.storage.row import KEY, SYSTEM, Record
from batpak.storage.run import Run
from batpak.storage.run_builder import build, plan_merge, size_class
from batpak.storage.run_format import RunMeta, parse_run_name, run_name
from batpak.storage.tail import Tail
from batpak.testing.memory import MemoryFiles
from tests.storage.index_model import (
    STORE_ID,
    Model,
    check_entity,
    check_part,
    check_region,
    make_run,
    make_tail,
    record_lists,
    regions,
)


def plain_record(row: int, entity: str = "order:1", bits: int = 0) -> Record:
    """Return one of many records that differ in little."""
    made = (0x0190_0000_0000 + row).to_bytes(6, "big") + bytes(10)
    return Record(made, row, row, 1, row * 64, 64, entity, "s", row, 0x1000, 1, 0, bits, None, None, bytes(32))


def many_records(count: int) -> list[Record]:
    """Return records over enough rows for fences, blocks and depths to matter."""
    records: list[Record] = []
    for row in range(count):
        record = plain_record(
            row, f"order:{row % 7}:{row % 50}" if row % 3 else f"user:{row % 11}", KEY if row % 5 == 0 else 0
        )
        if row % 5 == 0:
            record.event_id = (row * 0x9E3779B97F4A7C15 % 2**128).to_bytes(16, "big")
        record.scope = f"s{row % 4}"
        record.kind = 0x1000 + row % 9 if row % 2 else 0x2000
        record.sequence = row // 100
        record.wall_ms = row ^ 0x155
        record.correlation_id = records[row // 64 * 64].event_id if row % 64 else None
        record.causation_id = records[row - 1].event_id if row % 3 == 1 else None
        records.append(record)
    return records


def run_slices(files: MemoryFiles, runs: Sequence[Run], cuts: Sequence[int], generation: int) -> list[Run]:
    """Merge what lies between *cuts*."""
    edges = [0, *cuts, len(runs)]
    groups = [runs[first:last] for first, last in pairwise(edges) if first < last]
    return [make_run(files, group, generation + at) for at, group in enumerate(groups)]


@given(record_lists(), regions(), st.data())
def test_a_tail_answers_as_a_list_does(records: list[Record], region: Region, data: st.DataObject) -> None:
    tail, model = make_tail(records), Model(records)
    check_part(tail, model, len(records))
    start = data.draw(st.integers(0, len(records)))
    stop = data.draw(st.integers(start, len(records)))
    check_region(tail, model, region, start, stop)


@given(record_lists(), regions(), st.data())
def test_a_tail_shows_nothing_behind_the_bound(records: list[Record], region: Region, data: st.DataObject) -> None:
    bound = data.draw(st.integers(0, len(records)))
    tail, model = make_tail(records), Model(records)
    for entity in {record.entity for record in records}:
        assert tail.head(entity, bound) == model.head(entity, bound)
        assert list(tail.stream(entity, 0, bound)) == model.visible(model.rows_of(entity, 0, bound))
        for sequence in range(7):
            rows = [row for row in model.rows_of(entity, 0, bound) if records[row].sequence == sequence]
            assert tail.by_sequence(entity, sequence, bound) == rows
    for record in records:
        assert tail.find_id(record.event_id, bound) == model.find_id(record.event_id, bound)
        assert list(tail.effects(record.event_id, bound)) == model.effects(record.event_id, bound)
        assert tail.newest_until(record.wall_ms, bound) == model.newest_until(record.wall_ms, bound)
    check_region(tail, model, region, 0, bound)


@given(record_lists(), regions(), st.data())
def test_a_run_answers_as_a_list_does(records: list[Record], region: Region, data: st.DataObject) -> None:
    run, model = make_run(MemoryFiles(), make_tail(records)), Model(records)
    assert run.count == len(records)
    check_part(run, model, len(records))
    start = data.draw(st.integers(0, len(records)))
    stop = data.draw(st.integers(start, len(records)))
    check_region(run, model, region, start, stop)


@given(record_lists(), st.data())
def test_a_run_takes_only_the_rows_below_the_bound(records: list[Record], data: st.DataObject) -> None:
    bound = data.draw(st.integers(1, len(records)))
    run = make_run(MemoryFiles(), make_tail(records), bound=bound)
    assert run.count == bound
    check_part(run, Model(records[:bound]), bound)


@given(record_lists(max_size=30, min_size=2), st.lists(regions(), min_size=3, max_size=3), st.data())
def test_merged_runs_answer_as_a_list_does(records: list[Record], asked: list[Region], data: st.DataObject) -> None:
    files, model = MemoryFiles(), Model(records)
    edges = sorted(data.draw(st.sets(st.integers(1, len(records) - 1), max_size=6)))
    bounds = [0, *edges, len(records)]
    runs = []
    for generation, (first, last) in enumerate(pairwise(bounds)):
        runs.append(make_run(files, make_tail(records[first:last]), generation))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(runs)))))
    merged = make_run(files, run_slices(files, runs, cuts, 100), 200)
    check_part(merged, model, len(records))
    for region in asked:
        check_region(merged, model, region, 0, len(records))
        check_region(merged, model, region, len(records) // 3, len(records) * 2 // 3)


@given(record_lists(max_size=20, min_size=2), st.data())
def test_merging_gives_the_bytes_that_building_at_once_gives(records: list[Record], data: st.DataObject) -> None:
    files = MemoryFiles()
    cut = data.draw(st.integers(1, len(records) - 1))
    parts = [make_run(files, make_tail(records[:cut]), 1), make_run(files, make_tail(records[cut:]), 2)]
    whole = make_run(files, make_tail(records), 3, salt=1)
    merged = make_run(files, parts, 4, salt=1)
    for section, (start, length) in whole.layout.sections.items():
        if section != "entity.filter":  # sized before it is known how many entities the parts share
            first, size = merged.layout.sections[section]
            assert merged.body.read(first, first + size) == whole.body.read(start, start + length), section


@given(record_lists(max_size=25, min_size=2), st.data())
def test_a_tail_that_was_cut_forgets_what_it_held(records: list[Record], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(records)))
    others = data.draw(record_lists(max_size=10))
    tail = make_tail(records[:count])
    for row, record in enumerate(others, count):
        tail.put(row, record)
    tail.cut(count)
    tail.cut(count)
    for row in range(count, len(records)):
        tail.put(row, records[row])
    check_part(tail, Model(records), len(records))


class Interruption(BaseException):
    """What a test raises in the middle of a put."""


def interrupt_at(step: int, call: Callable[[], None]) -> bool:
    """Run *call*, raise before the *step*-th instruction of the tail's code, and tell whether there were so many."""
    left = step

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal left
        if "tail" not in Path(frame.f_code.co_filename).name:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                raise Interruption
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        call()
    except Interruption:
        return True
    finally:
        sys.settrace(before)
    return False


def test_a_put_cut_short_at_any_instruction_leaves_nothing() -> None:
    records = [plain_record(row, entity) for row, entity in enumerate(("a", "a:b", "a", "c:d:e", "a:b"))]
    records[1].correlation_id = records[3].causation_id = records[0].event_id
    wrong = plain_record(5, "a:b:c")
    wrong.event_id, wrong.sequence, wrong.wall_ms, wrong.kind = records[0].event_id, 9, 0, 0x2000
    wrong.correlation_id = wrong.causation_id = records[0].event_id
    right = plain_record(5, "a:b")
    right.correlation_id = records[2].event_id
    model = Model([*records, right])
    regions_asked = [Region(correlation_id=UUID(bytes=each.event_id)) for each in records]
    interrupted, step = True, 0
    while interrupted:
        tail = make_tail(records)
        interrupted = interrupt_at(step, lambda tail=tail: tail.put(5, wrong))  # type: ignore[misc]
        tail.put(5, right)
        for region in (Region(), Region(entity="a"), Region(category=2), *regions_asked):
            check_region(tail, model, region, 0, 6)
        for entity in ("a", "a:b", "a:b:c"):
            check_entity(tail, model, 6, entity)
        assert tail.find_id(records[0].event_id, 6) == 0
        assert list(tail.effects(records[0].event_id, 6)) == [3]
        assert tail.min_wall == 0
        assert [tail.newest_until(wall, 6) for wall in range(6)] == list(range(6))
        step += 1
    assert step > 200


def linked_records() -> list[Record]:
    """Six rows of several entities, kinds and causes; the last has the id of the first."""
    records = [plain_record(row, entity) for row, entity in enumerate(("a", "a:b", "a", "c:d:e", "a:b", "a:b:c"))]
    records[1].correlation_id = records[3].causation_id = records[0].event_id
    records[5].event_id, records[5].kind = records[0].event_id, 0x2000
    return records


def ask_everything(tail: Tail, records: list[Record]) -> None:
    """Compare a tail's answers with those of a list."""
    model = Model(records)
    correlated = [Region(correlation_id=UUID(bytes=each.event_id)) for each in records]
    for region in (Region(), Region(entity="a"), Region(category=2), *correlated):
        check_region(tail, model, region, 0, len(records))
    for entity in ("a", "a:b", "a:b:c"):
        check_entity(tail, model, len(records), entity)
    assert [tail.find_id(each.event_id, 6) for each in records] == [model.find_id(each.event_id, 6) for each in records]
    assert list(tail.effects(records[0].event_id, 6)) == [3]
    assert [tail.newest_until(wall, 6) for wall in range(6)] == list(range(6))


def test_a_look_through_cut_short_at_any_instruction_is_begun_again() -> None:
    records = linked_records()
    interrupted, step = True, 0
    while interrupted:
        tail = make_tail(records)
        assert list(tail.match(Region(entity="a"), 0, 2)) == [0, 1]
        assert tail.find_id(records[1].event_id, 2) == 1
        interrupted = interrupt_at(step, lambda tail=tail: ask_everything(tail, records))  # type: ignore[misc]
        ask_everything(tail, records)
        step += 29
    assert step > 2_000


def test_a_question_from_within_a_look_through_is_refused_or_answered() -> None:
    """As a signal handler may ask it, at any instruction."""
    records = linked_records()
    refused = answered = 0
    for step in range(0, 700, 3):
        tail, left = make_tail(records), step
        tail.guard = RLock()

        def ask(frame: FrameType, event: str, _: object, tail: Tail = tail) -> object:
            nonlocal left, refused, answered
            if "tail" not in Path(frame.f_code.co_filename).name:
                return None
            frame.f_trace_opcodes = True
            left -= event == "opcode"
            if left == 0 and event == "opcode":
                try:
                    assert list(tail.match(Region(entity="a"), 0, 6)) == [0, 1, 2, 4, 5]
                    answered += 1
                except ReentrantCallError:
                    refused += 1
            return ask

        before = sys.gettrace()
        sys.settrace(ask)  # type: ignore[arg-type]
        try:
            found = list(tail.match(Region(entity="a"), 0, 6)), tail.find_id(records[0].event_id, 6)
        finally:
            sys.settrace(before)
        assert found == ([0, 1, 2, 4, 5], 5)
        ask_everything(tail, records)
    assert refused > 50
    assert answered > 5


@pytest.mark.parametrize("source", ["tail", "run", "merged"])
def test_many_rows_are_found_across_fences_and_blocks(source: str) -> None:
    records = many_records(5_000)
    model, files = Model(records), MemoryFiles()
    part: Tail | Run = make_tail(records)
    if source == "run":
        part = make_run(files, make_tail(records))
    if source == "merged":
        edges = [0, 700, 701, 2_000, 3_333, 5_000]
        tails = [make_tail(records[first:last]) for first, last in pairwise(edges)]
        part = make_run(files, [make_run(files, tail, at) for at, tail in enumerate(tails)], 9)
    for row in range(0, len(records), 13):
        record = records[row]
        assert part.find_id(record.event_id, 5_000) == row
        absent = record.event_id[:15] + bytes([record.event_id[15] ^ 0xA5])
        assert part.find_id(absent, 5_000) is None
        assert part.row_of_sequence(row, 5_000) == row + 1
        assert part.newest_until(row, 5_000) == model.newest_until(row, 5_000)
        assert list(part.effects(record.event_id, 5_000)) == model.effects(record.event_id, 5_000)
        assert part.by_sequence(record.entity, row // 100, 5_000) == [
            each for each in model.rows_of(record.entity, 0, 5_000) if records[each].sequence == row // 100
        ]
    for region in (
        Region(),
        Region(entity="order"),
        Region(entity="order:3"),
        Region(entity="order:3:10"),
        Region(entity="user", scope="s1"),
        Region(kind=EventKind(1, 3)),
        Region(category=1, entity="order:1"),
        Region(category=2),
        Region(scope="s2", sequences=(3, 5)),
        Region(correlation_id=UUID(bytes=records[640].event_id)),
        Region(correlation_id=UUID(bytes=records[640].event_id), entity="user"),
    ):
        check_region(part, model, region, 0, 5_000)
        check_region(part, model, region, 1_111, 4_321)


def test_readers_see_whole_rows_while_others_are_put() -> None:
    tail, published, wrong = Tail(), [0], []
    tail.guard = RLock()
    records = [plain_record(row, f"e:{row % 7}") for row in range(6_000)]
    for row, record in enumerate(records):
        record.wall_ms = row ^ 3

    def read() -> None:
        bound = 0
        while bound < len(records):
            bound = published[0]
            rows = list(tail.match(Region(entity="e:3"), max(0, bound - 500), bound))
            if rows != [row for row in range(max(0, bound - 500), bound) if row % 7 == 3]:
                wrong.append(bound)
            if bound > 8 and tail.newest_until(1, bound) != 3:
                wrong.append(bound)
            if bound and tail.find_id(records[bound - 1].event_id, bound) != bound - 1:
                wrong.append(bound)
            if bound < len(records) and tail.find_id(records[bound].event_id, bound) is not None:
                wrong.append(bound)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for row, record in enumerate(records):
        tail.put(row, record)
        published[0] = row + 1
    for reader in readers:
        reader.join()
    assert wrong == []


def test_ids_with_the_same_first_bytes_are_found() -> None:
    records = [plain_record(row) for row in range(1_000)]
    for row, record in enumerate(records):
        record.event_id = bytes(8) + (row * 7919 % 1_000).to_bytes(8, "big")
    run = make_run(MemoryFiles(), make_tail(records))
    assert [run.find_id(record.event_id, 1_000) for record in records] == list(range(1_000))
    assert run.find_id(bytes(8) + (1_000).to_bytes(8, "big"), 1_000) is None


def test_an_id_that_stands_across_two_rows_is_not_found() -> None:
    records = [plain_record(row) for row in range(3)]
    records[1].event_id = b"\x00" * 6 + records[1].event_id[:2] + b"\x55" * 8
    run = make_run(MemoryFiles(), make_tail(records))
    packed = bytes(run.packed(0, 3))
    for at in range(len(packed) - 15):
        wanted = packed[at : at + 16]
        assert run.find_id(wanted, 3) == Model(records).find_id(wanted, 3)


def test_rows_that_only_system_events_share_are_hidden_unless_asked_for() -> None:
    records = [plain_record(row, bits=SYSTEM if row % 2 else 0) for row in range(10)]
    for part in (make_tail(records), make_run(MemoryFiles(), make_tail(records))):
        assert list(part.match(Region(), 0, 10)) == [0, 2, 4, 6, 8]
        assert list(part.match(Region(include_system=True), 0, 10)) == list(range(10))


def test_a_page_costs_what_it_returns() -> None:
    records = [plain_record(row, f"e:{row % 4}") for row in range(20_000)]
    run = make_run(MemoryFiles(), make_tail(records))
    fresh = Run(run.name, run.layout, run.body.view)
    pages = fresh.match(Region(entity="e:1"), 10_000, 20_000)
    assert [next(pages) for _ in range(64)] == list(range(10_001, 10_001 + 256, 4))
    assert sum(fresh.body.checked) < 16


def test_an_unfinished_build_leaves_nothing_behind() -> None:
    source, meta = make_tail(many_records(600)), RunMeta(STORE_ID, 0, ())
    steps = sum(1 for _ in build(MemoryFiles(), source, meta))
    assert steps > 30
    for done in range(1, steps + 1):
        files = MemoryFiles()
        job = build(files, source, meta)
        for _ in range(done):
            next(job)
        assert [name for name in files.list("index") if parse_run_name(f"index/{name}")] == []
        job.close()
        assert files.list("index") == []


def test_a_crash_while_building_leaves_no_run() -> None:
    files, meta = MemoryFiles(), RunMeta(STORE_ID, 0, ())
    for _ in build(files, make_tail(many_records(600)), meta):
        assert [name for name in files.crashed().list("index") if parse_run_name(f"index/{name}")] == []


def test_a_finished_build_is_durable() -> None:
    files = MemoryFiles()
    run = make_run(files, make_tail([plain_record(row) for row in range(600)]))
    assert Run.open(files.crashed(), run.name, STORE_ID).count == 600


def test_a_leftover_of_an_earlier_build_is_replaced() -> None:
    files = MemoryFiles()
    files.make_folder("index")
    with_rest = files.create(f"index/.tmp-0-{run_name(0, 9, 0)[6:]}")
    with_rest.close()
    make_run(files, make_tail([plain_record(row) for row in range(10)]))
    assert files.list("index") == [run_name(0, 9, 0)[6:]]


def test_run_names_are_taken_apart_and_others_are_not() -> None:
    assert parse_run_name(run_name(3, 70, 255)) == (3, 70, 255)
    assert parse_run_name("index/x.run") is None
    assert parse_run_name(run_name(3, 70, 255) + "x") is None


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([], None),
        ([100] * 7, None),
        ([100] * 8, slice(0, 8)),
        ([40_000, *[100] * 8], slice(1, 9)),
        ([40_000, 100, 100, 40_000], slice(1, 3)),
        ([40_000, 100, 40_000], None),
        ([40_000, 100] * 7 + [40_000], slice(0, 15)),
        ([20_000] * 8, slice(0, 8)),
        ([40_000, 5_000, 600], None),
    ],
)
def test_runs_of_a_size_class_are_merged(counts: list[int], expected: slice | None) -> None:
    assert plan_merge([FakeRun(count) for count in counts]) == expected  # type: ignore[misc]


class FakeRun:
    """A run of which only the size matters."""

    def __init__(self, count: int) -> None:
        self.count = count


def test_size_classes_grow_by_eight() -> None:
    assert [size_class(count) for count in (1, 511, 512, 4_095, 4_096, 32_767, 32_768)] == [0, 0, 0, 0, 1, 1, 2]
