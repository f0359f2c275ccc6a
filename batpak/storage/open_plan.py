"""What opening would do to a directory: the same decisions, made of the same bytes, and nothing is changed."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batpak.errors import CorruptStoreError
from batpak.storage import format2, place_file
from batpak.storage.mend import FOLDER
from batpak.storage.opening import adopt_runs
from batpak.storage.recovery import Scan, Start, Torn
from batpak.storage.run_state import RunState
from batpak.storage.seal import committed
from batpak.storage.seam import TEMPORARY_PREFIX
from batpak.storage.segment import file_name
from batpak.storage.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable

    from batpak.storage.files import Files
    from batpak.storage.run import Run
    from batpak.storage.survey import Survey


@dataclass(slots=True)
class OpenPlan:
    """What an open would do, and *refusal* where it would do nothing but raise that.

    *cuts* are what it cuts off, *seals* the numbers of the segments it closes with a footer, *removes* files that it
    removes; *runs* are the index files that it adopts, and *events* in *bytes* it reads from segments.
    """

    refusal: CorruptStoreError | None = None
    cuts: list[Torn] = field(default_factory=list)
    seals: list[int] = field(default_factory=list)
    removes: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    events: int = 0
    bytes: int = 0
    notes: list[str] = field(default_factory=list)


def plan_open(files: Files, progress: Callable[[int, int], None] | None = None) -> OpenPlan:
    """Decide what an open for writing would do; raises what it would raise, but for `CorruptStoreError`.

    *progress* is called with bytes read and bytes there are to read, at most.
    """
    plan = OpenPlan()
    try:
        _decide(files, plan, progress)
    except CorruptStoreError as error:
        plan.refusal = error
        plan.cuts, plan.seals, plan.removes = [], [], []
    return plan


def copy_name(torn: Torn) -> str:
    """Return the name that the copy of a torn end gets."""
    digest = format2.event_hash(torn.data).hex()
    return f"{FOLDER}/{torn.segment:06}-{torn.offset:012}-{digest[:16]}.torn"


def _decide(files: Files, plan: OpenPlan, progress: Callable[[int, int], None] | None) -> None:
    """Fill in *plan*, in the order in which an open decides."""
    found = survey(files, lambda: bytes(16))
    runs, leftovers = adopt_runs(files, found)
    plan.runs = [run.name for run in runs]
    scan = _scan(files, found, runs)
    total = sum(meta.size for meta in found.catalog.metas())
    for group in scan.groups():
        plan.events += len(group)
        if progress is not None:
            progress(scan.bytes + group[-1].offset, total)
    plan.bytes = scan.bytes
    plan.notes = list(found.notes)
    if found.stub is not None:
        plan.cuts.append(Torn(found.stub.segment, 0, found.stub.data))
        plan.removes.append(file_name(found.stub.segment))
    if scan.torn is not None:
        plan.cuts.append(scan.torn)
    for meta, end in scan.unsealed:
        plan.seals.append(meta.segment)
        with closing(files.open_read(meta.name)) as file:
            deque(committed(file, meta, end), maxlen=0)  # sealing reads all frames again, and damage refuses
    plan.removes += [*_temporaries(files), *leftovers]


def _scan(files: Files, found: Survey, runs: list[Run]) -> Scan:
    """Return the scan that an open makes behind *runs*."""
    start, last_hash = Start(), None
    if runs:
        state = RunState.unpack(runs[-1].meta.tree)
        segment, _, _, end, _ = runs[-1].meta.covers[-1]
        start, last_hash = Start(segment, end, state.next_sequence), state.last_hash
    found.ledger.highest = start.sequence - 1
    if any(not meta.ours and meta.segment >= start.segment for meta in found.catalog.metas()):
        for text in found.ledger.numbers.load():
            found.note(text)
    return Scan(files, found, start, last_hash, writable=True)


def _temporaries(files: Files) -> list[str]:
    """Return the files that a crash left on their way to a name."""
    return [
        f"{folder}/{name}" if folder else name
        for folder in ("", FOLDER, place_file.FOLDER)
        for name in files.list(folder)
        if name.startswith(TEMPORARY_PREFIX)
    ]
