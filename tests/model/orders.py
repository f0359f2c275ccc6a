"""Every order in which calls can overlap: each call is a task that runs only when it is stepped, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock, Thread, current_thread

import pytest

PATIENCE_SECONDS = 60.0
Choose = Callable[[int], int]


class Task(Thread):
    """A call in a thread of its own, which moves only within `step`: to the next pause, or to its end."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(name="task", daemon=True)
        self._call = call
        self._mine, self._yours = Lock(), Lock()
        self._mine.acquire()
        self._yours.acquire()
        self.answer: object = None
        self.ended = False
        self.start()

    def step(self) -> None:
        self._mine.release()
        assert self._yours.acquire(timeout=PATIENCE_SECONDS), "a task waits for one that is not being stepped"
        if self.ended:
            self.join()

    def pause(self) -> None:
        self._yours.release()
        self._mine.acquire()

    def run(self) -> None:
        self._mine.acquire()
        try:
            self.answer = self._call()
        except Exception as error:
            self.answer = error
        self.ended = True
        self._yours.release()


def pause() -> None:
    """Let the other tasks move, if this is one."""
    task = current_thread()
    if isinstance(task, Task):
        task.pause()


def pause_before(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, name: str | None = None) -> None:
    """Pause each time that *method* is called, of the actor *name* alone if that is given."""
    plain = getattr(owner, method)

    def paused(self: object, *args: object) -> object:
        if name is None or getattr(self, "name", None) == name:
            pause()
        return plain(self, *args)

    monkeypatch.setattr(owner, method, paused)


def run_all(tasks: Sequence[Task], choose: Choose) -> None:
    """Step *tasks*, in the order that *choose* gives, until all have ended."""
    while moving := [task for task in tasks if not task.ended]:
        moving[choose(len(moving))].step()


def every_order(scene: Callable[[Choose], None]) -> int:
    """Play *scene* once for each sequence of choices that it can make; how many there were."""
    ahead: list[int] = []
    count = 0
    while True:
        taken: list[tuple[int, int]] = []

        def choose(width: int) -> int:
            choice = ahead[len(taken)] if len(taken) < len(ahead) else 0  # noqa: B023 - it does not outlive its round
            taken.append((choice, width))  # noqa: B023
            return choice

        scene(choose)
        count += 1
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return count
        ahead = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]
