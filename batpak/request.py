"""From what users type to commands: every argument is checked here, before anything is queued."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from os import PathLike
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar
from uuid import UUID

from batpak.actors.messages import Append, AppendBatch
from batpak.config import StoreConfig
from batpak.coordinate import Coordinate, check_text
from batpak.errors import (
    InvalidCoordinateError,
    InvalidDirectoryError,
    InvalidRequestError,
    ReservedKindError,
    StorageError,
    TooLargeError,
)
from batpak.event import (
    MAX_SEQUENCE,
    NO_FLAGS,
    NO_STREAM,
    EventFlags,
    IndexEntry,
    NewEvent,
    Notification,
    StoredEvent,
)
from batpak.ids import operation_key
from batpak.kind import EventKind
from batpak.payload import encode_payload
from batpak.receipt import Receipt
from batpak.storage.files import RealFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batpak.clock import Clock
    from batpak.payload import Payload

T = TypeVar("T")

Cause: TypeAlias = StoredEvent | IndexEntry | Notification | Receipt
"""What a reaction can name as its cause."""

KEY_DOMAIN: Final = "batpak.key"
"""The domain of `operation_key` for a key that was given as text."""
MAX_FLAGS: Final = 0xFF
MAX_TIMESTAMP_US: Final = 2**48 * 1000
"""Ids keep milliseconds since 1970 in 48 bits."""


class Requests:
    """Makes the commands of one store."""

    __slots__ = ("_clock", "_config", "_max_payload_bytes")

    def __init__(self, config: StoreConfig) -> None:
        """Check against the limits of *config* and read its clock."""
        self._config = config
        self._clock: Clock = config.clock
        self._max_payload_bytes = config.max_payload_bytes

    def append(
        self,
        coordinate: Coordinate,
        kind: EventKind,
        payload: Payload,
        expected_sequence: int | None,
        idempotency_key: UUID | str | None,
        correlation_id: UUID | None,
        causation_id: UUID | None,
        flags: EventFlags,
        now_us: int | None = None,
    ) -> Append:
        """Return the command that appends one event; `InvalidRequestError` says which argument is wrong.

        The clock is read if *now_us* is not given.
        """
        if type(coordinate) is not Coordinate:
            raise _wrong("coordinate", coordinate, "Coordinate")
        if type(kind) is not EventKind:
            raise _wrong("kind", kind, "EventKind")
        if kind.is_reserved:
            raise ReservedKindError(kind)
        raw = encode_payload(payload)
        if len(raw) > self._max_payload_bytes:
            raise TooLargeError("payload", len(raw), self._max_payload_bytes)
        if now_us is None:
            now_us = self._clock.now_us()
            if not 0 <= now_us < MAX_TIMESTAMP_US:
                raise _no_time(now_us)
        return Append(
            coordinate.entity,
            coordinate.scope,
            kind.value,
            raw,
            now_us,
            None if expected_sequence is None else _expected(expected_sequence),
            None if idempotency_key is None else _key(idempotency_key),
            None if correlation_id is None else _id("correlation_id", correlation_id),
            None if causation_id is None else _id("causation_id", causation_id),
            0 if flags is NO_FLAGS else _flags(flags),
        )

    def batch(self, items: Sequence[NewEvent]) -> AppendBatch:
        """Return the command that appends *items* together; errors carry the item's index."""
        items = check_items("items", items)
        if len(items) > self._config.max_batch_events:
            raise TooLargeError("events in a batch", len(items), self._config.max_batch_events)
        now_us = self.now_us()
        commands = []
        size = 0
        for index, item in enumerate(items):
            try:
                command = self._item(item, index, now_us)
            except InvalidRequestError as error:
                error.item_index = index
                raise
            commands.append(command)
            size += len(command.payload)
        if size > self._config.max_batch_bytes:
            raise TooLargeError("bytes of payloads in a batch", size, self._config.max_batch_bytes)
        _check_keys(commands)
        return AppendBatch(commands)

    def system(self, coordinate: Coordinate, kind: EventKind, payload: Payload, cause: StoredEvent) -> Append:
        """Return the command that appends an event of ours, of a kind that callers may not write."""
        correlation, causation = cause.correlation_id.bytes, cause.event_id.bytes
        entity, scope, raw, now_us = coordinate.entity, coordinate.scope, encode_payload(payload), self.now_us()
        return Append(entity, scope, kind.value, raw, now_us, correlation_id=correlation, causation_id=causation)

    def now_us(self) -> int:
        """Read the clock; a time that no id can hold is refused."""
        now_us = self._clock.now_us()
        if not 0 <= now_us < MAX_TIMESTAMP_US:
            raise _no_time(now_us)
        return now_us

    def _item(self, item: NewEvent, index: int, now_us: int) -> Append:
        """Return the command of one item of a batch."""
        if not isinstance(item, NewEvent):
            raise _wrong("item", item, "NewEvent")
        caused_by = item.caused_by
        if caused_by is not None and check_count("caused_by", caused_by) >= index:
            raise InvalidRequestError(
                f"caused_by: found {caused_by}, expected the index of an earlier item, below {index}"
            )
        command = self.append(
            item.coordinate,
            item.kind,
            item.payload,
            item.expected_sequence,
            item.idempotency_key,
            item.correlation_id,
            item.causation_id,
            item.flags,
            now_us,
        )
        if caused_by is not None:
            command.caused_by = caused_by  # type: ignore[misc] # not yet anybody else's
        return command


def open_directory(directory: str | PathLike[str], *, create: bool) -> RealFiles:
    """Return the files of *directory*; everything that is wrong with it is a typed error."""
    if not isinstance(directory, str | PathLike):
        raise _wrong("directory", directory, "a path")
    path = directory if isinstance(directory, str) else directory.__fspath__()
    if not path:
        raise InvalidDirectoryError(path, "found an empty path, expected the path of a directory")
    try:
        return RealFiles.open(path, create=create)
    except OSError as error:
        raise StorageError("open", path, error.errno) from error


def check_config(config: StoreConfig | None) -> StoreConfig:
    """Return *config*, or the default settings where there is none."""
    if config is None:
        return StoreConfig()
    if isinstance(config, StoreConfig):
        return config
    raise _wrong("config", config, "StoreConfig")


def cause_ids(cause: Cause, correlation: bytes | None) -> tuple[UUID, UUID]:
    """Return correlation and causation of a reaction to *cause*; a receipt does not know its *correlation*."""
    if isinstance(cause, StoredEvent | IndexEntry | Notification):
        return cause.correlation_id, cause.event_id
    if isinstance(cause, Receipt):
        return cause.event_id if correlation is None else UUID(bytes=correlation), cause.event_id
    raise _wrong("cause", cause, "StoredEvent, IndexEntry, Notification or Receipt")


def check_wait(found: object, name: str = "max_wait_seconds") -> None:
    """Refuse what is no time to wait."""
    if found is not None and not (type(found) in {int, float} and isinstance(found, int | float) and found >= 0):
        raise InvalidRequestError(f"{name}: found {_shown(found)}, expected None or seconds from 0")


def check_timeout(found: object) -> None:
    """Refuse what is no time to wait for events."""
    check_wait(found, "timeout_seconds")


def check_limit(found: object, name: str = "limit") -> int:
    """Return *found* if it is a number of events to ask for."""
    if type(found) is int and found >= 1:
        return found
    raise InvalidRequestError(f"{name}: found {_shown(found)}, expected an int from 1")


def check_name(found: object) -> str:
    """Return *found* if it can name a place: the rules are those of an entity."""
    try:
        return check_text("name", found)  # type: ignore[arg-type] # that it is text is what is checked
    except InvalidCoordinateError as error:
        raise InvalidRequestError(f"name: found {error.found}, expected {error.expected}") from None


def check_items(name: str, found: Iterable[T]) -> list[T]:
    """Return the items of *found* if it can be iterated over."""
    if isinstance(found, Iterable):
        return list(found)
    raise _wrong(name, found, "a sequence")


def check_entity(found: object) -> str:
    """Return *found* if an event could live there."""
    return check_text("entity", found)  # type: ignore[arg-type] # that it is text is what is checked


def check_count(name: str, found: object) -> int:
    """Return *found* if it is an int from 0."""
    if type(found) is int and found >= 0:
        return found
    raise InvalidRequestError(f"{name}: found {_shown(found)}, expected an int from 0")


def require_moment(found: object) -> None:
    """Refuse what is no datetime with a zone: a naive one could mean any."""
    if not isinstance(found, datetime) or found.tzinfo is None:
        raise InvalidRequestError(f"moment: found {type(found).__name__} without a zone, expected a datetime with one")


def check_durable(durable: bool | None) -> None:  # noqa: FBT001 - checks the argument of that name
    """Refuse what is neither a bool nor None: an expectation passed in its place would be lost."""
    if durable is not None and type(durable) is not bool:
        raise _wrong("durable", durable, "bool or None")


def _check_keys(commands: Sequence[Append]) -> None:
    """Refuse a batch that is keyed in part, or uses one key twice."""
    keys = [command.key for command in commands]
    if None not in keys:
        seen: set[bytes | None] = set()
        for index, key in enumerate(keys):
            if key in seen:
                raise InvalidRequestError(
                    "idempotency_key: found the key of an earlier item, expected another", item_index=index
                )
            seen.add(key)
    elif any(key is not None for key in keys):
        raise InvalidRequestError(
            "idempotency_key: found items with and without, expected all or none", item_index=keys.index(None)
        )


def _expected(found: object) -> int:
    """Check an expected sequence."""
    if type(found) is not int or not NO_STREAM <= found <= MAX_SEQUENCE:
        raise InvalidRequestError(
            f"expected_sequence: found {_shown(found)}, expected NO_STREAM or an int from 0 to {MAX_SEQUENCE}"
        )
    return found


def _key(found: object) -> bytes:
    """Return the id that a key gives its event."""
    if isinstance(found, UUID):
        if found.int:
            return found.bytes
        raise InvalidRequestError("idempotency_key: found the nil UUID, which no event can have, expected another")
    if isinstance(found, str):
        if found:
            return operation_key(KEY_DOMAIN, found).bytes
        raise InvalidRequestError("idempotency_key: found no text, expected at least one character")
    raise _wrong("idempotency_key", found, "UUID or text")


def _id(name: str, found: object) -> bytes | None:
    """Return the bytes of an id; the nil UUID counts as none."""
    if isinstance(found, UUID):
        return found.bytes if found.int else None
    raise _wrong(name, found, "UUID")


def _flags(found: object) -> int:
    """Check flags."""
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= MAX_FLAGS:
        raise _wrong("flags", found, "EventFlags")
    return int(found)


def _shown(found: object) -> str:
    """Return a number, and of everything else the type: a payload passed by mistake stays out of messages."""
    return str(found) if type(found) in {int, float} else type(found).__name__


def _no_time(now_us: int) -> InvalidRequestError:
    """Return the refusal of what the clock says."""
    return InvalidRequestError(f"clock: found {now_us} us since 1970, expected 0 to {MAX_TIMESTAMP_US - 1}")


def _wrong(name: str, found: object, expected: str) -> InvalidRequestError:
    """Return the refusal of an argument of another type."""
    return InvalidRequestError(f"{name}: found {type(found).__name__}, expected {expected}")
