"""What only trio needs; imported where trio runs."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from trio.lowlevel import Abort, Task, checkpoint, current_task, reschedule, wait_task_rescheduled


class TrioSignal:
    """What one task of trio waits for, once: as much of an `asyncio.Future` as that takes."""

    __slots__ = ("_done", "_task")

    def __init__(self) -> None:
        """Begin with nobody who waits."""
        self._done = False
        self._task: Task | None = None

    def done(self) -> bool:
        """Whether it has come, or nobody waits for it any more."""
        return self._done

    def set_result(self, result: None, /) -> None:
        """Let it come."""
        self._done = True
        if self._task is not None:
            reschedule(self._task)
        return result

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        """Wait for it."""
        if self._done:
            await checkpoint()
        else:
            self._task = current_task()
            await wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> Abort:
        """Wait no longer: cancelled."""
        self._done = True
        return Abort.SUCCEEDED
