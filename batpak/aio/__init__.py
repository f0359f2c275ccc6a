"""The same store on asyncio and trio: `AsyncStore` has the names and parameters of `Store`.

``store.py``      `AsyncStore`, and ``read_only.py`` `AsyncReadOnlyStore`; ``reading.py`` is what they share
``flight.py``     how appends that are awaited together travel together; ``gathering.py`` is one such journey
``errand.py``     what a coroutine has a thread do, and what becomes of it when the coroutine is cancelled
``loops.py``      how a thread's word enters an event loop
"""

from batpak.aio.events import AsyncEvents
from batpak.aio.opening import Opening
from batpak.aio.read_only import AsyncReadOnlyStore
from batpak.aio.store import AsyncStore

__all__ = ["AsyncEvents", "AsyncReadOnlyStore", "AsyncStore", "Opening"]
