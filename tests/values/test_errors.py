"""The error tree: who inherits from whom, what each error carries and says, and that all of it survives pickling."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle
from uuid import UUID

import pytest

from batpak import errors
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
from batpak.kind import EventKind
from batpak.receipt import Place

ID = UUID("778a4035-d27f-90aa-9ebe-02decb3aafdf")
GIVEN = Place(7, b"a" * 32)
FOUND = Place(7, b"b" * 32)

# One of each class: the error, its attributes, its message.
CASES: list[tuple[BatpakError, dict[str, object], str]] = [
    (BatpakError("it broke"), {}, "it broke"),
    (InvalidRequestError("no", item_index=3), {"item_index": 3}, "item 3: no"),
    (
        InvalidCoordinateError("entity", "no text", "at least one character"),
        {"part": "entity", "found": "no text", "expected": "at least one character", "item_index": None},
        "coordinate's entity: found no text, expected at least one character",
    ),
    (
        InvalidKindError("category", "0x10", "an int from 0x0 to 0xf"),
        {"part": "category", "found": "0x10", "expected": "an int from 0x0 to 0xf"},
        "event kind's category: found 0x10, expected an int from 0x0 to 0xf",
    ),
    (
        ReservedKindError(EventKind(0xD, 1), item_index=0),
        {"kind": EventKind(0xD, 1), "item_index": 0},
        "item 0: found the reserved kind 0xd001, expected a category of 0x1 to 0xC, 0xE or 0xF",
    ),
    (
        InvalidRegionError("sequences", "(2, 1)", "first <= last"),
        {"part": "sequences", "found": "(2, 1)", "expected": "first <= last"},
        "region's sequences: found (2, 1), expected first <= last",
    ),
    (
        InvalidConfigError("segment_bytes", "1", "more"),
        {"field": "segment_bytes", "found": "1", "expected": "more"},
        "setting segment_bytes: found 1, expected more",
    ),
    (PayloadError("payload.a: found a set"), {"reason": "payload.a: found a set"}, "payload.a: found a set"),
    (
        TooLargeError("payload in bytes", 11, 10, item_index=2),
        {"what": "payload in bytes", "found": 11, "limit": 10, "item_index": 2},
        "item 2: payload in bytes: found 11, expected at most 10",
    ),
    (ConflictError("no", item_index=1), {"item_index": 1}, "item 1: no"),
    (
        SequenceConflictError("order:42", 4, 7, item_index=5),
        {"entity": "order:42", "expected": 4, "actual": 7, "item_index": 5},
        "item 5: entity 'order:42': found sequence 7, expected sequence 4",
    ),
    (
        IdempotencyConflictError(ID, "its event has another payload"),
        {"key": ID, "reason": "its event has another payload", "item_index": None},
        f"idempotency key {ID}: its event has another payload",
    ),
    (EventNotFoundError(ID), {"event_id": ID}, f"found no event {ID}, expected one with this id"),
    (
        StoreLockedError("/j", 12, "box", "2024-05-01T10:00:00Z"),
        {"directory": "/j", "pid": 12, "host": "box", "since": "2024-05-01T10:00:00Z"},
        "store /j: found it locked by process 12 on box since 2024-05-01T10:00:00Z, expected no other writer",
    ),
    (StoreClosedError(), {}, "found a closed store, expected an open one"),
    (ForkedStoreError(), {}, "found a store opened before the fork, expected one opened by this process"),
    (
        BackpressureError(0.25),
        {"retry_after_seconds": 0.25},
        "found a full queue, expected room for one more command; nothing was written, try again in 0.25 s",
    ),
    (
        ActorFailedError("reader", "it has no restarts left"),
        {"actor": "reader", "reason": "it has no restarts left"},
        "found the reader failed, expected it to be running: it has no restarts left",
    ),
    (
        WriterFailedError("fdatasync failed"),
        {"actor": "writer", "reason": "fdatasync failed"},
        "found the writer failed, expected it to be running: fdatasync failed",
    ),
    (
        StorageError("fdatasync", "000001.fbat", errno.EIO),
        {"operation": "fdatasync", "file": "000001.fbat", "errno": errno.EIO},
        "fdatasync 000001.fbat: found error 5 (Input/output error), expected success",
    ),
    (
        InvalidDirectoryError("/j", "found a file, expected a directory"),
        {"directory": "/j", "reason": "found a file, expected a directory"},
        "directory /j: found a file, expected a directory",
    ),
    (
        CorruptStoreError("000002.fbat", 64, "checksum 1", "checksum 2", "events up to 9"),
        {
            "file": "000002.fbat",
            "offset": 64,
            "found": "checksum 1",
            "expected": "checksum 2",
            "provable": "events up to 9",
        },
        "000002.fbat at byte 64: found checksum 1, expected checksum 2; provable up to there: events up to 9",
    ),
    (
        UnsupportedFormatError("000001.fbat", 3, "1 or 2"),
        {"file": "000001.fbat", "found": 3, "supported": "1 or 2"},
        "000001.fbat: found format 3, expected 1 or 2",
    ),
    (UnsupportedPlatformError("found Windows"), {}, "found Windows"),
    (
        EncryptedPayloadError(ID),
        {"event_id": ID},
        f"event {ID}: found an encrypted payload, expected a readable one",
    ),
    (
        ReentrantCallError(),
        {},
        "found a call from within a turn of the same thread, expected one from outside; nothing was done",
    ),
    (
        StalePlaceError(GIVEN, FOUND),
        {"given": GIVEN, "found": FOUND},
        f"found event {'62' * 32} at global sequence 7, expected event {'61' * 32} at global sequence 7",
    ),
    (
        PlaceConflictError("mailer", "a holder", "none"),
        {"name": "mailer", "found": "a holder", "expected": "none", "item_index": None},
        "place 'mailer': found a holder, expected none",
    ),
    (
        SubscriptionOverflowError(8),
        {"capacity": 8},
        "subscription: found more than 8 events waiting, expected at most 8",
    ),
    (
        ReactorError("mailer", ID, "ValueError"),
        {"name": "mailer", "event_id": ID, "reason": "ValueError"},
        f"reactor 'mailer' at event {ID}: ValueError",
    ),
    (
        WaitTimeoutError("mailer", 7, 0.5),
        {"name": "mailer", "global_sequence": 7, "timeout_seconds": 0.5},
        "place 'mailer': found it before global sequence 7, expected it there within 0.5 s",
    ),
]

PARENTS = {
    "BatpakError": (Exception,),
    "InvalidRequestError": (BatpakError, ValueError),
    "InvalidCoordinateError": (InvalidRequestError,),
    "InvalidKindError": (InvalidRequestError,),
    "ReservedKindError": (InvalidRequestError,),
    "InvalidRegionError": (InvalidRequestError,),
    "InvalidConfigError": (InvalidRequestError,),
    "PayloadError": (InvalidRequestError,),
    "TooLargeError": (InvalidRequestError,),
    "ConflictError": (BatpakError,),
    "SequenceConflictError": (ConflictError,),
    "IdempotencyConflictError": (ConflictError,),
    "EventNotFoundError": (BatpakError, LookupError),
    "StoreLockedError": (BatpakError,),
    "StoreClosedError": (BatpakError,),
    "ForkedStoreError": (StoreClosedError,),
    "BackpressureError": (BatpakError,),
    "ActorFailedError": (BatpakError,),
    "WriterFailedError": (ActorFailedError,),
    "StorageError": (BatpakError,),
    "InvalidDirectoryError": (BatpakError,),
    "CorruptStoreError": (BatpakError,),
    "UnsupportedFormatError": (BatpakError,),
    "UnsupportedPlatformError": (BatpakError,),
    "EncryptedPayloadError": (BatpakError,),
    "ReentrantCallError": (BatpakError,),
    "StalePlaceError": (BatpakError,),
    "PlaceConflictError": (ConflictError,),
    "SubscriptionOverflowError": (BatpakError,),
    "ReactorError": (BatpakError,),
    "WaitTimeoutError": (BatpakError, TimeoutError),
}
RETRYABLE = {"StoreLockedError", "BackpressureError", "StorageError", "WaitTimeoutError"}


def public_errors() -> list[type[BatpakError]]:
    classes = [member for _, member in inspect.getmembers(errors, inspect.isclass)]
    return [member for member in classes if issubclass(member, BatpakError) and not member.__name__.startswith("_")]


def name_of(value: object) -> str:
    return type(value).__name__ if isinstance(value, BatpakError) else ""


def test_every_public_error_has_a_case_and_a_parent_here() -> None:
    names = {error.__name__ for error in public_errors()}
    assert names == {type(error).__name__ for error, _, _ in CASES} == set(PARENTS)


def test_the_tree_in_the_docstring_names_every_error_and_marks_the_retryable_ones() -> None:
    lines = (errors.__doc__ or "").splitlines()
    drawn = [line.strip("│├└─ ") for line in lines if line.strip("│├└─ ").split(" ")[0].endswith("Error")]
    assert {line.split(" ")[0] for line in drawn} == set(PARENTS)
    assert {line.split(" ")[0] for line in drawn if "retryable" in line} == RETRYABLE


@pytest.mark.parametrize("error_type", public_errors())
def test_an_error_inherits_from_its_place_in_the_tree(error_type: type[BatpakError]) -> None:
    assert all(issubclass(error_type, parent) for parent in PARENTS[error_type.__name__])
    assert error_type.__doc__


@pytest.mark.parametrize("error_type", public_errors())
def test_only_what_may_go_away_by_itself_is_retryable(error_type: type[BatpakError]) -> None:
    assert error_type.retryable is (error_type.__name__ in RETRYABLE)


@pytest.mark.parametrize(("error", "attributes", "message"), CASES, ids=name_of)
def test_an_error_carries_its_attributes_and_its_message(
    error: BatpakError, attributes: dict[str, object], message: str
) -> None:
    assert {name: getattr(error, name) for name in attributes} == attributes
    assert str(error) == message


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("error", "attributes", "message"), CASES, ids=name_of)
def test_an_error_survives_pickling(
    error: BatpakError, attributes: dict[str, object], message: str, protocol: int
) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert str(again) == message
    assert again.args == error.args
    assert {name: getattr(again, name) for name in attributes} == attributes


def test_an_error_survives_copying_with_its_notes() -> None:
    error = SequenceConflictError("order:42", 1, 2)
    error.add_note("while placing the order")
    again = copy.copy(error)
    assert (again.entity, again.expected, again.actual) == ("order:42", 1, 2)
    assert again.__notes__ == ["while placing the order"]


def test_an_item_index_set_afterwards_appears_in_the_message() -> None:
    error = InvalidCoordinateError("scope", "no text", "some")
    error.item_index = 4
    assert str(error) == "item 4: coordinate's scope: found no text, expected some"


@pytest.mark.parametrize(
    ("expected", "actual", "message"),
    [
        (-1, 0, "entity 'e': found sequence 0, expected no event yet"),
        (0, -1, "entity 'e': found no event yet, expected sequence 0"),
    ],
)
def test_an_entity_without_events_is_told_in_words(expected: int, actual: int, message: str) -> None:
    assert str(SequenceConflictError("e", expected, actual)) == message


def test_a_lock_whose_holder_is_unknown_says_so() -> None:
    error = StoreLockedError("/j")
    assert (error.pid, error.host, error.since) == (None, None, None)
    assert str(error) == "store /j: found it locked by an unknown process, expected no other writer"


def test_damage_to_a_whole_file_has_no_offset() -> None:
    error = CorruptStoreError("index.idemp", None, "3 bytes", "12 or more")
    assert (error.offset, error.provable) == (None, "")
    assert str(error) == "index.idemp: found 3 bytes, expected 12 or more"


def test_a_storage_error_without_a_number_says_so() -> None:
    error = StorageError("open", "a", None)
    assert error.errno is None
    assert str(error) == "open a: found error without a number, expected success"


def test_a_place_behind_the_end_is_found_to_be_empty() -> None:
    error = StalePlaceError(GIVEN, None)
    assert error.found is None
    assert str(error).startswith("found no event, expected event 6161")


def test_a_failed_actor_without_a_reason_is_named() -> None:
    assert str(WriterFailedError()) == "found the writer failed, expected it to be running"
