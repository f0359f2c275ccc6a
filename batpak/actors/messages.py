"""Every command that the actors take: the table of contents of the machine.

A command says what is to be done, in bytes and numbers; whoever built it has checked its limits, encoded its payload
and read the clock. Commands are frozen to the type checker and built positionally on hot paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, dataclass_transform

from batpak.receipt import Receipt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextvars import Context

    from batpak.storage.row import Part, Record
    from batpak.storage.run import Run

T = TypeVar("T")
ReplyT = TypeVar("ReplyT")


@dataclass_transform(frozen_default=True)
def command(cls: type[T]) -> type[T]:
    """Make *cls* a command: slotted, and frozen to the type checker (a really frozen one costs five times as much)."""
    return dataclass(slots=True)(cls)


class Command(Generic[ReplyT]):
    """What an actor can be asked for; its parameter is the type of the answer."""

    __slots__ = ()


# The writer -----------------------------------------------------------------------------------------------------


@command
class Append(Command[Receipt]):
    """Store one event, if its entity still stands at *expected_sequence* and its key is new.

    *timestamp_us* was read before the call; *caused_by* is the index of an earlier item of the same batch.
    """

    entity: str
    scope: str
    kind: int
    payload: bytes
    timestamp_us: int
    expected_sequence: int | None = None
    key: bytes | None = None
    correlation_id: bytes | None = None
    causation_id: bytes | None = None
    flags: int = 0
    caused_by: int | None = None


@command
class AppendBatch(Command[list[Receipt]]):
    """Store all items or none, side by side in one segment."""

    items: Sequence[Append]


Outcome: TypeAlias = Receipt | list[Receipt] | Exception
"""What came of one item of a flight."""


@command
class Flight(Command[list[Outcome]]):
    """Store each item for itself, each with its own answer or error: appends that travelled together.

    *contexts* are those of whoever asked for them, for the log; a None in it, or none at all: nobody looks.
    """

    items: Sequence[Append | AppendBatch]
    contexts: Sequence[Context | None] = ()


# The index ------------------------------------------------------------------------------------------------------


@command
class Publish(Command[None]):
    """Make events visible to readers, all at once; those that are visible already are passed over."""

    records: Sequence[Record]


@command
class Adopt(Command[None]):
    """Put *part* in the place of *parts*, neighbours that hold the same events."""

    part: Part
    parts: Sequence[Part]


@command
class Replace(Command[None]):
    """Drop a damaged run and rebuild what it held from its segments, before the answer."""

    run: Run


# The reader -----------------------------------------------------------------------------------------------------


@command
class Load(Command[list[bytes]]):
    """Read frames and check them; each place is (segment, offset, length) and gives its body."""

    places: Sequence[tuple[int, int, int]]


WriterCommand: TypeAlias = Append | AppendBatch | Flight
IndexCommand: TypeAlias = Publish | Adopt | Replace
ReaderCommand: TypeAlias = Load
