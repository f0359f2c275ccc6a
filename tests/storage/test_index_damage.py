"""Whatever happens to a run file, an answer is the right one or an error, and a build that fails leaves no run."""

from __future__ import annotations

import errno
import gc
import random
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias
from uuid import UUID

import pytest

from batpak.kind import EventKind
from batpak.region import Region
from batpak.storage.files import Files, RealFiles
from batpak.storage.row import BRANCH, HIDDEN, KEY, SYSTEM, Record
from batpak.storage.run import BadBlockError, Run, RunError
from batpak.storage.run_builder import build
from batpak.storage.run_format import HEADER_BYTES, RunMeta
from batpak.testing.faulty import FaultyFiles
from batpak.testing.memory import MemoryFiles
from tests.storage.index_model import STORE_ID, Model, make_run, make_tail

Question: TypeAlias = tuple[str, tuple[object, ...], object]
"""A method of a run, its arguments, and the answer."""


def varied_records(count: int) -> list[Record]:
    """Return records that give every section of a run something to say."""
    records: list[Record] = []
    for row in range(count):
        bits = (0, KEY, 0, BRANCH, HIDDEN, 0, SYSTEM, 0)[row % 8]
        made = (0x0190_0000_0000 + row).to_bytes(6, "big") + bytes([0x70, row % 251]) + bytes([row % 256]) * 8
        records.append(
            Record(
                bytes([row * 37 % 256]) * 16 if row % 4 == 1 else made,
                row // 2,
                1_000 + (row ^ 5),
                1 + row // 100,
                row * 64,
                64,
                ("a:b", "a:c", "a", "z", "a:b:c")[row % 5] + (f":{row % 40}" if count > 20 else ""),
                ("s", "t", "ü")[row % 3],
                row // 5,
                (0x1000, 0x1001, 0x2000, 1)[row % 4],
                1,
                0,
                bits,
                records[0].event_id if row % 2 else None,
                records[-1].event_id if row % 3 == 1 else None,
                bytes([row % 256]) * 32,
            )
        )
    return records


def questions(model: Model) -> list[Question]:
    """Return what may be asked of a run of the model's records, with the answers."""
    records, count = model.records, len(model.records)
    asked: list[Question] = []
    for row in range(0, count, max(1, count // 24)):
        expected = model.record(row)
        wanted, entity, sequence = expected.event_id, expected.entity, expected.sequence
        expected.event_hash = b""
        rows = [each for each in model.rows_of(entity, 0, count) if records[each].sequence == sequence]
        asked += [
            ("record", (row,), expected),
            ("find_id", (wanted, count), model.find_id(wanted, count)),
            ("effects", (wanted, count), model.effects(wanted, count)),
            ("head", (entity, count), model.head(entity, count)),
            ("by_sequence", (entity, sequence, count), rows),
            ("row_of_sequence", (row, count), model.row_of_sequence(row, count)),
            ("newest_until", (1_000 + row, count), model.newest_until(1_000 + row, count)),
        ]
    for region in (
        Region(),
        Region(entity="a"),
        Region(entity="a:b"),
        Region(scope="t"),
        Region(kind=EventKind(1, 1)),
        Region(category=1, scope="ü"),
        Region(correlation_id=UUID(bytes=records[0].event_id), include_system=True),
    ):
        asked.append(("match", (region, 0, count), model.match(region, 0, count)))
    return [*asked, ("find_key", (bytes([0xEE]) * 16, count), None), ("head", ("nobody", count), None)]


def answer(run: Run, method: str, arguments: tuple[object, ...]) -> object:
    found: object = getattr(run, method)(*arguments)
    return list(found) if isinstance(found, Iterator) else found


def ask_all(files: Files, name: str, asked: Sequence[Question]) -> int:
    """Ask each question of a run that is opened anew, check each answer, and return how many were refused."""
    try:
        run = Run.open(files, name, STORE_ID)
    except RunError:
        return len(asked)
    refused = 0
    for method, arguments, expected in asked:
        try:
            found = answer(run, method, arguments)
        except BadBlockError:
            refused += 1
        else:
            assert found == expected
    return refused


def flips(bits: Iterator[int] | range, data: bytes) -> Iterator[tuple[int, bytes]]:
    for bit in bits:
        yield bit >> 3, bytes([data[bit >> 3] ^ 1 << (bit & 7)])


def test_every_flipped_bit_of_a_small_run_is_noticed() -> None:
    files, model = MemoryFiles(), Model(varied_records(9))
    run = make_run(files, make_tail(model.records))
    asked = questions(model)
    data = files.read_bytes(run.name, 1 << 20)
    assert ask_all(files, run.name, asked) == 0
    file = files.open_write(run.name)
    for at, flipped in flips(range(len(data) * 8), data):
        file.pwrite(flipped, at)
        assert ask_all(files, run.name, asked[:1]) == 1, f"byte {at}"
        file.pwrite(data[at : at + 1], at)
    file.close()
    assert ask_all(files, run.name, asked) == 0


def test_a_flipped_bit_of_a_large_run_never_gives_a_wrong_answer() -> None:
    files, model = MemoryFiles(), Model(varied_records(3_000))
    run = make_run(files, make_tail(model.records))
    asked = questions(model)
    data = files.read_bytes(run.name, 1 << 24)
    assert run.layout.body_bytes > 10 * 16_384
    file, draw, refused = files.open_write(run.name), random.Random(7), []
    for at, flipped in flips(iter([draw.randrange(len(data) * 8) for _ in range(150)]), data):
        file.pwrite(flipped, at)
        refused.append(ask_all(files, run.name, asked))
        file.pwrite(data[at : at + 1], at)
    file.close()
    assert any(refused)
    assert any(count < len(asked) for count in refused)  # what needs no bad block is still answered


def test_every_truncation_is_noticed() -> None:
    files, model = MemoryFiles(), Model(varied_records(9))
    run = make_run(files, make_tail(model.records))
    for size in range(files.size(run.name) - 1, -1, -1):
        file = files.open_write(run.name)
        file.truncate(size)
        file.close()
        with pytest.raises(RunError):
            Run.open(files, run.name, STORE_ID)


def test_bytes_behind_the_end_are_noticed() -> None:
    files = MemoryFiles()
    run = make_run(files, make_tail(varied_records(9)))
    files.write_atomic(run.name, files.read_bytes(run.name, 1 << 20) + b"\0")
    with pytest.raises(RunError, match="bytes, expected"):
        Run.open(files, run.name, STORE_ID)


def test_blocks_that_changed_places_are_noticed() -> None:
    files, model = MemoryFiles(), Model(varied_records(3_000))
    run = make_run(files, make_tail(model.records))
    data = bytearray(files.read_bytes(run.name, 1 << 24))
    first, second = (
        slice(HEADER_BYTES + 16_384 * 3, HEADER_BYTES + 16_384 * 4),
        slice(HEADER_BYTES + 16_384 * 4, HEADER_BYTES + 16_384 * 5),
    )
    data[first], data[second] = data[second], data[first]
    files.write_atomic(run.name, bytes(data))
    assert ask_all(files, run.name, questions(model)) > 0


def test_a_block_that_goes_bad_while_the_run_is_open_is_noticed_at_first_use(tmp_path: Path) -> None:
    files = RealFiles.open(tmp_path, create=True)
    model = Model(varied_records(3_000))
    name = make_run(files, make_tail(model.records)).name
    run = Run.open(files, name, STORE_ID)
    rows = run.layout.sections["rows"][0]
    file = files.open_write(name)
    file.pwrite(b"\xff" * 64, HEADER_BYTES + rows + 2_900 * 64)
    file.close()
    assert run.record(0).entity == model.records[0].entity
    with pytest.raises(BadBlockError) as bad:
        run.record(2_900)
    assert (bad.value.run, bad.value.block) == (run, rows + 2_900 * 64 >> 14)
    files.close()


def test_a_run_goes_away_with_its_last_reader(tmp_path: Path) -> None:
    files = RealFiles.open(tmp_path, create=True)
    run = make_run(files, make_tail(varied_records(100)))
    gone, rows = weakref.ref(run), run.match(Region(entity="a"), 0, 100)
    files.remove(run.name)
    assert next(rows) == 0
    gc.disable()
    try:
        run.close()
        del run, rows
        assert gone() is None
    finally:
        gc.enable()
    files.close()


def test_a_merge_of_a_damaged_run_names_it_and_leaves_nothing() -> None:
    files = MemoryFiles()
    names = [make_run(files, make_tail(varied_records(600)), generation).name for generation in range(2)]
    file = files.open_write(names[1])
    file.pwrite(b"\xff\xff", HEADER_BYTES + 30_000)
    file.close()
    runs = [Run.open(files, name, STORE_ID) for name in names]
    with pytest.raises(BadBlockError) as bad:
        make_run(files, runs, 2)
    assert bad.value.run is runs[1]
    assert files.list("index") == sorted(name.removeprefix("index/") for name in names)


@pytest.mark.parametrize(
    "operation", ["create", "pwrite", "sync", "replace", "sync_folder", "make_folder", "close", "remove"]
)
@pytest.mark.parametrize("after", [False, True])
def test_a_failed_system_call_leaves_no_half_run(operation: str, after: bool) -> None:
    failures = 0
    while True:
        files = FaultyFiles(MemoryFiles())
        files.fail(operation, errno.ENOSPC, call=failures + 1, after=after)
        if not fails_for_want_of_space(files):
            break
        failures += 1
        shown = [f"index/{name}" for name in files.list("index") if not name.startswith(".tmp-")]
        # A rename that says it failed may have been done; the run is whole then.
        assert len(shown) <= (operation == "replace" and after)
        assert all(Run.open(files, name, STORE_ID).count == 1_000 for name in shown)
        make_run_of(files)
        assert len(files.list("index")) == 1
    assert failures


def fails_for_want_of_space(files: Files) -> bool:
    try:
        make_run_of(files)
    except OSError as error:
        return error.errno == errno.ENOSPC
    return False


def make_run_of(files: Files) -> None:
    for _ in build(files, make_tail(varied_records(1_000)), RunMeta(STORE_ID, 0, ())):
        pass


def test_short_writes_are_gone_on_with() -> None:
    files, model = FaultyFiles(MemoryFiles()), Model(varied_records(1_000))
    files.shorten("pwrite", 1_000, repeat=True)
    run = make_run(files, make_tail(model.records))
    assert ask_all(files, run.name, questions(model)) == 0
