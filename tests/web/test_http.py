"""What the web example promises, over real HTTP to a real server process."""

from __future__ import annotations

import errno
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from uuid import uuid4

import httpx
import pytest

from batpak import BackpressureError, Place, Store, StoreConfig, WriterFailedError
from batpak.aio import AsyncStore
from batpak.testing.faulty import FaultyFiles
from batpak.testing.memory import MemoryFiles
from examples import web
from tests.web.conftest import Start
from tests.web.serving import EXAMPLE, PATIENCE_SECONDS, Board, Json, Sent, environment

FOREIGN = str(Place(0, bytes(32)))
"""The token of a place that no journal has."""


def texts(sent: Sequence[Sent]) -> list[str]:
    return [note["text"] for _, note in sent]


def is_append_of(request_id: str, line: Json) -> bool:
    return line.get("command") == "Append" and line.get("request_id") == request_id


# Writing -------------------------------------------------------------------------------------------------------------


def test_a_note_that_was_posted_can_be_read_where_the_answer_says(shared: Board) -> None:
    answer = shared.post("hello", "posted")
    assert answer.status_code == 201
    note = shared.client.get(answer.headers["location"]).json()
    assert (note["topic"], note["text"], note["sequence"]) == ("posted", "hello", 0)
    assert {name: note[name] for name in ("id", "place", "sequence")} == answer.json()


def test_a_post_that_is_sent_again_with_its_key_gets_the_same_receipt(shared: Board) -> None:
    first, again = (shared.post("pay", "retried", key="attempt-1") for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert shared.texts(topic="retried") == ["pay"]


def test_a_key_that_is_used_for_another_note_is_a_conflict(shared: Board) -> None:
    shared.post("first", "reused", key="attempt-2")
    answer = shared.post("second", "reused", key="attempt-2")
    assert (answer.status_code, answer.json()["error"]) == (409, "IdempotencyConflictError")
    assert shared.texts(topic="reused") == ["first"]


def test_a_note_at_the_expected_sequence_is_taken(shared: Board) -> None:
    first = shared.post("first", "expected", expected_sequence=-1)
    second = shared.post("second", "expected", expected_sequence=first.json()["sequence"])
    assert (first.status_code, second.status_code) == (201, 201)


def test_a_note_at_a_stale_sequence_is_a_conflict_that_says_where_the_topic_stands(shared: Board) -> None:
    for text in ("first", "second"):
        shared.post(text, "stale")
    answer = shared.post("third", "stale", expected_sequence=0)
    assert answer.status_code == 409
    assert answer.json() == {
        "error": "SequenceConflictError",
        "message": "entity 'topic:stale': found sequence 1, expected sequence 0",
        "expected_sequence": 0,
        "actual_sequence": 1,
    }
    assert shared.texts(topic="stale") == ["first", "second"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "InvalidRequestError"),
        (b"no JSON", "InvalidRequestError"),
        (b"[" * 60_000, "InvalidRequestError"),
        (b"[]", "InvalidRequestError"),
        (b'{"topic": "x"}', "InvalidRequestError"),
        (b'{"topic": "x", "text": ""}', "InvalidRequestError"),
        (b'{"topic": "x", "text": "%s"}' % (b"x" * 2_001), "InvalidRequestError"),
        (b'{"topic": "x", "text": 5}', "InvalidRequestError"),
        (b'{"topic": "x", "text": "x", "expected_sequence": "0"}', "InvalidRequestError"),
        (b'{"topic": "../x", "text": "x"}', "InvalidCoordinateError"),
        (b'{"topic": "x", "text": "\\ud800"}', "PayloadError"),
    ],
    ids=["empty", "text", "nested", "list", "partial", "blank", "long", "number", "expectation", "topic", "surrogate"],
)
def test_a_note_that_cannot_be_taken_is_a_bad_request(body: bytes, error: str, shared: Board) -> None:
    answer = shared.client.post("/notes", content=body)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


def test_a_body_that_is_too_long_is_not_read_to_its_end(shared: Board) -> None:
    answer = shared.client.post("/notes", content=b" " * 65_537)
    assert (answer.status_code, "x-request-id" in answer.headers) == (413, True)


def test_what_there_is_no_room_for_is_turned_away_for_a_while_and_not_written(start: Start) -> None:
    board = start("--max-waiting", "1", "--max-wait", "0")
    started = time.monotonic()
    answers: list[httpx.Response] = []
    with ThreadPoolExecutor(8) as pool:
        while {answer.status_code for answer in answers} != {201, 503}:
            assert time.monotonic() - started < PATIENCE_SECONDS
            answers += pool.map(board.post, (f"note {len(answers) + number}" for number in range(32)))
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"] == BackpressureError.__name__
    written = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    assert board.client.get("/healthz").json()["events"] == len(written)


# Reading -------------------------------------------------------------------------------------------------------------


def test_pages_come_one_behind_the_other_and_nothing_is_missing(shared: Board) -> None:
    for number in range(7):
        shared.post(str(number), "paged")
    pages: list[list[str]] = []
    after = ""
    while not pages or pages[-1]:
        page = shared.client.get("/notes", params={"topic": "paged", "limit": "3", "after": after}).json()
        pages.append([note["text"] for note in page["notes"]])
        after = page["next"]
    assert pages == [["0", "1", "2"], ["3", "4", "5"], ["6"], []]


def test_a_page_can_begin_at_the_newest_note(shared: Board) -> None:
    for number in range(4):
        shared.post(str(number), "reversed")
    first = shared.client.get("/notes", params={"topic": "reversed", "limit": "2", "reverse": "true"}).json()
    assert [note["text"] for note in first["notes"]] == ["3", "2"]
    assert shared.texts(topic="reversed", reverse="true", after=first["next"]) == ["1", "0"]


def test_a_topic_that_nobody_has_written_to_is_an_empty_page(shared: Board) -> None:
    assert shared.client.get("/notes", params={"topic": "silent"}).json() == {"notes": [], "next": None}


@pytest.mark.parametrize("reverse", ["false", "true"])
@pytest.mark.parametrize("before", [0, 2])
def test_a_page_is_sent_again_only_when_it_has_changed(before: int, reverse: str, shared: Board) -> None:
    query = {"topic": f"tagged {before} {reverse}", "reverse": reverse}
    for number in range(before):
        shared.post(str(number), query["topic"])
    page = shared.client.get("/notes", params=query)
    known = {"If-None-Match": f'"another", W/{page.headers["etag"]}'}
    answer = shared.client.get("/notes", params=query, headers=known)
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", page.headers["etag"])
    shared.post("new", query["topic"])
    answer = shared.client.get("/notes", params=query, headers=known)
    assert (answer.status_code, len(answer.json()["notes"])) == (200, before + 1)


def test_a_full_page_never_changes(shared: Board) -> None:
    query = {"topic": "full", "limit": "2"}
    tags = []
    for text in ("first", "second", "third"):
        shared.post(text, "full")
        tags.append(shared.client.get("/notes", params=query).headers["etag"])
    assert tags[0] != tags[1] == tags[2]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=ten", "after=5", "after=5.x", "topic=a/b"])
def test_a_query_that_makes_no_sense_is_a_bad_request(query: str, shared: Board) -> None:
    assert shared.client.get(f"/notes?{query}").status_code == 400


def test_a_note_that_is_not_there_is_not_found(shared: Board) -> None:
    answer = shared.client.get(f"/notes/{uuid4()}")
    assert (answer.status_code, answer.json()["error"]) == (404, "EventNotFoundError")


def test_a_place_of_another_journal_is_a_conflict(shared: Board) -> None:
    shared.post("first", "foreign")
    answer = shared.client.get("/notes", params={"after": FOREIGN})
    assert (answer.status_code, answer.json()["error"]) == (409, "StalePlaceError")


# The live stream -----------------------------------------------------------------------------------------------------


def test_a_live_stream_has_what_was_and_then_what_comes(shared: Board) -> None:
    shared.post("before", "live")
    with shared.live(topic="live") as sent:
        place, note = next(sent)
        assert (note["text"], place) == ("before", note["place"])
        shared.post("elsewhere", "quiet")
        shared.post("after", "live")
        assert texts([next(sent)]) == ["after"]


def test_a_live_stream_loses_and_repeats_nothing_while_many_write(start: Start) -> None:
    board = start()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(board.post, str(number)) for number in range(40)]
        with board.live() as sent:
            answers += [pool.submit(board.post, str(number)) for number in range(40, 80)]
            received = list(islice(sent, 80))
    written = sorted((answer.result().json()["place"] for answer in answers), key=Place.parse)
    assert [place for place, _ in received] == written


def test_a_stream_goes_on_behind_the_last_event_that_a_client_has_seen(shared: Board) -> None:
    first, second = (shared.post(text, "resumed").json() for text in ("first", "second"))
    shared.post("third", "resumed")
    with shared.live(topic="resumed", after=first["place"]) as sent:
        assert texts(list(islice(sent, 2))) == ["second", "third"]
    with shared.live(topic="resumed", after=first["place"], last=second["place"]) as sent:
        assert texts([next(sent)]) == ["third"]


@pytest.mark.parametrize(("last", "status"), [("nonsense", 400), (FOREIGN, 409)])
def test_a_stream_behind_a_place_that_is_not_there_is_refused(last: str, status: int, shared: Board) -> None:
    shared.post("first", "refused")
    assert shared.client.get("/live", headers={"Last-Event-ID": last}).status_code == status


def test_an_idle_stream_sends_comments(start: Start) -> None:
    board = start("--keep-alive", "0.01")
    with board.client.stream("GET", "/live") as response:
        assert list(islice(response.iter_lines(), 6)) == ["retry: 1000", "", ": nothing new", "", ": nothing new", ""]


def test_a_stream_ends_when_its_client_goes_away(start: Start) -> None:
    board = start("--keep-alive", "3600")
    receipt, *_ = board.write("first")
    with board.live() as sent:
        assert next(sent)[0] == receipt["place"]
    board.wait_for_line(lambda line: line.get("path") == "/live")


def test_a_stream_goes_on_without_gap_or_repetition_when_the_server_was_killed(start: Start) -> None:
    board = start()
    before = board.write("0", "1", "2", "3", "4")
    with board.live() as sent:
        received = list(islice(sent, 3))
        board.kill()
    board = start(port=board.port)
    after = board.write("5", "6")
    with board.live(last=received[-1][0]) as sent:
        received += islice(sent, 4)
    assert texts(received) == ["0", "1", "2", "3", "4", "5", "6"]
    assert [place for place, _ in received] == [receipt["place"] for receipt in before + after]


# The end -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_asked_to_ends_its_streams_and_loses_nothing(number: signal.Signals, start: Start) -> None:
    board = start("--keep-alive", "3600")
    board.write("0", "1")
    with board.live() as first, board.live(topic="general") as second:
        received = [list(islice(sent, 2)) for sent in (first, second)]
        assert board.stop(number) == 0
        assert [list(first), list(second)] == [[], []]
    assert [texts(sent) for sent in received] == [["0", "1"], ["0", "1"]]
    assert {line["level"] for line in board.log} == {"info"}
    assert board.log[-1] | {"timestamp": None} == {
        "event": "store.close",
        "directory": str(board.journal),
        "events": 2,
        "level": "info",
        "timestamp": None,
    }
    with Store.open_read_only(board.journal) as store:
        assert store.stats().durable_sequence == 1


def test_a_request_that_has_begun_is_answered_before_the_end(start: Start) -> None:
    board = start()
    body = b'{"topic": "general", "text": "late"}'
    head = b"POST /notes HTTP/1.1\r\nHost: board\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with board.live() as sent, socket.create_connection(("127.0.0.1", board.port), PATIENCE_SECONDS) as connection:
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        board.process.send_signal(signal.SIGTERM)
        assert list(sent) == []  # it is on its way down
        connection.sendall(body)
        assert connection.recv(100).startswith(b"HTTP/1.1 201 ")
    assert board.wait() == 0


def test_a_journal_that_another_server_has_is_left_alone(start: Start) -> None:
    board = start()
    second = subprocess.run(
        [sys.executable, EXAMPLE, "--port", "0", "--journal", board.journal],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env=environment(),
    )
    assert (second.returncode, second.stdout) == (1, "")
    assert f"found it locked by process {board.process.pid}" in second.stderr
    assert board.write("still here")


# What operators see --------------------------------------------------------------------------------------------------


def test_the_id_of_a_request_is_on_its_line_and_on_that_of_the_actor_that_did_it(shared: Board) -> None:
    answer = shared.client.post("/notes", json={"topic": "lines", "text": "x"}, headers={"X-Request-ID": "r-17"})
    assert answer.headers["x-request-id"] == "r-17"
    done = shared.wait_for_line(lambda line: line["event"] == "http.request" and line.get("request_id") == "r-17")
    assert (done["method"], done["path"], done["status"]) == ("POST", "/notes", 201)
    lines = [line for line in shared.log if line.get("request_id") == "r-17"]
    assert ("writer", "Append", "ok") in {
        (line.get("actor"), line.get("command"), line.get("outcome")) for line in lines
    }


def test_requests_that_are_written_together_keep_their_ids_apart(shared: Board) -> None:
    def post(request_id: str) -> httpx.Response:
        note = {"topic": request_id, "text": "x"}
        return shared.client.post("/notes", json=note, headers={"X-Request-ID": request_id})

    names = [f"together-{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        assert {answer.status_code for answer in pool.map(post, names)} == {201}
    for name in names:
        shared.wait_for_line(partial(is_append_of, name))


@pytest.mark.parametrize("chosen", [{}, {"X-Request-ID": "no spaces please"}, {"X-Request-ID": "x" * 65}])
def test_a_request_without_an_id_that_can_be_logged_gets_one(chosen: dict[str, str], shared: Board) -> None:
    answer = shared.client.get("/healthz", headers=chosen)
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_a_server_that_can_write_is_healthy(start: Start) -> None:
    board = start()
    board.write("first")
    answer = board.client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"state": "ok", "events": 1, "durable": 0})


@pytest.mark.anyio
async def test_a_server_whose_disk_has_failed_is_not_healthy() -> None:
    files = FaultyFiles(MemoryFiles())
    with closing(Store(files, StoreConfig())) as store:
        transport = httpx.ASGITransport(web.application(web.Board(AsyncStore.wrap(store))))
        async with httpx.AsyncClient(transport=transport, base_url="http://board") as client:
            files.fail("sync_data", errno.EIO, repeat=True)
            refused = await client.post("/notes", json={"topic": "x", "text": "x"})
            assert (refused.status_code, refused.json()["error"]) == (500, "WriterFailedError")
            answer = await client.get("/healthz")
            assert (answer.status_code, answer.json()["state"]) == (503, "failed")
        files.heal()
        with pytest.raises(WriterFailedError):
            store.close()
