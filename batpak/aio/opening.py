"""A store that is about to be opened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, Protocol, TypeVar


class Closable(Protocol):
    """What `Opening` gives."""

    async def close(self) -> None:
        """End it."""


StoreT_co = TypeVar("StoreT_co", bound=Closable, covariant=True)


class Opening(Generic[StoreT_co]):
    """What opening returns: ``async with`` it, and the store is closed at the end; or ``await`` it, and close it.

    Nothing happens before that, and it serves once.
    """

    def __init__(self, open_it: Callable[[], Awaitable[StoreT_co]]) -> None:
        """Open by *open_it*."""
        self._open_it: Callable[[], Awaitable[StoreT_co]] | None = open_it
        self._opened: StoreT_co | None = None

    def __await__(self) -> Generator[Any, Any, StoreT_co]:
        return self._open().__await__()

    async def __aenter__(self) -> StoreT_co:
        self._opened = opened = await self._open()
        return opened

    async def __aexit__(self, *_: object) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    async def _open(self) -> StoreT_co:
        """Open, once."""
        open_it, self._open_it = self._open_it, None
        if open_it is None:
            raise RuntimeError("found an opening that has been used, expected a new one: call open again")
        return await open_it()
