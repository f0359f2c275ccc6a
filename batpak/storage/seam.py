"""What one directory can do, whatever it is made of: the protocols, and what follows from them alone.

A `Files` is one directory. Names are relative to it and have at most one folder ("index/x.run"); text that came from
a caller never becomes a name. Nothing is ever followed out of the directory: symbolic links, pipes, sockets and
devices are refused with `CorruptStoreError` where a regular file is expected. A failed system call is an `OSError`,
for callers to wrap.

Two implementations behave the same and pass one test: `RealFiles` in `batpak.storage.files`, `MemoryFiles` in
`batpak.testing.memory`.

::

    .batpak.lock     zero bytes, never deleted, flock(2) by the one writer (the original's lock as well)
    .batpak.owner    {"pid": ..., "host": ..., "since": ...} of who holds the lock; a note, never trusted
    .tmp-<n>-<name>  a file on its way to <name>; left over after a crash, free to delete for who holds the lock
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import closing, suppress
from typing import Protocol, TypeAlias

from batpak.errors import CorruptStoreError, InvalidRequestError, StoreLockedError

LOCK_NAME = ".batpak.lock"
OWNER_NAME = ".batpak.owner"
TEMPORARY_PREFIX = ".tmp-"

MAX_OWNER_BYTES = 4096
MAX_TEMPORARY_FILES = 1000

BytesLike: TypeAlias = bytes | bytearray | memoryview
FileNames: TypeAlias = list[str]
FailedSyncs: TypeAlias = list[OSError]


class Window(Protocol):
    """The bytes of a file where they lie in memory; a slice is a copy."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, stretch: slice, /) -> bytes:
        """Return some of them."""

    def __buffer__(self, flags: int, /) -> memoryview:
        """Show them to what reads numbers from bytes."""


class ReadFile(Protocol):
    """One open file; reading is positioned and safe from several threads."""

    def pread(self, length: int, offset: int) -> bytes:
        """Return *length* bytes from *offset*, fewer only where the file ends."""

    def size(self) -> int:
        """Return the file's length in bytes as it is now."""

    def map(self) -> memoryview:
        """Return the whole file, as long as it is now, as a read-only view that outlives `close`.

        Only for files that nobody truncates: touching a page that is gone kills the process.
        """

    def window(self) -> Window | None:
        """Return the file as long as it is now, in which later writes show; it outlives `close`. None: there is none.

        Only for what nobody truncates: touching a page that is gone kills the process.
        """

    def drop_cache(self) -> None:
        """Make later reads come from the disk, where the system can: after a failed sync the cache may be wrong."""

    def close(self) -> None:
        """Give the descriptor back; every later call is an `OSError` (EBADF), a second `close` is nothing."""


class WriteFile(ReadFile, Protocol):
    """One open file that may be changed as well."""

    def pwrite(self, data: BytesLike, offset: int) -> int:
        """Write *data* at *offset* in one system call and return how many bytes it took, which may be fewer."""

    def sync_data(self) -> None:
        """Return once the content and the length are on disk."""

    def sync(self) -> None:
        """Return once the content, the length and the other facts of the file are on disk."""

    def truncate(self, size: int) -> None:
        """Cut the file to *size* bytes, or lengthen it with zeros."""

    def allocate(self, offset: int, length: int) -> bool:
        """Reserve zeros up to *offset* + *length*, lengthening the file; False where the file system cannot."""


class Files(Protocol):
    """One directory; see the module for names and errors."""

    directory: str
    """Where it is, for messages."""

    failed_syncs: FailedSyncs
    """The syncs that failed, of files that this opened and of folders, since `clear`ed: what the disk has now, no later
    sync can tell."""

    def list(self, folder: str = "") -> FileNames:
        """Return the names in *folder*, sorted, without its folders; a missing folder is empty.

        What is no regular file is named too: it is refused when it is opened, not passed over.
        """

    def exists(self, name: str) -> bool:
        """Whether the name is taken, by whatever it is."""

    def size(self, name: str) -> int:
        """Return the length in bytes of a regular file."""

    def open_read(self, name: str) -> ReadFile:
        """Open a file that exists for reading."""

    def open_write(self, name: str) -> WriteFile:
        """Open a file that exists for reading and writing."""

    def create(self, name: str) -> WriteFile:
        """Make an empty file that only its owner may read; a name that is taken is a `FileExistsError`."""

    def replace(self, source: str, target: str) -> None:
        """Rename at once and for every reader; durable only after `sync_folder`."""

    def remove(self, name: str) -> bool:
        """Remove a file; False if there was none."""

    def make_folder(self, name: str) -> None:
        """Make a folder that only its owner may enter, unless it is there."""

    def sync_folder(self, name: str = "") -> None:
        """Return once the names in a folder, the directory itself by default, are on disk."""

    def lock(self) -> None:
        """Become the one writer, or raise `StoreLockedError`; ends with `unlock`, `close` or the process."""

    def unlock(self) -> None:
        """Stop being the writer; nothing if this is not it."""

    def close(self) -> None:
        """Unlock and give the directory back; files that are open stay open."""

    def abandon(self) -> None:
        """Close every descriptor, files' too, but leave the lock to the parent: for a forked child."""

    def read_bytes(self, name: str, limit: int) -> bytes:
        """Return a whole small file; one of more than *limit* bytes is a `CorruptStoreError`."""
        with closing(self.open_read(name)) as file:
            size = file.size()
            if size > limit:
                raise CorruptStoreError(name, None, f"{size} bytes", f"at most {limit}")
            return file.pread(size, 0)

    def write_atomic(self, name: str, data: BytesLike) -> None:
        """Put *data* under *name*, durably: after a crash there is the old file or the new one, whole."""
        _write_aside(self, name, data, durable=True)
        self.sync_folder(split_name(name)[0])


def split_name(name: str) -> tuple[str, str]:
    """Return (folder, leaf) of a name, the folder empty for most; raise `InvalidRequestError` for what is no name."""
    folder, slash, leaf = name.rpartition("/")
    parts = (folder, leaf) if slash else (leaf,)
    if any(part in {"", ".", ".."} or "/" in part or "\0" in part for part in parts):
        raise InvalidRequestError(f"file name: found {name!r}, expected a relative one with at most one folder")
    return folder, leaf


def check_folder(name: str) -> None:
    """Raise `InvalidRequestError` unless *name* is empty (the directory) or names a folder in it."""
    if name and split_name(name)[0]:
        raise InvalidRequestError(f"folder name: found {name!r}, expected one without a slash")


def write_all(file: WriteFile, data: BytesLike, offset: int) -> None:
    """Write all of *data* at *offset*, however many system calls it takes."""
    rest = memoryview(data)
    while rest:
        written = file.pwrite(rest, offset)
        if written == 0:
            raise OSError(errno.EIO, "found a write that took nothing, expected progress")
        rest = rest[written:]
        offset += written


def _write_aside(files: Files, name: str, data: BytesLike, *, durable: bool) -> None:
    temporary, file = _create_temporary(files, name)
    try:
        with closing(file):
            write_all(file, data, 0)
            if durable:
                file.sync()
        files.replace(temporary, name)
    except BaseException:
        with suppress(OSError):
            files.remove(temporary)
        raise


def _create_temporary(files: Files, name: str) -> tuple[str, WriteFile]:
    folder, leaf = split_name(name)
    for number in range(MAX_TEMPORARY_FILES):
        temporary = f"{TEMPORARY_PREFIX}{number}-{leaf}"
        if folder:
            temporary = f"{folder}/{temporary}"
        try:
            return temporary, files.create(temporary)
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, f"found {MAX_TEMPORARY_FILES} files left over, expected fewer", name)


def write_owner(files: Files, since: str | None) -> None:
    """Say in the directory who holds its lock; a disk too full for that is no reason to refuse the lock."""
    note = {"pid": os.getpid(), "host": os.uname().nodename, "since": since}
    with suppress(OSError):
        files.remove(OWNER_NAME)
        _write_aside(files, OWNER_NAME, json.dumps(note).encode(), durable=False)


def locked_error(files: Files) -> StoreLockedError:
    """Return the error that names who holds the lock, as far as the owner's note can be read."""
    try:
        note: object = json.loads(files.read_bytes(OWNER_NAME, MAX_OWNER_BYTES))
    except (OSError, ValueError, RecursionError, CorruptStoreError):
        note = None
    found = note if isinstance(note, dict) else {}
    pid, host, since = found.get("pid"), found.get("host"), found.get("since")
    return StoreLockedError(
        files.directory,
        pid if isinstance(pid, int) else None,
        host if isinstance(host, str) else None,
        since if isinstance(since, str) else None,
    )
