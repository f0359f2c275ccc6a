"""Payloads: what an event carries, to MessagePack and back.

What is packed can be read back: None, bool, int of 64 bits, float, str, bytes, list, dict, and a datetime with a zone.
A tuple comes back as a list (where it is a key, as a tuple), a bytearray or a memoryview as bytes, a datetime in UTC.
Errors say where in a payload the fault lies and of what type it is; its values are in no error and in no cause of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Final, Protocol, TypeAlias, TypeVar, cast

import msgpack

from batpak.errors import PayloadError

_Key_co = TypeVar("_Key_co", covariant=True)
_Value_co = TypeVar("_Value_co", covariant=True)


class Items(Protocol[_Key_co, _Value_co]):
    """What a type checker takes a dict for: as no part of it is ever set, a ``dict[str, int]`` is a payload."""

    def items(self) -> AbstractSet[tuple[_Key_co, _Value_co]]:
        """Give the pairs of keys and values."""
        ...


PayloadKey: TypeAlias = "str | bytes | int | float | None"
Payload: TypeAlias = "str | bytes | int | float | datetime | Sequence[Payload] | Items[PayloadKey, Payload] | None"
"""What can be packed; the sequences are lists and tuples, the `Items` are dicts."""

_LOWEST_INT: Final = -(2**63)
_HIGHEST_INT: Final = 2**64 - 1
_EXPECTED: Final = "None, bool, int, float, str, bytes, list, dict or a datetime with a zone"
_LONGEST_NAME: Final = 40
_DEEPEST_WALK: Final = 1023  # lists and dicts around one value: what msgpack can both pack and unpack
KEPT_BYTES: Final = 1_048_576

# A packer belongs to one call at a time, and packing may run a datetime's zone, which is anybody's code: so each call
# takes one out. What a failed or an interrupted call had taken is dropped, for its buffer may hold half of what it
# packed, and so is one whose buffer has grown large.
_packers: list[msgpack.Packer] = []


def encode_payload(value: Payload) -> bytes:
    """Pack *value*; equal values of equal types give equal bytes, dicts in their own order.

    Raises `PayloadError`, which says where the fault lies, for a type that cannot be packed, an int outside 64 bits, a
    datetime without a zone, a lone surrogate, and nesting deeper than about a thousand levels.
    """
    try:
        try:
            packer = _packers.pop()
        except IndexError:
            packer = msgpack.Packer(datetime=True)
        # Inside a list of one: msgpack packs one level more than it unpacks. The list is the first byte.
        packed: bytes = packer.pack((value,))
        if len(packed) <= KEPT_BYTES:
            _packers.append(packer)
        return packed[1:]
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001, S110 (any class, from a zone's own code; chained, it would show values)
        pass
    raise PayloadError(_find_fault(value))


def decode_payload(raw: bytes) -> Payload:
    """Unpack one value; an extension type other than a timestamp comes back as a `msgpack.ExtType`.

    What Python cannot hold as it was written has a stand-in: for a list or a dict that is a key, a tuple of its items;
    for a timestamp outside the years 1 to 9999 in UTC, a `msgpack.Timestamp`.
    Raises `PayloadError` where *raw* is not exactly one MessagePack value.
    """
    try:
        return msgpack.unpackb(raw, timestamp=3, strict_map_key=False)  # type: ignore[no-any-return]
    except (TypeError, OverflowError, ValueError):
        pass
    try:
        return _decode_with_stand_ins(raw)
    except UnicodeDecodeError:
        found = "text that is not UTF-8"
    except msgpack.ExtraData:
        found = "bytes behind the value"
    except msgpack.StackError:
        found = "nesting deeper than a thousand levels"
    except (TypeError, OverflowError, ValueError, RecursionError):
        found = "bytes that are not MessagePack, or not all of it"
    message = f"stored payload of {len(raw)} bytes: found {found}, expected one MessagePack value"
    raise PayloadError(message)


def _decode_with_stand_ins(raw: bytes) -> Payload:
    value = msgpack.unpackb(
        raw,
        timestamp=0,
        strict_map_key=False,
        list_hook=lambda items: [_readable(item) for item in items],
        object_pairs_hook=lambda pairs: {_hashable(_readable(key)): _readable(item) for key, item in pairs},
    )
    return cast("Payload", _readable(value))


def _readable(value: object) -> object:
    if not isinstance(value, msgpack.Timestamp):
        return value
    try:
        return value.to_datetime()
    except (OverflowError, ValueError):
        return value


def _hashable(key: object) -> object:
    if isinstance(key, list):
        return tuple(map(_hashable, key))
    if isinstance(key, dict):
        return tuple((name, _hashable(item)) for name, item in key.items())
    return key


def _find_fault(payload: object) -> str:
    """Walk *payload* in the order in which it is packed, and describe the first thing that cannot be."""
    path: list[str] = []
    levels = [iter([("payload", payload)])]
    while levels:
        step = next(levels[-1], None)
        if step is None:
            levels.pop()
            del path[-1:]
            continue
        name, item = step
        children = _children(item)
        if children is None:
            found = _leaf_fault(item)
        elif len(levels) > _DEEPEST_WALK:
            found, name = f"more than {_DEEPEST_WALK} levels", ""
            path = ["payload"]
        else:
            found = ""
            path.append(name)
            levels.append(children)
        if found:
            return f"{''.join(path)}{name}: found {found}, expected {_EXPECTED}"
    return f"payload: found something that msgpack refuses, expected {_EXPECTED}"


def _children(item: object) -> Iterator[tuple[str, object]] | None:
    if isinstance(item, dict):
        return _dict_children(item)
    if isinstance(item, list | tuple) and not isinstance(item, msgpack.ExtType):
        return ((f"[{index}]", child) for index, child in enumerate(item))
    return None


def _dict_children(item: dict[object, object]) -> Iterator[tuple[str, object]]:
    for index, (key, child) in enumerate(dict.items(item)):
        yield f"[key {index}]", key
        # A key that reads like a field's name is one; any other may be data, so its place is told instead.
        is_name = type(key) is str and key.isidentifier() and len(key) <= _LONGEST_NAME
        yield (f".{key}" if is_name else f"[value {index}]"), child


def _leaf_fault(item: object) -> str:
    found = ""
    if isinstance(item, int):
        found = "" if _LOWEST_INT <= item <= _HIGHEST_INT else "an int that does not fit 64 bits"
    elif isinstance(item, str):
        found = "" if _is_utf8(item) else "text with a lone surrogate"
    elif isinstance(item, datetime):
        found = "" if _has_zone(item) else "a datetime without a zone"
    elif isinstance(item, memoryview):
        found = "" if item.c_contiguous else "a memoryview that is not contiguous"
    elif not isinstance(item, float | bytes | bytearray | msgpack.ExtType | msgpack.Timestamp | None):
        found = f"the type {_type_name(type(item))}"
    return found


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _has_zone(moment: datetime) -> bool:
    try:
        return moment.utcoffset() is not None
    except Exception:  # noqa: BLE001 (a zone is anybody's code)
        return False


def _type_name(found: type) -> str:
    return found.__qualname__ if found.__module__ == "builtins" else f"{found.__module__}.{found.__qualname__}"
