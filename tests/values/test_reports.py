"""Reports: plain values with the fields that operators rely on."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields
from uuid import UUID

import pytest

from batpak.reports import (
    ActorReport,
    Ancestry,
    AncestryEnd,
    ChainReport,
    Diagnostics,
    OpenReport,
    Quarantined,
    SequenceGap,
    Stats,
)

STATS = Stats(3, 3, 2, -1, 1, 4096)
CUT = Quarantined("quarantine/1-64-ab", 1, 64, 12, "ab")
OPENED = OpenReport("runs", 2, 10, 2048, 0.25, (("scan", 0.2),), (CUT,), ("watermark missing",))
ACTOR = ActorReport("writer", 0, 12, 0.001, 0, alive=True)
VALUES = [
    STATS,
    CUT,
    OPENED,
    ACTOR,
    Ancestry((), AncestryEnd.LIMIT),
    SequenceGap("order:42", 3, 5),
    ChainReport(0),
    Diagnostics("ok", "/journal", STATS, OPENED, (ACTOR,)),
]


@pytest.mark.parametrize("report", VALUES, ids=lambda report: type(report).__name__)
def test_a_report_is_a_value(report: object) -> None:
    again = pickle.loads(pickle.dumps(report))
    assert again == report
    assert hash(again) == hash(report)
    assert not hasattr(report, "__dict__")


@pytest.mark.parametrize("report", VALUES, ids=lambda report: type(report).__name__)
def test_a_report_cannot_be_changed(report: object) -> None:
    name = fields(report)[0].name  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        setattr(report, name, None)


def test_a_walk_ends_for_one_of_four_reasons() -> None:
    assert [end.value for end in AncestryEnd] == ["genesis", "limit", "missing_parent", "cycle"]
    assert str(AncestryEnd.GENESIS) == "genesis"


def test_a_chain_is_intact_when_nothing_was_found() -> None:
    assert ChainReport(5).intact
    assert not ChainReport(5, content_mismatches=(UUID(int=1),)).intact
    assert not ChainReport(5, dangling_links=(UUID(int=1),)).intact
    assert not ChainReport(5, sequence_gaps=(SequenceGap("a", 1, 2),)).intact
    assert not ChainReport(5, altered_segments=(2,)).intact
    assert ChainReport(5, anchored=True).intact
    assert not ChainReport(5, anchored=False).intact


def test_what_may_be_empty_has_a_default() -> None:
    report = OpenReport("new", 0, 0, 0, 0.0)
    assert (report.phases, report.quarantined, report.notes) == ((), (), ())
    assert Diagnostics("ok", "/j", STATS, report, ()).writer_error is None
