"""How events, reports and payloads look as JSON and as text.

JSON has no bytes, times, integers above 2**53 - 1 that every reader keeps, or keys that are no text. They are written
as objects with one key that begins with ``$``:

================================ ==================================================================
in a payload                     in JSON
================================ ==================================================================
bytes                            ``{"$bytes": "<base64>"}``
a time                           ``{"$time": "2026-01-02T03:04:05.000006+00:00"}``
a time out of Python's years     ``{"$timestamp": [seconds, nanoseconds]}``
an integer beyond +-(2**53 - 1)  ``{"$int": "18446744073709551615"}``
nan, inf, -inf                   ``{"$float": "nan"}``
another MessagePack extension    ``{"$ext": [code, "<base64>"]}``
a map with other keys than text, ``{"$map": [[key, value], ...]}``
or with one that begins with $
================================ ==================================================================
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

import msgpack

from batpak.errors import EncryptedPayloadError, PayloadError
from batpak.kind import EventKind
from batpak.receipt import Anchor, Place
from batpak.region import Region

if TYPE_CHECKING:
    from batpak.event import StoredEvent

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

MAX_SAFE_INT: Final = 2**53 - 1
"""What every reader of JSON keeps: above, many round."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def payload_form(value: object) -> Json:
    """Return a payload as JSON; see the module."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_SAFE_INT else {"$int": str(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, bytes):
        return {"$bytes": b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, msgpack.Timestamp):
        return {"$timestamp": [value.seconds, value.nanoseconds]}
    if isinstance(value, msgpack.ExtType):
        return {"$ext": [value.code, b64encode(value.data).decode()]}
    if isinstance(value, list | tuple):
        return [payload_form(item) for item in value]
    assert isinstance(value, dict), f"found {type(value).__name__}, expected what payloads are made of"
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return {key: payload_form(item) for key, item in value.items()}
    return {"$map": [[payload_form(key), payload_form(item)] for key, item in value.items()]}


def event_form(event: StoredEvent, *, payload: bool) -> dict[str, Json]:
    """Return an event as JSON, its payload only if that is asked for."""
    entry = event.entry
    form: dict[str, Json] = {
        "global_sequence": entry.global_sequence,
        "event_id": str(entry.event_id),
        "entity": entry.coordinate.entity,
        "scope": entry.coordinate.scope,
        "sequence": entry.sequence,
        "kind": f"{entry.kind.value:#06x}",
        "time": moment(event.timestamp_us),
        "correlation_id": str(entry.correlation_id),
        "causation_id": None if entry.causation_id is None else str(entry.causation_id),
        "flags": int(entry.flags),
        "place": str(event.place),
        "payload_bytes": len(event.raw),
    }
    if payload:
        try:
            form["payload"] = payload_form(event.payload)
        except EncryptedPayloadError:
            form["payload"], form["payload_error"] = None, "encrypted"
        except PayloadError as error:
            form["payload"], form["payload_error"] = {"$bytes": b64encode(event.raw).decode()}, error.reason
    return form


def event_line(event: StoredEvent, *, payload: bool) -> str:
    """Return an event as one line of text."""
    entry = event.entry
    line = (
        f"{entry.global_sequence:>6}  {moment(event.timestamp_us)}  {entry.coordinate}  "
        f"#{entry.sequence}  {entry.kind.value:#06x}"
    )
    if not payload:
        return line
    form = event_form(event, payload=True)
    told = form.get("payload_error")
    shown = f"({told})" if form["payload"] is None and told else json.dumps(form["payload"], ensure_ascii=False)
    return f"{line}  {shown}"


def moment(timestamp_us: int) -> str:
    """Return a time of the clock as ISO 8601 text, in UTC; the number where no calendar has it."""
    try:
        return (_EPOCH + timedelta(microseconds=timestamp_us)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except OverflowError:
        return f"{timestamp_us} us"


def report_form(value: object) -> Json:
    """Return a report, which is made of frozen values, as JSON."""
    if isinstance(value, Place | Anchor | UUID):
        return str(value)
    if isinstance(value, EventKind):
        return f"{value.value:#06x}"
    if isinstance(value, Region):
        return {name: report_form(part) for name, part in region_parts(value).items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: report_form(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Enum):
        return report_form(value.value)
    if isinstance(value, list | tuple):
        return [report_form(item) for item in value]
    if isinstance(value, dict):
        return {str(key): report_form(item) for key, item in value.items()}
    assert value is None or isinstance(value, str | int | float), f"found {type(value).__name__}"
    return value


def region_parts(region: Region) -> dict[str, object]:
    """Return the parts of a region that are set, by name."""
    parts = {each.name: getattr(region, each.name) for each in fields(region) if each.init}
    return {name: part for name, part in parts.items() if part is not None and part is not False}


def counted(count: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Return a number of bytes for people."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{count} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError("the last unit takes all")
