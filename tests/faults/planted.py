"""Bugs to be planted: a passage of a method changed in its own source, so that product code has no switches.

A plant changes with the code, or says that it cannot.
"""

from __future__ import annotations
import __future__

import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from batpak.actors.driver import Driver
from batpak.actors.gate import Gate
from batpak.actors.index import Index
from batpak.actors.journal import Journal
from batpak.actors.writer import Writer
from batpak.delivery.course import Course
from batpak.delivery.places import HeldPlace
from batpak.storage.pool import SegmentPool
from batpak.storage.recovery import Scan
from batpak.storage.scan import Walk
from batpak.verify import ChainCheck, WholeCheck


@dataclass(frozen=True)
class Change:
    """Passages of a method, and what stands there instead."""

    owner: type
    method: str
    passages: tuple[tuple[str, str], ...]

    def made(self) -> Any:
        """Return the method with the passages changed."""
        source = inspect.getsource(self.owner.__dict__[self.method])
        for passage, instead in self.passages:
            found = source.count(passage)
            assert found == 1, f"found {passage!r} {found} times in {self.owner.__name__}.{self.method}, expected once"
            source = source.replace(passage, instead)
        namespace: dict[str, Any] = {}
        flags = __future__.annotations.compiler_flag
        code = compile(textwrap.dedent(source), f"<{self.method}, changed>", "exec", flags=flags)
        exec(code, sys.modules[self.owner.__module__].__dict__, namespace)
        return namespace[self.method]


@dataclass(frozen=True)
class Put:
    """An attribute of a class, and what stands there instead."""

    owner: type
    method: str
    value: object

    def made(self) -> object:
        """Return what stands there instead."""
        return self.value


@contextmanager
def planted(changes: Sequence[Change | Put]) -> Iterator[None]:
    """Have *changes* in place."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(patch.object(change.owner, change.method, change.made()))
        yield


def change(owner: type, method: str, *texts: str) -> Change:
    """Return a change of one method: a passage, what stands there instead, the next passage, and so on."""
    return Change(owner, method, tuple(zip(texts[::2], texts[1::2], strict=True)))


POWER_CUTS = {
    "no fsync": [change(Gate, "sync_device", "written.file.sync_data()", "pass")],
    "no directory fsync": [change(Journal, "_write_header", "self._files.sync_folder()", "pass")],
    "durable answer before the fsync": [  # the next answer's fsync is this one's
        change(
            Gate,
            "cover",
            "        while self.durable < ticket:\n",
            "        self.late, ticket = ticket, getattr(self, 'late', 0)\n        while self.durable < ticket:\n",
        )
    ],
    "old segment not synced at rotation": [change(Journal, "rotate", "gate.sync_device()", "pass")],
    "published before it is written": [
        change(
            Writer,
            "_write",
            "journal.write(data, start)\n",
            "self._publish(decision, decision.records, start + len(data))\n        journal.write(data, start)\n",
        )
    ],
    "place saved before its handler ran": [
        change(
            Course,
            "_serve",
            "            while done < len(events)",
            "            if events:\n                yield Commit(events[-1])\n            while done < len(events)",
        )
    ],
    "place ahead of the fsync": [change(HeldPlace, "_save", "store._cover_everything()", "pass")],
    "watermark ahead of the fsync": [
        change(
            Gate,
            "sync_device",
            "            if written.file is not None:\n",
            "            self._remember(written)\n            if written.file is not None:\n",
        )
    ],
    "index run ahead of the fsync": [change(Index, "_persist", "self.cover(tail.last_sequence + 1)", "pass")],
}
"""What a kill or a power cut shows."""

FAILED_SYNCS: dict[str, list[Change | Put]] = {"fsync retried": [Put(Gate, "poison", property(lambda _: None))]}
"""What a sync that fails once and works again shows."""

FLIPS = {
    "cut at the first bad frame below the durable position": [
        change(Scan, "_judge_last", "        if bound <= self.end:\n", "        if True:\n"),
        change(Scan, "_check_durable", "        if durable is None or", "        if True or durable is None or"),
    ],
    "CRC skipped": [
        change(Walk, "_frame", "meta.checksum(body) != crc", "False"),
        change(
            SegmentPool,
            "_load",
            "unpack(data, at) != (len(body), checksum(body, seed))",
            "unpack(data, at)[0] != len(body)",
        ),
    ],
}
"""What a flipped bit shows."""

EDITS = {
    "hash ignored": [
        change(
            ChainCheck,
            "add",
            *("if not sound:", "if False:"),
            *("elif before is None or before[1] != frame.prev_hash:", "elif False:"),
        ),
        change(WholeCheck, "_end_segment", "self._altered.append(self._segment)", "pass"),
    ],
}
"""What an edit shows whose checksum is right."""

MEETINGS = {
    "wake-up lost between caller and actor": [
        change(
            Driver,
            "_step",
            "            if pause is None:\n",
            "            mailbox.bell.acquire(blocking=False)\n            if pause is None:\n",
        )
    ],
}
"""What the orders show in which a caller and an actor's thread can meet."""
