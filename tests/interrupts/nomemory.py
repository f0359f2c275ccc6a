"""A program in which each allocation of a call fails once; it prints what it found as JSON.

python -m tests.interrupts.nomemory DIRECTORY CALL DRIVER EVERY IN_A_ROW
"""

from __future__ import annotations

import _testcapi  # type: ignore[import-not-found]
import faulthandler
import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from batpak import BatpakError
from tests.interrupts.test_each_bytecode import CALLS, Call, append
from tests.interrupts.world import World

STORE_ALLOCATIONS = 20
MOST = 5_000


def fail_some(call: Call, world: World, at: int, count: int) -> Any:
    """Let *count* allocations fail, the first being the one numbered *at*; the outcome, errors as values."""
    numbers = world.numbers(call.events)
    outcome: Any = None
    act = call.act
    try:
        _testcapi.set_nomemory(at, at + count)
        outcome = act(world, numbers)
    except (MemoryError, BatpakError) as error:
        outcome = error
    finally:
        _testcapi.remove_mem_hooks()
    world.account(numbers, outcome)
    return outcome


def main() -> None:
    directory, name, driver, every, count = sys.argv[1:]
    faulthandler.dump_traceback_later(100, exit=True)
    call = CALLS[name]
    outcomes: Counter[str] = Counter()
    at, misses = 0, 0
    for number in itertools.count():
        with World(Path(directory) / f"{number}", **{"driver": driver} | call.options) as world:
            for _ in range(STORE_ALLOCATIONS):
                world.account(more := world.numbers(), append(world, more))
                outcome = fail_some(call, world, at, int(count))
                outcomes[type(outcome).__name__] += 1
                misses = misses + 1 if isinstance(outcome, list) else 0
                at += int(every)
                world.check()
            world.check_all()
        # Free lists hide some; so many in a row without an error are the end.
        if misses >= 2 * STORE_ALLOCATIONS or at > MOST:
            break
    print(json.dumps(outcomes | {"allocations": at}))  # noqa: T201


if __name__ == "__main__":
    main()
