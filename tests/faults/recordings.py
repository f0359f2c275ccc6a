"""Recorded runs: workloads in memory and in real processes, recoveries of what a stop left of them; a model of each."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from batpak import Store
from batpak.testing.memory import MemoryFiles, Operation
from tests.directories import shown
from tests.faults.operations import of_memory, played, reaching, without_lock
from tests.faults.oracle import Model, Promise, opened, promises
from tests.faults.states import State, stops
from tests.faults.strace_log import read_log, traced
from tests.faults.workloads import Format, live, live_through, scribe_in_memory
from tests.model.disk import kind_of

STEPS_A_LIFE = 6


@dataclass
class Recording:
    """A run from its first change to its end; stops before the change numbered *start* are those of another one."""

    operations: list[Operation]
    model: Model
    start: int = 0

    def states(self, random: Random, draws: int) -> Iterator[tuple[State, Promise]]:
        """Yield what a stop may leave, and what had been told by then."""
        told = promises(self.operations)
        for at, state in stops(self.operations, random, draws, self.start):
            yield state, told[at]

    def near(self, random: Random, kind: str, others: int) -> list[tuple[State, Promise]]:
        """Return the states behind changes that *kind* is a part of, as in "write segment", and so many others."""
        told, kinds = promises(self.operations), kinds_of_changes(self.operations)
        found: defaultdict[bool, list[tuple[State, Promise]]] = defaultdict(list)
        for at, state in stops(self.operations, random, 1, self.start):
            is_near = state.how not in {"subset", "drawn"} and kind in kinds[at]
            found[is_near].append((state, told[at]))
        few = found[True] + random.sample(found[False], min(others, len(found[False])))
        random.shuffle(few)
        return few


def recorded(files: MemoryFiles, start: int = 0) -> Recording:
    """Return the run whose changes are in the journal of *files*, closed by now."""
    operations = of_memory(files)
    with opened(files.copy()) as store:
        events = shown(store)
    return Recording(operations, Model(events, notes(operations)), start)


def kinds_of_changes(operations: Sequence[Operation]) -> list[str]:
    """Return, for each point of a run, what the change before it did to what kind of file."""
    names: dict[int, str] = {}
    found = ["nothing"]
    for each in operations:
        if each.action == "create":
            names[each.inode] = each.name
        name = each.target or each.name or names.get(each.inode, "")
        found.append(found[-1] if each.action == "note" else f"{each.action} {kind_of(name)}")
    return found


def notes(operations: Sequence[Operation]) -> Iterator[str]:
    """Yield what was noted in a run."""
    return (each.name for each in operations if each.action == "note")


def first_lives(segment_format: Format, random: Random, lives: int = 2) -> Recording:
    """Record lives of a store that begin with an empty directory, each closed."""
    files = MemoryFiles()
    for _ in range(lives):
        one_life(files, segment_format, random, STEPS_A_LIFE)
    return recorded(files)


def every_step(segment_format: Format, random: Random) -> Recording:
    """Record a life that has every step in it."""
    files = MemoryFiles()
    one_life(files, segment_format, random, None)
    return recorded(files)


def one_life(files: MemoryFiles, segment_format: Format | None, random: Random, steps: int | None) -> None:
    """Open a store, work, close it; None for every step once."""
    scribe = scribe_in_memory(files, segment_format, random)
    with scribe.store:
        if steps is None:
            live_through(scribe)
        else:
            live(scribe, steps)
        scribe.rest()
        written = scribe.written
    files.note(f"durable {written}")


def second_life(first: Recording, random: Random) -> Recording:
    """Record how a store opens, works and closes that was killed in the midst of another run: nothing was lost yet."""
    changes = [at for at, each in enumerate(first.operations) if each.action != "note" and at >= first.start]
    at = random.choice(changes)
    before = first.operations[:at]
    last = first.operations[at]
    if last.action == "write" and len(last.data) > 1:
        before = [*before, last._replace(data=last.data[: random.randrange(1, len(last.data))])]
    with opened(played(before)) as store:
        count = store.stats().next_global_sequence
    files = played(reaching(before, count))
    start = len(files.journal)
    one_life(files, None, random, 2)
    return recorded(files, start)


def after_a_cut(first: Recording, state: State, random: Random) -> Recording:
    """Record how a store opens, works and closes that a power cut in the midst of *first* left as it is in *state*."""
    with opened(state.directory()) as store:
        count = store.stats().next_global_sequence
    # A place may have gone back; all else that was said of these events holds.
    said = [each for each in reaching(first.operations, count) if each.action == "note"]
    whole = [each for each in said if not each.name.startswith("placed")]
    whole += [Operation("make_folder", name) for name in sorted(state.folders)]
    for at, (name, data) in enumerate(state.files.items(), 1):
        whole += [Operation("create", name, inode=at), Operation("write", inode=at, data=data)]
        whole.append(Operation("sync", inode=at))
    whole += [Operation("sync_folder", name) for name in ("", *sorted(state.folders))]
    files = played(whole)
    start = len(files.journal)
    one_life(files, None, random, 2)
    return recorded(files, start)


def real_lives(folder: Path, segment_format: Format, random: Random) -> Recording:
    """Record a process that lives twice in a real directory, with threads, by the log of its system calls."""
    folder.mkdir(exist_ok=True)
    store, told, log = folder.resolve() / "store", folder.resolve() / "notes", folder / "log"
    seed = str(random.randrange(1 << 32))
    with told.open("wb") as file:
        arguments = (str(store), str(file.fileno()), seed, str(segment_format))
        traced([sys.executable, "-m", "tests.faults.workloads", *arguments], log, file.fileno())
    operations = without_lock(read_log(log, store, told))
    with Store.open_read_only(store) as reader:
        events = shown(reader)
    return Recording(operations, Model(events, notes(operations)))
