"""Recovery is idempotent: opened and closed once, twice or after being cut short, a directory holds the same bytes.

One thing may differ, and exactly so: in ``durable.position`` the number of the last write, and with it the slot that
was written and its checksum; and behind a close that seals the last segment, as in format 1, the newest slot of the
second open names no segment, because none is written to. The event up to which all is durable is the same. What says
who holds the lock is not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from random import Random

import pytest

from batpak import BatpakError, CorruptStoreError
from batpak.storage import original_footer, watermark
from batpak.storage.run import Run
from batpak.storage.segment import read_meta
from batpak.testing.memory import MemoryFiles
from tests.directories import Content, segments
from tests.faults.conftest import Table
from tests.faults.damage import OVERWRITING, changed, flipped_at, overwritten
from tests.faults.histories import History, history
from tests.faults.images import CLOSED, IMAGES, KILLED, Image, golden_image, image, laid_out, open_image, whole
from tests.faults.operations import watch
from tests.faults.scale import dice, times

FLIPS, TAILS, STOPPED, ORIGINAL, CUT, UNSEALED = 60, 60, 4, 20, 60, 10

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def open_and_close(files: MemoryFiles) -> None:
    """Open and close; a close that cannot seal a damaged segment says so, and leaves it as it is."""
    store = open_image(files, writable=True)
    with suppress(CorruptStoreError):
        store.close()


def position(held: Content) -> watermark.DurablePosition:
    """Return what the newest slot says, whichever write it was."""
    newest = watermark.read(laid_out({watermark.NAME: held[watermark.NAME]}))
    assert newest is not None
    return replace(newest, count=0)


def check_same(before: Content, after: Content) -> None:
    """Two directories hold the same bytes; see the module for the one exception."""
    assert set(changed(before, after)) <= {watermark.NAME}
    then, now = position(before), position(after)
    assert now in (then, replace(then, segment=0, identity=bytes(16), offset=0))


def twice(held: Content) -> str:
    """Open and close a directory three times; how it came out."""
    files = laid_out(held)
    try:
        open_and_close(files)
    except BatpakError:
        assert not changed(held, whole(files)), "a refusal leaves everything as it is"
        with pytest.raises(BatpakError):
            open_and_close(files)
        assert not changed(held, whole(files))
        return "refused, unchanged"
    once = whole(files)
    for _ in range(2):
        open_and_close(files)
        check_same(once, whole(files))
    return "mended, then the same" if changed(held, once) not in ([], [watermark.NAME]) else "the same"


def damaged(journal: Image, random: Random) -> Iterator[tuple[str, Content]]:
    """Yield flips and overwritten bytes, half of them in the last segment."""
    names = [name for name, data in journal.held.items() if data and not name.startswith(".batpak")]
    last = segments(journal.held)[-1]
    for number in range(times(FLIPS)):
        file = last if number % 2 else random.choice(names)
        data = journal.held[file]
        bit = random.randrange(8 * min(len(data), len(data.rstrip(b"\0")) + 64))
        yield f"bit {bit} of {file}", journal.held | {file: flipped_at(data, bit)}
        how = OVERWRITING[number % len(OVERWRITING)]
        yield f"{how} in {file}, case {number}", journal.held | {file: overwritten(data, random, how)}


def torn(journal: Image, random: Random) -> Iterator[tuple[str, Content]]:
    """Yield ends of the last segment: cut at any byte, and followed by noise, by zeros and by frames of its own."""
    last = segments(journal.held)[-1]
    data = journal.held[last].rstrip(b"\0")
    for number in range(times(TAILS)):
        cut = random.randrange(len(data) + 1)
        tail = (b"", random.randbytes(40), bytes(700), bytes(9) + data[-200:], data[200:400])[number % 5]
        yield f"{last} cut at {cut}, tail {number % 5}", journal.held | {last: data[:cut] + tail}


def count(cases: Iterator[tuple[str, Content]], judge: Callable[[Content], str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for what, held in cases:
        try:
            found[judge(held)] += 1
        except BaseException as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return found


@pytest.mark.parametrize("name", IMAGES)
def test_two_opens_of_a_damaged_directory_give_the_same_bytes(name: str, table: Table) -> None:
    journal, random = image(name), dice(f"twice {name}")
    found = count(damaged(journal, random), twice) + count(torn(journal, random), twice)
    table.add(f"opened twice, {name}", times(2 * FLIPS + TAILS), found)
    assert found["refused, unchanged"]


@pytest.mark.parametrize("name", [*CLOSED, *KILLED])
def test_two_opens_of_a_damaged_store_of_the_original_give_the_same_bytes(name: str, table: Table) -> None:
    journal, random = golden_image(name), dice(f"twice {name}")
    cases = list(torn(journal, random))[: times(ORIGINAL)] + list(damaged(journal, random))[: times(ORIGINAL)]
    found = count(iter(cases), twice)
    table.add(f"opened twice, the original's {name}", times(2 * ORIGINAL), found)


@pytest.mark.parametrize("segment_format", [2, 1])
def test_two_opens_of_a_store_at_every_moment_give_the_same_bytes(segment_format: int, table: Table) -> None:
    past: History = history(2 if segment_format == 2 else 1)
    cases = [(f"{moment.events} events", moment.held) for moment in past.moments]
    random = dice(f"moments {segment_format}")
    for _ in range(times(CUT)):
        moment = random.choice(past.moments)
        name = random.choice(segments(moment.held))
        length = random.randrange(len(moment.held[name]))
        cases.append((f"{name} of {moment.events} cut to {length}", moment.held | {name: moment.held[name][:length]}))
    found = count(iter(cases), twice)
    table.add(f"opened twice, moments and cuts, format {segment_format}", len(cases), found)
    assert found["mended, then the same"]


def stopped(held: Content) -> str:
    """Stop an open before each change it makes, and open what is there then: the same bytes as without the stop."""
    files = laid_out(held)
    taken: list[MemoryFiles] = []
    watch(files, lambda: taken.append(files.copy()))
    try:
        open_and_close(files)
    except BatpakError:
        return "refused"
    once = whole(files)
    for left in taken:
        open_and_close(left)
        check_same(once, whole(left))
    return f"stopped {len(taken)} times" if len(taken) < 10 else "stopped ten times and more"


@pytest.mark.parametrize("name", [name for name in IMAGES if name.endswith("killed")])
def test_a_recovery_that_was_cut_short_and_begun_again_gives_the_same_bytes(name: str, table: Table) -> None:
    journal, random = image(name), dice(f"stopped {name}")
    cases = list(torn(journal, random))
    last = segments(journal.held)[-1]
    whole_end = len(journal.held[last].rstrip(b"\0"))
    cases += [
        (f"{last} cut {short} bytes before its end", journal.held | {last: journal.held[last][: whole_end - short]})
        for short in range(1, times(STOPPED) * 40, 7)
    ]
    found = count(iter(cases), stopped)
    table.add(f"recovery cut short, {name}", len(cases), found)
    assert found["stopped ten times and more"]


def frames_end(held: Content, name: str) -> int:
    """Return where the frames of a sealed segment end."""
    files = laid_out(held)
    meta = read_meta(files, int(name[:-5]))
    if meta.footer is not None:
        return meta.footer.end
    with closing(files.open_read(name)) as file:
        boundary = original_footer.find_boundary(file.pread, meta.size, name)
    assert boundary is not None
    return boundary.end


def indexed_up_to(held: Content, segment: str) -> Content:
    """Return a store as if nothing behind that segment had been indexed yet: it is where an open begins to read."""
    files, store_id = laid_out(held), read_meta(laid_out(held), 1).store_id
    assert store_id is not None
    runs = [Run.open(files, name, store_id) for name in held if name.startswith("index/")]
    late = {run.name for run in runs if run.meta.covers[-1][0] > int(segment[:-5])}
    return {name: data for name, data in held.items() if name not in late}


@pytest.mark.parametrize("segment_format", [2, 1])
def test_a_segment_that_lacks_its_footer_is_sealed_as_it_was_or_not_at_all(segment_format: int, table: Table) -> None:
    past: History = history(2 if segment_format == 2 else 1)
    held, random = past.closed(), dice(f"unsealed {segment_format}")
    found: Counter[str] = Counter()
    for name in segments(held)[:-1]:
        end = frames_end(held, name)
        bare = indexed_up_to(held, name) | {name: held[name][:end]}
        files = laid_out(bare)
        open_and_close(files)
        assert whole(files)[name] == held[name], "sealed again, with the same footer"
        found["sealed again"] += 1
        for _ in range(times(UNSEALED)):  # the index covers most of its frames: nothing but sealing reads them
            bit = random.randrange(8 * 200, 8 * end)
            damaged_too = bare | {name: flipped_at(bare[name], bit)}
            assert twice(damaged_too) == "refused, unchanged", f"bit {bit} of {name}"
            found["refused, unchanged"] += 1
    table.add(f"segments without a footer, format {segment_format}", 9 * times(UNSEALED), found)
