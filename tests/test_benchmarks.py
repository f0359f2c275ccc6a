"""The benchmarks run, contenders keep what they are given, and the tables say what was reached."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

import msgpack
import pytest
from blake3 import blake3

from benchmarks import appends, delivery, rivals
from benchmarks.__main__ import SECTIONS, is_wanted, main, run
from benchmarks.case import Bound, Case, Line, Outcome, measure, meets
from benchmarks.events import entity_name, make_items
from benchmarks.plot import draw
from benchmarks.report import Kept
from benchmarks.rivals import ROSTER, Rival, is_installed, load
from benchmarks.rivals.actor import FairActor
from benchmarks.rivals.fair import FairSqlite
from benchmarks.rivals.regions import KIND_PART, PARTS, SCOPE_PART
from benchmarks.sizes import Sizes
from benchmarks.table import advantage, case_table, counts, losses, summary
from benchmarks.timing import gaps, percentile, told

NOWHERE = Path("nowhere")
FIGURES = "benchmarks-quick.json"
STORES = [name for name in ROSTER if "actor" not in name]


def outcome(name: str, lines: list[Line], **figures: list[float]) -> Outcome:
    """Return an outcome whose lines all have the same figures; an underscore in a contender's name is a space."""
    by_contender = {key.replace("_", " "): {line.name: of for line in lines} for key, of in figures.items()}
    return Outcome(Case(name, lines, {}), by_contender)


# The command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("title", SECTIONS)
def test_every_case_of_a_section_runs_and_is_printed(
    title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--quick", "--only", title, "--directory", str(tmp_path)])
    printed = capsys.readouterr().out
    module = import_module(f"benchmarks.{SECTIONS[title]}")
    cases: list[Case] = module.cases(Sizes.quick(), NOWHERE)
    assert f"## {title}\n" in printed
    for case in cases:
        assert f"### {case.name}\n" in printed
        assert all(name in printed for name in case.contenders)
        assert all(line.name in printed for line in case.lines if line.bounds)
    assert [path.name for path in tmp_path.iterdir()] == [FIGURES]


@pytest.mark.may_leak("matplotlib keeps the fonts open that it has loaded")
def test_earlier_figures_are_told_again_and_only_what_is_named_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build, docs = tmp_path / "build", tmp_path / "docs"
    main(["--quick", "--only", "batches of 100, written", "--directory", str(build)])
    figures = Kept.load(build / FIGURES).by_case["batches of 100, written"]
    main(["--quick", "--only", "bytes per event", "--from", str(build / FIGURES), "--directory", str(build)])
    capsys.readouterr()
    main(["--quick", "--from", str(build / FIGURES), "--directory", str(build), "--write", str(docs)])
    told_again = capsys.readouterr()
    page = (docs / "performance.md").read_text(encoding="utf-8")
    assert "batches" not in told_again.err  # where progress goes
    for name in ("batches of 100, written", "bytes per event on disk, at 3,000 events"):
        assert page.count(f"### {name}\n") == told_again.out.count(f"### {name}\n") == 1
    assert Kept.load(build / FIGURES).by_case["batches of 100, written"] == figures
    assert "$" not in page
    assert "A trial" in page
    assert (docs / "performance.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_a_page_of_a_part_without_the_rest_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "batches", "--write"])
    assert "--from" in capsys.readouterr().err


def test_the_measurement_of_delivery_prints_a_row_for_everything(capsys: pytest.CaptureFixture[str]) -> None:
    delivery.main(["--rounds", "1", "--count", "20", "--subscribers", "20"])
    printed = capsys.readouterr().out
    for name in (*delivery.LATENCIES, "20 subscribers", "20 tasks that poll a SQLite table", *delivery.BESIDE):
        assert f"| {name} | **" in printed


def test_a_rival_that_is_not_installed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name in {"lmdb", "salamander"} else find_spec(name)

    monkeypatch.setattr(rivals, "find_spec", find)
    assert not is_installed("LMDB")
    written = appends.cases(Sizes.quick(), tmp_path)[0]
    assert {"LMDB", "LMDB put", "salamander-db"}.isdisjoint(written.contenders)
    assert "LMDB" not in {bound.against for line in written.lines for bound in line.bounds}
    report = run(tmp_path, Sizes.quick(), 1, "nothing has this name", None)
    assert {"LMDB", "LMDB put", "salamander-db"} == set(report.missing)


@pytest.mark.may_leak("matplotlib keeps the fonts open that it has loaded")
def test_the_plot_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    bars = outcome("appends", [Line("rate", "events/s")], batpak=[3, 1, 2], fair_SQLite=[5, 4, 6])
    grown = outcome("open, at 100 events", [Line("open", "ms")], batpak=[1], batpak_at_10=[2])
    for name in ("one.svg", "two.svg"):
        draw([bars, grown], 100, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "open: open" in (tmp_path / "one.svg").read_text(encoding="utf-8")


# The arithmetic --------------------------------------------------------------------------------------------------


def test_contenders_take_turns_and_the_first_changes() -> None:
    order: list[str] = []

    def doing(name: str) -> Callable[[], dict[str, float]]:
        def work() -> dict[str, float]:
            order.append(name)
            return {"rate": float(len(order))}

        return work

    case = Case("work", [Line("rate", "events/s")], {name: doing(name) for name in ("batpak", "LMDB", "rocksdict")})
    found = measure(case, 2)
    assert order == ["batpak", "LMDB", "rocksdict", "LMDB", "rocksdict", "batpak"]
    assert found.figures["batpak"]["rate"] == [1, 6]
    assert found.median("batpak", "rate") == 3.5


@pytest.mark.parametrize(
    ("bound", "reached", "met"),
    [
        (Bound("floor", "fair SQLite", least=2), 2.0, True),
        (Bound("floor", "fair SQLite", least=2.1), 2.0, False),
        (Bound("goal", "fair SQLite", most=1.9), 2.0, False),
        (Bound("goal", most=200), 200.0, True),
        (Bound("goal", least=1, most=199), 200.0, False),
        (Bound("floor", "batpak", figure="fair SQLite", most=0.5), 0.5, True),
    ],
)
def test_a_bound_limits_a_figure_or_a_ratio_of_medians(bound: Bound, reached: float, met: bool) -> None:
    line = Line("rate", "events/s", [bound])
    found = outcome("work", [line], batpak=[300, 200, 100], fair_SQLite=[100, 50, 150])
    assert found.reached(line, bound) == reached
    assert meets(reached, bound) is met
    assert counts([found]).startswith("1 of 1" if met and bound.level == "floor" else "0 of")
    assert f": {'met' if met else '**missed**'}" in summary([found])


def test_a_bound_whose_rival_was_not_measured_is_neither_met_nor_missed() -> None:
    line = Line("rate", "events/s", [Bound("floor", "LMDB", least=1)])
    found = outcome("work", [line], batpak=[1])
    assert counts([found]).startswith("0 of 0 floors")
    assert "| work | rate : LMDB | not measured |" in summary([found])


def test_the_ratio_is_above_one_where_batpak_is_better() -> None:
    rate, milliseconds = Line("rate", "events/s"), Line("open", "ms", more_is_better=False)
    found = outcome("work", [rate, milliseconds], batpak=[200], fair_SQLite=[100])
    assert advantage(found, rate, "fair SQLite") == 2.0
    assert advantage(found, milliseconds, "fair SQLite") == 0.5
    assert losses([found]) == ["work: fair SQLite 2.00 x (open)"]
    assert "| fair SQLite | **100** 2.00 x | **100** 0.50 x |" in case_table(found)


def test_a_difference_of_figures_has_no_ratio() -> None:
    found = outcome("work", [Line("open, more than at 1,000", "ms")], batpak=[1], fair_SQLite=[9])
    assert losses([found]) == []
    assert "| fair SQLite | **9.00** |" in case_table(found)


def test_several_rounds_are_told_as_median_with_least_and_greatest() -> None:
    found = outcome("work", [Line("rate", "events/s")], batpak=[3, 1_234, 20])
    assert "| batpak | **20.0** (3.00 to 1,234) |" in case_table(found)


@pytest.mark.parametrize(("only", "wanted"), [("", True), ("reads", False), ("threads", True), ("sev", True)])
def test_a_section_is_chosen_by_how_one_of_its_words_begins(only: str, wanted: bool) -> None:
    assert is_wanted(only, "Several threads", "threads") is wanted


def test_floors_are_no_rivals() -> None:
    found = outcome("work", [Line("rate", "events/s")], batpak=[1], raw_write=[9], fdatasync=[9])
    assert losses([found]) == []


def test_a_percentile_is_a_latency_that_was_measured() -> None:
    assert [percentile(range(1, 101), percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7.0], 50) == 7.0
    assert told(gaps([0.0, 1.0, 3.0]), 3.0, 2.0) == {
        "rate": 2 / 3,
        "mean": 1.5e6,
        "p50": 1e6,
        "p99": 2e6,
        "processor time": 1e6,
    }


# What contenders keep --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("durable", [False, True])
def test_a_contender_keeps_what_it_is_given(name: str, durable: bool, tmp_path: Path) -> None:
    items = make_items(0, 60, entities=3)
    mine = [item.payload for item in items if item.entity == entity_name(1)]
    with closing(load(name).open(tmp_path / "store", durable=durable)) as store:
        store.settle()
        settled = _replayed(store) or 0
        batches = name != "salamander-db"
        ids = store.append_batch(items[:30]) if batches else []
        for item in items[30:] if batches else items:
            store.append(item)
        assert _replayed(store) in {settled + len(items), None}
        for event_id, item in zip(ids, items, strict=False):
            assert store.get(event_id) == item.payload
        try:
            assert store.stream(entity_name(1))[-len(mine) :] == mine
        except NotImplementedError:
            assert name in {"plain SQLite", "raw write", "fdatasync", "growing fdatasync", "LMDB put", "rocksdict put"}


def _replayed(store: Rival[object]) -> int | None:
    """Return how many events a replay gives, or None where there is no such thing."""
    try:
        return store.replay()
    except NotImplementedError:
        return None


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("limit", [7, 1_000])
def test_both_answer_the_same_pages(part: str, limit: int, tmp_path: Path) -> None:
    items = make_items(0, 300, entities=20)
    wanted = [
        number
        for number, item in enumerate(items)
        if ("scope" not in part or item.scope == SCOPE_PART) and ("kind" not in part or item.kind == KIND_PART)
    ]
    found = {}
    for name, first in (("batpak", 0), ("fair SQLite", 1)):
        with closing(load(name).open(tmp_path / name)) as store:
            ids = store.append_batch(items)
            numbers = {str(event_id): number for number, event_id in enumerate(ids)}
            page = store.page(part, 100 + first, limit)
            found[name] = [numbers[str(row[0] if isinstance(row, tuple) else row.event_id)] for row in page]  # type: ignore[attr-defined]
    assert found["batpak"] == found["fair SQLite"] == [number for number in wanted if number > 100][:limit]


def test_the_fair_table_keeps_chain_and_order(tmp_path: Path) -> None:
    items = make_items(0, 2_500)
    with closing(FairSqlite.open(tmp_path)) as table:
        ids = [table.append(item) for item in items[:100]] + table.append_batch(items[100:])
        assert table.get(ids[1_234]) == items[1_234].payload
        rows = table.table.execute("SELECT * FROM events ORDER BY global_sequence").fetchall()
    assert [msgpack.unpackb(row[-1]) for row in rows] == [item.payload for item in items]
    heads: dict[str, tuple[int, bytes]] = {}
    for _, event_id, _, entity, scope, sequence, kind, now, *_, prev_hash, event_hash, packed in rows:
        assert (sequence - 1, prev_hash) == heads.get(entity, (-1, bytes(32)))
        facts = f"{entity}\0{scope}\0{sequence}\0{kind}\0{now}".encode()
        assert event_hash == blake3(prev_hash + event_id + facts + packed).digest()
        heads[entity] = (sequence, event_hash)


def test_the_fair_table_answers_no_page_by_looking_through_everything_or_sorting(tmp_path: Path) -> None:
    fair = import_module("benchmarks.rivals.fair")
    with closing(FairSqlite.open(tmp_path)) as table:
        for part, page in fair.PAGES.items():
            plan = " ".join(row[-1] for row in table.table.execute(f"EXPLAIN QUERY PLAN {page}", (0, 10)))
            assert "TEMP B-TREE" not in plan, part
            assert "SEARCH" in plan, part
            assert "SCAN" not in plan, part


@pytest.mark.parametrize("name", ["fair SQLite actor", "plain SQLite actor"])
def test_an_actor_answers_threads_and_tasks_in_groups(name: str, tmp_path: Path) -> None:
    items = make_items(0, 400)
    answers: list[object] = []

    async def append_all(store: FairActor) -> list[object]:
        return [*await asyncio.gather(*(store.append_async(item) for item in items[200:]))]

    with closing(load(name).open(tmp_path)) as store:
        actor = store
        threads = [
            threading.Thread(target=lambda share: answers.extend(map(actor.append, share)), args=(items[at:200:4],))
            for at in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        answers += asyncio.run(append_all(store))  # type: ignore[arg-type]
    assert len(set(answers)) == len(items)
    table = load(name.removesuffix(" actor")).open(tmp_path)
    with closing(table):
        assert table.replay() == len(items)
        assert sorted(map(str, (table.get(answer) for answer in answers))) == sorted(
            str(each.payload) for each in items
        )


def test_an_actor_tells_every_caller_of_a_group_that_failed(tmp_path: Path) -> None:
    with closing(FairActor.open(tmp_path)) as actor:
        actor.table.table.execute("DROP TABLE events")
        with pytest.raises(Exception, match="no such table"):
            actor.append(make_items(0, 1)[0])
        with pytest.raises(Exception, match="no such table"):
            asyncio.run(actor.append_async(make_items(0, 1)[0]))
