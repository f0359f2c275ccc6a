"""What a dry run says that an open would do is what an open does; and a dry run does nothing."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest

from batpak import CorruptStoreError, OpenReport, RecoveryPlan, Store, StoreConfig, plan_recovery
from batpak.check import recovery_plan
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.cli.stores import FORMATS, ORDER, PLACED, Format, damaged, damages, frames, life, moments, opened
from tests.cli.test_check import fingerprint
from tests.directories import content, directory, load
from tests.golden.walker import STORES, name_of

formats = pytest.mark.parametrize("segment_format", FORMATS, ids=["format2", "format1"])


def agrees(files: MemoryFiles) -> RecoveryPlan:
    """Look at a directory, then open it: both say the same, and the files are what was said."""
    before = content(files)
    plan = recovery_plan(files.beside())
    assert content(files) == before
    with Store(files.beside(), StoreConfig(driver="stepped", clock=HandClock()), SteppedDrivers()) as store:
        report = store.diagnostics().open_report
        now = content(files)
    assert promised(plan) == done(report)
    for cut in plan.cuts:
        name = f"{cut.segment:06}.fbat"
        assert len(before[name]) - cut.offset == cut.length
        assert (len(now[name]) == cut.offset) if cut.offset else (name not in now or now[name] != before[name])
    for segment in plan.seals:
        assert now[f"{segment:06}.fbat"] != before[f"{segment:06}.fbat"]
    assert not [name for name in plan.removes if now.get(name) == before[name]]
    allowed = {f"{cut.segment:06}.fbat" for cut in plan.cuts} | {f"{each:06}.fbat" for each in plan.seals}
    allowed |= {*plan.removes, "durable.position", *(cut.copy for cut in plan.cuts if cut.copy)}
    changed = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    assert {name for name in changed if not name.startswith("index/")} <= allowed
    return plan


def promised(plan: RecoveryPlan) -> tuple[object, ...]:
    copies = [(cut.copy, cut.segment, cut.offset) for cut in plan.cuts if cut.copy]
    return plan.path, plan.runs, plan.tail_events, plan.tail_bytes, copies, plan.notes


def done(report: OpenReport) -> tuple[object, ...]:
    copies = [(each.file, each.segment, each.offset) for each in report.quarantined]
    return report.path, report.runs, report.tail_events, report.tail_bytes, copies, report.notes


@formats
def test_after_any_crash_the_plan_is_what_the_open_does(segment_format: Format) -> None:
    plans = [agrees(moment.files.copy()) for moment in moments(segment_format)[1::3]]
    assert any(plan.cuts for plan in plans)
    assert any(plan.seals for plan in plans)
    assert any(plan.removes for plan in plans)
    assert any(plan.runs for plan in plans)
    assert not any(plan.refusal for plan in plans)


@formats
def test_a_refusal_is_told_in_the_words_of_the_error(segment_format: Format) -> None:
    refused = 0
    for what, held in damages(life(segment_format)).items():
        files = directory(held)
        plan = recovery_plan(files.beside())
        assert content(files) == held
        try:
            with opened(files):
                refusal = None
        except CorruptStoreError as error:
            refusal = str(error)
        assert plan.refusal == refusal, what
        refused += refusal is not None
    assert refused > 8


def test_damage_in_a_segment_that_would_be_sealed_refuses_though_the_index_covers_it() -> None:
    refused = 0
    for moment in moments(2):
        held = content(moment.files)
        plan = recovery_plan(moment.files)
        if not plan.seals or not plan.runs or refused > 5:
            continue
        name = f"{plan.seals[0]:06}.fbat"
        files = directory(damaged(held, name, frames(held, name)[0].offset + 20))
        plan = recovery_plan(files.beside())
        with pytest.raises(CorruptStoreError) as error:
            opened(files)
        assert plan.refusal == str(error.value)
        refused += "to be sealed" in plan.refusal
    assert refused


@pytest.mark.parametrize("store", STORES, ids=name_of)
def test_stores_of_the_original_too(store: Path) -> None:
    files = directory(load(store / "store"))
    if recovery_plan(files.beside()).refusal is None:
        agrees(files)


def test_a_dry_run_changes_nothing_on_a_real_disk(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with patch("batpak.actors.index.CLOSE_EVENTS", 1), Store.open(journal) as store:
        for number in range(20):
            store.append(ORDER, PLACED, number)
    segment = journal / "000001.fbat"
    segment.write_bytes(segment.read_bytes() + b"\0\0\0\x40torn off")
    (journal / ".tmp-0-000002.fbat").write_bytes(b"x")
    before = fingerprint(tmp_path)
    plan = plan_recovery(journal)
    assert fingerprint(tmp_path) == before
    assert (plan.refusal, plan.removes, [cut.length for cut in plan.cuts]) == (None, (".tmp-0-000002.fbat",), [12])
    with Store.open(journal) as store:
        assert [each.file for each in store.diagnostics().open_report.quarantined] == [plan.cuts[0].copy]
    assert not (journal / ".tmp-0-000002.fbat").exists()
    assert plan_recovery(journal).cuts == ()


def test_many_events_are_planned_for_without_making_an_index() -> None:
    """An open writes runs while it reads; a plan must not, and says the same all the same."""
    past = life(2)
    held = {name: data for name, data in past.closed.items() if not name.startswith("index/")}
    with patch("batpak.storage.opening.SPILL_EVENTS", 7):
        plan = recovery_plan(directory(held))
    assert (plan.path, plan.runs, plan.tail_events) == ("rebuild", 0, len(past.events))
