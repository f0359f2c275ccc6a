"""A filter that says for certain that a key is absent: a Bloom filter of 64-byte blocks, ten bits a key.

::

    h = CRC-32C(key), g = CRC-32/IEEE(key)
    block = h * blocks >> 32
    x = (h << 32 | g) * 0x9E3779B97F4A7C15 mod 2**64
    bit i of 4 = x >> (28 + 9 i) & 511, the least significant bit of a byte first

Two different polynomials, because two seeds of one would set the same bits for keys that collide in the other.
About one absent key in a hundred passes as present. A filter of no blocks holds no key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias
from zlib import crc32

from crc32c import crc32c

from batpak.storage.blocks import BLOCK_SHIFT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batpak.storage.blocks import Body

BLOCK_BYTES: Final = 64
_BLOCK_BITS: Final = BLOCK_BYTES * 8
_BITS_PER_KEY: Final = 10
_FIRST_PROBE: Final = 28
_SPREAD: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1

Spot: TypeAlias = tuple[int, int]
"""Where a key stands in a filter of any length: what names its block, and its probes, the first one lowest."""


def filter_bytes(keys: int) -> int:
    """Return how long a filter for so many keys is, in bytes."""
    return -(-keys * _BITS_PER_KEY // _BLOCK_BITS) * BLOCK_BYTES


def add_keys(bits: bytearray, keys: Sequence[bytes]) -> None:
    """Make the filter *bits*, which is not empty, hold *keys*."""
    blocks = len(bits) // BLOCK_BYTES
    for h, g in zip(map(crc32c, keys), map(crc32, keys), strict=True):
        x = ((h << 32 | g) * _SPREAD & _MASK) >> _FIRST_PROBE
        at = (h * blocks >> 32) * BLOCK_BYTES
        bits[at + (x >> 3 & 63)] |= 1 << (x & 7)
        bits[at + (x >> 12 & 63)] |= 1 << (x >> 9 & 7)
        bits[at + (x >> 21 & 63)] |= 1 << (x >> 18 & 7)
        bits[at + (x >> 30 & 63)] |= 1 << (x >> 27 & 7)


def spot_of(key: bytes) -> Spot:
    """Return where *key* stands in every filter."""
    h = crc32c(key)
    return h, ((h << 32 | crc32(key)) * _SPREAD & _MASK) >> _FIRST_PROBE


class Filter:
    """A filter in the body of a run."""

    __slots__ = ("_blocks", "_body", "_start")

    def __init__(self, body: Body, section: tuple[int, int]) -> None:
        """Read a *section* of *body*, its start and length."""
        self._body = body
        self._start, length = section
        self._blocks = length // BLOCK_BYTES

    def may_hold(self, spot: Spot) -> bool:
        """Return False only where the filter does not hold the key of that spot."""
        h, x = spot
        body, blocks = self._body, self._blocks
        at = self._start + (h * blocks >> 32) * BLOCK_BYTES
        if not blocks:
            return False
        if not body.checked[at >> BLOCK_SHIFT]:  # a filter's block never lies in two: both are multiples of its size
            body.check_block(at >> BLOCK_SHIFT)
        view = body.view
        return (  # each probe by itself: most keys are told by the first or the second
            view[at + (x >> 3 & 63)] >> (x & 7) & 1
            and view[at + (x >> 12 & 63)] >> (x >> 9 & 7) & 1
            and view[at + (x >> 21 & 63)] >> (x >> 18 & 7) & 1
            and view[at + (x >> 30 & 63)] >> (x >> 27 & 7) & 1
        ) == 1
