"""How processes end: killed, by an exception, by a signal whose handler closes, and what calls come in between."""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from batpak import ReentrantCallError, Region, Store, StoreClosedError, StoreConfig
from batpak.storage.pool import SegmentPool
from tests.interrupts.strike import Tracer
from tests.store.journals import LONG, ORDER, PLACED, Journal, Loose, new_events, patient, payloads
from tests.store.processes import run_python, start_python, tell, told

PREAMBLE = """
import os, signal, sys
from random import Random
from batpak import *
directory, seed = sys.argv[1], int(sys.argv[2])
random = Random(seed)
ORDER, PLACED = Coordinate("order:42", "shop"), EventKind(1, 1)
def receipted(*numbers):
    os.write(1, b"".join(b"%d\\n" % number for number in numbers))  # one call: it is out or it is not
"""

APPENDING = (
    PREAMBLE
    + """
driver = random.choice(["assisted", "threaded"])
store = Store.open(directory, config=StoreConfig(driver=driver, segment_bytes=8192, segment_format=2 - seed % 2))
store.query(Region())
number = store.stats().next_global_sequence
os.write(1, b"begin %d\\n" % number)
while True:
    size = random.choice([1, 1, 1, 4])
    if size == 1:
        store.append(ORDER, PLACED, number, durable=random.random() < 0.1, idempotency_key=str(number))
    else:
        store.append_batch([NewEvent(ORDER, PLACED, number + at) for at in range(size)])
    receipted(*range(number, number + size))
    number += size
"""
)


@patient
def test_a_killed_process_loses_nothing_that_has_a_receipt(tmp_path: Path) -> None:
    random = Random(5)
    written = 0
    for life in range(60 if LONG else 6):
        writer = start_python(APPENDING, tmp_path, life * 2)
        assert told(writer) == f"begin {written}"
        for _ in range(random.randrange(1, 150)):
            told(writer)
        writer.kill()
        rest, _ = writer.communicate()
        numbers = [int(line) for line in rest.split("\n")[:-1]]
        with Store.open_read_only(tmp_path) as reader:
            found = payloads(reader)
        assert found == list(range(len(found)))
        assert not numbers or numbers[-1] < len(found)
        assert len(found) >= written
        written = len(found)
    with Store.open(tmp_path) as store:
        assert payloads(store) == list(range(written))
        assert store.verify_chain().intact
        assert store.append(ORDER, PLACED, 0, idempotency_key="0").duplicate in {True, False}


RAISING = (
    PREAMBLE
    + """
store = Store.open(directory)
reader = Store.open_read_only(directory)
for number in range(2000):
    store.append(ORDER, PLACED, number)
    if number % 100 == 0:
        receipted(number)
receipted(number)
how = sys.argv[3]
if how == "raise":
    raise ZeroDivisionError
if how == "exit":
    sys.exit(7)
if how == "interrupt":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts us in the background has it ignored
    signal.raise_signal(signal.SIGINT)
if how == "thread":
    from threading import Thread
    def work():
        for number in range(2000, 2100):
            store.append(ORDER, PLACED, number)
    Thread(target=work).start()
    sys.exit(9)
"""
)


@pytest.mark.parametrize(
    ("how", "code"), [("raise", 1), ("exit", 7), ("interrupt", -signal.SIGINT), ("thread", 9), ("fall off", 0)]
)
def test_a_process_that_does_not_close_ends_soon_with_its_own_code_and_everything_on_disk(
    tmp_path: Path, how: str, code: int
) -> None:
    process = start_python(RAISING, tmp_path, 1, how)
    while told(process) != "1999":
        pass
    started = monotonic()
    _, errors = process.communicate(timeout=30)
    assert monotonic() - started < 10.0
    assert process.returncode == code, errors
    assert "ResourceWarning" not in errors  # as every ResourceWarning, it is silent unless asked for
    with Store.open(tmp_path) as store:
        expected = 2100 if how == "thread" else 2000
        assert payloads(store) == list(range(expected))
        report = store.diagnostics().open_report
        assert (report.quarantined, report.path) == ((), "runs")  # it was closed properly
    assert not (tmp_path / "quarantine").exists()


def test_the_warning_about_an_unclosed_store_can_be_seen(tmp_path: Path) -> None:
    program = """
    import sys, warnings
    warnings.simplefilter("always")
    from batpak import *
    store = Store.open(sys.argv[1])
    reader = Store.open_read_only(sys.argv[1])
    store.append(Coordinate("e", "s"), EventKind(1, 1), 1)
    sys.exit(3)
    """
    done = run_python(program, tmp_path, check=False)
    assert done.returncode == 3
    assert done.stderr.count("ResourceWarning: <Store") == 1
    assert done.stderr.count("ResourceWarning: <ReadOnlyStore") == 1
    assert "Traceback" not in done.stderr


# Signals ---------------------------------------------------------------------------------------------------------


CLOSING_HANDLER = (
    PREAMBLE
    + """
import faulthandler
faulthandler.dump_traceback_later(30, exit=True)
driver = ["assisted", "threaded"][seed % 2]
durable = seed % 3 == 0
store = Store.open(directory, config=StoreConfig(driver=driver, segment_bytes=8192, sync_every_events=50))
def close(*_):
    store.close()
signal.signal(signal.SIGTERM, close)
number = store.stats().next_global_sequence
os.write(1, b"begin %d\\n" % number)
sys.stdin.readline()
try:
    while True:
        what = random.randrange(6)
        if what == 0:
            store.append_batch([NewEvent(ORDER, PLACED, number + at) for at in range(3)])
            receipted(number, number + 1, number + 2)
            number += 3
        elif what == 1:
            list(store.read(limit=20))
        elif what == 2 and number:
            store.get(store.query(Region(), limit=1, reverse=True)[0].event_id)
        elif what == 3:
            store.sync()
        else:
            store.append(ORDER, PLACED, number, durable=durable)
            receipted(number)
            number += 1
except StoreClosedError:
    os.write(1, b"closed\\n")
store.close()
assert store.diagnostics().state == "closed"
"""
)


@patient
def test_a_handler_that_closes_the_store_while_it_is_at_work(tmp_path: Path) -> None:
    random = Random(3)
    for life in range(120 if LONG else 6):
        process = start_python(CLOSING_HANDLER, tmp_path, life)
        begin = int(told(process).split()[1])
        tell(process, "go")
        for _ in range(random.randrange(1, 60)):
            told(process)
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=40)
        assert process.returncode == 0, errors
        lines = rest.splitlines()
        assert lines[-1] == "closed"
        with Store.open(tmp_path) as store:
            found = payloads(store)
            report = store.diagnostics().open_report
        assert found == list(range(len(found)))
        assert report.quarantined == ()
        numbers = [int(line) for line in lines[:-1]]
        assert len(found) >= max([begin, *(number + 1 for number in numbers)])


class Handled:
    """Runs a call and, at the first look for signals behind its bytecode numbered *at*, a handler in the middle."""

    def __init__(self, at: int, handler: Loose) -> None:
        self._tracer = Tracer(at)
        self._handler = handler
        self.errors: list[Exception] = []
        self.ran = False

    def run(self, call: Loose) -> Loose:
        before, handler = sys.gettrace(), signal.signal(signal.SIGUSR1, self._on_signal)
        try:
            self._tracer.begin()
            return call()
        finally:
            sys.settrace(before)
            signal.signal(signal.SIGUSR1, handler)

    def _on_signal(self, *_: object) -> None:
        self.ran = True
        try:
            self._handler()
        except Exception as error:
            self.errors.append(error)


STEP = 1 if LONG else 61


@patient
@pytest.mark.parametrize("what", ["append", "batch", "durable", "sync", "get", "read", "close"])
def test_a_handler_may_close_in_the_middle_of_any_call(what: str) -> None:
    position, handled = 1, True
    with Journal(StoreConfig(segment_bytes=4096)) as journal:
        while handled:
            store = journal.store
            receipt = store.append(ORDER, PLACED, b"x" * 60)
            written = store.stats().events
            calls: dict[str, Loose] = {
                "append": partial(store.append, ORDER, PLACED, 1),
                "batch": partial(store.append_batch, new_events(1, 2, 3)),
                "durable": partial(store.append, ORDER, PLACED, 1, durable=True),
                "sync": store.sync,
                "get": partial(store.get, receipt.event_id),
                "read": lambda store=store: list(store.read(limit=3)),
                "close": store.close,
            }
            call = Handled(position, store.close)
            answered = False
            try:
                call.run(calls[what])
                answered = True
            except StoreClosedError:
                pass
            handled = call.ran
            assert call.errors == []
            assert store.diagnostics().state == ("closed" if handled or what == "close" else "ok")
            count = {"batch": 3, "append": 1, "durable": 1}.get(what, 0)
            # An answer is the truth; without one it may have been done or not.
            store = journal.reopen()
            assert store.stats().events in {written + count, written + (count if answered else 0)}
            assert store.diagnostics().open_report.quarantined == ()
            position += STEP
    assert position > 3 * STEP


@patient
@pytest.mark.parametrize("inner", ["append", "batch", "durable", "sync", "get", "stats", "query"])
@pytest.mark.parametrize("outer", ["append", "durable", "get"])
def test_a_handler_that_calls_back_is_served_or_refused_by_name_and_nothing_hangs(outer: str, inner: str) -> None:
    refused = served = 0
    adds = {"append": 1, "durable": 1, "batch": 2}
    with Journal(StoreConfig(segment_bytes=64 * 1024)) as journal:
        store = journal.store
        first = store.append(ORDER, PLACED, 0)
        calls: dict[str, Loose] = {
            "append": partial(store.append, ORDER, PLACED, "a"),
            "batch": partial(store.append_batch, new_events("b", "c")),
            "durable": partial(store.append, ORDER, PLACED, "d", durable=True),
            "sync": store.sync,
            "get": partial(store.get, first.event_id),
            "stats": store.stats,
            "query": partial(store.query, Region(entity="order"), limit=5),
        }
        position, handled = 1, True
        while handled:
            call = Handled(position, calls[inner])
            before = store.stats().events
            call.run(calls[outer])
            handled = call.ran
            assert {type(error) for error in call.errors} <= {ReentrantCallError}
            refused += len(call.errors)
            served += handled and not call.errors
            inside = adds.get(inner, 0) if handled and not call.errors else 0
            assert store.stats().events == before + adds.get(outer, 0) + inside
            position += STEP // 2 + 1
        assert served > 0
        if (outer in adds and inner in adds) or outer == inner == "get":
            assert refused > 0
        assert journal.reopen().verify_chain().intact


def test_the_end_of_a_turn_is_when_a_close_that_was_put_off_comes(tmp_path: Path) -> None:
    """In a thread that only reads, nobody else would do it."""
    store = Store.open(tmp_path)
    receipt = store.append(ORDER, PLACED, 1)
    original = SegmentPool.load
    try:

        def load(self: Loose, places: Loose) -> Loose:
            store.close()
            return original(self, places)

        SegmentPool.load = load  # type: ignore[method-assign]
        assert store.get(receipt.event_id).payload == 1
    finally:
        SegmentPool.load = original  # type: ignore[method-assign]
    with pytest.raises(StoreClosedError):
        store.query(Region())
    with Store.open(tmp_path) as store:
        assert payloads(store) == [1]
