"""What a run carries for whoever goes on behind it: the journal's state at its end (docs/index-format.md, meta)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgpack

from batpak.storage.blocks import RunError
from batpak.storage.row import BITS_OFFSET, FOREIGN, KEY, ROW, ROW_BYTES
from batpak.storage.tree import Stretch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batpak.storage.row import Record


MAX_ITEMS: Final = 1024
"""No array in a state is longer: a stretch of a tree has at most two nodes for each binary digit of its size."""
_TYPES: Final = [int, bytes, int, int, int, list, int, list, bytes, bytes]
DAY_MS: Final = 86_400_000
_ID: Final = struct.Struct(f"16s{ROW_BYTES - 16}x")
_SEGMENT_WORD: Final = 8
_OFFSET_WORD: Final = 9
_WORDS: Final = ROW_BYTES // 4


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
        self._add(
            record.event_id,
            record.global_sequence,
            record.wall_ms,
            (record.segment, record.offset),
            record.bits,
            record.event_hash,
        )

    def add_rows(self, packed: bytearray, hashes: Sequence[bytes]) -> None:
        """Go behind the events of packed rows, as `add` does for each; they are in the order of the index."""
        words = memoryview(packed).cast("I")
        segments, offsets = words[_SEGMENT_WORD::_WORDS].tolist(), words[_OFFSET_WORD::_WORDS].tolist()
        bits = packed[BITS_OFFSET::ROW_BYTES]
        seen = 0
        for each in set(bits):
            seen |= each
        here = segments.count(self.segment) == len(segments) and self.offset <= offsets[0]
        if seen & FOREIGN or not here or sorted(offsets) != offsets:  # rare, and of ours only where a segment begins
            for facts, event_hash in zip(ROW.iter_unpack(packed), hashes, strict=True):
                event_id, sequence, wall_ms, segment, offset, *_, row_bits = facts
                self._add(event_id, sequence, wall_ms, (segment, offset), row_bits, event_hash)
            return
        self.offset, self.last_hash = offsets[-1], hashes[-1]
        self.part.extend(hashes)
        self.next_sequence = max(self.next_sequence, int.from_bytes(packed[-48:-40], "little") + 1)
        ids: Iterable[tuple[bytes]] = _ID.iter_unpack(packed)
        if seen & KEY:
            ids = (each for each, row_bits in zip(ids, bits, strict=True) if not row_bits & KEY)
        self.newest_id = max([(self.newest_id,), *ids])[0]

    def _add(
        self, event_id: bytes, sequence: int, wall_ms: int, place: tuple[int, int], bits: int, event_hash: bytes
    ) -> None:
        """Go behind one event, of which this is all that counts."""
        if place >= (self.segment, self.offset):
            segment, self.offset = place
            if segment != self.segment:
                self.segment = segment
                self.before.join(self.part)
                self.part = Stretch(self.before.size)
            self.last_hash = event_hash
        self.part.add(event_hash)
        self.next_sequence = max(self.next_sequence, sequence + 1)
        if event_id > self.newest_id and _is_made_by_a_clock(event_id, wall_ms, bits, self.newest_id):
            self.newest_id = event_id


def initial_state(hidden: bytes) -> RunState:
    """Return the state before the first event."""
    return RunState(0, bytes(32), 0, 0, Stretch(), Stretch(), hidden)


def _is_made_by_a_clock(event_id: bytes, wall_ms: int, bits: int, newest_id: bytes) -> bool:
    """Whether an id is no key; in format 1 a UUIDv7 at most a day ahead of its event passes for one.

    So does one that goes on from the newest: ids go on when the clock has been set back, by however much.
    """
    if not bits & FOREIGN:
        return not bits & KEY
    latest_ms = max(wall_ms + DAY_MS, int.from_bytes(newest_id[:6], "big") + 1)
    return event_id[6] >> 4 == 7 and int.from_bytes(event_id[:6], "big") <= latest_ms
