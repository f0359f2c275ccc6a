"""From a directory to the parts of the index: runs that hold, and a tail of what they do not cover."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar, cast

from batpak.errors import CorruptStoreError
from batpak.storage import run_builder
from batpak.storage.blocks import RunError
from batpak.storage.ledger import Spans
from batpak.storage.recovery import Scan, Start
from batpak.storage.row import Record
from batpak.storage.run import Run
from batpak.storage.run_format import FOLDER, RunMeta, parse_run_name
from batpak.storage.run_sources import PIECE
from batpak.storage.run_state import RunState, initial_state
from batpak.storage.scan import Batches, Walk
from batpak.storage.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    from batpak.storage.files import Files
    from batpak.storage.row import Part
    from batpak.storage.survey import Survey

T = TypeVar("T")

SPILL_EVENTS: Final = 16_384
"""While a journal is read from its frames, so many events at a time become a run: memory stays bounded."""


@dataclass(slots=True)
class Opened:
    """The index as it stands after opening; *tail* holds *count* events, *state* is the journal behind the last run."""

    parts: list[Part]
    tail: Tail
    count: int
    state: RunState
    scan: Scan
    leftovers: list[str] = field(default_factory=list)
    adopted: int = 0
    """How many runs were there; the others were made while the rest was scanned."""

    def events(self) -> int:
        """How many events there are in all."""
        return sum(part.count for part in self.parts) + self.count

    def state_at_end(self) -> RunState:
        """Return the journal behind its last event."""
        state = self.state.copy()
        for start in range(0, self.count, PIECE):
            stop = min(self.count, start + PIECE)
            state.add_rows(self.tail.packed(start, stop), self.tail.hashes(start, stop))
        return state


def open_parts(files: Files, found: Survey, *, writable: bool) -> Opened:
    """Adopt the runs that hold, and scan what they do not cover."""
    runs, leftovers = adopt_runs(files, found)
    state, scan = begin_scan(files, found, runs, writable=writable)
    opened = Opened(list(runs), Tail(state.next_sequence), 0, state, scan, leftovers, len(runs))
    _fill(files, found, opened, spill=writable)
    found.ledger.numbers.forget()
    return opened


def begin_scan(files: Files, found: Survey, runs: Sequence[Run], *, writable: bool) -> tuple[RunState, Scan]:
    """Return the journal's state behind *runs*, and a scan of what they do not cover; nothing is read yet."""
    state = RunState.unpack(runs[-1].meta.tree) if runs else initial_state(found.hidden_digest)
    start = _start_behind(runs, state)
    found.ledger.highest = state.next_sequence - 1
    if _scans_the_original(found, start):
        for text in found.ledger.numbers.load():
            found.note(text)
    return state, Scan(files, found, start, state.last_hash if runs else None, writable=writable)


def adopt_runs(files: Files, found: Survey) -> tuple[list[Run], list[str]]:
    """Return the runs that cover the journal from its first event on, the widest first, and the names of the others."""
    names = [f"{FOLDER}/{name}" for name in files.list(FOLDER)]
    candidates = sorted((parsed, name) for name in names if (parsed := parse_run_name(name)) is not None)
    by_first: dict[int, list[str]] = {}
    for (first, _, _), name in candidates:
        by_first.setdefault(first, []).append(name)
    runs: list[Run] = []
    metas = found.catalog.metas()
    while metas:
        run = _next_run(files, found, runs, by_first)
        if run is None:
            break
        runs.append(run)
    used = {run.name for run in runs}
    return runs, [name for name in names if name not in used]


def _next_run(files: Files, found: Survey, runs: Sequence[Run], by_first: dict[int, list[str]]) -> Run | None:
    """Return the widest valid run that goes on where *runs* end."""
    expected = RunState.unpack(runs[-1].meta.tree).next_sequence if runs else 0
    firsts = [expected] if runs else sorted(by_first)[:1]
    for first in firsts:
        # The name holds the last sequence and the generation in fixed width: the last name is the widest, newest one.
        for name in reversed(by_first.get(first, [])):
            with suppress(RunError, FileNotFoundError):  # a writer beside us removes what it has merged
                run = Run.open(files, name, found.catalog.store_id)
                if _holds(found, run, runs):
                    return run
                run.close()
    return None


def _holds(found: Survey, run: Run, before: Sequence[Run]) -> bool:
    """Whether the segments are still those that *run* was made from, and *run* goes on where *before* ends."""
    state = RunState.unpack(run.meta.tree)
    metas = {meta.segment: meta for meta in found.catalog.metas()}
    if state.hidden != found.hidden_digest or not run.meta.covers or state.segment not in metas:
        return False
    for segment, identity, start, end, _ in run.meta.covers:
        meta = metas.get(segment)
        if meta is None or meta.identity != identity:
            return False
        stop = meta.size if meta.footer is None else meta.footer.end
        if end > stop:  # what a run speaks of was durable before the run was
            raise CorruptStoreError(
                meta.name,
                stop,
                f"frames that end at {stop}",
                f"frames up to {end}, which {run.name} covers",
                "what is there",
            )
        if not meta.frames_start <= start < end:
            return False
    crc = next(crc for segment, _, _, _, crc in run.meta.covers if segment == state.segment)
    if found.ledger.crc_at(state.segment, state.offset) != crc:
        return False
    return bool(before) or _is_first(found, run)


def _is_first(found: Survey, run: Run) -> bool:
    """Whether no event stands before those of *run*: the run of the first ones may have been dropped as damaged."""
    segment, _, start, _, _ = run.meta.covers[0]
    batches = Batches()
    for meta in found.catalog.metas():
        if meta.segment > segment:
            break
        batches.enter(meta)
        with closing(found.ledger.files.open_read(meta.name)) as file:
            walk = Walk(file, meta, None, start if meta.segment == segment else None)
            if any(batches.feed(each, meta.version) for each in walk):
                return False
            if meta.segment == segment and walk.end != start:
                return False
    return True


def _start_behind(runs: Sequence[Run], state: RunState) -> Start:
    """Return where the frames behind *runs* begin."""
    if not runs:
        return Start()
    segment, _, _, end, _ = runs[-1].meta.covers[-1]
    return Start(segment, end, state.next_sequence)


def _scans_the_original(found: Survey, start: Start) -> bool:
    """Whether frames that the original wrote will be scanned."""
    return any(not meta.ours and meta.segment >= start.segment for meta in found.catalog.metas())


def _fill(files: Files, found: Survey, opened: Opened, *, spill: bool) -> None:
    """Scan, and put what is found into the tail; what is more than the tail should hold becomes runs."""
    if any(not meta.ours for meta in found.catalog.metas()) and not opened.parts:
        # The original may have repeated and reordered sequences (hazard H21): one run, sorted.
        records = [record for group in opened.scan.groups() for record in group]
        records.sort(key=lambda record: (record.global_sequence, record.segment, record.offset))
        _put(opened, records)
        return
    for group in opened.scan.groups():
        if spill and opened.count >= SPILL_EVENTS:
            _spill(files, found, opened)
        _put(opened, group)


def _put(opened: Opened, records: Iterable[Record]) -> None:
    """Put rows behind those of the tail."""
    for record in records:
        opened.tail.put(opened.count, record)
        opened.count += 1


def _spill(files: Files, found: Survey, opened: Opened) -> None:
    """Turn the tail into a run, here and now."""
    state = opened.state
    meta = exhaust(run_meta(found, opened.tail, opened.count, state))
    name = exhaust(run_builder.build(files, opened.tail, meta))
    try:
        opened.parts.append(Run.open(files, name, found.catalog.store_id))
    except RunError as error:
        raise CorruptStoreError(name, None, str(error), "what has just been written", "the segments") from error
    opened.tail = Tail(state.next_sequence)
    opened.count = 0


def run_meta(found: Survey, tail: Tail, count: int, state: RunState) -> Generator[None, None, RunMeta]:
    """Return in slices what a run of the first *count* rows of *tail* says of itself; *state* goes behind them."""
    spans = Spans()
    for start in range(0, count, PIECE):
        packed = tail.packed(start, min(count, start + PIECE))
        state.add_rows(packed, tail.hashes(start, min(count, start + PIECE)))
        spans.add_rows(packed)
        yield
    return RunMeta(found.catalog.store_id, 0, found.ledger.covers(spans), state.pack())


def exhaust(job: Generator[None, None, T]) -> T:
    """Run a job in slices to its end at once; its result."""
    while True:
        try:
            next(job)
        except StopIteration as stop:
            return cast("T", stop.value)
