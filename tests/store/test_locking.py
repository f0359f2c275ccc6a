"""One writer for each directory, in this process and in all others, and what a fork leaves to whom."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from batpak import ForkedStoreError, Store, StoreClosedError, StoreLockedError
from batpak.storage.files import LOCK_NAME, OWNER_NAME
from tests.store.journals import ORDER, PLACED, payloads
from tests.store.processes import run_python, start_python, tell, told

HOLD = """
import sys
from batpak import *
with Store.open(sys.argv[1]) as store:
    store.append(Coordinate("order:42", "shop"), EventKind(1, 1), "theirs")
    print("open", flush=True)
    sys.stdin.readline()
print("closed", flush=True)
"""

TRY = """
import sys
from batpak import *
try:
    Store.open(sys.argv[1]).close()
    print("opened")
except StoreLockedError as error:
    print(error.pid, error.retryable)
"""


def test_p56_a_second_writer_is_locked_out_until_the_first_closes(tmp_path: Path) -> None:
    holder = start_python(HOLD, tmp_path)
    try:
        assert told(holder) == "open"
        with pytest.raises(StoreLockedError) as caught:
            Store.open(tmp_path)
        assert caught.value.pid == holder.pid
        assert caught.value.host
        assert str(holder.pid) in str(caught.value)
        assert run_python(TRY, tmp_path).stdout.split() == [str(holder.pid), "True"]
        with Store.open_read_only(tmp_path) as reader:
            assert payloads(reader) == ["theirs"]
        tell(holder, "close")
        assert told(holder) == "closed"
        with Store.open(tmp_path) as store:
            assert payloads(store) == ["theirs"]
    finally:
        holder.kill()
        holder.communicate()


def test_p56_a_killed_writer_holds_nothing(tmp_path: Path) -> None:
    holder = start_python(HOLD, tmp_path)
    assert told(holder) == "open"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / OWNER_NAME).exists()  # it could not tidy up; that means nothing
    with Store.open(tmp_path) as store:
        assert payloads(store) == ["theirs"]
        with pytest.raises(StoreLockedError) as caught:
            Store.open(tmp_path)
        assert caught.value.pid == os.getpid()


def test_p56_many_who_try_at_once_get_it_one_after_the_other(tmp_path: Path) -> None:
    with Store.open(tmp_path):
        pass
    program = """
    import sys
    from threading import Event
    from batpak import *
    done = 0
    while done < 4:
        try:
            with Store.open(sys.argv[1]) as store:
                store.append(Coordinate("order:42", "shop"), EventKind(1, 1), [sys.argv[2], done])
                done += 1
        except StoreLockedError as error:
            assert error.retryable
            Event().wait(0.002)
    print("done")
    """
    tries = [start_python(program, tmp_path, number) for number in range(3)]
    assert [each.communicate(timeout=60)[0] for each in tries] == ["done\n"] * 3
    with Store.open(tmp_path) as store:
        assert sorted(map(tuple, payloads(store))) == [(str(n), at) for n in range(3) for at in range(4)]
        assert store.verify_chain().intact


def test_an_owner_that_cannot_be_read_still_leaves_a_typed_error(tmp_path: Path) -> None:
    with Store.open(tmp_path):
        for content in (b"", b"no json", b"[1]", b'{"pid": "x", "host": 5, "since": null}', b"\xff" * 10):
            (tmp_path / OWNER_NAME).write_bytes(content)
            with pytest.raises(StoreLockedError) as caught:
                Store.open(tmp_path)
            assert caught.value.pid is None
        (tmp_path / OWNER_NAME).unlink()
        with pytest.raises(StoreLockedError) as caught:
            Store.open(tmp_path)
        assert (caught.value.pid, caught.value.host, caught.value.since) == (None, None, None)
    assert (tmp_path / LOCK_NAME).exists()


FORK = """
import os, sys
from threading import Event, Thread
from batpak import *
ORDER, PLACED = Coordinate("order:42", "shop"), EventKind(1, 1)
store = Store.open(sys.argv[1])
reader = Store.open_read_only(sys.argv[1])
first = store.append(ORDER, PLACED, "before", durable=True)
reader.refresh()
stop = Event()
def write():
    while not stop.is_set():
        store.append(ORDER, PLACED, "beside")
writers = [Thread(target=write, daemon=True) for _ in range(2)]
for writer in writers:
    writer.start()
calls = {
    "append": lambda: store.append(ORDER, PLACED, "child"),
    "batch": lambda: store.append_batch([NewEvent(ORDER, PLACED, "child")]),
    "sync": store.sync,
    "get": lambda: store.get(first.event_id),
    "query": lambda: store.query(Region()),
    "read": lambda: list(store.read()),
    "latest": lambda: store.latest("order:42"),
    "verify": store.verify_chain,
    "stats": store.stats,
    "diagnostics": store.diagnostics,
    "reader": lambda: reader.get(first.event_id),
    "refresh": reader.refresh,
    "reader stats": reader.stats,
}
reading = store.read()
for _ in range(6):
    child = os.fork()
    if child == 0:
        wrong = []
        for name, call in {**calls, "reading": lambda: next(reading)}.items():
            try:
                call()
                wrong.append(name)
            except ForkedStoreError:
                pass
            except BaseException as error:
                wrong.append((name, repr(error)))
        store.close()
        reader.close()
        try:
            Store.open(sys.argv[1])
            wrong.append("opened beside the parent")
        except StoreLockedError as error:
            if error.pid != os.getppid():
                wrong.append(("locked by", error.pid))
        with Store.open_read_only(sys.argv[1]) as own:
            if own.get(first.event_id).payload != "before":
                wrong.append("own reader")
        print(wrong, flush=True)
        os._exit(len(wrong))
    assert os.waitpid(child, 0)[1] == 0
    store.append(ORDER, PLACED, "after a fork", durable=True)
stop.set()
for writer in writers:
    writer.join()
assert store.verify_chain().intact
assert reader.refresh() == store.stats().visible_sequence
assert not any(event.payload == "child" for event in store.read())
store.close()
reader.close()
print("parent done")
"""


def test_a_forked_childs_copy_is_dead_and_the_parent_goes_on(tmp_path: Path) -> None:
    done = run_python(FORK, tmp_path)
    assert done.stdout.splitlines() == ["[]"] * 6 + ["parent done"]
    assert issubclass(ForkedStoreError, StoreClosedError)


def test_a_child_that_ends_normally_leaves_the_parents_store_alone(tmp_path: Path) -> None:
    program = """
    import os, sys
    from batpak import *
    store = Store.open(sys.argv[1])
    store.append(Coordinate("e", "s"), EventKind(1, 1), 1)
    child = os.fork()
    if child == 0:
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    store.append(Coordinate("e", "s"), EventKind(1, 1), 2)
    try:
        Store.open(sys.argv[1])
    except StoreLockedError as error:
        assert error.pid == os.getpid(), error
    else:
        raise SystemExit("the child let go of the lock")
    store.close()
    """
    run_python(program, tmp_path)
    with Store.open(tmp_path) as store:
        assert payloads(store) == [1, 2]


def test_the_same_store_object_keeps_its_lock(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        for _ in range(3):
            with pytest.raises(StoreLockedError):
                Store.open(tmp_path)
            store.append(ORDER, PLACED, 1)
    with Store.open(tmp_path) as store:
        assert payloads(store) == [1, 1, 1]
