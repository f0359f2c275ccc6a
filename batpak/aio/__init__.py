"""The same store on asyncio and trio: `AsyncStore` has the names and parameters of `Store`.

``store.py``      `AsyncStore`, and ``read_only.py`` `AsyncReadOnlyStore`; ``reading.py`` is what they share
``flight.py``     how appends that are awaited together travel together; ``gathering.py`` is one such journey
``lookup.py``     how single events that are asked for together are read together
``journey.py``    who of those that travel together awaits their thread, and what a cancellation changes
``errand.py``     what a coroutine has `anyio.to_thread` do, and what becomes of it when the coroutine is cancelled
``loops.py``      how a thread's word enters an event loop; ``on_trio.py`` is imported where trio runs
``delivering.py`` what delivers; ``subscription.py``, ``cursor.py`` and ``worker.py`` are what it returns
``hub.py``        how the tasks of an event loop wait for events together
"""

from batpak.aio.cursor import AsyncCursor, AsyncFollower
from batpak.aio.events import AsyncEvents
from batpak.aio.opening import Opening
from batpak.aio.read_only import AsyncReadOnlyStore
from batpak.aio.store import AsyncStore
from batpak.aio.subscription import AsyncSubscription
from batpak.aio.worker import AsyncWorker

__all__ = [
    "AsyncCursor",
    "AsyncEvents",
    "AsyncFollower",
    "AsyncReadOnlyStore",
    "AsyncStore",
    "AsyncSubscription",
    "AsyncWorker",
    "Opening",
]
