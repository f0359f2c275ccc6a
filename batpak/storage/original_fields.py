"""The original's structs in MessagePack, read as tolerantly as it reads them itself.

A struct is a map with text keys in any order, or an array of its declared length. Unknown keys are
skipped, an integer key is a field's position, no known key may come twice, and a byte vector is
``bin`` or an array of integers from 0 to 255. Everything here raises `FieldError` or one of
`UNREADABLE`, and nothing else, whatever the bytes are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgpack

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIXMAP: Final = 0x80
_MAP16: Final = 0xDE
_MAP32: Final = 0xDF
_TRUSTED_BYTES: Final = 4096
"""Up to this size a wrong array length costs too little memory to look for it first."""


class FieldError(Exception):
    """A value is not the struct or the field it should be; *reason* says what was found and expected."""

    def __init__(self, reason: str) -> None:
        """Carry the *reason*; it never contains a value."""
        super().__init__(reason)
        self.reason = reason


class Missing:
    """The value of a key that is not there."""


MISSING: Final = Missing()

UNREADABLE: Final = (
    FieldError,
    ValueError,
    RecursionError,
    OverflowError,
    msgpack.UnpackException,
)
"""What bytes that are not MessagePack, or not the expected structs, raise."""


def unpack(data: bytes | memoryview) -> object:
    """Return the first MessagePack value in *data*; its maps are tuples of (key, value) pairs.

    Pairs show repeated keys, and their keys need not be hashable. What follows the value is ignored.
    Memory stays below a hundred times the length of *data*.
    """
    try:
        if len(data) > _TRUSTED_BYTES:
            data = data[: _length_of_value(data)]
        return msgpack.unpackb(data, strict_map_key=False, object_pairs_hook=tuple, unicode_errors="surrogateescape")
    except msgpack.ExtraData as error:
        value: object = error.unpacked
        return value
    except UNREADABLE as error:
        reason = f"found no MessagePack value ({type(error).__name__}), expected one"
        raise FieldError(reason) from error


def stream(data: bytes | memoryview) -> msgpack.Unpacker:
    """Return an unpacker for one well-formed value in *data*, to take it apart without holding it."""
    _length_of_value(data)
    return _unpacker(data)


def _length_of_value(data: bytes | memoryview) -> int:
    """Return how many bytes the first value takes; nothing is built, so wrong lengths cost nothing."""
    unpacker = _unpacker(data)
    unpacker.skip()
    length: int = unpacker.tell()
    return length


def _unpacker(data: bytes | memoryview) -> msgpack.Unpacker:
    unpacker = msgpack.Unpacker(
        strict_map_key=False,
        object_pairs_hook=tuple,
        unicode_errors="surrogateescape",
        max_buffer_size=max(1, len(data)),
    )
    unpacker.feed(data)
    return unpacker


def walk(unpacker: msgpack.Unpacker, data: bytes | memoryview, names: tuple[str, ...]) -> Iterator[str | None]:
    """Yield the name of each field of the struct that *unpacker* stands before, None for unknown ones.

    Between two steps the caller takes or skips the one value that *unpacker* then stands before.
    """
    first_byte = data[unpacker.tell()]
    if first_byte & 0xF0 != _FIXMAP and first_byte not in (_MAP16, _MAP32):
        count = unpacker.read_array_header()
        if count != len(names):
            raise FieldError(f"found an array of {count}, expected the {len(names)} fields of a struct")
        yield from names
        return
    seen = set()
    for _ in range(unpacker.read_map_header()):
        name = _name(unpacker.unpack(), names)
        if name in seen:
            raise FieldError(f"found the key {name!r} twice, expected it once")
        if name is not None:
            seen.add(name)
        yield name


def _name(key: object, names: tuple[str, ...]) -> str | None:
    """Return the field that *key* stands for, None where it is unknown."""
    if type(key) is str:
        return key if key in names else None
    if type(key) is int:
        return names[key] if 0 <= key < len(names) else None
    raise FieldError(f"found a key that is {type(key).__name__}, expected text")


def values(value: object, names: tuple[str, ...], lengths: tuple[int, ...] | None = None) -> tuple[object, ...]:
    """Return the fields *names* of a struct in that order, `MISSING` for those that are not there.

    As an array it has one of *lengths* (ascending; by default all names); names beyond the longest
    have no position.
    """
    absent = len(names)
    if type(value) is tuple:
        if 0 < len(value) <= absent:
            found, items = zip(*value, strict=True)
            if found == names[: len(found)]:
                return items + (MISSING,) * (absent - len(found))
        return _by_name(value, names, lengths[-1] if lengths else absent)
    if type(value) is list and len(value) in (lengths or (absent,)):
        return tuple(value) + (MISSING,) * (absent - len(value))
    raise FieldError(f"found {type(value).__name__}, expected a struct with {names[0]!r}")


def _by_name(pairs: tuple[tuple[object, object], ...], names: tuple[str, ...], positions: int) -> tuple[object, ...]:
    """Return the fields of a map whose keys are in another order, mixed with others, or positions."""
    found: dict[str, object] = dict.fromkeys(names, MISSING)
    for key, item in pairs:
        name = _name(key, names[:positions] if type(key) is int else names)
        if name is None:
            continue
        if found[name] is not MISSING:
            raise FieldError(f"found the key {name!r} twice, expected it once")
        found[name] = item
    return tuple(found.values())


def number(value: object, bits: int) -> int:
    """Return *value* if it is an unsigned integer of at most *bits* bits."""
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise FieldError(f"found {type(value).__name__}, expected an unsigned number of {bits} bits")
    return value


def vector(value: object, length: int) -> bytes:
    """Return a byte vector of exactly *length* bytes: an id or a hash."""
    found = value if type(value) is bytes else byte_list(value)
    if found is None or len(found) != length:
        raise FieldError(f"found {type(value).__name__}, expected {length} bytes")
    return found


def byte_list(value: object) -> bytes | None:
    """Return the bytes that an array of integers from 0 to 255 spells out, None for anything else.

    True and false pass for 1 and 0: looking for them would cost more than all the rest.
    """
    if type(value) is not list:
        return None
    try:
        return bytes(value)
    except (TypeError, ValueError):
        return None


def text(value: object) -> str:
    """Return *value* if it is valid UTF-8 text."""
    if type(value) is not str:
        raise FieldError(f"found {type(value).__name__}, expected text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise FieldError("found text that is not UTF-8") from error
    return value


def array(value: object) -> list[object]:
    """Return *value* if it is an array."""
    if type(value) is not list:
        raise FieldError(f"found {type(value).__name__}, expected an array")
    return value


def extensions(value: object) -> dict[str, object]:
    """Return receipt extensions, text to bytes; of a repeated key the last one counts."""
    if type(value) is not tuple:
        raise FieldError(f"found extensions as {type(value).__name__}, expected a map")
    found: dict[str, object] = {}
    for key, item in value:
        content = item if type(item) is bytes else byte_list(item)
        if content is None:
            raise FieldError(f"found an extension as {type(item).__name__}, expected bytes")
        found[text(key)] = content
    return found
