"""What opening would do to a directory: the same decisions, made of the same bytes, and nothing is changed."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batpak.errors import CorruptStoreError
from batpak.storage.mend import temporaries
from batpak.storage.opening import adopt_runs, begin_scan
from batpak.storage.recovery import Torn
from batpak.storage.seal import committed
from batpak.storage.segment import file_name
from batpak.storage.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable

    from batpak.storage.files import Files


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


def _decide(files: Files, plan: OpenPlan, progress: Callable[[int, int], None] | None) -> None:
    """Fill in *plan*, in the order in which an open decides."""
    found = survey(files, lambda: bytes(16))
    runs, leftovers = adopt_runs(files, found)
    plan.runs = [run.name for run in runs]
    _, scan = begin_scan(files, found, runs, writable=True)
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
    plan.removes += [*temporaries(files), *leftovers]
