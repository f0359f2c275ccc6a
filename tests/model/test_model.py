"""Random sequences of every call, in which the store is reopened and killed, against a model of lists.

A sequence follows from its seed. The message of a failure holds the call that replays it with the fewest steps found.
"""

from __future__ import annotations

import pytest

from tests.model.faults import BETWEEN, KILL_POINTS, RECOVERY_POINTS
from tests.model.sequence import run_sequence, shrink
from tests.model.world import Counts, DriverName

SEQUENCES = 500
AT_ONCE = 20
ENOUGH = 100
REACHED = Counts()

CALLS = (
    "anchor", "append", "append_batch", "append_reaction", "by_fact", "by_scope", "causes", "close", "diagnostics",
    "effects", "get", "get_many", "latest", "open", "open_read_only", "place_at", "query", "read", "read_stream",
    "refresh", "stats", "stream", "sync", "verify_chain", "walk_ancestors",
)  # fmt: skip
ERRORS = (
    "ActorFailedError", "BackpressureError", "CorruptStoreError", "EventNotFoundError", "ForkedStoreError",
    "IdempotencyConflictError", "InvalidConfigError", "InvalidCoordinateError", "InvalidDirectoryError",
    "InvalidKindError", "InvalidRegionError", "InvalidRequestError", "PayloadError", "ReentrantCallError",
    "ReservedKindError", "SequenceConflictError", "StalePlaceError", "StorageError", "StoreClosedError",
    "StoreLockedError", "TooLargeError", "UnsupportedFormatError", "WriterFailedError",
)  # fmt: skip
KILLS = [BETWEEN, *(point for _, point in KILL_POINTS), *(f"recovery: {point}" for _, point in RECOVERY_POINTS)]


def driver_of(seed: int) -> DriverName:
    """Return who runs the actors of a sequence: threads in one of eight, where fewer kinds of kill are possible."""
    return {6: "assisted", 7: "threaded"}.get(seed % 16, "stepped")  # type: ignore[return-value]


@pytest.mark.parametrize("first", range(0, SEQUENCES, AT_ONCE))
def test_a_store_answers_as_its_model_does(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        driver = driver_of(seed)
        try:
            REACHED.add(run_sequence(seed, driver))
        except BaseException as error:
            steps, last = shrink(seed, error) if driver == "stepped" else (None, error)
            replay = f"run_sequence({seed}, {driver!r}{'' if steps is None else f', {steps}'})"
            raise AssertionError(f"{type(last).__name__}; replay: tests.model.sequence.{replay}") from last


def test_everything_was_reached() -> None:
    """Every call, error class and kill point often enough; runs behind the sequences."""
    if sum(REACHED.drivers.values()) < SEQUENCES:
        pytest.skip("not all sequences have run")
    assert {name for name in CALLS if REACHED.calls[name] < ENOUGH} == set()
    assert {name for name in ERRORS if REACHED.errors[name] < ENOUGH} == set()
    assert {point for point in KILLS if REACHED.kills[point] < ENOUGH} == set()
