"""Cursor checkpoints of the original: each is taken over once, for its own region, and goes on where it stood."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest

from batpak import (
    CorruptStoreError,
    EventKind,
    InvalidRequestError,
    PlaceConflictError,
    Region,
    Store,
    StoreConfig,
)
from batpak.storage import place_file
from batpak.storage.original_cursor import Checkpoint, decode, identities
from batpak.testing.memory import MemoryFiles
from tests.delivery.growing import grow, rest
from tests.directories import directory, flipped, load
from tests.golden.walker import GOLDEN, expected
from tests.store.journals import Loose

STORE = GOLDEN / "rust" / "0.10.0" / "cursors"
TOLD: dict[str, dict[str, Any]] = {each["checkpoint_id"]: each for each in expected(STORE)["cursors"]}
EVERYTHING = Region(include_system=True)
REGIONS = {
    "all-start": EVERYTHING,
    "all-middle": EVERYTHING,
    "all-end": EVERYTHING,
    "entity": Region(entity="account:1", include_system=True),
    "scope": Region(scope="bank", include_system=True),
    "entity.scope": Region(entity="account:1", scope="bank", include_system=True),
    "kind-exact": Region(kind=EventKind(0x2, 0x0AB), include_system=True),
    "kind-category": Region(category=0xF, include_system=True),
    "kind-any": EVERYTHING,
    "clock": Region(sequences=(1, 3), include_system=True),
    "rolled-back": EVERYTHING,
}
REFUSED = {"lane"}
CLOSED_BY_THE_ORIGINAL = 22
"""The event that the original wrote when it was closed, after its cursors had been asked."""


def golden(**changes: bytes | None) -> MemoryFiles:
    """Return the store, with the checkpoints of these names changed, or added."""
    held = load(STORE / "store")
    for name, data in changes.items():
        if data is None:
            del held[f"cursors/{name}.ckpt"]
        else:
            held[f"cursors/{name}.ckpt"] = data
    return directory(held)


def opened(files: MemoryFiles) -> Store:
    return Store(files.beside(), StoreConfig())


def checkpoint(position: Loose, identity: Loose = "entity=*|scope=*|fact=none|clock=*", **changes: Loose) -> bytes:
    """Return a checkpoint as the original writes it."""
    fields = {"position": position, "started": True, "process_boot_ns": None, "region_identity": identity} | changes
    packed: bytes = msgpack.packb({name: value for name, value in fields.items() if value is not ...})
    return packed


def test_every_golden_checkpoint_has_its_region() -> None:
    assert REGIONS.keys() | REFUSED == TOLD.keys()
    assert len(TOLD) == 12


@pytest.mark.parametrize("name", REGIONS)
def test_p36_a_checkpoint_goes_on_where_the_original_would_have(name: str, tmp_path: Path) -> None:
    shutil.copytree(STORE / "store", tmp_path / "journal")
    told = TOLD[name]
    wanted = told.get("next_after_resume")
    with Store.open(tmp_path / "journal") as store:
        with store.cursor(REGIONS[name], name=name) as cursor:
            assert cursor.committed is not None
            assert cursor.committed.global_sequence == told["position"]
            found = rest(cursor)
        region = REGIONS[name]
        if wanted is None:  # the original was not asked
            wanted = [entry.global_sequence for entry in store.query(region, after=told["position"], limit=16)]
        assert [number for number in found if number < CLOSED_BY_THE_ORIGINAL] == wanted
        assert found == [entry.global_sequence for entry in store.query(region, after=told["position"])]
        assert told["region_identity"] in identities(region)


@pytest.mark.parametrize("name", REGIONS)
def test_a_checkpoint_is_read_once_and_then_ours_counts(name: str) -> None:
    files = golden()
    with opened(files) as store:
        cursor = store.cursor(REGIONS[name], name=name)
        start = cursor.committed
        delivered = rest(cursor, 2)
        cursor.commit()
        committed = cursor.committed
        assert (committed != start) == bool(delivered)
    file = files.beside().open_write(f"cursors/{name}.ckpt")
    file.truncate(0)
    file.pwrite(checkpoint(1), 0)  # nobody looks at it any more
    with opened(files) as store:
        with store.cursor(REGIONS[name], name=name) as cursor:
            assert cursor.committed == committed
        assert [place.name for place in store.places()] == [name]


def test_a_checkpoint_that_was_taken_over_is_on_disk_without_a_commit() -> None:
    files = golden()
    with opened(files) as store:
        store.cursor(EVERYTHING, name="all-middle")
        killed, cut = files.copy(), files.crashed()
    for image in (killed, cut):
        image.remove("cursors/all-middle.ckpt")
        with opened(image) as store:
            assert rest(store.cursor(EVERYTHING, name="all-middle"))[0] == 12


def test_a_name_that_was_deleted_takes_its_checkpoint_over_again() -> None:
    with opened(golden()) as store:
        with store.cursor(EVERYTHING, name="all-middle") as cursor:
            rest(cursor)
            cursor.commit()
        assert store.delete_place("all-middle")
        assert rest(store.cursor(EVERYTHING, name="all-middle"))[0] == 12


def test_the_start_is_for_names_that_the_original_has_not_left() -> None:
    with opened(golden()) as store:
        assert rest(store.cursor(EVERYTHING, name="all-middle", start="end"))[0] == 12
        assert rest(store.cursor(EVERYTHING, name="all-midd", start=20))[0] == 21


def test_a_cursor_that_has_taken_over_goes_on_with_what_we_append() -> None:
    with opened(golden()) as store:
        cursor = store.cursor(EVERYTHING, name="all-end")
        rest(cursor)
        cursor.commit()
        receipt = grow(store, 1)[0]
        assert rest(cursor) == [receipt.global_sequence]


def test_places_lists_what_was_taken_over_alone() -> None:
    with opened(golden()) as store:
        assert store.places() == []
        store.cursor(REGIONS["scope"], name="scope").close()
        (place,) = store.places()
        assert (place.name, place.region, place.damage) == ("scope", REGIONS["scope"], None)
        assert place.lag_events == len(TOLD["scope"]["next_after_resume"])
        with pytest.raises(InvalidRequestError):
            store.wait_for("entity", 0, 0)


@pytest.mark.parametrize("name", TOLD)
def test_p36_a_checkpoint_of_another_region_refuses_and_is_left(name: str) -> None:
    others = [
        *(region for other, region in REGIONS.items() if identities(region) != identities(REGIONS.get(name, Region()))),
        Region(entity="account"),
        Region(scope="banks"),
        Region(kind=EventKind(0x2, 0x0AC)),
        Region(category=0x2),
        Region(sequences=(1, 4)),
    ]
    files = golden()
    with opened(files) as store:
        for region in others if name not in REFUSED else [*others, EVERYTHING, Region()]:
            with pytest.raises(PlaceConflictError) as caught:
                store.cursor(region, name=name)
            assert caught.value.name == name
            assert TOLD[name]["region_identity"] in caught.value.found
            assert str(region) in caught.value.expected
        assert store.places() == []
        assert files.exists(f"cursors/{name}.ckpt")


def test_p36_a_checkpoint_without_a_region_refuses() -> None:
    for identity in (None, ...):
        with opened(golden(mine=checkpoint(3, identity))) as store, pytest.raises(PlaceConflictError):
            store.cursor(EVERYTHING, name="mine")


def test_a_checkpoint_from_before_the_first_event_begins_with_it() -> None:
    with opened(golden(mine=checkpoint(0, started=False))) as store:
        cursor = store.cursor(EVERYTHING, name="mine", start="end")
        assert (cursor.committed, rest(cursor, 1)) == (None, [0])


def test_a_checkpoint_behind_the_first_event_begins_with_the_second() -> None:
    with opened(golden(mine=checkpoint(0))) as store:
        assert rest(store.cursor(EVERYTHING, name="mine"), 1) == [1]


def test_p36_a_checkpoint_ahead_of_the_journal_refuses() -> None:
    for position in (24, 2**63, 2**64 - 1):
        with opened(golden(mine=checkpoint(position))) as store, pytest.raises(CorruptStoreError) as caught:
            store.cursor(EVERYTHING, name="mine")
        assert caught.value.file == "cursors/mine.ckpt"
        assert str(position) in caught.value.found


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93\x01\x02\x03",
        b"\x07",
        checkpoint(3)[:-1],
        checkpoint(3) + b"\x00",
        checkpoint(-1),
        checkpoint("3"),
        checkpoint(True),
        checkpoint(3, 7),
        checkpoint(3, b"bytes"),
        checkpoint(3, started=1),
        checkpoint(3, started=...),
        checkpoint(...),
        b"\xff" * 70_000,
    ],
)
def test_p36_a_damaged_checkpoint_refuses_and_is_left(data: bytes) -> None:
    files = golden(mine=data)
    with opened(files) as store:
        for _ in range(2):
            with pytest.raises(CorruptStoreError) as caught:
                store.cursor(EVERYTHING, name="mine", start="end")
            assert caught.value.file == "cursors/mine.ckpt"
        assert store.places() == []
        assert files.beside().read_bytes("cursors/mine.ckpt", 1 << 20) == data
        store.cursor(EVERYTHING, name="other").close()


def test_p36_no_bit_of_a_checkpoint_makes_it_one_of_a_wrong_type() -> None:
    """It has no checksum, so another position may be believed; nothing but a checkpoint or a refusal comes out."""
    data = (STORE / "store" / "cursors" / "all-middle.ckpt").read_bytes()
    believed = refused = 0
    for bit in range(len(data) * 8):
        try:
            found = decode("a file", flipped(data, bit))
        except CorruptStoreError as error:
            refused += error.file == "a file"
        else:
            believed += isinstance(found, Checkpoint)
    assert believed + refused == len(data) * 8
    assert min(refused, believed) > 100


@pytest.mark.parametrize("name", ["all-middle.ckpt", "cursors", "x" * 1024, "*", "all-?iddle", ".."[:1]])
def test_a_name_is_never_taken_for_a_pattern_or_a_path(name: str) -> None:
    with opened(golden()) as store:
        cursor = store.cursor(EVERYTHING, name=name)
        assert (cursor.committed, rest(cursor, 1)) == (None, [0])
        assert [place.file for place in store.places()] == [place_file.file_name(name)]


@pytest.mark.parametrize(
    ("region", "texts"),
    [
        (Region(), {"entity=*|scope=*|fact=none|clock=*", "entity=*|scope=*|fact=any|clock=*"}),
        (Region(kind=EventKind(0xF, 0x00A)), {"entity=*|scope=*|fact=exact:f:a|clock=*"}),
        (Region(category=0xA, scope="s"), {"entity=*|scope=s|fact=category:a|clock=*"}),
        (Region(category=0xA, kind=EventKind(0xA, 1)), {"entity=*|scope=*|fact=exact:a:1|clock=*"}),
        (Region(category=0xB, kind=EventKind(0xA, 1)), set()),
        (Region(correlation_id=UUID(int=1)), set()),
    ],
)
def test_a_region_is_spelt_as_the_original_spells_it(region: Region, texts: set[str]) -> None:
    assert set(identities(region)) == texts
