"""What a turn of the writer will do, decided before anything is done.

`Standing` is what the next event builds on; `Decision` lays the commands of one turn over it. Deciding reads and
changes nothing, so a turn that ends here has never been.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias
from uuid import UUID

import msgpack
from blake3 import blake3

from batpak.actors.actor import Failure
from batpak.errors import (
    BatpakError,
    IdempotencyConflictError,
    InvalidRequestError,
    SequenceConflictError,
    TooLargeError,
)
from batpak.event import MAX_SEQUENCE, NO_STREAM
from batpak.kind import SYSTEM_KINDS
from batpak.payload import KEPT_BYTES
from batpak.receipt import NO_SEQUENCE, Receipt, written_receipt
from batpak.storage import format1, format2
from batpak.storage.frame import Frame
from batpak.storage.row import FOREIGN, KEY, SYSTEM, Head, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batpak.actors.messages import Append, AppendBatch
    from batpak.ids import IdGenerator
    from batpak.storage.original_sidecars import IdempotencyEntry
    from batpak.storage.view import View

FRAME_OVERHEAD: Final = 8
_EMPTY: Final[dict[str, object]] = {}

Newest: TypeAlias = "Head | Record"
"""The newest event of an entity: as the index gives it, or as it was decided on."""

DurableTag = tuple[int, int, int]
"""Segment, offset and global sequence below which everything is durable."""


class Durable(Protocol):
    """Who knows how far everything is durable."""

    tag: DurableTag | None


class Standing:
    """What the next event builds on: newest events, the next place, the next id.

    *heads* hold what was used last, *older_heads* what was before they were full; the rest is found through the index's
    view. *read_frame* reads a stored event back.
    """

    __slots__ = (
        "bits",
        "evicted",
        "format",
        "gate",
        "hasher",
        "heads",
        "ids",
        "last_hash",
        "max_heads",
        "next_sequence",
        "older_heads",
        "packer",
        "read_frame",
        "told",
        "view",
    )

    def __init__(
        self,
        view: Callable[[], View],
        *,
        segment_format: int,
        next_sequence: int,
        last_hash: bytes,
        evicted: dict[bytes, IdempotencyEntry],
        max_heads: int,
        ids: IdGenerator,
        read_frame: Callable[[Record], Frame],
    ) -> None:
        """Build on what *view* shows; *evicted* are keys of the original whose events are gone."""
        self.view = view
        self.format = segment_format
        self.next_sequence = next_sequence
        self.last_hash = last_hash
        self.evicted = evicted
        self.max_heads = max_heads
        self.ids = ids
        self.read_frame = read_frame
        self.bits = FOREIGN if segment_format == format1.VERSION else 0
        self.heads: dict[str, Newest] = {}
        self.older_heads: dict[str, Newest] = {}
        self.packer: msgpack.Packer | None = None
        self.hasher = blake3()
        self.gate: Durable | None = None
        self.told: DurableTag | None = None

    def head(self, entity: str) -> Newest | None:
        """Return the newest event of *entity*."""
        return self.heads.get(entity) or self.older_heads.get(entity) or self.view().head(entity)

    def take(self, decision: Decision, records: Sequence[Record]) -> None:
        """Build on *records* from now on; they have been published. Doing it twice changes nothing."""
        heads = self.heads
        if len(heads) > self.max_heads:
            self.older_heads, self.heads = heads, {}
            heads = self.heads
        for record in records:
            heads[record.entity] = Head(record.sequence, record.wall_ms, record.event_hash, record.global_sequence)
        self.told = decision.tag
        self.last_hash = records[-1].event_hash
        self.next_sequence = records[-1].global_sequence + 1


class Decision:
    """The commands of one turn, laid over what stands: bodies to write and the records of the index."""

    __slots__ = (
        "_heads",
        "_next",
        "_standing",
        "bodies",
        "bytes_needed",
        "created_us",
        "has_markers",
        "keys",
        "records",
        "tag",
    )
    # bodies and records stand side by side; a marker of format 1 is a body without a record.

    def __init__(self, standing: Standing) -> None:
        """Decide on top of *standing*."""
        self._standing = standing
        self._heads: dict[str, Record] = {}
        self._next = standing.next_sequence
        self.tag = None if standing.gate is None else standing.gate.tag
        self.keys: dict[bytes, tuple[Receipt, Append]] = {}
        self.bodies: list[bytes] = []
        self.records: list[Record | None] = []
        self.has_markers = False
        self.bytes_needed = 0
        self.created_us = 0

    def append(self, command: Append) -> Receipt | Failure:
        """Decide one event: the key first, then the expectation, then the place."""
        try:
            if command.key is not None:
                known = self._known(command.key, command)
                if known is not None:
                    return known
            return self._place(command, 0, command.causation_id)
        except BatpakError as error:
            return Failure(error)

    def batch(self, command: AppendBatch) -> list[Receipt] | Failure:
        """Decide all items or none."""
        before = (len(self.bodies), self._next, dict(self._heads), dict(self.keys), self.bytes_needed)
        index = 0
        try:
            known = self._known_batch(command.items)
            if known is not None:
                return known
            receipts: list[Receipt] = []
            last = len(command.items) - 1
            batch_id, timestamp_us = self._next, command.items[0].timestamp_us
            self._begin_or_commit(format1.begin_marker(batch_id, len(command.items), timestamp_us))
            for index, item in enumerate(command.items):
                causation = item.causation_id if item.caused_by is None else receipts[item.caused_by].event_id.bytes
                remaining = last - index if self._standing.format == format2.VERSION else 0
                receipts.append(self._place(item, remaining, causation))
            self._begin_or_commit(format1.commit_marker(batch_id, timestamp_us))
        except BatpakError as error:
            count, self._next, self._heads, self.keys, self.bytes_needed = before
            del self.bodies[count:]
            del self.records[count:]
            if (
                isinstance(error, InvalidRequestError | SequenceConflictError | IdempotencyConflictError)
                and error.item_index is None
            ):
                error.item_index = index
            return Failure(error)
        return receipts

    def _known_batch(self, items: Sequence[Append]) -> list[Receipt] | None:
        """Return the first receipts of a keyed batch that is known; some known and some not is a conflict."""
        if not items or items[0].key is None:
            return None
        known: list[Receipt | None] = []
        for index, item in enumerate(items):
            try:
                known.append(None if item.key is None else self._known(item.key, item))
            except IdempotencyConflictError as error:
                error.item_index = index
                raise
        receipts = [each for each in known if each is not None]
        if not receipts:
            return None
        if len(receipts) < len(known):
            index = known.index(None)
            raise IdempotencyConflictError(
                UUID(bytes=items[index].key), "other keys of the batch are known, this one is not", item_index=index
            )
        return receipts

    def _known(self, key: bytes, command: Append) -> Receipt | None:
        """Return the receipt that *key* was first answered with, as a duplicate; another content is a conflict."""
        recent = self.keys.get(key)
        if recent is not None:
            receipt, first = recent
            if _content(first) != _content(command):
                raise IdempotencyConflictError(UUID(bytes=key), "the first event with this key has another content")
            return Receipt(
                receipt.event_id,
                receipt.global_sequence,
                receipt.sequence,
                receipt.event_hash,
                durable=False,
                duplicate=True,
            )
        record = self._standing.view().find_key(key)
        if record is None:
            return self._evicted(key, command)
        if not record.bits & (KEY | FOREIGN):
            raise IdempotencyConflictError(UUID(bytes=key), "it is the id of an event that was appended without a key")
        frame = self._standing.read_frame(record)
        if (record.entity, record.scope, record.kind, frame.payload) != _content(command):
            raise IdempotencyConflictError(UUID(bytes=key), "the first event with this key has another content")
        event_id = UUID(bytes=record.event_id)
        return Receipt(
            event_id, record.global_sequence, record.sequence, frame.event_hash, durable=False, duplicate=True
        )

    def _evicted(self, key: bytes, command: Append) -> Receipt | None:
        """Answer a key whose event the original compacted away."""
        entry = self._standing.evicted.get(key)
        if entry is None:
            return None
        if (entry.entity, entry.scope, entry.kind) != (
            command.entity,
            command.scope,
            command.kind,
        ) or entry.content_hash != blake3(command.payload).digest():
            raise IdempotencyConflictError(UUID(bytes=key), "the first event with this key has another content")
        # The original keeps no place in the entity for an event that is gone.
        return Receipt(
            UUID(bytes=key), entry.global_sequence, NO_SEQUENCE, entry.content_hash, durable=True, duplicate=True
        )

    def _place(self, command: Append, remaining: int, causation: bytes | None) -> Receipt:
        """Give one event its place, its links and its bytes."""
        standing, entity, key, timestamp_us = self._standing, command.entity, command.key, command.timestamp_us
        head = self._heads.get(entity) or standing.heads.get(entity) or standing.head(entity)
        newest, previous = (NO_STREAM, None) if head is None else (head.sequence, head.event_hash)
        if command.expected_sequence is not None and command.expected_sequence != newest:
            raise SequenceConflictError(entity, command.expected_sequence, newest)
        if newest >= MAX_SEQUENCE:
            raise TooLargeError("sequence of the entity", newest + 1, MAX_SEQUENCE)
        clock_ms = timestamp_us // 1000
        event_id = standing.ids.next(clock_ms) if key is None else key
        wall_ms = clock_ms if head is None or head.wall_ms <= clock_ms else head.wall_ms
        correlation_id = None if command.correlation_id == event_id else command.correlation_id
        place, sequence, kind, flags = self._next, newest + 1, command.kind, command.flags
        bits = standing.bits if key is None else standing.bits | KEY
        if kind in SYSTEM_KINDS:
            bits |= SYSTEM
        scope = command.scope
        record = Record(
            event_id,
            place,
            wall_ms,
            0,
            0,
            0,
            entity,
            scope,
            sequence,
            kind,
            0,
            flags,
            bits,
            correlation_id,
            causation,
            b"",
        )
        if standing.format == format2.VERSION:
            body = self._body(record, command, remaining, previous)
            hasher = standing.hasher  # a new one for each body would cost a quarter more
            hasher.reset()
            hasher.update(body)
            event_hash = hasher.digest()
        else:
            event_hash = format1.event_hash(command.payload)
            body = format1.encode_body(_frame(record, command, previous, event_hash))
        record.event_hash = event_hash
        if not self.bytes_needed:
            self.created_us = timestamp_us
        self.bytes_needed += FRAME_OVERHEAD + len(body)
        self.bodies.append(body)
        self.records.append(record)
        self._heads[entity] = record
        self._next = place + 1
        receipt = written_receipt(event_id, place, sequence, event_hash)
        if key is not None:
            self.keys[key] = receipt, command
        return receipt

    def _body(self, record: Record, command: Append, remaining: int, previous: bytes | None) -> bytes:
        """Return the body of one event in format 2."""
        standing, timestamp_us, flags = self._standing, command.timestamp_us, record.flags
        extensions = _EMPTY
        tag = self.tag
        if tag is not None and not self.bodies and tag != standing.told:
            extensions = {"durable": list(tag)}  # in the first frame after it has moved
        if record.wall_ms != timestamp_us // 1000:
            extensions = extensions | {"wall_ms": record.wall_ms}
        if record.bits & KEY:
            flags |= format2.KEY_BIT
        fields = (  # the fifteen of storage/format2.py
            record.event_id,
            record.global_sequence,
            remaining,
            record.kind,
            record.entity,
            record.scope,
            record.sequence,
            timestamp_us,
            previous,
            record.correlation_id,
            record.causation_id,
            flags,
            0,
            command.payload,
            extensions,
        )
        # Taken out meanwhile: the buffer of one that failed may hold half of what it packed.
        packer, standing.packer = standing.packer or msgpack.Packer(), None
        body: bytes = packer.pack(fields)
        if len(body) <= KEPT_BYTES:
            standing.packer = packer
        return body

    def _begin_or_commit(self, marker: Frame) -> None:
        """Put a marker around the items of a batch, where the format has markers."""
        if self._standing.format != format2.VERSION:
            body = format1.encode_body(marker)
            self.has_markers = True
            self.bodies.append(body)
            self.records.append(None)
            self.bytes_needed += FRAME_OVERHEAD + len(body)


def _frame(record: Record, command: Append, previous: bytes | None, event_hash: bytes) -> Frame:
    """Return the frame of one event in format 1."""
    return Frame(
        record.event_id,
        record.global_sequence,
        0,
        record.kind,
        record.entity,
        record.scope,
        record.sequence,
        command.timestamp_us,
        record.wall_ms,
        previous or format2.GENESIS,
        record.correlation_id,
        record.causation_id,
        record.flags,
        command.key is not None,
        0,
        command.payload,
        event_hash=event_hash,
    )


def _content(command: Append) -> tuple[object, ...]:
    """Return what a retry has to repeat."""
    return command.entity, command.scope, command.kind, command.payload
