"""`AsyncStore`: `Store`, awaited, on asyncio and trio."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Self
from uuid import UUID

from batpak.aio.delivering import AsyncDelivering
from batpak.aio.errand import finish
from batpak.aio.flight import Flights
from batpak.aio.loops import PerLoop, post_to, running_loop
from batpak.aio.opening import Opening
from batpak.aio.read_only import AsyncReadOnlyStore
from batpak.config import StoreConfig
from batpak.coordinate import Coordinate
from batpak.event import NO_FLAGS, EventFlags, NewEvent
from batpak.kind import EventKind
from batpak.payload import Payload
from batpak.receipt import Receipt
from batpak.reports import Diagnostics
from batpak.request import Cause, cause_ids, check_durable, check_wait
from batpak.store import Store


class AsyncStore(AsyncDelivering):
    """One journal, open for reading and writing, for the tasks of any number of event loops.

    The names, parameters and meanings are those of `Store`. Appends that are awaited at the same time travel together;
    each has its own receipt or error, and those of one event loop are written in the order in which they were awaited.
    Cancelling an ``await`` ends the waiting, not the write: only an idempotency key makes a retry safe.
    """

    _flights: PerLoop[Flights]

    # Opening and closing -----------------------------------------------------------------------------------------

    @classmethod
    def open(cls, directory: str | os.PathLike[str], *, config: StoreConfig | None = None) -> Opening[Self]:
        """Open the journal in *directory* and become its one writer: ``async with`` this, or ``await`` it.

        ``async with`` closes the store at the end; who awaits it calls `close`. Opening goes on to its end, whatever
        cancels. Raises what `Store.open` raises.
        """

        async def open_it() -> Self:
            post = post_to(running_loop())
            opened = cls.wrap(await finish(partial(Store.open, directory, config=config), post, undo=Store.close))
            opened._owned = True
            return opened

        return Opening(open_it)

    @staticmethod
    def open_read_only(
        directory: str | os.PathLike[str], *, config: StoreConfig | None = None
    ) -> Opening[AsyncReadOnlyStore]:
        """Open the journal in *directory* for reading, without a lock, beside a running writer too."""
        return AsyncReadOnlyStore.open(directory, config=config)

    @classmethod
    def wrap(cls, store: Store) -> Self:
        """Put the facade on a store that is open, for a process that lives in both worlds.

        Any number of facades may stand on one store. None of them closes it but by its own `close`: the end of an
        ``async with`` waits for the appends that are on their way, and leaves it open.
        """
        wrapped = cls.__new__(cls)
        wrapped._put_on(store)
        wrapped._flights = PerLoop(partial(Flights, store))
        return wrapped

    async def close(self) -> None:
        """Answer the appends that are on their way, then close the store, whatever cancels meanwhile.

        A cancellation is raised after that. Appends that come too late, and those that wait for a place in the queue,
        get a `StoreClosedError`. Idempotent. Raises what `Store.close` raises.
        """
        cancelled = await self._flights.get().close()
        await super().close()
        if cancelled is not None:
            raise cancelled

    async def _leave(self) -> None:
        """Wait for the appends that are on their way."""
        await self._flights.get().settle()

    # Writing -----------------------------------------------------------------------------------------------------

    async def append(
        self,
        coordinate: Coordinate,
        kind: EventKind,
        payload: Payload,
        *,
        expected_sequence: int | None = None,
        idempotency_key: UUID | str | None = None,
        correlation_id: UUID | None = None,
        causation_id: UUID | None = None,
        flags: EventFlags = NO_FLAGS,
        durable: bool | None = None,
        max_wait_seconds: float | None = None,
    ) -> Receipt:
        """Append one event; the receipt means that it is written and can be read.

        Arguments and errors as for `Store.append`; the payload is packed at once. When as many appends are on their
        way as `StoreConfig.mailbox_capacity` says, this waits for a place, at most *max_wait_seconds*.

        Cancelling ends the waiting, not the write: the event may be there later. Nothing is lost by it but the receipt,
        which a retry with the same *idempotency_key* returns.
        """
        command = self._store._requests.append(
            coordinate, kind, payload, expected_sequence, idempotency_key, correlation_id, causation_id, flags
        )
        if max_wait_seconds is not None:
            check_wait(max_wait_seconds)
        wants_fsync = self._store._durable_by_default if durable is None else self._durable(durable)
        return await self._flights.get().append(command, max_wait_seconds, durable=wants_fsync)

    async def append_reaction(
        self,
        coordinate: Coordinate,
        kind: EventKind,
        payload: Payload,
        *,
        cause: Cause,
        expected_sequence: int | None = None,
        idempotency_key: UUID | str | None = None,
        flags: EventFlags = NO_FLAGS,
        durable: bool | None = None,
        max_wait_seconds: float | None = None,
    ) -> Receipt:
        """Append what *cause* led to: its correlation is taken over, and its id becomes the causation.

        A receipt does not know its correlation: the index is asked first. Everything else as for `append`, what
        cancelling means too.
        """
        if isinstance(cause, Receipt):
            correlation, causation = await self._offload(partial(self._store._cause_ids, cause))
        else:
            correlation, causation = cause_ids(cause, None)
        return await self.append(
            coordinate,
            kind,
            payload,
            expected_sequence=expected_sequence,
            idempotency_key=idempotency_key,
            correlation_id=correlation,
            causation_id=causation,
            flags=flags,
            durable=durable,
            max_wait_seconds=max_wait_seconds,
        )

    async def append_batch(
        self, items: Sequence[NewEvent], *, durable: bool | None = None, max_wait_seconds: float | None = None
    ) -> list[Receipt]:
        """Append all *items* or none: for every reader, and across any crash. An empty batch gives no receipts.

        Arguments and errors as for `Store.append_batch`; the payloads are packed at once. What cancelling means, and
        everything else, as for `append`.
        """
        command = self._store._requests.batch(items)
        wants_fsync = self._durable(durable)
        check_wait(max_wait_seconds)
        if not command.items:
            self._store._require_open()
            return []
        return await self._flights.get().append(command, max_wait_seconds, durable=wants_fsync)

    async def sync(self) -> int:
        """Make everything that has been accepted durable; the highest durable global sequence, -1 for none.

        Cancelling ends the waiting, not the fsync.
        """
        return await self._offload(self._store.sync)

    # What operators see ------------------------------------------------------------------------------------------

    async def diagnostics(self) -> Diagnostics:
        """Return all that a health check or a dashboard wants to know; works on a closed store too."""
        return await self._offload(self._store.diagnostics)

    def _durable(self, durable: bool | None) -> bool:  # noqa: FBT001 - the argument of that name
        """Return whether a write waits for an fsync."""
        check_durable(durable)
        return self._store._durable_by_default if durable is None else durable
