"""Threads are kept for a while, used again, and never lost sight of what they were given."""

from __future__ import annotations

import os
from contextvars import ContextVar
from queue import SimpleQueue
from threading import Thread, current_thread, get_ident

import pytest

from batpak.aio import threads
from tests.aio.calls import PATIENCE_SECONDS


class Done:
    """What threads have done, as they tell of it."""

    def __init__(self) -> None:
        self._told: SimpleQueue[tuple[str, int]] = SimpleQueue()

    def start(self, name: str) -> None:
        threads.start(
            lambda: self._told.put((name, get_ident())), lambda: self._told.put((f"{name}'s end", get_ident()))
        )

    def take(self, count: int) -> list[tuple[str, int]]:
        return [self._told.get(timeout=PATIENCE_SECONDS) for _ in range(count)]


@pytest.fixture
def nobody_idle(monkeypatch: pytest.MonkeyPatch) -> dict[object, None]:
    idle: dict[object, None] = {}
    monkeypatch.setattr(threads, "_idle", idle)
    return idle


def test_a_thread_does_one_thing_after_the_other(nobody_idle: dict[object, None]) -> None:
    done = Done()
    seen = set()
    for number in range(20):
        done.start(str(number))
        (act, thread), (deliver, same) = done.take(2)
        assert (act, deliver) == (f"{number}", f"{number}'s end")
        assert thread == same != get_ident()
        seen.add(thread)
    assert len(seen) == len(nobody_idle) == 1


def test_while_one_is_busy_another_one_goes(nobody_idle: dict[object, None]) -> None:
    busy: SimpleQueue[None] = SimpleQueue()
    ended: SimpleQueue[None] = SimpleQueue()
    threads.start(lambda: busy.get(timeout=PATIENCE_SECONDS), lambda: ended.put(None))
    done = Done()
    done.start("other")
    assert [name for name, _ in done.take(2)] == ["other", "other's end"]
    busy.put(None)
    ended.get(timeout=PATIENCE_SECONDS)
    assert len(nobody_idle) == 2


def test_one_that_waits_in_vain_ends(nobody_idle: dict[object, None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.001)
    found: SimpleQueue[Thread] = SimpleQueue()
    for _ in range(3):
        threads.start(lambda: found.put(current_thread()), lambda: None)
        thread = found.get(timeout=PATIENCE_SECONDS)
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    assert nobody_idle == {}


def test_what_is_given_to_one_that_is_about_to_end_is_done(
    nobody_idle: dict[object, None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.0)
    done = Done()
    for number in range(500):
        done.start(str(number))
    assert {name for name, _ in done.take(1_000)} >= {str(number) for number in range(500)}
    del nobody_idle


def test_a_new_thread_has_nobodys_context(nobody_idle: dict[object, None]) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    request.set("mine")
    seen: SimpleQueue[str] = SimpleQueue()
    threads.start(lambda: seen.put(request.get()), lambda: None)
    assert seen.get(timeout=PATIENCE_SECONDS) == "none"
    del nobody_idle


@pytest.mark.usefixtures("nobody_idle")
def test_a_thread_that_is_refused_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refuse)
    done: list[int] = []
    with pytest.raises(RuntimeError):
        threads.start(lambda: done.append(1), lambda: done.append(2))
    assert done == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_begins_with_threads_of_its_own() -> None:
    done = Done()
    done.start("parent")
    done.take(2)
    assert threads._idle
    child = os.fork()
    if child == 0:
        status = 1
        try:
            done.start("child")
            status = 0 if [name for name, _ in done.take(2)] == ["child", "child's end"] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
