"""`AsyncReadOnlyStore`: `ReadOnlyStore`, awaited."""

from __future__ import annotations

import os
from functools import partial
from typing import Self

from batpak.aio.cursor import AsyncFollower
from batpak.aio.errand import finish
from batpak.aio.loops import post_to, running_loop
from batpak.aio.opening import Opening
from batpak.aio.reading import AsyncReading
from batpak.config import StoreConfig
from batpak.read_only import POLL_SECONDS, ReadOnlyStore
from batpak.receipt import Place
from batpak.region import Region


class AsyncReadOnlyStore(AsyncReading[ReadOnlyStore]):
    """One journal, open for reading, on asyncio and trio; it changes nothing and needs no lock.

    It shows the prefix of the journal that was complete when it was opened or last refreshed.
    """

    @classmethod
    def open(cls, directory: str | os.PathLike[str], *, config: StoreConfig | None = None) -> Opening[Self]:
        """Open the journal in *directory* beside whoever writes to it: ``async with`` this, or ``await`` it.

        Opening goes on to its end, whatever cancels. Raises what `ReadOnlyStore.open` raises.
        """

        async def open_it() -> Self:
            post = post_to(running_loop())
            store = await finish(partial(ReadOnlyStore.open, directory, config=config), post, undo=ReadOnlyStore.close)
            opened = cls.wrap(store)
            opened._owned = True
            return opened

        return Opening(open_it)

    @classmethod
    def wrap(cls, store: ReadOnlyStore) -> Self:
        """Put the facade on a store that is open; it is closed by nobody but `close`."""
        wrapped = cls.__new__(cls)
        wrapped._put_on(store)
        return wrapped

    def follow(
        self,
        region: Region,
        *,
        after: int | Place | None = None,
        durable: bool = False,
        poll_seconds: float = POLL_SECONDS,
    ) -> AsyncFollower:
        """Iterate over the events in *region*, and then over those that come, whichever process writes them.

        Arguments as for `ReadOnlyStore.follow`; each look for more takes a thread for as long.
        """
        begin = partial(self._store.follow, region, after=after, durable=durable, poll_seconds=poll_seconds)
        return AsyncFollower(
            begin, self._hubs, self._store._announcer, self._offload, poll_seconds=poll_seconds, refreshes=True
        )

    async def refresh(self) -> int:
        """Take in what has been appended since, at the cost of what came; the highest visible global sequence.

        A batch is taken in whole or not at all. A damaged journal raises `CorruptStoreError`; what was visible
        before stays so.
        """
        return await self._offload(self._store.refresh)
