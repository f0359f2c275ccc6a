"""What holds for whole histories: one order for all, commands of all kinds in one drain, restarts, and replays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from random import Random
from threading import Lock
from typing import Literal

import pytest

from batpak import (
    ActorFailedError,
    Receipt,
    RestartPolicy,
    Store,
    StoreConfig,
    WriterFailedError,
)
from batpak.actors.messages import Append, Flight
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDrivers
from tests.store.conftest import Driver
from tests.store.journals import (
    EVERYTHING,
    LONG,
    ORDER,
    PAID,
    PLACED,
    Held,
    Journal,
    Loose,
    all_facts,
    close_anyhow,
    new_events,
    patient,
    payloads,
    race,
    until,
    waiting,
)

# One order for all -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrote:
    """An append: when it was called, when it was answered, and the places it got."""

    began: int
    ended: int
    places: tuple[int, ...]


@dataclass(frozen=True)
class Saw:
    """A read of everything: when it was called, when it was answered, and the places it showed."""

    began: int
    ended: int
    places: tuple[int, ...]


class HistoryError(AssertionError):
    """A history that no single order of its operations explains."""


def check_linear(history: list[Wrote | Saw]) -> None:
    """Raise unless some order of the operations, each between its call and its answer, explains all answers.

    Places are dense from 0, so the order of writes is given; a read stands behind the writes that it shows.
    """
    writes = sorted((each for each in history if isinstance(each, Wrote)), key=lambda each: each.places)
    given = [place for write in writes for place in write.places]
    if given != list(range(len(given))):
        raise HistoryError(f"places are not dense: {given}")
    last_begin = -1
    for write in writes:  # none may be answered before one that stands in front of it was called
        if write.ended < last_begin:
            raise HistoryError(f"{write} stands behind one that was called later than it was answered")
        last_begin = max(last_begin, write.began)
    ends = {write.places[-1] + 1: write for write in writes}
    for saw in (each for each in history if isinstance(each, Saw)):
        count = len(saw.places)
        if saw.places != tuple(range(count)) or (count and count not in ends):
            raise HistoryError(f"{saw} shows no prefix of whole writes")
        for write in writes:
            if write.ended < saw.began and write.places[-1] >= count:
                raise HistoryError(f"{saw} misses {write}, which had been answered")
            if write.began > saw.ended and write.places[0] < count:
                raise HistoryError(f"{saw} shows {write}, which had not been called")
    reads = sorted((each for each in history if isinstance(each, Saw)), key=lambda each: each.ended)
    for number, early in enumerate(reads):
        for late in reads[number + 1 :]:
            if early.ended < late.began and len(early.places) > len(late.places):
                raise HistoryError(f"{late} shows less than {early} did before")


@pytest.mark.parametrize(
    "history",
    [
        [Wrote(0, 1, (0,)), Wrote(2, 3, (2,))],
        [Wrote(0, 1, (0,)), Wrote(2, 3, (0,))],
        [Wrote(0, 1, (1,)), Wrote(2, 3, (0,))],
        [Wrote(0, 1, (0, 1)), Saw(2, 3, (0,))],
        [Wrote(0, 1, (0,)), Saw(2, 3, ())],
        [Saw(0, 1, (0,)), Wrote(2, 3, (0,))],
        [Wrote(0, 9, (0,)), Saw(1, 2, (0,)), Saw(3, 4, ())],
        [Wrote(0, 1, (0,)), Wrote(0, 1, (1,)), Saw(2, 3, (1, 0))],
        [Wrote(0, 1, (0,)), Wrote(0, 1, (1,)), Saw(2, 3, (0, 0))],
        [Wrote(0, 9, (0,)), Wrote(0, 9, (1,)), Saw(2, 3, (1,))],
    ],
)
def test_p09_the_checker_finds_gaps_inversions_and_duplicates(history: list[Wrote | Saw]) -> None:
    with pytest.raises(HistoryError):
        check_linear(history)


def test_p09_the_checker_accepts_what_overlaps() -> None:
    check_linear(
        [Wrote(0, 9, (1,)), Wrote(1, 8, (0,)), Saw(2, 3, ()), Saw(2, 9, (0,)), Saw(4, 5, (0,)), Saw(6, 7, (0, 1))]
    )


@patient
@pytest.mark.parametrize("segment_format", [2, 1], indirect=True)
def test_p09_histories_of_concurrent_appends_and_reads_are_linear(
    driver: Driver, segment_format: Literal[1, 2]
) -> None:
    config = StoreConfig(driver=driver, segment_format=segment_format, segment_bytes=16 * 1024)
    for _ in range(20 if LONG else 3):
        with Journal(config) as journal:
            store = journal.store
            clock, ticks = Lock(), [0]
            history: list[Wrote | Saw] = []

            def now(clock: Lock = clock, ticks: list[int] = ticks) -> int:
                with clock:
                    ticks[0] += 1
                    return ticks[0]

            def act(number: int, store: Store = store, history: list[Wrote | Saw] = history) -> None:
                random = Random(number)
                for _ in range(40):
                    began = now()
                    what = random.randrange(4)
                    if what == 0:
                        places = tuple(r.global_sequence for r in store.append_batch(new_events(1, 2, 3)))
                        history.append(Wrote(began, now(), places))
                    elif what == 1:
                        places = (store.append(ORDER, PLACED, 1, durable=random.random() < 0.1).global_sequence,)
                        history.append(Wrote(began, now(), places))
                    elif what == 2:
                        places = tuple(entry.global_sequence for entry in store.query(EVERYTHING))
                        history.append(Saw(began, now(), places))
                    else:
                        places = tuple(event.global_sequence for event in store.read(EVERYTHING))
                        history.append(Saw(began, now(), places))

            assert race(4, act) == [None] * 4
            check_linear(history)
            assert store.verify_chain().intact


# Commands of all kinds in one drain ------------------------------------------------------------------------------


def test_p20_mixed_commands_in_one_drain_complete_in_order(driven: Journal) -> None:
    store = driven.store
    store.append(ORDER, PLACED, "first")
    with Held(store) as held:
        asked: list[tuple[str, Callable[[], Loose]]] = [
            ("append", partial(store.append, ORDER, PLACED, "a")),
            ("batch", partial(store.append_batch, new_events("b", "c"))),
            ("flight", partial(store._writer.ask, Flight([Append("order:42", "shop", 0x1001, b"\xa1" + b"x", 0)]))),
            ("reaction", partial(store.append_reaction, ORDER, PAID, "d", cause=next(store.read()))),
            ("durable", partial(store.append, ORDER, PLACED, "e", durable=True)),
            ("conflict", partial(store.append, ORDER, PLACED, "never", expected_sequence=0)),
            ("keyed", partial(store.append, ORDER, PLACED, "f", idempotency_key="f")),
            ("again", partial(store.append, ORDER, PLACED, "f", idempotency_key="f")),
            ("expected", partial(store.append, ORDER, PLACED, "g", expected_sequence=7)),
            ("batch", partial(store.append_batch, new_events("h", "i"), durable=True)),
        ]
        tasks = [waiting(store, act) for _, act in asked]
        held.release()
    outcomes = []
    for (name, _), task in zip(asked, tasks, strict=True):
        if name == "conflict":
            error = task.error()
            assert getattr(error, "actual", None) == 6
        else:
            outcomes.append(task.outcome())
    receipts = [each for outcome in outcomes for each in (outcome if isinstance(outcome, list) else [outcome])]
    places = [receipt.global_sequence for receipt in receipts if isinstance(receipt, Receipt)]
    assert places == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10]
    assert payloads(store) == ["first", *"abcxdefghi"]
    assert store.stats().durable_sequence == 10
    assert store.verify_chain().intact
    expected = all_facts(store)
    assert all_facts(driven.kill()) == expected


def test_p20_commands_before_a_close_complete_and_later_ones_are_refused(driven: Journal) -> None:
    outcomes: list[Loose] = []
    store = driven.store

    def act(number: int) -> Loose:
        if number == 0:
            until(lambda: store.stats().events > 30, "thirty events")
            return store.close()
        done = []
        try:
            while True:
                done += store.append_batch(new_events(number, number))
        except Exception as error:
            outcomes.append(type(error).__name__)
        return done

    receipts = [receipt for done in race(4, act) if done for receipt in done]
    assert outcomes == ["StoreClosedError"] * 3
    assert len(payloads(driven.reopen())) == len(receipts)


# Restarts --------------------------------------------------------------------------------------------------------


@dataclass
class Bug:
    """Makes the writer raise something that nobody foresaw, at the next *times* turns."""

    times: int = 0

    def install(self, store: Store, monkeypatch: pytest.MonkeyPatch, *, behind_the_write: bool) -> None:
        journal = store._system.writer.journal
        name = "advance" if behind_the_write else "make_room"
        original = getattr(journal, name)

        def act(*arguments: Loose) -> Loose:
            if self.times:
                self.times -= 1
                raise ZeroDivisionError("a bug")
            return original(*arguments)

        monkeypatch.setattr(journal, name, act)


@pytest.mark.parametrize("behind_the_write", [False, True])
def test_p70_the_writer_is_restarted_once_and_then_gives_up_visibly(
    driven: Journal, monkeypatch: pytest.MonkeyPatch, behind_the_write: bool
) -> None:
    store, bug = driven.store, Bug()
    store.append(ORDER, PLACED, 0)
    bug.install(store, monkeypatch, behind_the_write=behind_the_write)
    bug.times = 1
    if behind_the_write:  # the event is in the file: the repair takes it in, and the caller is told the truth
        assert store.append(ORDER, PLACED, 1).global_sequence == 1
    else:
        with pytest.raises(ActorFailedError) as caught:
            store.append(ORDER, PLACED, "never")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert not isinstance(caught.value, WriterFailedError)
        store.append(ORDER, PLACED, 1)
    assert store.append(ORDER, PLACED, 2, durable=True).durable  # the gate is usable
    found = store.diagnostics()
    assert found.state == "degraded"
    assert next(actor.restarts for actor in found.actors if actor.name == "writer") == 1
    bug.times = 1
    if behind_the_write:
        store.append(ORDER, PLACED, 3)
    else:
        with pytest.raises(ActorFailedError):
            store.append(ORDER, PLACED, "never")
    for write in (
        partial(store.append, ORDER, PLACED, "never"),
        partial(store.append_batch, new_events("never")),
        partial(store.append, ORDER, PLACED, "never", durable=True),
    ):
        with pytest.raises(WriterFailedError) as failed:
            write()
        assert "ZeroDivisionError" in str(failed.value)
    assert store.diagnostics().state == "failed"
    assert "ZeroDivisionError" in (store.diagnostics().writer_error or "")
    expected = [0, 1, 2, 3] if behind_the_write else [0, 1, 2]
    assert payloads(store) == expected
    monkeypatch.undo()
    close_anyhow(store)
    store = driven._open(driven.disk.beside(), {})
    assert payloads(store) == expected
    assert store.append(ORDER, PLACED, 9, expected_sequence=len(expected) - 1).sequence == len(expected)


@pytest.mark.parametrize(
    ("policy", "bugs", "alive"),
    [
        (RestartPolicy.never(), 1, False),
        (RestartPolicy.once(), 1, True),
        (RestartPolicy.once(), 2, False),
        (RestartPolicy.bounded(3, 10), 3, True),
        (RestartPolicy.bounded(3, 10), 4, False),
    ],
)
def test_p70_a_policy_bounds_the_restarts(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, policy: RestartPolicy, bugs: int, alive: bool
) -> None:
    with Journal(StoreConfig(driver=driver, restart=policy, clock=HandClock())) as journal:
        store, bug = journal.store, Bug()
        store.append(ORDER, PLACED, 0)
        bug.install(store, monkeypatch, behind_the_write=False)
        for _ in range(bugs):
            bug.times = 1
            with pytest.raises(ActorFailedError):
                store.append(ORDER, PLACED, "never")
        if alive:
            assert store.append(ORDER, PLACED, 1, expected_sequence=0).global_sequence == 1
        else:
            with pytest.raises(WriterFailedError):
                store.append(ORDER, PLACED, 1)
        assert store.diagnostics().state == ("degraded" if alive else "failed")


def test_p70_restarts_that_lie_back_far_enough_are_forgotten(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HandClock()
    with Journal(StoreConfig(driver=driver, restart=RestartPolicy.bounded(1, 10), clock=clock)) as journal:
        store, bug = journal.store, Bug()
        store.append(ORDER, PLACED, 0)
        bug.install(store, monkeypatch, behind_the_write=False)
        for number in range(5):
            bug.times = 1
            with pytest.raises(ActorFailedError):
                store.append(ORDER, PLACED, "never")
            store.append(ORDER, PLACED, number)
            clock.advance(10.1)
        assert store.diagnostics().state == "degraded"


def test_p70_a_failed_fsync_is_never_restarted(driver: Driver) -> None:
    config = StoreConfig(driver=driver, restart=RestartPolicy.bounded(1000, 86_400))
    with Journal(config) as journal:
        journal.store.append(ORDER, PLACED, 0)
        journal.disk.fail_next_sync()
        for _ in range(5):
            with pytest.raises(WriterFailedError):
                journal.store.append(ORDER, PLACED, 1, durable=True)
        assert journal.store.diagnostics().state == "failed"


# Replays ---------------------------------------------------------------------------------------------------------


def run_alike(
    seed: int, monkeypatch: pytest.MonkeyPatch, segment_format: Literal[1, 2]
) -> tuple[dict[str, bytes], list[Loose]]:
    """Run a session that is drawn from *seed*, randomness and actors included; the directory and all answers."""
    random = Random(seed)
    monkeypatch.setattr("os.urandom", Random(seed).randbytes)
    disk, clock = MemoryFiles(), HandClock()
    config = StoreConfig(
        driver="stepped", segment_format=segment_format, segment_bytes=4096, sync_every_events=20, clock=clock
    )
    answers: list[Loose] = []
    for _ in range(2):
        store = Store(disk.beside(), config, SteppedDrivers(seed=seed))
        for number in range(60):
            what = random.randrange(6)
            if what == 0:
                answers += store.append_batch(new_events(number, -number))
            elif what == 1:
                answers.append(store.sync())
            elif what == 2:
                answers.append([event.payload for event in store.read(limit=5, reverse=True)])
            else:
                answers.append(store.append(ORDER, PLACED, number, durable=what == 3))
            clock.advance(random.choice([0, 0.001, 0.7]))
        answers.append(all_facts(store))
        store.close()
    twin = disk.beside()
    names = [*twin.list(), *(f"index/{name}" for name in twin.list("index"))]
    return {name: twin.read_bytes(name, 1 << 24) for name in names}, answers


@pytest.mark.parametrize("seed", range(4))
def test_p61_identical_runs_give_identical_answers_and_identical_bytes(
    monkeypatch: pytest.MonkeyPatch, seed: int, segment_format: Literal[1, 2]
) -> None:
    monkeypatch.setattr("batpak.actors.index.RUN_EVENTS", 25)
    files, answers = run_alike(seed, monkeypatch, segment_format)
    again, answers_again = run_alike(seed, monkeypatch, segment_format)
    assert answers == answers_again
    assert files == again
    assert len(files) > 4
    other, _ = run_alike(seed + 100, monkeypatch, segment_format)
    assert other != files


def test_receipts_of_one_thread_come_in_order_whoever_else_writes(driven: Journal) -> None:
    store = driven.store
    outcomes = race(4, lambda _: [store.append(ORDER, PLACED, 1).global_sequence for _ in range(100)])
    for places in outcomes:
        assert all(earlier < later for earlier, later in pairwise(places))
    assert sorted(place for places in outcomes for place in places) == list(range(400))
    assert replace(driven.config) == driven.config
