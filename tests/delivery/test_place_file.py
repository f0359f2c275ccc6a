"""The bytes of a named place: as docs/format.md has them, and never believed where they are damaged."""

from __future__ import annotations

import struct
from uuid import UUID

import msgpack
import pytest
from blake3 import blake3
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from batpak import Coordinate, CorruptStoreError, EventKind, Place, Region, Store, UnsupportedFormatError
from batpak.errors import BatpakError
from batpak.storage import place_file
from batpak.storage.place_file import SLOTS, PlaceSlot, decode, encode, encode_slot
from tests.delivery.growing import grow, rest
from tests.directories import flipped
from tests.store.journals import EVERYTHING, LONG, Journal

STORE_ID = bytes(range(16))
OLDER, NEWER = Place(6, b"\x06" * 32), Place(7, b"\x07" * 32)
REGION = Region(entity="order", kind=EventKind(0x1, 0x002), sequences=(1, 9), correlation_id=UUID(int=3))


def both_slots(older: Place | None = OLDER, newer: Place | None = NEWER) -> bytes:
    """Return a file with a place in each slot, that of the odd slot the older."""
    whole, head = encode(STORE_ID, "mine", REGION, older)
    slot = encode_slot(head.crc, 2, newer)
    return whole[: SLOTS[0]] + slot + whole[SLOTS[0] + len(slot) :]


# As it is written ------------------------------------------------------------------------------------------------


def test_the_file_is_laid_out_as_documented() -> None:
    data = both_slots()
    magic, version, store_id, length = struct.unpack_from("<6sH16sI", data)
    assert (magic, version, store_id) == (b"BPPLAC", 1, STORE_ID)
    assert msgpack.unpackb(data[28 : 28 + length]) == {
        "name": "mine",
        "region": {"entity": "order", "kind": 0x1002, "sequences": [1, 9], "correlation_id": UUID(int=3).bytes},
    }
    head_crc = crc32c(data[: 28 + length])
    assert struct.unpack_from("<I", data, 28 + length) == (head_crc,)
    for offset, count, place in ((4608, 1, OLDER), (4096, 2, NEWER)):
        body = struct.pack("<QQQ", count, 1, place.global_sequence) + place.event_hash
        assert data[offset : offset + 56] == body
        assert struct.unpack_from("<I", data, offset + 56) == (crc32c(body, head_crc),)
    assert len(data) == 4608 + 60
    assert not any(data[32 + length : 4096])


def test_the_file_is_named_by_the_hash_of_the_name() -> None:
    name = "ä/../b" * 10
    assert place_file.file_name(name) == f"cursors/{blake3(name.encode()).digest()[:16].hex()}.place"


def test_two_slots_are_written_in_turn_and_the_third_left_alone(journal: Journal) -> None:
    store = journal.store
    grow(store, 8)
    cursor = store.cursor(EVERYTHING, name="mine")
    file = place_file.file_name("mine")
    before = journal.disk.read_bytes(file, 1 << 20).ljust(SLOTS[2] + 60, b"\0")
    for number in range(8):
        rest(cursor, 1)
        cursor.commit()
        after = journal.disk.read_bytes(file, 1 << 20).ljust(SLOTS[2] + 60, b"\0")
        changed = {at & ~511 for at in range(len(after)) if after[at : at + 1] != before[at : at + 1]}
        assert changed == {SLOTS[(0, 2)[number % 2]]}
        before = after


def test_what_a_power_cut_goes_back_to_is_whole_and_at_most_64_commits_old(journal: Journal) -> None:
    store, file = journal.store, place_file.file_name("mine")
    grow(store, 140)
    cursor = store.cursor(EVERYTHING, name="mine")
    behind = []
    for number in range(140):
        rest(cursor, 1)
        cursor.commit()
        crashed = journal.disk.crashed()
        _, durable = decode(file, crashed.read_bytes(file, 1 << 20))
        behind.append(number + 2 - durable.count)
        newer = journal.disk.read_bytes(file, 1 << 20).ljust(SLOTS[2] + 60, b"\0")
        for slot in set(range(3)) - {durable.number}:  # what a torn write hurts is never that one
            torn = newer[: SLOTS[slot]] + b"\x55" * 60 + newer[SLOTS[slot] + 60 :]
            assert decode(file, torn)[1].count >= durable.count
    assert max(behind) == 64


def coordinate_text(text: str) -> bool:
    try:
        Coordinate(text, text)
    except BatpakError:
        return False
    return True


TEXTS = st.one_of(
    st.text(min_size=1, max_size=30).filter(coordinate_text), st.just("n" * 1024), st.just("\U0001f984" * 256)
)
PLACES = st.none() | st.builds(Place, st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32))
REGIONS = st.builds(
    Region,
    entity=st.none() | TEXTS,
    scope=st.none() | TEXTS,
    kind=st.none() | st.integers(0, 0xFFFF).map(EventKind.from_value),
    category=st.none() | st.integers(0, 15),
    sequences=st.none() | st.tuples(st.integers(0, 2**40), st.integers(2**40, 2**64 - 1)),
    correlation_id=st.none() | st.uuids(),
    include_system=st.booleans(),
)


@given(st.binary(min_size=16, max_size=16), TEXTS, REGIONS, PLACES)
def test_what_is_encoded_is_decoded(store_id: bytes, name: str, region: Region, place: Place | None) -> None:
    whole, head = encode(store_id, name, region, place)
    assert decode("file", whole) == (head, PlaceSlot(1, place))
    assert (head.store_id, head.name, head.region) == (store_id, name, region)


# Damage ----------------------------------------------------------------------------------------------------------


def outcome(data: bytes) -> Place | str | None:
    """Return the place that *data* gives, or what refuses it."""
    try:
        head, slot = decode("the file", data)
    except CorruptStoreError as error:
        return "refused" if error.file == "the file" else error.file
    assert (head.store_id, head.name, head.region) == (STORE_ID, "mine", REGION)
    return slot.place


def test_p36_any_bit_that_changes_gives_a_place_that_was_committed_or_a_refusal() -> None:
    data = both_slots()
    head_end = 32 + int.from_bytes(data[24:28], "little")
    for bit in range(len(data) * 8):
        byte = bit >> 3
        if byte < head_end:
            wanted: Place | str = "refused"
        else:
            wanted = OLDER if SLOTS[0] <= byte < SLOTS[0] + 60 else NEWER
        assert outcome(flipped(data, bit)) == wanted, f"bit {bit}"


def test_p36_a_file_that_was_cut_gives_a_place_that_was_committed_or_a_refusal() -> None:
    data = both_slots()
    for length in range(len(data)):
        assert outcome(data[:length]) == (NEWER if length >= SLOTS[0] + 60 else "refused"), length


@given(st.integers(0, 59), st.binary(min_size=1, max_size=60), st.sampled_from(SLOTS[:2]))
def test_p36_a_slot_that_was_overwritten_in_part_gives_the_other(at: int, torn: bytes, slot: int) -> None:
    data = both_slots()
    torn = torn[: 60 - at]
    changed = data[: slot + at] + torn + data[slot + at + len(torn) :]
    assert outcome(changed) == (NEWER if changed == data or slot == SLOTS[1] else OLDER)


def test_p36_both_slots_damaged_refuse() -> None:
    data = flipped(flipped(both_slots(), SLOTS[0] * 8 + 3), SLOTS[1] * 8 + 3)
    with pytest.raises(CorruptStoreError) as caught:
        decode("the file", data)
    assert (caught.value.file, caught.value.offset) == ("the file", SLOTS[0])
    assert "delete_place" in caught.value.provable


def test_p36_a_slot_of_another_name_is_not_believed() -> None:
    _, other = encode(STORE_ID, "other", REGION, None)
    data = both_slots()
    slot = encode_slot(other.crc, 9, Place(99, bytes(32)))
    assert outcome(data[: SLOTS[0]] + slot + data[SLOTS[0] + 60 :]) == OLDER


@given(st.binary(max_size=5000))
def test_p36_arbitrary_bytes_refuse(data: bytes) -> None:
    for each in (data, b"BPPLAC" + data, b"BPPLAC\x01\0" + data):
        with pytest.raises(CorruptStoreError):
            decode("the file", each)


@pytest.mark.parametrize(
    "description",
    [
        7,
        {},
        {"name": "mine"},
        {"name": "mine", "region": 3},
        {"name": "mine", "region": {"entity": 3}},
        {"name": "mine", "region": {"entity": ""}},
        {"name": "mine", "region": {"kind": 1 << 20}},
        {"name": "mine", "region": {"sequences": 3}},
        {"name": "mine", "region": {"sequences": [3, 1]}},
        {"name": "mine", "region": {"correlation_id": b"short"}},
        {"name": "mine", "region": {"unknown": 1}},
    ],
)
def test_p36_a_description_that_makes_no_sense_refuses(description: object) -> None:
    packed = msgpack.packb(description)
    head = struct.pack("<6sH16sI", b"BPPLAC", 1, STORE_ID, len(packed)) + packed
    whole = (head + struct.pack("<I", crc32c(head))).ljust(SLOTS[0], b"\0") + encode_slot(crc32c(head), 1, OLDER)
    with pytest.raises(CorruptStoreError):
        decode("the file", whole)


def test_p36_a_newer_version_is_named() -> None:
    head = struct.pack("<6sH16sI", b"BPPLAC", 2, STORE_ID, 0)
    with pytest.raises(UnsupportedFormatError) as caught:
        decode("the file", (head + struct.pack("<I", crc32c(head))).ljust(5000, b"\0"))
    assert (caught.value.file, caught.value.found, caught.value.supported) == ("the file", 2, "1")


def test_p36_a_store_on_a_damaged_place_file_goes_on_from_a_commit_or_refuses(journal: Journal) -> None:
    store = journal.store
    grow(store, 6)
    with store.cursor(EVERYTHING, name="mine") as cursor:
        for _ in range(2):
            rest(cursor, 2)
            cursor.commit()
    file = place_file.file_name("mine")
    data = journal.disk.read_bytes(file, 1 << 20)
    head_end = 32 + int.from_bytes(data[24:28], "little")
    seen = set()
    touched = [*range(head_end), *(byte for slot in SLOTS for byte in range(slot, slot + 60))]
    for number, byte in enumerate(touched):
        for bit in range(8) if LONG else (number % 8,):
            journal.disk.open_write(file).pwrite(flipped(data, byte * 8 + bit), 0)
            try:
                with store.cursor(EVERYTHING, name="mine", start="beginning") as again:
                    seen.add(rest(again, 1)[0])
            except CorruptStoreError:
                seen.add(-1)
            assert journal.disk.read_bytes(file, 1 << 20) == flipped(data, byte * 8 + bit)
    assert seen == {-1, 2, 4}


def test_p36_a_place_that_a_reopen_finds_is_the_one_that_was_committed(journal: Journal) -> None:
    grow(journal.store, 6)
    file = place_file.file_name("mine")
    cursor = journal.store.cursor(EVERYTHING, name="mine")
    for number in range(6):
        rest(cursor, 1)
        cursor.commit()
        head, slot = decode(file, journal.disk.read_bytes(file, 1 << 20))
        assert (head.name, head.region, slot) == ("mine", EVERYTHING, PlaceSlot(number + 2, cursor.committed))
    store: Store = journal.reopen()
    assert [place.place for place in store.places()] == [cursor.committed]
