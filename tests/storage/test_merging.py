"""Sorted things that are merged in pieces come out as if they had been sorted at once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from batpak.region import Region
from batpak.storage.body_writer import BodyWriter
from batpak.storage.row import KEY, Record
from batpak.storage.run_format import Section
from batpak.storage.run_sources import merged
from batpak.testing.memory import MemoryFiles
from tests.storage.index_model import event_id, make_run, make_tail


def in_pieces(items: list[int], step: int) -> Iterator[list[int]]:
    """Yield *items*, *step* at a time."""
    for first in range(0, len(items), step):
        yield items[first : first + step]


@given(st.lists(st.lists(st.integers(0, 40), max_size=30).map(sorted), max_size=5), st.integers(1, 7))
def test_lists_merged_in_pieces_are_one_sorted_list(lists: list[list[int]], step: int) -> None:
    out = [item for block in merged([in_pieces(each, step) for each in lists]) for item in block]  # type: ignore[type-var] # any order will do
    assert out == sorted(chain.from_iterable(lists))


def keyed_record(row: int, entity: int) -> Record:
    """Return a record with a key in no order."""
    key = (row * 7919 % 65_521).to_bytes(4, "big") + bytes(12)
    names = f"e:{entity % 7}:{entity}", f"s{row % 3}"
    return Record(key, row, row, 1, row * 100, 100, *names, row, 0x1001, 1, 0, KEY, None, None, event_id(row % 256) * 2)


def test_many_names_and_keys_come_together_from_many_runs() -> None:
    files = MemoryFiles()
    records = [keyed_record(row, row * 31 % 1_500) for row in range(6_000)]
    runs = [make_run(files, make_tail(records[first : first + 1_000])) for first in range(0, 6_000, 1_000)]
    run = make_run(files, runs, 1)
    whole = make_run(MemoryFiles(), make_tail(records), 1)
    assert list(map(run.record, range(6_000))) == list(map(whole.record, range(6_000)))
    for section in Section:
        ours, theirs = (each.layout.sections[section] for each in (run, whole))
        if section is not Section.ENTITY_FILTER:  # before a merge only a limit is known of how many names there are
            assert run.body.read(ours[0], sum(ours)) == whole.body.read(theirs[0], sum(theirs)), section
    for row in (0, 999, 1_000, 3_333, 5_999):
        record = records[row]
        assert run.find_key(record.event_id, 6_000) == row
        assert run.head(record.entity, 6_000) == whole.head(record.entity, 6_000)
        assert list(run.match(Region(entity="e:3"), 0, 6_000)) == list(whole.match(Region(entity="e:3"), 0, 6_000))
    assert run.find_key(b"\xff" * 16, 6_000) is None


def test_a_long_body_is_synced_while_it_is_written() -> None:
    files = MemoryFiles()
    file = files.create("x")
    files.sync_folder()
    writer = BodyWriter(file, 1)
    written: list[int] = []
    writer.begin(Section.ROWS)
    for _ in range(100):
        writer.write(bytes(40_000))
        durable = files.crashed().size("x")
        if durable not in written:
            written.append(durable)
    writer.end()
    assert [each >> 20 for each in written] == [0, 1, 2, 3]
