"""Every setting of a store, each with its unit, its limits and the reason for its default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from reprlib import repr as short_repr
from typing import Final, Literal

from batpak.clock import Clock, SystemClock
from batpak.errors import InvalidConfigError

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

MAX_WAIT_SECONDS: Final = 86_400.0
"""The longest setting in seconds: a day, so that a unit mixed up is noticed."""


_INTEGERS: Final = (
    ("segment_bytes", 4 * KIB, GIB),
    ("sync_every_events", 1, 1_000_000),
    ("max_payload_bytes", 1, 64 * MIB),
    ("max_batch_events", 1, 65_536),
    ("max_batch_bytes", 1, 64 * MIB),
    ("mailbox_capacity", 1, 1_048_576),
)

_CHOICES: Final[tuple[tuple[str, tuple[object, ...]], ...]] = (
    ("segment_format", (None, 1, 2)),
    ("driver", ("assisted", "threaded", "stepped")),
    ("verify_on_open", ("recovery", "checksums", "chain")),
)


def _check_type(name: str, found: object, expected: type, description: str) -> None:
    if not isinstance(found, expected) or isinstance(found, type):
        raise InvalidConfigError(name, short_repr(found), description)


def _check_int(name: str, found: object, lowest: int, highest: int) -> None:
    if type(found) is not int or not lowest <= found <= highest:
        raise InvalidConfigError(name, short_repr(found), f"an int from {lowest} to {highest}")


def _check_seconds(name: str, found: object) -> None:
    # No comparison holds for a NaN, so that this refuses it as well.
    if type(found) not in (int, float) or not 0 < found <= MAX_WAIT_SECONDS:  # type: ignore[operator]
        expected = f"a number above 0, at most {MAX_WAIT_SECONDS:g}"
        raise InvalidConfigError(name, short_repr(found), expected)


def _check_choice(name: str, found: object, choices: tuple[object, ...]) -> None:
    if not any(type(found) is type(choice) and found == choice for choice in choices):
        raise InvalidConfigError(name, short_repr(found), " or ".join(map(repr, choices)))


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often an actor that died of an error is started again; past that it stays down.

    *max_restarts* from 0 to 1,000 restarts are granted within *within_seconds* (above 0, at most a day), or in the
    whole life of the store where it is None. A failed fsync is never restarted, whatever the policy.
    Raises `InvalidConfigError` for anything else.
    """

    max_restarts: int
    within_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers out of their limits."""
        _check_int("max_restarts", self.max_restarts, 0, 1000)
        if self.within_seconds is not None:
            _check_seconds("within_seconds", self.within_seconds)

    def counted(self, failures: Sequence[float], now: float) -> list[float]:
        """Return those of *failures*, in monotonic seconds, that still count when another comes *now*, and that one."""
        within = self.within_seconds
        return [*(at for at in failures if within is None or now - at <= within), now]

    @classmethod
    def once(cls) -> RestartPolicy:
        """One restart in the life of the store: a passing fault heals, a bug does not loop."""
        return cls(1)

    @classmethod
    def bounded(cls, max_restarts: int, within_seconds: float) -> RestartPolicy:
        """Give *max_restarts* restarts within any *within_seconds*, counted anew when those have passed."""
        return cls(max_restarts, within_seconds)

    @classmethod
    def never(cls) -> RestartPolicy:
        """No restart: the first error is final."""
        return cls(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """The settings of one store; every one has a default that is safe to leave alone.

    Raises `InvalidConfigError`, which names the setting, for a value of another type or out of its limits.
    """

    durable: bool = False
    """Whether a write that does not say waits for an fsync. Off: a killed process still loses nothing that has a
    receipt, and a power cut takes at most what the two ``sync_every`` settings allow."""

    segment_bytes: int = 64 * MIB
    """Bytes at which a segment is sealed and the next one begun; 4 KiB to 1 GiB. 64 MiB keeps both the number of files
    and the work on any one of them small; offsets stay within 32 bits."""

    sync_every_events: int = 1000
    """Events after which the journal is synced, at the latest; 1 to 1,000,000. 1000 bounds what a power cut can take
    and spreads the cost of an fsync so thin that it is not felt."""

    sync_every_seconds: float = 1.0
    """Seconds after which an event is synced, at the latest, in an idle store as well; above 0, at most a day."""

    segment_format: Literal[1, 2] | None = None
    """The segments' format: None is 2 for a new store and else what the store has; 1 writes what the original opens."""

    max_payload_bytes: int = 16 * MIB
    """Bytes of one packed payload; 1 to 64 MiB. A payload is held in memory several times on its way: what is larger
    belongs in a file of its own, with its name in the event."""

    max_batch_events: int = 4096
    """Events in one batch; 1 to 65,536. The writer serves nobody else while it takes one."""

    max_batch_bytes: int = 8 * MIB
    """Bytes of all packed payloads of one batch; 1 to 64 MiB. A batch is written by one call into one segment."""

    mailbox_capacity: int = 4096
    """Commands that wait for one actor before callers wait for room; 1 to 1,048,576. 4096 absorbs a burst and keeps the
    wait behind a full queue well under a second."""

    restart: RestartPolicy = field(default_factory=RestartPolicy.once)
    """How often an actor that died of an error is started again."""

    driver: Literal["assisted", "threaded", "stepped"] = "assisted"
    """Who runs a command: "assisted" lets the caller's thread do so while the actor is idle, which saves two thread
    switches; "threaded" always hands it over; "stepped" runs nothing until a test says so."""

    append_on_loop: bool = False
    """Whether an async append that is not durable runs on the event loop's own thread: ten times faster, but a write
    that stalls then stalls every task."""

    clock: Clock = field(default_factory=SystemClock)
    """Where the store takes its time from."""

    verify_on_open: Literal["recovery", "checksums", "chain"] = "recovery"
    """What `open` checks: "recovery" what it has to read anyway; "checksums" every frame; "chain" every frame, hash and
    link. The last two read the whole store."""

    slow_command_seconds: float = 0.5
    """Seconds from which a command is logged as slow; above 0, at most a day. Half a second is what a person takes
    for a stall; a tenth is what a turn can wait for the interpreter lock beside busy threads."""

    def __post_init__(self) -> None:
        """Refuse every setting of another type or out of its limits."""
        for name in ("durable", "append_on_loop"):
            _check_type(name, getattr(self, name), bool, "a bool")
        for name, lowest, highest in _INTEGERS:
            _check_int(name, getattr(self, name), lowest, highest)
        for name in ("sync_every_seconds", "slow_command_seconds"):
            _check_seconds(name, getattr(self, name))
        for name, choices in _CHOICES:
            _check_choice(name, getattr(self, name), choices)
        _check_type("restart", self.restart, RestartPolicy, "a RestartPolicy")
        _check_type("clock", self.clock, Clock, "a Clock, with now_us() and monotonic()")
