"""The benchmarks run, and both contenders keep what they are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import delivery
from benchmarks.__main__ import main
from benchmarks.events import make_items
from benchmarks.sqlite_events import SqliteEvents
from benchmarks.table import Result
from benchmarks.workloads import Sizes, workloads


def test_the_command_prints_one_row_for_each_workload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "--directory", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.startswith("| workload | unit | batpak | SQLite |")
    for workload in workloads(Sizes(stored=5_000)):
        assert f"| {workload.name} | {workload.unit} | **" in printed
    assert list(tmp_path.iterdir()) == []


def test_the_measurement_of_delivery_prints_a_row_for_everything(capsys: pytest.CaptureFixture[str]) -> None:
    delivery.main(["--rounds", "1", "--count", "20", "--subscribers", "20"])
    printed = capsys.readouterr().out
    for name in (*delivery.LATENCIES, "20 subscribers", "20 tasks that poll a SQLite table", *delivery.BESIDE):
        assert f"| {name} | **" in printed


def test_the_ratio_is_above_one_where_batpak_is_faster() -> None:
    rate, *_, milliseconds = workloads(Sizes())
    assert Result(rate, batpak=(300.0, 200.0, 100.0), sqlite=(100.0, 50.0, 150.0)).ratio == 2.0
    assert Result(milliseconds, batpak=(5.0,), sqlite=(10.0,)).ratio == 2.0


def test_the_table_in_sqlite_keeps_chain_and_order(tmp_path: Path) -> None:
    items = make_items(0, 2_500)
    table = SqliteEvents.open(tmp_path)
    try:
        ids = [table.append(item) for item in items[:100]] + table.append_batch(items[100:])
        assert list(table.read()) == [item.payload for item in items]
        assert table.get(ids[1_234]) == items[1_234].payload
        rows = table._db.execute("SELECT entity, sequence, prev_hash, event_hash FROM events ORDER BY global_sequence")
        heads: dict[str, tuple[int, bytes]] = {}
        for entity, sequence, prev_hash, event_hash in rows:
            assert (sequence - 1, prev_hash) == heads.get(entity, (-1, bytes(32)))
            heads[entity] = (sequence, event_hash)
    finally:
        table.close()
