"""A process in which 64 tasks append at once while a cursor commits, until it is killed; it tells what it was promised.

What it tells, a line each, in the order in which its event loop learnt of it:

::

    ["try", task, number, count]          a task is about to write that many events by one call, its number-th
    ["ack", task, number, sequences, durable]
    ["placed", sequence]                  the cursor has committed behind this global sequence
    ["wrong", trace]                      something raised that is not expected: never
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, Final

from batpak import Coordinate, EventKind, NewEvent, Region, StoreConfig
from batpak.aio import AsyncStore
from tests.faults.injection import tell_it

TASKS: Final = 64
PLACED: Final = EventKind(0x1, 0x001)
NAME: Final = "place"
Tell = Callable[[list[Any]], None]


def config(segment_format: int) -> StoreConfig:
    """Segments small enough to rotate often."""
    chosen: Any = segment_format
    return StoreConfig(segment_format=chosen, segment_bytes=64 * 1024, sync_every_events=200)


def key(task: int, number: int) -> str:
    """Return the key under which a task writes its number-th call, where it uses one."""
    return f"{task}:{number}"


def serve() -> None:
    """Live as often as lines on the standard input tell; each life is a fork that is killed."""
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for log lines, which nobody reads
    for line in sys.stdin:
        lines.write(json.dumps(one_life(**json.loads(line))) + "\n")
        lines.flush()


def one_life(directory: str, segment_format: int, seed: int, first: int, acks: int, delay: float) -> list[list[Any]]:
    """Fork, kill it *delay* seconds after so many receipts, and return what it told."""
    hearing, telling = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(hearing)
        try:
            told_by = partial(tell_it, telling)
            asyncio.run(live(Path(directory), segment_format, Random(seed), first, told_by))
        except BaseException:
            tell_it(telling, ["wrong", traceback.format_exc()])
        finally:
            os._exit(1)
    os.close(telling)
    facts: list[list[Any]] = []
    with os.fdopen(hearing) as told:
        left = acks
        while left > 0 and (line := told.readline()):
            facts.append(json.loads(line))
            left -= facts[-1][0] == "ack"
        until = monotonic() + delay
        while monotonic() < until:
            pass
        os.kill(pid, signal.SIGKILL)
        facts += [json.loads(line) for line in told]
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        facts.append(["wrong", f"it ended with status {status}"])
    return facts


async def live(directory: Path, segment_format: int, random: Random, first: int, tell: Tell) -> None:
    """Append until killed."""
    async with await AsyncStore.open(directory, config=config(segment_format)) as store, asyncio.TaskGroup() as group:
        group.create_task(consume(store, tell))
        for task in range(TASKS):
            group.create_task(append(store, task, first, Random(random.random()), tell))


async def append(store: AsyncStore, task: int, first: int, random: Random, tell: Tell) -> None:
    """Write one call after the other; those of a task go to one entity, in the order of their numbers."""
    number = first
    coordinate = Coordinate(f"task:{task}", "load")
    while True:
        durable = random.random() < 0.2
        count = random.choice((1, 1, 1, 3))
        tell(["try", task, number, count])
        payloads: list[Any] = [
            {"task": task, "number": number, "part": part, "text": "x" * 50} for part in range(count)
        ]
        if count > 1:
            items = [NewEvent(coordinate, PLACED, payload) for payload in payloads]
            receipts = await store.append_batch(items, durable=durable)
        else:
            used = key(task, number) if number % 2 else None
            receipts = [await store.append(coordinate, PLACED, payloads[0], durable=durable, idempotency_key=used)]
        tell(["ack", task, number, [each.global_sequence for each in receipts], receipts[-1].durable])
        number += 1


async def consume(store: AsyncStore, tell: Tell) -> None:
    """Commit the place of a named cursor behind every few events."""
    async with store.cursor(Region(entity="task"), name=NAME) as cursor:
        while True:
            events = await cursor.pull(50)
            await cursor.commit()
            tell(["placed", events[-1].global_sequence])
