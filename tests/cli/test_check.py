"""A check from outside: what is sound is called so, the first damage is named, and nothing is believed."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import pytest
from crc32c import crc32c

from batpak import (
    Anchor,
    CheckReport,
    Coordinate,
    CorruptStoreError,
    Damage,
    InvalidDirectoryError,
    NewEvent,
    ReadOnlyStore,
    Region,
    Store,
    StoreConfig,
    UnsupportedFormatError,
    check_store,
)
from batpak.check import check_files
from batpak.storage import place_file, watermark
from batpak.storage.examination import Examined, examine
from batpak.storage.files import Files
from batpak.storage.frame import FRAME
from batpak.storage.run_format import HEADER, HEADER_BYTES
from batpak.storage.run_state import RunState
from batpak.storage.segment import footer_bytes
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.cli.stores import (
    FORMATS,
    ORDER,
    PLACED,
    Format,
    config,
    damaged,
    damages,
    frames,
    life,
    moments,
    opened,
    without,
)
from tests.directories import Content, content, directory, flipped, load, shown
from tests.faults.tampering import EDITS, HASHLESS, Edit, Forgery
from tests.faults.test_tampering import journal
from tests.golden.walker import STORES, name_of
from tests.store.processes import start_python, told

formats = pytest.mark.parametrize("segment_format", FORMATS, ids=["format2", "format1"])


def checked(held: Content | MemoryFiles, anchor: Anchor | None = None) -> CheckReport:
    """Check a directory, which is left as it is."""
    files = held if isinstance(held, MemoryFiles) else directory(held)
    before = content(files)
    report = check_files(files.beside(), anchor, None)
    assert content(files) == before
    return report


def first_damage(held: Content) -> Damage:
    report = checked(held)
    assert report.verdict == "damaged"
    assert report.damage is not None
    return report.damage


@formats
def test_a_store_that_was_closed_is_sound_and_counted(segment_format: Format) -> None:
    past = life(segment_format)
    report = checked(past.closed)
    assert report == CheckReport(
        verdict="sound",
        events=len(past.events),
        next_global_sequence=len(past.events),
        segments=len(past.names),
        bytes=sum(len(past.closed[name]) for name in past.names),
        durable_sequence=len(past.events) - 1,
        places=2,
    )


@formats
def test_whatever_a_crash_leaves_is_no_damage_and_once_opened_it_is_sound(segment_format: Format) -> None:
    for moment in moments(segment_format)[::5]:
        report = checked(moment.files.copy())
        assert report.verdict in {"sound", "mendable"}, report
        assert report.events >= moment.acknowledged
        assert not report.rebuildable
        files = moment.files.copy()
        with opened(files) as store:
            assert len(shown(store)) == report.events
        report = checked(files)
        assert (report.verdict, report.mending) == ("sound", ())


@formats
def test_a_torn_end_is_named_and_where_its_copy_would_go(segment_format: Format) -> None:
    past = life(segment_format)
    last = past.names[-1]
    torn = past.frames(last)[-1]
    held = without(past.killed, "quarantine") | {last: past.killed[last][: torn.end - 3]}
    report = checked(held)
    assert report.verdict == "mendable"
    assert report.events == len(past.events) - 1
    (cut,) = report.mending
    assert cut.startswith(f"cut {last} at byte {torn.offset}, copied to quarantine/{last[:6]}-{torn.offset:012}-")


@formats
def test_the_first_damage_is_named_whatever_happened(segment_format: Format) -> None:
    past = life(segment_format)
    _, second, *_, last = past.names
    found = {what: first_damage(held) for what, held in damages(past).items()}
    middle = past.frames(second)[4]
    where = {what: (damage.file, damage.offset) for what, damage in found.items()}
    assert where["a frame of a sealed segment"] == (second, middle.offset)
    assert where["two damages"] == (second, middle.offset)
    assert where["the header of the last segment"] == (last, 0)
    assert where["a missing last segment"] == (last, 0)
    assert where["a durable frame of the last segment"] == (last, past.frames(last)[0].offset)
    assert where["a frame that only the index knows to be durable"] == (last, past.frames(last)[-2].offset)
    assert where["a name that is not canonical"] == ("7.fbat", 0)
    assert found["a frame of a sealed segment"].found == "a frame whose checksum is wrong"
    proven = middle.frame.global_sequence
    assert found["a frame of a sealed segment"].provable == f"the events below global sequence {proven}"


@formats
def test_a_flipped_bit_is_found_wherever_it_matters(segment_format: Format) -> None:
    """In frames and headers always; in a footer or a position the next open heals it, and says so."""
    past = life(segment_format)
    random = Random(1)
    for name in past.names:
        start, end = past.meta(name).frames_start, past.frames(name)[-1].end
        for _ in range(30):
            at = random.randrange(start, end)
            assert (
                first_damage(past.closed | {name: flipped(past.closed[name], 8 * at + random.randrange(8))}).file
                == name
            )
        for at in range(end, len(past.closed[name]), 31):
            report = checked(damaged(past.closed, name, at))
            assert report.events == len(past.events)
            assert report.verdict != "sound" or name == past.names[-1], (name, at)


def rewritten(held: Content, name: str, past_offset: int, body: bytes, checksum: int) -> Content:
    """Return a directory in which a body was replaced by one of the same length, with a right checksum."""
    data = bytearray(held[name])
    data[past_offset : past_offset + FRAME.size + len(body)] = FRAME.pack(len(body), checksum) + body
    return held | {name: bytes(data)}


@formats
def test_an_event_that_was_edited_with_its_checksum_is_found(segment_format: Format) -> None:
    """In format 2 the next event of the entity gives it away, in format 1 the hash that it carries itself."""
    past = life(segment_format)
    name = past.names[1]
    meta = past.meta(name)
    frame = next(each for each in past.frames(name) if each.frame.entity == ORDER.entity)
    edited = replace(frame.frame, payload=frame.frame.payload[:-1] + b"!")
    body = meta.encode(edited)
    assert len(body) == frame.end - frame.offset - FRAME.size
    held = rewritten(past.closed, name, frame.offset, body, meta.checksum(body))
    damage = first_damage(held)
    assert damage.file == name
    assert (damage.offset or 0) >= frame.offset


def test_a_batch_that_counts_wrongly_is_named_by_its_segment() -> None:
    past = life(2)
    name, frame = next(
        (name, after)
        for name in past.names
        for before, after in pairwise(past.frames(name))
        if before.frame.remaining == 1
    )
    meta = past.meta(name)
    body = meta.encode(replace(frame.frame, remaining=1))
    damage = first_damage(rewritten(past.closed, name, frame.offset, body, meta.checksum(body)))
    assert (damage.file, damage.offset) == (name, frame.offset)
    assert damage.found == "1 frames still to come in a batch"


def test_a_footer_that_lies_with_a_right_checksum_is_found() -> None:
    past = life(2)
    name = past.names[0]
    meta = past.meta(name)
    assert meta.footer is not None
    end = meta.footer.end
    for lie in (
        replace(meta.footer, before=1),
        replace(meta.footer, part=(bytes(32), *meta.footer.part[1:])),
        replace(meta.footer, frames=meta.footer.frames + 1),
    ):
        held = past.closed | {name: past.closed[name][:end] + footer_bytes(meta, lie)}
        damage = first_damage(held)
        assert (damage.file, damage.offset) == (name, end)
        assert damage.found == "a checked footer that speaks of other frames"


def test_rows_of_a_format_1_footer_are_compared_with_the_frames() -> None:
    import zlib

    past = life(1)
    name = past.names[0]
    end = past.frames(name)[-1].end
    footer = bytearray(past.closed[name][end:])
    footer[-20 - 162 + 130] ^= 1  # the correlation id of the last row
    footer[-20 - 162 + 110] ^= 1  # its offset
    footer[-20:-16] = zlib.crc32(bytes(footer[:-20])).to_bytes(4, "little")
    damage = first_damage(past.closed | {name: past.closed[name][:end] + bytes(footer)})
    assert (damage.file, damage.offset) == (name, end)


@formats
def test_an_index_file_that_lies_is_to_be_made_again_and_no_damage(segment_format: Format) -> None:
    past = life(segment_format)
    runs = sorted(name for name in past.closed if name.startswith("index/"))
    data = past.closed[runs[1]]
    for at in range(64, len(data), 997):
        report = checked(damaged(past.closed, runs[1], at))
        assert report.verdict == "mendable"
        assert report.events == len(past.events)
        assert any(runs[1] in line for line in (*report.rebuildable, *report.mending)), at


def test_every_block_of_an_index_file_is_looked_at() -> None:
    files = MemoryFiles()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
        with Store(files.beside(), StoreConfig(driver="stepped"), SteppedDrivers()) as store:
            store.append_batch([NewEvent(Coordinate(f"order:{each}", "shop"), PLACED, each) for each in range(600)])
    held = content(files)
    (run,) = (name for name in held if name.startswith("index/"))
    body_bytes = HEADER.unpack_from(held[run])[4]
    assert body_bytes > 3 << 14
    for at in range(HEADER_BYTES, HEADER_BYTES + body_bytes, 1 << 14):
        (line,) = checked(damaged(held, run, at)).rebuildable
        assert line.startswith(f"{run}: ")


def with_row(data: bytes, change: bytes, at: int, *, state: bytes = b"") -> bytes:
    """Return a run whose body says something else, or whose end, all its checksums right."""
    _, _, _, salt, body_bytes, meta_bytes, _ = HEADER.unpack_from(data)
    body = bytearray(data[HEADER_BYTES : HEADER_BYTES + body_bytes])
    fields = msgpack.unpackb(data[HEADER_BYTES + body_bytes :], use_list=False)
    start = fields["sections"]["rows"][0] + at
    body[start : start + len(change)] = change
    blocks = [crc32c(bytes(body[each : each + (1 << 14)]), salt) for each in range(0, len(body), 1 << 14)]
    fields["blocks"] = b"".join(crc.to_bytes(4, sys.byteorder) for crc in blocks)
    fields["tree"] = state or fields["tree"]
    meta = msgpack.packb(fields, use_bin_type=True)
    magic, version, owner, *_ = HEADER.unpack_from(data)
    head = HEADER.pack(magic, version, owner, salt, body_bytes, meta_bytes, crc32c(meta, salt))
    made: bytes = head + crc32c(head).to_bytes(4, sys.byteorder) + bytes(body) + meta
    return made


@formats
def test_a_row_that_lies_under_right_checksums_is_found(segment_format: Format) -> None:
    past = life(segment_format)
    run = sorted(name for name in past.closed if name.startswith("index/"))[1]
    same = with_row(past.closed[run], b"", 0)
    assert checked(past.closed | {run: same}).verdict == "sound"
    report = checked(past.closed | {run: with_row(past.closed[run], b"\7\0\0\0", 40)})
    assert (report.verdict, report.rebuildable) == (
        "mendable",
        (f"{run}: its row of event 5 says something else",),
    )


@formats
def test_an_index_file_that_lies_of_the_journal_at_its_end_is_found(segment_format: Format) -> None:
    """Anchors are continued from there."""
    past = life(segment_format)
    run = sorted(name for name in past.closed if name.startswith("index/"))[1]
    with closing(directory(past.closed).open_read(run)) as file:
        data = file.pread(file.size(), 0)
    fields = msgpack.unpackb(data[HEADER_BYTES + HEADER.unpack_from(data)[4] :], use_list=False)
    state = RunState.unpack(fields["tree"])
    state.part.nodes[0] = bytes(32)
    report = checked(past.closed | {run: with_row(data, b"", 0, state=state.pack())})
    assert (report.verdict, report.rebuildable) == (
        "mendable",
        (f"{run}: it says something else of the journal at its end",),
    )


@formats
def test_what_the_index_covers_was_durable_whatever_else_is_lost(segment_format: Format) -> None:
    files, drivers = MemoryFiles(), SteppedDrivers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batpak.actors.index.RUN_EVENTS", 5)
        store = Store(files.beside(), config(segment_format), drivers)
        for number in range(7):
            store.append(ORDER, PLACED, number)
            while drivers.step("index") or drivers.step("writer"):
                pass
        held = without(content(files), watermark.NAME)
        store.close()
    assert any(name.startswith("index/") for name in held)
    for at in (1, 4):
        frame = frames(held, "000001.fbat")[at]
        damage = first_damage(damaged(held, "000001.fbat", frame.end - 2))
        assert (damage.file, damage.offset) == ("000001.fbat", frame.offset)
    report = checked(damaged(held, "000001.fbat", frames(held, "000001.fbat")[-1].end - 2))
    assert (report.verdict, report.events) == ("mendable", 6)


def test_a_named_place_ahead_of_the_journal_or_of_another_event_is_damage() -> None:
    past = life(2)
    files = directory(past.closed)
    position = watermark.read(files)
    assert position is not None
    for sequence, there in ((3, "another event"), (1000, "no event")):
        with ReadOnlyStore(files.beside(), StoreConfig()) as store:
            place = next(store.read()).place
        whole, _ = place_file.encode(position.store_id, "mailer", Region(), replace(place, global_sequence=sequence))
        damage = first_damage(past.closed | {place_file.file_name("mailer"): whole})
        assert damage.file == place_file.file_name("mailer")
        assert damage.found == f"the place 'mailer' at global sequence {sequence}, where {there} stands"


def test_a_damaged_place_is_damage() -> None:
    past = life(2)
    name = next(name for name in past.closed if name.startswith("cursors/"))
    assert first_damage(damaged(past.closed, name, 2)).file == name


@formats
def test_an_anchor_holds_for_what_it_was_made_of_and_for_nothing_else(segment_format: Format) -> None:
    past = life(segment_format)
    files = directory(past.closed)
    with ReadOnlyStore(files.beside(), StoreConfig()) as store:
        anchor = store.anchor()
    assert checked(past.closed, anchor).anchored is True
    with opened(files) as store:
        store.append(ORDER, PLACED, "later")
    assert checked(content(files), anchor).anchored is True
    report = checked(past.closed, replace(anchor, digest=bytes(32)))
    assert (report.anchored, report.verdict) == (False, "damaged")
    shorter = checked(past.closed, replace(anchor, events=anchor.events + 1))
    assert (shorter.anchored, shorter.verdict) == (False, "damaged")


@pytest.mark.parametrize("edit", EDITS, ids=[edit.name for edit in EDITS])
@formats
def test_an_edit_by_somebody_who_computes_checksums_is_found_where_a_chain_shows_it(
    segment_format: Format, edit: Edit
) -> None:
    held, anchor = journal(segment_format)
    for relink in (False, True):
        forgery = Forgery(held)
        edit.apply(forgery)
        edited = forgery.write(relink=relink)
        shows = edit.relinked if relink else edit.chain
        against = edit.anchored if segment_format == 2 or not relink or edit.name not in HASHLESS else ""
        report = checked(edited)
        assert (report.verdict == "damaged") >= (str(segment_format) in shows)
        assert (checked(edited, anchor).verdict == "damaged") >= (str(segment_format) in against)


def test_a_store_of_newer_software_and_no_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDirectoryError, match="found no store in it"):
        check_store(tmp_path)
    with pytest.raises(InvalidDirectoryError):
        check_store(tmp_path / "nowhere")
    past = life(2)
    newer = place_file_of_version_9(past.closed)
    with pytest.raises(UnsupportedFormatError):
        checked(newer)


def place_file_of_version_9(held: Content) -> Content:
    """Return a directory whose durable position newer software wrote."""
    data = bytearray(held[watermark.NAME].ljust(1024, b"\0"))
    for start in (0, 512):
        data[start + 6] = 9
        data[start + 72 : start + 76] = crc32c(bytes(data[start : start + 72])).to_bytes(4, "little")
    return held | {watermark.NAME: bytes(data)}


@pytest.mark.parametrize("store", STORES, ids=name_of)
def test_stores_of_the_original_are_sound_unless_they_refuse_to_open(store: Path, tmp_path: Path) -> None:
    held = load(store / "store")
    report = checked(held)
    refused = "bit-flip-in-middle-frame" in name_of(store)
    assert (report.verdict == "damaged") is refused, report


def test_beside_a_writer_nothing_is_called_damage(tmp_path: Path) -> None:
    writer = start_python(
        """
        import sys
        from batpak import Coordinate, EventKind, NewEvent, Region, Store, StoreConfig
        kind, number = EventKind(1, 1), 0
        with Store.open(sys.argv[1], config=StoreConfig(segment_bytes=65_536, sync_every_events=20)) as store:
            cursor = store.cursor(Region(), name="behind")
            print("open", flush=True)
            while not number or number < 6000:
                store.append_batch([NewEvent(Coordinate(f"e:{number % 9}", "s"), kind, "x" * 200)] * 3)
                number += 3
                if number % 30 == 0:
                    cursor.poll_batch(50)
                    cursor.commit()
                if number % 1500 == 0:
                    print(number, flush=True)
                    sys.stdin.readline()
        print("closed", flush=True)
        """,
        tmp_path / "journal",
    )
    with writer:
        assert told(writer) == "open"
        looks = 0
        for _ in range(4):
            report = check_store(tmp_path / "journal")  # it writes meanwhile
            told(writer)
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
            assert report.verdict == "sound", report
            looks += report.writer == writer.pid or not Path("/proc/locks").exists()
        assert looks
        assert told(writer) == "closed"
    report = check_store(tmp_path / "journal")
    assert (report.verdict, report.events, report.writer) == ("sound", 6000, None)


@pytest.mark.parametrize("goes_on", [True, False], ids=["beside a writer", "alone"])
def test_what_looks_damaged_while_somebody_writes_is_looked_at_again(*, goes_on: bool) -> None:
    disk, looks = directory(life(2).closed), 0

    def half_written(files: Files, **options: Any) -> Examined:
        nonlocal looks
        looks += 1
        found = examine(files, **options)
        if looks == 1:
            found.damage = CorruptStoreError("000003.fbat", 99, "half a frame", "a whole one")
            if goes_on:
                with opened(disk) as store:
                    store.append(ORDER, PLACED, "meanwhile")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batpak.check.examine", half_written)
        report = check_files(disk.beside(), None, None)
    assert (looks, report.verdict) == ((2, "sound") if goes_on else (1, "damaged"))


def test_a_check_changes_nothing_on_a_real_disk_either(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store:
        store.append(Coordinate("a", "s"), PLACED, 1)
    before = fingerprint(tmp_path)
    assert check_store(tmp_path / "journal").verdict == "sound"
    assert fingerprint(tmp_path) == before


def fingerprint(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return everything that a change would change: times, sizes, bytes."""
    return {
        str(path): (
            path.stat().st_mtime_ns,
            path.stat().st_ino,
            path.read_bytes() if path.is_file() else os.fsencode("d"),
        )
        for path in sorted(folder.rglob("*"))
    }


def test_progress_is_told_in_bytes() -> None:
    past = life(2)
    told: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batpak.storage.examination.PROGRESS_EVENTS", 5)
        check_files(directory(past.closed), None, lambda done, total: told.append((done, total)))
    assert told
    assert told == sorted(told)
    assert all(done <= total == sum(len(past.closed[name]) for name in past.names) for done, total in told)
