"""Looking at a store from the outside, and the way on after a refusal: what the commands do, as functions.

None of these needs a store that opens. `check_store` and `plan_recovery` change nothing, `keep_prefix` only if told so.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from batpak.errors import CorruptStoreError, InvalidDirectoryError, StorageError
from batpak.reports import CheckReport, Cut, Damage, PrefixReport, RecoveryPlan
from batpak.request import open_directory
from batpak.storage.examination import examine
from batpak.storage.holder import is_being_written, lock_holder
from batpak.storage.mend import FOLDER, copy_name
from batpak.storage.open_plan import OpenPlan, plan_open
from batpak.storage.prefix import PrefixPlan, carry_out, plan_prefix, quarantine_name
from batpak.storage.seam import LOCK_NAME
from batpak.storage.segment import file_name
from batpak.storage.watermark import NAME as POSITION
from batpak.storage.watermark import slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batpak.receipt import Anchor
    from batpak.storage.files import Files
    from batpak.storage.recovery import Torn

MAX_LOOKS: Final = 10
"""How often a check begins anew because a writer was at work where it found damage."""

T = TypeVar("T")


def check_store(
    directory: str | os.PathLike[str],
    *,
    anchor: Anchor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check every byte of the store in *directory*, beside its writer too; nothing is changed, and nothing is trusted.

    Every frame of every segment is read; its checksum, hash, sequence, link and batch are computed, and footers, the
    durable position, the index, named places and *anchor* are compared with the frames. *progress* is called with bytes
    done and bytes there are. Raises `InvalidDirectoryError` where there is no store, `UnsupportedFormatError` for one
    of newer software, `StorageError`.
    """
    with closing(opened_store(directory)) as files:
        return _wrapped(files, lambda: check_files(files, anchor, progress))


def plan_recovery(directory: str | os.PathLike[str]) -> RecoveryPlan:
    """Say what opening the store in *directory* for writing would do, changing nothing. Raises as `check_store`."""
    with closing(opened_store(directory)) as files:
        return _wrapped(files, lambda: recovery_plan(files))


def keep_prefix(
    directory: str | os.PathLike[str],
    *,
    accept_loss: bool,
    progress: Callable[[int, int], None] | None = None,
) -> PrefixReport | None:
    """Make a damaged store one that opens and is sound, by giving up everything behind its first damage.

    What is kept are all events before that. Everything else goes to ``quarantine/``, durably: the rest of the damaged
    segment, later segments, index files, a durable position and named places ahead of what is kept. Without
    *accept_loss* nothing is done; the report says what would be. None: no event is damaged, nothing was done. A power
    cut does no harm: run it again. Raises `StoreLockedError`, as `check_store`, and `CorruptStoreError` where not even
    this would give a store that opens; nothing was changed then.
    """
    with closing(opened_store(directory)) as files:
        return _wrapped(files, lambda: prefix_kept(files, accept_loss=accept_loss, progress=progress))


def check_files(files: Files, anchor: Anchor | None, progress: Callable[[int, int], None] | None) -> CheckReport:
    """Check what *files* holds; see `check_store`."""
    last: Damage | None = None
    for look in range(MAX_LOOKS):
        before = _fingerprint(files)
        writing = look > 0 or is_being_written(files)
        try:
            report = _check_once(files, anchor, progress, writing=writing)
        except FileNotFoundError:  # a writer has merged what was to be read
            continue
        if report.damage in {None, last} or _fingerprint(files) == before:
            return report
        last = report.damage
    raise StorageError("check", files.directory, None)


def _check_once(
    files: Files, anchor: Anchor | None, progress: Callable[[int, int], None] | None, *, writing: bool
) -> CheckReport:
    """Check everything once."""
    examined = examine(files, anchor=anchor, being_written=writing, progress=progress)
    plan = OpenPlan() if writing else plan_open(files)
    refusal = examined.damage or plan.refusal
    rebuildable = list(examined.rebuildable)
    if not writing:  # else they wait for their footers
        footers = [file_name(segment) for segment in examined.unsealed if segment not in plan.seals]
        rebuildable += [f"{name}: its footer is no footer any more, its frames are whole" for name in footers]
    mending = () if refusal is not None else tuple(_mending(plan, rebuildable))
    lost = examined.anchored is False
    names = [name for name in files.list() if name.endswith(".fbat")]
    holder = lock_holder(files) if writing else None
    damage = None if refusal is None else _damage_of(refusal)
    if damage is None and lost:
        damage = Damage(
            file_name(1),
            None,
            "events whose digest is not that of the anchor",
            f"the {anchor.events if anchor else 0} events that the anchor was made of",
            "that everything here fits together: it is another history, or a shorter one",
        )
    return CheckReport(
        verdict="damaged" if damage is not None else "mendable" if mending else "sound",
        events=examined.events,
        next_global_sequence=examined.next_sequence,
        segments=len(names),
        bytes=sum(map(files.size, names)),
        durable_sequence=min(examined.durable_sequence, examined.next_sequence - 1),
        damage=damage,
        mending=mending,
        rebuildable=tuple(rebuildable),
        places=examined.places.count,
        quarantine=tuple(f"{FOLDER}/{name}" for name in files.list(FOLDER)),
        notes=tuple(examined.notes),
        anchored=examined.anchored,
        writer=None if holder is None else holder.pid,
    )


def _mending(plan: OpenPlan, rebuildable: list[str]) -> list[str]:
    """Say what an open will do."""
    said = [
        f"cut {file_name(cut.segment)} at byte {cut.offset}" + (f", copied to {copy_name(cut)}" if cut.data else "")
        for cut in plan.cuts
        if cut.offset
    ]
    said += [f"write the footer of {file_name(segment)}" for segment in plan.seals]
    said += [f"remove {name}" for name in plan.removes]
    return said + [f"make this again, once it is needed: {lie}" for lie in rebuildable]


def recovery_plan(files: Files) -> RecoveryPlan:
    """Say what an open of *files* would do."""
    plan = plan_open(files)
    path: Literal["new", "runs", "rebuild"] = "runs" if plan.runs else "rebuild" if plan.events else "new"
    holder = lock_holder(files)
    notes = list(plan.notes)
    if holder is not None and holder.alive:
        notes.append(
            f"process {holder.pid} is writing: an open would be refused now, and what is not whole yet looks torn"
        )
    lengths = {cut.segment: files.size(file_name(cut.segment)) - cut.offset for cut in plan.cuts}
    return RecoveryPlan(
        refusal=None if plan.refusal is None else str(plan.refusal),
        path=path,
        runs=len(plan.runs),
        tail_events=plan.events,
        tail_bytes=plan.bytes,
        cuts=_cuts(plan.cuts, lengths),
        seals=tuple(plan.seals),
        removes=tuple(plan.removes),
        notes=tuple(notes),
    )


def prefix_kept(
    files: Files, *, accept_loss: bool, progress: Callable[[int, int], None] | None = None
) -> PrefixReport | None:
    """Keep what is provable of *files*; see `keep_prefix`."""
    if not accept_loss:
        plan = plan_prefix(files, progress)
        if plan is None:
            return None
        return _prefix_report(plan, [(name, quarantine_name(files, name)) for name in plan.moves()], done=False)
    files.lock()
    try:
        plan = plan_prefix(files, progress)
        return None if plan is None else _prefix_report(plan, carry_out(files, plan), done=True)
    finally:
        files.unlock()


def _prefix_report(plan: PrefixPlan, moved: Sequence[tuple[str, str]], *, done: bool) -> PrefixReport:
    """Say what was done, or would be."""
    lost = plan.highest + 1 - plan.kept.next_sequence
    return PrefixReport(
        done=done,
        damage=_damage_of(plan.kept.damage or plan.refusal),
        kept_events=plan.kept.events,
        next_global_sequence=plan.kept.next_sequence,
        lost_at_least=lost,
        lost_at_most=lost if plan.exact else None,
        cuts=_cuts(plan.cuts, plan.lengths),
        moved=tuple(moved),
        places=tuple(plan.places),
    )


def _cuts(cuts: Sequence[Torn], lengths: dict[int, int]) -> tuple[Cut, ...]:
    """Return cuts in their public form."""
    return tuple(
        Cut(cut.segment, cut.offset, lengths[cut.segment], copy_name(cut) if cut.data else None) for cut in cuts
    )


def _damage_of(error: CorruptStoreError) -> Damage:
    """Return damage as a value."""
    return Damage(error.file, error.offset, error.found, error.expected, error.provable)


def _fingerprint(files: Files) -> tuple[object, ...]:
    """Return what changes whenever somebody writes."""
    names = [name for name in files.list() if name.endswith(".fbat")]
    sizes = []
    for name in names:
        try:
            sizes.append(files.size(name))
        except FileNotFoundError:  # withdrawn just now
            sizes.append(-1)
    return tuple(slots(files)), tuple(names), tuple(sizes)


def opened_store(directory: str | os.PathLike[str]) -> Files:
    """Return the files of a directory that holds a store; `InvalidDirectoryError` for any other."""
    files = open_directory(directory, create=False)
    names = files.list()
    if not any(name.endswith(".fbat") or name in {POSITION, LOCK_NAME} for name in names):
        files.close()
        raise InvalidDirectoryError(files.directory, "found no store in it, expected segments (000001.fbat, ...)")
    return files


def _wrapped(files: Files, act: Callable[[], T]) -> T:
    """Do *act*; a failed system call is a `StorageError`."""
    try:
        return act()
    except OSError as error:
        raise StorageError("check", files.directory, error.errno) from error
