"""The way on after a refusal: keep what is provable, put everything else aside, and say what was lost.

`plan_prefix` decides and changes nothing; `carry_out` acts. The order is such that after a power cut at any moment the
same is decided again: first what is cut is copied and what lifts no refusal is moved, then what the damaged journal
was refused for, the last of it at the very end. Until then the damage is still found; or, where a file of the index
was the only witness of it, what is left is what an open does by itself: cut the end, remove index files of no use.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from batpak.errors import BatpakError, CorruptStoreError
from batpak.storage import watermark
from batpak.storage.examination import Examined, examine
from batpak.storage.imagined import ImaginedFiles
from batpak.storage.mend import FOLDER, quarantine
from batpak.storage.open_plan import plan_open
from batpak.storage.opening import adopt_runs
from batpak.storage.original_footer import find_boundary
from batpak.storage.original_sidecars import HIDDEN_RANGES
from batpak.storage.original_snapshot import CHECKPOINT, MMAP_INDEX
from batpak.storage.recovery import Torn
from batpak.storage.run import Run, RunError
from batpak.storage.run_format import FOLDER as INDEX
from batpak.storage.scan import Walk, behind
from batpak.storage.segment import SegmentMeta, file_name, is_segment, is_strange, list_segments, read_meta
from batpak.storage.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable

    from batpak.storage.files import Files, ReadFile

BLOCK_BYTES: Final = 1 << 20
_SNAPSHOTS: Final = (MMAP_INDEX, CHECKPOINT)


@dataclass(slots=True)
class PrefixPlan:
    """What is kept, and what is done for it; *refusal* is why.

    *cuts* are segments that are cut, at what offset, and what is copied aside of each. *aside*, *index*, *later* and
    *position* are files that are moved, in this order; *index_first* says that the cuts come behind *index*.
    *highest* is the highest global sequence that is known to have been there, *exact* whether nothing was behind it.
    """

    refusal: CorruptStoreError
    kept: Examined
    cuts: list[Torn] = field(default_factory=list)
    lengths: dict[int, int] = field(default_factory=dict)
    aside: list[str] = field(default_factory=list)
    index: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)
    position: list[str] = field(default_factory=list)
    index_first: bool = False
    places: list[str] = field(default_factory=list)
    highest: int = -1
    exact: bool = False

    def moves(self) -> list[str]:
        """Return all files that are moved."""
        return [*self.aside, *self.index, *self.later, *self.position]

    def outcome(self, files: Files) -> ImaginedFiles:
        """Return the directory as it will be."""
        return ImaginedFiles(files, self.moves(), {file_name(cut.segment): cut.offset for cut in self.cuts})


def plan_prefix(files: Files, progress: Callable[[int, int], None] | None = None) -> PrefixPlan | None:
    """Decide what is kept; None where the store opens and every frame of it is sound.

    What comes out is tried before anything is changed: where it would not open soundly, the `CorruptStoreError` that
    refuses it is raised.
    """
    kept = examine(files, progress=progress)
    refusal = plan_open(files).refusal
    if refusal is None and kept.damage is not None and is_segment(kept.damage.file):
        refusal = kept.damage  # in what an open need not read
    if refusal is None:
        return None
    _check_can_be_kept(refusal, kept)
    plan = PrefixPlan(refusal, kept)
    segments = list_segments([name for name in files.list() if is_segment(name)])
    _plan_last(files, plan, segments)
    plan.later = [file_name(segment) for segment in reversed(segments) if segment > kept.segment] + plan.later
    plan.later = [name for name in files.list() if is_strange(name)] + plan.later
    plan.index = [f"{INDEX}/{name}" for name in files.list(INDEX)]
    plan.position = [watermark.NAME] if _is_ahead(files, kept) else []
    ahead = kept.places.left()
    plan.places = sorted(ahead.values())
    plan.aside = [*sorted(ahead), *kept.places.left_by_the_original(kept.next_sequence)]
    _plan_footers(files, plan)
    _weigh(files, plan, segments)
    plan.index_first = not plan.later and not plan.position and not _overclaims(files, plan)
    _try_out(files, plan)
    return plan


def carry_out(files: Files, plan: PrefixPlan) -> list[tuple[str, str]]:
    """Do what *plan* says, durably; the files that were moved and their new names. The lock is held."""
    targets = {name: quarantine_name(files, name) for name in plan.moves()}  # what cannot be read is noticed before

    def move(names: list[str]) -> None:
        for name in names:
            _move(files, name, targets[name])

    files.make_folder(FOLDER)
    files.sync_folder()
    for cut in plan.cuts:
        if cut.data:
            quarantine(files, cut)
    move(plan.aside)
    if plan.index_first:
        move(plan.index)
    for cut in plan.cuts:
        with closing(files.open_write(file_name(cut.segment))) as file:
            file.truncate(cut.offset)
            file.sync()
    if not plan.index_first:
        move(plan.index)
    move(plan.later)  # the one that follows what is kept is the last of them
    move(plan.position)
    return list(targets.items())


def quarantine_name(files: Files, name: str) -> str:
    """Return the name that a file gets in the quarantine: its own, and a part of the digest of what is in it."""
    leaf = name.rpartition("/")[2]
    stem, dot, suffix = leaf.rpartition(".")
    digest = blake3()
    with closing(files.open_read(name)) as file:
        offset = 0
        while data := file.pread(BLOCK_BYTES, offset):
            digest.update(data)
            offset += len(data)
    return f"{FOLDER}/{stem or leaf}-{digest.hexdigest()[:16]}{dot if stem else ''}{suffix if stem else ''}"


def _move(files: Files, name: str, target: str) -> None:
    """Move a file into the quarantine: it is there, durably, before it is gone where it was."""
    files.replace(name, target)
    files.sync_folder(FOLDER)
    files.sync_folder(name.rpartition("/")[0])


def _check_can_be_kept(refusal: CorruptStoreError, kept: Examined) -> None:
    """Refuse where it is not the events that are damaged, or where new ones would be hidden behind those kept."""
    if not kept.surveyed:
        raise refusal
    if kept.damage is not None and kept.damage.file in _SNAPSHOTS:
        raise kept.damage
    if kept.hidden_up_to > kept.next_sequence:
        raise CorruptStoreError(
            HIDDEN_RANGES,
            None,
            f"cancelled events up to global sequence {kept.hidden_up_to - 1}",
            f"none from {kept.next_sequence} on, where new events would be hidden",
            refusal.provable,
        )


def _plan_last(files: Files, plan: PrefixPlan, segments: list[int]) -> None:
    """Decide what becomes of the segment in which what is kept ends: it stays, is cut, or goes as a whole."""
    kept = plan.kept
    if kept.segment not in segments:
        return
    meta = read_meta(files, kept.segment)
    with closing(files.open_read(meta.name)) as file:
        size = file.size()
        rest = (
            b"" if _frames_end(file, meta) == kept.offset else file.pread(size - kept.offset, kept.offset).rstrip(b"\0")
        )
    if not rest:
        return
    if kept.offset <= meta.frames_start:
        plan.later.append(meta.name)
    else:
        plan.cuts.append(Torn(meta.segment, kept.offset, rest))
        plan.lengths[meta.segment] = size - kept.offset


def _frames_end(file: ReadFile, meta: SegmentMeta) -> int | None:
    """Return where a footer says that frames end; None without one."""
    if meta.footer is not None:
        return meta.footer.end
    boundary = find_boundary(file.pread, meta.size, meta.name) if meta.version == 1 else None
    return boundary.end if boundary is not None and boundary.trusted else None


def _plan_footers(files: Files, plan: PrefixPlan) -> None:
    """Cut off footers that do not say what the frames say; the next open writes them anew."""
    cut = {each.segment for each in plan.cuts}
    for error in plan.kept.altered:
        segment = int(error.file.partition(".")[0])
        if segment in cut or segment > plan.kept.segment or error.offset is None:
            continue
        with closing(files.open_read(error.file)) as file:
            size = file.size()
            data = file.pread(size - error.offset, error.offset)
        plan.cuts.append(Torn(segment, error.offset, data.rstrip(b"\0")))
        plan.lengths[segment] = size - error.offset


def _is_ahead(files: Files, kept: Examined) -> bool:
    """Whether the durable position speaks of what is not kept."""
    return any(
        (slot.segment, slot.offset) > (kept.segment, kept.offset) or slot.sequence > kept.next_sequence
        for slot in watermark.slots(files)
    )


def _overclaims(files: Files, plan: PrefixPlan) -> bool:
    """Whether a run of the index refuses what is left behind the cut."""
    cut = ImaginedFiles(files, plan.later, {file_name(cut.segment): cut.offset for cut in plan.cuts})
    try:
        adopt_runs(cut, survey(cut, lambda: bytes(16)))
    except CorruptStoreError:
        return True
    return False


def _try_out(files: Files, plan: PrefixPlan) -> None:
    """Make sure that what comes out opens, is sound, and holds the same events under the same numbers."""
    refusal: CorruptStoreError | None = plan.refusal
    snapshots = [name for name in _SNAPSHOTS if files.exists(name)]
    for extra in ([], snapshots) if snapshots else ([],):
        plan.aside += extra
        refusal = plan_open(plan.outcome(files)).refusal
        if refusal is None:
            left = examine(plan.outcome(files))
            unplaced = left.damage is None or left.damage.file in {each.file for each in _unreadable(plan)}
            if unplaced and left.fingerprint == plan.kept.fingerprint:
                return
            refusal = left.damage or CorruptStoreError(
                plan.refusal.file,
                plan.refusal.offset,
                "events whose numbers only what is damaged knew",
                "numbers that stay",
                plan.refusal.provable,
            )
    assert refusal is not None, "each attempt ends with a reason"
    raise refusal


def _unreadable(plan: PrefixPlan) -> list[CorruptStoreError]:
    """Return the places that were damaged before: they stay, for their owners to decide."""
    return [error for error in plan.kept.places.unreadable if isinstance(error, CorruptStoreError)]


def _weigh(files: Files, plan: PrefixPlan, segments: list[int]) -> None:
    """Find out what is known to have been behind what is kept."""
    kept = plan.kept
    store_id = None
    highest = max(kept.places.highest(), kept.next_sequence - 1)
    for segment in segments:
        if segment < kept.segment:
            continue
        try:
            meta = read_meta(files, segment)
        except BatpakError:
            plan.exact = False
            continue
        store_id = store_id or meta.store_id
        if meta.ours and meta.store_id == store_id:
            sequence, plan.exact = _last_in(files, meta, kept.offset if segment == kept.segment else 0)
            highest = max(highest, sequence, (meta.first_sequence or 0) - 1)
    told = [slot.sequence - 1 for slot in watermark.slots(files) if store_id in {None, slot.store_id}]
    for name in plan.index:
        with suppress(BatpakError, RunError, OSError):
            if store_id is not None:
                told.append(Run.open(files, name, store_id).last_sequence)
    plan.exact = plan.exact and max(told, default=-1) <= highest
    plan.highest = max([highest, *told])


def _last_in(files: Files, meta: SegmentMeta, start: int) -> tuple[int, bool]:
    """Return the highest sequence of a frame in a segment, and whether nothing but zeros or a footer follows it."""
    highest, end = -1, max(start, meta.frames_start)
    with closing(files.open_read(meta.name)) as file:
        stop = _frames_end(file, meta) or meta.size
        clean = False
        while not clean and end < stop:
            walk = Walk(file, meta, end, stop)
            with suppress(CorruptStoreError):
                for found in walk:
                    highest = max(highest, found.frame.global_sequence or 0)
            end = walk.end
            clean = not file.pread(stop - end, end).rstrip(b"\0")
            if not clean:
                try:
                    later = behind(file, meta, end + 1, stop)
                except CorruptStoreError:
                    return highest, False
                if not later:
                    return highest, False
                end = later[0].offset
    return highest, clean or end >= stop
