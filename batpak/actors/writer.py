"""The writer: gives every event its place in the journal; nothing else writes events.

A turn decides first and changes nothing: the result is a plan with the bytes, the index's records, and for each
command its outcome, ready-made, beside the offset that the file must reach for it to be true. The plan is the mark.
Then: one positioned write, the index's columns, one assignment of the bound. Whoever finds a plan left over compares
what lies in the file with what was to be written: what is complete is published and answered, the rest is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from batpak.actors.actor import PENDING, Actor, Failure
from batpak.actors.decision import Decision, Standing
from batpak.actors.messages import Append, AppendBatch, Flight, Publish, WriterCommand
from batpak.errors import BatpakError, StorageError, WriterFailedError
from batpak.log import DEBUG
from batpak.storage.segment import frame_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batpak.actors.driver import Driver
    from batpak.actors.gate import Gate
    from batpak.actors.journal import Journal
    from batpak.actors.messages import IndexCommand
    from batpak.clock import Clock
    from batpak.config import StoreConfig
    from batpak.log import Log
    from batpak.storage.row import Record
    from batpak.storage.seam import FailedSyncs
    from batpak.storage.segment import SegmentMeta

MAX_HEADS: Final = 65_536
"""At least so many entities' newest events stay in memory, at most twice as many; the others are found in the index."""
SYNC_EARLY: Final = 4
"""The writer's thread begins an fsync at this part of ``sync_every_events``: busy callers make it wait for the
interpreter before and behind it, and who reaches the limit waits for its end."""
MAX_TURN_BYTES: Final = 16 * 1024 * 1024
"""A turn that has so much to write leaves the commands behind it to the next: nobody waits for a write without end."""


@dataclass(slots=True)
class Unit:
    """What is written whole or not at all: an event or a batch. After it stand *count* bodies, which reach *end*."""

    outcome: object
    count: int
    end: int = 0


@dataclass(slots=True)
class Plan:
    """One turn, decided and not yet done: *data* goes to *start*; *shape* says how many units each command has.

    A number of units stands for a flight, which has an outcome for each; None for a command with one outcome.
    """

    start: int
    data: bytes
    decision: Decision
    units: list[Unit]
    shape: list[int | None]


class Writer(Actor[WriterCommand]):
    """Give every event its place in the journal."""

    name = "writer"

    def __init__(
        self,
        journal: Journal,
        index: Driver[IndexCommand],
        standing: Standing,
        config: StoreConfig,
        clock: Clock,
        log: Log,
    ) -> None:
        """Write to *journal* and publish to *index*; *standing* is what the next event builds on."""
        super().__init__()
        self.mark: Plan | None = None
        self.journal = journal
        self.standing = standing
        self.gate: Gate | None = None
        self.failed_syncs: FailedSyncs = []
        self._index = index
        self._config = config
        self._clock = clock
        self._log = log
        journal.lines = self.lines
        self._failed: BaseException | None = None

    @property
    def failure(self) -> BaseException | None:
        """Why the writer refuses everything, if it does."""
        return self._failed or (self.gate.poison if self.gate else None)

    def handle(self, command: WriterCommand) -> object:
        """Run one command as a turn of its own."""
        if type(command) is not Append:
            outcome = self.turn((command,))[0]
        else:  # what most turns are
            if self._failed is not None or self.failed_syncs:
                self.require_sound()
            decision = Decision(self.standing)
            outcome = decision.append(command)
            if decision.bodies:
                self._write(decision, [Unit(outcome, 1)], [None])
        if type(outcome) is Failure:
            raise outcome.error
        return outcome

    def turn(self, commands: Sequence[WriterCommand]) -> list[object]:
        """Decide commands, write once, publish once; an outcome each, for as many as one write should take."""
        self.require_sound()
        decision = Decision(self.standing)
        units: list[Unit] = []
        shape: list[int | None] = []
        for command in commands:
            if isinstance(command, Flight):
                units += [self._decide(decision, item) for item in command.items]
                shape.append(len(command.items))
            else:
                units.append(self._decide(decision, command))
                shape.append(None)
            if decision.bytes_needed >= MAX_TURN_BYTES:
                break
        if decision.bodies:
            self._write(decision, units, shape)
        return _outcomes(units, shape)

    def _decide(self, decision: Decision, command: Append | AppendBatch) -> Unit:
        """Return the outcome that *command* will have once the turn is written."""
        match command:
            case Append():
                outcome: object = decision.append(command)
            case AppendBatch():
                outcome = decision.batch(command)
            case _:
                assert_never(command)
        return Unit(outcome, len(decision.bodies))

    def _write(self, decision: Decision, units: list[Unit], shape: list[int | None]) -> None:
        """Write what was decided, publish it, and let later decisions build on it."""
        journal, standing = self.journal, self.standing
        journal.make_room(decision.bytes_needed, standing.next_sequence, standing.last_hash, decision.created_us)
        written = journal.written
        start, meta = written.offset, written.meta
        assert meta is not None, "room has been made"
        data = _frames(decision, units, meta, start)
        self.mark = Plan(start, data, decision, units, shape)
        journal.write(data, start)
        self._publish(decision, decision.records, start + len(data))
        if self._log.level <= DEBUG:
            segment, events = meta.segment, len(decision.records) - decision.records.count(None)
            self.lines.append((DEBUG, "writer.commit", {"events": events, "bytes": len(data), "segment": segment}))

    def _publish(self, decision: Decision, records: Sequence[Record | None], end: int) -> None:
        """Move the journal's end behind *records*, then show them to readers: redo, never undo.

        In this order: the index makes durable what it was shown before it writes it out, and must never have to wait
        for that until a turn that was cut short is repaired, for a repair waits for the index.
        """
        events: Sequence[Record] = records  # type: ignore[assignment] # without markers there is no None
        if decision.has_markers:
            events = [record for record in records if record is not None]
        self.journal.advance(end, events[-1].global_sequence + 1)
        self._index.pass_on(Publish(events))
        self.standing.take(decision, events)

    def repair(self) -> Sequence[object]:
        """Take in what the interrupted turn wrote completely, and cut the rest."""
        plan = self.mark
        if plan is None:
            return ()
        reached = plan.start + self.journal.matching(plan.data, plan.start)
        whole = [unit for unit in plan.units if unit.end <= reached]
        end = max((unit.end for unit in whole), default=plan.start)
        count = max((unit.count for unit in whole), default=0)
        if count:
            self._publish(plan.decision, plan.decision.records[:count], end)
        self.journal.cut(end)
        for unit in plan.units:
            if unit.end > end:
                unit.outcome = PENDING
        return _outcomes(plan.units, plan.shape)

    def give_up(self, error: BaseException) -> None:
        """Refuse everything from now on."""
        self._failed = error

    def idle(self) -> float | None:
        """Look after the segments; make durable what has waited too long; the seconds until that may be due."""
        if self.journal.needs_care and self.failure is None and self.journal.take_care():
            return 0.0
        gate = self.gate
        if gate is None or gate.poison is not None:
            return None
        if gate.durable >= self.journal.sequence and not self._is_under_way(gate):
            return None
        gate.announce()
        behind = self.journal.sequence - gate.durable
        due = self._seconds_left(gate)
        if due <= 0 or behind * SYNC_EARLY >= self._config.sync_every_events:
            try:
                gate.cover(self.journal.sequence)
            except BatpakError:
                return None  # the gate remembers why; every later write is told
            return 0.0
        return due

    def _seconds_left(self, gate: Gate) -> float:
        """Return the seconds until what is not durable has to be."""
        return gate.since + self._config.sync_every_seconds - self._clock.monotonic()

    def _is_under_way(self, gate: Gate) -> bool:
        """Whether a write has been announced and nothing of it is seen yet; when it is overdue, it was refused."""
        if gate.dirty and self._seconds_left(gate) <= 0:
            gate.dirty = False
        gate.watched = gate.dirty  # a write that ends now looks at this behind it
        return gate.dirty or gate.durable < self.journal.sequence

    def require_sound(self) -> None:
        """Refuse when a repair or an fsync has failed."""
        failure = self.failure
        if failure is not None:
            raise WriterFailedError(f"{type(failure).__name__}: {failure}") from failure


def _frames(decision: Decision, units: list[Unit], meta: SegmentMeta, start: int) -> bytes:
    """Return what goes to *start*; tell records and units where in the file they lie."""
    if len(decision.bodies) == 1:  # what most turns write
        frame, record = frame_bytes(meta, decision.bodies[0]), decision.records[0]
        if record is not None:
            record.segment, record.offset, record.length = meta.segment, start, len(frame)
        for unit in units:
            unit.end = start + len(frame) if unit.count else start
        return frame
    frames = []
    offset, offsets = start, [start]
    for body, record in zip(decision.bodies, decision.records):  # noqa: B905 - a check of each pair, at each append
        frame = frame_bytes(meta, body)
        length = len(frame)
        if record is not None:
            record.segment, record.offset, record.length = meta.segment, offset, length
        offset += length
        offsets.append(offset)
        frames.append(frame)
    for unit in units:
        unit.end = offsets[unit.count]
    return b"".join(frames)


def _outcomes(units: list[Unit], shape: list[int | None]) -> list[object]:
    """Return an outcome for each command: of a flight the list of its items', errors as values."""
    outcomes: list[object] = []
    at = 0
    for count in shape:
        if count is None:
            outcomes.append(units[at].outcome)
            at += 1
            continue
        items = [unit.outcome for unit in units[at : at + count]]
        at += count
        if count and all(item is PENDING for item in items):
            outcomes.append(PENDING)
        else:
            outcomes.append([_item(item) for item in items])
    return outcomes


def _item(outcome: object) -> object:
    """Return the outcome of one item of a flight; what a repair found no trace of was not written."""
    if outcome is PENDING:
        return StorageError("write", "the active segment", None)
    return outcome.error if type(outcome) is Failure else outcome
