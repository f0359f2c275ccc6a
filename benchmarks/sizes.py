"""How much each section does: in seconds for a trial, in minutes for the table, in longer for what grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Numbers of events, reads and rounds; what is not given is the ordinary size."""

    rounds: int = 3
    """How often each contender does each thing."""

    warm_up: int = 200
    """Appends before the clock starts."""

    written: int = 20_000
    """Appends of one thread, in one run."""

    batched: int = 40_000
    """Events appended in batches of 100, in one run."""

    durable: int = 500
    """Durable appends of one thread, and durable batches times ten."""

    from_threads: int = 20_000
    """Appends of all threads together."""

    durable_from_threads: int = 2_000
    """Durable appends of all threads together."""

    from_tasks: int = 20_000
    """Awaited appends or reads of all tasks together."""

    durable_from_tasks: int = 4_000
    """Awaited durable appends of all tasks together."""

    offloaded: int = 4_000
    """Calls that cross to a thread and back one by one."""

    beside_busy: int = 200
    """Appends or reads beside threads that are busy in Python."""

    stored: int = 200_000
    """Events in the store that is read from."""

    point_reads: int = 20_000
    """Reads by id, in one run."""

    streams: int = 50
    """Entities read whole, in one run."""

    pages: int = 200
    """Pages of each length and region, in one run."""

    deliveries: int = 1_000
    """Events of each measurement of delivery."""

    subscribers: int = 1_000
    """Subscribers that each get all of some events."""

    growth: tuple[int, ...] = (10_000, 100_000)
    """How many events a store has when what may grow is measured."""

    entities: tuple[int, ...] = (1_000, 100_000)
    """Over how many entities appends are spread, to see what a new one costs."""

    @classmethod
    def quick(cls) -> Self:
        """Enough to see that everything runs; the figures mean nothing."""
        return cls(
            rounds=1,
            warm_up=20,
            written=300,
            batched=600,
            durable=20,
            from_threads=320,
            durable_from_threads=64,
            from_tasks=320,
            durable_from_tasks=128,
            offloaded=50,
            beside_busy=5,
            stored=3_000,
            point_reads=100,
            streams=2,
            pages=5,
            deliveries=20,
            subscribers=20,
            growth=(1_000, 3_000),
            entities=(100, 1_000),
        )

    @classmethod
    def ordinary(cls) -> Self:
        """Enough for a table, in some minutes."""
        return cls()

    @classmethod
    def full(cls) -> Self:
        """Ordinary work in more rounds, on stores of up to a million events."""
        return cls(rounds=5, stored=1_000_000, growth=(10_000, 100_000, 1_000_000), entities=(1_000, 1_000_000))
