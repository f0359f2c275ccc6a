"""What a run carries for whoever goes on behind it: the journal's state at its end (docs/index-format.md, meta)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgpack

from batpak.storage.blocks import RunError
from batpak.storage.row import FOREIGN, KEY
from batpak.storage.tree import Stretch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batpak.storage.row import Record


MAX_ITEMS: Final = 1024
"""No array in a state is longer: a stretch of a tree has at most two nodes for each binary digit of its size."""
_TYPES: Final = [int, bytes, int, int, int, list, int, list, bytes, bytes]
DAY_MS: Final = 86_400_000


@dataclass(slots=True)
class RunState:
    """The journal behind a run's last event.

    *next_sequence* is the place of the event after it. *segment* and *offset* are where the frame lies that stands
    behind all others, *last_hash* is its event's hash. *before* is the tree over the hashes of all events up to where
    *segment* begins, *part* goes on from there. *hidden* identifies the original's list of cancelled events that the
    run was made with. *newest_id* is the highest id that is no key: the next is above it.
    """

    next_sequence: int
    last_hash: bytes
    segment: int
    offset: int
    before: Stretch
    part: Stretch
    hidden: bytes
    newest_id: bytes = b""

    def pack(self) -> bytes:
        """Return the bytes that stand in a run's meta."""
        packed: bytes = msgpack.packb(
            [
                self.next_sequence,
                self.last_hash,
                self.segment,
                self.offset,
                self.before.size,
                self.before.nodes,
                self.part.size,
                self.part.nodes,
                self.hidden,
                self.newest_id,
            ]
        )
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> RunState:
        """Return the state that `pack` made *data* of; `RunError` for anything else."""
        try:
            fields = msgpack.unpackb(data, max_array_len=MAX_ITEMS)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise RunError("a state that cannot be read") from error
        if type(fields) is not list or [type(each) for each in fields] != _TYPES:
            raise RunError("a state of other fields")
        next_sequence, last_hash, segment, offset, start, nodes, size, more, hidden, newest_id = fields
        if any(type(node) is not bytes for node in (*nodes, *more)):
            raise RunError("a state whose tree has other nodes")
        before, part = Stretch(0, start, nodes), Stretch(start, size, more)
        return cls(next_sequence, last_hash, segment, offset, before, part, hidden, newest_id)

    def copy(self) -> RunState:
        """Return a state that goes on on its own."""
        return replace(self, before=self.before.copy(), part=self.part.copy())

    def tree(self) -> Stretch:
        """Return the tree over the hashes of all events so far."""
        tree = self.before.copy()
        tree.join(self.part)
        return tree

    def add(self, record: Record) -> None:
        """Go behind one more event; the original may have numbered them in another order than they stand (H21)."""
        if (record.segment, record.offset) >= (self.segment, self.offset):
            if record.segment != self.segment:
                self.segment = record.segment
                self.before.join(self.part)
                self.part = Stretch(self.before.size)
            self.offset = record.offset
            self.last_hash = record.event_hash
        self.part.add(record.event_hash)
        self.next_sequence = max(self.next_sequence, record.global_sequence + 1)
        if record.event_id > self.newest_id and _is_made_by_a_clock(record, self.newest_id):
            self.newest_id = record.event_id


def initial_state(hidden: bytes) -> RunState:
    """Return the state before the first event."""
    return RunState(0, bytes(32), 0, 0, Stretch(), Stretch(), hidden)


def state_behind(state: RunState, records: Iterable[Record]) -> RunState:
    """Return the state behind *records* that follow *state*."""
    state = state.copy()
    for record in records:
        state.add(record)
    return state


def _is_made_by_a_clock(record: Record, newest_id: bytes) -> bool:
    """Whether an id is no key; in format 1 a UUIDv7 at most a day ahead of its event passes for one.

    So does one that goes on from the newest: ids go on when the clock has been set back, by however much.
    """
    if not record.bits & FOREIGN:
        return not record.bits & KEY
    event_id = record.event_id
    latest_ms = max(record.wall_ms + DAY_MS, int.from_bytes(newest_id[:6], "big") + 1)
    return event_id[6] >> 4 == 7 and int.from_bytes(event_id[:6], "big") <= latest_ms
