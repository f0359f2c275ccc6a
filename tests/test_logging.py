"""The log: its vocabulary is the table in docs/logging.md, it leaks nothing, and it cannot hurt the store."""

from __future__ import annotations

import ast
import errno
import json
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import closing, suppress
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Condition, Thread
from typing import Any, Literal, NamedTuple, NoReturn
from uuid import UUID

import msgpack
import pytest
import structlog

from batpak import (
    NO_STREAM,
    BatpakError,
    ConflictError,
    Coordinate,
    CorruptStoreError,
    EventKind,
    InvalidRequestError,
    NewEvent,
    OnError,
    PayloadError,
    ReadOnlyStore,
    ReentrantCallError,
    Region,
    Store,
    StoreClosedError,
    StoreConfig,
    StoredEvent,
)
from batpak.actors import index
from batpak.actors.messages import Append, Flight
from batpak.storage import segment, watermark
from batpak.testing.clock import HandClock
from batpak.testing.faulty import FaultyFiles
from batpak.testing.memory import MemoryFiles

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")
ORDER = Coordinate("order:1", "shop")
PLACED = EventKind(0x1, 0x001)
PATIENCE_SECONDS = 30.0
NEVER_SLOW = 86_400.0
SEGMENT = "000001.fbat"
LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR"}
EVERYTHING = Region()
CANARY = "canary-4f1d7"

Driver = Literal["assisted", "threaded"]
config = partial(StoreConfig, slow_command_seconds=NEVER_SLOW)
both_drivers = pytest.mark.parametrize("driver", ["assisted", "threaded"])


class Line(NamedTuple):
    """One line as a processor sees it."""

    level: str
    event: str
    fields: dict[str, Any]


class Capture:
    """The last processor: keeps every line and lets a test wait for one."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._come = Condition()

    def __call__(self, _: object, method: str, fields: MutableMapping[str, Any]) -> NoReturn:
        with self._come:
            self.lines.append(Line(method, str(fields["event"]), {k: v for k, v in fields.items() if k != "event"}))
            self._come.notify_all()
        raise structlog.DropEvent

    def wait_for(self, event: str) -> Line:
        """Return the first line of *event*, when it has come."""
        with self._come:
            assert self._come.wait_for(lambda: self.of(event), PATIENCE_SECONDS), f"{event} has not come"
        return self.of(event)[0]

    def of(self, event: str) -> list[Line]:
        return [line for line in self.lines if line.event == event]


def configure(*processors: Callable[[Any, str, MutableMapping[str, Any]], Any]) -> None:
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *processors],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        cache_logger_on_first_use=False,
    )


@pytest.fixture
def capture() -> Iterator[Capture]:
    """Collect what is logged at debug."""
    capture = Capture()
    configure(capture)
    yield capture
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def append_some(store: Store, count: int = 1) -> None:
    for number in range(count):
        store.append(ORDER, PLACED, {"number": number})


def table() -> dict[str, tuple[str, frozenset[str]]]:
    """Return level and fields of each event that the page lists."""
    rows = [row.strip("|").split("|") for row in PAGE.splitlines() if row.startswith("| `") and row.count("|") == 5]
    return {
        event.strip(" `"): (level.strip(), frozenset(field.strip(" `") for field in fields.split(",")))
        for event, level, fields, _ in rows
    }


# Scenarios: each brings about the event it is listed under -------------------------------------------------------


def ordinary_session(_: Capture, __: pytest.MonkeyPatch) -> None:
    files = MemoryFiles()
    with closing(Store(files.beside(), config())) as store:
        receipt = store.append(ORDER, PLACED, {"total": 10}, durable=True)
        store.append_batch([NewEvent(ORDER, PLACED, {})])
        store.get(receipt.event_id)
        with suppress(ConflictError):
            store.append(ORDER, PLACED, {}, expected_sequence=NO_STREAM)
    with closing(ReadOnlyStore(files, config())) as reader:
        assert len(list(reader.read())) == 2


def slow_commands(_: Capture, __: pytest.MonkeyPatch) -> None:
    with closing(Store(MemoryFiles(), config(slow_command_seconds=1e-9))) as store:
        append_some(store)


def torn_end(_: Capture, __: pytest.MonkeyPatch) -> None:
    files = MemoryFiles()
    with closing(Store(files.beside(), config())) as store:
        append_some(store)
    with closing(files.open_write(SEGMENT)) as file:
        file.pwrite(b"torn", file.size())
    Store(files, config()).close()


def foreign_position(_: Capture, __: pytest.MonkeyPatch) -> None:
    files = MemoryFiles()
    with closing(Store(files.beside(), config())) as store:
        append_some(store)
    position = watermark.read(files)
    assert position is not None
    other = watermark.DurablePosition(position.store_id, position.count + 1, 1, bytes(16), 0, 1)
    files.write_atomic(watermark.NAME, watermark.encode(other))
    Store(files, config()).close()


def interrupted_thread(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "RUN_EVENTS", 8)
    files = FaultyFiles(MemoryFiles())
    files.fail("create", KeyboardInterrupt(), name="index/*")
    with closing(Store(files, config())) as store:
        append_some(store, 9)  # the ninth freezes the tail
        capture.wait_for("actor.interrupted")


def full_disk_for_the_index(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "RUN_EVENTS", 8)
    files = FaultyFiles(MemoryFiles())
    files.fail("create", errno.ENOSPC, name="index/*")
    with closing(Store(files, config())) as store:
        append_some(store, 9)  # the ninth freezes the tail
        capture.wait_for("index.not_written")


def full_disk_for_the_position(_: Capture, __: pytest.MonkeyPatch) -> None:
    files = FaultyFiles(MemoryFiles())
    with closing(Store(files, config())) as store:
        append_some(store)
        files.fail("pwrite", errno.ENOSPC, name=watermark.NAME)
        store.sync()


def no_reservations(_: Capture, __: pytest.MonkeyPatch) -> None:
    with closing(Store(MemoryFiles(allocates=False), config())) as store:
        append_some(store)


def failing_seal(capture: Capture, __: pytest.MonkeyPatch) -> None:
    files = FaultyFiles(MemoryFiles())
    files.fail("truncate", errno.EIO, name=SEGMENT)
    with closing(Store(files, config(segment_bytes=4096))) as store:
        append_some(store, 100)
        capture.wait_for("segment.not_sealed")


def damaged_run(_: Capture, __: pytest.MonkeyPatch) -> None:
    files = MemoryFiles()
    with closing(Store(files.beside(), config())) as store:
        append_some(store, index.CLOSE_EVENTS)
    (name,) = files.list("index")
    with closing(files.open_write(f"index/{name}")) as file:
        body = file.pread(16_384, 4096)
        file.pwrite(bytes(byte ^ 0xFF for byte in body), 4096)
    with closing(Store(files, config())) as store:
        assert len(store.query(Region(entity="order:1"))) == index.CLOSE_EVENTS


def worker_session(capture: Capture, _: pytest.MonkeyPatch) -> None:
    def fail_twice(events: list[StoredEvent]) -> None:
        raise ZeroDivisionError

    with closing(Store(MemoryFiles(), config())) as store:
        append_some(store, 1)
        with store.cursor_worker(EVERYTHING, fail_twice, name="parks", on_error=OnError.park):
            capture.wait_for("worker.parked")
        with suppress(ZeroDivisionError), store.cursor_worker(EVERYTHING, fail_twice, name="fails"):
            capture.wait_for("worker.failed")
        with store.react_loop(EVERYTHING, lambda _, reactions: None, name="reacts"):
            capture.wait_for("reactor.reacted")


def checkpoint_of_the_original(_: Capture, __: pytest.MonkeyPatch) -> None:
    files = MemoryFiles()
    files.make_folder("cursors")
    identity = "entity=*|scope=*|fact=none|clock=*"
    fields = {"position": 0, "started": True, "process_boot_ns": None, "region_identity": identity}
    files.write_atomic("cursors/old.ckpt", msgpack.packb(fields))
    with closing(Store(files, config())) as store:
        append_some(store, 1)
        store.cursor(EVERYTHING, name="old").close()


SCENARIOS: dict[str, Callable[[Capture, pytest.MonkeyPatch], None]] = {
    "store.open": ordinary_session,
    "store.close": ordinary_session,
    "recovery.cut": torn_end,
    "recovery.note": foreign_position,
    "actor.command": ordinary_session,
    "actor.slow": slow_commands,
    "actor.interrupted": interrupted_thread,
    "writer.commit": ordinary_session,
    "writer.synced": ordinary_session,
    "writer.position_not_saved": full_disk_for_the_position,
    "segment.not_preallocated": no_reservations,
    "segment.not_sealed": failing_seal,
    "index.not_written": full_disk_for_the_index,
    "index.rebuilt": damaged_run,
    "cursor.committed": worker_session,
    "cursor.imported": checkpoint_of_the_original,
    "worker.started": worker_session,
    "worker.restarted": worker_session,
    "worker.parked": worker_session,
    "worker.stopped": worker_session,
    "worker.failed": worker_session,
    "reactor.reacted": worker_session,
}


def test_every_event_of_the_page_has_a_scenario() -> None:
    assert list(SCENARIOS) == list(table())


@pytest.mark.parametrize("event", SCENARIOS)
def test_what_is_emitted_stands_on_the_page(event: str, capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    SCENARIOS[event](capture, monkeypatch)
    assert capture.of(event)
    known = table()
    for line in capture.lines:
        assert (line.level, frozenset(line.fields)) == known[line.event], line


def emitted_in_the_source() -> Iterator[tuple[str, str, set[str]]]:
    """Yield event, level and fields of every line that the source spells out."""
    for path in (ROOT / "batpak").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="emit"),
                    args=[ast.Name(id=level), ast.Constant(value=str(event))],
                    keywords=keywords,
                ) if level in LEVELS:
                    yield event, level.lower(), {str(keyword.arg) for keyword in keywords}
                case ast.Tuple(elts=[ast.Name(id=level), ast.Constant(value=str(event)), ast.Dict(keys=keys)]) if (
                    level in LEVELS
                ):
                    yield event, level.lower(), {"actor", *(ast.literal_eval(key) for key in keys if key is not None)}


def test_what_the_source_emits_stands_on_the_page() -> None:
    known = table()
    found = list(emitted_in_the_source())
    assert [(event, (level, frozenset(fields))) for event, level, fields in found] == [
        (event, known[event]) for event, _, _ in found
    ]
    assert known.keys() - {event for event, _, _ in found} == {"actor.command", "actor.slow"}


def test_every_field_is_explained() -> None:
    fields = {field for _, names in table().values() for field in names}
    explained = PAGE.partition("## Fields")[2].partition("##")[0]
    assert [field for field in fields if f"`{field}`" not in explained] == []


def test_there_is_one_line_about_fsyncs_in_a_second(capture: Capture) -> None:
    clock = HandClock()
    with closing(Store(MemoryFiles(), config(clock=clock))) as store:
        for _ in range(5):
            append_some(store)
            store.sync()
        assert [line.fields["durable_sequence"] for line in capture.of("writer.synced")] == [0]
        clock.advance(1.0)
        append_some(store)
        store.sync()
        assert [line.fields["durable_sequence"] for line in capture.of("writer.synced")] == [0, 5]


def test_the_line_that_the_page_shows_has_the_fields_of_the_table() -> None:
    shown = json.loads(PAGE.partition("```json")[2].partition("```")[0])
    assert shown.keys() == {*table()[shown["event"]][1], "event", "level", "request_id"}


# Context ---------------------------------------------------------------------------------------------------------


@both_drivers
def test_a_command_carries_the_context_of_its_caller(driver: Driver, capture: Capture) -> None:
    def request(store: Store, number: int) -> None:
        with structlog.contextvars.bound_contextvars(request_id=number):
            receipt = store.append(Coordinate(f"order:{number}", "shop"), PLACED, {})
            store.get(receipt.event_id)

    with closing(Store(MemoryFiles(), config(driver=driver))) as store:
        threads = [Thread(target=request, args=(store, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    commands = [line.fields for line in capture.of("actor.command")]
    for name in ("Append", "Load"):
        assert sorted(line["request_id"] for line in commands if line["command"] == name) == [0, 1, 2, 3]


@both_drivers
def test_each_item_of_a_flight_carries_the_context_of_its_caller(driver: Driver, capture: Capture) -> None:
    contexts = []
    for number in range(3):
        with structlog.contextvars.bound_contextvars(request_id=number):
            contexts.append(copy_context())
    items = [
        Append("order:1", "shop", 0x1001, b"\xc0", 1_700_000_000_000_000, expected_sequence=at) for at in (-1, 7, 0)
    ]
    with closing(Store(MemoryFiles(), config(driver=driver))) as store:
        store._writer.ask(Flight(items, contexts))
    lines = [line.fields for line in capture.of("actor.command") if line.fields["command"] == "Append"]
    assert [(line["request_id"], line["outcome"]) for line in lines] == [
        (0, "ok"),
        (1, "SequenceConflictError"),
        (2, "ok"),
    ]


def test_context_that_ends_before_the_call_is_on_no_line(capture: Capture) -> None:
    with closing(Store(MemoryFiles(), config())) as store:
        with structlog.contextvars.bound_contextvars(request_id="r-17"):
            append_some(store)
        capture.lines.clear()
        append_some(store)
    assert capture.lines
    assert not any("request_id" in line.fields for line in capture.lines)


# Configuration ---------------------------------------------------------------------------------------------------

UNCONFIGURED = """
import logging, structlog
import batpak
from batpak import Coordinate, EventKind, Store
assert not structlog.is_configured()
assert not logging.root.handlers and logging.root.level == logging.WARNING
with Store.open("journal") as store:
    store.append(Coordinate("order:1", "shop"), EventKind(1, 1), {"total": 10}, durable=True)
    store.append_batch([])
print("so far nothing")
with open("journal/000001.fbat", "ab") as file:
    file.write(b"torn")
Store.open("journal").close()
assert not structlog.is_configured()
"""


def test_a_program_that_configures_nothing_sees_warnings_only(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", UNCONFIGURED],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[0] == "so far nothing"
    assert len(lines) == 2
    assert "recovery.cut" in lines[1]


def test_a_level_that_is_raised_while_a_store_is_open_is_noticed(capture: Capture) -> None:
    with closing(Store(MemoryFiles(), config())) as store:
        append_some(store)
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        append_some(store, 64)
        capture.lines.clear()
        append_some(store, 8)
    assert capture.lines == []


# Processors that misbehave ---------------------------------------------------------------------------------------


@both_drivers
def test_a_processor_that_appends_is_refused_and_nothing_hangs(driver: Driver, capture: Capture) -> None:
    refused: list[BaseException] = []

    def appending(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        batch = [NewEvent(ORDER, PLACED, 0)]
        for call in (
            lambda: append_some(store),
            lambda: store.append_batch(batch),
            store.sync,
            lambda: list(store.read()),
        ):
            try:
                call()
            except StoreClosedError:  # the line about closing
                pass
            except BatpakError as error:
                refused.append(error)
        return fields

    store = Store(MemoryFiles(), config(driver=driver))
    configure(appending, capture)
    with closing(store):
        append_some(store, 3)
        store.sync()
        assert store.stats().events == 3
    assert {type(error) for error in refused} == {ReentrantCallError}
    assert len(capture.of("actor.command")) >= 3


@both_drivers
def test_a_processor_that_fails_changes_nothing(driver: Driver, capture: Capture) -> None:
    def failing(_: object, __: str, fields: MutableMapping[str, Any]) -> NoReturn:
        with suppress(structlog.DropEvent):
            capture(_, __, fields)
        raise RuntimeError

    store = Store(MemoryFiles(), config(driver=driver))
    configure(failing)
    with closing(store):
        append_some(store, 3)
        assert [event.payload for event in store.read()] == [{"number": number} for number in range(3)]
    assert len(capture.of("actor.command")) >= 3


def test_a_processor_that_closes_the_store_lets_the_call_finish(capture: Capture) -> None:
    def closing_it(_: object, __: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        store.close()
        return fields

    files = MemoryFiles()
    store = Store(files.beside(), config())
    configure(closing_it, capture)
    assert store.append(ORDER, PLACED, {}).global_sequence == 0
    assert store.diagnostics().state == "closed"


# Payloads --------------------------------------------------------------------------------------------------------


class Heard:
    """What a program could print: the errors of many calls, and other text."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.said: list[str] = []

    def refusal(
        self, expected: type[BatpakError], call: Callable[..., object], *args: object, **kwargs: object
    ) -> None:
        """Make a call that has to fail."""
        with pytest.raises(expected) as caught:
            call(*args, **kwargs)
        self.errors.append(caught.value)

    def texts(self) -> list[str]:
        """Return all of it, with whatever led to an error."""
        texts = list(self.said)
        waiting: list[BaseException | None] = [*self.errors]
        while waiting:
            error = waiting.pop()
            if error is not None:
                waiting += [error.__cause__, error.__context__]
                texts += [str(error), repr(error), repr(error.args), repr(vars(error))]
                texts += traceback.format_exception(error)
        return texts


def with_canary() -> dict[Any, Any]:
    """Return a payload that is full of what must not be seen."""
    return {"text": CANARY, "bytes": CANARY.encode(), f"a {CANARY}": [1, {"deep": [CANARY]}], CANARY.encode(): None}


def assert_unseen(heard: Heard, capture: Capture) -> None:
    """Look for the canary wherever text comes out."""
    assert capture.lines
    texts = [*heard.texts(), *map(repr, capture.lines)]
    assert [text for text in texts if CANARY in text or CANARY.encode().hex() in text] == []


def write_canaries(store: Store) -> UUID:
    """Make every kind of write that succeeds; the first event's id."""
    first = store.append(ORDER, PLACED, with_canary(), idempotency_key=CANARY, durable=True)
    store.append(ORDER, PLACED, with_canary(), idempotency_key=CANARY)
    store.append_reaction(Coordinate("order:2", "shop"), PLACED, with_canary(), cause=first)
    store.append_batch([NewEvent(ORDER, PLACED, with_canary()), NewEvent(ORDER, PLACED, CANARY, caused_by=0)])
    return first.event_id


def refuse_writes(store: Store, heard: Heard) -> None:
    """Make every kind of write that is refused."""
    payload = with_canary()
    append, batch, refused = store.append, store.append_batch, heard.refusal
    for fault in (object(), {CANARY}, 2**64, "\ud800" + CANARY, {f"a {CANARY}": 1j}, datetime(2024, 1, 1)):  # noqa: DTZ001
        bad: Any = [CANARY, {f"a {CANARY}": fault}]
        refused(PayloadError, append, ORDER, PLACED, bad)
        refused(PayloadError, batch, [NewEvent(ORDER, PLACED, payload), NewEvent(ORDER, PLACED, bad)])
    refused(InvalidRequestError, append, ORDER, PLACED, CANARY * 1000)
    refused(InvalidRequestError, batch, [NewEvent(ORDER, PLACED, payload)] * 9)
    refused(InvalidRequestError, batch, [payload])
    refused(InvalidRequestError, append, ORDER, EventKind(0, 1), payload)
    refused(InvalidRequestError, append, payload, PLACED, payload)
    refused(InvalidRequestError, append, ORDER, payload, payload)
    for argument in ("durable", "correlation_id", "causation_id", "idempotency_key", "flags"):
        refused(InvalidRequestError, append, ORDER, PLACED, payload, **{argument: payload})
    refused(InvalidRequestError, store.append_reaction, ORDER, PLACED, payload, cause=payload)
    refused(ConflictError, append, ORDER, PLACED, payload, expected_sequence=77)
    refused(ConflictError, append, ORDER, PLACED, [payload], idempotency_key=CANARY)
    refused(ConflictError, batch, [NewEvent(ORDER, PLACED, CANARY, idempotency_key=key) for key in (CANARY, "new")])


def read_everything(store: Store | ReadOnlyStore, first: UUID, heard: Heard) -> None:
    """Make every read, and every read that is refused."""
    payload: Any = with_canary()
    event = store.get(first)
    assert event.payload == payload
    answers: list[object] = [event, event.place, event.extensions, store, store.stats()]
    answers += [*store.read(), *store.read_stream("order:1"), *store.get_many([first]), *store.effects(first)]
    answers += [store.query(Region()), store.by_scope("shop"), store.by_fact(PLACED), store.stream("order:1")]
    answers += [store.latest("order:1"), store.walk_ancestors(first), store.causes(first), store.verify_chain()]
    answers += [
        store.place_at(datetime(2100, 1, 1, tzinfo=UTC)),
        store.diagnostics() if isinstance(store, Store) else 0,
    ]
    heard.said += map(repr, answers)
    for call in (store.get, store.causes, store.effects, store.walk_ancestors, store.query, store.place_at):
        heard.refusal(InvalidRequestError, call, payload)
    heard.refusal(InvalidRequestError, store.query, Region(), after=payload)
    heard.refusal(BatpakError, store.get, UUID(int=1))


@both_drivers
def test_no_payload_is_in_a_line_or_an_error(driver: Driver, capture: Capture) -> None:
    heard = Heard()
    files = MemoryFiles()
    store = Store(files.beside(), config(driver=driver, max_payload_bytes=4096, max_batch_events=8))
    with closing(store):
        first = write_canaries(store)
        refuse_writes(store, heard)
        read_everything(store, first, heard)
        heard.refusal(BatpakError, Store, files.beside(), config())
    heard.refusal(BatpakError, store.append, ORDER, PLACED, with_canary())
    with closing(ReadOnlyStore(files, config())) as reader:
        reader.refresh()
        read_everything(reader, first, heard)
    assert_unseen(heard, capture)


@pytest.mark.parametrize("operation", ["pwrite", "sync_data", "pread", "truncate"])
@both_drivers
def test_no_payload_is_in_a_line_or_an_error_when_the_disk_fails(
    driver: Driver, operation: str, capture: Capture
) -> None:
    heard = Heard()
    files = FaultyFiles(MemoryFiles())
    store = Store(files, config(driver=driver))
    first = write_canaries(store)
    if operation == "truncate":  # what repairs a write that stopped half-way
        files.shorten("pwrite", 20, name=SEGMENT)
        files.fail("pwrite", errno.ENOSPC, call=2, name=SEGMENT)
    files.fail(operation, errno.EIO, name=SEGMENT, repeat=True)
    if operation == "pread":
        heard.refusal(BatpakError, store.get, first)
    else:
        heard.refusal(BatpakError, store.append, ORDER, PLACED, with_canary(), durable=True)
    with suppress(BatpakError):
        write_canaries(store)
    heard.said.append(repr(store.diagnostics()))
    files.heal()
    with suppress(BatpakError):
        store.close()
    assert_unseen(heard, capture)


def forged(body: bytes, segment_format: Literal[1, 2] = 2) -> MemoryFiles:
    """Return a journal whose last frame has a right checksum and holds *body*."""
    files = MemoryFiles()
    with closing(Store(files.beside(), config(segment_format=segment_format))) as store:
        append_some(store)
        end = store._system.writer.journal.end
    meta = segment.read_meta(files, 1)
    with closing(files.open_write(SEGMENT)) as file:
        file.truncate(end)
        file.pwrite(segment.frame_bytes(meta, body), end)
    return files


def bodies_with_canary() -> dict[str, bytes]:
    """Return bodies that are none, by what is wrong with them."""
    body: list[Any] = [bytes(16), 1, 0, 0x1001, "order:1", "shop", 1, 0, None, None, None, 0, 0, CANARY.encode(), {}]
    packed = msgpack.packb(body)
    return {
        "another value": msgpack.packb(CANARY),
        "bytes behind it": packed + CANARY.encode(),
        "cut short": packed[:-2],
        "text that is not UTF-8": packed.replace(b"order:1", b"order\xff1").replace(b"shop", b"\xffop\xff"),
        "another type": msgpack.packb([*body[:13], CANARY, {}]),
        "a key that is no text": msgpack.packb([*body[:14], {CANARY.encode(): 1, 7: CANARY}]),
        "nesting": b"\x91" * 2000 + packed,
    }


def format_1_bodies_with_canary() -> dict[str, bytes]:
    """Return bodies that are none in format 1."""
    event: dict[str, Any] = {"header": [CANARY] * 10, "payload": CANARY.encode(), "hash_chain": None}
    frame: dict[str, Any] = {"event": event, "entity": "order:1", "scope": "shop"}
    return {
        "another value": msgpack.packb(CANARY),
        "cut short": msgpack.packb(frame)[:-2],
        "a header of another kind": msgpack.packb(frame),
        "no header": msgpack.packb(frame | {"event": {"payload": CANARY.encode()}}),
        "a key that comes twice": msgpack.packb([event, CANARY, CANARY])[:-20],
        "text that is not UTF-8": msgpack.packb(frame).replace(b"order:1", b"order\xff1"),
    }


@pytest.mark.parametrize(
    ("segment_format", "body"),
    [
        *(pytest.param(2, body, id=f"2-{fault}") for fault, body in bodies_with_canary().items()),
        *(pytest.param(1, body, id=f"1-{fault}") for fault, body in format_1_bodies_with_canary().items()),
    ],
)
def test_no_payload_is_in_the_refusal_of_a_forged_frame(
    segment_format: Literal[1, 2], body: bytes, capture: Capture
) -> None:
    heard = Heard()
    files = forged(body, segment_format)
    heard.refusal(CorruptStoreError, Store, files.beside(), config())
    heard.refusal(CorruptStoreError, ReadOnlyStore, files, config())
    assert_unseen(heard, capture)


def test_no_payload_is_in_the_refusal_of_one_that_cannot_be_unpacked(capture: Capture) -> None:
    heard = Heard()
    body = [bytes(16), 1, 0, 0x1001, "order:2", "shop", 0, 0, None, None, None, 0, 0, b"\xc1" + CANARY.encode(), {}]
    with closing(Store(forged(msgpack.packb(body)), config())) as store:
        for payload in (event for event in store.read_stream("order:2")):
            heard.refusal(PayloadError, lambda event=payload: event.payload)
    assert len(heard.errors) == 1
    assert_unseen(heard, capture)


def test_no_payload_is_in_the_refusal_of_a_damaged_frame(capture: Capture) -> None:
    heard = Heard()
    files = MemoryFiles()
    with closing(Store(files.beside(), config())) as store:
        first = write_canaries(store)
        with closing(files.open_write(SEGMENT)) as file:
            data = file.pread(file.size(), 0)
            file.pwrite(b"X", data.index(CANARY.encode()))
        heard.refusal(CorruptStoreError, store.get, first)
        heard.refusal(CorruptStoreError, store.verify_chain)
    assert_unseen(heard, capture)
