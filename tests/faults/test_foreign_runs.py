"""An index, a durable position, places and segments of another store, another moment, another history.

The journal is what the segments say. Whatever lies beside them is used where it agrees with them, passed over where it
is of another store, and refuses where it speaks of more than there is: an answer is never of two histories.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

import pytest

from batpak import BatpakError, CorruptStoreError, Place, PlaceConflictError, StalePlaceError, Store
from batpak.storage import place_file, watermark
from tests.directories import Content, segments, shown
from tests.faults.conftest import Table
from tests.faults.damage import read_only, written_on_to
from tests.faults.histories import EVENTS, FORK, TURN, History, files_of, history, without_index
from tests.faults.images import PLACES, Image, ask_places, laid_out, open_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

Case = tuple[str, Content]


@pytest.fixture(params=[2, 1], ids=["format 2", "format 1"])
def past(request: pytest.FixtureRequest) -> History:
    return history(request.param)


def at(past: History, events: int, name: str = "") -> Image:
    """Return what the store was when it had so many events, all of them durable."""
    held = past.at(events)
    return Image(name, held, past.events[:events], events)


def judged(image: Image, cases: Iterator[Case]) -> Counter[str]:
    """Open each case both ways; how they came out."""
    found: Counter[str] = Counter()
    for what, held in cases:
        for judge in (read_only, written_on_to):
            try:
                found[judge(replace(image, places={}), held)] += 1
            except BaseException as error:
                raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return found


def label(past: History, what: str) -> str:
    return f"{what}, format {past.segment_format}"


def shuffled(held: Content) -> Iterator[Case]:
    """Yield the store with runs under other names, exchanged, missing, and there twice."""
    bare, runs = without_index(held), files_of(held, "index")
    for name in runs:
        yield f"without {name}", {each: data for each, data in held.items() if each != name}
        yield f"{name} alone", bare | {name: runs[name]}
        yield f"{name} twice", held | {name[:-5] + "7.run": runs[name]}
        yield f"{name} as one of nothing", held | {f"index/{0:020d}-{99:020d}-00000000.run": runs[name]}
    for name, other in permutations(runs, 2):
        yield f"{name} as {other}", held | {other: runs[name]}
        yield f"{name} and {other} exchanged", held | {name: runs[other], other: runs[name]}


def test_runs_under_other_names_change_no_answer(past: History, table: Table) -> None:
    cases = list(shuffled(past.closed()))
    found = judged(past.image("shuffled"), iter(cases))
    table.add(label(past, "runs missing, doubled, exchanged"), 2 * len(cases), found)
    assert set(found) == {"right"}


def test_runs_of_an_earlier_moment_change_no_answer(past: History, table: Table) -> None:
    bare = without_index(past.closed())
    cases = [(f"the index of {moment.events} events", bare | files_of(moment.held, "index")) for moment in past.moments]
    found = judged(past.image("older runs"), iter(cases))
    table.add(label(past, "older runs beside newer segments"), 2 * len(cases), found)
    assert set(found) == {"right"}


def test_runs_of_a_later_moment_speak_of_events_that_must_be_there(past: History, table: Table) -> None:
    found: Counter[str] = Counter()
    for moment in past.moments[:-1]:
        for later in past.moments[::6]:
            held = without_index(moment.held) | files_of(later.held, "index")
            outcome = judged(at(past, moment.events), iter([(f"{later.events} in the index of {moment.events}", held)]))
            assert later.events > moment.events or set(outcome) == {"right"}
            found += outcome
    table.add(label(past, "newer runs beside older segments"), sum(found.values()), found)
    assert set(found) == {"right", "refused"}


@pytest.mark.parametrize("word", ["other", "fork"])
def test_runs_of_another_store_and_of_another_history_change_no_answer(past: History, word: str, table: Table) -> None:
    other = history(past.segment_format, word)
    cases = []
    for moment in other.moments:
        runs = files_of(moment.held, "index")
        cases.append((f"the index of {moment.events} events there", without_index(past.closed()) | runs))
        cases.append((f"the index of {moment.events} events there beside ours", past.closed() | runs))
    found = judged(past.image(word), iter(cases))
    whose = "another store" if word == "other" else "a copy that went on differently"
    table.add(label(past, f"runs of {whose}"), 2 * len(cases), found)
    # The copy has the first segments in common; where the one of the fork is longer there, events seem to be missing.
    assert set(found) <= ({"right"} if word == "other" else {"right", "refused"})


def test_runs_that_end_where_two_histories_part_change_no_answer(past: History, table: Table) -> None:
    turn = history(past.segment_format, "turn")
    ours, theirs = without_index(past.at(TURN)), files_of(turn.closed(), "index")
    longer = past.at(TURN + 1)
    cases = [(f"with their index beside {len(held)} files", held) for held in (ours | theirs, longer | theirs)]
    found = judged(at(past, TURN), iter(cases[:1])) + judged(at(past, TURN + 1), iter(cases[1:]))
    table.add(label(past, "runs that end where histories part"), 4, found)
    assert set(found) <= {"right", "refused"}
    assert "refused" not in found or past.segment_format == 2  # where theirs is longer, events seem to be missing


def test_a_durable_position_of_another_moment_store_or_history(past: History, table: Table) -> None:
    found: Counter[str] = Counter()
    for other in (past, history(past.segment_format, "other"), history(past.segment_format, "fork")):
        for moment in past.moments[::2]:
            for theirs in other.moments[::6]:
                held = moment.held | {watermark.NAME: theirs.held[watermark.NAME]}
                what = f"the position of {theirs.events} events beside {moment.events}"
                outcome = judged(at(past, moment.events), iter([(what, held)]))
                found += outcome
                if other is past:
                    expected = "refused" if theirs.events > moment.events else "right"
                    assert set(outcome) == {expected}, what
    table.add(label(past, "durable positions of other moments, stores, histories"), sum(found.values()), found)
    assert set(found) == {"right", "refused"}


# Segments of a copy that went on differently -----------------------------------------------------------------------


def grafted(past: History, fork: History) -> Iterator[Case]:
    """Yield the store with one segment of the copy, with all from one on, and beside them what lay beside either."""
    ours, theirs = past.closed(), fork.closed()
    names = segments(ours)
    taken = [[name] for name in names] + [names[at:] for at in range(len(names))]
    for chosen in taken:
        mixed = {name: (theirs if name in chosen else ours)[name] for name in names}
        for index in (ours, theirs, {}):
            for position in (ours, theirs, {}):
                beside = files_of(dict(index), "index") | (
                    {watermark.NAME: position[watermark.NAME]} if position else {}
                )
                whose = ["none" if not each else "ours" if each is ours else "theirs" for each in (index, position)]
                yield f"{chosen} of the copy, index {whose[0]}, position {whose[1]}", mixed | beside


def test_segments_of_a_copy_that_went_on_differently_give_one_history_or_none(past: History, table: Table) -> None:
    fork = history(past.segment_format, "fork")
    found: Counter[str] = Counter()
    for what, held in grafted(past, fork):
        bare = {name: data for name, data in held.items() if name.endswith(".fbat")}
        try:
            with open_image(laid_out(bare), writable=False) as store:
                told = shown(store)
        except CorruptStoreError:
            for judge in (read_only, written_on_to):
                assert judge(replace(past.image("ours"), places={}), held) == "refused", what
            found["refused"] += 1
            continue
        assert told in (past.events, fork.events), what
        outcome = judged(Image("graft", held, told, EVENTS), iter([(what, held)]))
        assert set(outcome) <= {"right", "refused"}
        found.update({"one history": 1} if outcome["right"] else {"refused": 1})
    table.add(label(past, "segments of a copy that went on differently"), 180, found)


# Places --------------------------------------------------------------------------------------------------------------


def placed(held: Content, places: Content) -> dict[str, Place | BatpakError | None]:
    """Open a store with other places than its own; where each name stands, or why it cannot be used."""
    bare = {name: data for name, data in held.items() if not name.startswith("cursors/")}
    with open_image(laid_out(bare | places), writable=True) as store:
        assert isinstance(store, Store)
        image = Image("placed", held, [], 0, {}, {name: [] for name in PLACES})
        return ask_places(store, image)


def test_a_place_of_another_moment_is_one_that_was_committed_or_stale(past: History, table: Table) -> None:
    found: Counter[str] = Counter()
    for moment in past.moments:
        for theirs in past.moments[4::3]:
            for name, place in placed(moment.held, files_of(theirs.held, "cursors")).items():
                if isinstance(place, StalePlaceError):
                    assert place.given.global_sequence >= moment.events
                    found["stale"] += 1
                else:
                    assert place in past.places[name]
                    found["right"] += 1
    table.add(label(past, "places of other moments"), sum(found.values()), found)
    assert found["stale"]


def test_a_place_of_another_store_is_a_conflict(past: History, table: Table) -> None:
    theirs = files_of(history(past.segment_format, "other").closed(), "cursors")
    found = Counter(type(place).__name__ for place in placed(past.closed(), theirs).values())
    table.add(label(past, "places of another store"), len(PLACES), found)
    assert set(found) == {PlaceConflictError.__name__}


def test_a_place_of_another_name_and_region_is_a_conflict(past: History, table: Table) -> None:
    files = [place_file.file_name(name) for name in PLACES]
    held = past.closed()
    exchanged = {files[0]: held[files[1]], files[1]: held[files[0]]}
    found = Counter(type(place).__name__ for place in placed(held, exchanged).values())
    table.add(label(past, "places of another name"), len(PLACES), found)
    assert set(found) == {PlaceConflictError.__name__}


def test_a_place_of_another_history_is_stale_behind_the_fork(past: History, table: Table) -> None:
    found: Counter[str] = Counter()
    for moment in history(past.segment_format, "fork").moments:
        for place in placed(past.closed(), files_of(moment.held, "cursors")).values():
            if isinstance(place, StalePlaceError):
                assert place.given.global_sequence >= FORK
            else:
                assert isinstance(place, Place)
                assert place.global_sequence < FORK
            found[type(place).__name__] += 1
    table.add(label(past, "places of another history"), sum(found.values()), found)
    assert found["StalePlaceError"]
