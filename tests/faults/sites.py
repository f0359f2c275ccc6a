"""Which system calls a store makes, and samples of them that reach over its whole life."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Final, Literal, NamedTuple

CHANGES: Final = (
    "openat", "pwrite64", "fdatasync", "fsync", "ftruncate", "fallocate", "renameat", "unlinkat", "mkdir", "mkdirat",
)  # fmt: skip
"""What changes a directory, or makes it durable."""
READS: Final = ("pread64", "newfstatat", "getdents64", "faccessat2", "flock", "close", "getrandom", "fadvise64")
INTERRUPTIBLE: Final = (
    "openat", "pread64", "pwrite64", "fdatasync", "fsync", "ftruncate", "fallocate", "flock", "getrandom",
)  # fmt: skip
"""What may end with EINTR before it has done anything."""
SYNCS: Final = ("fdatasync", "fsync")


FORMATS: Final[tuple[Literal[2], Literal[1]]] = (2, 1)


class Beginning(NamedTuple):
    """What a directory is like before a life begins in it."""

    begins: str
    segment_format: Literal[1, 2]


BEGINNINGS: Final[tuple[Beginning, ...]] = (
    Beginning("empty", 2), Beginning("torn", 2), Beginning("empty", 1), Beginning("torn", 1),
)  # fmt: skip


def spread(counts: Mapping[str, int], how_many: int, random: Random) -> list[tuple[str, int]]:
    """Return *how_many* (call, number of the call), every kind of call as often as the others, over its whole range."""
    kinds = sorted(counts)
    places: list[tuple[str, int]] = []
    for number, kind in enumerate(kinds):
        share = how_many // len(kinds) + (number < how_many % len(kinds))
        most = counts[kind]
        for part in range(share):  # one from each of as many equal parts
            first, stop = part * most // share, (part + 1) * most // share
            places.append((kind, random.randrange(first, max(first + 1, stop)) + 1))
    return places


def every(counts: Mapping[str, int], calls: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield every (call, number of the call)."""
    for name in calls:
        for number in range(counts.get(name, 0)):
            yield name, number + 1
