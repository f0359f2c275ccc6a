"""What a run says of its end is the same whether rows are taken in packed or one by one."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from batpak.storage.ledger import Spans
from batpak.storage.row import FOREIGN, Record
from batpak.storage.run_state import initial_state
from batpak.storage.tail import Tail
from tests.storage.index_model import record_lists


def as_ours(records: list[Record]) -> list[Record]:
    """Return records as this store writes them: one behind another."""
    return [
        replace(record, global_sequence=at, segment=1 + at // 25, offset=64 + at * 100, bits=record.bits & ~FOREIGN)
        for at, record in enumerate(records)
    ]


@given(record_lists(max_size=60), st.booleans(), st.integers(1, 60))
def test_packed_rows_lead_to_the_state_that_their_records_lead_to(records: list[Record], ours: bool, step: int) -> None:
    records = as_ours(records) if ours else records
    tail = Tail()
    for row, record in enumerate(records):
        tail.put(row, record)
    expected, found, spans = initial_state(b""), initial_state(b""), Spans()
    for start in range(0, len(records), step):
        stop = min(len(records), start + step)
        for record in records[start:stop]:
            expected.add(record)
        found.add_rows(tail.packed(start, stop), tail.hashes(start, stop))
        spans.add_rows(tail.packed(start, stop))
        assert found.pack() == expected.pack()
    for segment, (first, last, length) in spans.found.items():
        lengths = {each.offset: each.length for each in records if each.segment == segment}
        assert (min(lengths), max(lengths)) == (first, last)
        assert length in {each.length for each in records if (each.segment, each.offset) == (segment, last)}
    assert spans.found.keys() == {record.segment for record in records}
