"""Interrupts at the bytecodes of what consumers call: a name stays free or held, a place is the old or the new one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from batpak import Cursor, Place, Store, StoreConfig, Subscription
from batpak.testing.clock import HandClock
from tests.delivery.growing import grow, rest
from tests.interrupts.strike import Struck, strike
from tests.store.journals import EVERYTHING, LONG, Journal, Loose, patient

pytestmark = pytest.mark.usefixtures("no_collection")


def sweep(
    act: Callable[[Journal], Loose],
    check: Callable[[Journal, str], None],
    step: int,
    least: int,
    begin: Callable[[Journal], object] = id,
) -> None:
    """Interrupt *act* at every *step*-th bytecode, each time on a journal of six events, and *check* what is left."""
    for at in count(1, 1 if LONG else step):
        with Journal(StoreConfig(clock=HandClock())) as journal:
            grow(journal.store, 6)
            prepared = journal.store.cursor(EVERYTHING, name="mine")
            rest(prepared, 2)
            prepared.commit()
            prepared.close()
            begin(journal)
            struck, outcome = strike(lambda journal=journal: act(journal), at)  # type: ignore[misc]
            if not struck:
                assert not isinstance(outcome, BaseException), outcome
                assert at > least, f"{at} bytecodes"
                return
            assert isinstance(outcome, Struck) or not isinstance(outcome, BaseException), outcome
            del outcome
            check(journal, f"struck {struck} at {at}")


def committed(journal: Journal) -> int | None:
    """Return the place that a kill leaves."""
    with Store(journal.disk.copy(), journal.config) as after:
        (place,) = after.places()
        assert place.damage is None
        return None if place.place is None else place.place.global_sequence


@patient
def test_a_name_is_free_again_when_opening_its_cursor_was_interrupted() -> None:
    def check(journal: Journal, struck: str) -> None:
        with journal.store.cursor(EVERYTHING, name="mine") as cursor:
            assert rest(cursor) == [2, 3, 4, 5], struck

    sweep(lambda journal: journal.store.cursor(EVERYTHING, name="mine"), check, 11, 500)


@patient
def test_a_name_is_made_or_not_when_its_first_cursor_was_interrupted() -> None:
    def check(journal: Journal, struck: str) -> None:
        assert [place.damage for place in journal.store.places()][1:] in ([], [None]), struck
        with journal.store.cursor(EVERYTHING, name="other", start=3) as cursor:
            assert rest(cursor) == [4, 5], struck

    sweep(lambda journal: journal.store.cursor(EVERYTHING, name="other", start=3), check, 67, 3000)


@patient
def test_an_interrupted_commit_has_kept_the_old_place_or_the_new_one() -> None:
    cursors: list[Cursor] = []

    def act(journal: Journal) -> None:
        cursors[0].commit()

    def begin(journal: Journal) -> None:
        cursor = journal.store.cursor(EVERYTHING, name="mine")
        rest(cursor, 2)
        grow(journal.store, 1)
        cursors[:] = [cursor]

    def check(journal: Journal, struck: str) -> None:
        cursor = cursors.pop()
        assert committed(journal) in {1, 3}, struck
        cursor.commit()
        assert committed(journal) == 3, struck
        assert isinstance(cursor.committed, Place)
        cursor.close()
        with journal.store.cursor(EVERYTHING, name="mine") as again:
            assert rest(again) == [4, 5, 6], struck

    sweep(act, check, 13, 500, begin)


@patient
def test_a_rollback_after_an_interrupted_poll_delivers_everything_again() -> None:
    cursors: list[Cursor] = []

    def act(journal: Journal) -> None:
        cursors[:] = [journal.store.cursor(EVERYTHING, name="mine")]
        cursors[0].poll_batch(3)

    def check(journal: Journal, struck: str) -> None:
        cursor = cursors.pop() if cursors else journal.store.cursor(EVERYTHING, name="mine")
        cursor.rollback()
        assert rest(cursor) == [2, 3, 4, 5], struck
        cursor.close()

    sweep(act, check, 23, 1000)


@patient
def test_an_interrupted_close_can_be_repeated() -> None:
    cursors: list[Cursor] = []

    def act(journal: Journal) -> None:
        cursors[:] = [journal.store.cursor(EVERYTHING, name="mine")]
        cursors[0].close()

    def check(journal: Journal, struck: str) -> None:
        if cursors:
            cursors.pop().close()
        journal.store.cursor(EVERYTHING, name="mine").close()

    sweep(act, check, 19, 500)


@patient
def test_what_an_interrupted_subscriber_has_not_been_given_comes_next() -> None:
    """What was taken out when the interrupt came may be lost with the call; nothing comes twice or out of order."""
    subscriptions: list[Subscription[int]] = []

    def act(journal: Journal) -> list[int | None]:
        subscription = journal.store.subscribe(EVERYTHING).map(lambda each: each.global_sequence)
        grow(journal.store, 4)
        subscriptions[:] = [subscription]
        return [subscription.pull(0), subscription.pull(0)]

    def check(journal: Journal, struck: str) -> None:
        left = list(iter(subscriptions.pop().poll, None)) if subscriptions else []
        assert left == list(range(6, 10))[-len(left) :] or not left, struck

    sweep(act, check, 41, 1000)
