"""Workers on threads: what they hand over, what they commit, how they end, and what becomes of what fails."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Event, current_thread
from time import monotonic
from typing import Any, NoReturn

import pytest

from batpak import (
    Continue,
    InvalidRequestError,
    OnError,
    PlaceConflictError,
    Region,
    RestartPolicy,
    Stop,
    StopAndRollback,
    Store,
    StoreClosedError,
    Verdict,
    Worker,
    WriterFailedError,
)
from tests.delivery.working import (
    NAME,
    ORDERS,
    FailedError,
    Handler,
    Lines,
    caught_up,
    committed,
    ended,
    error_of,
    failing_at,
    of,
    place_orders,
)
from tests.store.journals import (
    EVERYTHING,
    ORDER,
    PAID,
    PATIENCE_SECONDS,
    Journal,
    Loose,
    hand_clock,
    payloads,
    until,
)
from tests.store.processes import run_python

pytestmark = pytest.mark.usefixtures("no_backstop")


@pytest.fixture
def journal(driven: Journal) -> Journal:
    return driven


# Handlers and what they say ---------------------------------------------------------------------------------------


def test_a_handler_gets_its_region_in_order_and_then_what_comes(store: Store) -> None:
    place_orders(store, 1, 2)
    store.append(ORDER, PAID, "another kind")
    handler = Handler()
    with store.cursor_worker(ORDERS, handler, name=NAME):
        caught_up(store)
        place_orders(store, 3)
        caught_up(store)
    assert handler.seen == [1, 2, 3]


def test_without_a_name_nothing_is_kept(store: Store) -> None:
    place_orders(store, 1, 2)
    for _ in range(2):
        handler = Handler()
        with store.cursor_worker(ORDERS, handler) as worker:
            until(lambda handler=handler: handler.seen == [1, 2], "events")  # type: ignore[misc]
        assert worker.name == "unnamed"
    assert store.places() == []


def test_a_name_goes_on_where_it_was(store: Store) -> None:
    place_orders(store, 1, 2)
    for expected in ([1, 2], [3]):
        handler = Handler()
        with store.cursor_worker(ORDERS, handler, name=NAME) as worker:
            caught_up(store)
        assert (worker.name, handler.seen) == (NAME, expected)
        place_orders(store, 3)


def test_a_new_worker_may_begin_at_the_end(store: Store) -> None:
    place_orders(store, 1)
    handler = Handler()
    with store.cursor_worker(ORDERS, handler, name=NAME, start="end"):
        place_orders(store, 2)
        caught_up(store)
    assert handler.seen == [2]


@pytest.mark.parametrize("verdict", [None, Continue])
def test_a_handler_that_says_nothing_or_continue_goes_on(verdict: Verdict | None, store: Store) -> None:
    place_orders(store, 1, 2, 3)
    handler = Handler(lambda batch: verdict)
    with store.cursor_worker(ORDERS, handler, name=NAME, batch_size=1) as worker:
        caught_up(store)
        assert repr(worker) == "<Worker 'mailer' running>"
    assert handler.seen == [1, 2, 3]
    assert worker.state == "stopped"


def test_stop_commits_the_batch_and_ends(store: Store) -> None:
    receipts = place_orders(store, 1, 2, 3)
    handler = Handler(lambda batch: Stop)
    worker = store.cursor_worker(ORDERS, handler, name=NAME, batch_size=2)
    ended(worker)
    assert (handler.seen, worker.state) == ([1, 2], "stopped")
    assert committed(store) == receipts[1].global_sequence


def test_stop_and_rollback_ends_without_committing(store: Store) -> None:
    receipts = place_orders(store, 1, 2, 3)
    handler = Handler(lambda batch: StopAndRollback if 2 in batch else Continue)
    worker = store.cursor_worker(ORDERS, handler, name=NAME, batch_size=1)
    ended(worker)
    assert (handler.seen, worker.state) == ([1, 2], "stopped")
    assert committed(store) == receipts[0].global_sequence


@pytest.mark.parametrize(("found", "name"), [(True, "bool"), ("continue", "str"), ([], "list")])
def test_a_result_that_says_nothing_known_is_an_error_and_commits_nothing(
    found: object, name: str, store: Store
) -> None:
    place_orders(store, 1)
    error = error_of(store.cursor_worker(ORDERS, Handler(lambda batch: found), name=NAME))
    assert type(error) is InvalidRequestError
    assert str(error) == f"handler's result: found {name}, expected Continue, Stop, StopAndRollback or None"
    assert committed(store) is None


def test_a_batch_has_at_most_as_many_events_as_asked_for(store: Store) -> None:
    place_orders(store, *range(7))
    handler = Handler()
    with store.cursor_worker(ORDERS, handler, name=NAME, batch_size=3):
        caught_up(store)
    assert handler.batches == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_batch_has_at_most_64_events_unless_told_otherwise(store: Store) -> None:
    place_orders(store, *range(65))
    handler = Handler()
    with store.cursor_worker(ORDERS, handler, name=NAME):
        caught_up(store)
    assert [len(batch) for batch in handler.batches] == [64, 1]


def test_the_place_moves_after_each_batch(store: Store) -> None:
    receipts = place_orders(store, 1, 2, 3)
    places: list[int | None] = []
    with store.cursor_worker(ORDERS, Handler(lambda batch: places.append(committed(store))), name=NAME, batch_size=1):
        caught_up(store)
    assert places == [None, receipts[0].global_sequence, receipts[1].global_sequence]


def test_a_handler_may_append_to_the_store_that_it_reads(store: Store) -> None:
    place_orders(store, 1, 2)
    with store.cursor_worker(ORDERS, Handler(append_more(store)), name=NAME):
        caught_up(store)
    assert payloads(store, Region(kind=PAID)) == [[1, 2]]


def test_several_workers_see_the_same_each_at_its_own_pace(store: Store) -> None:
    handlers = [Handler() for _ in range(5)]
    workers = [store.cursor_worker(ORDERS, each, name=f"w{number}") for number, each in enumerate(handlers)]
    place_orders(store, *range(20))
    for worker in workers:
        caught_up(store, worker.name)
        worker.stop()
        ended(worker)
    assert [each.seen for each in handlers] == [list(range(20))] * 5


# What is asked for wrongly ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"handler": 3}, "handler: found int, expected a function"),
        ({"region": "order"}, "region: found str, expected Region"),
        ({"name": 3}, "name: found a int, expected a str"),
        ({"start": "middle"}, "start: found str, expected 'beginning', 'end', a Place or an int"),
        ({"batch_size": 0}, "batch_size: found 0, expected"),
        ({"batch_size": True}, "batch_size: found "),
        ({"batch_size": 2.0}, "batch_size: found "),
        ({"restart": 3}, "restart: found int, expected RestartPolicy"),
        ({"on_error": "park"}, "on_error: found str, expected OnError"),
        ({"on_error": OnError.park, "name": None}, "on_error: found park without a name, expected a name to park"),
        ({"on_error": OnError.park, "region": EVERYTHING}, "on_error: found park in Region"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(wrong: dict[str, Loose], message: str, store: Store) -> None:
    arguments: dict[str, Loose] = {"region": ORDERS, "handler": Handler(), "name": NAME} | wrong
    with pytest.raises(InvalidRequestError) as caught:
        store.cursor_worker(arguments.pop("region"), arguments.pop("handler"), **arguments)
    assert str(caught.value).startswith(message)
    with store.cursor_worker(ORDERS, Handler(), name=NAME):
        pass


def test_a_name_is_held_once(store: Store) -> None:
    with store.cursor_worker(ORDERS, Handler(), name=NAME):
        with pytest.raises(PlaceConflictError) as caught:
            store.cursor_worker(ORDERS, Handler(), name=NAME)
        assert caught.value.name == NAME
        with pytest.raises(PlaceConflictError):
            store.react_loop(ORDERS, lambda event, reactions: None, name=NAME)
    with store.cursor_worker(ORDERS, Handler(), name=NAME):
        pass


# Stopping and joining ---------------------------------------------------------------------------------------------


def append_more(store: Store) -> Callable[[list[Any]], None]:
    """Return what answers a batch with an event."""

    def act(batch: list[Any]) -> None:
        store.append(ORDER, PAID, batch)

    return act


def test_stop_waits_for_what_is_being_handled_and_commits_it(store: Store) -> None:
    receipts = place_orders(store, 1, 2)
    began, go_on = Event(), Event()

    def act(batch: list[Any]) -> None:
        began.set()
        assert go_on.wait(PATIENCE_SECONDS)

    worker = store.cursor_worker(ORDERS, handler := Handler(act), name=NAME, batch_size=1)
    assert began.wait(PATIENCE_SECONDS)
    worker.stop()
    worker.stop()
    assert not worker.join(0)
    assert worker.state == "running"
    go_on.set()
    ended(worker)
    assert (handler.seen, worker.state, repr(worker)) == ([1], "stopped", "<Worker 'mailer' stopped>")
    assert committed(store) == receipts[0].global_sequence


def test_a_worker_that_waits_stops_at_once(store: Store) -> None:
    with store.cursor_worker(ORDERS, Handler()) as worker:
        started = monotonic()
        worker.stop()
        ended(worker)
    assert monotonic() - started < PATIENCE_SECONDS / 2


def test_a_handler_may_stop_and_join_its_own_worker(store: Store) -> None:
    found: list[object] = []
    workers: list[Worker] = []
    ready = Event()

    def act(batch: list[Any]) -> None:
        assert ready.wait(PATIENCE_SECONDS)
        workers[0].stop()
        found.append(workers[0].join())

    workers.append(store.cursor_worker(ORDERS, Handler(act)))
    ready.set()
    place_orders(store, 1)
    ended(workers[0])
    assert found == [False]


def test_its_thread_bears_its_name(store: Store) -> None:
    names: list[str] = []
    with store.cursor_worker(ORDERS, Handler(lambda batch: names.append(current_thread().name)), name=NAME):
        place_orders(store, 1)
        caught_up(store)
    assert names == ["batpak-worker-mailer"]


def test_a_signal_handler_may_stop_a_worker(store: Store) -> None:
    worker = store.cursor_worker(ORDERS, Handler(lambda batch: os.kill(os.getpid(), signal.SIGUSR1)), name=NAME)
    before = signal.signal(signal.SIGUSR1, lambda *_: worker.stop())
    try:
        place_orders(store, 1)
        ended(worker)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert worker.state == "stopped"


def test_a_worker_does_not_keep_a_program_alive(tmp_path: Path) -> None:
    program = """
        import sys
        from batpak import Region, Store
        store = Store.open(sys.argv[1])
        store.cursor_worker(Region(), lambda events: None, name="w")
        print("end")
    """
    done = run_python(program, tmp_path)
    assert (done.returncode, done.stdout) == (0, "end\n")
    assert "Traceback" not in done.stderr


def test_in_a_forked_child_there_is_nobody_to_wait_for(tmp_path: Path) -> None:
    program = """
        import os, sys
        from batpak import ForkedStoreError, Region, Store
        with Store.open(sys.argv[1]) as store, store.cursor_worker(Region(), lambda events: None, name="w") as worker:
            child = os.fork()
            if not child:
                try:
                    worker.join()
                except ForkedStoreError:
                    os._exit(7)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), worker.state)
    """
    assert run_python(program, tmp_path).stdout == "7 running\n"


# Errors -----------------------------------------------------------------------------------------------------------


def test_p37_a_handler_that_raises_goes_on_from_what_was_committed_last(store: Store) -> None:
    place_orders(store, 1, 2, 3, 4)
    handler = Handler(failing_at(4, times=1))
    with store.cursor_worker(ORDERS, handler, name=NAME, batch_size=2):
        caught_up(store)
    assert handler.batches == [[1, 2], [3, 4], [3, 4]]


def test_p37_without_a_name_it_goes_on_from_what_it_handled_last(store: Store) -> None:
    place_orders(store, 1, 2, 3, 4)
    handler = Handler(failing_at(4, times=1))
    with store.cursor_worker(ORDERS, handler, batch_size=2):
        until(lambda: len(handler.batches) == 3, "batches")
    assert handler.batches == [[1, 2], [3, 4], [3, 4]]


def test_p37_a_worker_whose_restarts_are_used_up_ends_with_the_error(store: Store) -> None:
    receipts = place_orders(store, 1, 2)
    handler = Handler(failing_at(2))
    worker = store.cursor_worker(ORDERS, handler, name=NAME, batch_size=1, restart=RestartPolicy.bounded(2, 60))
    error = error_of(worker)
    assert type(error) is FailedError
    assert error_of(worker) is error
    assert (worker.state, repr(worker)) == ("failed", "<Worker 'mailer' failed>")
    assert handler.seen == [1, 2, 2, 2]
    assert committed(store) == receipts[0].global_sequence


@pytest.mark.parametrize(("restart", "calls"), [(None, 2), (RestartPolicy.never(), 1), (RestartPolicy(3), 4)])
def test_p37_a_handler_is_called_as_often_as_the_policy_says(
    restart: RestartPolicy | None, calls: int, store: Store
) -> None:
    place_orders(store, 1)
    handler = Handler(failing_at(1))
    assert type(error_of(store.cursor_worker(ORDERS, handler, restart=restart))) is FailedError
    assert handler.batches == [[1]] * calls


def test_p37_restarts_are_counted_anew_when_their_time_has_passed(store: Store) -> None:
    place_orders(store, 1)
    times = iter(range(5))

    def act(batch: list[Any]) -> None:
        if next(times, None) is not None:
            hand_clock(store).advance(6)
            raise FailedError

    with store.cursor_worker(ORDERS, handler := Handler(act), name=NAME, restart=RestartPolicy.bounded(2, 10)):
        caught_up(store)
    assert handler.batches == [[1]] * 6


def test_p37_a_name_can_be_taken_up_again_after_an_error(store: Store) -> None:
    place_orders(store, 1)
    error_of(store.cursor_worker(ORDERS, Handler(failing_at(1)), name=NAME))
    with store.cursor_worker(ORDERS, handler := Handler(), name=NAME):
        caught_up(store)
    assert handler.seen == [1]


def test_p37_the_end_of_a_block_raises_what_ended_the_worker(store: Store) -> None:
    place_orders(store, 1)
    with pytest.raises(FailedError), store.cursor_worker(ORDERS, Handler(failing_at(1))) as worker:
        until(lambda: worker.state == "failed", "failure")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_the_worker_without_a_restart(error: type[BaseException], store: Store) -> None:
    place_orders(store, 1)

    def act(batch: list[Any]) -> NoReturn:
        raise error

    worker = store.cursor_worker(ORDERS, handler := Handler(act), name=NAME, on_error=OnError.retry(3, 0))
    assert type(error_of(worker)) is error
    assert (handler.batches, worker.state, committed(store)) == ([[1]], "failed", None)


def test_a_place_that_cannot_be_saved_counts_against_the_restarts(journal: Journal) -> None:
    place_orders(journal.store, 1)
    handler = Handler()
    journal.files.fail("pwrite", errno.EIO, name="cursors/*", call=2)  # the first makes the file
    with journal.store.cursor_worker(ORDERS, handler, name=NAME):
        caught_up(journal.store)
    assert handler.batches == [[1], [1]]


def test_a_writer_that_has_failed_ends_the_worker_without_a_restart(journal: Journal) -> None:
    place_orders(journal.store, 1)

    def act(batch: list[Any]) -> None:
        journal.files.fail("sync_data", errno.EIO, repeat=True)
        journal.store.append(ORDER, PAID, "to be made durable before the place")

    handler = Handler(act)
    worker = journal.store.cursor_worker(ORDERS, handler, name=NAME, restart=RestartPolicy(5), on_error=OnError.park)
    assert type(error_of(worker)) is WriterFailedError
    assert handler.batches == [[1]]


# Closing and crashes ----------------------------------------------------------------------------------------------


def test_a_store_that_is_closed_ends_workers_that_wait(store: Store) -> None:
    workers = [store.cursor_worker(ORDERS, Handler(), name=name) for name in (NAME, "another", None)]
    store.close()
    assert [type(error_of(worker)) for worker in workers] == [StoreClosedError] * 3


def test_a_store_that_is_closed_ends_a_worker_at_work_and_the_next_open_repeats_it(journal: Journal) -> None:
    place_orders(journal.store, 1)
    began, go_on = Event(), Event()

    def act(batch: list[Any]) -> None:
        began.set()
        assert go_on.wait(PATIENCE_SECONDS)

    worker = journal.store.cursor_worker(ORDERS, Handler(act), name=NAME)
    assert began.wait(PATIENCE_SECONDS)
    journal.store.close()
    go_on.set()
    assert type(error_of(worker)) is StoreClosedError
    with journal.reopen().cursor_worker(ORDERS, handler := Handler(), name=NAME):
        caught_up(journal.store)
    assert handler.seen == [1]


def test_a_handler_may_close_the_store(store: Store) -> None:
    place_orders(store, 1)
    worker = store.cursor_worker(ORDERS, Handler(lambda batch: store.close()), name=NAME)
    assert type(error_of(worker)) is StoreClosedError


def test_a_closed_store_starts_no_worker(store: Store) -> None:
    store.close()
    with pytest.raises(StoreClosedError):
        store.cursor_worker(ORDERS, Handler())
    with pytest.raises(StoreClosedError):
        store.cursor_worker(ORDERS, Handler(), name=NAME)


def test_a_commit_makes_durable_what_the_handler_wrote_before_the_place(journal: Journal) -> None:
    store = journal.store
    place_orders(store, 1)
    with store.cursor_worker(ORDERS, Handler(append_more(store)), name=NAME):
        store.wait_for(NAME, 0, PATIENCE_SECONDS)
    assert payloads(journal.cut_power()) == [1, [1]]


@pytest.mark.parametrize("life", [Journal.kill, Journal.cut_power])
def test_after_a_crash_nothing_that_was_not_handled_is_passed_over(
    life: Callable[[Journal], Store], journal: Journal
) -> None:
    place_orders(journal.store, 1, 2, 3)
    journal.store.sync()
    worker = journal.store.cursor_worker(ORDERS, Handler(failing_at(3)), name=NAME, batch_size=1)
    error_of(worker)
    with life(journal).cursor_worker(ORDERS, handler := Handler(), name=NAME):
        caught_up(journal.store)
    assert handler.seen[-1:] == [3]
    assert handler.seen == [1, 2, 3][-len(handler.seen) :]


# The log ----------------------------------------------------------------------------------------------------------


def test_the_log_tells_a_workers_life(lines: Lines, store: Store) -> None:
    place_orders(store, 1)
    with store.cursor_worker(ORDERS, Handler(failing_at(1, times=1)), name=NAME):
        caught_up(store)
    assert of(lines, "worker.", "cursor.") == [
        {"level": "info", "event": "worker.started", "name": NAME},
        {"level": "warning", "event": "worker.restarted", "name": NAME, "error": "FailedError", "restarts": 1},
        {"level": "debug", "event": "cursor.committed", "name": NAME, "global_sequence": 0},
        {"level": "info", "event": "worker.stopped", "name": NAME},
    ]


def test_the_log_tells_what_a_worker_failed_of(lines: Lines, store: Store) -> None:
    place_orders(store, 1)
    error_of(store.cursor_worker(ORDERS, Handler(failing_at(1)), restart=RestartPolicy.never()))
    assert of(lines, "worker.", "cursor.") == [
        {"level": "info", "event": "worker.started", "name": "unnamed"},
        {"level": "error", "event": "worker.failed", "name": "unnamed", "error": "FailedError"},
    ]


def test_a_store_that_is_closed_is_no_failure_to_the_log(lines: Lines, store: Store) -> None:
    worker = store.cursor_worker(ORDERS, Handler(), name=NAME)
    store.close()
    error_of(worker)
    assert [line["event"] for line in of(lines, "worker.", "cursor.")] == ["worker.started", "worker.stopped"]
