"""The way on after a refusal: what is provable is kept, the rest lies in the quarantine, whenever the power fails."""

from __future__ import annotations

import errno
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from batpak import (
    CorruptStoreError,
    PrefixReport,
    Region,
    Store,
    StoreConfig,
    StoreLockedError,
    check_store,
    keep_prefix,
)
from batpak.check import check_files, prefix_kept
from batpak.storage import place_file, watermark
from batpak.storage.mend import FOLDER
from batpak.storage.segment import footer_bytes
from batpak.testing.faulty import FaultyFiles
from batpak.testing.memory import MemoryFiles
from tests.cli.stores import FORMATS, ORDER, PLACED, Format, Life, damaged, damages, life, opened, without
from tests.directories import Content, content, directory, load, shown
from tests.faults.operations import watch
from tests.golden.walker import GOLDEN
from tests.model.disk import scattered

DAMAGES = sorted(damages(life(2)))
ONLY_WITNESS = {"a frame that only the index knows to be durable", "the same, and no durable position "}
"""Here a file of the index alone says that more was durable: once it is away, the rest is an ordinary torn end."""

CUT_SHORT = [
    "a durable frame of the last segment",
    "a frame of a sealed segment",
    "the last frame, which was durable",
    "a missing last segment",
    "a name that is not canonical",
    "the header of the first segment",
    "the same after a kill",
    "the same, and no durable position",
    *sorted(ONLY_WITNESS),
]
"""What differs in what has to be done, and in what order."""

formats = pytest.mark.parametrize("segment_format", FORMATS, ids=["format2", "format1"])


def kept(files: MemoryFiles, *, accept_loss: bool = True) -> PrefixReport:
    report = prefix_kept(files.beside(), accept_loss=accept_loss)
    assert report is not None
    return report


def settled(files: MemoryFiles) -> Content:
    """Return what a directory holds, without what a crash left on its way to a name."""
    return {name: data for name, data in content(files).items() if ".tmp-" not in name}


def events_of(held: Content, past: Life) -> set[bytes]:
    """Return the hashes of the events whose frames stand somewhere in a directory, the quarantine included."""
    return {event[4] for event in past.events if any(event[2] in data for data in held.values())}


@pytest.mark.parametrize("what", DAMAGES)
@formats
def test_what_is_provable_is_kept_and_nothing_is_deleted(segment_format: Format, what: str) -> None:
    past = life(segment_format)
    held = damages(past)[what]
    files = directory(held)
    looked = kept(files, accept_loss=False)
    assert content(files) == held, "without consent nothing changes"
    report = kept(files)
    assert report == replace(looked, done=True)
    now = content(files)
    check = check_files(files.beside(), None, None)
    assert (check.damage, check.events) == (None, report.kept_events)
    for name, target in report.moved:
        assert name not in now
        assert now[target] == held[name]
    for cut in report.cuts:
        name = f"{cut.segment:06}.fbat"
        assert now[name] == held[name][: cut.offset]
        assert cut.copy is not None
        assert now[cut.copy] == held[name][cut.offset :].rstrip(b"\0")
    assert events_of(held, past) == events_of(now, past)
    with opened(files) as store:
        assert shown(store) == past.events[: report.kept_events]
        assert not store.diagnostics().open_report.quarantined
        assert store.append(ORDER, PLACED, "again").global_sequence == report.next_global_sequence
        assert store.verify_chain().intact
        assert not [place.damage for place in store.places() if place.damage]
        for name in ("early", "late"):
            with closing(store.cursor(Region(entity="order:1" if name == "early" else None), name=name)):
                pass
    assert prefix_kept(files.beside(), accept_loss=True) is None, "there is nothing more to do"
    assert check_files(files.beside(), None, None).verdict == "sound"


@formats
def test_the_loss_is_told(segment_format: Format) -> None:
    past = life(segment_format)
    count = len(past.events)
    for what, held in damages(past).items():
        report = kept(directory(held), accept_loss=False)
        truth = count - report.kept_events
        assert report.next_global_sequence == report.kept_events
        assert report.lost_at_least <= truth, what
        assert report.lost_at_most is None or report.lost_at_most in {truth, report.lost_at_least}, what
        assert report.lost_at_least >= truth - 1, what  # the last event was not durable, no place spoke of it
        ahead = {"early": 1, "late": count - 2}
        assert set(report.places) == {name for name, at in ahead.items() if at >= report.kept_events}, what


class Cuts:
    """Every state in which the power may fail, or the process be killed, while a prefix is kept."""

    def __init__(self, held: Content, seed: int) -> None:
        self.work = directory(held)
        self.states: list[MemoryFiles] = []
        self._random = Random(seed)
        self._on = True
        self._seen: set[int] = set()
        watch(self.work, self._take)
        self.report = kept(self.work)
        self._take()
        self._on = False

    def _take(self) -> None:
        if not self._on:
            return
        for state in (self.work.copy(), self.work.crashed(), scattered(self.work, self._random)):
            known = hash(tuple(sorted(content(state).items())))
            if known not in self._seen:
                self._seen.add(known)
                self.states.append(state)


@pytest.mark.parametrize("what", CUT_SHORT)
@formats
def test_a_power_cut_at_any_moment_leaves_what_gives_the_same_when_it_is_done_again(
    segment_format: Format, what: str
) -> None:
    past = life(segment_format)
    cuts = Cuts(damages(past)[what], 1)
    wanted = settled(cuts.work)
    assert len(cuts.states) > 15
    for at, state in enumerate(cuts.states):
        prefix_kept(state.beside(), accept_loss=True)
        if settled(state) == wanted:
            continue
        assert what in ONLY_WITNESS, at
        with opened(state) as store:
            assert shown(store) == past.events[: cuts.report.kept_events], at
        assert check_files(state.beside(), None, None).verdict == "sound", at


@formats
def test_a_store_in_which_nothing_is_damaged_is_left_alone(segment_format: Format) -> None:
    past = life(segment_format)
    last = past.names[-1]
    torn = past.killed | {last: past.killed[last][: past.frames(last)[-1].end - 3]}
    for held in (past.closed, past.killed, torn):
        files = directory(held)
        assert prefix_kept(files.beside(), accept_loss=True) is None
        assert content(files) == without(held, ".batpak.lock")


def test_a_damaged_place_is_left_to_its_owner() -> None:
    past = life(2)
    place = place_file.file_name("early")
    alone = damaged(past.closed, place, 2)
    files = directory(alone)
    assert prefix_kept(files.beside(), accept_loss=True) is None
    both = damaged(alone, past.names[1], past.frames(past.names[1])[2].offset + 20)
    files = directory(both)
    assert kept(files).kept_events == past.frames(past.names[1])[2].frame.global_sequence
    assert content(files)[place] == both[place]


def test_a_footer_that_lies_is_cut_and_no_event_is_lost() -> None:
    past = life(2)
    name = past.names[0]
    meta = past.meta(name)
    assert meta.footer is not None
    lie = footer_bytes(meta, replace(meta.footer, part=(bytes(32), *meta.footer.part[1:])))
    files = directory(past.closed | {name: past.closed[name][: meta.footer.end] + lie})
    report = kept(files)
    assert (report.kept_events, report.lost_at_most, report.places) == (len(past.events), 0, ())
    with opened(files) as store:
        assert shown(store) == past.events
    assert content(files)[name] == past.closed[name]
    assert check_files(files.beside(), None, None).verdict == "sound"


@formats
def test_a_full_disk_stops_it_before_anything_is_gone(segment_format: Format) -> None:
    past = life(segment_format)
    held = damages(past)["a frame of a sealed segment"]
    disk = directory(held)
    files = FaultyFiles(disk)
    files.fail("pwrite", errno.ENOSPC, name="quarantine/*")
    with pytest.raises(OSError, match="No space") as error:
        prefix_kept(files, accept_loss=True)
    assert error.value.errno == errno.ENOSPC
    assert {name: data for name, data in settled(disk).items() if name in held} == held
    wanted = directory(held)
    kept(wanted)
    kept(disk)
    assert settled(disk) == settled(wanted)


ORIGINALS = [
    GOLDEN / "rust" / name / "store"
    for name in ("0.10.0/basic", "0.10.0/batches", "0.10.0/rotation", "0.3.0/rotated", "0.1.0/one", "0.10.0/reopened")
]


@pytest.mark.parametrize("store", ORIGINALS, ids=lambda path: f"{path.parts[-3]}/{path.parts[-2]}")
def test_a_store_of_the_original_is_cut_where_its_damage_is_and_keeps_its_numbers(store: Path) -> None:
    held = load(store)
    with opened(directory(held)) as whole:
        events = shown(whole)
    name = max(name for name in held if name.endswith(".fbat"))
    bodies = [at for at in range(len(held[name])) if held[name].startswith(b"\xa5event", at)]
    files = directory(damaged(held, name, bodies[len(bodies) // 2] + 30))
    report = prefix_kept(files.beside(), accept_loss=True)
    assert report is not None
    assert report.damage.file == name
    assert check_files(files.beside(), None, None).damage is None
    with opened(files) as cut:
        assert 0 < report.kept_events == len(shown(cut)) < len(events)
        assert [event[0] for event in shown(cut)] == [event[0] for event in events[: report.kept_events]]
        cut.append(ORDER, PLACED, "on")


def test_cancelled_events_behind_the_damage_stop_it_because_they_would_hide_new_ones() -> None:
    held = load(GOLDEN / "rust" / "0.9.0" / "one" / "store")
    bodies = [at for at in range(len(held["000001.fbat"])) if held["000001.fbat"].startswith(b"\xa5event", at)]
    held = damaged(held, "000001.fbat", bodies[len(bodies) // 2] + 30)
    files = directory(held)
    with pytest.raises(CorruptStoreError, match="where new events would be hidden") as error:
        prefix_kept(files.beside(), accept_loss=True)
    assert error.value.file == "visibility_ranges.fbv"
    assert content(files) == without(held, ".batpak.lock")


def test_a_damaged_store_of_the_original_that_refuses() -> None:
    held = load(GOLDEN / "rust" / "0.10.0" / "torn" / "bit-flip-in-middle-frame" / "store")
    files = directory(held)
    with pytest.raises(CorruptStoreError):
        opened(files)
    assert kept(files).kept_events == 3
    with opened(files) as store:
        assert len(shown(store)) == 3


def test_what_is_no_damage_of_events_is_not_paid_for_with_events() -> None:
    held = load(GOLDEN / "rust" / "0.10.0" / "basic" / "store")
    files = directory(damaged(held, "index.idemp", 40))
    with pytest.raises(CorruptStoreError) as refused:
        opened(files)
    with pytest.raises(CorruptStoreError) as error:
        prefix_kept(files.beside(), accept_loss=True)
    assert str(error.value) == str(refused.value)
    assert [name for name in content(files) if name.endswith(".fbat")] == ["000001.fbat"]


def test_what_cannot_be_moved_is_noticed_before_anything_is(tmp_path: Path) -> None:
    past = life(2)
    for name, data in damages(past)["a frame of a sealed segment"].items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    (tmp_path / past.names[-1]).unlink()
    (tmp_path / past.names[-1]).symlink_to(past.names[0])
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(CorruptStoreError, match="a symbolic link"):
        keep_prefix(tmp_path, accept_loss=True)
    assert sorted(path.name for path in tmp_path.rglob("*") if not path.name.startswith(".batpak")) == before


def test_the_lock_is_held_meanwhile_and_the_functions_take_a_directory(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Store.open(journal, config=StoreConfig(segment_bytes=4096)) as store:
        for number in range(40):
            store.append(ORDER, PLACED, [number, "x" * 200])
        with pytest.raises(StoreLockedError):
            keep_prefix(journal, accept_loss=True)
    assert keep_prefix(journal, accept_loss=True) is None
    segment = journal / "000002.fbat"
    data = bytearray(segment.read_bytes())
    data[1000] ^= 1
    segment.write_bytes(bytes(data))
    damage = check_store(journal).damage
    assert damage is not None
    looked = keep_prefix(journal, accept_loss=False)
    report = keep_prefix(journal, accept_loss=True)
    assert looked is not None
    assert report == replace(looked, done=True)
    assert (report.damage, report.lost_at_most) == (damage, 40 - report.kept_events)
    assert {path.name for path in (journal / FOLDER).iterdir()} == {
        name.partition("/")[2]
        for name in [*(target for _, target in report.moved), *(cut.copy or "" for cut in report.cuts)]
    }
    assert not (journal / watermark.NAME).exists()
    with Store.open(journal) as store:
        assert store.stats().events == report.kept_events
