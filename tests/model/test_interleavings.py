"""All orders in which a batch and a read, and two appends and a close, can overlap; each has a legal outcome."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from batpak import reading
from batpak.actors.driver import Driver
from batpak.actors.gate import Gate
from batpak.actors.index import Index
from batpak.actors.journal import Journal
from batpak.actors.messages import Publish
from batpak.actors.system import System
from batpak.actors.writer import Writer
from batpak.config import StoreConfig
from batpak.coordinate import Coordinate
from batpak.errors import StoreClosedError
from batpak.event import NewEvent
from batpak.kind import EventKind
from batpak.receipt import Receipt
from batpak.storage.tail import Tail
from batpak.store import Store
from batpak.testing.clock import HandClock
from batpak.testing.memory import MemoryFiles
from batpak.testing.stepped import SteppedDriver, SteppedDrivers
from tests.model.orders import Choose, Task, every_order, pause_before, run_all

HERE = Coordinate("a", "s")
KIND = EventKind(1, 1)
BEFORE = 3
BATCH = [NewEvent(HERE, KIND, f"item {index}") for index in range(3)]


def config(segment_format: int = 2) -> StoreConfig:
    return StoreConfig(driver="stepped", clock=HandClock(), segment_format=segment_format)  # type: ignore[arg-type]


def disk(segment_format: int = 2) -> MemoryFiles:
    """Return a directory with a store of a few events, closed."""
    files = MemoryFiles()
    with Store(files.beside(), config(segment_format), SteppedDrivers()) as store:
        for index in range(BEFORE):
            store.append(HERE, KIND, f"before {index}")
    return files


def play_batch_and_read(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a batch and a read overlap in every order; how many there are."""
    monkeypatch.setattr(reading, "FIRST_BLOCK", 2)
    monkeypatch.setattr(reading, "READ_AHEAD", 2)
    pause_before(monkeypatch, SteppedDriver, "step", "writer")
    pause_before(monkeypatch, Journal, "write")
    pause_before(monkeypatch, Index, "_publish")
    pause_before(monkeypatch, Tail, "put")
    pause_before(monkeypatch, Journal, "advance")
    pause_before(monkeypatch, reading.Reading, "load_contents")
    template = disk()

    def scene(choose: Choose) -> None:
        store = Store(template.copy(), config(), SteppedDrivers())
        batch = Task(lambda: store.append_batch(BATCH))
        page = Task(lambda: [event.payload for event in store.read()])
        moved: list[str] = []

        def note(width: int) -> int:
            choice = choose(width)
            both = width == 2
            moved.append("batch" if (choice == 0 if both else not batch.ended) else "read")
            return choice

        with store:
            run_all([batch, page], note)
            seen = [event.payload for event in store.read()]
        old = [f"before {index}" for index in range(BEFORE)]
        whole = old + [item.payload for item in BATCH]
        assert page.answer in (old, whole)
        if moved.index("read") > len(moved) - 1 - moved[::-1].index("batch"):
            assert page.answer == whole, "the read began when the batch had its receipts"
        assert seen == whole

    return every_order(scene)


def test_a_read_beside_a_batch_sees_all_of_it_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert play_batch_and_read(monkeypatch) > 150


def test_a_batch_that_is_published_in_two_steps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The orders above would show it: that is what they are for."""

    def in_two_steps(self: Writer, decision: object, records: list[object], end: int) -> None:
        self._index.ask(Publish([records[0]]))  # type: ignore[list-item]
        plain(self, decision, records, end)

    plain: Callable[..., None] = Writer._publish
    monkeypatch.setattr(Writer, "_publish", in_two_steps)
    with pytest.raises(AssertionError):
        play_batch_and_read(monkeypatch)


@pytest.mark.parametrize("segment_format", [1, 2])
def test_an_append_beside_a_close_has_a_receipt_and_stays_or_is_refused_and_absent(
    monkeypatch: pytest.MonkeyPatch, segment_format: int
) -> None:
    pause_before(monkeypatch, SteppedDriver, "step", "writer")
    pause_before(monkeypatch, Gate, "cover")
    pause_before(monkeypatch, Driver, "_drain", "writer")
    pause_before(monkeypatch, System, "_finish")
    template = disk(segment_format)
    outcomes: set[tuple[str, str]] = set()

    def scene(choose: Choose) -> None:
        files = template.copy()
        store = Store(files.beside(), config(), SteppedDrivers())
        first = Task(lambda: store.append(HERE, KIND, "first"))
        second = Task(lambda: store.append(HERE, KIND, "second", durable=True))
        close = Task(store.close)
        run_all([first, second, close], choose)
        assert close.answer is None
        written = []
        for task, payload in ((first, "first"), (second, "second")):
            if isinstance(task.answer, Receipt):
                written.append((task.answer.global_sequence, task.answer.event_id, payload))
            else:
                assert type(task.answer) is StoreClosedError, task.answer
        outcomes.add((type(first.answer).__name__, type(second.answer).__name__))
        with Store(files.beside(), config(), SteppedDrivers()) as again:
            found = [(event.global_sequence, event.event_id, event.payload) for event in again.read(after=BEFORE - 1)]
            assert found == sorted(written)
            assert again.verify_chain().intact

    assert every_order(scene) > 350
    assert len(outcomes) == 4, "both written, one of them, none"
