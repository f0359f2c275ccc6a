"""Every error that batpak raises on purpose, as one tree with one root.

::

    BatpakError
    ├── InvalidRequestError (also a ValueError)       the caller's input cannot be taken
    │   ├── InvalidCoordinateError
    │   ├── InvalidKindError
    │   ├── ReservedKindError
    │   ├── InvalidRegionError
    │   ├── InvalidConfigError
    │   ├── PayloadError
    │   └── TooLargeError
    ├── ConflictError                                 the state of the store says no
    │   ├── SequenceConflictError
    │   ├── IdempotencyConflictError
    │   └── PlaceConflictError                        a named place belongs to something else
    ├── EventNotFoundError (also a LookupError)
    ├── StoreLockedError                   retryable
    ├── StoreClosedError
    │   └── ForkedStoreError
    ├── BackpressureError                  retryable
    ├── ActorFailedError
    │   └── WriterFailedError
    ├── StorageError                       retryable  a system call failed
    ├── InvalidDirectoryError
    ├── CorruptStoreError
    ├── UnsupportedFormatError
    ├── UnsupportedPlatformError
    ├── EncryptedPayloadError
    ├── ReentrantCallError
    ├── StalePlaceError
    ├── SubscriptionOverflowError                     a subscriber was too slow
    ├── ReactorError                                  a reactor failed; its cause says why
    └── WaitTimeoutError (also a TimeoutError)  retryable

An error that is `retryable` may go away when the same call is made again,
unchanged and a little later; for every other one something has to change first.
Errors pickle with all their attributes, and none contains a payload's values.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from uuid import UUID

    from batpak.kind import EventKind
    from batpak.receipt import Place

_NO_STREAM = -1


class BatpakError(Exception):
    """The root of everything batpak raises on purpose."""

    retryable: ClassVar[bool] = False
    """Whether the same call, made again a little later, may succeed."""

    def __init__(self, message: str) -> None:
        """Carry *message*, which is what `str()` gives."""
        super().__init__(message)

    def __reduce__(
        self,
    ) -> tuple[object, tuple[type[BatpakError], tuple[object, ...], dict[str, object]]]:
        """Pickle by attributes, so that each class is free in its constructor."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(error_type: type[BatpakError], args: tuple[object, ...], attributes: dict[str, object]) -> BatpakError:
    error = error_type.__new__(error_type, *args)
    error.__dict__.update(attributes)
    return error


class _ItemError(BatpakError):
    """What errors about one item of a batch have in common."""

    item_index: int | None = None
    """Which item of a batch is at fault, from 0; None outside a batch."""

    def __str__(self) -> str:
        """Name the item of the batch, where there is one, before the message."""
        message = super().__str__()
        return message if self.item_index is None else f"item {self.item_index}: {message}"


class InvalidRequestError(_ItemError, ValueError):
    """What the caller passed cannot be accepted by any store."""

    def __init__(self, message: str, *, item_index: int | None = None) -> None:
        """Carry *message* and, for a batch, the index of the item at fault."""
        super().__init__(message)
        self.item_index = item_index


class _InvalidPartError(InvalidRequestError):
    """What errors about one named part of a value have in common."""

    _value: ClassVar[str]

    def __init__(self, part: str, found: str, expected: str) -> None:
        """Say which *part* was given, what was *found* in it and what was *expected*."""
        super().__init__(f"{self._value} {part}: found {found}, expected {expected}")
        self.part = part
        self.found = found
        self.expected = expected


class InvalidCoordinateError(_InvalidPartError):
    """An entity or a scope breaks a rule; `part` is "entity" or "scope"."""

    _value = "coordinate's"


class InvalidKindError(_InvalidPartError):
    """A kind's number is out of range; `part` is "category", "type_id" or "value"."""

    _value = "event kind's"


class InvalidRegionError(_InvalidPartError):
    """A part of a region cannot match anything; `part` is the argument's name."""

    _value = "region's"


class ReservedKindError(InvalidRequestError):
    """A write named a kind of category 0x0 or 0xD, which are not the caller's to write."""

    def __init__(self, kind: EventKind, *, item_index: int | None = None) -> None:
        """Name the reserved *kind*."""
        super().__init__(
            f"found the reserved kind {kind.value:#06x}, expected a category of 0x1 to 0xC, 0xE or 0xF",
            item_index=item_index,
        )
        self.kind = kind


class InvalidConfigError(InvalidRequestError):
    """A setting is of the wrong type or out of its limits."""

    def __init__(self, field: str, found: str, expected: str) -> None:
        """Say which *field* was set, what was *found* in it and what was *expected*."""
        super().__init__(f"setting {field}: found {found}, expected {expected}")
        self.field = field
        self.found = found
        self.expected = expected


class PayloadError(InvalidRequestError):
    """A payload cannot be packed, or stored bytes cannot be unpacked.

    The reason names the type and the path of what is at fault, never its value.
    """

    def __init__(self, reason: str, *, item_index: int | None = None) -> None:
        """Carry the *reason*."""
        super().__init__(reason, item_index=item_index)
        self.reason = reason


class TooLargeError(InvalidRequestError):
    """Something is larger than its limit; nothing was written."""

    def __init__(self, what: str, found: int, limit: int, *, item_index: int | None = None) -> None:
        """Say *what* was measured, the size *found* and the *limit* it is held to."""
        super().__init__(f"{what}: found {found}, expected at most {limit}", item_index=item_index)
        self.what = what
        self.found = found
        self.limit = limit


class ConflictError(_ItemError):
    """The request is sound, but the state of the store refuses it; nothing was written."""

    def __init__(self, message: str, *, item_index: int | None = None) -> None:
        """Carry *message* and, for a batch, the index of the item at fault."""
        super().__init__(message)
        self.item_index = item_index


class SequenceConflictError(ConflictError):
    """An entity does not stand at the sequence the writer expected.

    `expected` and `actual` are sequences of the entity's newest event, or
    `NO_STREAM` (-1) for an entity that has no event yet.
    """

    def __init__(self, entity: str, expected: int, actual: int, *, item_index: int | None = None) -> None:
        """Name the *entity*, the sequence *expected* and the *actual* one."""
        super().__init__(
            f"entity {entity!r}: found {_standing(actual)}, expected {_standing(expected)}",
            item_index=item_index,
        )
        self.entity = entity
        self.expected = expected
        self.actual = actual


def _standing(sequence: int) -> str:
    return "no event yet" if sequence == _NO_STREAM else f"sequence {sequence}"


class IdempotencyConflictError(ConflictError):
    """An idempotency key was used before, for something else; nothing was written."""

    def __init__(self, key: UUID, reason: str, *, item_index: int | None = None) -> None:
        """Name the *key* and the *reason* why the first receipt is no answer."""
        super().__init__(f"idempotency key {key}: {reason}", item_index=item_index)
        self.key = key
        self.reason = reason


class EventNotFoundError(BatpakError, LookupError):
    """No visible event has this id."""

    def __init__(self, event_id: UUID) -> None:
        """Name the *event_id* that was looked for."""
        super().__init__(f"found no event {event_id}, expected one with this id")
        self.event_id = event_id


class StoreLockedError(BatpakError):
    """Another open store holds the directory for writing.

    The holder describes itself, so each of `pid`, `host` and `since` (ISO 8601
    text, UTC) may be None where it could not be read.
    """

    retryable = True

    def __init__(
        self,
        directory: str,
        pid: int | None = None,
        host: str | None = None,
        since: str | None = None,
    ) -> None:
        """Name the *directory* and what is known about who holds it."""
        holder = f"process {pid}" if pid is not None else "an unknown process"
        host_text = f" on {host}" if host is not None else ""
        since_text = f" since {since}" if since is not None else ""
        super().__init__(
            f"store {directory}: found it locked by {holder}{host_text}{since_text}, expected no other writer"
        )
        self.directory = directory
        self.pid = pid
        self.host = host
        self.since = since


class StoreClosedError(BatpakError):
    """The store was closed before the call, or while it was waiting."""

    def __init__(self, message: str = "found a closed store, expected an open one") -> None:
        """Carry *message*."""
        super().__init__(message)


class ForkedStoreError(StoreClosedError):
    """The store was opened by the parent of this process; a fork's copy of it is dead."""

    def __init__(
        self,
        message: str = "found a store opened before the fork, expected one opened by this process",
    ) -> None:
        """Carry *message*."""
        super().__init__(message)


class BackpressureError(BatpakError):
    """There was no room in the queue for as long as the caller wanted to wait.

    Nothing was written and nothing will be.
    """

    retryable = True

    def __init__(self, retry_after_seconds: float) -> None:
        """Say after how many seconds another attempt is worth making."""
        super().__init__(
            "found a full queue, expected room for one more command; "
            f"nothing was written, try again in {retry_after_seconds:g} s"
        )
        self.retry_after_seconds = retry_after_seconds


class ActorFailedError(BatpakError):
    """An actor has died for good; its last error, where there is one, is the cause."""

    def __init__(self, actor: str, reason: str = "") -> None:
        """Name the *actor* and, where it is known, the *reason*."""
        because = f": {reason}" if reason else ""
        super().__init__(f"found the {actor} failed, expected it to be running{because}")
        self.actor = actor
        self.reason = reason


class WriterFailedError(ActorFailedError):
    """The writer takes no more writes until the store is opened again; reads go on."""

    def __init__(self, reason: str = "") -> None:
        """Carry the *reason* where it is known."""
        super().__init__("writer", reason)


class StorageError(BatpakError):
    """A system call failed; the `OSError` is the cause."""

    retryable = True

    def __init__(self, operation: str, file: str, errno: int | None) -> None:
        """Name the *operation*, the *file* and the system's error number."""
        super().__init__(f"{operation} {file}: found error {_errno_text(errno)}, expected success")
        self.operation = operation
        self.file = file
        self.errno = errno


def _errno_text(errno: int | None) -> str:
    return "without a number" if errno is None else f"{errno} ({os.strerror(errno)})"


class InvalidDirectoryError(BatpakError):
    """The path cannot hold a store: it is a file, not writable, or something else is wrong."""

    def __init__(self, directory: str, reason: str) -> None:
        """Name the *directory* and the *reason*."""
        super().__init__(f"directory {directory}: {reason}")
        self.directory = directory
        self.reason = reason


class CorruptStoreError(BatpakError):
    """Stored bytes are not what was written.

    `offset` is in bytes from the start of `file`, None where the file as a whole
    is at fault. `provable` says how far the store can be shown to be sound. Nothing was changed. What to do then:
    docs/guarantees.md; ``batpak verify DIR`` names the first damage, ``batpak recover DIR --keep-prefix`` the way on.
    """

    def __init__(self, file: str, offset: int | None, found: str, expected: str, provable: str = "") -> None:
        """Say where the damage is, what was *found* and what was *expected* there."""
        place = f"{file} at byte {offset}" if offset is not None else file
        sound = f"; provable up to there: {provable}" if provable else ""
        super().__init__(f"{place}: found {found}, expected {expected}{sound}")
        self.file = file
        self.offset = offset
        self.found = found
        self.expected = expected
        self.provable = provable


class UnsupportedFormatError(BatpakError):
    """Newer software wrote this file; it is sound, but this version cannot read it."""

    def __init__(self, file: str, found: int | str, supported: str) -> None:
        """Name the *file*, the format *found* and what is *supported*."""
        super().__init__(f"{file}: found format {found}, expected {supported}")
        self.file = file
        self.found = found
        self.supported = supported


class UnsupportedPlatformError(BatpakError):
    """The operating system lacks something that a store's promises rest on."""


class EncryptedPayloadError(BatpakError):
    """The event is there, but its payload is encrypted and this store has no key for it."""

    def __init__(self, event_id: UUID) -> None:
        """Name the event."""
        super().__init__(f"event {event_id}: found an encrypted payload, expected a readable one")
        self.event_id = event_id


class ReentrantCallError(BatpakError):
    """A signal handler, a log processor or `__del__` called the store from within its own turn."""

    def __init__(
        self,
        message: str = (
            "found a call from within a turn of the same thread, expected one from outside; nothing was done"
        ),
    ) -> None:
        """Carry *message*."""
        super().__init__(message)


class StalePlaceError(BatpakError):
    """A place names an event that this store does not have there.

    After a power cut a global sequence may have been given to another event.
    `found` is the place the store has under that sequence, None if there is none.
    """

    def __init__(self, given: Place, found: Place | None) -> None:
        """Name both places."""
        there = _place_text(found) if found is not None else "no event"
        super().__init__(f"found {there}, expected {_place_text(given)}")
        self.given = given
        self.found = found


class PlaceConflictError(ConflictError):
    """A named place is another consumer's: it is held now, or belongs to another region or another store.

    Nothing starts over because of it: `reset_place` and `delete_place` are what starts over.
    """

    def __init__(self, name: str, found: str, expected: str) -> None:
        """Give the place's *name*, what was *found* and what was *expected*."""
        super().__init__(f"place {name!r}: found {found}, expected {expected}")
        self.name = name
        self.found = found
        self.expected = expected


class SubscriptionOverflowError(BatpakError):
    """More events waited for a subscriber than it has room for; it has been ended, and no append waited for it.

    A new subscription begins with what comes from then on; a cursor misses nothing.
    """

    def __init__(self, capacity: int) -> None:
        """Name the *capacity*, in events."""
        super().__init__(f"subscription: found more than {capacity} events waiting, expected at most {capacity}")
        self.capacity = capacity


class ReactorError(BatpakError):
    """A reactor raised, or reacted with what it may not; the cause is the error. The event counts as unhandled."""

    def __init__(self, name: str, event_id: UUID, reason: str) -> None:
        """Give the reactor's *name*, the event at which it failed and the *reason*: an error's type, or a rule."""
        super().__init__(f"reactor {name!r} at event {event_id}: {reason}")
        self.name = name
        self.event_id = event_id
        self.reason = reason


class WaitTimeoutError(BatpakError, TimeoutError):
    """A named cursor or worker has not come so far in time; it may still."""

    retryable = True

    def __init__(self, name: str, global_sequence: int, timeout_seconds: float) -> None:
        """Give the *name*, the *global_sequence* that was waited for, and for how long."""
        super().__init__(
            f"place {name!r}: found it before global sequence {global_sequence}, expected it there within "
            f"{timeout_seconds:g} s"
        )
        self.name = name
        self.global_sequence = global_sequence
        self.timeout_seconds = timeout_seconds

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:  # type: ignore[override] # an OSError is made by its constructor alone
        """Pickle by the constructor's arguments."""
        return type(self), (self.name, self.global_sequence, self.timeout_seconds)


def _place_text(place: Place) -> str:
    return f"event {place.event_hash.hex()} at global sequence {place.global_sequence}"
