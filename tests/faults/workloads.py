"""What is done to a store while every change to its directory is recorded; the same in memory and by a real process.

`Scribe` does the steps and writes down what it is promised, with the words of `tests.faults.operations`. The
process is ``python -m tests.faults.workloads DIRECTORY DESCRIPTOR SEED FORMAT``: it writes its notes to the
descriptor, so that they stand between its changes in one log.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from random import Random
from time import monotonic, sleep
from typing import Literal
from unittest.mock import patch
from uuid import UUID

from batpak import (
    Coordinate,
    EventKind,
    NewEvent,
    OnError,
    Reactions,
    Receipt,
    Region,
    Store,
    StoreConfig,
    StoredEvent,
)
from batpak.delivery.course import Commit, Handle, Pull
from batpak.delivery.worker import reacting
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles, Operation
from batpak.testing.stepped import SteppedDrivers

Format = Literal[1, 2]

ENTITIES = (Coordinate("order:1", "shop"), Coordinate("order:2", "shop"), Coordinate("item:1", "depot"))
QUESTION = Coordinate("question:1", "shop")
PLACED, PAID, ASKED, ANSWERED = (EventKind(0x1, number) for number in (1, 2, 3, 4))
CURSOR, WORKER = "reader", "answers"
ORDERS, QUESTIONS = Region(entity="order"), Region(entity="question")
ANSWERS = 2
SIZES = (0, 10, 10, 200, 700)
PATIENCE_SECONDS = 20.0


def small(run_events: int = 5, close_events: int = 4) -> AbstractContextManager[object]:
    """Make everything small that takes many events or bytes otherwise: runs of the index, reserved space."""
    stack = ExitStack()
    stack.enter_context(patch("batpak.actors.index.RUN_EVENTS", run_events))
    stack.enter_context(patch("batpak.actors.index.CLOSE_EVENTS", close_events))
    stack.enter_context(patch("batpak.storage.run_builder.MERGED_RUNS", 3))
    for name in ("FIRST_STEP_BYTES", "MAX_STEP_BYTES"):
        stack.enter_context(patch(f"batpak.actors.journal.{name}", 4096))
    return stack


class Scribe:
    """Does steps on a store and notes what it is promised; *rest* lets work in the background come to its end."""

    def __init__(self, store: Store, note: Callable[[str], None], random: Random, rest: Callable[[], None]) -> None:
        self.store = store
        self.note = note
        self.random = random
        self.rest = rest

    @property
    def written(self) -> int:
        return self.store.stats().next_global_sequence

    def events(self, count: int) -> list[NewEvent]:
        keyed = self.random.random() < 0.7
        return [
            NewEvent(
                self.random.choice(ENTITIES),
                self.random.choice((PLACED, PAID)),
                "x" * self.random.choice(SIZES),
                idempotency_key=UUID(bytes=self.random.randbytes(16)) if keyed else None,
            )
            for _ in range(count)
        ]

    def append(self, items: Sequence[NewEvent], *, durable: bool = False) -> None:
        first = self.written
        for at, item in enumerate(items):
            if isinstance(item.idempotency_key, UUID):
                self.note(f"key {item.idempotency_key.hex} {first + at}")
        self.note(f"issued {first + len(items)}")
        if len(items) == 1:
            (it,) = items
            receipts: list[Receipt] = [
                self.store.append(
                    it.coordinate, it.kind, it.payload, idempotency_key=it.idempotency_key, durable=durable
                )
            ]
        else:
            receipts = self.store.append_batch(items, durable=durable)
        self.note(f"written {receipts[-1].global_sequence + 1}")
        if receipts[-1].durable:
            self.note(f"durable {receipts[-1].global_sequence + 1}")

    # Steps -------------------------------------------------------------------------------------------------------

    def single(self) -> None:
        for _ in range(self.random.randrange(1, 4)):
            self.append(self.events(1))

    def durable(self) -> None:
        self.append(self.events(self.random.choice((1, 1, 3))), durable=True)

    def batch(self) -> None:
        self.append(self.events(self.random.randrange(2, 5)))

    def sync(self) -> None:
        self.note(f"durable {self.store.sync() + 1}")

    def fill(self) -> None:
        """Rotate, most probably."""
        for _ in range(4):
            self.append([NewEvent(ENTITIES[0], PLACED, "y" * 800)], durable=self.random.random() < 0.1)

    def index(self) -> None:
        """Let runs be written: what comes behind a full tail has it frozen."""
        self.append(self.events(5))
        self.append(self.events(1))
        self.rest()

    def read(self) -> None:
        """Follow with a cursor that has a name, and commit."""
        with self.store.cursor(ORDERS, name=CURSOR) as cursor:
            for _ in range(2):
                cursor.pull(self.random.randrange(1, 4), timeout_seconds=0)
                if (place := cursor.place) is not None and place != cursor.committed:
                    self.note(f"place {CURSOR} {place.global_sequence} {self.written}")
                    cursor.commit()
                    self.note(f"placed {CURSOR} {place.global_sequence}")
                self.append(self.events(1))

    def ask(self) -> None:
        """Append what has to be answered, and have a worker answer it."""
        for _ in range(2):
            self.append([NewEvent(QUESTION, ASKED, "?" * self.random.choice(SIZES))])
        self.answer()

    def answer(self) -> None:
        """Be the worker, in this thread, until it has caught up."""
        course = self.store._course(2, None, OnError.stop, WORKER, singly=True)
        handle = reacting(self.store._reacting(WORKER, QUESTIONS, may_feed_itself=False), self._react)
        job = self.store._job(QUESTIONS, WORKER, "beginning", course)
        steps = course.run()
        result: object = None
        while (step := _sent(steps.send, result)) is not None:
            result = None
            match step:
                case Pull():
                    result = pulled = job.pull_nowait(step.limit)
                    if not pulled.events:
                        course.stop()
                case Handle():
                    result = handle(step.events)
                    self.note(f"written {self.written}")
                case Commit():
                    at = step.event.global_sequence
                    self.note(f"place {WORKER} {at} {self.written}")
                    job.do(step)
                    self.note(f"placed {WORKER} {at}")
                case _:
                    raise AssertionError(step)
        job.end(None)

    def _react(self, event: StoredEvent, reactions: Reactions) -> None:
        for number in range(ANSWERS):
            reactions.append(Coordinate(f"answer:{number}", "shop"), ANSWERED, number)
        self.note(f"issued {self.written + ANSWERS}")

    def anchor(self) -> None:
        """Have an anchor given out, which must hold from then on."""
        anchor = self.store.anchor()
        self.note(f"anchor {anchor.events} {anchor}")
        self.note(f"durable {anchor.events}")


def _sent(send: Callable[[object], object], result: object) -> object:
    try:
        return send(result)
    except StopIteration:
        return None


STEPS = (
    (4, Scribe.single), (3, Scribe.durable), (4, Scribe.batch), (1, Scribe.sync), (3, Scribe.fill), (4, Scribe.index),
    (2, Scribe.read), (2, Scribe.ask), (1, Scribe.anchor),
)  # fmt: skip


def live(scribe: Scribe, steps: int) -> None:
    """Do so many steps, drawn."""
    for step in scribe.random.choices([step for _, step in STEPS], [weight for weight, _ in STEPS], k=steps):
        step(scribe)
        if scribe.random.random() < 0.4:
            scribe.rest()


def live_through(scribe: Scribe) -> None:
    """Do every step once, in an order that is drawn."""
    for _, step in scribe.random.sample(STEPS, len(STEPS)):
        step(scribe)
        if scribe.random.random() < 0.4:
            scribe.rest()


def configured(segment_format: Format | None, **more: object) -> StoreConfig:
    return StoreConfig(
        driver="stepped", segment_format=segment_format, segment_bytes=4096, clock=HandClock(), **more  # type: ignore[arg-type]
    )  # fmt: skip


def scribe_in_memory(files: MemoryFiles, segment_format: Format | None, random: Random) -> Scribe:
    """Open a store over a directory in memory, and note what is durable by that."""
    drivers = SteppedDrivers()
    config = configured(segment_format, sync_every_events=random.choice((6, 40, 1000)))
    store = Store(files.beside(), config, drivers)

    def rest() -> None:
        while drivers.step("index") or drivers.step("writer"):
            pass

    scribe = Scribe(store, files.note, random, rest)
    scribe.note(f"written {scribe.written}")
    scribe.note(f"durable {scribe.written}")
    files._disk.journal = Witnessed(files.journal, store)
    return scribe


class Witnessed(list[Operation]):
    """The journal of a directory, with notes of what a reader in another thread may have been told before each change.

    What was shown must outlive a kill, and what was durable a power cut, whether anybody had a receipt by then or not.
    """

    def __init__(self, operations: Sequence[Operation], store: Store) -> None:
        super().__init__(operations)
        self._store = store
        self._written = self._durable = 0

    def append(self, operation: Operation) -> None:
        written, durable = self._store._system.index.view.last_sequence() + 1, self._store._gate.durable
        if written > self._written:
            self._written = written
            super().append(Operation("note", f"written {written}"))
        if durable > self._durable:
            self._durable = durable
            super().append(Operation("note", f"durable {durable}"))
        super().append(operation)


# The real process -------------------------------------------------------------------------------------------------


def main() -> None:
    """Live two lives in a real directory, with threads."""
    directory, descriptor, seed, segment_format = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])

    def note(text: str) -> None:
        os.write(descriptor, text.encode())

    random = Random(f"{seed} {segment_format}")
    config = StoreConfig(segment_format=segment_format, segment_bytes=4096, sync_every_events=9)  # type: ignore[arg-type] # 1 or 2
    with small():
        for _ in range(2):
            with Store.open(directory, config=config) as store:
                scribe = Scribe(store, note, random, lambda store=store: at_rest(store))  # type: ignore[misc] # one each
                note(f"durable {scribe.written}")
                live(scribe, 7)
                written = scribe.written
            note(f"durable {written}")


def at_rest(store: Store) -> None:
    """Return when the threads have nothing left to do."""
    deadline = monotonic() + PATIENCE_SECONDS
    system = store._system
    while sum(not hasattr(part, "meta") for part in system.index.view.parts) > 1 or system.writer.journal.needs_care:
        assert monotonic() < deadline, "the threads do not come to rest"
        sleep(0.001)


if __name__ == "__main__":
    main()
