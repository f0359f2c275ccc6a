"""Threads that do what a coroutine waits for, kept for a while when they have nothing to do.

`anyio.to_thread` does more than we need: with a lock for each thread and nothing else, a way there and back takes a
quarter less. What runs user code goes by `anyio.to_thread` all the same, for its ways back into the event loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import Context
from threading import Lock, Thread
from typing import Final, TypeAlias

Act: TypeAlias = Callable[[], object]

IDLE_SECONDS: Final = 10.0
"""How long a thread waits for more to do before it ends."""

_idle: dict[_Worker, None] = {}  # whoever takes one out has it alone; the one that was busy last is the first to go


class _Worker:
    """One thread, and what it is to do next."""

    __slots__ = ("_bell", "_job")

    def __init__(self) -> None:
        self._bell = Lock()
        self._bell.acquire()
        self._job: tuple[Act, Act] | None = None

    def give(self, act: Act, deliver: Act) -> None:
        """Hand over what is to be done, to one that is new or was idle."""
        self._job = (act, deliver)
        self._bell.release()

    def run(self) -> None:
        """Be the thread."""
        while True:
            if not self._bell.acquire(timeout=IDLE_SECONDS):
                try:
                    del _idle[self]
                except KeyError:
                    continue  # something is being handed over
                return
            job, self._job = self._job, None
            assert job is not None, "the bell rings behind the job"
            act, deliver = job
            act()
            _idle[self] = None  # before anybody can come with the next thing to do
            deliver()
            del job, act, deliver


def start(act: Act, deliver: Act) -> None:
    """Have a thread do *act* and then *deliver*, which must not raise; `RuntimeError` where there is no thread.

    Never waits for one: who has a limit counts for himself.
    """
    try:
        worker, _ = _idle.popitem()
    except KeyError:
        worker = _Worker()
        worker.give(act, deliver)  # before it starts: it does not begin with nothing to do, whatever interrupts this
        thread = Thread(target=worker.run, name="event-loop-errands", daemon=True)
        Context().run(thread.start)  # its context is nobody's
    else:
        worker.give(act, deliver)


os.register_at_fork(after_in_child=_idle.clear)
