"""Calls that run beside a test on either event loop, and ways to look at how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from threading import Thread
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from batpak import Coordinate, EventKind, Store
from batpak.actors.messages import Append, AppendBatch, Command, Flight
from batpak.aio import AsyncStore
from batpak.aio.flight import Flights
from batpak.aio.places import Places

ORDER = Coordinate("order:42", "shop")
PLACED = EventKind(0x1, 0x001)
PATIENCE_SECONDS = 20.0


class Call:
    """A coroutine in a task of its own, which can be cancelled alone; its outcome is asked for by `outcome`."""

    def __init__(self, act: Callable[[], Awaitable[Any]]) -> None:
        self._act = act
        self._value: Any = None
        self._error: Exception | None = None
        self._done = anyio.Event()
        self.scope = anyio.CancelScope()

    async def run(self) -> None:
        with self.scope:
            try:
                self._value = await self._act()
            except Exception as error:
                self._error = error
        self._done.set()

    def cancel(self) -> Self:
        self.scope.cancel()
        return self

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    @property
    def was_cancelled(self) -> bool:
        return self.scope.cancelled_caught

    async def end(self) -> Self:
        with anyio.fail_after(PATIENCE_SECONDS):
            await self._done.wait()
        return self

    async def outcome(self) -> Any:
        await self.end()
        assert not self.was_cancelled
        if self._error is not None:
            raise self._error
        return self._value

    async def error(self) -> Exception:
        await self.end()
        assert self._error is not None, f"found {self._value!r}, expected an error"
        return self._error


class NativeCall(Call):
    """The same in a task of asyncio's own, which is cancelled as such."""

    def __init__(self, act: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(act)
        self._task = asyncio.ensure_future(self.run())
        self._task.add_done_callback(lambda _: self._done.set())

    def cancel(self) -> Self:
        self._task.cancel()
        return self

    @property
    def was_cancelled(self) -> bool:
        return self._task.done() and self._task.cancelled()


def start(tasks: TaskGroup, act: Callable[[], Awaitable[Any]], *, native: bool = False) -> Call:
    """Begin *act* in a task of *tasks*, or, for asyncio, in one of nobody's."""
    if native:
        return NativeCall(act)
    call = Call(act)
    tasks.start_soon(call.run)
    return call


def appending(store: AsyncStore, payload: Any, **options: Any) -> Callable[[], Awaitable[Any]]:
    """Return a call that appends *payload* to the one order."""
    return lambda: store.append(ORDER, PLACED, payload, **options)


async def until(condition: Callable[[], bool], waiting_for: str) -> None:
    """Let other tasks run until *condition* holds."""
    with anyio.move_on_after(PATIENCE_SECONDS):
        while not condition():
            await checkpoint()
        return
    raise AssertionError(f"found no {waiting_for} in {PATIENCE_SECONDS} s")


def flights(store: AsyncStore) -> Flights:
    """Return what carries the appends of this event loop."""
    return store._flights.get()


def accepted(store: AsyncStore) -> int:
    """Return how many appends have a place now."""
    return store._store._config.mailbox_capacity - flights(store)._places._free


async def until_accepted(store: AsyncStore, count: int) -> None:
    """Wait until *count* appends have a place."""
    await until(lambda: accepted(store) == count, f"{count} accepted appends")


async def until_written_to(store: AsyncStore) -> None:
    """Wait until a command lies in the mailbox of a writer that is held."""
    await until(lambda: bool(store._store._writer.mailbox.items), "command in the mailbox")


class Commands:
    """What a store's writer has been asked for, in order."""

    def __init__(self, store: Store) -> None:
        self.all: list[Command[Any]] = []
        asked = store._write

        def write(command: Command[Any], max_wait_seconds: float | None) -> Any:
            self.all.append(command)
            return asked(command, max_wait_seconds)

        store._write = write  # type: ignore[method-assign, assignment]

    @property
    def sizes(self) -> list[int]:
        """How many items travelled with each."""
        return [len(command.items) if isinstance(command, Flight) else 1 for command in self.all]

    @property
    def payloads(self) -> list[bytes]:
        """The payloads of all events, in order."""
        found: list[bytes] = []
        for command in self.all:
            for item in command.items if isinstance(command, Flight) else [command]:
                if isinstance(item, AppendBatch):
                    found += [each.payload for each in item.items]
                elif isinstance(item, Append):
                    found.append(item.payload)
        return found


def run_beside(act: Callable[[], Any]) -> Thread:
    """Start *act* in a thread."""
    thread = Thread(target=act, name="beside", daemon=True)
    thread.start()
    return thread


class NoThreads:
    """Holds every thread of appends and reads, so that nothing is begun until the end of the block."""

    def __init__(self, facade: AsyncStore) -> None:
        users = (flights(facade), facade._lookups.get(), facade._threads.get())
        self._tokens = [user._limiter._places for user in users]
        self._held: list[Places] = []

    def __enter__(self) -> Self:
        for tokens in self._tokens:
            while tokens.take_nowait():
                self._held.append(tokens)
        return self

    def __exit__(self, *_: object) -> None:
        for tokens in self._held:
            tokens.give()

    @property
    def count(self) -> int:
        """How many tasks wait for a thread."""
        return sum(len(tokens._waiting) for tokens in self._tokens)

    async def until(self, count: int) -> None:
        """Wait until so many tasks wait for a thread."""
        await until(lambda: self.count == count, f"{count} tasks that wait for a thread")


def waits_its_turn(facade: AsyncStore) -> bool:
    """Whether a gathering waits for those before it."""
    return bool(flights(facade)._queue)


async def assert_quiet(facade: AsyncStore) -> None:
    """Whatever still lands has landed; nothing is on its way then, and every place is free."""
    carried = flights(facade)
    with anyio.fail_after(PATIENCE_SECONDS):
        await carried.settle()
    assert (len(carried._queue), carried._aloft, accepted(facade)) == (0, 0, 0)
    assert carried._latest is None
    assert carried._newest is None
