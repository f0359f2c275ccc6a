"""Ids: keys that the same operation always gets, and ids that strictly increase.

An id is 16 bytes, and a `uuid.UUID` at the surface. A new event's id is a UUID of version 7 (RFC 9562)::

    bits    0..47   48..51   52..63   64..65   66..127
            time    0111     count    10       random

*time* is in milliseconds since 1970, *count* goes up within one of them. Time and count together are one number of 60
bits, the tick; every id has a higher one than the id before.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final
from uuid import UUID

from blake3 import blake3

from batpak.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_UNIX_MS: Final = 2**48 - 1
"""The last millisecond that an id can carry, in the year 10889."""

ID_BYTES: Final = 16
"""The length of an id."""

_COUNT_BITS: Final = 12
_MAX_COUNT: Final = 2**_COUNT_BITS - 1
_MAX_TICK: Final = MAX_UNIX_MS << _COUNT_BITS | _MAX_COUNT
_VERSION: Final = 0x7
_VERSION_BITS: Final = _VERSION << _COUNT_BITS
_VARIANT: Final = 0b10 << 62
_RANDOM_MASK: Final = 2**62 - 1

# One call to the operating system serves 512 ids.
_BLOCK: Final = Struct(">512Q")
_pack = Struct(">QQ").pack
_unpack = Struct(">QQ").unpack


def operation_key(domain: str, *parts: str) -> UUID:
    """Give the idempotency key of one operation: equal for equal arguments, in any process and any version.

    Where one part ends and the next begins counts: ``("a", "bc")`` and ``("ab", "c")`` give different keys.
    Raises `InvalidRequestError` for anything but text that UTF-8 can encode.
    """
    encoded = [_encoded(part) for part in parts]
    name = _encoded(domain)
    pieces = [_size(name), name, _size(encoded)]
    for part in encoded:
        pieces += (_size(part), part)
    return UUID(bytes=blake3(b"".join(pieces)).digest(length=ID_BYTES))


def _encoded(part: object) -> bytes:
    if not isinstance(part, str):
        message = f"operation key: found a {type(part).__name__} among its parts, expected a str"
        raise InvalidRequestError(message)
    try:
        return part.encode()
    except UnicodeEncodeError:
        message = "operation key: found a lone surrogate in a part, expected text that UTF-8 can encode"
    raise InvalidRequestError(message)


def _size(value: bytes | list[bytes]) -> bytes:
    return len(value).to_bytes(8, "little")


class IdGenerator:
    """Make ids of version 7, each greater than all before, whatever the clock does.

    A clock that went backwards leaves the time of the last id in force; more than 4,096 ids in one millisecond borrow
    from the next. For one thread at a time. A call that is interrupted may skip an id and never gives one twice.
    """

    __slots__ = ("_random", "_random_bytes", "_tick")

    def __init__(self, random_bytes: Callable[[int], bytes], above: bytes | None = None) -> None:
        """Take randomness from *random_bytes*, 4,096 bytes at a time; every id will be greater than *above*."""
        self._random_bytes = random_bytes
        self._random: Iterator[int] = iter(())
        self._tick = -1 if above is None else _highest_tick(above)

    def next(self, unix_ms: int) -> bytes:
        """Give the next id, for an event at *unix_ms* milliseconds since 1970.

        Raises `InvalidRequestError` where *unix_ms* is outside 0 to `MAX_UNIX_MS`, and when the ids are used up.
        """
        tick = unix_ms << 12
        if tick <= self._tick:
            tick = self._tick + 1
        if not 0 <= unix_ms <= MAX_UNIX_MS or tick > _MAX_TICK:
            raise _no_id(unix_ms)
        random = next(self._random, None)
        if random is None:
            random = self._refill()
        # Last, and one assignment: what is interrupted before it has given nothing away.
        self._tick = tick
        return _pack((tick >> 12) << 16 | _VERSION_BITS | tick & 0xFFF, _VARIANT | random & _RANDOM_MASK)

    def _refill(self) -> int:
        numbers: Iterator[int] = iter(_BLOCK.unpack(self._random_bytes(_BLOCK.size)))
        first = next(numbers)
        self._random = numbers
        return first


def _highest_tick(above: bytes) -> int:
    """The highest tick whose ids are not all greater than *above*, which may be an id of any version."""
    if len(above) != ID_BYTES:
        message = f"id to start above: found {len(above)} bytes, expected {ID_BYTES}"
        raise InvalidRequestError(message)
    high: int = _unpack(above)[0]
    unix_ms, version, count = high >> 16, high >> _COUNT_BITS & 0xF, high & _MAX_COUNT
    if version < _VERSION:
        count = -1
    elif version > _VERSION:
        count = _MAX_COUNT
    return (unix_ms << _COUNT_BITS) + count


def _no_id(unix_ms: int) -> InvalidRequestError:
    if 0 <= unix_ms <= MAX_UNIX_MS:
        return InvalidRequestError("id: found the last one given out, expected one more to be left")
    return InvalidRequestError(f"id's time: found {unix_ms} ms, expected 0 to {MAX_UNIX_MS}")
