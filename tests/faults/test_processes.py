"""Other processes: a second opener, a forked child, an owner that is stopped, one that is killed."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

from batpak import Coordinate, EventKind, Store, StoreLockedError
from tests.faults.conftest import Table
from tests.faults.scale import dice, times
from tests.store.journals import payloads, until
from tests.store.processes import run_python, start_python, tell, told

CASES = 5
"""Of each kind, in an ordinary run: four kinds make the twenty that are asked for."""
AT_ONCE_SECONDS = 2.0
ORDER, PLACED = Coordinate("order:42", "shop"), EventKind(1, 1)

OWNER = """
import sys
from batpak import *
order, placed = Coordinate("order:42", "shop"), EventKind(1, 1)
with Store.open(sys.argv[1], config=StoreConfig(segment_format=int(sys.argv[2]), segment_bytes=4096)) as store:
    number = store.stats().events
    print("open", flush=True)
    while (line := sys.stdin.readline().strip()) != "close":
        for _ in range(int(line)):
            store.append(order, placed, number, durable=number % 3 == 0)
            print(number, flush=True)
            number += 1
        print("done", flush=True)
print("closed", flush=True)
"""


@contextmanager
def owner(directory: Path, number: int) -> Iterator[subprocess.Popen[str]]:
    """Have another process own the store; every other one is of format 1."""
    process = start_python(OWNER, directory, 2 - number % 2)
    try:
        assert told(process) == "open"
        yield process
    finally:
        process.kill()
        process.communicate()


def have_appended(process: subprocess.Popen[str], count: int) -> list[int]:
    """Have the owner append so many events; the numbers that it acknowledged."""
    tell(process, str(count))
    acknowledged: list[int] = []
    while (line := told(process)) != "done":
        acknowledged.append(int(line))
    return acknowledged


def assert_locked(directory: Path, pid: int) -> None:
    """A second opener is told at once who holds the store; readers are let in."""
    begun = monotonic()
    with pytest.raises(StoreLockedError) as caught:
        Store.open(directory)
    assert monotonic() - begun < AT_ONCE_SECONDS
    assert caught.value.pid == pid
    assert caught.value.retryable


def assert_holds(directory: Path, acknowledged: list[int]) -> None:
    """The store is free, and holds what was acknowledged."""
    with Store.open(directory) as store:
        found = payloads(store)
        assert found[: len(acknowledged)] == acknowledged
        assert store.verify_chain().intact
        store.append(ORDER, PLACED, len(found), durable=True)


def test_a_second_opener_is_refused_until_the_owner_has_closed(tmp_path: Path, table: Table) -> None:
    for number in range(times(CASES)):
        directory = tmp_path / f"{number}"
        with owner(directory, number) as process:
            acknowledged = have_appended(process, 10)
            assert_locked(directory, process.pid)
            with Store.open_read_only(directory) as reader:
                assert payloads(reader) == acknowledged
            acknowledged += have_appended(process, 5)
            tell(process, "close")
            assert told(process) == "closed"
            assert_holds(directory, acknowledged)
    table.add("two openers", times(CASES), {"one refused, at once": times(CASES)})


def test_an_owner_that_is_stopped_keeps_its_lock_and_goes_on_later(tmp_path: Path, table: Table) -> None:
    random = dice("stopped owner")
    for number in range(times(CASES)):
        directory = tmp_path / f"{number}"
        with owner(directory, number) as process:
            acknowledged = have_appended(process, 3)
            tell(process, "40")
            acknowledged += [int(told(process)) for _ in range(random.randrange(1, 35))]
            process.send_signal(signal.SIGSTOP)
            until(lambda process=process: is_stopped(process.pid), "stopped process")  # type: ignore[misc]
            for _ in range(2):
                assert_locked(directory, process.pid)
            with Store.open_read_only(directory) as reader:
                found = payloads(reader)
                assert found == list(range(len(found)))
                assert len(found) >= len(acknowledged)
            process.send_signal(signal.SIGCONT)
            while (line := told(process)) != "done":
                acknowledged.append(int(line))
            assert acknowledged == list(range(43))
            assert_locked(directory, process.pid)
            process.kill()
            process.communicate()
            assert_holds(directory, acknowledged)
    table.add(
        "an owner stopped (SIGSTOP) at a random moment", times(CASES), {"others refused, it went on": times(CASES)}
    )


def is_stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped."""
    tasks = Path(f"/proc/{pid}/task")
    states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()]
    return set(states) == {"T"}


def test_an_owner_that_is_killed_leaves_the_lock_to_one_of_those_who_wait(tmp_path: Path, table: Table) -> None:
    random = dice("killed owner")
    for number in range(times(CASES)):
        directory = tmp_path / f"{number}"
        with owner(directory, number) as process:
            tell(process, "200")
            acknowledged = [int(told(process)) for _ in range(random.randrange(1, 100))]
            assert_locked(directory, process.pid)
            process.kill()
            assert process.stdout is not None
            acknowledged += [int(line) for line in process.stdout.read().splitlines() if line.isdigit()]
            with owner(directory, number) as heir:
                assert_locked(directory, heir.pid)
                assert have_appended(heir, 1)[0] >= len(acknowledged)
                heir.kill()
                heir.communicate()
            assert_holds(directory, acknowledged)
    table.add("an owner killed at a random moment", times(CASES), {"lock free, nothing lost": times(CASES)})


FORK = """
import asyncio, gc, os, sys, threading, warnings
from batpak import *
from batpak.aio import AsyncStore
order, placed = Coordinate("order:42", "shop"), EventKind(1, 1)
store = Store.open(sys.argv[1], config=StoreConfig(segment_format=int(sys.argv[2]), segment_bytes=4096))
facade = AsyncStore.wrap(store)
first = store.append(order, placed, "before", durable=True)
cursor = store.cursor(Region(entity="order"), name="mine")
subscription = store.subscribe(Region())
stop, begun = threading.Event(), threading.Event()

def write():
    while not stop.is_set():
        store.append(order, placed, "beside", durable=True)

async def append_in_tasks():
    async def append():
        while not stop.is_set():
            await facade.append(order, placed, "in a task")
            begun.set()
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(append())

threads = [
    threading.Thread(target=write, daemon=True),
    threading.Thread(target=lambda: asyncio.run(append_in_tasks()), daemon=True),
]
for thread in threads:
    thread.start()
begun.wait()  # no module is being imported now: nobody lets go of the interpreter's lock for that in a child

async def asynchronously(wrong):
    other = AsyncStore.wrap(store)
    calls = {
        "append": lambda: facade.append(order, placed, "child"),
        "batch": lambda: facade.append_batch([NewEvent(order, placed, "child")]),
        "sync": lambda: facade.sync(),
        "get": lambda: facade.get(first.event_id),
        "latest": lambda: facade.latest("order:42"),
        "query": lambda: facade.query(Region()),
        "stats": lambda: facade.stats(),
        "places": lambda: facade.places(),
        "wait": lambda: facade.wait_for("mine", 0, 1),
        "verify": lambda: facade.verify_chain(),
        "another facade": lambda: other.append(order, placed, "child"),
    }
    for name, call in calls.items():
        try:
            await asyncio.wait_for(call(), 5)
            wrong.append(name)
        except ForkedStoreError:
            pass
        except BaseException as error:
            wrong.append((name, repr(error)))
    try:
        async for _ in facade.read():
            wrong.append("read")
    except ForkedStoreError:
        pass

def be_a_child(how):
    global store, facade, cursor, subscription
    wrong = []
    for name, call in {
        "append": lambda: store.append(order, placed, "child"),
        "poll": lambda: store.cursor(Region()).poll(), "commit": cursor.commit,
        "pull": subscription.pull, "sync": store.sync, "stats": store.stats,
    }.items():
        try:
            call()
            wrong.append(name)
        except ForkedStoreError:
            pass
        except BaseException as error:
            wrong.append((name, repr(error)))
    asyncio.run(asynchronously(wrong))
    if how % 2:
        store.close()
        cursor.close()
        subscription.close()
        asyncio.run(facade.close())
    del store, facade, cursor, subscription
    gc.collect()
    try:
        Store.open(sys.argv[1])
        wrong.append("opened beside the parent")
    except StoreLockedError as error:
        if error.pid != os.getppid():
            wrong.append(("locked by", error.pid))
    print(wrong, flush=True)
    if how == 2:
        sys.exit(len(wrong))
    os._exit(len(wrong))

for how in range(int(sys.argv[3])):
    assert cursor.poll() is not None
    child = os.fork()
    if child == 0:
        be_a_child(how % 3)
    assert os.waitpid(child, 0)[1] == 0
    store.append(order, placed, "after a fork", durable=True)
    cursor.commit()
stop.set()
for thread in threads:
    thread.join()
assert store.verify_chain().intact
assert not any(event.payload == "child" for event in store.read())
store.close()
print("parent done")
"""


@pytest.mark.parametrize("segment_format", [2, 1])
def test_a_forked_child_of_a_busy_owner_is_refused_everything_and_harms_nothing(
    segment_format: int, tmp_path: Path, table: Table
) -> None:
    forks = times(CASES) // 2 + 1
    done = run_python(FORK, tmp_path, segment_format, forks)
    assert done.stdout.splitlines() == ["[]"] * forks + ["parent done"], done.stderr
    with Store.open(tmp_path) as store:
        counts = Counter(payloads(store))
        assert counts["after a fork"] == forks
        assert "child" not in counts
    table.add(f"a fork beside threads and tasks that append, format {segment_format}", forks, {"child refused": forks})
