"""Bits at rest, anywhere in a small store: the right answer or a typed error, and nothing durable dropped.

An ordinary run draws 20,000 bits; as many as there are, in a run that asks for so many, means each of them once.
``BATPAK_ALL_BITS=1`` takes every bit of every image both ways, which takes hours.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest

from batpak import BatpakError
from batpak.storage import watermark
from tests.directories import Content, shown
from tests.faults.conftest import Table
from tests.faults.damage import (
    OVERWRITING,
    alive,
    changed,
    flipped_at,
    overwritten,
    read_only,
    rebuildable,
    written_on_to,
)
from tests.faults.images import CLOSED, IMAGES, KILLED, Image, golden_image, image, laid_out, open_image, whole
from tests.faults.scale import dice, times

ALL_BITS = bool(os.environ.get("BATPAK_ALL_BITS"))
READ, WRITTEN, LIVE, ORIGINAL = 1900, 750, 150, 115
OVERWRITTEN, TWICE = 150, 150

pytestmark = pytest.mark.timeout(7200)


def bits(held: Content, count: int, random: Random, only: Callable[[str], bool] = bool) -> Iterator[tuple[str, int]]:
    """Draw *count* bits, half of them with equal shares for all files; all bits once where there are no more."""
    sizes = {
        name: 8 * min(len(data), len(data.rstrip(b"\0")) + 64) for name, data in held.items() if data and only(name)
    }
    total = sum(sizes.values())
    if ALL_BITS or count >= total:
        yield from ((name, bit) for name, size in sizes.items() for bit in range(size))
        count = 0 if ALL_BITS else count - total
    names, weights = list(sizes), list(sizes.values())
    for number in range(count):
        name = names[number % len(names)] if number % 2 else random.choices(names, weights)[0]
        yield name, random.randrange(sizes[name])


def flips(journal: Image, count: int, judge: Callable[[Image, Content], str], name: str) -> Counter[str]:
    """Flip bits, one at a time, and judge what comes of each."""
    found: Counter[str] = Counter()
    for file, bit in bits(journal.held, count, dice(f"{name} {journal.name}")):
        held = journal.held | {file: flipped_at(journal.held[file], bit)}
        try:
            outcome = judge(journal, held)
            if rebuildable(file):
                assert outcome == "right", "what can be rebuilt is rebuilt, and nothing else is missing"
        except BaseException as error:
            raise AssertionError(f"bit {bit} of {file}: {type(error).__name__}: {error}") from error
        found[outcome] += 1
    return found


@pytest.fixture(params=IMAGES)
def journal(request: pytest.FixtureRequest) -> Image:
    return image(request.param)


def test_the_images_themselves_are_right(journal: Image) -> None:
    assert read_only(journal, journal.held) == "right"
    assert written_on_to(journal, journal.held) == "right"


@pytest.mark.slow
def test_a_bit_of_a_store_that_is_only_read(journal: Image, table: Table) -> None:
    found = flips(journal, times(READ), read_only, "read")
    table.add(f"bit flip, {journal.name}, read", times(READ), found)
    assert min(found["right"], found["refused"] + found["in part"]) > READ / 20, found


@pytest.mark.slow
def test_a_bit_of_a_store_that_is_written_on_to(journal: Image, table: Table) -> None:
    found = flips(journal, times(WRITTEN), written_on_to, "write")
    table.add(f"bit flip, {journal.name}, written", times(WRITTEN), found)
    assert min(found["right"], found["refused"] + found["in part"]) > WRITTEN / 20, found
    assert journal.durable == len(journal.events) or found["shorter"], found


@pytest.mark.slow
@pytest.mark.parametrize("writable", [False, True], ids=["read", "written"])
def test_a_bit_under_an_open_store(journal: Image, writable: bool, table: Table) -> None:
    found: Counter[str] = Counter()
    random = dice(f"alive {writable} {journal.name}")
    for file, bit in bits(journal.held, times(LIVE), random, lambda name: not name.startswith(".batpak")):
        try:
            outcome = alive(journal, file, lambda data, bit=bit: flipped_at(data, bit), writable=writable)  # type: ignore[misc]
            assert outcome == "right" or not rebuildable(file)
        except BaseException as error:
            raise AssertionError(f"bit {bit} of {file}: {type(error).__name__}: {error}") from error
        found[outcome] += 1
    table.add(f"bit flip, {journal.name}, under an open store, {'written' if writable else 'read'}", times(LIVE), found)


@pytest.mark.slow
def test_two_bits_at_once(journal: Image, table: Table) -> None:
    found: Counter[str] = Counter()
    random = dice(f"pairs {journal.name}")
    drawn = bits(journal.held, 2 * times(TWICE), random)
    for (file, bit), (other, another) in zip(drawn, drawn, strict=True):
        held = journal.held | {file: flipped_at(journal.held[file], bit)}
        held[other] = flipped_at(held[other], another)
        found[
            twice_damaged(journal, held, {file, other}, random, f"bits {bit} of {file} and {another} of {other}")
        ] += 1
    table.add(f"two bit flips, {journal.name}", times(TWICE), found)


@pytest.mark.slow
def test_a_few_bytes_or_a_sector_overwritten(journal: Image, table: Table) -> None:
    found: Counter[str] = Counter()
    random = dice(f"overwritten {journal.name}")
    files = [name for name, data in journal.held.items() if data]
    for number in range(times(OVERWRITTEN)):
        file, how = random.choice(files), OVERWRITING[number % len(OVERWRITING)]
        held = journal.held | {file: overwritten(journal.held[file], random, how)}
        found[twice_damaged(journal, held, {file}, random, f"{how} in {file}, case {number}")] += 1
    table.add(f"bytes overwritten, {journal.name}", times(OVERWRITTEN), found)


def twice_damaged(journal: Image, held: Content, files: set[str], random: Random, what: str) -> str:
    """Judge *held*; what was durable is known no more where the durable position is damaged beside a segment."""
    if len(files) > 1 and watermark.NAME in files:
        journal = replace(journal, durable=0)
    try:
        outcome = (read_only if random.random() < 0.5 else written_on_to)(journal, held)
        assert outcome == "right" or not all(map(rebuildable, files))
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    return outcome


# Stores of the original: nothing tells how far they were durable, so a torn end may be cut


def original(journal: Image, held: Content, *, writable: bool) -> str:
    """All of it, or a refusal at once; of a store that was killed a torn end may be missing, which is in quarantine."""
    files, found = laid_out(held), []
    try:
        for _ in range(2):
            with open_image(files, writable=writable) as store:
                found.append(shown(store))
                store.verify_chain()
    except BatpakError:
        assert not found, "refused at once or not at all"
        assert writable or not changed(held, whole(files))
        return "refused"
    events = found[0]
    assert found == [events, events]
    assert events == journal.events[: len(events)]
    if len(events) == len(journal.events):
        return "right"
    assert files.list("quarantine") or not writable
    return "shorter"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CLOSED, *KILLED])
def test_a_bit_of_a_store_of_the_original(name: str, table: Table) -> None:
    journal = golden_image(name)
    found: Counter[str] = Counter()
    for number, (file, bit) in enumerate(bits(journal.held, 2 * times(ORIGINAL), dice(name))):
        held = journal.held | {file: flipped_at(journal.held[file], bit)}
        try:
            found[original(journal, held, writable=number % 2 > 0)] += 1
        except BaseException as error:
            raise AssertionError(f"bit {bit} of {file}: {type(error).__name__}: {error}") from error
    table.add(f"bit flip, the original's {name}", 2 * times(ORIGINAL), found)
    assert name in KILLED or not found["shorter"], found
    assert found["refused"], found
