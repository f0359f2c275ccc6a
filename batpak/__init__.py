"""batpak: an embedded, append-only event store.

A newcomer's path: ``examples/quickstart.py``, ``docs/architecture.md``, ``actors/messages.py`` (all that can happen),
``actors/writer.py`` (how an event gets its place), ``storage/frame.py`` (what stands on disk).

``batpak``          values, `Store` and `ReadOnlyStore`: this module's names
``batpak.aio``      `AsyncStore`, the same on asyncio and trio
``batpak.delivery`` subscriptions, cursors, workers, reactors
``batpak.actors``   the threads: commands, mailboxes, writer, index, reader
``batpak.storage``  the bytes: segments, index files, recovery
``batpak.testing``  a clock driven by hand, files in memory, files that fail
"""

from batpak.clock import Clock, SystemClock
from batpak.config import RestartPolicy, StoreConfig
from batpak.coordinate import Coordinate
from batpak.delivery.course import Continue, OnError, Stop, StopAndRollback, Verdict
from batpak.delivery.cursor import Cursor, Follower
from batpak.delivery.reactor import Reactions
from batpak.delivery.subscription import Subscription
from batpak.delivery.worker import Worker
from batpak.errors import (
    ActorFailedError,
    BackpressureError,
    BatpakError,
    ConflictError,
    CorruptStoreError,
    EncryptedPayloadError,
    EventNotFoundError,
    ForkedStoreError,
    IdempotencyConflictError,
    InvalidConfigError,
    InvalidCoordinateError,
    InvalidDirectoryError,
    InvalidKindError,
    InvalidRegionError,
    InvalidRequestError,
    PayloadError,
    PlaceConflictError,
    ReactorError,
    ReentrantCallError,
    ReservedKindError,
    SequenceConflictError,
    StalePlaceError,
    StorageError,
    StoreClosedError,
    StoreLockedError,
    SubscriptionOverflowError,
    TooLargeError,
    UnsupportedFormatError,
    UnsupportedPlatformError,
    WaitTimeoutError,
    WriterFailedError,
)
from batpak.event import NO_STREAM, EventFlags, IndexEntry, NewEvent, Notification, StoredEvent
from batpak.ids import operation_key
from batpak.kind import EventKind
from batpak.read_only import ReadOnlyStore
from batpak.receipt import Anchor, Place, Receipt
from batpak.region import Region
from batpak.reports import (
    ActorReport,
    Ancestry,
    AncestryEnd,
    ChainReport,
    Diagnostics,
    NamedPlace,
    OpenReport,
    ParkedEvent,
    Quarantined,
    SequenceGap,
    Stats,
)
from batpak.store import Store

__all__ = [
    "NO_STREAM",
    "ActorFailedError",
    "ActorReport",
    "Ancestry",
    "AncestryEnd",
    "Anchor",
    "BackpressureError",
    "BatpakError",
    "ChainReport",
    "Clock",
    "ConflictError",
    "Continue",
    "Coordinate",
    "CorruptStoreError",
    "Cursor",
    "Diagnostics",
    "EncryptedPayloadError",
    "EventFlags",
    "EventKind",
    "EventNotFoundError",
    "Follower",
    "ForkedStoreError",
    "IdempotencyConflictError",
    "IndexEntry",
    "InvalidConfigError",
    "InvalidCoordinateError",
    "InvalidDirectoryError",
    "InvalidKindError",
    "InvalidRegionError",
    "InvalidRequestError",
    "NamedPlace",
    "NewEvent",
    "Notification",
    "OnError",
    "OpenReport",
    "ParkedEvent",
    "PayloadError",
    "Place",
    "PlaceConflictError",
    "Quarantined",
    "Reactions",
    "ReactorError",
    "ReadOnlyStore",
    "Receipt",
    "ReentrantCallError",
    "Region",
    "ReservedKindError",
    "RestartPolicy",
    "SequenceConflictError",
    "SequenceGap",
    "StalePlaceError",
    "Stats",
    "Stop",
    "StopAndRollback",
    "StorageError",
    "Store",
    "StoreClosedError",
    "StoreConfig",
    "StoreLockedError",
    "StoredEvent",
    "Subscription",
    "SubscriptionOverflowError",
    "SystemClock",
    "TooLargeError",
    "UnsupportedFormatError",
    "UnsupportedPlatformError",
    "Verdict",
    "WaitTimeoutError",
    "Worker",
    "WriterFailedError",
    "operation_key",
]
