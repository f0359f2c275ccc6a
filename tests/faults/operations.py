"""What happened to a directory, as a list of changes: taken from a directory in memory, played again in another.

The changes are those that `batpak.testing.memory` keeps; `tests.faults.strace_log` makes the same list of a real run.
Among them stand notes, in one order with the changes: what a caller was told, or was about to ask for. A note is
words with a space between them::

    issued N         the next call issues events up to global sequence N - 1, whole or not at all
    key HEX AT       the event at global sequence AT will have this idempotency key
    written N        receipts say that the events below N are written
    durable N        receipts say that the events below N are durable
    place NAME AT N  the place NAME is about to be moved to AT; it speaks of all events below N
    placed NAME AT   the place NAME has been moved to AT
    anchor N ...     an anchor of the events below N has been given out
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from batpak.testing.memory import MemoryFiles, MemoryWriteFile, Operation

SPOKEN_OF = {"issued": 1, "key": 2, "written": 1, "durable": 1, "place": 3, "placed": 2, "anchor": 1}
"""Which word of a note says how far it reaches."""


def watch(files: MemoryFiles, look: Callable[[], None]) -> None:
    """Have *look* called before each change to a directory."""

    class Watched(list[Operation]):
        def append(self, operation: Operation) -> None:
            look()
            super().append(operation)

    files._disk.journal = Watched(files.journal)


def of_memory(files: MemoryFiles) -> list[Operation]:
    """Return every change so far, without those of the lock and of its owner's note, which say nothing of events."""
    return without_lock(files.journal)


def without_lock(operations: Iterable[Operation]) -> list[Operation]:
    """Leave out the changes of the lock and of its owner's note."""
    passed_over: set[int] = set()
    kept = []
    for each in operations:
        if ".batpak." in each.name:
            passed_over.add(each.inode)
        elif not each.inode or each.inode not in passed_over:
            kept.append(each)
    return kept


def played(operations: Iterable[Operation]) -> MemoryFiles:
    """Return a directory to which all of that has happened: seen and durable as it was, the notes in their places."""
    files = MemoryFiles()
    opened: dict[int, MemoryWriteFile] = {}
    for each in operations:
        match each.action:
            case "create":
                opened[each.inode] = files.create(each.name)
            case "write":
                opened[each.inode].pwrite(each.data, each.offset)
            case "truncate":
                opened[each.inode].truncate(each.size)
            case "allocate":
                opened[each.inode].allocate(each.offset, each.size)
            case "sync":
                opened[each.inode].sync()
            case "replace":
                files.replace(each.name, each.target)
            case "remove":
                files.remove(each.name)
            case "make_folder":
                files.make_folder(each.name)
            case "sync_folder":
                files.sync_folder(each.name)
            case "note":
                files.note(each.name)
            case action:
                raise AssertionError(action)
    return files


def reaching(operations: Iterable[Operation], count: int) -> list[Operation]:
    """Leave out the notes that speak of more than the first *count* events: others take the places of those."""
    return [each for each in operations if each.action != "note" or _reach(each.name) <= count]


def _reach(note: str) -> int:
    words = note.split()
    last = int(words[SPOKEN_OF[words[0]]])
    return last + 1 if words[0] in {"key", "placed"} else last
