"""Open files: what is read, written and synced through one descriptor.

Small reads and writes keep the interpreter lock, see `HELD_BYTES`; a sync that fails is remembered beside its error.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from batpak.storage.seam import BytesLike, FailedSyncs, Window

HELD_BYTES = 64 * 1024
"""Up to this size a read or write keeps the interpreter lock. Letting go of it costs more than the system call: beside
busy threads the way back is a wait of up to a switch interval (5 ms). From here on the copy is what takes the time."""

if sys.platform != "win32":
    import fcntl

    def _bind(library: ctypes.CDLL, name: str, result: type = ctypes.c_ssize_t) -> Callable[..., int]:
        # Where off_t may have 32 bits, glibc has the 64-bit call under a name of its own.
        function = getattr(library, name + "64", None) or getattr(library, name)
        # No types of arguments: to look them up takes a third of the time of a call. Bytes go as a pointer, numbers as
        # an int of C, so whoever calls wraps an offset.
        function.restype = result
        return function  # type: ignore[no-any-return]

    # PyDLL keeps the interpreter lock during the call, see HELD_BYTES.
    _held = ctypes.PyDLL(None, use_errno=True)
    _pread = _bind(_held, "pread")
    _pwrite = _bind(_held, "pwrite")

# Bytes to be filled, as C extensions make them; nobody else has seen them by then, and a copy is saved.
_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.restype = ctypes.py_object

if sys.platform == "linux":
    _free = ctypes.CDLL(None, use_errno=True)
    _fallocate = _bind(_free, "fallocate", ctypes.c_int)

_offset = ctypes.c_int64


def _raise_unless_interrupted(name: str) -> None:
    number = ctypes.get_errno()
    if number != errno.EINTR:
        raise OSError(number, os.strerror(number), name)


def full_sync(fd: int) -> None:
    """Return once everything behind a descriptor is on disk."""
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


def close_descriptor(fd: int) -> None:
    """Give a descriptor back: it is gone whatever the system answers, and what was promised has been synced before."""
    with suppress(OSError):
        os.close(fd)


def remember(failed_syncs: FailedSyncs, error: OSError, name: str) -> None:
    """Note a sync that failed; as another error, for the traceback of this one would keep files open."""
    failed_syncs.append(OSError(error.errno, error.strerror, name))


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
            while (count := _pread(self._fd, data, length, _offset(offset))) < 0:
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

    def window(self) -> Window | None:
        """Return the file as long as it is now; None where it is empty or the system has no room for another map."""
        try:
            return mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            return None

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
            close_descriptor(fd)

    def __del__(self) -> None:
        try:
            self.close()
        except (OSError, AttributeError):
            pass


class RealWriteFile(RealReadFile):
    """A `WriteFile` over one descriptor; a sync that fails goes into *failed_syncs* as well."""

    __slots__ = ("_failed_syncs",)

    def __init__(self, fd: int, name: str, failed_syncs: FailedSyncs) -> None:
        super().__init__(fd, name)
        self._failed_syncs = failed_syncs

    def pwrite(self, data: BytesLike, offset: int) -> int:
        """Write *data* at *offset* in one system call and return how many bytes it took."""
        if len(data) > HELD_BYTES:
            return os.pwrite(self._fd, data, offset)
        if type(data) is not bytes:
            data = bytes(data)
        try:
            while (count := _pwrite(self._fd, data, len(data), _offset(offset))) < 0:
                _raise_unless_interrupted(self._name)
        except ctypes.ArgumentError as error:  # what ctypes makes of a lack of memory
            raise MemoryError from error
        return count

    def sync_data(self) -> None:
        """Return once the content and the length are on disk."""
        fd = self._descriptor()
        try:
            if sys.platform == "linux":
                os.fdatasync(fd)
            else:
                full_sync(fd)
        except OSError as error:
            remember(self._failed_syncs, error, self._name)
            raise

    def sync(self) -> None:
        """Return once the content, the length and the other facts of the file are on disk."""
        fd = self._descriptor()
        try:
            full_sync(fd)
        except OSError as error:
            remember(self._failed_syncs, error, self._name)
            raise

    def truncate(self, size: int) -> None:
        """Cut the file to *size* bytes, or lengthen it with zeros."""
        os.ftruncate(self._fd, size)

    def allocate(self, offset: int, length: int) -> bool:
        """Reserve zeros up to *offset* + *length*; False where the file system cannot."""
        if sys.platform != "linux":
            return False
        # Not posix_fallocate: where the file system refuses, glibc writes to every block instead.
        try:
            while _fallocate(self._fd, 0, _offset(offset), _offset(length)) < 0:
                if ctypes.get_errno() in {errno.EOPNOTSUPP, errno.ENOSYS}:
                    return False
                _raise_unless_interrupted(self._name)
        except ctypes.ArgumentError as error:
            raise MemoryError from error
        return True
