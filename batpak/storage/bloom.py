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

from typing import TYPE_CHECKING, Final
from zlib import crc32

from crc32c import crc32c

if TYPE_CHECKING:
    from batpak.storage.blocks import Body

BLOCK_BYTES: Final = 64
_BLOCK_BITS: Final = BLOCK_BYTES * 8
_BITS_PER_KEY: Final = 10
_PROBES: Final = 4
_PROBE_BITS: Final = 9
_FIRST_PROBE: Final = 28
_SPREAD: Final = 0x9E3779B97F4A7C15
_MASK: Final = (1 << 64) - 1


def filter_bytes(keys: int) -> int:
    """Return how long a filter for so many keys is, in bytes."""
    return -(-keys * _BITS_PER_KEY // _BLOCK_BITS) * BLOCK_BYTES


def add_key(bits: bytearray, key: bytes) -> None:
    """Make the filter *bits*, which is not empty, hold *key*."""
    at, x = place(len(bits), key)
    for _ in range(_PROBES):
        bits[at + (x >> 3 & 63)] |= 1 << (x & 7)
        x >>= _PROBE_BITS


def may_hold(body: Body, section: tuple[int, int], key: bytes) -> bool:
    """Return False only where the filter in a *section*, its start and length, of *body* does not hold *key*."""
    start, length = section
    if not length:
        return False
    at, x = place(length, key)
    at += start
    body.check(at, at + BLOCK_BYTES)
    view = body.view
    for _ in range(_PROBES):
        if not view[at + (x >> 3 & 63)] >> (x & 7) & 1:
            return False
        x >>= _PROBE_BITS
    return True


def place(length: int, key: bytes) -> tuple[int, int]:
    """Return where the block of *key* begins in a filter of *length* bytes, and its probes, the first one lowest."""
    h = crc32c(key)
    x = ((h << 32 | crc32(key)) * _SPREAD & _MASK) >> _FIRST_PROBE
    return (h * (length // BLOCK_BYTES) >> 32) * BLOCK_BYTES, x
