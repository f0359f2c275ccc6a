"""`Store`: the synchronous front door. A call becomes a command, the answer comes back."""

from __future__ import annotations

import os
import warnings
from copy import copy
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Literal, Self, TypeVar

from batpak.actors.system import System
from batpak.actors.telling import tell_opened
from batpak.actors.writer import SYNC_EARLY
from batpak.config import StoreConfig
from batpak.delivering import Delivering
from batpak.delivery.places import PlaceBook
from batpak.errors import (
    BatpakError,
    CorruptStoreError,
    ForkedStoreError,
    ReentrantCallError,
    StorageError,
    StoreClosedError,
)
from batpak.event import NO_FLAGS, EventFlags, NewEvent, StoredEvent
from batpak.living import OPEN
from batpak.log import INFO, Log
from batpak.outcome import last_sequence, made_durable
from batpak.reading import MAX_REBUILDS, damaged_again
from batpak.receipt import Anchor, Receipt, durable_receipt
from batpak.reports import Diagnostics, Stats
from batpak.request import Requests, cause_ids, check_config, check_durable, check_wait, open_directory
from batpak.storage.run_tables import BadBlockError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from batpak.actors.messages import Command, Outcome
    from batpak.actors.system import DriverOf
    from batpak.coordinate import Coordinate
    from batpak.kind import EventKind
    from batpak.payload import Payload
    from batpak.read_only import ReadOnlyStore
    from batpak.request import Cause
    from batpak.storage.files import Files
    from batpak.storage.view import View

T = TypeVar("T")
Written = TypeVar("Written", Receipt, list[Receipt])


class Store(Delivering):
    """One journal, open for reading and writing; safe to use from any number of threads.

    Use it in a ``with`` block, or call `close`. A store that is still open when the interpreter ends is closed then,
    with a `ResourceWarning`; one whose process is killed loses nothing that has a receipt.
    """

    def __init__(self, files: Files, config: StoreConfig, driver: DriverOf | None = None) -> None:
        """Open what *files* holds; use `open` instead."""
        self._closed: type[StoreClosedError] | None = StoreClosedError  # until everything stands
        self._files = files
        self._log = Log()
        self._closing = Lock()
        self._closer = 0
        self._close_asked = False
        self._ended = False
        self._durable_by_default = config.durable
        self._sync_early = config.sync_every_events // SYNC_EARLY or config.sync_every_events + 1
        self._config = config
        self._clock = config.clock
        self._requests = Requests(config)
        try:
            files.lock()
            self._system = System(files, config, self._log, driver)  # ours before a thread runs: an interrupt may come
            self._system.open()
            self._catalog = self._system.found.catalog
            self._index = self._system.index_driver
            self._reader = self._system.reader_driver
            self._maps = self._system.reader.maps
            self._writer = self._system.writer_driver
            self._gate = self._system.gate
            self._announcer = self._system.index.announcer
            self._places = PlaceBook(self)
            OPEN.add(self)
            self._closed = None
            tell_opened(self._log, files.directory, self._system.report)
        except OSError as error:
            self._give_up_opening()
            raise StorageError("open", files.directory, error.errno) from error
        except BaseException:
            self._give_up_opening()
            raise

    # Opening and closing -----------------------------------------------------------------------------------------

    def _give_up_opening(self) -> None:
        """Leave nothing running of a store that could not be opened, or whose opening was interrupted."""
        self._closed = StoreClosedError
        OPEN.discard(self)
        if hasattr(self, "_system"):
            self._system.stop()
        self._files.unlock()

    @classmethod
    def open(cls, directory: str | os.PathLike[str], *, config: StoreConfig | None = None) -> Self:
        """Open the journal in *directory*, which is created (0700) if it is not there, and become its one writer.

        Recovers from whatever a crash left: a torn end that was never durable is copied to ``quarantine/`` and cut.
        Raises `StoreLockedError` (another process writes), `InvalidDirectoryError`, `CorruptStoreError` (durable
        bytes are damaged or missing), `UnsupportedFormatError` (newer software wrote it), `InvalidConfigError`.
        """
        config = check_config(config)
        files = open_directory(directory, create=True)
        try:
            store = cls(files, config)
        except BaseException:
            files.close()
            raise
        try:
            store._verify_as_configured()
        except BaseException:
            store.close()
            raise
        return store

    @staticmethod
    def open_read_only(directory: str | os.PathLike[str], *, config: StoreConfig | None = None) -> ReadOnlyStore:
        """Open the journal in *directory* for reading, without a lock, beside a running writer too."""
        from batpak.read_only import ReadOnlyStore  # noqa: PLC0415 - it builds on this module's reads

        return ReadOnlyStore.open(directory, config=config)

    def close(self) -> None:
        """Answer what is queued, make everything durable, write what the next open needs. Idempotent.

        Called from within a turn of the same thread, as a signal handler may, it happens at the end of that turn.
        Raises `WriterFailedError` or `StorageError` where the disk refuses; the store is closed all the same.
        """
        if self._inside():
            self._close_asked = True
            return
        me = get_ident()
        if self._closer == me:  # a signal handler, while this thread closes
            return
        with self._closing:
            self._closer = me
            try:
                self._close_once()
            finally:
                self._closer = 0

    def _close_once(self) -> None:
        """Close, unless that has been done; what an interrupt has cut short is begun again."""
        if self._ended:
            return
        if self._closed is None:
            self._keep_stats()
        self._closed = StoreClosedError
        self._close_asked = False
        self._announcer.tell_all()
        try:
            self._system.close()
            self._keep_stats()
        except Exception:
            self._end()
            raise
        self._end()
        self._log.emit(INFO, "store.close", directory=self._files.directory, events=self._last_stats.events)

    def _keep_stats(self) -> None:
        """Keep the figures for diagnostics of a closed store; a disk that tells no sizes does not keep it open."""
        try:
            size = self._bytes_on_disk()
        except OSError:
            size = 0
        self._last_stats = self._stats_of(self._system.index.view, size)

    def _end(self) -> None:
        """Let go of the directory: nothing is left to do."""
        self._places.close()
        self._system.index.let_go()
        self._files.close()
        OPEN.discard(self)
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", StoreClosedError) is None:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        state = "open" if self._closed is None else "closed"
        return f"<Store {self._files.directory!r} {state}>"

    # Writing -----------------------------------------------------------------------------------------------------

    def append(
        self,
        coordinate: Coordinate,
        kind: EventKind,
        payload: Payload,
        *,
        expected_sequence: int | None = None,
        idempotency_key: UUID | str | None = None,
        correlation_id: UUID | None = None,
        causation_id: UUID | None = None,
        flags: EventFlags = NO_FLAGS,
        durable: bool | None = None,
        max_wait_seconds: float | None = None,
    ) -> Receipt:
        """Append one event; the receipt means that it is written and can be read.

        *expected_sequence* is the sequence of the entity's newest event, or `NO_STREAM`; anything else raises
        `SequenceConflictError`. An *idempotency_key* that is known is answered with the first receipt, and nothing
        is written; with another coordinate, kind or payload it raises `IdempotencyConflictError`. With *durable*
        the receipt means as well that an fsync has covered it. *max_wait_seconds* is how long to wait for a place
        in the queue: passed, `BackpressureError`, and nothing was or will be written.

        A kill after the receipt loses nothing; a power cut what no fsync has covered. An exception that interrupts
        the call leaves the outcome open: only a key makes a retry safe. A `StorageError` means that the event was
        not written, a `WriterFailedError` that the store takes no more writes until it is opened again.
        """
        command = self._requests.append(
            coordinate, kind, payload, expected_sequence, idempotency_key, correlation_id, causation_id, flags
        )
        if durable is not None:
            check_durable(durable)
        if self._durable_by_default if durable is None else durable:
            return durable_receipt(self._write_durably(command, max_wait_seconds))
        return self._write(command, max_wait_seconds)

    def append_reaction(
        self,
        coordinate: Coordinate,
        kind: EventKind,
        payload: Payload,
        *,
        cause: Cause,
        expected_sequence: int | None = None,
        idempotency_key: UUID | str | None = None,
        flags: EventFlags = NO_FLAGS,
        durable: bool | None = None,
        max_wait_seconds: float | None = None,
    ) -> Receipt:
        """Append what *cause* led to: its correlation is taken over, and its id becomes the causation.

        Everything else as for `append`.
        """
        correlation, causation = self._cause_ids(cause)
        return self.append(
            coordinate,
            kind,
            payload,
            expected_sequence=expected_sequence,
            idempotency_key=idempotency_key,
            correlation_id=correlation,
            causation_id=causation,
            flags=flags,
            durable=durable,
            max_wait_seconds=max_wait_seconds,
        )

    def append_batch(
        self, items: Sequence[NewEvent], *, durable: bool | None = None, max_wait_seconds: float | None = None
    ) -> list[Receipt]:
        """Append all *items* or none: for every reader, and across any crash. An empty batch gives no receipts.

        Keys: all items or none. All known: the first receipts; some known: `IdempotencyConflictError`. An item's
        ``expected_sequence`` counts what stands before it in the batch. Errors carry ``item_index``.
        Everything else as for `append`.
        """
        command = self._requests.batch(items)
        check_durable(durable)
        if not command.items:
            self._require_open()
            return []
        if self._durable_by_default if durable is None else durable:
            return [durable_receipt(receipt) for receipt in self._write_durably(command, max_wait_seconds)]
        return self._write(command, max_wait_seconds)

    def sync(self) -> int:
        """Make everything that has been accepted durable; the highest durable global sequence, -1 for none."""
        self._require_open()
        self._writer.check_reentrancy(get_ident())
        self._cover(self._system.writer.journal.sequence)
        return self._gate.durable - 1

    def anchor(self) -> Anchor:  # noqa: D102 - says so where it is declared
        self.sync()
        return super().anchor()

    def _cover_flight(self, outcomes: Sequence[Outcome], durables: Sequence[bool]) -> list[Outcome]:
        """Make durable what a flight has written and was to be so; the outcomes with that told or refused."""
        wanted = [
            durable and not isinstance(outcome, Exception) for outcome, durable in zip(outcomes, durables, strict=True)
        ]
        last = max((last_sequence(outcome) for outcome, want in zip(outcomes, wanted, strict=True) if want), default=-1)
        try:
            self._cover(last + 1)
        except BatpakError as error:
            return [copy(error) if want else outcome for outcome, want in zip(outcomes, wanted, strict=True)]
        return [made_durable(outcome) if want else outcome for outcome, want in zip(outcomes, wanted, strict=True)]

    def _append_system(self, coordinate: Coordinate, kind: EventKind, payload: Payload, cause: StoredEvent) -> None:
        """Append an event of ours, of a kind that callers may not write."""
        self._write(self._requests.system(coordinate, kind, payload, cause), None)

    def _cover_everything(self) -> None:
        """Return when everything that has been written is durable."""
        self._require_open()
        self._cover(self._system.writer.journal.sequence)

    def _keep_identity(self) -> None:
        """Return when everything that has been written is durable, and this store's identity."""
        self._cover_everything()
        self._gate.keep_identity()

    def _durable_sequence(self) -> int:
        """Return the highest global sequence that is durable."""
        return self._gate.durable - 1

    def _catch_up(self) -> bool:
        """Nothing is written but by this store."""
        return False

    def _cause_ids(self, cause: Cause) -> tuple[UUID, UUID]:
        """Return correlation and causation of a reaction to *cause*; for a receipt the index is asked."""
        known = self._find(cause.event_id).correlation_id if isinstance(cause, Receipt) else None
        return cause_ids(cause, known)

    def _is_free(self) -> bool:
        """Whether an append would be written at once, by the calling thread, and without an fsync."""
        behind = self._system.writer.journal.sequence - self._gate.durable
        return self._writer.is_free and behind + 1 < self._config.sync_every_events and not self._system.index.pressed

    # What operators see ------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Return how much the store holds and how far it has come."""
        view = self._view()
        try:
            return self._stats_of(view, self._bytes_on_disk())
        except OSError as error:
            self._require_open()  # another thread has closed the store meanwhile
            raise StorageError("stat", self._files.directory, error.errno) from error

    def _bytes_on_disk(self) -> int:
        """Return the size of all segments."""
        return sum(self._files.size(meta.name) for meta in self._catalog.metas())

    def _stats_of(self, view: View, bytes_on_disk: int) -> Stats:
        """Return the figures of *view*."""
        return Stats(
            events=view.count(),
            next_global_sequence=self._system.writer.journal.sequence,
            visible_sequence=view.last_sequence(),
            durable_sequence=self._durable_sequence(),
            segments=len(self._catalog.metas()),
            bytes_on_disk=bytes_on_disk,
        )

    def diagnostics(self) -> Diagnostics:
        """Return all that a health check or a dashboard wants to know; works on a closed store too."""
        if self._closed is ForkedStoreError:
            raise ForkedStoreError
        system = self._system
        failure = system.writer.failure
        state: Literal["ok", "degraded", "failed", "closed"] = "ok"
        if self._closed is not None:
            state = "closed"
        elif failure is not None:
            state = "failed"
        elif any(each.restarts for each in system.drivers):
            state = "degraded"
        return Diagnostics(
            state=state,
            directory=self._files.directory,
            stats=self.stats() if self._closed is None else self._last_stats,
            open_report=system.report,
            actors=tuple(each.report() for each in system.drivers),
            writer_error=None if failure is None else f"{type(failure).__name__}: {failure}",
        )

    # Inside ------------------------------------------------------------------------------------------------------

    def _write_durably(self, command: Command[Written], max_wait_seconds: float | None) -> Written:
        """Have the writer run *command*, and return when an fsync covers what it has written."""
        try:
            answer = self._write(command, max_wait_seconds, covered=True)
            self._cover(last_sequence(answer) + 1)
        except BaseException:
            self._wake_for_sync()
            raise
        return answer

    def _write(self, command: Command[T], max_wait_seconds: float | None, *, covered: bool = False) -> T:
        """Have the writer run *command*; keep the durability promises, or leave them to the caller: *covered*."""
        if max_wait_seconds is not None:
            check_wait(max_wait_seconds)
        gate = self._gate
        if gate.leads(get_ident()):  # a signal handler: a rotation would wait for the fsync that it interrupted
            self._require_open()  # in a forked child a thread may have the number of one that led in the parent
            raise ReentrantCallError
        try:
            for _ in range(MAX_REBUILDS):
                if self._closed is not None:
                    raise self._closed
                if not covered and not gate.watched:
                    self._wake_for_sync()
                try:
                    answer = self._writer.ask(command, max_wait_seconds)
                    break
                except BadBlockError as error:
                    self._rebuild(error)
            else:
                raise damaged_again()
            journal = self._system.writer.journal
            behind = journal.sequence - gate.durable
            if journal.needs_care or not (covered or gate.watched):
                self._wake_for_sync()
            elif behind >= self._sync_early and not gate.called:
                gate.called = True
                self._wake_for_sync()
            if behind >= self._config.sync_every_events:
                self._cover(journal.sequence)
            if self._system.index.pressed:
                self._system.index.ease(journal.sequence)
        finally:
            if self._close_asked:
                self._leave()
        return answer

    def _wake_for_sync(self) -> None:
        """Tell the writer's thread that something will have to be synced."""
        self._gate.announce()
        self._writer.wake()

    def _cover(self, ticket: int) -> None:
        """Wait until everything below *ticket* is durable."""
        try:
            # A key of the original whose event was compacted away may quote a number that is not reached again (H21).
            self._gate.cover(min(ticket, self._system.writer.journal.sequence))
        finally:
            self._leave()

    def _leave(self) -> None:
        """Close, if a signal handler asked for it while a turn of this store ran."""
        if self._close_asked and not self._inside():
            self.close()

    def _view(self) -> View:
        """Return what is visible now."""
        if self._closed is not None:
            raise self._closed
        return self._system.index.view

    def _require_open(self) -> None:
        """Refuse when the store is closed, or is a forked child's copy."""
        if self._closed is not None:
            raise self._closed

    def _inside(self) -> bool:
        """Whether the calling thread is in a turn of one of our actors, or emits one of our log lines."""
        me = get_ident()
        if me in self._log.emitting or self._gate.leads(me):
            return True
        return any(each.owner == me or each.mailbox.guard_owner == me for each in self._system.drivers)

    def _verify_as_configured(self) -> None:
        """Read the whole store if the configuration asks for it."""
        wanted = self._config.verify_on_open
        if wanted == "recovery":
            return
        report = self.verify_chain()
        if wanted == "chain" and not report.intact:
            raise CorruptStoreError(
                self._files.directory,
                None,
                f"{len(report.content_mismatches)} wrong hashes, {len(report.dangling_links)} dangling links, "
                f"{len(report.sequence_gaps)} gaps and {len(report.altered_segments)} altered segments",
                "an intact chain",
                "every frame has its checksum",
            )

    def forget_parent(self) -> None:
        """In a forked child: this copy is dead, and the parent's lock stays the parent's."""
        self._closed = ForkedStoreError
        self._closing = Lock()  # a thread that is not here may hold the other
        self._ended = True
        self._maps.clear()  # each has a descriptor of its own
        self._files.abandon()
