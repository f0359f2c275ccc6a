"""A directory as it would be: some files gone, others shorter. Nothing is changed by looking at it, or through it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from batpak.storage.seam import FileNames, Files, ReadFile, split_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from batpak.storage.seam import WriteFile


class ShortFile:
    """A `ReadFile` of which only the first bytes are there."""

    def __init__(self, file: ReadFile, size: int) -> None:
        """Show the first *size* bytes of *file*."""
        self._file = file
        self._size = size

    def pread(self, length: int, offset: int) -> bytes:
        """Return *length* bytes from *offset*, fewer only where the shown part ends."""
        return self._file.pread(max(0, min(length, self.size() - offset)), offset)

    def size(self) -> int:
        """Return the length of the shown part."""
        return min(self._size, self._file.size())

    def map(self) -> memoryview:
        """Return the shown part."""
        return self._file.map()[: self.size()]

    def window(self) -> None:
        """Return nothing: a window would show the file as it is."""

    def drop_cache(self) -> None:
        """Do as the file does."""
        self._file.drop_cache()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ImaginedFiles(Files):
    """The files of *files* without those in *gone*, and cut where *sizes* says; every change is refused (EROFS)."""

    def __init__(self, files: Files, gone: Collection[str] = (), sizes: Mapping[str, int] | None = None) -> None:
        """Look at *files*, which stay as they are."""
        self.directory = files.directory
        self.failed_syncs = files.failed_syncs
        self._files = files
        self._gone = frozenset(gone)
        self._sizes = dict(sizes or {})

    def list(self, folder: str = "") -> FileNames:
        """Return the names in *folder* that would be there."""
        prefix = f"{folder}/" if folder else ""
        return [name for name in self._files.list(folder) if prefix + name not in self._gone]

    def exists(self, name: str) -> bool:
        """Whether the name would be taken."""
        return name not in self._gone and self._files.exists(name)

    def size(self, name: str) -> int:
        """Return the length that the file would have."""
        self._check_there(name)
        return min(self._files.size(name), self._sizes.get(name, 1 << 63))

    def open_read(self, name: str) -> ReadFile:
        """Open a file as it would be."""
        self._check_there(name)
        file = self._files.open_read(name)
        return ShortFile(file, self._sizes[name]) if name in self._sizes else file

    def open_write(self, name: str) -> WriteFile:
        """Refuse."""
        raise _refused(name)

    def create(self, name: str) -> WriteFile:
        """Refuse."""
        raise _refused(name)

    def replace(self, source: str, target: str) -> None:
        """Refuse."""
        raise _refused(source or target)

    def remove(self, name: str) -> bool:
        """Refuse."""
        raise _refused(name)

    def make_folder(self, name: str) -> None:
        """Refuse."""
        raise _refused(name)

    def sync_folder(self, name: str = "") -> None:
        """Refuse."""
        raise _refused(name)

    def lock(self) -> None:
        """Refuse."""
        raise _refused(self.directory)

    def unlock(self) -> None:
        """Nothing: it is never locked."""

    def close(self) -> None:
        """Nothing: the directory is another's."""

    def abandon(self) -> None:
        """Nothing: the directory is another's."""

    def _check_there(self, name: str) -> None:
        split_name(name)
        if name in self._gone:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _refused(name: str) -> OSError:
    return OSError(errno.EROFS, os.strerror(errno.EROFS), name)
