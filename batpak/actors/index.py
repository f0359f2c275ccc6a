"""The index: which events there are and where they lie; readers look at what it has published.

The tail takes every new event in memory, and who waits for one is told when it can be read. When the tail is full it
is frozen, and this actor's own thread, between turns, writes it out as a run and merges runs that have become
neighbours of a size. Readers hold a `View`: they never wait for any of this. Nothing is written about events that are
not durable yet.

While events come in, that thread works for `WORK_SECONDS` at a time and then rests, the less the fuller the
tail has become that follows the frozen one. If it falls behind all the same, so that two frozen tails wait, whoever
appends lets it work: between turns, for a moment in so many events (`ease`), the longer the more tails wait. So what is
not written out, which an open after a kill reads again, stays near two tails, and no append waits long.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final, assert_never

from batpak.actors.actor import Actor
from batpak.actors.announcer import Announcer
from batpak.actors.mailbox import new_guard, new_lock, ring
from batpak.actors.messages import Adopt, IndexCommand, Publish, Replace
from batpak.errors import ActorFailedError, BatpakError, WriterFailedError
from batpak.log import WARNING
from batpak.storage import run_builder
from batpak.storage.blocks import RunError
from batpak.storage.opening import exhaust, run_meta
from batpak.storage.run import Run
from batpak.storage.run_format import Cover, RunMeta
from batpak.storage.run_state import RunState, initial_state
from batpak.storage.tail import Tail
from batpak.storage.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from batpak.actors.driver import Driver
    from batpak.clock import Clock
    from batpak.storage.files import Files
    from batpak.storage.opening import Opened
    from batpak.storage.row import Part, Record
    from batpak.storage.segment import SegmentMeta
    from batpak.storage.survey import Survey

RUN_EVENTS: Final = 8192
RUN_BYTES: Final = 8 * 1024 * 1024
"""The tail is frozen and written out at this many events or bytes of memory, whichever comes first."""
BYTES_EVERY: Final = 64
"""After so many events the memory of the tail is looked at."""
CLOSE_EVENTS: Final = 512
"""A close writes the tail out if it holds at least so many events; fewer are read back faster than a file is made."""
WORK_SECONDS: Final = 0.002
FAR_BEHIND: Final = 2
"""So long background work holds the interpreter's lock at a time, twice as long from so many steps behind on: an append
may wait as long."""
SLICES: Final = 64
"""And so many slices of work at most are done at a time."""
BUSY_SHARE: Final = 4
"""While events come in, background work rests this many times as long as it worked; a quarter of that for each step
that it has fallen behind."""
EASE_EVENTS: Final = 64
EASE_SECONDS: Final = 0.001
MAX_EASE_SECONDS: Final = 0.008
"""With two frozen tails an append waits up to so long in so many events; twice as long for each tail more, but no
longer than the last."""
MANY_RUNS: Final = 8
"""Each so many runs are a step that it has fallen behind: they make look-ups slow."""
RETRY_SECONDS: Final = 10.0
"""How long background work rests after it failed."""


class Index(Actor[IndexCommand]):
    """Answer where events lie; *view* is what readers see, replaced by one assignment."""

    name = "index"

    def __init__(self, files: Files, found: Survey, opened: Opened, clock: Clock, *, writable: bool) -> None:
        """Start with what recovery found."""
        super().__init__()
        self._files = files
        self._found = found
        self._clock = clock
        self._writable = writable
        self.view = View((*opened.parts, shared(opened.tail)), opened.count)
        self.announcer = Announcer()
        self.cover: Callable[[int], None] | None = None
        self.driver: Driver[IndexCommand] | None = None
        self._job: Generator[None, None, None] | None = None
        self._merging: Generator[None, None, None] | None = None
        self._seen = opened.count
        self._eased = 0
        self._rests = False
        self._relief = new_lock()
        self.pressed = 0
        """How many frozen tails wait beyond the first."""
        self._failed: BaseException | None = None

    def handle(self, command: IndexCommand) -> object:
        """Run one command."""
        if self._failed is not None:
            raise ActorFailedError(self.name, type(self._failed).__name__) from self._failed
        match command:
            case Publish():
                self._publish(command.records)
            case Adopt():
                self._adopt(command.part, command.parts)
            case Replace():
                self._replace(command.run)
            case _:
                assert_never(command)
        return None

    def meta(self, segment: int) -> SegmentMeta:
        """Return what is known of a segment."""
        return self._found.catalog.meta(segment)

    def start_again(self, found: Survey, opened: Opened) -> None:
        """Show what was opened anew in the place of everything; for a reader that follows a writer."""
        self._found = found
        self.view = View((*opened.parts, shared(opened.tail)), opened.count)
        self.announcer.tell_all()

    def let_go(self) -> None:
        """Show nothing any more; runs are unmapped when the last read that looks at them ends."""
        jobs = self._job, self._merging
        self._job = self._merging = None
        for job in jobs:
            if job is not None:  # a writer that has failed writes nothing out: what was begun is given up
                with suppress(OSError):
                    job.close()
        self.view = View((Tail(0),), 0)

    def give_up(self, error: BaseException) -> None:
        """Refuse everything from now on; readers keep what they see."""
        self._failed = error

    def idle(self) -> float | None:
        """Do a slice of writing out and merging; rests while events come in."""
        if not self._writable or self._failed is not None or self.cover is None:
            return None
        self._job = job = self._next_job()
        if job is None:
            return None
        started, behind = self._clock.monotonic(), self._behind()
        seconds = WORK_SECONDS if behind < FAR_BEHIND else 2 * WORK_SECONDS
        try:
            for _ in range(SLICES):
                next(job)
                if self._clock.monotonic() - started >= seconds:
                    break
        except StopIteration:
            self._merging = None if job is self._merging else self._merging
            self._job = None
        except (OSError, BatpakError, RunError) as error:
            self._job = self._merging = None
            self.pressed, self._rests = 0, True
            self.lines.append((WARNING, "index.not_written", {"error": type(error).__name__}))
            if isinstance(error, WriterFailedError):
                self.cover = None  # nothing more becomes durable, so nothing more may be written about it
                return None
            return RETRY_SECONDS
        self._rests = False
        ring(self._relief)
        seen, self._seen = self._seen, self.view.bound
        if seen == self._seen:
            return 0.0
        worked = min(self._clock.monotonic() - started, seconds)  # the rest was a wait for the disk, in nobody's way
        return worked * BUSY_SHARE / (1 << 2 * behind)

    def _behind(self) -> int:
        """How far background work has fallen behind: quarters of a tail beyond the first, and too many runs."""
        view = self.view
        waiting = sum(part.count for part in view.parts[:-1] if isinstance(part, Tail))
        quarters = (waiting + view.bound) * 4 // RUN_EVENTS - 4 if waiting else 0
        return min(8, max(0, quarters) + len(view.parts) // MANY_RUNS)

    def ease(self, sequence: int) -> None:
        """Let background work go on that has fallen behind: wait for it a moment, at most `MAX_EASE_SECONDS`.

        Outside every turn, behind an append that ended before *sequence*; *pressed* tells whether to.
        """
        events, self._eased = sequence - self._eased, sequence
        if 0 <= events < EASE_EVENTS:
            self._eased -= events
            return
        self._relief.acquire(blocking=False)
        seconds = EASE_SECONDS * min(abs(events) // EASE_EVENTS, 8) * (1 << min(self.pressed, 4)) / 2
        self._relief.acquire(timeout=min(seconds, MAX_EASE_SECONDS))

    def _count_waiting(self) -> None:
        """Note how many frozen tails wait; while background work rests after a failure nobody waits for it."""
        if self._writable and not self._rests:
            self.pressed = max(0, sum(isinstance(part, Tail) for part in self.view.parts) - 2)

    def write_out(self) -> None:
        """Write what the tails hold, if it is enough; for a close, when no more events come."""
        self._job = self._merging = None
        if self.view.bound >= CLOSE_EVENTS:
            self._freeze()
        try:
            while (job := self._persist_oldest()) is not None:
                exhaust(job)
        except RunError as error:  # what cannot be read back is made anew by the next open
            self.lines.append((WARNING, "index.not_written", {"error": type(error).__name__}))

    # Turns -------------------------------------------------------------------------------------------------------

    def _publish(self, records: Sequence[Record]) -> None:
        """Put *records* into the tail, then show them all at once; doing it twice changes nothing."""
        view = self.view
        row, last = view.bound, view.last
        tail: Tail = view.parts[-1]  # type: ignore[assignment] # it takes what comes
        if row >= RUN_EVENTS or (not row % BYTES_EVERY and tail.bytes_used >= RUN_BYTES):
            # Not when it gets full: what is frozen will be made durable, and only now has the turn that wrote it ended.
            self._begin_tail()
            view = self.view
            tail, row = self._tail, 0
        if last is None:
            last = view.last_sequence()
        newest = last
        for record in records:
            if record.global_sequence > last:
                tail.put(row, record)
                row += 1
                newest = record.global_sequence
        self.view = View(view.parts, row, newest, view.routes)
        if self.announcer.listening:
            self.announcer.announce(records)  # all of them: what was cut short here comes again as it was

    def _begin_tail(self) -> None:
        """Go on in a new tail, in one assignment; the old one keeps what is visible."""
        self._tail.cut(self.view.bound)  # a put that was cut short may have left more
        fresh = shared(Tail(self._tail.last_sequence + 1))
        self.view = View((*self.view.parts, fresh), 0)
        self._count_waiting()
        if self.driver is not None:
            self.driver.wake()

    @property
    def _tail(self) -> Tail:
        """The part that takes new events."""
        tail = self.view.parts[-1]
        assert isinstance(tail, Tail)
        return tail

    def _freeze(self) -> None:
        """Go on in a new tail if this one holds anything."""
        if self.view.bound:
            self._begin_tail()

    def _adopt(self, part: Part, parts: Sequence[Part]) -> None:
        """Show *part* in the place of *parts*."""
        shown = list(self.view.parts)
        at = shown.index(parts[0])
        shown[at : at + len(parts)] = [part]
        self.view = View(tuple(shown), self.view.bound)
        self._count_waiting()

    def _replace(self, run: Run) -> None:
        """Rebuild what a damaged run held; in its place stands a tail that will be written out again."""
        if run not in self.view.parts:
            return
        tail = shared(Tail(run.first_sequence))
        for row, record in enumerate(self._found.ledger.rescan(run.meta.covers, run.first_sequence)):
            tail.put(row, record)
        self._adopt(tail, (run,))
        if self._writable:
            self._files.remove(run.name)
        self.lines.append((WARNING, "index.rebuilt", {"run": run.name, "events": tail.count}))

    # Background --------------------------------------------------------------------------------------------------

    def _next_job(self) -> Generator[None, None, None] | None:
        """Return what to work on: the oldest frozen tail, else neighbours to merge; a merge waits for tails."""
        if self._job is not None and self._job is not self._merging:
            return self._job
        job = self._persist_oldest()
        if job is None:
            job = self._merging = self._merging or self._merge_some()
        return job

    def _persist_oldest(self) -> Generator[None, None, None] | None:
        """Return the job that writes out the oldest frozen tail."""
        for at, part in enumerate(self.view.parts[:-1]):
            if isinstance(part, Tail):
                return self._persist(part, self._state_before(at))
        return None

    def _persist(self, tail: Tail, state: RunState) -> Generator[None, None, None]:
        """Write *tail* out as a run, once its events are durable, and show the run in its place."""
        assert self.cover is not None
        self.cover(tail.last_sequence + 1)
        meta = yield from run_meta(self._found, tail, tail.count, state)
        name = yield from run_builder.build(self._files, tail, meta)
        yield
        self._show(Run.open(self._files, name, meta.store_id), (tail,))

    def _merge_some(self) -> Generator[None, None, None] | None:
        """Return the job that merges runs of about one size, if enough of them are neighbours."""
        runs = [part for part in self.view.parts if isinstance(part, Run)]
        picked = run_builder.plan_merge(runs)
        return None if picked is None else self._merge(runs[picked])

    def _merge(self, runs: Sequence[Run]) -> Generator[None, None, None]:
        """Merge *runs* into one and remove their files once it stands on disk."""
        last = runs[-1].meta
        covers = join_covers([cover for run in runs for cover in run.meta.covers])
        meta = RunMeta(last.store_id, 1 + max(run.meta.generation for run in runs), covers, last.tree)
        name = yield from run_builder.build(self._files, runs, meta)
        yield
        if not set(runs) <= set(self.view.parts):  # one was damaged, and what it held has been read again meanwhile
            self._files.remove(name)
            return
        self._show(Run.open(self._files, name, meta.store_id), runs)
        for run in runs:
            yield
            self._files.remove(run.name)

    def _show(self, run: Run, parts: Sequence[Part]) -> None:
        """Adopt *run* in a turn of this thread."""
        assert self.driver is not None
        self.driver.within_turn(lambda: self.handle(Adopt(run, parts)))

    def _state_before(self, at: int) -> RunState:
        """Return the journal's state behind the last run among the first *at* parts."""
        for part in reversed(self.view.parts[:at]):
            if isinstance(part, Run):
                return RunState.unpack(part.meta.tree)
        return initial_state(self._found.hidden_digest)


def shared(tail: Tail) -> Tail:
    """Return *tail*, safe to be read by many threads."""
    tail.guard = new_guard()
    return tail


def join_covers(covers: Sequence[Cover]) -> tuple[Cover, ...]:
    """Return *covers*, which follow one another, with those of one segment joined."""
    joined: list[Cover] = []
    for cover in covers:
        if joined and joined[-1][0] == cover[0]:
            joined[-1] = (*joined[-1][:3], *cover[3:])
        else:
            joined.append(cover)
    return tuple(joined)
