"""Whatever happens to a directory: check, plan, open and the way on agree, and every error is typed."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from batpak import BatpakError, CheckReport, CorruptStoreError, RecoveryPlan, UnsupportedFormatError
from batpak.check import check_files, prefix_kept, recovery_plan
from batpak.testing.memory import MemoryFiles
from tests.cli.stores import FORMATS, ORDER, PLACED, Format, life, opened
from tests.directories import Content, content, directory, shown
from tests.faults.scale import dice, times


def mishap(held: Content, random: Random) -> Content:
    """Return a directory to which one thing has happened."""
    name = random.choice(sorted(held))
    data = bytearray(held[name])
    at = random.randrange(len(data)) if data else 0
    match random.choice(("flip", "flip", "flip", "cut", "zeros", "more", "gone", "swapped")):
        case "flip" if data:
            data[at] ^= 1 << random.randrange(8)
        case "cut":
            del data[at:]
        case "zeros":
            data[at : at + 512] = bytes(len(data[at : at + 512]))
        case "more":
            data += random.randbytes(random.choice((1, 8, 300)))
        case "gone" if len(held) > 1:
            return {each: held[each] for each in held if each != name}
        case "swapped":
            other = random.choice(sorted(held))
            return held | {name: held[other], other: held[name]}
        case _:
            pass
    return held | {name: bytes(data)}


def opens(files: MemoryFiles) -> list[tuple[object, ...]] | CorruptStoreError:
    """Open a directory and read everything; the events, or what refuses."""
    try:
        with opened(files) as store:
            return shown(store)
    except CorruptStoreError as error:
        return error


def agree(held: Content, events: list[tuple[object, ...]]) -> str:
    """Look at a directory in every way, and go on with it; how it came out."""
    files = directory(held)
    report: CheckReport = check_files(files.beside(), None, None)
    plan: RecoveryPlan = recovery_plan(files.beside())
    assert content(files) == held
    found = opens(files.copy())
    if plan.refusal is not None or isinstance(found, CorruptStoreError):
        assert report.verdict == "damaged"
        assert isinstance(found, CorruptStoreError)
        assert plan.refusal in {str(found), None}  # None: only a read meets it
    if report.verdict != "damaged":
        assert not isinstance(found, CorruptStoreError)
        assert len(found) == report.events
    kept = prefix_kept(files.beside(), accept_loss=True)
    if kept is None:
        assert report.damage is None or report.damage.file.startswith("cursors/")
        return report.verdict
    left = check_files(files.beside(), None, None).damage
    assert left is None or left.file.startswith("cursors/")
    with opened(files) as store:
        assert shown(store) == events[: kept.kept_events]
        store.append(ORDER, PLACED, "on")
    return "kept in part"


@pytest.mark.parametrize("segment_format", FORMATS, ids=["format2", "format1"])
def test_check_plan_open_and_the_way_on_agree(segment_format: Format) -> None:
    past, random = life(segment_format), dice(f"agreement {segment_format}")
    outcomes: Counter[str] = Counter()
    for number in range(times(60)):
        held = past.closed if number % 2 else past.killed
        for _ in range(random.choice((1, 1, 2, 3))):
            held = mishap(held, random)
        try:
            outcomes[agree(held, past.events)] += 1
        except UnsupportedFormatError:  # one bit makes a footer of format 1 one of a later release
            outcomes["newer"] += 1
        except BatpakError as error:
            raise AssertionError(f"case {number}: {error!r}") from error
    assert {"mendable", "kept in part"} <= set(outcomes), outcomes
