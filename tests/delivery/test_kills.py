"""Whatever kills a worker, and whenever: for each event exactly one set of reactions, and no place ahead of its events.

Once with processes, which are killed with SIGKILL while 64 tasks append; once in memory, at every change that a
worker makes to the disk, by a kill and by power cuts.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Literal, NamedTuple
from unittest.mock import patch
from uuid import UUID

import pytest

from batpak import Coordinate, EventKind, OnError, Reactions, ReactorError, Region, Store, StoreConfig, StoredEvent
from batpak.delivery.course import Commit, Handle, Park, Pull
from batpak.delivery.worker import reacting
from batpak.storage import place_file
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.delivery.mortal import (
    ANSWER,
    ASIDE,
    CALL,
    NAME,
    PAIR,
    QUIET,
    REACTIONS,
    RECEIPT,
    REGION,
    TRIPLE,
    Life,
    described,
)
from tests.directories import content
from tests.faults.operations import watch
from tests.model.disk import scattered
from tests.store.journals import LONG, Journal, patient
from tests.store.processes import start_python, tell, told

EVERYTHING = Region(include_system=True)
KILLS = {2: 1000 if LONG else 200, 1: 1000 if LONG else 40}
WORKLOADS = 10 if LONG else 1


class Ledger:
    """What is known of a journal from outside, and checked against it after each kill: only what is new is read."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._looked = -1
        self._unhandled: list[tuple[int, UUID, int]] = []
        self._sets: defaultdict[UUID, list[tuple[int, object]]] = defaultdict(list)
        self._events: set[UUID] = set()
        self._expected: dict[UUID, int] = {}
        self._place = -1
        self.ahead = 0
        """How often events had been answered, or were being, of which the place did not know yet."""

    def check(self, receipts: list[str]) -> None:
        """Read what came, and hold it against the rules."""
        answered = self._read()
        assert {UUID(each) for each in receipts} <= self._events, "what has a receipt is there"
        for cause in answered:
            found = self._sets[cause]
            first = found[0][0]
            assert found == [(first + at, at) for at in range(self._expected[cause])], "one set, whole, at once"
        place = self._committed()
        assert place >= self._place, "a kill moves no place back"
        self._place = place
        self.ahead += any(cause in self._sets for at, cause, _ in self._unhandled if at > place)
        behind = [each for each in self._unhandled if each[0] <= place]
        assert [each for each in behind if len(self._sets.get(each[1], ())) != each[2]] == [], (
            "handled, as the place says"
        )
        self._unhandled = self._unhandled[len(behind) :]

    def check_caught_up(self) -> None:
        """Everything has been answered, and the place is behind it."""
        self.check([])
        assert self._unhandled == []
        assert {cause: len(found) for cause, found in self._sets.items()} == {
            cause: count for cause, count in self._expected.items() if count
        }

    def check_from_the_beginning(self) -> None:
        """Read everything anew."""
        anew = Ledger(self._directory)
        anew.check([str(each) for each in self._events])
        anew.check_caught_up()

    def _read(self) -> set[UUID]:
        """Read on; which events have been answered meanwhile."""
        answered: set[UUID] = set()
        with Store.open_read_only(self._directory) as store:
            for event in store.read(EVERYTHING, after=self._looked):
                self._looked = event.global_sequence
                self._events.add(event.event_id)
                if event.kind == ANSWER:
                    assert event.causation_id is not None
                    self._sets[event.causation_id].append((event.global_sequence, event.payload))
                    answered.add(event.causation_id)
                elif event.kind in REACTIONS:
                    count = self._expected[event.event_id] = REACTIONS[event.kind]
                    self._unhandled.append((event.global_sequence, event.event_id, count))
        return answered

    def _committed(self) -> int:
        file = self._directory / place_file.file_name(NAME)
        if not file.exists():
            return -1
        _, slot = place_file.decode(str(file), file.read_bytes())
        return -1 if slot.place is None else slot.place.global_sequence


def lived(process: subprocess.Popen[str], life: Life, expected_status: int) -> list[str]:
    """Have *process* live a life; what receipts promised in it."""
    tell(process, described(life))
    found = json.loads(told(process))
    if found["status"] != expected_status:
        _, errors = process.communicate()
        raise AssertionError(f"found status {found['status']}, expected {expected_status}: {errors}")
    receipts: list[str] = found["receipts"]
    return receipts


def drawn(random: Random, number: int, segment_format: int) -> Life:
    """Return a life that ends when a receipt is given, while an event is answered, or while the store opens."""
    seed, on_thread = random.randrange(2**32), number % 2 == 0
    what = random.choices((RECEIPT, CALL, "opening"), (5, 6, 1))[0]
    if what == "opening":
        return Life(seed, on_thread, segment_format, kill_after_seconds=random.uniform(0.001, 0.02))
    count = random.randrange(1, 70 if what == RECEIPT else 90)
    return Life(seed, on_thread, segment_format, (what, count), random.uniform(0, 0.001))


@pytest.mark.slow
@pytest.mark.timeout(7200 if LONG else 400)
@pytest.mark.parametrize("segment_format", [2, 1])
def test_kills_at_random_leave_one_set_of_reactions_for_each_event(segment_format: int, tmp_path: Path) -> None:
    random = Random(segment_format)
    ledger = Ledger(tmp_path)
    with start_python("from tests.delivery.mortal import main; main()", tmp_path) as process:
        for number in range(KILLS[segment_format]):
            life = drawn(random, number, segment_format)
            try:
                ledger.check(lived(process, life, -SIGKILL))
            except AssertionError as error:
                raise AssertionError(f"life {number}: {life}") from error
        lived(process, Life(0, segment_format=segment_format), 0)
    ledger.check_caught_up()
    ledger.check_from_the_beginning()
    assert ledger.ahead > KILLS[segment_format] // 10, "kills came between reactions and the place"
    with Store.open(tmp_path) as store:
        assert store.verify_chain().intact
        assert [(each.name, each.lag_events) for each in store.places()] == [(NAME, 0)]


# In memory, at every change ---------------------------------------------------------------------------------------

POISON = EventKind(0x1, 9)
SCATTERED = 1


def react(event: StoredEvent, reactions: Reactions) -> None:
    if event.kind == POISON:
        raise ValueError
    for number in range(REACTIONS[event.kind]):
        reactions.append(Coordinate(f"answer:{number}", "shop"), ANSWER, number)


def follow(store: Store, between: Callable[[], None]) -> None:
    """Be the worker until it has caught up, in this thread; *between* is called between its steps."""
    course = store._course(3, None, OnError.park, NAME, singly=True)
    handle = reacting(store._reacting(NAME, REGION, may_feed_itself=False), react)
    job = store._job(REGION, NAME, "beginning", course)
    steps = course.run()
    result: object = None
    error: Exception | None = None
    while True:
        try:
            step = steps.send(result) if error is None else steps.throw(error)
        except StopIteration:
            break
        between()
        result = error = None
        match step:
            case Pull():
                result = pulled = job.pull_nowait(step.limit)
                if not pulled.events:
                    course.stop()
            case Handle():
                try:
                    result = handle(step.events)
                except ReactorError as raised:
                    error = raised
            case Commit() | Park():
                job.do(step)
            case _:
                raise AssertionError(step)
    job.end(None)


class Moment(NamedTuple):
    """A directory as it may be found, and how many events must be there at least."""

    how: str
    files: MemoryFiles
    promised: int


class History:
    """A worker at work in two lives, with appends between its steps, and every moment on the way."""

    def __init__(self, segment_format: Literal[1, 2], seed: int) -> None:
        self.files = MemoryFiles()
        self.moments: list[Moment] = []
        self._written = self._durable = 0
        self._random = Random(seed)
        self._seen: set[int] = set()
        self._config = StoreConfig(
            driver="stepped", segment_format=segment_format, segment_bytes=4096, clock=HandClock(), sync_every_events=40
        )
        watch(self.files, self._take)
        for _ in range(2):
            with Store(self.files.beside(), self._config, SteppedDrivers()) as store:
                for _ in range(2):
                    self._left = 9
                    for _ in range(4):
                        self._append(store)
                    follow(store, lambda store=store: self._append(store))  # type: ignore[misc] # it lives as long
            self._durable = self._written
        self._take()

    def _append(self, store: Store) -> None:
        """Append an event or none."""
        self._note(store)
        if self._left and self._random.random() < 0.5:
            self._left -= 1
            kind = self._random.choice((QUIET, PAIR, PAIR, TRIPLE, POISON, ASIDE))
            entity = "aside" if kind == ASIDE else "order:1"
            store.append(Coordinate(entity, "shop"), kind, "x" * self._random.choice((1, 300)))
            self._note(store)

    def _note(self, store: Store) -> None:
        """Note what is written and what is durable by now."""
        stats = store.stats()
        self._written, self._durable = stats.next_global_sequence, stats.durable_sequence + 1

    def _take(self) -> None:
        """Take the directory aside, unless it was just so."""
        ways = [("killed", self.files.copy()), ("cut", self.files.crashed())]
        ways += [("scattered", scattered(self.files, self._random)) for _ in range(SCATTERED)]
        for how, files in ways:
            promised = self._written if how == "killed" else self._durable
            state = hash((promised, tuple(sorted(content(files).items()))))
            if state not in self._seen:
                self._seen.add(state)
                self.moments.append(Moment(how, files, promised))


class Found(NamedTuple):
    """What is in a journal: the events to answer, the answers to each, and the place of the worker."""

    questions: dict[UUID, tuple[int, EventKind]]
    answers: dict[UUID, list[object]]
    place: int


def found_in(store: Store) -> Found:
    questions: dict[UUID, tuple[int, EventKind]] = {}
    answers: defaultdict[UUID, list[object]] = defaultdict(list)
    for event in store.read(EVERYTHING):
        if event.kind == ANSWER:
            assert event.causation_id is not None
            answers[event.causation_id].append(event.payload)
        elif REGION.matches(event):
            questions[event.event_id] = (event.global_sequence, event.kind)
    places = [each.place for each in store.places()]
    place = places[0].global_sequence if places and places[0] else -1
    return Found(questions, dict(answers), place)


def expected_answers(found: Found, up_to: int | None = None) -> dict[UUID, list[object]]:
    return {
        event_id: list(range(REACTIONS[kind]))
        for event_id, (at, kind) in found.questions.items()
        if REACTIONS.get(kind) and (up_to is None or at <= up_to)
    }


def check_and_go_on(moment: Moment, config: StoreConfig) -> bool:
    """Hold what is found against the rules, catch up, do it again; whether something had been answered already."""
    with Store(moment.files.beside(), config, SteppedDrivers()) as store:
        assert not [name for name in moment.files.list("cursors") if name.startswith(".tmp")]
        found = found_in(store)
        assert store.stats().next_global_sequence >= moment.promised
        assert found.place <= store.stats().visible_sequence, "the place is one that is there"
        whole = expected_answers(found)
        assert {each: whole[each] for each in found.answers} == found.answers, "one set, whole, or none"
        handled = expected_answers(found, found.place)
        assert {each: found.answers.get(each) for each in handled} == handled, "handled, as the place says"
        poison = {event_id for event_id, (_, kind) in found.questions.items() if kind == POISON}
        set_aside = {event_id for event_id in poison if found.questions[event_id][0] <= found.place}
        assert set_aside <= {each.event_id for each in store.parked(NAME)}

        follow(store, lambda: None)
        after = found_in(store)
        assert after.questions == found.questions
        assert after.answers == whole, "one set for each event"
        assert [each.event_id for each in store.parked(NAME)] == [each for each in found.questions if each in poison]
        assert [each.lag_events for each in store.places()] == [0]
        assert store.verify_chain().intact
    return len(found.answers) > len(handled)


@pytest.mark.slow
@patient
@pytest.mark.parametrize("seed", range(WORKLOADS))
@pytest.mark.parametrize("segment_format", [2, 1])
def test_at_every_change_a_kill_or_power_cut_leaves_one_set_of_reactions(
    segment_format: Literal[1, 2], seed: int
) -> None:
    with patch("batpak.actors.index.RUN_EVENTS", 20), patch("batpak.actors.index.CLOSE_EVENTS", 10):
        history = History(segment_format, seed)
        seen: Counter[str] = Counter()
        config = StoreConfig(driver="stepped", clock=HandClock())
        for at, moment in enumerate(history.moments):
            try:
                seen["answered, not committed"] += check_and_go_on(moment, config)
            except Exception as error:
                raise AssertionError(f"moment {at}, {moment.how}, {moment.promised} promised: {error!r}") from error
            seen[moment.how] += 1
    assert min(seen[how] for how in ("killed", "cut", "scattered", "answered, not committed")) > 10, seen


def test_a_place_that_is_being_made_is_not_listed() -> None:
    with Journal() as journal:
        journal.store.cursor(REGION, name=NAME).close()
        journal.disk.create(f"cursors/.tmp-0-{place_file.file_name('another').split('/')[1]}").close()
        assert [place.name for place in journal.store.places()] == [NAME]
