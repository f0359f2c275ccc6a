"""The one module that opens, reads, writes, syncs, renames and locks files; everything else has a `Files`.

What a `Files` promises stands in `batpak.storage.seam`; here is the one over a directory of the file system.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self
from weakref import WeakSet

from batpak.errors import CorruptStoreError, InvalidDirectoryError, UnsupportedPlatformError
from batpak.storage.open_files import (
    HELD_BYTES,
    RealReadFile,
    RealWriteFile,
    close_descriptor,
    full_sync,
    remember,
)
from batpak.storage.seam import (
    LOCK_NAME,
    OWNER_NAME,
    TEMPORARY_PREFIX,
    BytesLike,
    FailedSyncs,
    FileNames,
    Files,
    ReadFile,
    WriteFile,
    check_folder,
    locked_error,
    split_name,
    write_all,
    write_owner,
)

__all__ = [
    "HELD_BYTES",
    "LOCK_NAME",
    "OWNER_NAME",
    "TEMPORARY_PREFIX",
    "BytesLike",
    "FileNames",
    "Files",
    "ReadFile",
    "RealFiles",
    "RealReadFile",
    "RealWriteFile",
    "WriteFile",
    "write_all",
]

if sys.platform != "win32":
    import fcntl

    _OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY  # opening a pipe must not wait for its writer
    _OPEN_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY


def _wrong_type(name: str, found: str, expected: str = "a regular file") -> CorruptStoreError:
    return CorruptStoreError(name, None, found, expected)


def _check_regular(name: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise _wrong_type(name, f"something of type {stat.filemode(mode)[0]!r}")


_NOT_REGULAR = {errno.ELOOP: "a symbolic link", errno.EISDIR: "a folder", errno.ENXIO: "a pipe or a socket"}


class _Folder:
    """A folder's descriptor for the length of one operation.

    Each operation opens its own: a folder that is a symbolic link is refused every time, and listings do not share
    their position.
    """

    __slots__ = ("_fd", "_name", "_root")

    def __init__(self, root: int, name: str) -> None:
        self._root = root
        self._name = name
        self._fd = -1

    def __enter__(self) -> int:
        try:
            self._fd = os.open(self._name or ".", _OPEN_FOLDER, dir_fd=self._root)
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                raise _wrong_type(self._name, "something else", "a folder") from error
            raise
        return self._fd

    def __exit__(self, *_: object) -> None:
        close_descriptor(self._fd)


class RealFiles(Files):
    """A directory of the file system, held by its descriptor: moving it while it is open does no harm.

    New files have mode 0600 and folders 0700. The lock is `flock`, so journals belong on a local file system.
    """

    def __init__(self, directory: str, fd: int) -> None:
        """Own *fd*, an open descriptor of *directory*; most callers want `open`."""
        self.directory = directory
        self.failed_syncs: FailedSyncs = []
        self._fd = fd
        self._lock_fd = -1
        self._lock_pid = 0
        self._opened: WeakSet[RealReadFile] = WeakSet()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool) -> Self:
        """Open a directory, for writing with *create*: then it is made where it is missing, durably, with mode 0700.

        Raises `InvalidDirectoryError` where there is no directory or none that can be used, and
        `UnsupportedPlatformError` on Windows.
        """
        if sys.platform == "win32":
            raise UnsupportedPlatformError("found Windows, expected Linux or macOS: a journal needs flock and fsync")
        text = os.fspath(path)
        try:
            if create:
                _make_directory(text)
            directory = os.path.realpath(text)
            fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except (OSError, ValueError) as error:
            reason = _unusable(text, error)
            if reason is None:
                raise
            raise InvalidDirectoryError(text, reason) from error
        files = cls(directory, fd)
        # access, not an attempt: a journal that is opened and then refused must look as it did before
        effective = os.access in os.supports_effective_ids
        if create and not os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=effective):
            files.close()
            raise InvalidDirectoryError(directory, "found a directory that is read-only, expected a writable one")
        return files

    def __repr__(self) -> str:
        state = " closed" if self._fd < 0 else " locked" if self._lock_fd >= 0 else ""
        return f"<{type(self).__name__} {self.directory!r}{state}>"

    def list(self, folder: str = "") -> FileNames:
        """Return the names in *folder*, sorted, without its folders; a missing folder is empty."""
        check_folder(folder)
        try:
            with _Folder(self._fd, folder) as fd, os.scandir(fd) as entries:
                return sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            if folder:
                return []
            raise

    def exists(self, name: str) -> bool:
        """Whether the name is taken, by whatever it is."""
        try:
            self._mode_and_size(name)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        """Return the length in bytes of a regular file."""
        mode, size = self._mode_and_size(name)
        _check_regular(name, mode)
        return size

    def open_read(self, name: str) -> RealReadFile:
        """Open a file that exists for reading."""
        file = RealReadFile(self._open_regular(name, os.O_RDONLY), name)
        self._opened.add(file)
        return file

    def open_write(self, name: str) -> RealWriteFile:
        """Open a file that exists for reading and writing."""
        return self._open_write(name, os.O_RDWR)

    def create(self, name: str) -> RealWriteFile:
        """Make an empty file with mode 0600; a name that is taken is a `FileExistsError`."""
        return self._open_write(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def replace(self, source: str, target: str) -> None:
        """Rename at once and for every reader; durable only after `sync_folder`."""
        folder, leaf = split_name(source)
        to_folder, to_leaf = split_name(target)
        with _Folder(self._fd, folder) as fd, _Folder(self._fd, to_folder) as to_fd:
            os.rename(leaf, to_leaf, src_dir_fd=fd, dst_dir_fd=to_fd)

    def remove(self, name: str) -> bool:
        """Remove a file; False if there was none."""
        folder, leaf = split_name(name)
        try:
            with _Folder(self._fd, folder) as fd:
                os.unlink(leaf, dir_fd=fd)
        except FileNotFoundError:
            return False
        return True

    def make_folder(self, name: str) -> None:
        """Make a folder with mode 0700, unless it is there."""
        check_folder(name)
        try:
            os.mkdir(name, 0o700, dir_fd=self._fd)
        except FileExistsError:
            with _Folder(self._fd, name):
                pass

    def sync_folder(self, name: str = "") -> None:
        """Return once the names in a folder, the directory itself by default, are on disk."""
        check_folder(name)
        with _Folder(self._fd, name) as fd:
            try:
                full_sync(fd)
            except OSError as error:
                remember(self.failed_syncs, error, name)
                raise

    def lock(self) -> None:
        """Become the one writer, or raise `StoreLockedError`."""
        if self._lock_fd >= 0:
            raise locked_error(self)
        self._lock_pid = os.getpid()
        self._lock_fd = self._open_regular(LOCK_NAME, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._close_lock()
            raise locked_error(self) from error
        except OSError:
            self._close_lock()
            raise
        write_owner(self, _touch(self._lock_fd))

    def unlock(self) -> None:
        """Stop being the writer; nothing if this is not it."""
        # A forked child shares the lock with its parent: letting go of it would let go of the parent's.
        if self._lock_fd >= 0 and self._lock_pid == os.getpid():
            with suppress(OSError):
                self.remove(OWNER_NAME)
            with suppress(OSError):  # closing it is enough
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        self._close_lock()

    def close(self) -> None:
        """Unlock and give the directory back; files that are open stay open."""
        self.unlock()
        self._close_directory()

    def abandon(self) -> None:
        """Close every descriptor, files' too, but leave the lock to the parent: for a forked child."""
        for file in tuple(self._opened):
            file.close()
        self._close_lock()
        self._close_directory()

    def __del__(self) -> None:
        try:
            self._close_lock()
            self._close_directory()
        except (OSError, AttributeError):
            pass

    def _open_write(self, name: str, flags: int) -> RealWriteFile:
        file = RealWriteFile(self._open_regular(name, flags), name, self.failed_syncs)
        self._opened.add(file)
        return file

    def _open_regular(self, name: str, flags: int) -> int:
        folder, leaf = split_name(name)
        with _Folder(self._fd, folder) as folder_fd:
            try:
                fd = os.open(leaf, flags | _OPEN, 0o600, dir_fd=folder_fd)
            except OSError as error:
                found = _NOT_REGULAR.get(error.errno or 0)
                if found is None:
                    raise
                raise _wrong_type(name, found) from error
        try:
            _check_regular(name, os.fstat(fd).st_mode)
        except BaseException:
            close_descriptor(fd)
            raise
        return fd

    def _mode_and_size(self, name: str) -> tuple[int, int]:
        folder, leaf = split_name(name)
        with _Folder(self._fd, folder) as fd:
            found = os.stat(leaf, dir_fd=fd, follow_symlinks=False)
        return found.st_mode, found.st_size

    def _close_lock(self) -> None:
        fd = self._lock_fd
        if fd >= 0:
            self._lock_fd = -1
            close_descriptor(fd)

    def _close_directory(self) -> None:
        fd = self._fd
        if fd >= 0:
            self._fd = -1
            close_descriptor(fd)


def _touch(fd: int) -> str | None:
    """Give an open file the system's time and return that, as ISO 8601 text in UTC."""
    try:
        os.utime(fd)
        return datetime.fromtimestamp(os.fstat(fd).st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return None


def _make_directory(path: str, mode: int = 0o700) -> None:
    path = os.path.abspath(path)
    parent = os.path.dirname(path)
    if parent != path and (not os.path.lexists(parent) or _is_empty(parent)):
        _make_directory(parent, 0o777)  # as mkdir -p does: what else stands there is not ours to hide
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not _is_empty(path):
            return
        # Perhaps ours: an attempt to make it may have ended before its name was durable.
        with suppress(PermissionError):
            _sync_directory(parent)
    else:
        _sync_directory(parent)


def _is_empty(path: str) -> bool:
    """Whether *path* is a directory with nothing in it, as far as that can be seen."""
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        full_sync(fd)
    finally:
        close_descriptor(fd)


def _unusable(path: str, error: OSError | ValueError) -> str | None:
    """Return why *error* says that *path* is no place for a journal; None where it says nothing about the path."""
    if isinstance(error, ValueError):
        return f"found no path ({error}), expected one"
    if os.path.islink(path) and not os.path.exists(path):
        return "found a symbolic link to nowhere, expected a directory"
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return "found a file, expected a directory"
    if error.errno in {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG}:
        return f"found {os.strerror(error.errno).lower()!r}, expected a usable directory"
    return None
