"""Appends that are awaited at the same time travel together: one offload for all, an outcome for each.

::

    append --> is a gathering open? --yes--> join it; wait for its event
                    |
                    no
                    v
               open one and be its pilot: wait until the one before it is written, then send a thread
               --> [thread: close it, write, answer, fsync if asked] --> it has landed; wake its riders

A gathering stays open until its thread begins, so whoever comes while others are being written joins it. The pilot is
its first task and carries it alone: no task works for others for ever, and an append that nobody joins costs one
offload and no more. A pilot that is cancelled hands over to a rider, or takes everything back where nobody waits any
more; a thread that has begun goes on, and the next gathering waits until it has written. So the appends of one event
loop are written in the order in which they were awaited, whoever was cancelled.
"""

from __future__ import annotations

import sys
from collections import deque
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar, cast

from anyio import CapacityLimiter, Event, to_thread
from anyio.lowlevel import checkpoint

from batpak.actors.messages import Append, AppendBatch, Command
from batpak.aio.errand import Errand, insist, no_thread
from batpak.aio.gathering import Gathering
from batpak.aio.places import Places
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


class Flights:
    """The appends of one facade on one event loop.

    *queue* has the gatherings that wait for the one before them, *latest* is the last that has left, *newest* the one
    that may still be open.
    """

    def __init__(self, store: Store, post: Post) -> None:
        """Write to *store*; *post* reaches the event loop."""
        config = store._config
        self._store = store
        self._post = post
        self._places = Places(config.mailbox_capacity)
        self._limiter = CapacityLimiter(MAX_ALOFT)
        self._max_bytes = config.max_batch_bytes
        self._retry_after_seconds = config.slow_command_seconds
        self._on_loop = config.append_on_loop
        self._stayed = 0
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
        self._require_open()
        if self._on_loop and not durable and await self._may_stay():
            return self._store._write(command, max_wait_seconds)
        if not self._places.take_nowait():
            await self._wait_for_place(max_wait_seconds)
        item = cast("Append | AppendBatch", command)
        context = copy_context() if self._store._log.passes(DEBUG) else None
        gathering = self._newest
        seat = None if gathering is None else gathering.join(item, context, self._max_bytes, durable=durable)
        if gathering is None or seat is None:
            gathering, seat = self._open(max_wait_seconds), 0
            gathering.join(item, context, self._max_bytes, durable=durable)
            await self._pilot(gathering)
        else:
            await self._ride(gathering, durable=durable)
        return cast("T", gathering.take(seat))

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
        if self._stayed >= MAX_ON_LOOP:
            self._stayed = 0
            await checkpoint()
            self._require_open()
        return not self._queue and self._is_written() and self._store._is_free()

    # Gatherings --------------------------------------------------------------------------------------------------

    def _open(self, max_wait_seconds: float | None) -> Gathering:
        """Open a gathering behind all others."""
        gathering = Gathering(self._store, self._post, self._written, max_wait_seconds)
        self._queue.append(gathering)
        self._newest = gathering
        if self._latest is not None:
            self._latest.watch()
        return gathering

    async def _ride(self, gathering: Gathering, *, durable: bool) -> None:
        """Wait for an outcome; take over where the pilot is gone."""
        gathering.riders += 1
        try:
            while not gathering.is_answered(durable=durable):
                if gathering.pilotless:
                    gathering.pilotless = False
                    await self._pilot(gathering)
                else:
                    if gathering.changed is None:
                        gathering.changed = Event()
                    await gathering.changed.wait()
        finally:
            gathering.riders -= 1
            if gathering.pilotless and not gathering.riders:
                self._land(gathering)

    async def _pilot(self, gathering: Gathering) -> None:
        """See *gathering* through; cancelled, leave it to its thread, to a rider, or to nobody, unwritten."""
        try:
            if not gathering.departed:
                if not self._may_depart(gathering):
                    gathering.go = Event()
                    await gathering.go.wait()
                self._depart(gathering)
            gathering.errand = Errand(gathering.fly, self._post)
            await to_thread.run_sync(gathering.errand.run, abandon_on_cancel=True, limiter=self._limiter)
        except Exception as error:  # noqa: BLE001 - a thread that cannot be had is told to everybody who waits
            gathering.refuse(no_thread(error))
        except BaseException:
            self._forsake(gathering)
            raise
        self._land(gathering)

    def _forsake(self, gathering: Gathering) -> None:
        """Leave *gathering* without its pilot."""
        errand, gathering.errand = gathering.errand, None
        if errand is not None and not errand.withdraw():
            if not errand.leave(partial(self._land, gathering)):
                self._land(gathering)
        elif gathering.riders:
            gathering.pilotless = True
            gathering.stir()
        else:
            self._land(gathering)

    def _may_depart(self, gathering: Gathering) -> bool:
        """Whether it is *gathering*'s turn."""
        return self._queue[0] is gathering and self._is_written() and self._aloft < MAX_ALOFT

    def _is_written(self) -> bool:
        """Whether everything that has departed is written."""
        return self._latest is None or self._latest.outcomes is not None

    def _depart(self, gathering: Gathering) -> None:
        """Let *gathering* go; the next one wants to know when it is written."""
        self._queue.popleft()
        self._latest = gathering
        self._aloft += 1
        gathering.departed = True
        if self._queue:
            gathering.watch()

    def _written(self, gathering: Gathering) -> None:
        """Answer those who wait for no fsync, and let the next one go."""
        gathering.stir()
        self._advance()

    def _land(self, gathering: Gathering) -> None:
        """Note that no more will come of *gathering*: it is done, or was never begun."""
        if gathering.landed:
            return
        gathering.landed = True
        if gathering.departed:
            self._aloft -= 1
        else:
            self._queue.remove(gathering)
        if self._latest is gathering:
            self._latest = None
        if self._newest is gathering:
            self._newest = None
        if gathering.changed is not None:
            gathering.changed.set()
        self._places.give(len(gathering.items))
        self._advance()

    def _advance(self) -> None:
        """Wake the pilot whose turn it is, and whoever waits for the end of all."""
        if self._queue:
            first = self._queue[0]
            if first.go is not None and self._may_depart(first):
                first.go.set()
        elif not self._aloft and self._emptied is not None:
            self._emptied.set()

    async def _wait_until_empty(self) -> None:
        """Wait until nothing is on its way."""
        while self._queue or self._aloft:
            if self._emptied is None or self._emptied.is_set():
                self._emptied = Event()
            await self._emptied.wait()
