"""What opening keeps, cuts and refuses, and that it changes nothing else."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from typing import Any, Literal

import pytest

from batpak import (
    Coordinate,
    CorruptStoreError,
    EventKind,
    NewEvent,
    ReadOnlyStore,
    StorageError,
    Store,
    StoreConfig,
)
from batpak.storage import watermark
from batpak.storage.frame import FRAME
from batpak.storage.scan import Batches, Found, Walk, behind
from batpak.storage.segment import SegmentMeta, read_meta
from batpak.testing.clock import HandClock
from batpak.testing.faulty import FaultyFiles
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.directories import Content, content, directory, flipped, segments, shown

ORDER, OTHER = Coordinate("order:1", "shop"), Coordinate("order:2", "shop")
PLACED = EventKind(0x1, 0x001)
Format = Literal[1, 2]


def config(segment_format: Format | None = None) -> StoreConfig:
    segment_bytes = 11_000 if segment_format == 1 else 6144
    return StoreConfig(driver="stepped", segment_format=segment_format, segment_bytes=segment_bytes, clock=HandClock())


def opened(held: Content | MemoryFiles, segment_format: Format | None = None) -> Store:
    files = held if isinstance(held, MemoryFiles) else directory(held)
    return Store(files.beside(), config(segment_format), SteppedDrivers())


def looked_at(held: Content | MemoryFiles) -> ReadOnlyStore:
    files = held if isinstance(held, MemoryFiles) else directory(held)
    return ReadOnlyStore(files.beside(), config(), SteppedDrivers())


def batch(*payloads: Any) -> list[NewEvent]:
    return [NewEvent(OTHER, PLACED, payload) for payload in payloads]


@pytest.fixture(params=[2, 1], ids=["format2", "format1"])
def segment_format(request: pytest.FixtureRequest) -> Format:
    found: Format = request.param
    return found


class Life:
    """A journal of three segments: what it holds after a close, and what a kill left of it, not all of it durable."""

    def __init__(self, segment_format: Format) -> None:
        files = MemoryFiles()
        store = opened(files, segment_format)
        for number in range(17):
            store.append(ORDER, PLACED, [number, "x" * 500])
            if number % 5 == 2:
                store.append_batch(batch(number, number + 1, "y" * 100))
        store.append(OTHER, PLACED, "z" * 1500)
        for number in range(3):
            store.append(ORDER, PLACED, number)
            store.append_batch(batch(number, number))
        store.sync()
        self.durable = store.stats().durable_sequence + 1
        store.append(ORDER, PLACED, "late")
        store.append_batch(batch("late", "later"))
        store.append(ORDER, PLACED, "last")
        self.events = shown(store)
        self.killed = content(files)
        self.unsealed = {name: data for name, data in self.killed.items() if name != watermark.NAME}
        store.close()
        self.closed = content(files)
        self.names = segments(self.killed)
        assert len(self.names) >= 3


LIVES: dict[Format, Life] = {}


@pytest.fixture
def life(segment_format: Format) -> Life:
    if segment_format not in LIVES:
        LIVES[segment_format] = Life(segment_format)
    return LIVES[segment_format]


def meta_of(held: Content, name: str) -> SegmentMeta:
    return read_meta(directory(held), int(name[:-5]))


def frames(held: Content, name: str) -> list[Found]:
    files = directory(held)
    meta = read_meta(files, int(name[:-5]))
    with closing(files.open_read(name)) as file:
        return list(Walk(file, meta))


def position_of(held: Content) -> watermark.DurablePosition:
    position = watermark.read(directory(held))
    assert position is not None
    return position


def damaged(held: Content, name: str, at: int) -> Content:
    return held | {name: flipped(held[name], 8 * at)}


def refuses(held: Content) -> CorruptStoreError:
    """Both kinds of open refuse, and leave every byte where it is."""
    caught = []
    for opener in (opened, looked_at):
        files = directory(held)
        with pytest.raises(CorruptStoreError) as error:
            opener(files)
        assert content(files) == held
        caught.append(error.value)
    assert str(caught[0]) == str(caught[1])
    return caught[0]


# The durable position


def test_what_a_kill_left_is_all_there(life: Life) -> None:
    with looked_at(life.killed) as store:
        assert shown(store) == life.events
    with opened(life.killed) as store:
        assert shown(store) == life.events
        assert store.verify_chain().intact


def test_damage_below_the_durable_position_refuses_and_says_what_is_provable(life: Life) -> None:
    last = life.names[-1]
    found = frames(life.killed, last)
    position = position_of(life.killed)
    first, batches = meta_of(life.killed, last).first_sequence or 0, Batches()
    refused = 0
    for each in found:
        if each.end <= position.offset:
            error = refuses(damaged(life.killed, last, each.end - 5))
            assert (error.file, error.offset) == (last, each.offset)
            assert error.provable == f"the events below global sequence {first}"
            refused += 1
        first += len(batches.feed(each, meta_of(life.killed, last).version))
    assert refused > 3


def test_damage_above_the_durable_position_is_cut_with_all_behind_it(life: Life) -> None:
    last = life.names[-1]
    position = position_of(life.killed)
    above = [each for each in frames(life.killed, last) if each.offset >= position.offset]
    whole = life.killed[last]
    for each in above:
        held = damaged(life.killed, last, each.end - 1)
        with looked_at(held) as reader:
            seen = shown(reader)
        assert life.durable <= len(seen) < len(life.events)
        assert seen == life.events[: len(seen)]
        files = directory(held)
        with opened(files) as store:
            assert shown(store) == seen
            (cut,) = store.diagnostics().open_report.quarantined
            assert cut.offset <= each.offset
            assert held[last][cut.offset :].rstrip(b"\0") == content(files)[cut.file]
            assert content(files)[last] == whole[: cut.offset]
            store.append(ORDER, PLACED, "again")
        with opened(files) as store:
            assert shown(store)[:-1] == seen
            assert store.verify_chain().intact
            assert not store.diagnostics().open_report.quarantined


def test_frames_behind_damage_tell_the_durable_position_too() -> None:
    """Without its file it is found in the frame that was written after the last sync."""
    life = Life(2)
    last = life.names[-1]
    found = frames(life.unsealed, last)
    told = [each for each in found if "durable" in each.frame.extensions][-1]
    position = told.frame.extensions["durable"]
    assert isinstance(position, list)
    before = next(each for each in found if each.end == position[1])
    error = refuses(damaged(life.unsealed, last, before.end - 1))
    assert error.offset == before.offset
    with opened(damaged(life.unsealed, last, told.end - 1)) as store:
        assert len(shown(store)) == told.frame.global_sequence


@pytest.mark.parametrize("extension", [[3], [3, "x", 1], "x", [3, 1.5, 2], {}])
def test_a_durable_extension_that_says_something_else_is_passed_over(extension: object) -> None:
    life = Life(2)
    last = life.names[-1]
    meta, found = meta_of(life.unsealed, last), frames(life.unsealed, last)
    found[-1].frame.extensions = {"durable": extension}
    body = meta.encode(found[-1].frame)
    data = life.unsealed[last][: found[-1].offset] + FRAME.pack(len(body), meta.checksum(body)) + body
    with opened(damaged(life.unsealed | {last: data}, last, found[-2].offset + 9)) as store:
        assert store.diagnostics().open_report.quarantined


def test_no_position_alone_refuses(life: Life) -> None:
    position = life.killed[watermark.NAME]
    for data in (b"", b"\0" * 2000, position[:80], position[512:], b"x" * 600):
        with opened(life.killed | {watermark.NAME: data}) as store:
            assert shown(store) == life.events
    with opened(life.unsealed) as store:
        assert shown(store) == life.events


def test_a_position_of_another_store_or_segment_is_passed_over(life: Life) -> None:
    other = Life(2 if meta_of(life.killed, life.names[0]).version == 1 else 1)
    for held in (life.closed, life.killed):
        files = directory(held | {watermark.NAME: other.closed[watermark.NAME]})
        with opened(files) as store:
            assert store.diagnostics().open_report.notes == ("the durable position of another store was passed over",)
            assert shown(store) == life.events
        with opened(files) as store:  # the one that was written since is believed, whatever count the other had
            assert not store.diagnostics().open_report.notes


def test_the_position_counts_on_when_it_was_passed_over(life: Life) -> None:
    old = watermark.read(directory(life.closed))
    assert old is not None
    foreign = watermark.encode(watermark.DurablePosition(bytes(16), old.count + 100, 1, bytes(16), 1 << 40, 1 << 40))
    files = directory(life.closed | {watermark.NAME: foreign.ljust(512, b"\0") + watermark.encode(old)})
    with opened(files):
        pass
    new = watermark.read(files)
    assert new is not None
    assert (new.store_id, new.count > old.count + 100) == (old.store_id, True)


# Segments that are missing, doubled, swapped, older, cut


def test_a_segment_that_is_missing_is_noticed(life: Life) -> None:
    for held in (life.closed, life.killed):
        for name in life.names:
            refuses({key: data for key, data in held.items() if key != name})
    assert position_of(life.killed).segment == int(life.names[-1][:-5])
    refuses({key: data for key, data in life.closed.items() if not key.endswith(".fbat")})


def test_all_but_the_first_segments_are_missed_without_a_position_too(life: Life) -> None:
    for name in life.names[:-1]:
        refuses({key: data for key, data in life.unsealed.items() if key != name})


def test_swapped_and_doubled_segments_refuse(life: Life) -> None:
    for held in (life.closed, life.killed, life.unsealed):
        for first, second in pairwise(life.names):
            refuses(held | {first: held[second], second: held[first]})
            refuses(held | {first: held[second]})
            refuses(held | {second: held[first]})
        refuses(held | {f"{len(life.names) + 1:06}.fbat": held[life.names[-1]]})


def test_a_segment_of_another_store_refuses(life: Life, segment_format: Format) -> None:
    other = Life(segment_format)
    for name in life.names:
        refuses(life.closed | {name: other.closed[name]})


def test_an_older_last_segment_refuses(life: Life) -> None:
    last = life.names[-1]
    for each in frames(life.killed, last)[:-6]:
        older = life.killed[last][: each.offset]
        for rest in (b"", bytes(2000)):
            refuses(life.killed | {last: older + rest})
            refuses(life.closed | {last: older + rest})


def test_a_segment_cut_anywhere_is_right_or_refused(life: Life) -> None:
    for name in life.names:
        size = len(life.closed[name])
        for length in [*range(0, size, 173), *range(size - 30, size)]:
            held = life.closed | {name: life.closed[name][:length]}
            for opener in (opened, looked_at):
                try:
                    with opener(held) as store:
                        assert shown(store) == life.events
                except CorruptStoreError:
                    pass


def test_damage_in_a_segment_that_is_sealed_or_not_the_last_refuses(life: Life) -> None:
    for held in (life.closed, life.killed, life.unsealed):
        for name in life.names[:-1]:
            for each in frames(life.closed, name)[::4]:
                error = refuses(damaged(held, name, each.offset + 12))
                following = life.names[life.names.index(name) + 1]
                assert (error.file, error.offset) == (following, 8) or (
                    error.file == name and (error.offset or 0) <= each.offset
                )


# The index


def with_runs(segment_format: Format, monkeypatch: pytest.MonkeyPatch) -> Content:
    monkeypatch.setattr("batpak.actors.index.CLOSE_EVENTS", 1)
    files = MemoryFiles()
    for life in range(3):
        with opened(files, segment_format) as store:
            for number in range(6):
                store.append(ORDER, PLACED, [life, number, "x" * 300])
            store.append_batch(batch(1, 2))
    return content(files)


def runs(held: Content) -> list[str]:
    return [name for name in held if name.endswith(".run")]


def test_runs_of_another_store_are_not_believed(segment_format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    held, other = with_runs(segment_format, monkeypatch), with_runs(segment_format, monkeypatch)
    assert runs(held) == runs(other)
    mixed = held | {name: other[name] for name in runs(held)}
    with opened(held) as store:
        wanted = shown(store)
    with opened(mixed) as store:
        assert store.diagnostics().open_report.path == "rebuild"
        assert shown(store) == wanted
    with looked_at(mixed) as reader:
        assert shown(reader) == wanted


def test_any_run_may_be_missing(segment_format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    held = with_runs(segment_format, monkeypatch)
    with opened(held) as store:
        wanted = shown(store)
    for missing in runs(held):
        rest = {name: data for name, data in held.items() if name != missing}
        for opener in (opened, looked_at):
            with opener(rest) as store:
                assert shown(store) == wanted
                assert [store.get(entry[0].event_id).entry for entry in wanted] == [entry[0] for entry in wanted]


def test_a_segment_that_ends_before_what_a_run_covers_refuses(
    segment_format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = with_runs(segment_format, monkeypatch)
    del held[watermark.NAME]
    last = segments(held)[-1]
    error = refuses(held | {last: held[last][: frames(held, last)[-2].offset]})
    assert "which index/" in error.expected or error.found.startswith("a journal that ends")


# Mending


def torn_ends(life: Life) -> Iterator[Content]:
    """Yield what a kill or a power cut may leave: ends in the middle of a frame, a batch, a header; garbage; zeros."""
    last = life.names[-1]
    end = frames(life.killed, last)[-1].end
    for length in (end - 1, end - 200, end - 400, end):
        for tail in (b"", b"\0" * 700, b"\1garbage" * 30, b"\0\0\1\0" + b"y" * 600):
            yield life.killed | {last: life.killed[last][:length] + tail}
    yield life.killed | {f"{int(last[:-5]) + 1:06}.fbat": life.killed[last][:20]}
    yield life.killed | {name: frames_only(life, name) for name in life.names[:-1]}


def frames_only(life: Life, name: str) -> bytes:
    return life.closed[name][: frames(life.closed, name)[-1].end]


def test_recovery_run_twice_gives_the_same_bytes(life: Life) -> None:
    for held in torn_ends(life):
        files = directory(held)
        with opened(files) as store:
            events, after = shown(store), content(files)
        closed = content(files)
        del after[watermark.NAME]
        with opened(directory(closed)) as store:
            assert shown(store) == events
        twice = directory(after)
        with opened(twice) as store:
            assert shown(store) == events
            again = content(twice)
            del again[watermark.NAME]
            assert again == after


def test_recovery_that_is_cut_short_anywhere_can_be_run_again(life: Life) -> None:
    for held in torn_ends(life):
        files = directory(held)
        states: list[MemoryFiles] = []
        snoop(files, lambda files=files, states=states: states.extend((files.copy(), files.crashed())))  # type: ignore[misc]
        with opened(files) as store:
            events = shown(store)
        wanted = content(files)
        for state in states[::3]:
            with opened(state) as store:
                assert shown(store) == events
            found = content(state)
            assert {name: found[name] for name in segments(found)} == {name: wanted[name] for name in segments(wanted)}
            copies = {name for name in found if name.startswith("quarantine/")}
            assert copies <= {name for name in wanted if name.startswith("quarantine/")}


def snoop(files: MemoryFiles, look: Callable[[], None]) -> None:
    """Have *look* called before each change."""

    class Journal(list[Any]):
        def append(self, operation: object) -> None:
            look()
            super().append(operation)

    files._disk.journal = Journal()


def test_without_room_for_the_copy_nothing_is_cut(life: Life) -> None:
    last = life.names[-1]
    held = life.killed | {last: life.killed[last].rstrip(b"\0")[:-3]}
    places = (("make_folder", "quarantine"), ("create", "quarantine/*"), ("pwrite", "quarantine/*"))
    for operation, name in places:
        disk = directory(held)
        files = FaultyFiles(disk)
        files.fail(operation, errno.ENOSPC, name=name)
        with pytest.raises(StorageError) as caught:
            Store(files, config(), SteppedDrivers())
        assert caught.value.errno == errno.ENOSPC
        assert content(disk)[last] == held[last]
        with opened(disk) as store:
            assert store.diagnostics().open_report.quarantined


def test_segments_that_were_left_open_get_the_footer_they_would_have_had(life: Life) -> None:
    held = life.killed | {name: frames_only(life, name) for name in life.names[:-1]}
    files = directory(held)
    with opened(files) as store:
        assert shown(store) == life.events
    after = content(files)
    assert {name: after[name] for name in life.names} == {name: life.closed[name] for name in life.names}


def test_what_is_only_looked_at_is_never_changed(life: Life) -> None:
    for held in [*torn_ends(life), life.closed, life.killed]:
        files = directory(held)
        with looked_at(files) as reader:
            shown(reader)
            reader.refresh()
        assert content(files) == held


def test_a_reader_beside_a_writer_sees_no_corruption_in_what_is_being_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its look at the end is older than its look behind it; by then the frame in front is there."""
    life = Life(2)
    last = life.names[-1]
    found = frames(life.unsealed, last)
    told = [each for each in found if "durable" in each.frame.extensions][-1]
    files = directory(damaged(life.unsealed, last, found[found.index(told) - 1].offset + 9))

    def late(*arguments: Any) -> list[Found]:
        seen = behind(*arguments)
        with closing(files.open_write(last)) as file:
            file.pwrite(life.unsealed[last], 0)
        return seen

    monkeypatch.setattr("batpak.storage.recovery.behind", late)
    with looked_at(files) as reader:
        assert len(shown(reader)) < len(life.events)
        assert reader.refresh() == len(life.events) - 1
        assert shown(reader) == life.events
