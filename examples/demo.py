"""Load the histories of eight public code bases into a journal, and ask it questions.

Each commit is one atomic batch: an event for the commit, and one for each file that it changed, caused by the commit.
Sixty-four tasks append at once, and no commit goes in before its parents. Every event has a key that is made from what
it says, so a second run over the same journal finds everything there and writes nothing.

    python examples/demo.py --journal DIRECTORY
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import random
import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote
from uuid import UUID

import anyio
import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from batpak import Coordinate, EventKind, NewEvent, Region, StoredEvent, operation_key
from batpak.aio import AsyncStore

COMMITTED = EventKind(category=0x1, type_id=0x001)
FILE_CHANGED = EventKind(category=0x1, type_id=0x002)
SCOPE = "history"
COMMITS = Path(__file__).with_name("data") / "commits.jsonl.gz"
TASKS = 64
SHOWN = 5
FEWEST_COMMITS = 100

# What a coordinate refuses, and the two characters that would make the way back ambiguous.
ENCODED = re.compile(r"[\x00-\x1f\x7f/|=:%]")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Commit:
    """One line of the input; a file is (path, lines added, lines removed), without numbers where it is binary."""

    repo: str
    id: str
    at: int
    author: int
    parents: tuple[str, ...]
    files: tuple[tuple[str, int | None, int | None], ...]

    @property
    def key(self) -> UUID:
        """The id of the commit's event, in this and in every other run."""
        return commit_key(self.repo, self.id)


def commit_key(repo: str, commit: str) -> UUID:
    """Return the id of the event of a commit, stored or not."""
    return operation_key("commit", repo, commit)


def file_entity(repo: str, path: str) -> str:
    """Return the entity of a file: the parts of its path with `:` between them, so that a directory is a prefix."""
    parts = (ENCODED.sub(lambda found: f"%{ord(found[0]):02X}", part) for part in path.split("/"))
    return ":".join(("repo", repo, *(part.replace("..", "%2E%2E") for part in parts)))


def readable(entity: str) -> str:
    """Return the path that an entity stands for, its repository first."""
    return "/".join(unquote(part) for part in entity.split(":")[1:])


def read_commits(limit: int | None) -> list[Commit]:
    """Return the commits of all repositories, evenly mixed, each behind its parents."""
    histories: defaultdict[str, list[Commit]] = defaultdict(list)
    with gzip.open(COMMITS, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            files = tuple((path, added, removed) for path, added, removed in row["files"])
            commit = Commit(row["repo"], row["commit"], row["at"], row["author"], tuple(row["parents"]), files)
            histories[commit.repo].append(commit)
    places = [
        (place / len(history), commit.repo, place, commit)
        for history in histories.values()
        for place, commit in enumerate(history)
    ]
    return [commit for *_, commit in sorted(places, key=lambda entry: entry[:3])][:limit]


def events_of(commit: Commit) -> list[NewEvent]:
    """Return the batch that stores one commit: the commit, and behind it what it did to each file."""
    repo = Coordinate(f"repo:{commit.repo}", SCOPE)
    committed = NewEvent(
        repo,
        COMMITTED,
        {
            "commit": commit.id,
            "at": datetime.fromtimestamp(commit.at, UTC),
            "author": commit.author,
            "parents": list(commit.parents),
        },
        idempotency_key=commit.key,
        causation_id=commit_key(commit.repo, commit.parents[0]) if commit.parents else None,
    )
    changes = [
        NewEvent(
            Coordinate(file_entity(commit.repo, path), SCOPE),
            FILE_CHANGED,
            {"added": added, "removed": removed},
            idempotency_key=operation_key("file change", commit.repo, commit.id, path),
            correlation_id=commit.key,
            caused_by=0,
        )
        for path, added, removed in commit.files
    ]
    return [committed, *changes]


@dataclass(slots=True)
class Loaded:
    """What a load came to."""

    new: int = 0
    known: int = 0
    seconds: float = 0.0


async def load(store: AsyncStore, commits: Sequence[Commit], progress: Progress) -> Loaded:
    """Append *commits* from 64 tasks; those that are stored already change nothing.

    Tasks take commits in order, and parents stand before their children, so the first unfinished commit never waits.
    """
    loaded = Loaded()
    stored: defaultdict[UUID, anyio.Event] = defaultdict(anyio.Event)
    bar = progress.add_task("appending", total=sum(1 + len(commit.files) for commit in commits))
    waiting = iter(commits)

    async def work() -> None:
        for commit in waiting:
            for parent in commit.parents:
                await stored[commit_key(commit.repo, parent)].wait()
            receipts = await store.append_batch(events_of(commit))
            stored[commit.key].set()
            known = sum(receipt.duplicate for receipt in receipts)
            loaded.known += known
            loaded.new += len(receipts) - known
            progress.advance(bar, len(receipts))

    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(TASKS):
            tasks.start_soon(work)
    loaded.seconds = time.perf_counter() - started
    return loaded


async def timed(work: Awaitable[T]) -> tuple[T, float]:
    """Wait for *work* and return its result and how many seconds it took."""
    started = time.perf_counter()
    result = await work
    return result, time.perf_counter() - started


def field(event: StoredEvent, name: str) -> object:
    """Return one field of a payload that is a map."""
    assert isinstance(event.payload, dict)
    return event.payload[name]


# The questions ---------------------------------------------------------------------------------------------------


async def busiest_directories(store: AsyncStore, repos: Iterable[str]) -> list[tuple[str, int]]:
    """Return the top directories with the most changes below them, by prefix, from the index alone."""
    directories: set[str] = set()
    for repo in repos:
        for entry in await store.query(Region(entity=f"repo:{repo}", kind=FILE_CHANGED)):
            parts = entry.coordinate.entity.split(":")
            if len(parts) > 3:  # repo:<name>:<directory>:<file>
                directories.add(":".join(parts[:3]))
    changes = [(entity, len(await store.query(Region(entity=entity, kind=FILE_CHANGED)))) for entity in directories]
    return sorted(changes, key=lambda change: (-change[1], change[0]))[:SHOWN]


async def busiest_file(store: AsyncStore, directory: str) -> str:
    """Return the entity below *directory* that has changed most often."""
    entries = await store.query(Region(entity=directory, kind=FILE_CHANGED))
    return Counter(entry.coordinate.entity for entry in entries).most_common(1)[0][0]


async def last_changes(store: AsyncStore, entity: str) -> AsyncIterator[str]:
    """Yield a line for each of the last changes of a file, the last one first, with the commit that caused it."""
    async for change in store.read_stream(entity, limit=SHOWN, reverse=True):
        assert change.causation_id is not None
        commit = await store.get(change.causation_id)
        added, removed = field(change, "added"), field(change, "removed")
        yield f"{field(commit, 'at'):%Y-%m-%d} {str(field(commit, 'commit'))[:10]}  +{added} -{removed}"


async def all_ancestors(store: AsyncStore, repo: str, commit: UUID) -> int:
    """Count the commits that a commit comes from, itself included: one `get_many` for each generation."""
    seen = {commit}
    generation = [commit]
    while generation:
        events = await store.get_many(generation)
        parents = {commit_key(repo, parent) for event in events for parent in parents_of(event)}
        generation = list(parents - seen)
        seen |= parents
    return len(seen)


def parents_of(event: StoredEvent) -> list[str]:
    """Return the ids of the parents of a commit's event."""
    parents = field(event, "parents")
    assert isinstance(parents, list)
    return parents


def count_ancestors(commits: Iterable[Commit], newest: Commit) -> int:
    """Count the same from the input, without the journal."""
    parents = {commit.id: commit.parents for commit in commits}
    seen = {newest.id}
    waiting = [newest.id]
    while waiting:
        unseen = set(parents[waiting.pop()]) - seen
        seen |= unseen
        waiting += unseen
    return len(seen)


async def point_reads(store: AsyncStore, commits: Sequence[Commit], count: int) -> float:
    """Read single commits by id, one after the other, and return the median in seconds."""
    wanted = random.Random(1).choices(commits, k=count)
    return statistics.median([(await timed(store.get(commit.key)))[1] for commit in wanted])


# The log ---------------------------------------------------------------------------------------------------------


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Let structlog collect everything from debug up, as text; afterwards it is as it was."""
    lines: list[str] = []

    def collect(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in {"event", "level"})
        lines.append(f"{event['level']:<8}{event['event']:<16}{fields}")
        raise structlog.DropEvent

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, collect],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
    )
    try:
        yield lines
    finally:
        structlog.reset_defaults()


async def talk(store: AsyncStore, commit: Commit) -> tuple[int, list[str]]:
    """Store *commit* and read it back, and return how many events were new and what the actors said of it."""
    with captured_log() as lines, structlog.contextvars.bound_contextvars(request="one commit"):
        receipts = await store.append_batch(events_of(commit))
        await store.sync()
        await store.get(receipts[0].event_id)
        await store.query(Region(entity=f"repo:{commit.repo}"), limit=SHOWN, reverse=True)
    return sum(not receipt.duplicate for receipt in receipts), lines


# The command -----------------------------------------------------------------------------------------------------


async def run(journal: Path, commits: Sequence[Commit], console: Console) -> None:
    """Write the journal, then open it again and ask."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with AsyncStore.open(journal) as store:
        with Progress(*columns, console=console) as progress:
            loaded = await load(store, commits[:-1], progress)
        new, lines = await talk(store, commits[-1])
        loaded.new += new
        loaded.known += 1 + len(commits[-1].files) - new
        _, close_seconds = await timed(store.close())
    started = time.perf_counter()
    async with AsyncStore.open(journal) as store:
        open_seconds = time.perf_counter() - started
        await show_figures(store, loaded, close_seconds, open_seconds, console)
        await show_answers(store, commits, console)
    console.rule("what the actors said of one commit", align="left")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


async def show_figures(
    store: AsyncStore, loaded: Loaded, close_seconds: float, open_seconds: float, console: Console
) -> None:
    """Check every chain and print what loading, closing, opening and checking came to."""
    with console.status("checking every hash and every link"):
        report, verify_seconds = await timed(store.verify_chain())
    if not report.intact:
        message = f"the journal is not intact: {report}"
        raise RuntimeError(message)
    stats = await store.stats()
    presented = loaded.new + loaded.known
    table = Table(box=None, show_header=False)
    for name, value in (
        ("events presented", f"{presented:,}: {loaded.new:,} new, {loaded.known:,} known by their keys"),
        ("appended through the async facade", f"{loaded.seconds:.2f} s, {presented / loaded.seconds:,.0f} events/s"),
        ("closed, opened again", f"{close_seconds * 1e3:.1f} ms, {open_seconds * 1e3:.1f} ms"),
        ("checked", f"{report.events_checked:,} events in {verify_seconds:.2f} s: every chain holds"),
        ("on disk", f"{stats.bytes_on_disk / 1e6:.1f} MB, {stats.bytes_on_disk / stats.events:.0f} bytes an event"),
    ):
        table.add_row(name, value)
    console.rule("figures", align="left")
    console.print(table)


async def show_answers(store: AsyncStore, commits: Sequence[Commit], console: Console) -> None:
    """Ask the questions and print the answers with what they cost."""
    console.rule("answers", align="left")
    directories, seconds = await timed(busiest_directories(store, sorted({commit.repo for commit in commits})))
    console.print(f"busiest directories, by prefix ({seconds * 1e3:.0f} ms):")
    for entity, changes in directories:
        console.print(f"  {changes:>7,}  {readable(entity)}")
    entity = await busiest_file(store, directories[0][0])
    newest = await store.latest(entity)
    assert newest is not None
    console.print(f"the last of {newest.sequence + 1:,} changes of {readable(entity)}:")
    async for line in last_changes(store, entity):
        console.print(f"  {line}", highlight=False)
    assert newest.causation_id is not None
    caused = await store.effects(newest.causation_id)
    console.print(f"the commit behind the last one caused {len(caused)} events: file changes and the next commits")

    commit = next((commit for commit in reversed(commits) if len(commit.parents) > 1), commits[-1])
    found, seconds = await timed(all_ancestors(store, commit.repo, commit.key))
    if found != (expected := count_ancestors(commits, commit)):
        message = f"{commit.id} has {expected} ancestors in the input, {found} in the journal"
        raise RuntimeError(message)
    console.print(f"{commit.repo} {commit.id[:10]} comes from {found:,} commits, as the input says ({seconds:.2f} s)")
    first_parents = await store.causes(commit.key, depth=1_000)
    console.print(f"  by first parents it has {len(first_parents):,} within 1,000 generations")
    ancestry = await store.walk_ancestors(commit.key, limit=SHOWN)
    hashes = " <- ".join(event.event_hash.hex()[:8] for event in ancestry.events)
    console.print(f"  its place in the chain of {commit.repo}: {hashes}", highlight=False)
    median = await point_reads(store, commits, 500)
    console.print(f"a point read from a task takes {median * 1e6:.0f} us (median of 500)")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journal", type=Path, help="where the journal is kept (default: a temporary directory)")
    parser.add_argument("--commits", type=int, help="load only so many commits")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    options = parser.parse_args()
    if options.commits is not None and options.commits < FEWEST_COMMITS:
        parser.error(f"--commits: at least {FEWEST_COMMITS}, or there is nothing to ask")
    console = Console()
    commits = read_commits(options.commits)
    console.print(f"{len(commits):,} commits and {sum(len(commit.files) for commit in commits):,} file changes")
    with tempfile.TemporaryDirectory() as temporary:
        journal = options.journal or Path(temporary) / "journal"
        journal.parent.mkdir(parents=True, exist_ok=True)
        anyio.run(run, journal, commits, console, backend=options.backend)


if __name__ == "__main__":
    main()
