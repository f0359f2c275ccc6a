"""Every directory that a stop may leave behind: built from a list of changes, at each point of it, in many ways.

Let the list end somewhere. A *kill* leaves all that was written, and perhaps a part of a write under way. A *power
cut* leaves what was synced, and of the changes since then any: each file's and each folder's on their own, in any
order, sector by sector or page by page; the new size without the data, with zeros or garbage in its place, or the
data without the size; a name without its content or the other way round. A rename is there or not, or it has added
the new name without taking the old one away. A disk writes one sector at a time, so one write at most is torn at a
byte, with old content, zeros or garbage for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import NamedTuple

from batpak.storage.seam import split_name
from batpak.testing.memory import MemoryFiles, Operation, _Disk, _Inode

SECTOR_BYTES, PAGE_BYTES = 512, 4096
FEW = 5
"""With at most so many changes that are not synced all subsets are taken; of more, some are drawn."""

Change = tuple[tuple[str, int | None], ...]
"""What a change does to a folder's names: each to a file, or away."""


class State(NamedTuple):
    """A directory as it may be found, and how it came about: "killed" keeps everything, all else is a power cut."""

    how: str
    files: dict[str, bytes]
    folders: frozenset[str]

    def fingerprint(self) -> int:
        """Return what is the same for the same content."""
        return hash((tuple(sorted(self.files.items())), self.folders))

    def directory(self) -> MemoryFiles:
        """Return a directory in memory that is just so, and durable."""
        inodes = {name: _Inode(at, data, data) for at, (name, data) in enumerate(self.files.items(), 1)}
        disk = _Disk(inodes, set(self.folders), dict(inodes), set(self.folders), inodes=len(inodes))
        return MemoryFiles._over(disk)


@dataclass(slots=True)
class _File:
    """Content as the process sees it and as it is durable, and what was done since."""

    visible: bytes = b""
    durable: bytes = b""
    pending: list[Operation] = field(default_factory=list)


@dataclass(slots=True)
class _Folder:
    """Names as the process sees them and as they are durable, and what was done since."""

    visible: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)


class Disk:
    """A disk to which changes happen one after the other, and that can stop after each."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._folders: dict[str, _Folder] = {"": _Folder()}
        self._new_folders: list[str] = []
        self._durable_folders: set[str] = set()

    # What happens ------------------------------------------------------------------------------------------------

    def apply(self, change: Operation) -> None:
        """Let *change* happen."""
        match change.action:
            case "write" | "truncate" | "allocate":
                file = self._files[change.inode]
                file.visible = changed(file.visible, change)
                file.pending.append(change)
            case "sync":
                self._sync(self._files[change.inode], change.size)
            case "create":
                self._files[change.inode] = _File()
                self._rename(((change.name, change.inode),))
            case "replace":
                inode = self._folders[split_name(change.name)[0]].visible[change.name]
                self._rename(((change.target, inode), (change.name, None)))
            case "remove":
                self._rename(((change.name, None),))
            case "make_folder":
                self._folders[change.name] = _Folder()
                self._new_folders.append(change.name)
            case "sync_folder":
                folder = self._folders[change.name]
                folder.durable, folder.pending = dict(folder.visible), []
                if not change.name:
                    self._durable_folders.update(self._new_folders)
                    self._new_folders = []
            case action:
                raise AssertionError(action)

    def _sync(self, file: _File, not_covered: int) -> None:
        """Make a file durable, but for so many of its newest changes: they came while the sync was under way."""
        covered = max(0, len(file.pending) - not_covered)
        for each in file.pending[:covered]:
            file.durable = changed(file.durable, each)
        del file.pending[:covered]
        if not file.pending:
            file.durable = file.visible

    def _rename(self, change: Change) -> None:
        folder = self._folders[split_name(change[0][0])[0]]
        _put(folder.visible, change)
        folder.pending.append(change)

    # What is left ------------------------------------------------------------------------------------------------

    def killed(self) -> State:
        """Return what a kill leaves."""
        contents = {inode: file.visible for inode, file in self._files.items()}
        return self._state("killed", contents, {name: each.visible for name, each in self._folders.items()})

    def killed_within(self, write: Operation, length: int) -> State:
        """Return what a kill leaves that comes when *length* bytes of *write* are done."""
        state = self.killed()
        names = [
            name for each in self._folders.values() for name, inode in each.visible.items() if inode == write.inode
        ]
        torn = changed(self._files[write.inode].visible, write._replace(data=write.data[:length]))
        return state._replace(files=state.files | dict.fromkeys(names, torn))

    def cut(self) -> State:
        """Return what the worst power cut leaves: what was synced."""
        return self._some("cut", lambda _: False)

    def ahead(self, change: Operation) -> State:
        """Return what is left if of all that is not synced *change* alone, the newest, has come to the disk."""
        last = [folder.pending[-1] for folder in self._folders.values() if folder.pending]
        names = change.target or change.name
        chosen = {id(each) for each in last if each[0][0] == names} | {id(change)}
        return self._some("ahead", lambda each: id(each) in chosen)

    def subsets(self) -> Iterator[State]:
        """Yield what is left of few changes: all subsets of them; nothing if they are many."""
        pending: list[object] = [each for file in self._files.values() for each in file.pending]
        pending += [each for folder in self._folders.values() for each in folder.pending]
        if 0 < len(pending) <= FEW:
            for kept in product((False, True), repeat=len(pending)):
                chosen = {id(each) for each, keep in zip(pending, kept, strict=True) if keep}
                yield self._some("subset", lambda each, chosen=chosen: id(each) in chosen)  # type: ignore[misc]

    def drawn(self, random: Random) -> State:
        """Return what a power cut may leave, at random."""
        writes = [each for file in self._files.values() for each in file.pending if each.action == "write"]
        victim = random.choice(writes) if writes else None
        contents = {inode: _drawn_content(file, random, victim) for inode, file in self._files.items()}
        share = random.choice((0, 0.5, 0.5, 0.9, 1))
        names = {}
        for name, folder in self._folders.items():
            names[name] = dict(folder.durable)
            for change in folder.pending:
                if random.random() < share:
                    _put(names[name], change[:1] if random.random() < 0.2 else change)
        folders = self._durable_folders.union(each for each in self._new_folders if random.random() < 0.7)
        return self._state("drawn", contents, names, folders)

    @property
    def is_clean(self) -> bool:
        """Whether nothing waits for a sync."""
        files, folders = self._files.values(), self._folders.values()
        return not (self._new_folders or any(each.pending for each in files) or any(each.pending for each in folders))

    def _some(self, how: str, keeps: Callable[[object], bool]) -> State:
        """Return what is left if of the changes those are kept that *keeps* says."""
        contents = {}
        for inode, file in self._files.items():
            contents[inode] = file.durable
            for each in file.pending:
                if keeps(each):
                    contents[inode] = changed(contents[inode], each)
        names = {}
        for name, folder in self._folders.items():
            names[name] = dict(folder.durable)
            for change in folder.pending:
                if keeps(change):
                    _put(names[name], change)
        folders = self._durable_folders.union(self._new_folders if how != "cut" else ())
        return self._state(how, contents, names, folders)

    def _state(
        self,
        how: str,
        contents: dict[int, bytes],
        names: dict[str, dict[str, int]],
        folders: Iterable[str] | None = None,
    ) -> State:
        there = frozenset(self._durable_folders.union(self._new_folders) if folders is None else folders)
        files = {
            name: contents[inode]
            for folder, known in names.items()
            if not folder or folder in there
            for name, inode in known.items()
        }
        return State(how, files, there)


def changed(content: bytes, change: Operation) -> bytes:
    """Return what *change* makes of *content*."""
    match change.action:
        case "write":
            end = change.offset + len(change.data)
            before = content[: change.offset]
            return before.ljust(change.offset, b"\0") + change.data + content[end:] if change.data else content
        case "truncate":
            return content[: change.size].ljust(change.size, b"\0")
        case _:
            return content.ljust(change.offset + change.size, b"\0")


def _put(names: dict[str, int], change: Change) -> None:
    for name, inode in change:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _drawn_content(file: _File, random: Random, victim: Operation | None) -> bytes:
    """Return what a power cut may leave of one file."""
    if not file.pending:
        return file.durable
    way = random.choice(("subset", "subset", "torn end", "size first", "data first", "all"))
    content, pending = file.durable, file.pending
    if way == "size first":
        gap = max(0, len(file.visible) - len(content))
        content = content[: len(file.visible)] + (random.randbytes(gap) if content and gap < 1000 else bytes(gap))
    share = random.choice((0.2, 0.5, 0.8)) if way in {"subset", "size first"} else 1.0
    last = random.randrange(len(pending)) if way == "torn end" else len(pending)
    for at, each in enumerate(pending[: last + 1]):
        if random.random() >= share:
            continue
        pieces = [each]
        if each.action == "write" and (at == last or way == "subset"):
            pieces = torn(each, random) if each is victim else in_sectors(each, random)
        for piece in pieces:
            content = changed(content, piece)
    if way == "size first":
        return content[: len(file.visible)]
    if way == "data first" and len(content) > len(file.durable):
        return content[: random.choice((len(file.durable), random.randrange(len(file.durable), len(content))))]
    return content


def in_sectors(write: Operation, random: Random) -> list[Operation]:
    """Return what may be left of *write* on a disk that has come to some of its sectors or pages."""
    unit, data = random.choice((SECTOR_BYTES, PAGE_BYTES)), write.data
    spans = ((max(0, at), min(len(data), at + unit)) for at in range(-(write.offset % unit), len(data), unit))
    return [_piece(write, *span) for span in spans if random.random() < 0.5]


def torn(write: Operation, random: Random) -> list[Operation]:
    """Return what may be left of *write* if it is the one that the power failed in: a part up to some byte.

    Or from it on. In the gap is old content, zeros or garbage; where a file begins no garbage, and no part without
    what is before it: no disk writes a sector from behind, and no file system shows in a new file what was there.
    """
    data, begins = write.data, write.offset == 0
    at = random.randrange(len(data) + 1)
    pieces = [_piece(write, at, len(data)) if not begins and random.random() < 0.2 else _piece(write, 0, at)]
    match random.choice(("old", "old", "zeros", "zeros" if begins else "garbage")):
        case "zeros":
            return [write._replace(data=bytes(len(data))), *pieces]
        case "garbage":
            return [write._replace(data=random.randbytes(len(data))), *pieces]
        case _:
            return pieces


def _piece(write: Operation, start: int, stop: int) -> Operation:
    return write._replace(offset=write.offset + start, data=write.data[start:stop])


def stops(changes: Sequence[Operation], random: Random, draws: int, start: int = 0) -> Iterator[tuple[int, State]]:
    """Yield what a stop may leave, from the change numbered *start* on, and before which change it comes.

    Besides what is always taken, *draws* states are drawn at each point where anything is not synced.
    """
    disk = Disk()
    for at, change in enumerate(changes):
        if change.action == "note":
            continue
        if at >= start:
            yield from ((at, state) for state in _at(disk, random, draws))
            if change.action == "write" and len(change.data) > 1:
                yield at, disk.killed_within(change, random.randrange(1, len(change.data)))
        disk.apply(change)
        if at >= start and not change.action.startswith("sync"):
            yield at + 1, disk.ahead(change)
    yield from ((len(changes), state) for state in _at(disk, random, draws))


def _at(disk: Disk, random: Random, draws: int) -> Iterator[State]:
    yield disk.killed()
    if disk.is_clean:
        return
    yield disk.cut()
    yield from disk.subsets()
    for _ in range(draws):
        yield disk.drawn(random)
