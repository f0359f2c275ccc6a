"""The durability gate: one fsync for all who wait for one, never in a turn.

A ticket is a global sequence: *cover* returns when every event below it is on disk. First in leads; those who come
while an fsync runs meet in the next generation, one of them leads it, and its fsync covers them all. An interrupted
leader leaves its generation open, and the next in line leads.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING

from batpak.actors.mailbox import new_lock
from batpak.errors import ReentrantCallError, WriterFailedError
from batpak.log import INFO, WARNING
from batpak.storage import watermark

if TYPE_CHECKING:
    from collections.abc import Callable

    from batpak.clock import Clock
    from batpak.log import Log
    from batpak.storage.files import WriteFile
    from batpak.storage.seam import FailedSyncs
    from batpak.storage.segment import SegmentMeta

SYNCED_LINE_SECONDS = 1.0
"""At info there is at most one line about fsyncs in this many seconds."""


@dataclass(slots=True)
class Written:
    """How far the journal is written: every event below *sequence*; in *file*, which is *meta*, all below *offset*.

    Without a file there is no active segment yet.
    """

    file: WriteFile | None
    meta: SegmentMeta | None
    offset: int
    sequence: int


class _Generation:
    """Those who share one fsync."""

    __slots__ = ("done", "lock", "owner")

    def __init__(self) -> None:
        self.lock = new_lock()
        self.owner = 0
        self.done = False


class Gate:
    """Makes the journal durable.

    *durable* is the ticket up to which it is, *tag* the place where that is. *failed_syncs* are those of the directory,
    whoever asked for them.
    *on_durable* is called after an fsync, with the device held.
    *dirty* says that something may be written that no fsync covers, *since* when that became so (monotonic seconds),
    *watched* that the writer's thread looks after it; *called* that it has been told that an fsync is due earlier.
    """

    def __init__(
        self, written: Callable[[], Written], store_id: bytes, mark: WriteFile, count: int, clock: Clock, log: Log
    ) -> None:
        """Guard the journal whose end *written* tells; *mark* is the file of the durable position."""
        self._written = written
        self._store_id = store_id
        self._mark = mark
        self._count = count
        self._clock = clock
        self._log = log
        self._generation = _Generation()
        self._said_at = float("-inf")
        self.device = new_lock()
        self.owner = 0
        self.durable = 0
        self.tag: tuple[int, int, int] | None = None
        self.failed_syncs: FailedSyncs = []
        self.dirty = False
        self.since = 0.0
        self.called = False
        self.watched = False
        self.syncs = 0
        self.mark_failures = 0
        self.on_durable: Callable[[], None] = lambda: None

    def cover(self, ticket: int) -> None:
        """Return when every event below *ticket* is on disk.

        Raises `WriterFailedError` once an fsync has failed, for good: what the disk holds is not known then, and a
        later fsync that succeeds would prove nothing about it.
        """
        me = get_ident()
        if self.leads(me):
            raise ReentrantCallError
        while self.durable < ticket:
            self.require_sound()
            generation = self._generation
            spare = (me, me, me)
            with generation.lock:
                generation.owner = me
                try:
                    if not generation.done:
                        self._lead(generation, me, ticket)
                finally:
                    generation.owner = 0
                    del spare
        self._say()

    @property
    def poison(self) -> BaseException | None:
        """Why nothing becomes durable any more: a sync has failed, and what the next one says is not to be believed."""
        return self.failed_syncs[0] if self.failed_syncs else None

    def keep_identity(self) -> None:
        """Return when a power cut cannot take the store's id any more, so that what names it stays this store's.

        Before the first event the id stands in the file of the durable position alone, which is not synced otherwise.
        """
        self._mark.sync()

    def leads(self, thread: int) -> bool:
        """Whether *thread* holds the device, or leads and waits for it: a signal handler may run there."""
        return thread == self.owner or thread == self._generation.owner

    def _lead(self, generation: _Generation, me: int, ticket: int) -> None:
        """Run the fsync of *generation*; those who come from now on meet in the next."""
        spare = (me, me, me)
        with self.device:
            self.owner = me
            try:
                # A rotation or a close may have covered us while we waited; the file may be closed by now.
                if self.durable < ticket:
                    self._generation = _Generation()
                    self.sync_device()
                    generation.done = True
            finally:
                self.owner = 0
                del spare

    def require_sound(self) -> None:
        """Refuse when an fsync has failed."""
        poison = self.poison
        if poison is not None:
            raise WriterFailedError(str(poison)) from poison

    def announce(self) -> None:
        """Note that something is about to be written, or has been, and that the writer's thread is told of it."""
        if not self.dirty:
            self.since = self._clock.monotonic()
            self.dirty = True
        self.watched = True

    def sync_device(self) -> None:
        """Run one fsync over everything written; *device* is held. A failure is remembered for good."""
        self.require_sound()  # for those who waited while another's failed: a retry would seem to succeed
        covered = False
        # Before the look at what is written: what comes later marks it again.
        self.called = self.watched = self.dirty = False
        try:
            written = self._written()
            if written.file is not None:
                try:
                    written.file.sync_data()
                except OSError as error:
                    self.failed_syncs.append(error)
                    raise WriterFailedError(f"fsync failed: {error.strerror}") from error
            self.syncs += 1
            self._remember(written)
            if written.sequence > self.durable:
                self.durable = written.sequence
                self.tag = (written.meta.segment, written.offset, written.sequence) if written.meta else None
            self.on_durable()
            covered = True
        finally:
            if not covered:
                self.dirty = True

    def _remember(self, written: Written) -> None:
        """Write the durable position; a failure costs only what recovery knows."""
        count = self._count + 1
        segment, identity = (written.meta.segment, written.meta.identity) if written.meta else (0, bytes(16))
        position = watermark.DurablePosition(self._store_id, count, segment, identity, written.offset, written.sequence)
        slot = watermark.encode(position)
        try:
            if self._mark.pwrite(slot, watermark.slot_offset(count)) == len(slot):
                self._count = count  # only now: what failed is written to the same slot again, the other stays whole
            else:
                self.mark_failures += 1
        except OSError:
            self.mark_failures += 1

    def _say(self) -> None:
        """Emit the lines about what has been synced, outside every lock."""
        if self._log.passes(INFO):
            now = self._clock.monotonic()
            if now - self._said_at >= SYNCED_LINE_SECONDS:
                self._said_at = now
                self._log.emit(INFO, "writer.synced", durable_sequence=self.durable - 1, syncs=self.syncs)
        if self.mark_failures:
            self.mark_failures = 0
            self._log.emit(WARNING, "writer.position_not_saved", durable_sequence=self.durable - 1)
