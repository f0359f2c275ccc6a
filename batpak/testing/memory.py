"""A directory in memory that knows what a power cut would leave of it.

`MemoryFiles` behaves as the real one does and keeps two trees apart: what a running process sees, and what is durable.
Content becomes durable by `sync` or `sync_data` of its file, names by `sync_folder` of their folder, and nothing by
itself: a file whose name is durable but whose content is not is empty after `crashed`. Each change goes into `journal`,
so that a test can also build what a less orderly disk might have kept.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from threading import RLock
from typing import NamedTuple, Self, TypeAlias
from weakref import ReferenceType, WeakSet, ref

from batpak.errors import CorruptStoreError
from batpak.storage.files import LOCK_NAME, OWNER_NAME, BytesLike, FileNames, Files
from batpak.storage.seam import FailedSyncs, check_folder, locked_error, split_name, write_owner


class Operation(NamedTuple):
    """One change, as the journal keeps it; which fields count depends on the action.

    ::

        create       name, inode        truncate     inode, size             make_folder  name
        write        inode, offset,     allocate     inode, offset, size     sync_folder  name (empty: the directory)
                     data               sync         inode                   remove       name
        replace      name, target       note         name (whatever a test wrote down)
    """

    action: str
    name: str = ""
    target: str = ""
    inode: int = 0
    offset: int = 0
    data: bytes = b""
    size: int = 0


class _Inode:
    """One file's content, seen and durable, and the range in which they may differ."""

    # A write and a sync may meet in two threads; a signal handler may meet its own.
    __slots__ = ("_dirty_from", "_dirty_to", "_lock", "durable", "number", "visible")

    def __init__(self, number: int, visible: bytes = b"", durable: bytes = b"") -> None:
        self.number = number
        self.visible = bytearray(visible)
        self.durable = bytearray(durable)
        self._dirty_from = self._dirty_to = 0
        self._lock = RLock()

    def copy(self) -> _Inode:
        with self._lock:
            twin = _Inode(self.number, bytes(self.visible), bytes(self.durable))
            twin._dirty_from, twin._dirty_to = self._dirty_from, self._dirty_to
            return twin

    def write(self, data: bytes, offset: int) -> None:
        if not data:
            return  # as the system has it: an empty write behind the end does not lengthen the file
        with self._lock:
            self.lengthen(offset + len(data))
            self._mark_dirty(offset, offset + len(data))
            self.visible[offset : offset + len(data)] = data

    def resize(self, size: int) -> None:
        with self._lock:
            before = len(self.visible)
            self._mark_dirty(min(before, size), max(before, size))
            del self.visible[size:]
            self.visible.extend(bytes(size - len(self.visible)))

    def lengthen(self, size: int) -> None:
        with self._lock:
            self.resize(max(len(self.visible), size))

    def make_durable(self) -> None:
        with self._lock:
            size, dirty = len(self.visible), slice(self._dirty_from, self._dirty_to)
            del self.durable[size:]
            self.durable.extend(bytes(size - len(self.durable)))
            self.durable[dirty] = self.visible[dirty]
            self.mark_clean()

    def drop_cache(self) -> None:
        """Show the disk's content where nothing waits to be written; the length is no page and stays."""
        with self._lock:
            size, dirty = len(self.visible), slice(self._dirty_from, self._dirty_to)
            kept = self.visible[dirty]
            self.visible[:] = self.durable[:size].ljust(size, b"\0")
            self.visible[dirty] = kept

    def mark_clean(self) -> None:
        """Forget what waits to be written, done or not."""
        with self._lock:
            self._dirty_from = self._dirty_to = 0

    def _mark_dirty(self, start: int, stop: int) -> None:
        if start < stop:
            self._dirty_from = min(self._dirty_from, start) if self._dirty_to else start
            self._dirty_to = max(self._dirty_to, stop)


_Names: TypeAlias = dict[str, _Inode]


@dataclass(slots=True)
class _Disk:
    """What all openers of one directory share."""

    names: _Names = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    durable_names: _Names = field(default_factory=dict)
    durable_folders: set[str] = field(default_factory=set)
    journal: list[Operation] = field(default_factory=list)
    holder: ReferenceType[MemoryFiles] | None = None
    inodes: int = 0
    allocates: bool = True
    lies: bool = False
    sync_error: int = 0
    failed_syncs: FailedSyncs = field(default_factory=list)

    def check_sync(self) -> None:
        number, self.sync_error = self.sync_error, 0
        if number:
            self.failed_syncs.append(_os_error(number, "sync"))
            raise _os_error(number, "sync")


def _os_error(number: int, name: str) -> OSError:
    return OSError(number, os.strerror(number), name)


class MemoryReadFile:
    """A `ReadFile` in memory."""

    __slots__ = ("__weakref__", "_disk", "_inode", "_name", "_open")

    def __init__(self, disk: _Disk, inode: _Inode, name: str) -> None:
        self._disk = disk
        self._inode = inode
        self._name = name
        self._open = True

    def _content(self) -> _Inode:
        if not self._open:
            raise _os_error(errno.EBADF, self._name)
        return self._inode

    def pread(self, length: int, offset: int) -> bytes:
        """Return *length* bytes from *offset*, fewer only where the file ends."""
        content = self._content()
        if length < 0 or offset < 0:
            raise _os_error(errno.EINVAL, self._name)
        return bytes(content.visible[offset : offset + length])

    def size(self) -> int:
        """Return the file's length in bytes as it is now."""
        return len(self._content().visible)

    def map(self) -> memoryview:
        """Return a copy of the whole file."""
        return memoryview(bytes(self._content().visible))

    def window(self) -> None:
        """Return nothing: what is written later would not show in a copy."""
        self._content()

    def drop_cache(self) -> None:
        """Show what the disk has: after a sync that failed, that is not what was written."""
        self._content().drop_cache()

    def close(self) -> None:
        """Make every later call fail; a second time is nothing."""
        self._open = False


class MemoryWriteFile(MemoryReadFile):
    """A `WriteFile` in memory."""

    __slots__ = ()

    def pwrite(self, data: BytesLike, offset: int) -> int:
        """Write all of *data* at *offset*."""
        content, data = self._content(), bytes(data)
        if offset < 0:
            raise _os_error(errno.EINVAL, self._name)
        self._disk.journal.append(Operation("write", inode=content.number, offset=offset, data=data))
        content.write(data, offset)
        return len(data)

    def sync_data(self) -> None:
        """Make the content and the length durable."""
        content = self._content()
        try:
            self._disk.check_sync()
        except OSError:
            content.mark_clean()  # as systems do: the pages stay in the cache, nobody writes them again
            raise
        self._disk.journal.append(Operation("sync", inode=content.number))
        if not self._disk.lies:
            content.make_durable()

    def sync(self) -> None:
        """Make the content and the length durable."""
        self.sync_data()

    def truncate(self, size: int) -> None:
        """Cut the file to *size* bytes, or lengthen it with zeros."""
        content = self._content()
        if size < 0:
            raise _os_error(errno.EINVAL, self._name)
        self._disk.journal.append(Operation("truncate", inode=content.number, size=size))
        content.resize(size)

    def allocate(self, offset: int, length: int) -> bool:
        """Reserve zeros up to *offset* + *length*; False where the directory was made so."""
        content = self._content()
        if offset < 0 or length <= 0:
            raise _os_error(errno.EINVAL, self._name)
        if not self._disk.allocates:
            return False
        self._disk.journal.append(Operation("allocate", inode=content.number, offset=offset, size=length))
        content.lengthen(offset + length)
        return True


class MemoryFiles(Files):
    """A directory in memory; `beside` opens the same one again, as another process would."""

    def __init__(self, *, allocates: bool = True) -> None:
        """Start with an empty directory; with *allocates* false its file system cannot reserve space."""
        self._attach(_Disk(allocates=allocates))

    def _attach(self, disk: _Disk) -> None:
        self.directory = "memory"
        self._disk = disk
        self._open = True
        self._opened: WeakSet[MemoryReadFile] = WeakSet()

    @classmethod
    def _over(cls, disk: _Disk) -> Self:
        files = cls.__new__(cls)
        files._attach(disk)  # noqa: SLF001  (its own class)
        return files

    @property
    def failed_syncs(self) -> FailedSyncs:  # type: ignore[override] # nobody sets it
        """The syncs that failed, of all openers."""
        return self._disk.failed_syncs

    @property
    def journal(self) -> list[Operation]:
        """Every change since the directory was made, copied or crashed, in order, of all its openers."""
        return self._disk.journal

    def note(self, text: str) -> None:
        """Write into the journal what a caller was told, so that it has its place among the changes."""
        self._disk.journal.append(Operation("note", text))

    def beside(self) -> Self:
        """Open the same directory once more."""
        return self._over(self._disk)

    def copy(self) -> Self:
        """Return what is there after this process is killed: another directory, unlocked, with an empty journal."""
        disk = self._disk
        names, durable_names = dict(disk.names), dict(disk.durable_names)  # threads may go on meanwhile
        inodes = {id(inode): inode.copy() for each in (names, durable_names) for inode in each.values()}
        return self._over(
            _Disk(
                names={name: inodes[id(inode)] for name, inode in names.items()},
                folders=set(disk.folders),
                durable_names={name: inodes[id(inode)] for name, inode in durable_names.items()},
                durable_folders=set(disk.durable_folders),
                inodes=disk.inodes,
                allocates=disk.allocates,
            )
        )

    def crashed(self) -> Self:
        """Return what is there after a power cut that takes all that was not synced: another directory, unlocked."""
        disk = self._disk
        names = {
            name: _Inode(inode.number, bytes(inode.durable), bytes(inode.durable))
            for name, inode in tuple(disk.durable_names.items())
            if split_name(name)[0] in {"", *disk.durable_folders}
        }
        folders = disk.durable_folders
        return self._over(
            _Disk(names, set(folders), dict(names), set(folders), inodes=disk.inodes, allocates=disk.allocates)
        )

    def fail_next_sync(self, number: int = errno.EIO) -> None:
        """Let the next sync fail, of a file or a folder, and lose what it should have written.

        As on a real disk, that is still seen until the cache is dropped, and the sync after it succeeds without it.
        """
        self._disk.sync_error = number

    def lie_about_syncs(self) -> None:
        """From now on let every sync succeed and make nothing durable."""
        self._disk.lies = True

    def list(self, folder: str = "") -> FileNames:
        """Return the names in *folder*, sorted; a missing folder is empty."""
        self._check_open()
        check_folder(folder)
        if folder in self._disk.names:
            raise CorruptStoreError(folder, None, "something else", "a folder")
        parts = (split_name(name) for name in tuple(self._disk.names))
        return sorted(leaf for found, leaf in parts if found == folder)

    def exists(self, name: str) -> bool:
        """Whether the name is taken, by a file or a folder."""
        self._check_parent(name, must_exist=False)
        return name in self._disk.names or name in self._disk.folders

    def size(self, name: str) -> int:
        """Return the length in bytes of a file."""
        return len(self._find(name).visible)

    def open_read(self, name: str) -> MemoryReadFile:
        """Open a file that exists for reading."""
        file = MemoryReadFile(self._disk, self._find(name), name)
        self._opened.add(file)
        return file

    def open_write(self, name: str) -> MemoryWriteFile:
        """Open a file that exists for reading and writing."""
        return self._open_write(name, self._find(name))

    def create(self, name: str) -> MemoryWriteFile:
        """Make an empty file; a name that is taken is a `FileExistsError`."""
        self._check_parent(name)
        disk = self._disk
        if name in disk.names or name in disk.folders:
            raise _os_error(errno.EEXIST, name)
        disk.inodes += 1
        inode = disk.names[name] = _Inode(disk.inodes)
        disk.journal.append(Operation("create", name, inode=inode.number))
        return self._open_write(name, inode)

    def replace(self, source: str, target: str) -> None:
        """Rename at once and for every reader; durable only after `sync_folder`."""
        self._check_parent(source)
        self._check_parent(target)
        names = self._disk.names
        if source not in names:
            raise _os_error(errno.ENOENT, source)
        if target in self._disk.folders:
            raise _os_error(errno.EISDIR, target)
        self._disk.journal.append(Operation("replace", source, target))
        names[target] = names[source]
        if source != target:
            del names[source]

    def remove(self, name: str) -> bool:
        """Remove a file; False if there was none."""
        self._check_parent(name, must_exist=False)
        if name in self._disk.folders:
            raise _os_error(errno.EISDIR, name)
        if name not in self._disk.names:
            return False
        self._disk.journal.append(Operation("remove", name))
        del self._disk.names[name]
        return True

    def make_folder(self, name: str) -> None:
        """Make a folder, unless it is there."""
        self._check_open()
        if split_name(name)[0]:
            check_folder(name)
        if name in self._disk.names:
            raise CorruptStoreError(name, None, "something else", "a folder")
        if name not in self._disk.folders:
            self._disk.journal.append(Operation("make_folder", name))
            self._disk.folders.add(name)

    def sync_folder(self, name: str = "") -> None:
        """Make the names in a folder durable, in the directory itself by default."""
        self._check_open()
        check_folder(name)
        self._check_folder_there(name)
        disk = self._disk
        disk.check_sync()
        disk.journal.append(Operation("sync_folder", name))
        if disk.lies:
            return
        for known in tuple(disk.durable_names):
            if split_name(known)[0] == name:
                del disk.durable_names[known]
        disk.durable_names.update((known, inode) for known, inode in disk.names.items() if split_name(known)[0] == name)
        if not name:
            disk.durable_folders = set(disk.folders)

    def lock(self) -> None:
        """Become the one writer, or raise `StoreLockedError`."""
        self._check_open()
        if self._holder() is not None:
            raise locked_error(self)
        if not self.exists(LOCK_NAME):
            self.create(LOCK_NAME).close()
        self._disk.holder = ref(self)
        write_owner(self, None)

    def unlock(self) -> None:
        """Stop being the writer; nothing if this is not it."""
        if self._holder() is self:
            self.remove(OWNER_NAME)
            self._disk.holder = None

    def close(self) -> None:
        """Unlock; every later call of this opener fails, files that are open stay open."""
        self.unlock()
        self._open = False

    def abandon(self) -> None:
        """Close this opener and its files, but leave the lock as it is."""
        for file in tuple(self._opened):
            file.close()
        self._open = False

    def _holder(self) -> MemoryFiles | None:
        return None if self._disk.holder is None else self._disk.holder()

    def _open_write(self, name: str, inode: _Inode) -> MemoryWriteFile:
        file = MemoryWriteFile(self._disk, inode, name)
        self._opened.add(file)
        return file

    def _find(self, name: str) -> _Inode:
        self._check_parent(name)
        if name in self._disk.folders:
            raise CorruptStoreError(name, None, "a folder", "a regular file")
        inode = self._disk.names.get(name)
        if inode is None:
            raise _os_error(errno.ENOENT, name)
        return inode

    def _check_open(self) -> None:
        if not self._open:
            raise _os_error(errno.EBADF, self.directory)

    def _check_parent(self, name: str, *, must_exist: bool = True) -> None:
        self._check_open()
        folder = split_name(name)[0]
        if must_exist or folder in self._disk.names:
            self._check_folder_there(folder)

    def _check_folder_there(self, folder: str) -> None:
        if folder in self._disk.names:
            raise CorruptStoreError(folder, None, "something else", "a folder")
        if folder and folder not in self._disk.folders:
            raise _os_error(errno.ENOENT, folder)
