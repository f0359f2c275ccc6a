"""What can happen to the disk under a store: a stop at a chosen change, and what is left of it afterwards."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from fnmatch import fnmatchcase
from random import Random
from typing import TypeVar

from batpak.testing.memory import MemoryFiles, Operation

SECTOR_BYTES = 512
_KINDS = (
    ("*.fbat", "segment"), ("index/*", "run"), ("durable.position", "position"), (".tmp-*", "sidecar"),
    (".batpak*", "lock"), ("quarantine*", "quarantine"), ("index", "run"),
)  # fmt: skip
T = TypeVar("T")


class Killed(BaseException):
    """The process ends here, before the change it was about to make."""


class Trap(list[Operation]):
    """Stands in for the journal of a directory in memory: raises at a chosen change instead of noting it.

    A change is named by its action and what kind of file it is about, as in "write segment".
    """

    def __init__(self, files: MemoryFiles) -> None:
        super().__init__()
        self._disk = files._disk
        self._names = {inode.number: name for name, inode in files._disk.names.items()}
        self._point = ""
        self._left = 0
        self._part = 0.0
        self._error: BaseException | None = None
        self.sprung = ""
        files._disk.journal = self

    def arm(self, error: BaseException, point: str = "*", *, skip: int = 0, part: float = 0.0) -> None:
        """Raise *error* at the change that matches *point*, after *skip* that do; a write has done *part* by then."""
        self._error, self._point, self._left, self._part, self.sprung = error, point, skip, part, ""

    def disarm(self) -> None:
        self._error = None

    def append(self, operation: Operation) -> None:
        name = operation.target or operation.name or self._names.get(operation.inode, "")
        if operation.inode:
            self._names.setdefault(operation.inode, name)
        if operation.action == "replace":
            self._names[self._disk.names[operation.name].number] = name
        point = f"{operation.action} {kind_of(name)}"
        if self._error is None or not fnmatchcase(point, self._point):
            return
        if operation.action == "remove" and ".tmp-" in name:
            return  # a run that is given up, perhaps by the garbage collector, where nothing can be raised
        self._left -= 1
        if self._left < 0:
            error, self._error, self.sprung = self._error, None, point
            self._tear(operation)
            raise error

    def _tear(self, operation: Operation) -> None:
        if operation.action == "write":
            for inode in self._disk.names.values():
                if inode.number == operation.inode:
                    inode.write(operation.data[: int(len(operation.data) * self._part)], operation.offset)


def kind_of(name: str) -> str:
    return next((kind for pattern, kind in _KINDS if fnmatchcase(name, pattern)), name or "directory")


def no_room() -> OSError:
    return OSError(errno.ENOSPC, "no room", "a file")


def scattered(files: MemoryFiles, random: Random) -> MemoryFiles:
    """Return what a power cut leaves of a disk that writes in any order: of what was not synced, sectors at random."""
    left, seen = files.crashed(), files.copy()
    for name, inode in left._disk.names.items():
        twin = seen._disk.names.get(name)
        if twin is None or twin.number != inode.number or twin.visible == inode.visible:
            continue
        size = random.choice((len(inode.visible), len(twin.visible)))
        inode.resize(size)
        for start in range(0, size, SECTOR_BYTES):
            sector = bytes(twin.visible[start : min(size, start + SECTOR_BYTES)])
            if random.random() < 0.5:
                inode.visible[start : start + len(sector)] = sector
        inode.make_durable()
        inode.durable[:] = inode.visible
    return left


def pick(random: Random, choices: Sequence[tuple[float, T]]) -> T:
    """Return one of *choices*, each with its weight."""
    return random.choices([value for _, value in choices], [weight for weight, _ in choices])[0]
