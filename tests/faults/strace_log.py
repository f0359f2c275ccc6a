"""The changes that a real process made to a directory, read from a log of its system calls.

The process knows nothing of this. What it notes for us it writes to a descriptor that is in the same log, so that its
notes have their places between its changes, as those of a directory in memory have.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from batpak.testing.memory import Operation

TRACED = (
    "openat,mkdir,mkdirat,write,writev,pwrite64,pwritev,pwritev2,fallocate,ftruncate,fsync,fdatasync,sync_file_range,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,copy_file_range,sendfile"
)
_LINE = re.compile(r"(?P<pid>\d+) +(?:<\.\.\. \w+ resumed>(?P<rest>.*)|(?P<call>\w+)\((?P<arguments>.*))$")
_RESULT = re.compile(r"\)? += (?P<result>-?\d+|\?)[^=]*$")
_UNFINISHED = re.compile(r" <unfinished \.\.\.>$")
_DESCRIPTOR = re.compile(r"(?:\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_NUMBER = re.compile(r"(?<=, )(\d+)(?=[,)]|$)")


class Call(NamedTuple):
    """A system call that succeeded: its descriptors' paths, texts, numbers; the lines of its begin and end."""

    name: str
    paths: list[str]
    texts: list[bytes]
    numbers: list[int]
    body: str
    result: int
    begun: int
    ended: int


def strace_is_there() -> bool:
    return shutil.which("strace") is not None


def traced(command: Sequence[str], log: Path, descriptor: int) -> None:
    """Run *command*, which must end well, and write what it calls to *log*; it inherits *descriptor*."""
    subprocess.run(
        ["strace", "-f", "-qq", "-y", "-xx", "-s", "1000000", "-e", f"trace={TRACED}", "-o", str(log), *command],
        check=True,
        timeout=60,
        pass_fds=[descriptor],
    )


def read_log(log: Path, directory: Path, notes: Path) -> list[Operation]:
    """Return the changes to *directory* and what was written to *notes*, as they ended."""
    reader = _Reader(str(directory), str(notes))
    for call in _calls(log.read_text().splitlines()):
        reader.take(call)
    return reader.operations


def _calls(lines: Sequence[str]) -> Iterator[Call]:
    """Yield the calls that succeeded, as they ended; those of threads lie across each other."""
    waiting: dict[str, tuple[str, str, int]] = {}
    for at, line in enumerate(lines):
        found = _LINE.match(line)
        if found is None:
            continue  # a signal, or the end of a process
        if found["call"] is not None:
            name, arguments, begun = found["call"], found["arguments"], at
            if _UNFINISHED.search(arguments):
                waiting[found["pid"]] = name, _UNFINISHED.sub("", arguments), begun
                continue
        else:
            name, arguments, begun = waiting.pop(found["pid"])
            arguments += found["rest"]
        ended = _RESULT.search(arguments)
        assert ended is not None, line
        if ended["result"] == "?" or ended["result"].startswith("-"):
            continue
        body = arguments[: ended.start()]
        texts = _TEXT.findall(body)
        assert not any(cut for _, cut in texts), f"a text that was cut short: {line[:200]}"
        yield Call(
            name,
            [_decoded(path).decode() for path in _DESCRIPTOR.findall(body)],
            [_decoded(text) for text, _ in texts],
            [int(number) for number in _NUMBER.findall(_TEXT.sub("", body))],
            body,
            int(ended["result"]),
            begun,
            at,
        )


def _decoded(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


class _Reader:
    """Makes changes of calls."""

    def __init__(self, directory: str, notes: str) -> None:
        self._directory = directory
        self._notes = notes
        self._inodes: dict[str, int] = {}
        self._made: Counter[int] = Counter()
        self._ends: dict[int, list[int]] = {}
        self.operations: list[Operation] = []

    def take(self, call: Call) -> None:
        """Take in one call."""
        path = call.paths[0] if call.paths else ""
        if call.name in {"mkdir", "rename", "unlink", "link", "rmdir"}:
            assert not any(self._name(text.decode()) for text in call.texts), f"a change by its path: {call}"
        elif call.name in {"openat", "mkdirat", "unlinkat", "renameat", "renameat2", "linkat"}:
            self._names(call)
        elif path == self._notes:
            self._note(Operation("note", call.texts[0].decode()))
        elif (name := self._name(path)) is not None and not name.endswith(" (deleted)"):
            self._content(call, name)

    def _name(self, path: str) -> str | None:
        """Return a path within the directory, empty for the directory itself; None for others."""
        if path == self._directory:
            return ""
        return path.removeprefix(self._directory + "/") if path.startswith(self._directory + "/") else None

    def _names(self, call: Call) -> None:
        """Take in a call that changes names."""
        if not call.paths or self._name(call.paths[0]) is None:
            return
        first = self._name(f"{call.paths[0]}/{call.texts[0].decode()}") or ""
        match call.name:
            case "openat":
                assert "O_TRUNC" not in call.body, call
                if "O_CREAT" in call.body and first not in self._inodes:
                    self._inodes[first] = len(self._made) + 1
                    self._made[self._inodes[first]] += 1
                    self._note(Operation("create", first, inode=self._inodes[first]))
            case "mkdirat":
                self._note(Operation("make_folder", first))
            case "unlinkat":
                self._inodes.pop(first, None)
                self._note(Operation("remove", first))
            case "renameat" | "renameat2":
                second = self._name(f"{call.paths[1]}/{call.texts[1].decode()}") or ""
                self._inodes[second] = self._inodes.pop(first)
                self._note(Operation("replace", first, second))
            case _:
                raise AssertionError(call)

    def _content(self, call: Call, name: str) -> None:
        """Take in a call on a descriptor."""
        inode = self._inodes.get(name, 0)
        match call.name:
            case "pwrite64":
                data = call.texts[0][: call.result]
                self._change(Operation("write", inode=inode, data=data, offset=call.numbers[-1]), call)
            case "ftruncate":
                self._change(Operation("truncate", inode=inode, size=call.numbers[-1]), call)
            case "fallocate":
                offset, length = call.numbers[-2:]
                self._change(Operation("allocate", inode=inode, offset=offset, size=length), call)
            case "fsync" | "fdatasync" if inode:
                not_covered = sum(end > call.begun for end in self._ends.get(inode, ()))
                self._note(Operation("sync", inode=inode, size=not_covered))
            case "fsync":
                self._note(Operation("sync_folder", name))
            case _:
                raise AssertionError(f"a call that is not known: {call}")

    def _change(self, operation: Operation, call: Call) -> None:
        self._ends.setdefault(operation.inode, []).append(call.ended)
        self._note(operation)

    def _note(self, operation: Operation) -> None:
        self.operations.append(operation)
