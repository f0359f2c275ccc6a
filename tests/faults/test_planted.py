"""The harness can fail: each of fourteen bugs, planted, is caught within 500 states; without one, nothing is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count, cycle
from random import Random
from threading import Event, Lock, Thread
from typing import get_args
from unittest.mock import patch

import pytest

from batpak import BatpakError, Store, StoreConfig
from batpak.actors.mailbox import Envelope, Mailbox
from batpak.errors import CorruptStoreError, WriterFailedError
from batpak.storage.frame import FRAME
from batpak.storage.scan import Walk
from batpak.storage.segment import read_meta
from batpak.testing.memory import MemoryFiles
from tests.directories import EVERYTHING, content, flipped, shown
from tests.faults.conftest import Table
from tests.faults.oracle import Model, Promise, Wrong, check_answers, check_events, examine, need, opened, promises
from tests.faults.planted import EDITS, FAILED_SYNCS, FLIPS, MEETINGS, POWER_CUTS, Change, Put, planted
from tests.faults.recordings import every_step, notes, second_life
from tests.faults.scale import dice
from tests.faults.states import State
from tests.faults.workloads import ENTITIES, PLACED, Format, live, scribe_in_memory, small

Look = Callable[[], object]
Search = Callable[[Random, str], Iterator[Look]]

MOST_STATES = 500
CONTROL_STATES = 100
"""So many are looked at without a plant: more than it takes with one, as a rule; other suites look at thousands."""
OTHERS = 8
FORMATS: Sequence[Format] = get_args(Format)
CAUGHT = (Wrong, BatpakError)
"""What a plant shows itself by; everything else is a fault of the test."""


def states_until_caught(search: Iterator[Look], most: int) -> int | None:
    """Return how many states it takes; None if *most* show nothing."""
    for number in range(1, most + 1):
        try:
            next(search)()
        except CAUGHT:
            return number
    return None


# Kills and power cuts ---------------------------------------------------------------------------------------------


def power_cuts(random: Random, near: str) -> Iterator[Look]:
    """Stop workloads and recoveries at every change that *near* is a part of, and at a few others."""
    for segment_format in cycle(FORMATS):
        recording = every_step(segment_format, random)
        for each in (recording, second_life(recording, random)):
            for state, promise in each.near(random, near, OTHERS):
                yield lambda state=state, promise=promise, each=each: examine(state, promise, each.model)  # type: ignore[misc]


# A sync that fails once -------------------------------------------------------------------------------------------


def failed_syncs(random: Random, near: str) -> Iterator[Look]:
    """Let a sync fail, ask again, cut the power."""
    for segment_format in cycle(FORMATS):
        files = MemoryFiles()
        scribe = scribe_in_memory(files, segment_format, random)
        try:
            live(scribe, random.randrange(1, 4))
            item = scribe.events(1)
            files.fail_next_sync()
            with suppress(WriterFailedError):
                scribe.append(item, durable=True)
            for _ in range(2):
                with suppress(WriterFailedError):
                    scribe.sync()
            model = Model(shown(scribe.store), notes(files.journal))
            state = State("cut", content(files.crashed()), frozenset(files.crashed()._disk.folders))
            promise = promises(files.journal)[-1]
        finally:
            with suppress(BatpakError):
                scribe.store.close()
        yield lambda state=state, promise=promise, model=model: examine(state, promise, model)  # type: ignore[misc]


# Bits and edits ---------------------------------------------------------------------------------------------------


def killed_store(segment_format: Format, random: Random) -> tuple[State, Promise, Model]:
    """Return what a kill leaves of a store whose events are durable and in no run of the index."""
    files = MemoryFiles()
    with small(run_events=1000, close_events=1000):
        scribe = scribe_in_memory(files, segment_format, random)
        with scribe.store:
            live(scribe, 5)
            scribe.append(scribe.events(3))
            scribe.sync()
            state = State("cut", content(files), frozenset(files._disk.folders))
            return state, promises(files.journal)[-1], Model(shown(scribe.store), notes(files.journal))


def flips(random: Random, near: str) -> Iterator[Look]:
    """Flip any bit of the segments."""
    for segment_format in cycle(FORMATS):
        state, promise, model = killed_store(segment_format, random)
        names = sorted(name for name in state.files if name.endswith(".fbat"))
        for _ in range(20):
            name = random.choice((random.choice(names), names[-1]))
            bit = random.randrange(8 * len(state.files[name].rstrip(b"\0")))
            files = state._replace(files=state.files | {name: flipped(state.files[name], bit)}).directory()
            yield lambda files=files, promise=promise, model=model: is_right_or_refused(files, promise, model)  # type: ignore[misc]


def is_right_or_refused(files: MemoryFiles, promise: Promise, model: Model) -> None:
    """Check that a damaged store is refused, or shows everything durable and nothing wrong."""
    try:
        with opened(files) as store:
            found = check_events(store, model)
            check_answers(store, model, found)
    except CorruptStoreError:
        return
    need(found >= promise.durable, f"O1: {found} events of {promise.durable}")


def edits(random: Random, near: str) -> Iterator[Look]:
    """Change payloads and make their checksums right."""
    for segment_format in cycle(FORMATS):
        state, _, _ = killed_store(segment_format, random)
        files = state.directory()
        with opened(files) as store:
            newest = {store.latest(entry.coordinate.entity) for entry in store.query(EVERYTHING)}
        held = content(files)
        for segment in range(1, 1 + sum(name.endswith(".fbat") for name in held)):
            meta = read_meta(files, segment)
            end = meta.size if meta.footer is None else meta.footer.end
            for each in Walk(files.open_read(meta.name), meta, None, end):
                payload = each.frame.payload
                if len(payload) < 10 or each.frame.event_id in {
                    entry.event_id.bytes for entry in newest if entry is not None
                }:
                    continue
                body = held[meta.name][each.offset + FRAME.size : each.end]
                other = body.replace(payload[-9:], b"edited it")
                data = FRAME.pack(len(other), meta.checksum(other)) + other
                whole = held[meta.name][: each.offset] + data + held[meta.name][each.end :]
                edited = state._replace(files=held | {meta.name: whole}).directory()
                yield lambda edited=edited: is_seen(edited)  # type: ignore[misc]


def is_seen(files: MemoryFiles) -> None:
    """Check that an edit is noticed."""
    with suppress(CorruptStoreError), opened(files) as store:
        need(not store.verify_chain().intact, "O3: an edit that nobody sees")


# Callers and actors' threads --------------------------------------------------------------------------------------

DEADLINE_SECONDS = 4.0
NEVER_SECONDS = 60.0


def meetings(random: Random, near: str) -> Iterator[Look]:
    """Lay a command into a mailbox while its actor sleeps, or between its last look and its sleep."""
    for at in count():
        yield lambda at=at: is_answered(at % 4)  # type: ignore[misc]


def is_answered(looks: int) -> None:
    """Check that an append is answered in time that comes behind the writer's look number *looks*; 0: it sleeps."""
    config = StoreConfig(driver="threaded", sync_every_seconds=3600.0)
    with Store(MemoryFiles(), config) as store:
        writer, laid, answered, left = store._writer, Event(), Event(), [looks]
        look, put = writer.actor.idle, Mailbox.put_nowait

        def append() -> None:
            store.append(ENTITIES[0], PLACED, "now")
            answered.set()

        def idle() -> float | None:
            pause = look()
            left[0] -= 1
            if left[0] > 0:
                writer.wake()
            elif left[0] == 0:
                caller.start()
                assert laid.wait(NEVER_SECONDS)
            return pause

        def put_nowait(mailbox: Mailbox, envelope: Envelope, room: Lock | None = None) -> Lock | None:
            found = put(mailbox, envelope, room)
            if mailbox is writer.mailbox:
                laid.set()
            return found

        caller = Thread(target=append)
        with (
            patch("batpak.actors.driver.BACKSTOP_SECONDS", NEVER_SECONDS),
            patch.object(writer.actor, "idle", idle),
            patch.object(Mailbox, "put_nowait", put_nowait),
        ):
            if looks:
                writer.wake()
            else:
                caller.start()
            in_time = answered.wait(DEADLINE_SECONDS)
        with suppress(RuntimeError):  # unless it has been started
            caller.start()
        for _ in range(1000):  # with the plant any one of these may be lost too
            writer.wake()
            caller.join(0.02)
            if not caller.is_alive():
                break
        assert not caller.is_alive()
    need(in_time, f"O5: no answer in {DEADLINE_SECONDS} s")


# All of them ------------------------------------------------------------------------------------------------------

SEARCHES: dict[str, tuple[Search, Sequence[Change | Put]]] = {
    name: (search, changes)
    for search, plants in (
        (power_cuts, POWER_CUTS),
        (failed_syncs, FAILED_SYNCS),
        (flips, FLIPS),
        (edits, EDITS),
        (meetings, MEETINGS),
    )
    for name, changes in plants.items()
}


NEAR = dict.fromkeys(SEARCHES, "segment") | {
    "durable answer before the fsync": "write segment",
    "place saved before its handler ran": "cursors",
    "place ahead of the fsync": "cursors",
    "watermark ahead of the fsync": "write position",
    "index run ahead of the fsync": "sync_folder run",
}
"""Where to look closely."""


def test_fourteen_bugs_are_planted() -> None:
    assert len(SEARCHES) == 14


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_a_planted_bug_is_caught(name: str, table: Table) -> None:
    search, changes = SEARCHES[name]
    with planted(changes), small():
        states = states_until_caught(search(dice(f"planted {name}"), NEAR[name]), MOST_STATES)
    assert states is not None, f"not caught in {MOST_STATES} states"
    table.add(f"planted: {name}", 1, {f"caught, after {states} states": 1})


@pytest.mark.slow
@pytest.mark.parametrize(("search", "near"), sorted({(SEARCHES[name][0], NEAR[name]) for name in SEARCHES}, key=str))
def test_without_a_plant_the_same_search_finds_nothing(search: Search, near: str) -> None:
    with small():
        assert states_until_caught(search(dice(f"control {search.__name__} {near}"), near), CONTROL_STATES) is None
