"""Both tables in SQLite behind a thread that writes: group commit, as a careful user of SQLite builds it.

Callers lay requests into a queue. The thread takes all that wait there as one transaction, and answers each: a
thread by its lock, the tasks of an event loop by one wake-up for all of the group.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import ClassVar, Self, TypeAlias

from benchmarks.events import Item
from benchmarks.rivals.fair import FairSqlite
from benchmarks.rivals.plain import PlainSqlite

MAX_GROUP = 1_024
"""Requests in one transaction, at most."""

Answer: TypeAlias = "int | bytes"
Table: TypeAlias = FairSqlite | PlainSqlite


class _Waiter:
    """A thread's request: its lock opens when the answer is there."""

    __slots__ = ("answer", "error", "item", "ready")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.ready = threading.Lock()
        self.ready.acquire()


@dataclass(slots=True)
class _Awaited:
    """A task's request."""

    item: Item
    future: asyncio.Future[Answer]


_Settled: TypeAlias = "tuple[asyncio.Future[Answer], Answer | BaseException]"


class _Actor:
    """A thread that owns a table, and the calls that hand it their events."""

    TABLE: ClassVar[type[FairSqlite | PlainSqlite]]

    def __init__(self, table: Table) -> None:
        self.table = table
        self._asked: SimpleQueue[_Waiter | _Awaited | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sqlite-actor")
        self._thread.start()

    @classmethod
    def open(cls, directory: Path, *, durable: bool = False) -> Self:
        """Open or make the table in *directory* and start its thread."""
        return cls(cls.TABLE.open(directory, durable=durable))

    def close(self) -> None:
        """Answer what waits, end the thread, close the file."""
        self._asked.put(None)
        self._thread.join()
        self.table.close()

    def settle(self) -> None:
        """Have the log at its full length, to be written over from its start."""
        self.table.settle()

    def append(self, item: Item) -> Answer | None:
        """Store one event, in one transaction with all that wait now; return its id."""
        request = _Waiter(item)
        self._asked.put(request)
        with request.ready:
            if request.error is not None:
                raise request.error
            return request.answer

    async def append_async(self, item: Item) -> Answer:
        """Store one event, as a task of an asyncio loop; return its id."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked.put(_Awaited(item, future))
        return await future

    def append_batch(self, items: Sequence[Item]) -> list[Answer]:
        """Store all of *items* or none, and return their ids; from the caller's own thread."""
        return [*self.table.append_batch(items)]

    def get(self, event_id: object) -> object:
        """Reads go to the table itself."""
        raise NotImplementedError

    def stream(self, entity: str) -> list[object]:
        """Reads go to the table itself."""
        raise NotImplementedError

    def replay(self) -> int:
        """Reads go to the table itself."""
        raise NotImplementedError

    def page(self, part: str, after: int, limit: int) -> list[object]:
        """Reads go to the table itself."""
        raise NotImplementedError

    def _run(self) -> None:
        """Store what is asked, group by group, until the end is announced."""
        going = True
        while going:
            group: list[_Waiter | _Awaited] = []
            request = self._asked.get()
            try:
                while request is not None and len(group) < MAX_GROUP:
                    group.append(request)
                    request = self._asked.get_nowait()
            except Empty:
                pass
            else:
                if request is not None:  # the group is full with it
                    group.append(request)
                going = request is not None
            if group:
                self._store(group)

    def _store(self, group: list[_Waiter | _Awaited]) -> None:
        """Store a group as one transaction and answer each of it."""
        answers: Sequence[Answer | BaseException]
        try:
            answers = self.table.append_batch([request.item for request in group])
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            answers = [error] * len(group)
        loops: dict[asyncio.AbstractEventLoop, list[_Settled]] = {}
        for request, answer in zip(group, answers, strict=True):
            if isinstance(request, _Awaited):
                loops.setdefault(request.future.get_loop(), []).append((request.future, answer))
            else:
                if isinstance(answer, BaseException):
                    request.error = answer
                else:
                    request.answer = answer
                request.ready.release()
        for loop, settled in loops.items():
            loop.call_soon_threadsafe(_settle, settled)


def _settle(settled: list[_Settled]) -> None:
    """Give each task its answer; runs on their loop."""
    for future, answer in settled:
        if future.cancelled():
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class FairActor(_Actor):
    """The fair table behind its writer."""

    TABLE = FairSqlite
    HOW: ClassVar[str] = (
        "the fair table behind one writing thread: callers queue, all that waits is one transaction, threads are "
        "answered by a lock each, an event loop by one wake-up for its part of the group"
    )


class PlainActor(_Actor):
    """The plain table behind its writer."""

    TABLE = PlainSqlite
    HOW: ClassVar[str] = "the plain table behind the same writing thread"
