"""A segment of the original, cut at any length: what is shown is what the original's own table says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batpak import Coordinate, EventKind
from batpak.storage.opening import open_parts
from batpak.storage.survey import survey
from tests.directories import directory, looked_at, opened, shown
from tests.golden.walker import GOLDEN

TORN = GOLDEN / "rust" / "0.10.0" / "torn"
NEW, PLACED = Coordinate("ours:1", "shop"), EventKind(0x1, 0x0AB)
CUT_DIFFERENCES = {
    # A file that ends inside its header holds no event (H2); the original answers with an I/O error.
    range(57): 0,
}


def events_at(length: int, table: list[dict[str, Any]]) -> int:
    """Return how many events the table says are seen at a length."""
    for lengths, count in CUT_DIFFERENCES.items():
        if length in lengths:
            return count
    row = max((row for row in table if row["from_length"] <= length), key=lambda row: int(row["from_length"]))
    count = row["result"]["events"]
    assert isinstance(count, int)
    return count


WHOLE_FILE = (TORN / "whole" / "store" / "000001.fbat").read_bytes()
TABLE: list[dict[str, Any]] = json.loads((TORN / "whole" / "expected.json").read_text())["cut_table"]
EDGES = {row["from_length"] + near for row in TABLE for near in range(-9, 10)}


@pytest.mark.slow
def test_at_every_length_a_segment_shows_what_the_table_says() -> None:
    for length in range(len(WHOLE_FILE) + 1):
        files = directory({"000001.fbat": WHOLE_FILE[:length]})
        parts = open_parts(files, survey(files, lambda: bytes(16)), writable=False)
        assert parts.count == events_at(length, TABLE), length


def test_a_segment_cut_anywhere_is_read_and_written_on_to() -> None:
    with looked_at({"000001.fbat": WHOLE_FILE}) as store:
        whole = shown(store)
    for length in sorted(each for each in {*range(0, len(WHOLE_FILE), 97), *EDGES} if 0 <= each <= len(WHOLE_FILE)):
        held = {"000001.fbat": WHOLE_FILE[:length]}
        wanted = whole[: events_at(length, TABLE)]
        with looked_at(held) as store:
            assert shown(store) == wanted, length
        files = directory(held)
        with opened(files) as store:
            assert shown(store) == wanted, length
            store.append(NEW, PLACED, {})
        with opened(files) as store:
            assert shown(store)[:-1] == wanted, length
            assert store.verify_chain().intact, length
