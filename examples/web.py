"""A notice board: a small web application on a journal, with a page that shows every note as it is written.

    python examples/web.py [--port 8000] [--journal DIRECTORY]

GET  /             the page
POST /notes        write a note: {"topic": "lunch", "text": "...", "expected_sequence": 3}, the last one if you like.
                   An `Idempotency-Key` makes it safe to send again: the same key gets the same receipt
GET  /notes        read notes: ?topic= &after= &limit= &reverse=true, with an ETag
GET  /notes/<id>   read one
GET  /live         server-sent events: ?topic= &after=; goes on behind the `Last-Event-ID` of a client that was cut off
GET  /healthz      200 while the store is well, 503 when it is not

What cannot be done is answered as JSON: 400 where the request is wrong, 409 where the journal has moved on, 503 with
`Retry-After` where too many notes wait to be written. Every answer has an `X-Request-ID`, which the lines of the log
that tell of it have too, those of the store's actors among them.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import anyio
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batpak import (
    BackpressureError,
    BatpakError,
    ConflictError,
    Coordinate,
    EventKind,
    EventNotFoundError,
    InvalidRequestError,
    Place,
    Region,
    SequenceConflictError,
    StalePlaceError,
    StoreConfig,
    StoredEvent,
)
from batpak.aio import AsyncFollower, AsyncStore

NOTED: Final = EventKind(category=0x1, type_id=0x001)
SCOPE: Final = "board"
MAX_TEXT_CHARACTERS: Final = 2_000
MAX_BODY_BYTES: Final = 64 * 1024
MAX_PAGE: Final = 500
EVENTS_AT_ONCE: Final = 64
REQUEST_ID: Final = re.compile(r"[\w.:-]{1,64}", re.ASCII)
LOG = structlog.get_logger("web")


class Board:
    """The handlers of the application, the store they share, and the live streams that are open."""

    def __init__(self, store: AsyncStore, *, max_wait_seconds: float = 0.5, keep_alive_seconds: float = 15.0) -> None:
        """Serve *store*; a note waits at most *max_wait_seconds* to be written, an idle stream is not silent longer."""
        self._store = store
        self._max_wait_seconds = max_wait_seconds
        self._keep_alive_seconds = keep_alive_seconds
        self.streams: set[AsyncFollower] = set()
        self._closing = False

    async def write(self, request: Request) -> Response:
        """Append one note; the answer means that it is on the disk."""
        topic, text, expected_sequence = await new_note(request)
        receipt = await self._store.append(
            Coordinate(f"topic:{topic}", SCOPE),
            NOTED,
            {"text": text},
            expected_sequence=expected_sequence,
            idempotency_key=request.headers.get("idempotency-key"),
            durable=True,
            max_wait_seconds=self._max_wait_seconds,
        )
        # The same for everybody who sends this note with this key, but for the status.
        about = {"id": str(receipt.event_id), "place": str(receipt.place), "sequence": receipt.sequence}
        status = 200 if receipt.duplicate else 201
        return JSONResponse(about, status, {"location": f"/notes/{receipt.event_id}"})

    async def read_one(self, request: Request) -> Response:
        """Return one note."""
        event_id: UUID = request.path_params["event_id"]
        return JSONResponse(note_as_json(await self._store.get(event_id)))

    async def read(self, request: Request) -> Response:
        """Return a page of notes, or 304 to a client that has it; `next` is the `after` of the page behind it."""
        query = request.query_params
        reverse = query.get("reverse") == "true"
        events = self._store.read(
            region_of(request),
            after=place_of(query.get("after")),
            limit=limit_of(query.get("limit", "50")),
            reverse=reverse,
        )
        notes = [note_as_json(event) async for event in events]
        # Nothing in a journal changes, and a place has the hash of its event: the newest one stands for the page.
        newest = notes[0 if reverse else -1]["place"] if notes else ""
        headers = {"etag": f'"{newest}"', "cache-control": "no-cache"}
        known = request.headers.get("if-none-match", "").replace("W/", "").split(",")
        if headers["etag"] in map(str.strip, known):
            return Response(status_code=304, headers=headers)
        last = notes[-1]["place"] if notes else query.get("after")
        return JSONResponse({"notes": notes, "next": last or None}, headers=headers)

    async def follow(self, request: Request) -> Response:
        """Stream the notes behind a place, and then those that come, as soon as they are durable."""
        place = place_of(request.headers.get("last-event-id") or request.query_params.get("after"))
        return LiveNotes(self, self._store.follow(region_of(request), after=place, durable=True))

    async def health(self, _request: Request) -> Response:
        """Say how the store is."""
        found = await self._store.diagnostics()
        report = {"state": found.state, "events": found.stats.events, "durable": found.stats.durable_sequence}
        return JSONResponse(report, 200 if found.state == "ok" else 503)

    async def page(self, _request: Request) -> Response:
        """Return the page."""
        return HTMLResponse(PAGE)

    async def events(self, follower: AsyncFollower) -> AsyncIterator[str]:
        """Yield what a live stream sends; a comment when there is nothing to say, so that nobody hangs up on it."""
        yield "retry: 1000\n\n"  # milliseconds before a browser that is cut off comes back
        while not self._closing:
            events = await follower.pull(EVENTS_AT_ONCE, self._keep_alive_seconds)
            yield "".join(map(as_server_sent, events)) or ": nothing new\n\n"

    async def end_streams(self) -> None:
        """End the live streams, which would go on for ever, and those that somebody asks for from now on."""
        self._closing = True
        for follower in list(self.streams):
            await follower.close()


class LiveNotes(StreamingResponse):
    """The answer that goes on: server-sent events until the client hangs up or the board ends it."""

    media_type = "text/event-stream"

    def __init__(self, board: Board, follower: AsyncFollower) -> None:
        """Send what *follower* delivers."""
        super().__init__(board.events(follower), headers={"cache-control": "no-store"})
        self._streams = board.streams
        self._follower = follower

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a place that is not in the journal is found out before the first byte is sent."""
        async with self._follower as follower:
            self._streams.add(follower)
            try:
                await super().__call__(scope, receive, send)
            finally:
                self._streams.discard(follower)


# What comes in, and what goes out ----------------------------------------------------------------------------------


async def new_note(request: Request) -> tuple[str, str, int | None]:
    """Return the topic, the text and the expected sequence of the note that a client wants to write."""
    try:
        note = await request.json()
    except (ValueError, RecursionError):
        raise InvalidRequestError("body: found something else, expected JSON") from None
    match note:
        case {"topic": str(topic), "text": str(text)} if topic and 0 < len(text) <= MAX_TEXT_CHARACTERS:
            return topic, text, note.get("expected_sequence")
    raise InvalidRequestError(
        f'body: found something else, expected {{"topic": ..., "text": 1 to {MAX_TEXT_CHARACTERS:,} characters}}'
    )


def region_of(request: Request) -> Region:
    """Return the part of the journal that a request is about: one topic, or the whole board."""
    topic = request.query_params.get("topic")
    return Region(entity=f"topic:{topic}" if topic else None, scope=SCOPE, kind=NOTED)


def place_of(token: str | None) -> Place | None:
    """Return the place that a client names, None for the beginning."""
    return Place.parse(token) if token else None


def limit_of(text: str) -> int:
    """Return how many notes a client asks for."""
    if re.fullmatch(r"[0-9]{1,9}", text) and 1 <= int(text) <= MAX_PAGE:
        return int(text)
    raise InvalidRequestError(f"limit: found something else, expected an int from 1 to {MAX_PAGE}")


def note_as_json(event: StoredEvent) -> dict[str, object]:
    """Return a note as clients see it."""
    assert isinstance(event.payload, dict)
    return {
        "id": str(event.event_id),
        "place": str(event.place),
        "topic": event.coordinate.entity.removeprefix("topic:"),
        "sequence": event.sequence,
        "written_at": datetime.fromtimestamp(event.wall_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "text": event.payload["text"],
    }


def as_server_sent(event: StoredEvent) -> str:
    """Return a note as a server-sent event; a browser that is cut off sends the last id back."""
    return f"id: {event.place}\ndata: {json.dumps(note_as_json(event))}\n\n"


async def refusal(_request: Request, error: Exception) -> Response:
    """Answer with what the store has to say against a request."""
    content: dict[str, object] = {"error": type(error).__name__, "message": str(error)}
    headers = {}
    match error:
        case InvalidRequestError():
            status = 400
        case EventNotFoundError():
            status = 404
        case ConflictError() | StalePlaceError():
            status = 409
        case BatpakError(retryable=True):
            status = 503
        case _:
            status = 500
    match error:
        case SequenceConflictError(expected=expected, actual=actual):
            content |= {"expected_sequence": expected, "actual_sequence": actual}
        case BackpressureError(retry_after_seconds=seconds):
            headers["retry-after"] = str(math.ceil(seconds))
    return JSONResponse(content, status, headers)


# The application -----------------------------------------------------------------------------------------------------


class RequestIds:
    """Gives each request an id: for its answer, for its line in the log, and for those of the store's actors."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand in front of *app*."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the request answered; an id that the client has chosen is kept."""
        chosen = Headers(scope=scope).get("x-request-id", "")
        request_id = chosen if REQUEST_ID.fullmatch(chosen) else uuid4().hex
        status = None
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                milliseconds = round((time.perf_counter() - started) * 1e3)
                about = {"method": scope["method"], "path": scope["path"], "status": status}
                LOG.info("http.request", **about, milliseconds=milliseconds)


def application(board: Board) -> ASGIApp:
    """Return the application that serves *board*."""
    app = Starlette(
        routes=[
            Route("/", board.page),
            Route("/notes", board.write, methods=["POST"]),
            Route("/notes", board.read),
            Route("/notes/{event_id:uuid}", board.read_one),
            Route("/live", board.follow),
            Route("/healthz", board.health),
        ],
        exception_handlers={BatpakError: refusal},
        max_body_size=MAX_BODY_BYTES,
    )
    return RequestIds(app)


class Server(uvicorn.Server):
    """Says where it listens, and ends the live streams before it waits for the requests that are under way."""

    def __init__(self, board: Board, port: int) -> None:
        """Serve *board*; port 0 is any that is free."""
        super().__init__(uvicorn.Config(application(board), port=port, lifespan="off", ws="none", log_config=None))
        self._board = board

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()
        print(f"http://{host}:{port}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is under way and take nothing more."""
        await self._board.end_streams()
        await super().shutdown(sockets)


async def serve(options: argparse.Namespace) -> None:
    """Open the journal, serve it until SIGTERM or Ctrl+C, and close it."""
    config = StoreConfig(mailbox_capacity=options.max_waiting)
    async with AsyncStore.open(options.journal, config=config) as store:
        board = Board(store, max_wait_seconds=options.max_wait, keep_alive_seconds=options.keep_alive)
        server = Server(board, options.port)
        for number in (signal.SIGINT, signal.SIGTERM):
            # At its end uvicorn raises the signal again, which must not end the process before the store is closed.
            signal.signal(number, server.handle_exit)
        await server.serve()


def configure_log(level: int) -> None:
    """Have everything from *level* up written to stderr, a JSON object a line; uvicorn's own words too."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(structlog.processors.JSONRenderer(), foreign_pre_chain=shared)
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING))


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--journal", type=Path, default=Path("journal"), help="where the notes are kept")
    parser.add_argument("--log", choices=["debug", "info", "warning"], default="info", help="the lowest level")
    parser.add_argument("--max-waiting", type=int, default=1024, help="how many notes may wait to be written")
    parser.add_argument("--max-wait", type=float, default=0.5, help="seconds that one more waits for room")
    parser.add_argument("--keep-alive", type=float, default=15.0, help="seconds that a live stream is silent at most")
    options = parser.parse_args()
    configure_log(getattr(logging, options.log.upper()))
    try:
        anyio.run(serve, options)
    except BatpakError as error:
        sys.exit(f"{options.journal} cannot be served: {error}")


# The page ------------------------------------------------------------------------------------------------------------

PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Notice board</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; --paper: #fff; --ground: #f4f1ea; --ink: #26231d; --faint: #746d60;
          --line: #e3ddd0; --accent: #b4541a; --good: #2f7d4f; }
  @media (prefers-color-scheme: dark) {
    :root { --paper: #262320; --ground: #1b1917; --ink: #ece7dd; --faint: #958d7e; --line: #3a352f;
            --accent: #e8935a; --good: #6cc092; } }
  * { box-sizing: border-box; }
  body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
  main { max-width: 42rem; margin: 0 auto; padding: 2.5rem 1rem; }
  header { display: flex; align-items: baseline; justify-content: space-between; margin-bottom: 1.25rem; }
  h1 { margin: 0; font-size: 1.6rem; letter-spacing: -.02em; }
  #state { color: var(--faint); font-size: .85rem; }
  #state::before { content: ""; display: inline-block; width: .55em; height: .55em; margin-right: .45em;
                   border-radius: 50%; background: currentColor; }
  #state.live { color: var(--good); }
  form, li { background: var(--paper); border: 1px solid var(--line); border-radius: .6rem; }
  form { display: flex; flex-wrap: wrap; gap: .6rem; padding: .8rem; }
  input, button { font: inherit; padding: .45rem .7rem; border: 1px solid var(--line); border-radius: .4rem; }
  input { background: var(--ground); color: inherit; min-width: 0; }
  input[name=topic] { flex: 1 1 7rem; }
  input[name=text] { flex: 4 1 15rem; }
  button { background: var(--accent); border-color: var(--accent); color: var(--paper); font-weight: 600; }
  button:disabled { opacity: .5; cursor: wait; }
  :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
  #complaint { flex-basis: 100%; margin: 0; color: var(--accent); font-size: .9rem; }
  #complaint:empty { display: none; }
  ol { list-style: none; margin: 1.25rem 0 0; padding: 0; display: grid; gap: .6rem; }
  ol:empty::after { content: "Nothing here yet. Write the first note."; color: var(--faint); text-align: center;
                    padding: 2rem; }
  li { padding: .7rem .9rem; overflow-wrap: anywhere; }
  li.new { animation: arrive 1.2s ease-out; }
  @keyframes arrive { from { border-color: var(--accent); } }
  li p { margin: 0; }
  li div { display: flex; justify-content: space-between; gap: 1rem; color: var(--faint); font-size: .8rem; }
  time { white-space: nowrap; }
  li b { color: var(--accent); font-weight: 600; }
</style>
</head>
<body>
<main>
  <header><h1>Notice board</h1><span id="state" role="status">connecting</span></header>
  <form>
    <input name="topic" placeholder="topic" aria-label="Topic" value="general" required maxlength="80">
    <input name="text" placeholder="What is there to say?" aria-label="Text" required maxlength="2000"
           autocomplete="off" autofocus>
    <button>Post</button>
    <p id="complaint" role="alert"></p>
  </form>
  <ol aria-live="polite"></ol>
</main>
<template><li><div><span><b></b> <span></span></span><time></time></div><p></p></li></template>
<script type="module">
const SHOWN = 100;
const find = selector => document.querySelector(selector);
const [form, list, state, complaint] = ["form", "ol", "#state", "#complaint"].map(find);
const time = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const pause = seconds => new Promise(resume => setTimeout(resume, seconds * 1000));
const say = word => { state.textContent = state.className = word; };
const startAgain = () => { say("reconnecting"); pause(1).then(start); };

function show(note, isNew) {
  const item = find("template").content.cloneNode(true).firstChild;
  item.id = note.id;
  item.classList.toggle("new", isNew);
  item.querySelector("b").textContent = note.topic;
  item.querySelector("span span").textContent = "#" + note.sequence;
  item.querySelector("time").textContent = time.format(new Date(note.written_at));
  item.querySelector("p").textContent = note.text;
  list.prepend(item);
  if (list.children.length > SHOWN) list.lastChild.remove();
}

// Show the newest notes, then listen for those behind them. A browser that is cut off comes back by itself, with the
// place of the last note that it has; where that is refused, the journal has lost its end, and all is shown anew.
async function start() {
  try {
    const { notes } = await (await fetch(`/notes?reverse=true&limit=${SHOWN}`)).json();
    list.replaceChildren();
    notes.toReversed().forEach(note => show(note, false));
    const source = new EventSource(notes.length ? `/live?after=${notes[0].place}` : "/live");
    source.onopen = () => say("live");
    source.onmessage = message => show(JSON.parse(message.data), true);
    source.onerror = () => source.readyState === EventSource.CLOSED ? startAgain() : say("reconnecting");
  } catch {
    startAgain();
  }
}

// Send a note until there is an answer: with the same key it is written once, however often it arrives.
async function post(note) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID() };
  for (;;) {
    try {
      const answer = await fetch("/notes", { method: "POST", headers, body: JSON.stringify(note) });
      if (answer.status !== 503) return answer;
      await pause(Number(answer.headers.get("Retry-After") ?? 1));
    } catch {
      await pause(1);
    }
  }
}

form.addEventListener("submit", async submitted => {
  submitted.preventDefault();
  const button = find("button");
  button.disabled = true;
  const answer = await post(Object.fromEntries(new FormData(form)));
  complaint.textContent = answer.ok ? "" : await answer.json().then(said => said.message, () => answer.statusText);
  if (answer.ok) form.elements.text.value = "";
  button.disabled = false;
  form.elements.text.focus();
});

start();
</script>
</body>
</html>
"""

if __name__ == "__main__":
    main()
