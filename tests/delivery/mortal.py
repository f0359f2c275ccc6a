"""A process that lives many times: in each life 64 tasks append while a worker answers, and in each it is killed.

The process itself only forks: a child of one that has imported everything and opened nothing begins at once. It is
told of a life by a line of JSON, and tells by another what that life has been promised by receipts.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from time import monotonic

from batpak import Coordinate, EventKind, Reactions, Region, Store, StoreConfig, StoredEvent
from batpak.aio import AsyncStore

QUIET, PAIR, TRIPLE = (EventKind(0x1, number) for number in (1, 2, 3))
REACTIONS = {QUIET: 0, PAIR: 2, TRIPLE: 3}
ANSWER = EventKind(0x2, 1)
ASIDE = EventKind(0x3, 1)
REGION = Region(entity="order")
NAME = "answers"
TASKS = 64
RECEIPT, CALL = "receipt", "call"
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Life:
    """What one life is like, and how it ends: after so many receipts or calls of the reactor, or so long; or well."""

    seed: int
    on_thread: bool = True
    segment_format: int = 2
    kill_after: tuple[str, int] | None = None
    kill_after_seconds: float = 0.0

    @property
    def catches_up(self) -> bool:
        """Whether it appends nothing and ends by itself."""
        return self.kill_after is None and not self.kill_after_seconds


# The one who forks ------------------------------------------------------------------------------------------------


def main() -> None:
    """Live the lives that lines on the standard input tell of."""
    directory = Path(sys.argv[1])
    for line in sys.stdin:
        told = json.loads(line)
        found = one_life(directory, Life(**told))
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def one_life(directory: Path, life: Life) -> dict[str, object]:
    """Fork, wait for the moment, kill; what receipts promised."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for log lines: the other one tells what became of lives
        code = 1
        try:
            asyncio.run(live(directory, life, lambda *facts: report(writing, *facts)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    receipts: list[str] = []
    counts = {RECEIPT: 0, CALL: 0}
    with os.fdopen(reading) as lines:
        if not life.catches_up:
            wait_for_moment(life, lines.readline, counts, receipts)
            os.kill(pid, signal.SIGKILL)
        for line in lines:
            note(line, counts, receipts)
    _, status = os.waitpid(pid, 0)
    return {"receipts": receipts, "calls": counts[CALL], "status": os.waitstatus_to_exitcode(status)}


def wait_for_moment(life: Life, read: Callable[[], str], counts: dict[str, int], receipts: list[str]) -> None:
    """Return when it is time to kill."""
    if life.kill_after is not None:
        what, count = life.kill_after
        while counts[what] < count:
            line = read()
            if not line:
                return
            note(line, counts, receipts)
    until = monotonic() + life.kill_after_seconds
    while monotonic() < until:
        pass


def note(line: str, counts: dict[str, int], receipts: list[str]) -> None:
    """Count what a life tells; a line is written whole or not at all."""
    what, event_id = line.split()
    counts[what] += 1
    if what == RECEIPT:
        receipts.append(event_id)


def report(descriptor: int, what: str, event_id: object) -> None:
    """Tell it to the one who will kill us."""
    os.write(descriptor, f"{what} {event_id}\n".encode())


# The one who is killed --------------------------------------------------------------------------------------------


async def live(directory: Path, life: Life, tell: Callable[[str, object], None]) -> None:
    """Append and answer, until killed."""
    random = Random(life.seed)
    segment_format: object = life.segment_format
    config = StoreConfig(segment_bytes=65536, segment_format=segment_format, sync_every_events=random.choice((5, 500)))  # type: ignore[arg-type] # 1 or 2
    batch_size = random.choice((1, 3, 16))

    def react(event: StoredEvent, reactions: Reactions) -> None:
        tell(CALL, event.event_id)
        for number in range(REACTIONS[event.kind]):
            reactions.append(Coordinate(f"answer:{number}", "shop"), ANSWER, number)

    async def react_in_a_task(event: StoredEvent, reactions: Reactions) -> None:
        await asyncio.sleep(0)
        react(event, reactions)

    with Store.open(directory, config=config) as opened:
        store = AsyncStore.wrap(opened)
        if life.on_thread:
            with opened.react_loop(REGION, react, name=NAME, batch_size=batch_size):
                await be_busy(store, life, random, tell)
        else:
            async with store.react_loop(REGION, react_in_a_task, name=NAME, batch_size=batch_size):
                await be_busy(store, life, random, tell)


async def be_busy(store: AsyncStore, life: Life, random: Random, tell: Callable[[str, object], None]) -> None:
    """Append until killed, or let the worker catch up."""
    if life.catches_up:
        last = (await store.stats()).visible_sequence
        await store.wait_for(NAME, last, PATIENCE_SECONDS)
        return
    async with asyncio.TaskGroup() as group:
        for number in range(TASKS):
            group.create_task(append(store, number, Random(random.random()), tell))


async def append(store: AsyncStore, number: int, random: Random, tell: Callable[[str, object], None]) -> None:
    """Append one event after the other, most of them in the worker's region; now and then let the worker come near."""
    while True:
        kind = random.choice((QUIET, PAIR, TRIPLE, ASIDE))
        entity = "aside" if kind == ASIDE else f"order:{number}"
        receipt = await store.append(Coordinate(entity, "shop"), kind, number, durable=random.random() < 0.05)
        tell(RECEIPT, receipt.event_id)
        if kind != ASIDE and random.random() < 0.8:
            await store.wait_for(NAME, receipt.global_sequence, PATIENCE_SECONDS)


def described(life: Life) -> str:
    """Return the line that tells of *life*."""
    return json.dumps(asdict(life))
