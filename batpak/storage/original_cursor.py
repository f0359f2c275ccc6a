"""The original's cursor checkpoints, ``cursors/<id>.ckpt``: read once, when a cursor of that name is first opened here.

A plain msgpack map without magic or checksum: *position* (global sequence of the last event that was delivered),
*started* (whether there was one), *process_boot_ns* (always nil) and *region_identity*, a text, which has to be that
of the region that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgpack

from batpak.errors import CorruptStoreError

if TYPE_CHECKING:
    from batpak.region import Region

SUFFIX: Final = ".ckpt"
MAX_BYTES: Final = 65_536
_MAX_POSITION: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a cursor of the original came: *position* is None before its first event."""

    position: int | None
    region_identity: str | None


def decode(file: str, data: bytes) -> Checkpoint:
    """Return what *file* holds; `CorruptStoreError` names it where that is no checkpoint."""
    try:
        fields = msgpack.unpackb(data, max_array_len=0)  # there are none, and room is made for what they announce
        position, started, identity = fields["position"], fields["started"], fields.get("region_identity")
        sound = (
            type(position) is int
            and 0 <= position <= _MAX_POSITION
            and type(started) is bool
            and (identity is None or type(identity) is str)
        )
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
        raise _damaged(file, f"bytes that give a {type(error).__name__}") from error
    if not sound:
        raise _damaged(file, "fields of other types")
    return Checkpoint(position if started else None, identity)


def identities(region: Region) -> tuple[str, ...]:
    """Return the texts that stand for *region*; none where the original has no such region."""
    if region.correlation_id is not None:
        return ()
    if region.kind is not None and region.category is not None and region.kind.category != region.category:
        return ()
    facts: tuple[str, ...] = ("none", "any")  # the same events by two names
    if region.kind is not None:
        facts = (f"exact:{region.kind.category:x}:{region.kind.type_id:x}",)
    elif region.category is not None:
        facts = (f"category:{region.category:x}",)
    clock = "*" if region.sequences is None else f"{region.sequences[0]}-{region.sequences[1]}"
    entity, scope = region.entity or "*", region.scope or "*"
    return tuple(f"entity={entity}|scope={scope}|fact={fact}|clock={clock}" for fact in facts)


def _damaged(file: str, found: str) -> CorruptStoreError:
    return CorruptStoreError(file, 0, found, "a cursor checkpoint", "the journal: delete_place starts over")
