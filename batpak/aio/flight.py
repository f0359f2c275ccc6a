"""Appends that are awaited at the same time travel together: one thread's journey for all, an outcome for each.

::

    append --> is a gathering open? --yes--> join it; wait for its outcome
                    |
                    no
                    v
               open one; when the one before it is written, it departs: one of its riders awaits `anyio.to_thread`
               --> [thread: close it, write, answer, fsync if asked] --> it has landed; wake the other riders

A gathering stays open until its thread begins, so whoever comes while others are being written joins it. An append
that nobody joins costs one offload and no more. Whoever is cancelled waits no longer (``journey.py`` says who carries
its gathering then); what nobody waits for any more, and no thread has begun, is taken back. A thread that has begun
goes on, and the next gathering waits until it has written. So the appends of one event loop are written in the order
in which they were awaited, whoever was cancelled.
"""

from __future__ import annotations

import sys
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Final, TypeVar

from anyio import Event
from anyio.lowlevel import checkpoint

from batpak.actors.messages import Append, AppendBatch, Command
from batpak.aio.errand import insist
from batpak.aio.gathering import Gathering
from batpak.aio.loops import running_loop, signals_of
from batpak.aio.places import Places, Tokens
from batpak.clock import worked_seconds
from batpak.errors import BackpressureError, StoreClosedError
from batpak.log import DEBUG
from batpak.receipt import Receipt

if TYPE_CHECKING:
    from batpak.aio.loops import Post
    from batpak.store import Store

T = TypeVar("T", Receipt, list[Receipt])

MAX_ALOFT: Final = 8
"""How many gatherings have a thread: one writes, the others wait for an fsync. With fewer, an append that is not
durable would wait for fsyncs; with more, threads would pile up behind a disk that hangs."""
MAX_ON_LOOP: Final = 32
"""How many appends run on the event loop's own thread before other tasks get their turn: a third of a millisecond."""
MAX_STAY: Final = 4_096
MAX_STAY_SECONDS: Final = 0.02
"""How many run there, and for how much of a processor's time, where the turn of others takes long: an event loop that
looks for them lets go of the interpreter lock, which busy threads give back after the switch interval of each (5 ms).
So appends stay twice as long as that took, or they would do little but wait."""


class Flights:
    """The appends of one facade on one event loop.

    *queue* has the gatherings that wait for the one before them, *latest* is the last that has left, *newest* the one
    that may still be open.
    """

    def __init__(self, store: Store, post: Post) -> None:
        """Write to *store*; *post* reaches the event loop."""
        config = store._config
        self._store = store
        self._log = store._log
        self._post = post
        self._places = Places(config.mailbox_capacity)
        self._limiter = Tokens(MAX_ALOFT)
        self._signal = signals_of(running_loop())
        self._max_bytes = config.max_batch_bytes
        self._retry_after_seconds = config.slow_command_seconds
        self._on_loop = config.append_on_loop
        self._clock = config.clock
        self._stayed = 0
        self._stay_until = 0.0
        self._closing = False
        self._queue: deque[Gathering] = deque()
        self._latest: Gathering | None = None
        self._newest: Gathering | None = None
        self._aloft = 0
        self._emptied: Event | None = None

    async def append(self, command: Command[T], max_wait_seconds: float | None, *, durable: bool) -> T:
        """Have *command* written, and covered by an fsync if *durable*; its answer, or its error raised.

        Waits at most *max_wait_seconds* for a place. Cancelled, it waits no longer; the write may still happen.
        """
        if self._closing:
            raise StoreClosedError
        if self._on_loop and not durable and await self._may_stay():
            return self._store._write(command, max_wait_seconds)
        if not self._places.take_nowait():
            await self._wait_for_place(max_wait_seconds)
        item: Append | AppendBatch = command  # type: ignore[assignment] # the two whose answer is of type T
        context = copy_context() if self._log.passes(DEBUG) else None
        gathering = self._newest
        seat = None if gathering is None else gathering.join(item, context, self._max_bytes, durable=durable)
        if gathering is None or seat is None:
            gathering, seat = self._open(max_wait_seconds), 0
            gathering.join(item, context, self._max_bytes, durable=durable)
            self._advance()
        while not gathering.landed and (durable or gathering.outcomes is None):
            if gathering.is_uncarried():
                if not durable:
                    gathering.spare_fsync()
                await gathering.carry(self._limiter, self._post, self._land)
            else:
                signals = gathering.for_sync if durable else gathering.waiting
                await gathering.wait(self._signal(), signals, self._land)
        return gathering.take(seat)  # type: ignore[return-value] # of the item that took this seat

    async def settle(self) -> None:
        """Wait until nothing is on its way, whatever cancels; a cancellation is raised after that."""
        cancelled = await insist(self._wait_until_empty)
        if cancelled is not None:
            raise cancelled

    async def close(self) -> BaseException | None:
        """Refuse what comes from now on and wait for what is on its way; a cancellation, to be raised later."""
        if not self._closing:
            self._closing = True
            self._places.give(sys.maxsize)  # whoever waits for one looks, and finds it closed
        return await insist(self._wait_until_empty)

    # Getting in --------------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        """Refuse after `close`."""
        if self._closing:
            raise StoreClosedError

    async def _wait_for_place(self, max_wait_seconds: float | None) -> None:
        """Take a place, waiting until there is one."""
        taken = await self._places.take(max_wait_seconds)
        self._require_open()
        if not taken:
            raise BackpressureError(retry_after_seconds=max(self._retry_after_seconds, max_wait_seconds or 0.0))

    async def _may_stay(self) -> bool:
        """Whether an append may run here, on the event loop's own thread; lets other tasks run now and then."""
        self._stayed += 1
        if not self._stayed % MAX_ON_LOOP and (self._stayed >= MAX_STAY or worked_seconds() >= self._stay_until):
            self._stayed = 0
            await self._give_way()
            self._require_open()
        return not self._queue and self._is_written() and self._store._is_free()

    async def _give_way(self) -> None:
        """Let other tasks run; where the interpreter is other threads' meanwhile, stay the longer behind it."""
        began, worked_before = self._clock.monotonic(), worked_seconds()
        await checkpoint()
        taken, worked = self._clock.monotonic() - began, worked_seconds()
        waited = taken - (worked - worked_before)
        self._stay_until = worked + min(2 * waited, MAX_STAY_SECONDS)

    # Gatherings --------------------------------------------------------------------------------------------------

    def _open(self, max_wait_seconds: float | None) -> Gathering:
        """Open a gathering behind all others."""
        gathering = Gathering(self._store, self._post, self._written, max_wait_seconds)
        self._queue.append(gathering)
        self._newest = gathering
        if self._latest is not None:
            self._latest.watch()
        return gathering

    def _advance(self) -> None:
        """Let the gathering go whose turn it is; wake whoever waits for the end of all."""
        while self._queue and self._aloft < MAX_ALOFT and self._is_written():
            self._depart(self._queue.popleft())
        if not self._queue and not self._aloft and self._emptied is not None:
            self._emptied.set()

    def _is_written(self) -> bool:
        """Whether everything that has departed is written."""
        return self._latest is None or self._latest.outcomes is not None

    def _depart(self, gathering: Gathering) -> None:
        """Have *gathering* carried; the next one wants to know when it is written."""
        self._latest = gathering
        self._aloft += 1
        if self._queue:
            gathering.watch()
        gathering.depart()

    def _written(self, gathering: Gathering) -> None:
        """Answer those who wait for no fsync, and let the next one go."""
        gathering.wake()
        self._advance()

    def _land(self, gathering: Gathering) -> None:
        """Note that no more will come of *gathering*, and let the next one go."""
        gathering.forget()
        if gathering.departed:
            self._aloft -= 1
        else:
            self._queue.remove(gathering)
        if self._latest is gathering:
            self._latest = None
        if self._newest is gathering:
            self._newest = None
        gathering.wake()
        self._places.give(len(gathering.items))
        self._advance()

    async def _wait_until_empty(self) -> None:
        """Wait until nothing is on its way."""
        while self._queue or self._aloft:
            if self._emptied is None or self._emptied.is_set():
                self._emptied = Event()
            await self._emptied.wait()
