"""Iterating over a journal without keeping the event loop: one offload for each block of events."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import islice
from threading import Lock
from typing import Self, TypeAlias

from batpak.event import StoredEvent
from batpak.reading import FIRST_BLOCK, READ_AHEAD

Offload: TypeAlias = Callable[[Callable[[], None]], Awaitable[None]]


class AsyncEvents(AsyncIterator[StoredEvent]):
    """Events to iterate over with ``async for``; what `AsyncStore.read` returns.

    A block of up to 256 events is read at a time, by a thread. Cancelled while that happens, an iteration can go on
    where it was: no event is lost. Nothing has to be closed; `aclose`, or ``async with``, ends it early.
    """

    def __init__(self, begin: Callable[[], Iterator[StoredEvent]], offload: Offload) -> None:
        """Iterate over what *begin* returns, which is called by a thread as well."""
        self._begin = begin
        self._offload = offload
        self._lock = Lock()
        self._source: Iterator[StoredEvent] | None = None
        self._block: deque[StoredEvent] = deque()
        self._size = FIRST_BLOCK
        self._error: Exception | None = None
        self._ended = False
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoredEvent:
        while self._closed or not self._block:
            error, self._error = self._error, None
            if error is not None:
                raise error
            if self._ended or self._closed:
                raise StopAsyncIteration
            await self._offload(self._read_block)
        return self._block.popleft()

    async def aclose(self) -> None:
        """End the iteration; a thread that is reading a block finishes it for nobody. Idempotent."""
        self._closed = True
        self._block = deque()
        self._source = self._error = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _read_block(self) -> None:
        """Read the next block, unless somebody who was cancelled has had it read; in a thread."""
        with self._lock:
            if self._block or self._ended or self._closed:
                return
            try:
                source = self._source or self._begin()
                block = deque(islice(source, self._size))
            except Exception as error:  # noqa: BLE001 - kept, in case that nobody waits for it any more
                self._error = error
                self._ended = True
                return
            self._ended = len(block) < self._size
            self._size = READ_AHEAD
            self._source, self._block = source, block
