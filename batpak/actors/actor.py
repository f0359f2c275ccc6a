"""What an actor is: a state machine that takes commands in turns and does not know which thread runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

CommandT = TypeVar("CommandT")

Line: TypeAlias = "tuple[int, str, dict[str, object]]"
"""A line for the log: level, event, fields. Collected in turns, emitted after them."""


class Failure:
    """An outcome that is an error; it is raised where the command was asked."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        """Carry *error* to whoever waits."""
        self.error = error


class _Pending:
    """The type of `PENDING`."""

    def __repr__(self) -> str:
        return "PENDING"


PENDING: Final = _Pending()
"""The outcome of a command of which a repair found no trace: it is decided afresh."""


class Actor(Generic[CommandT]):
    """One owner of some state; nothing else touches it.

    A turn that changes more than one thing sets *mark* before its first effect and keeps it until `settle`. Whoever
    takes the next turn and finds a mark calls `repair` before anything else. *lines* are for the log.
    """

    name: str

    def __init__(self) -> None:
        """Start without a mark."""
        self.mark: object | None = None
        self.lines: list[Line] = []

    def handle(self, command: CommandT) -> object:
        """Run one command and return its answer, or raise its error; a turn of its own."""
        raise NotImplementedError

    def turn(self, commands: Sequence[CommandT]) -> list[object]:
        """Run a batch of commands in one turn; an outcome each, a `Failure` where a command was refused.

        Fewer outcomes than commands leave the last ones to the next turn.
        """
        outcomes: list[object] = []
        for command in commands:
            try:
                outcomes.append(self.handle(command))
            except Exception as error:  # noqa: BLE001 - each command gets its own error, its neighbours go on
                outcomes.append(Failure(error))
        return outcomes

    def repair(self) -> Sequence[object]:
        """Finish or undo the turn that was cut short; its outcomes, `PENDING` where a command left no trace.

        Cut short itself, it is begun again.
        """
        return ()

    def settle(self) -> None:
        """Drop the mark: every outcome has been handed over."""
        self.mark = None

    def idle(self) -> float | None:
        """Do a slice of work outside any turn; the seconds until the next one, or None when there is none."""
        return None

    def give_up(self, error: BaseException) -> None:
        """Refuse every later command because of *error*: the restart budget is spent or a repair failed."""
        raise NotImplementedError
