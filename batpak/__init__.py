"""batpak: an embedded, append-only event store.

A newcomer's path: ``examples/quickstart.py``, ``docs/architecture.md``, ``actors/messages.py`` (all that can happen),
``actors/writer.py`` (how an event gets its place), ``storage/frame.py`` (what stands on disk).

``batpak``          values, `Store` and `ReadOnlyStore`: this module's names
``batpak.aio``      `AsyncStore`, the same on asyncio and trio
``batpak.delivery`` subscriptions, cursors, workers, reactors
``batpak.actors``   the threads: commands, mailboxes, writer, index, reader
``batpak.storage``  the bytes: segments, index files, recovery
``batpak.cli``      the command ``batpak``
``batpak.testing``  a clock driven by hand, files in memory, files that fail
"""

from batpak.check import check_store, keep_prefix, plan_recovery
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
from batpak.overview import look_over
from batpak.read_only import ReadOnlyStore
from batpak.receipt import Anchor, Place, Receipt
from batpak.region import Region
from batpak.reports import (
    ActorReport,
    Ancestry,
    AncestryEnd,
    ChainReport,
    CheckReport,
    Cut,
    Damage,
    Diagnostics,
    NamedPlace,
    OpenReport,
    Overview,
    ParkedEvent,
    PrefixReport,
    Quarantined,
    RecoveryPlan,
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
    "CheckReport",
    "Clock",
    "ConflictError",
    "Continue",
    "Coordinate",
    "CorruptStoreError",
    "Cursor",
    "Cut",
    "Damage",
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
    "Overview",
    "ParkedEvent",
    "PayloadError",
    "Place",
    "PlaceConflictError",
    "PrefixReport",
    "Quarantined",
    "Reactions",
    "ReactorError",
    "ReadOnlyStore",
    "Receipt",
    "RecoveryPlan",
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
    "check_store",
    "keep_prefix",
    "look_over",
    "operation_key",
    "plan_recovery",
]
