"""Everything at once: keyed appends, half of them presented twice, from tasks and threads, cancelled at random."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from threading import Thread
from uuid import UUID

import anyio
import pytest
from anyio.lowlevel import checkpoint

from batpak import Coordinate, Receipt, Region, Store
from batpak.aio import AsyncStore
from tests.aio.calls import PLACED

KEYS = 20_000
TASKS, THREADS = 64, 8

Presentations = deque[tuple[UUID, int]]


def coordinate_of(number: int) -> Coordinate:
    return Coordinate(f"account:{number % 97}", "bank")


class Load:
    """The presentations that are left, a third of them for the threads, and the receipts so far."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        keys = [(UUID(int=self.random.getrandbits(128), version=4), number) for number in range(KEYS)]
        presented = keys + keys[: KEYS // 2]
        self.random.shuffle(presented)
        self.for_threads: Presentations = deque(presented[: len(presented) // 3])
        self.for_tasks: Presentations = deque(presented[len(presented) // 3 :])
        self.receipts: dict[UUID, list[Receipt]] = defaultdict(list)
        self.receipts.update({key: [] for key, _ in keys})
        self.cancelled = 0
        self.stops: list[Callable[[], object]] = []
        self.errors: list[BaseException] = []

    async def present(self, facade: AsyncStore) -> None:
        """Be a task: append; what was cancelled is presented once more, at once."""
        while self.for_tasks:
            key, number = self.for_tasks.popleft()
            receipt = None
            while receipt is None:
                with anyio.CancelScope() as scope:
                    self.stops.append(scope.cancel)
                    receipt = await facade.append(
                        coordinate_of(number), PLACED, number, idempotency_key=key, durable=number % 50 == 0
                    )
                self.cancelled += scope.cancelled_caught
            self.receipts[key].append(receipt)

    def present_in_thread(self, store: Store) -> None:
        """Be a thread."""
        try:
            while True:
                key, number = self.for_threads.popleft()
                receipt = store.append(
                    coordinate_of(number), PLACED, number, idempotency_key=key, durable=number % 50 == 0
                )
                self.receipts[key].append(receipt)
        except IndexError:
            pass
        except BaseException as error:
            self.errors.append(error)

    async def cancel_some(self, over: anyio.Event) -> None:
        """Cancel one of the appends that began last, again and again."""
        while not over.is_set():
            for _ in range(self.random.randrange(1, 8)):
                await checkpoint()
            recent, self.stops = self.stops[-TASKS:], []
            if recent:
                self.random.choice(recent)()

    async def run(self, store: Store) -> None:
        threads = [Thread(target=self.present_in_thread, args=(store,), daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        facade = AsyncStore.wrap(store)
        over = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.cancel_some, over)
            async with anyio.create_task_group() as presenting:
                for _ in range(TASKS):
                    presenting.start_soon(self.present, facade)
            over.set()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
        async with facade:
            pass


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_each_key_is_there_exactly_once_and_every_chain_is_whole(backend: str, tmp_path: Path) -> None:
    load = Load(seed=20)
    with Store.open(tmp_path) as store:
        anyio.run(load.run, store, backend=backend)
        assert load.errors == []
        assert load.cancelled > 100
        entries = store.query(Region())
        assert len(entries) == KEYS
        place = {entry.event_id: entry.global_sequence for entry in entries}
        assert place.keys() == load.receipts.keys()
        assert sorted(place.values()) == list(range(KEYS))
        for key, receipts in load.receipts.items():
            assert receipts
            assert {receipt.global_sequence for receipt in receipts} == {place[key]}
            assert [receipt.duplicate for receipt in receipts].count(False) <= 1
        assert store.verify_chain().intact
    with Store.open(tmp_path) as store:
        assert store.stats().events == KEYS
        assert store.verify_chain().intact
