"""The sequences are worth their time: bugs that are planted on purpose do not get past them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from batpak.actors.actor import Failure
from batpak.actors.decision import Decision, Standing
from batpak.actors.gate import Gate
from batpak.actors.messages import Append
from batpak.errors import SequenceConflictError
from batpak.event import NO_STREAM
from batpak.receipt import Receipt
from batpak.storage.row import Record
from batpak.storage.scan import Batches, Found
from tests.model.sequence import STEPS, run_sequence, shrink

PATIENCE = 60
SEED = 4


def look_for_the_key_after_the_expectation(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Decision.append

    def append(self: Decision, command: Append) -> Receipt | Failure:
        head = self._standing.head(command.entity)
        actual = NO_STREAM if head is None else head.sequence
        if command.expected_sequence not in {None, actual}:
            return Failure(SequenceConflictError(command.entity, command.expected_sequence or 0, actual))
        return plain(self, command)

    monkeypatch.setattr(Decision, "append", append)


def leave_the_newest_event_of_an_entity_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Standing.take

    def take(self: Standing, decision: Decision, records: Sequence[Record]) -> None:
        before = dict(self.heads)
        plain(self, decision, records)
        self.heads |= before

    monkeypatch.setattr(Standing, "take", take)


def take_half_a_batch_for_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Batches.feed

    def feed(self: Batches, found: Found, version: int) -> list[Found]:
        return [found] if version == 2 else plain(self, found, version)

    monkeypatch.setattr(Batches, "feed", feed)


def promise_durability_without_a_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    def sync_device(self: Gate) -> None:
        self.dirty = False
        self.durable = max(self.durable, self._written().sequence)

    monkeypatch.setattr(Gate, "sync_device", sync_device)


@pytest.mark.parametrize(
    "plant",
    [
        look_for_the_key_after_the_expectation,
        leave_the_newest_event_of_an_entity_as_it_was,
        take_half_a_batch_for_whole,
        promise_durability_without_a_sync,
    ],
)
def test_a_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]) -> None:
    plant(monkeypatch)
    for seed in range(PATIENCE):
        try:
            run_sequence(seed)
        except Exception:
            return
    pytest.fail(f"not found in {PATIENCE} sequences")


def test_a_failure_comes_down_to_the_few_steps_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_the_newest_event_of_an_entity_as_it_was(monkeypatch)
    steps, error = shrink(SEED, failure_of(SEED))
    assert len(steps) <= 4
    assert type(error) is type(failure_of(SEED, steps))


def failure_of(seed: int, steps: Sequence[int] = range(STEPS)) -> BaseException:
    try:
        run_sequence(seed, "stepped", steps)
    except Exception as error:
        return error
    pytest.fail("nothing failed")
