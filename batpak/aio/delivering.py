"""The part of `AsyncStore` that delivers events."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from batpak.aio import worker as workers
from batpak.aio.cursor import AsyncCursor
from batpak.aio.reading import AsyncReading
from batpak.aio.subscription import AsyncSubscription, Source
from batpak.aio.worker import AsyncHandler, AsyncReactor, AsyncWorker
from batpak.config import RestartPolicy
from batpak.delivering import DEFAULT_BATCH_SIZE, UNNAMED
from batpak.delivery.course import OnError
from batpak.delivery.places import Start
from batpak.delivery.subscription import DEFAULT_CAPACITY
from batpak.errors import InvalidRequestError, WaitTimeoutError
from batpak.event import Notification
from batpak.receipt import Place
from batpak.region import Region
from batpak.reports import NamedPlace, ParkedEvent
from batpak.request import check_count, check_name, check_timeout
from batpak.store import Store


class AsyncDelivering(AsyncReading[Store]):
    """What a store that is open for writing delivers, on an event loop."""

    # Subscriptions and cursors -----------------------------------------------------------------------------------

    def subscribe(self, region: Region, *, capacity: int = DEFAULT_CAPACITY) -> AsyncSubscription[Notification]:
        """Deliver what is appended to *region* from now on; arguments and errors as for `Store.subscribe`."""
        return AsyncSubscription(Source(self._store._live(region, capacity), self._hubs, self._offload))

    def cursor(self, region: Region, *, name: str | None = None, start: Start = "beginning") -> AsyncCursor:
        """Deliver everything in *region*, in order, and then what comes; arguments and errors as for `Store.cursor`.

        The place of a *name* is looked up when the cursor is first used, or entered by ``async with``.
        """
        begin = partial(self._store.cursor, region, name=name, start=start)
        return AsyncCursor(begin, self._hubs, self._store._announcer, self._offload, name=name)

    # Workers -----------------------------------------------------------------------------------------------------

    def cursor_worker(
        self,
        region: Region,
        handler: AsyncHandler,
        *,
        name: str | None = None,
        start: Start = "beginning",
        batch_size: int = DEFAULT_BATCH_SIZE,
        restart: RestartPolicy | None = None,
        on_error: OnError = OnError.stop,
    ) -> AsyncWorker:
        """Return a worker that hands the events of *region* to *handler*; ``async with`` it, or run it as a task.

        Arguments, guarantees and errors as for `Store.cursor_worker`; what is wrong with the place of *name* is raised
        when it runs.
        """
        if not callable(handler):
            raise InvalidRequestError(f"handler: found {type(handler).__name__}, expected a function")
        course = self._store._course(batch_size, restart, on_error, name, singly=False)
        prepare = partial(self._store._job, region, name, start, course)
        return AsyncWorker(prepare, name or UNNAMED, course, workers.handling(handler), self._hubs)

    def react_loop(
        self,
        region: Region,
        reactor: AsyncReactor,
        *,
        name: str,
        start: Start = "beginning",
        batch_size: int = DEFAULT_BATCH_SIZE,
        restart: RestartPolicy | None = None,
        on_error: OnError = OnError.stop,
        may_feed_itself: bool = False,
    ) -> AsyncWorker:
        """Return a worker that answers each event of *region* with events; ``async with`` it, or run it as a task.

        Arguments, guarantees and errors as for `Store.react_loop`.
        """
        if not callable(reactor):
            raise InvalidRequestError(f"reactor: found {type(reactor).__name__}, expected a function")
        course = self._store._course(batch_size, restart, on_error, check_name(name), singly=True)
        prepare = partial(self._store._job, region, name, start, course)
        around = self._store._reacting(name, region, may_feed_itself=may_feed_itself)
        return AsyncWorker(prepare, name, course, workers.reacting(around, reactor), self._hubs)

    # Named places ------------------------------------------------------------------------------------------------

    async def wait_for(self, name: str, global_sequence: int, timeout_seconds: float) -> None:
        """Return when the cursor or worker of that name has committed everything up to *global_sequence*.

        Arguments and errors as for `Store.wait_for`.
        """
        check_count("global_sequence", global_sequence)
        check_timeout(timeout_seconds)
        store = self._store
        interests = await self._offload(partial(store._wait_interests, name, global_sequence))
        look = partial(self._offload, partial(store._has_applied, name, global_sequence))
        if not await self._hubs.get().wait_until(interests, look, timeout_seconds):
            raise WaitTimeoutError(name, global_sequence, timeout_seconds)

    async def places(self) -> list[NamedPlace]:
        """List the named places with their regions and how far they are behind; damaged ones come first."""
        return await self._offload(self._store.places)

    async def reset_place(self, name: str, place: Place | int | None) -> None:
        """Move a named place that nobody holds; arguments and errors as for `Store.reset_place`."""
        await self._offload(partial(self._store.reset_place, name, place))

    async def delete_place(self, name: str) -> bool:
        """Remove a named place that nobody holds; whether there was one."""
        return await self._offload(partial(self._store.delete_place, name))

    # What was set aside ------------------------------------------------------------------------------------------

    async def parked(self, name: str) -> list[ParkedEvent]:
        """List the events that the worker *name* has set aside and nobody has settled since, the oldest first."""
        return await self._offload(partial(self._store.parked, name))

    async def retry_parked(self, name: str, event_ids: Sequence[UUID] | None = None) -> int:
        """Have the worker *name* try these parked events again, or all; how many. It does so when it next runs."""
        return await self._offload(partial(self._store.retry_parked, name, event_ids))

    async def drop_parked(self, name: str, event_ids: Sequence[UUID] | None = None) -> int:
        """Give these parked events up, or all: they are no longer listed; how many. The events themselves stay."""
        return await self._offload(partial(self._store.drop_parked, name, event_ids))
