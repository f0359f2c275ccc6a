"""Segments missing, doubled, exchanged, older, of another store or cut short: refused, never a wrong answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, permutations

import pytest

from tests.directories import Content, segments
from tests.faults.conftest import Table
from tests.faults.damage import read_only, written_on_to
from tests.faults.histories import SEGMENTS, History, history, versions, without_index
from tests.faults.images import Image
from tests.faults.scale import TIMES, dice, times

CUTS = 300
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

Case = tuple[str, Content]


@pytest.fixture(params=[2, 1], ids=["format 2", "format 1"])
def past(request: pytest.FixtureRequest) -> History:
    return history(request.param)


@pytest.fixture(params=[True, False], ids=["with its index", "without index"])
def held(request: pytest.FixtureRequest, past: History) -> Content:
    return past.closed() if request.param else without_index(past.closed())


def without(held: Content, *names: str) -> Content:
    return {name: data for name, data in held.items() if name not in names}


def missing(held: Content) -> Iterator[Case]:
    """Yield the store without one segment, and without each pair."""
    names = segments(held)
    for gone in (*((name,) for name in names), *combinations(names, 2)):
        yield f"without {' and '.join(gone)}", without(held, *gone)


def doubled(held: Content) -> Iterator[Case]:
    """Yield the store with each segment in the place of each other, and behind all."""
    for name, other in permutations(segments(held), 2):
        yield f"{name} as {other} too", held | {other: held[name]}
    for name in segments(held):
        for number in (SEGMENTS + 1, SEGMENTS + 2):
            yield f"{name} as {number} too", held | {f"{number:06}.fbat": held[name]}


def exchanged(held: Content) -> Iterator[Case]:
    """Yield the store with two segments exchanged, for each pair."""
    for name, other in combinations(segments(held), 2):
        yield f"{name} and {other} exchanged", held | {name: held[other], other: held[name]}


def foreign(held: Content, other: Content) -> Iterator[Case]:
    """Yield the store with one segment of *other* in the place of its own, and with each pair."""
    names = segments(held)
    for taken in (*((name,) for name in names), *combinations(names, 2)):
        yield f"{' and '.join(taken)} of another store", held | {name: other[name] for name in taken}


def judged(image: Image, cases: Iterator[Case]) -> Counter[str]:
    """Open each case both ways; how they came out."""
    found: Counter[str] = Counter()
    for what, held in cases:
        for judge in (read_only, written_on_to):
            try:
                found[judge(image, held)] += 1
            except BaseException as error:
                raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return found


def row(past: History, request: pytest.FixtureRequest, what: str) -> str:
    return f"{what}, {request.node.callspec.id}"


def test_a_segment_that_is_missing_is_refused(
    past: History, held: Content, table: Table, request: pytest.FixtureRequest
) -> None:
    found = judged(past.image("missing"), missing(held))
    table.add(row(past, request, "missing segments"), 110, found)
    assert set(found) == {"refused"}


def test_a_segment_that_is_there_twice_is_refused(
    past: History, held: Content, table: Table, request: pytest.FixtureRequest
) -> None:
    found = judged(past.image("doubled"), doubled(held))
    table.add(row(past, request, "doubled segments"), 220, found)
    assert set(found) == {"refused"}


def test_two_segments_that_changed_places_are_refused(
    past: History, held: Content, table: Table, request: pytest.FixtureRequest
) -> None:
    found = judged(past.image("exchanged"), exchanged(held))
    table.add(row(past, request, "exchanged segments"), 90, found)
    assert set(found) == {"refused"}


def test_a_segment_of_another_store_is_refused(
    past: History, held: Content, table: Table, request: pytest.FixtureRequest
) -> None:
    other = history(past.segment_format, "other").closed()
    found = judged(past.image("foreign"), foreign(held, other))
    table.add(row(past, request, "segments of another store"), 110, found)
    assert set(found) == {"refused"}


def test_a_segment_of_an_earlier_moment_is_no_wrong_answer(
    past: History, held: Content, table: Table, request: pytest.FixtureRequest
) -> None:
    cases = [
        (f"{name} of an earlier moment, {len(data)} bytes", held | {name: data})
        for name in segments(held)
        for data in versions(past, name)
    ]
    found = judged(past.image("older"), iter(cases))
    table.add(row(past, request, "older segments"), 2 * len(cases), found)
    assert set(found) <= {"refused", "right", "in part"}


def test_a_segment_that_was_cut_short_is_no_wrong_answer(
    past: History, held: Content, table: Table, request: pytest.FixtureRequest
) -> None:
    lengths = [(name, length) for name in segments(held) for length in range(len(held[name]))]
    if TIMES < 10:
        lengths = dice(f"cut {request.node.callspec.id}").sample(lengths, times(CUTS))
    cases = ((f"{name} cut to {length} bytes", held | {name: held[name][:length]}) for name, length in lengths)
    found = judged(past.image("cut"), cases)
    table.add(row(past, request, "segments cut short"), 2 * times(CUTS), found)
    assert set(found) <= {"refused", "right", "in part"}
