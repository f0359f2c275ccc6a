"""The one module that opens, reads, writes, syncs, renames and locks files; everything else has a `Files`.

What a `Files` promises stands in `batpak.storage.seam`; here is the one over a directory of the file system.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self, TypeVar
from weakref import WeakSet

from batpak.errors import CorruptStoreError, InvalidDirectoryError, UnsupportedPlatformError
from batpak.storage.seam import (
    LOCK_NAME,
    OWNER_NAME,
    TEMPORARY_PREFIX,
    BytesLike,
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

HELD_BYTES = 64 * 1024
"""Up to this size a read or write keeps the interpreter lock. Letting go of it costs more than the system call: beside
busy threads the way back is a wait of up to a switch interval (5 ms). From here on the copy is what takes the time."""

if sys.platform != "win32":
    import fcntl

    _OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY  # opening a pipe must not wait for its writer
    _OPEN_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY

    def _bind(library: ctypes.CDLL, name: str, *types: type, result: type = ctypes.c_ssize_t) -> Callable[..., int]:
        # Where off_t may have 32 bits, glibc has the 64-bit call under a name of its own.
        function = getattr(library, name + "64", None) or getattr(library, name)
        function.argtypes = types
        function.restype = result
        return function  # type: ignore[no-any-return]

    # PyDLL keeps the interpreter lock during the call, see HELD_BYTES.
    _held = ctypes.PyDLL(None, use_errno=True)
    _pread = _bind(_held, "pread", ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int64)
    _pwrite = _bind(_held, "pwrite", ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int64)

# Bytes to be filled, as C extensions make them; nobody else has seen them by then, and a copy is saved.
_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
_new_bytes.restype = ctypes.py_object

if sys.platform == "linux":
    _free = ctypes.CDLL(None, use_errno=True)
    _fallocate = _bind(
        _free, "fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, result=ctypes.c_int
    )


def _raise_unless_interrupted(name: str) -> None:
    number = ctypes.get_errno()
    if number != errno.EINTR:
        raise OSError(number, os.strerror(number), name)


def _full_sync(fd: int) -> None:
    if sys.platform == "darwin":
        # There, fsync leaves the data in the drive's cache.
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in {errno.ENOTSUP, errno.ENOTTY, errno.EINVAL}:
                raise
        else:
            return
    os.fsync(fd)


def _wrong_type(name: str, found: str, expected: str = "a regular file") -> CorruptStoreError:
    return CorruptStoreError(name, None, found, expected)


def _check_regular(name: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise _wrong_type(name, f"something of type {stat.filemode(mode)[0]!r}")


class RealReadFile:
    """A `ReadFile` over one descriptor."""

    __slots__ = ("__weakref__", "_fd", "_name")

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}{' closed' if self._fd < 0 else ''}>"

    def pread(self, length: int, offset: int) -> bytes:
        """Return *length* bytes from *offset*, fewer only where the file ends."""
        data = self._pread_once(length, offset)
        if len(data) == length or not data:
            return data
        pieces = [data]
        while data and (length := length - len(data)):
            offset += len(data)
            data = self._pread_once(length, offset)
            pieces.append(data)
        return b"".join(pieces)

    def _pread_once(self, length: int, offset: int) -> bytes:
        if not 0 < length <= HELD_BYTES:
            return os.pread(self._fd, length, offset)
        data: bytes = _new_bytes(None, length)
        try:
            while (count := _pread(self._fd, data, length, offset)) < 0:
                _raise_unless_interrupted(self._name)
        except ctypes.ArgumentError as error:  # what ctypes makes of a lack of memory
            raise MemoryError from error
        return data if count == length else data[:count]

    def size(self) -> int:
        """Return the file's length in bytes as it is now."""
        return os.fstat(self._fd).st_size

    def map(self) -> memoryview:
        """Return the whole file, as long as it is now, as a read-only view that outlives `close`."""
        size = self.size()
        return memoryview(mmap.mmap(self._fd, size, access=mmap.ACCESS_READ) if size else b"")

    def drop_cache(self) -> None:
        """Make later reads come from the disk, where the system can."""
        if sys.platform == "linux":
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _descriptor(self) -> int:
        """Return the descriptor for calls that take a closed one (-1) for a `ValueError`."""
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self._name)
        return self._fd

    def close(self) -> None:
        """Give the descriptor back; a second time is nothing."""
        fd = self._fd
        if fd >= 0:
            self._fd = -1  # before the call: a number that is closed twice may be somebody else's by then
            os.close(fd)

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, AttributeError):
            pass


class RealWriteFile(RealReadFile):
    """A `WriteFile` over one descriptor."""

    __slots__ = ()

    def pwrite(self, data: BytesLike, offset: int) -> int:
        """Write *data* at *offset* in one system call and return how many bytes it took."""
        if len(data) > HELD_BYTES:
            return os.pwrite(self._fd, data, offset)
        if type(data) is not bytes:
            data = bytes(data)
        try:
            while (count := _pwrite(self._fd, data, len(data), offset)) < 0:
                _raise_unless_interrupted(self._name)
        except ctypes.ArgumentError as error:  # what ctypes makes of a lack of memory
            raise MemoryError from error
        return count

    def sync_data(self) -> None:
        """Return once the content and the length are on disk."""
        if sys.platform == "linux":
            os.fdatasync(self._descriptor())
        else:
            _full_sync(self._descriptor())

    def sync(self) -> None:
        """Return once the content, the length and the other facts of the file are on disk."""
        _full_sync(self._descriptor())

    def truncate(self, size: int) -> None:
        """Cut the file to *size* bytes, or lengthen it with zeros."""
        os.ftruncate(self._fd, size)

    def allocate(self, offset: int, length: int) -> bool:
        """Reserve zeros up to *offset* + *length*; False where the file system cannot."""
        if sys.platform != "linux":
            return False
        # Not posix_fallocate: where the file system refuses, glibc writes to every block instead.
        try:
            while _fallocate(self._fd, 0, offset, length) < 0:
                if ctypes.get_errno() in {errno.EOPNOTSUPP, errno.ENOSYS}:
                    return False
                _raise_unless_interrupted(self._name)
        except ctypes.ArgumentError as error:
            raise MemoryError from error
        return True


_FileT = TypeVar("_FileT", bound=RealReadFile)

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
        os.close(self._fd)


class RealFiles(Files):
    """A directory of the file system, held by its descriptor: moving it while it is open does no harm.

    New files have mode 0600 and folders 0700. The lock is `flock`, so journals belong on a local file system.
    """

    def __init__(self, directory: str, fd: int) -> None:
        """Own *fd*, an open descriptor of *directory*; most callers want `open`."""
        self.directory = directory
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
        return self._open(RealReadFile, name, os.O_RDONLY)

    def open_write(self, name: str) -> RealWriteFile:
        """Open a file that exists for reading and writing."""
        return self._open(RealWriteFile, name, os.O_RDWR)

    def create(self, name: str) -> RealWriteFile:
        """Make an empty file with mode 0600; a name that is taken is a `FileExistsError`."""
        return self._open(RealWriteFile, name, os.O_RDWR | os.O_CREAT | os.O_EXCL)

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
            _full_sync(fd)

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

    def _open(self, kind: type[_FileT], name: str, flags: int) -> _FileT:
        fd = self._open_regular(name, flags)
        file = kind(fd, name)
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
            os.close(fd)
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
            os.close(fd)

    def _close_directory(self) -> None:
        fd = self._fd
        if fd >= 0:
            self._fd = -1
            os.close(fd)


def _touch(fd: int) -> str | None:
    """Give an open file the system's time and return that, as ISO 8601 text in UTC."""
    try:
        os.utime(fd)
        return datetime.fromtimestamp(os.fstat(fd).st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return None


def _make_directory(path: str, mode: int = 0o700) -> None:
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.lexists(parent):
        _make_directory(parent, 0o777)  # as mkdir -p does: what else stands there is not ours to hide
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    fd = os.open(parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        _full_sync(fd)
    finally:
        os.close(fd)


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
