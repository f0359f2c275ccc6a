"""Files of the index compared with the events they speak of; whatever is wrong with one, it can be made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batpak.storage.blocks import RunError
from batpak.storage.row import FOREIGN, KEY, LINKED
from batpak.storage.run_state import initial_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batpak.storage.row import Record
    from batpak.storage.run import Run


class RunCheck:
    """Compares the rows of runs, which follow one another, with events that come in the same order."""

    def __init__(self, runs: list[Run], hidden: bytes) -> None:
        """Expect the events of *runs* from the first on; *hidden* is what they were made with."""
        self._runs = list(runs)
        self._state = initial_state(hidden)
        self._rows: Iterator[Record] = iter(())
        self._run: Run | None = None
        self._left = 0
        self._lies: dict[str, str] = {}
        self._next_run()

    def take(self, record: Record) -> None:
        """Compare the next event with the next row."""
        run = self._run
        if run is None:
            return
        self._state.add(record)
        if run.name not in self._lies:
            try:
                row = next(self._rows)
                if _facts(row) != _facts(record):
                    self._lies[run.name] = f"its row of event {record.global_sequence} says something else"
            except (RunError, StopIteration, UnicodeDecodeError) as error:
                self._lies[run.name] = str(error) or "it has fewer rows than it says"
        self._left -= 1
        if not self._left:
            self._end()

    def close(self, *, complete: bool) -> list[str]:
        """Return what was found, a sentence for each run; *complete* says that there are no more events."""
        if complete and self._run is not None:
            self._lies.setdefault(self._run.name, "it has rows of events that are not there")
        return [f"{name}: {lie}" for name, lie in self._lies.items()]

    def _end(self) -> None:
        """Compare what a run says of its end."""
        run = self._run
        assert run is not None
        if run.name not in self._lies:
            try:
                run.body.check(0, len(run.body.view))
            except RunError as error:
                self._lies[run.name] = error.reason
            if run.meta.tree != self._state.pack():
                self._lies.setdefault(run.name, "it says something else of the journal at its end")
        self._next_run()

    def _next_run(self) -> None:
        """Go on with the next run."""
        self._run = self._runs.pop(0) if self._runs else None
        if self._run is not None:
            self._left = self._run.count
            self._rows = map(self._run.record, range(self._run.count))


def _facts(record: Record) -> tuple[object, ...]:
    """Return what a row and an event have in common; format 1 does not store that an id is a key."""
    ignored = LINKED | KEY if record.bits & FOREIGN else LINKED
    return (
        record.event_id,
        record.global_sequence,
        record.wall_ms,
        record.segment,
        record.offset,
        record.length,
        record.entity,
        record.scope,
        record.sequence,
        record.kind,
        record.payload_version,
        record.flags,
        record.bits & ~ignored,
        record.correlation_id,
        record.causation_id,
    )
