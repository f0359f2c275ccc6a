"""Single events that are asked for at the same time are read together: one offload for all.

A search stays open until its thread begins, so whoever asks meanwhile joins it; a get that nobody joins costs one
offload and no more. ``journey.py`` says who of them awaits the thread, and what becomes of those who are cancelled.
"""

from __future__ import annotations

from collections import deque
from contextvars import Context, copy_context
from threading import Lock
from typing import TYPE_CHECKING, Final, TypeAlias

from batpak.aio.gathering import shared
from batpak.aio.journey import Journey
from batpak.aio.loops import running_loop, signal_all, signals_of
from batpak.aio.places import Tokens
from batpak.errors import BatpakError
from batpak.log import DEBUG

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from batpak.aio.loops import Post
    from batpak.event import StoredEvent
    from batpak.read_only import ReadOnlyStore
    from batpak.store import Store

MAX_SEARCHES: Final = 2
"""How many searches have a thread: while one waits for a disk, another goes on."""
MAX_TOGETHER: Final = 64
"""How many events are read together: bounds how long the first waits for the last, and what is held meanwhile."""

Found: TypeAlias = "StoredEvent | Exception | None"


class _Search(Journey):
    """Events to be found: open to others until a thread begins; then an outcome for each seat."""

    __slots__ = ("_closed", "_contexts", "_guard", "_ids", "_outcomes", "_store")

    def __init__(self, store: Store | ReadOnlyStore) -> None:
        """Begin without ids."""
        super().__init__()
        self._store = store
        self._guard = Lock()
        self._closed = False
        self._ids: list[UUID] = []
        self._contexts: list[Context | None] = []
        self._outcomes: list[Found] = []

    def join(self, event_id: UUID, context: Context | None) -> int | None:
        """Take in an id and return its seat; None where it is too late, or too many have one."""
        with self._guard:
            if self._closed or len(self._ids) >= MAX_TOGETHER:
                return None
            self._ids.append(event_id)
            self._contexts.append(context)
            return len(self._ids) - 1

    def take(self, seat: int) -> StoredEvent:
        """Return the event of a seat, or raise the error that is in its place; once, after the landing."""
        outcome, self._outcomes[seat] = self._outcomes[seat], None
        if isinstance(outcome, Exception):
            try:
                raise outcome
            finally:
                del outcome  # it holds this frame
        assert outcome is not None, "a seat is taken by one"
        return outcome

    def refuse(self, error: Exception) -> None:
        """Answer every seat with *error*."""
        self._closed = True
        self._outcomes[:] = shared(error, len(self._ids))

    def run(self) -> None:
        """Close it and find the events; in a thread. Errors become outcomes."""
        with self._guard:
            self._closed = True
        try:
            self._outcomes += self._find()
        except BaseException as error:  # noqa: BLE001 - also what is sent into this thread to end it
            self._outcomes[:] = shared(error, len(self._ids))

    def is_for_nobody(self) -> bool:
        """Whether all who asked are gone."""
        return self.left == len(self._ids)

    def _find(self) -> list[Found]:
        """Return what is found; one alone in the context of whoever asked, which this thread has then."""
        get, ids = self._store.get, self._ids
        if len(ids) == 1:
            return [_outcome(get, ids[0])]
        if any(context is not None for context in self._contexts):
            contexts = (context or Context() for context in self._contexts)
            return [context.run(_outcome, get, each) for context, each in zip(contexts, ids, strict=True)]
        return Context().run(self._find_together)

    def _find_together(self) -> list[Found]:
        """Return what is found by one read; where that fails, by one for each."""
        try:
            return [*self._store.get_many(self._ids)]
        except BatpakError:
            return [_outcome(self._store.get, each) for each in self._ids]


class Lookups:
    """The gets of one facade on one event loop; *queue* has the searches that wait for those before them."""

    def __init__(self, store: Store | ReadOnlyStore, post: Post) -> None:
        """Look up in *store*; *post* reaches the event loop."""
        self._store = store
        self._post = post
        self._signal = signals_of(running_loop())
        self._limiter = Tokens(MAX_SEARCHES)
        self._queue: deque[_Search] = deque()
        self._newest: _Search | None = None
        self._aloft = 0

    async def get(self, event_id: UUID) -> StoredEvent:
        """Return one event, or raise its error. Cancelled, the waiting ends at once."""
        context = copy_context() if self._store._log.passes(DEBUG) else None
        search = self._newest
        seat = None if search is None else search.join(event_id, context)
        if search is None or seat is None:
            search, seat = self._open(), 0
            search.join(event_id, context)
            self._advance()
        while not search.landed:
            if search.is_uncarried():
                await search.carry(self._limiter, self._post, self._land)
            else:
                await search.wait(self._signal(), search.waiting, self._land)
        return search.take(seat)

    def _open(self) -> _Search:
        """Open a search behind all others."""
        self._newest = search = _Search(self._store)
        self._queue.append(search)
        return search

    def _advance(self) -> None:
        """Let the searches go that may have a thread."""
        while self._queue and self._aloft < MAX_SEARCHES:
            self._aloft += 1
            self._queue.popleft().depart()

    def _land(self, search: _Search) -> None:
        """Wake those who wait, for the outcomes are there, and let the next one go."""
        search.forget()
        if search.departed:
            self._aloft -= 1
        else:
            self._queue.remove(search)
        if self._newest is search:
            self._newest = None
        signal_all(search.waiting)
        self._advance()


def _outcome(get: Callable[[UUID], StoredEvent], event_id: UUID) -> Found:
    """Return an event, or the error in its place."""
    try:
        return get(event_id)
    except Exception as error:  # noqa: BLE001 - raised in the task that asked
        return error
