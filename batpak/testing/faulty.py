"""Any `Files`, with faults at chosen calls: an error, an interrupt, a write or read that stops half-way.

::

    files = FaultyFiles(MemoryFiles())
    files.fail("sync_data", errno.EIO, call=3)                  # the third from now on fails, once
    files.fail("pwrite", errno.ENOSPC, name="*.fbat", repeat=True)
    files.fail("replace", KeyboardInterrupt(), after=True)      # it is done, and then the interrupt comes
    files.shorten("pwrite", 8)                                  # the next one takes 8 bytes
    files.calls["sync_data"]                                    # how often it was called so far

An operation is named as its method is; those of open files count together with those of the directory (`size`,
`close`). Its name is the file's as it was opened, the folder's, or the target's of `replace`. `read_bytes` and
`write_atomic` are made of the others and have no faults of their own. A `close` that fails has closed nonetheless.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from batpak.storage.files import BytesLike, FileNames, Files, ReadFile, WriteFile
from batpak.storage.seam import FailedSyncs

_T = TypeVar("_T")

_OF_THE_DIRECTORY = {
    "abandon", "close", "create", "exists", "list", "lock", "make_folder", "open_read", "open_write", "remove",
    "replace", "size", "sync_folder", "unlock",
}  # fmt: skip
_SYNCS = {"sync", "sync_data", "sync_folder"}
_OF_A_FILE = {
    "allocate", "close", "drop_cache", "map", "pread", "pwrite", "size", "sync", "sync_data", "truncate",
}  # fmt: skip
OPERATIONS = frozenset(_OF_THE_DIRECTORY | _OF_A_FILE)


@dataclass(slots=True)
class _Fault:
    operation: str
    name: str
    call: int
    repeat: bool
    after: bool = False
    error: int | BaseException = 0
    length: int | None = None
    seen: int = 0

    def strikes(self, operation: str, name: str) -> bool:
        if operation != self.operation or not fnmatchcase(name, self.name):
            return False
        self.seen += 1
        return self.seen == self.call or (self.repeat and self.seen > self.call)

    def exception(self, name: str) -> BaseException:
        if isinstance(self.error, int):
            return OSError(self.error, os.strerror(self.error), name)
        return self.error


class _Faults:
    """The faults that wait, and the calls so far; shared by a directory and its open files."""

    def __init__(self, failed_syncs: FailedSyncs) -> None:
        self.calls: Counter[str] = Counter()
        self.waiting: list[_Fault] = []
        self.failed_syncs = failed_syncs

    def run(
        self, operation: str, name: str, action: Callable[[], _T], shortened: Callable[[int], _T] | None = None
    ) -> _T:
        self.calls[operation] += 1
        struck = [fault for fault in self.waiting if fault.strikes(operation, name)]
        if not struck:
            return action()
        fault = struck[0]
        if fault.length is not None and shortened is not None:
            return shortened(fault.length)
        if fault.after or operation == "close":
            action()
        error = fault.exception(name)
        if operation in _SYNCS and isinstance(error, OSError):
            self.failed_syncs.append(OSError(error.errno, error.strerror, name))
        raise error


class FaultyFiles(Files):
    """Another `Files` that fails where it is told to; see the module."""

    def __init__(self, inner: Files) -> None:
        """Wrap *inner*, which does everything that does not fail."""
        self.directory = inner.directory
        self.failed_syncs = inner.failed_syncs
        self._inner = inner
        self._faults = _Faults(self.failed_syncs)

    @property
    def calls(self) -> Counter[str]:
        """How often each operation was called, the failed calls included."""
        return self._faults.calls

    def fail(
        self,
        operation: str,
        error: int | BaseException,
        *,
        call: int = 1,
        name: str = "*",
        after: bool = False,
        repeat: bool = False,
    ) -> None:
        """Raise *error*, an errno or an exception, at a call of *operation* on a name that matches the pattern *name*.

        Counted from now, the call numbered *call* fails, with *repeat* every one from there on; with *after* it does
        its work first. Several faults that meet in one call: the first that was asked for.
        """
        _check(operation, OPERATIONS)
        self._faults.waiting.append(_Fault(operation, name, call, repeat, after, error))

    def shorten(self, operation: str, length: int, *, call: int = 1, name: str = "*", repeat: bool = False) -> None:
        """Let a `pwrite` or `pread` stop after *length* bytes, as if it had done all it could; counted as in `fail`."""
        _check(operation, {"pwrite", "pread"})
        self._faults.waiting.append(_Fault(operation, name, call, repeat, length=length))

    def heal(self) -> None:
        """Drop every fault that waits; the counts stay."""
        self._faults.waiting.clear()

    def list(self, folder: str = "") -> FileNames:
        """Pass on, or fail."""
        return self._faults.run("list", folder, lambda: self._inner.list(folder))

    def exists(self, name: str) -> bool:
        """Pass on, or fail."""
        return self._faults.run("exists", name, lambda: self._inner.exists(name))

    def size(self, name: str) -> int:
        """Pass on, or fail."""
        return self._faults.run("size", name, lambda: self._inner.size(name))

    def open_read(self, name: str) -> ReadFile:
        """Pass on, or fail; what is opened fails too."""
        return self._faults.run(
            "open_read", name, lambda: _FaultyReadFile(self._inner.open_read(name), name, self._faults)
        )

    def open_write(self, name: str) -> WriteFile:
        """Pass on, or fail; what is opened fails too."""
        return self._faults.run(
            "open_write", name, lambda: _FaultyWriteFile(self._inner.open_write(name), name, self._faults)
        )

    def create(self, name: str) -> WriteFile:
        """Pass on, or fail; what is made fails too."""
        return self._faults.run("create", name, lambda: _FaultyWriteFile(self._inner.create(name), name, self._faults))

    def replace(self, source: str, target: str) -> None:
        """Pass on, or fail."""
        self._faults.run("replace", target, lambda: self._inner.replace(source, target))

    def remove(self, name: str) -> bool:
        """Pass on, or fail."""
        return self._faults.run("remove", name, lambda: self._inner.remove(name))

    def make_folder(self, name: str) -> None:
        """Pass on, or fail."""
        self._faults.run("make_folder", name, lambda: self._inner.make_folder(name))

    def sync_folder(self, name: str = "") -> None:
        """Pass on, or fail."""
        self._faults.run("sync_folder", name, lambda: self._inner.sync_folder(name))

    def lock(self) -> None:
        """Pass on, or fail."""
        self._faults.run("lock", "", self._inner.lock)

    def unlock(self) -> None:
        """Pass on, or fail."""
        self._faults.run("unlock", "", self._inner.unlock)

    def close(self) -> None:
        """Pass on, and then perhaps fail."""
        self._faults.run("close", "", self._inner.close)

    def abandon(self) -> None:
        """Pass on, or fail."""
        self._faults.run("abandon", "", self._inner.abandon)


def _check(operation: str, known: frozenset[str] | set[str]) -> None:
    if operation not in known:
        raise ValueError(f"operation: found {operation!r}, expected one of {', '.join(sorted(known))}")


class _FaultyReadFile:
    def __init__(self, inner: ReadFile, name: str, faults: _Faults) -> None:
        self._inner = inner
        self._name = name
        self._faults = faults

    def _run(self, operation: str, action: Callable[[], _T]) -> _T:
        return self._faults.run(operation, self._name, action)

    def pread(self, length: int, offset: int) -> bytes:
        return self._faults.run(
            "pread",
            self._name,
            lambda: self._inner.pread(length, offset),
            lambda short: self._inner.pread(min(short, length), offset),
        )

    def size(self) -> int:
        return self._run("size", self._inner.size)

    def map(self) -> memoryview:
        return self._run("map", self._inner.map)

    def window(self) -> None:
        """Return nothing: what lies in memory would never fail."""

    def drop_cache(self) -> None:
        self._run("drop_cache", self._inner.drop_cache)

    def close(self) -> None:
        self._run("close", self._inner.close)


class _FaultyWriteFile(_FaultyReadFile):
    _inner: WriteFile

    def __init__(self, inner: WriteFile, name: str, faults: _Faults) -> None:
        super().__init__(inner, name, faults)

    def pwrite(self, data: BytesLike, offset: int) -> int:
        return self._faults.run(
            "pwrite",
            self._name,
            lambda: self._inner.pwrite(data, offset),
            lambda short: self._inner.pwrite(memoryview(data)[:short], offset),
        )

    def sync_data(self) -> None:
        self._run("sync_data", self._inner.sync_data)

    def sync(self) -> None:
        self._run("sync", self._inner.sync)

    def truncate(self, size: int) -> None:
        self._run("truncate", lambda: self._inner.truncate(size))

    def allocate(self, offset: int, length: int) -> bool:
        return self._run("allocate", lambda: self._inner.allocate(offset, length))
