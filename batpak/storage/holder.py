"""Who holds a directory's lock, asked without taking it: an attempt could make a writer fail that opens just then."""

from __future__ import annotations

import os
import re
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batpak.errors import BatpakError
from batpak.storage.files import RealFiles
from batpak.storage.seam import OWNER_NAME, locked_error

if TYPE_CHECKING:
    from batpak.storage.files import Files

_FLOCK: Final = re.compile(r"^\d+: FLOCK +\S+ +WRITE +(\d+) ", re.MULTILINE)
_MAX_LOCKS_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Holder:
    """Who says that it holds the lock; *alive* whether a lock of that process exists, None where nobody can tell."""

    pid: int | None
    host: str | None
    since: str | None
    alive: bool | None


def lock_holder(files: Files) -> Holder | None:
    """Return who has left a note that it holds the lock; a process that was killed leaves its note."""
    if not files.exists(OWNER_NAME):
        return None
    note = locked_error(files)
    return Holder(note.pid, note.host, note.since, _is_alive(note.pid, note.host))


def is_being_written(files: Files) -> bool:
    """Whether some process is known to hold the lock now."""
    holder = lock_holder(files)
    return holder is not None and holder.alive is True


def _is_alive(pid: int | None, host: str | None) -> bool | None:
    """Whether a process of this machine holds a lock of the kind; None where the system does not list them."""
    if pid is None or host != os.uname().nodename:
        return None
    try:
        with closing(RealFiles.open("/proc", create=False)) as system, closing(system.open_read("locks")) as file:
            listed = file.pread(_MAX_LOCKS_BYTES, 0).decode("ascii", "replace")
    except (OSError, BatpakError):
        return None
    return str(pid) in _FLOCK.findall(listed)
