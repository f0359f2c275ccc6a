"""What actors say in the log: lines are collected in turns and emitted after them; and how a store was opened."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Protocol

from batpak.actors.actor import Failure
from batpak.actors.messages import Flight
from batpak.log import DEBUG, INFO, WARNING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batpak.actors.actor import Actor, CommandT
    from batpak.actors.mailbox import Envelope, Mailbox
    from batpak.log import Log
    from batpak.reports import OpenReport


class Outer(Protocol):
    """The driver of an actor whose turns may wait for this one's."""

    @property
    def owner(self) -> int:
        """The thread in its turn."""

    @property
    def actor(self) -> Actor[object]:
        """Whose turn that is."""


class Teller:
    """Emits the lines of one actor; *outer* are the drivers inside whose turns nothing may be emitted."""

    __slots__ = ("_actor", "_log", "_mailbox", "_slow_seconds", "outer")

    def __init__(self, actor: Actor[CommandT], mailbox: Mailbox, log: Log, slow_seconds: float) -> None:
        """Tell of *actor*; a command that took *slow_seconds* is told as a warning."""
        self._actor = actor
        self._mailbox = mailbox
        self._log = log
        self._slow_seconds = slow_seconds
        self.outer: Sequence[Outer] = ()

    def tell_lines(self) -> None:
        """Emit what the actor has collected."""
        lines = self._actor.lines
        while lines:
            try:
                level, event, fields = lines.pop(0)
            except IndexError:
                return  # another thread has taken it
            self._emit(level, event, {"actor": self._actor.name} | fields)

    def tell(self, command: object, queued: float, seconds: float, outcome: object) -> None:
        """Emit the line of one command."""
        slow = seconds >= self._slow_seconds
        fields: dict[str, object] = {
            "actor": self._actor.name,
            "command": type(command).__name__,
            "queued_us": round(queued * 1e6),
            "run_us": round(seconds * 1e6),
            "waiting": len(self._mailbox.items),
            "outcome": _name_of(outcome),
        }
        self._emit(WARNING if slow else DEBUG, "actor.slow" if slow else "actor.command", fields)
        if type(command) is Flight and command.contexts:
            self._tell_items(command, fields, outcome)

    def tell_queued(self, envelope: Envelope, started: float, seconds: float) -> None:
        """Emit the line of a queued command in the context of whoever asked."""
        queued = started - envelope.queued_at
        if envelope.context is None:
            self.tell(envelope.command, queued, seconds, envelope.outcome)
        else:
            envelope.context.run(self.tell, envelope.command, queued, seconds, envelope.outcome)

    def _tell_items(self, flight: Flight, fields: dict[str, object], outcome: object) -> None:
        """Emit the line of each item of a flight, in the context of whoever asked for it."""
        outcomes = outcome if isinstance(outcome, list) else [outcome] * len(flight.items)
        for item, context, each in zip(flight.items, flight.contexts, outcomes, strict=True):
            if context is not None:
                told = fields | {"command": type(item).__name__, "outcome": _name_of(each)}
                context.run(self._emit, DEBUG, "actor.command", told)

    def _emit(self, level: int, event: str, fields: dict[str, object]) -> None:
        """Emit a line; inside a turn that waits for this actor it is left to that turn's end."""
        me = get_ident()
        for outer in self.outer:
            if outer.owner == me:
                outer.actor.lines.append((level, event, fields))
                return
        self._log.emit(level, event, **fields)


def _name_of(outcome: object) -> str:
    """Return how the log calls an outcome."""
    error = outcome.error if type(outcome) is Failure else outcome
    return type(error).__name__ if isinstance(error, BaseException) else "ok"


def tell_opened(log: Log, directory: str, report: OpenReport) -> None:
    """Emit the lines about how a store was opened."""
    for each in report.quarantined:
        log.emit(WARNING, "recovery.cut", segment=each.segment, offset=each.offset, bytes=each.length, copy=each.file)
    for note in report.notes:
        log.emit(WARNING, "recovery.note", note=note)
    log.emit(
        INFO,
        "store.open",
        directory=directory,
        path=report.path,
        runs=report.runs,
        tail_events=report.tail_events,
        milliseconds=round(report.seconds * 1000, 1),
    )
