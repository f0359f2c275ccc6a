"""The supervisor: opens a store, starts its actors in order, stops them in reverse."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from batpak.actors.announcer import MORE_DURABLE
from batpak.actors.decision import Standing
from batpak.actors.driver import AnyDriver, Driver
from batpak.actors.gate import Gate
from batpak.actors.index import Index
from batpak.actors.journal import Journal
from batpak.actors.reader import Reader
from batpak.actors.writer import MAX_HEADS, Writer
from batpak.errors import ActorFailedError, InvalidConfigError, StorageError
from batpak.ids import IdGenerator
from batpak.log import Log
from batpak.reports import OpenReport, Quarantined
from batpak.storage import format2, watermark
from batpak.storage.mend import mend
from batpak.storage.opening import Opened, open_parts
from batpak.storage.pool import SegmentPool
from batpak.storage.segment import file_name, list_segments
from batpak.storage.survey import Survey, survey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batpak.actors.actor import Actor, CommandT
    from batpak.actors.messages import IndexCommand, ReaderCommand, WriterCommand
    from batpak.clock import Clock
    from batpak.config import StoreConfig
    from batpak.storage.files import Files, WriteFile
    from batpak.storage.recovery import Torn

START_ORDER: Final = ("index", "writer", "reader")
"""Who is asked is started before who asks."""


@dataclass(slots=True)
class Phases:
    """Measures what an open spends its time on."""

    clock: Clock
    started: float = 0.0
    phases: list[tuple[str, float]] = field(default_factory=list)
    _last: float = 0.0

    def __post_init__(self) -> None:
        """Start measuring."""
        self.started = self._last = self.clock.monotonic()

    def end(self, name: str) -> None:
        """Note that phase *name* ends here."""
        now = self.clock.monotonic()
        self.phases.append((name, now - self._last))
        self._last = now


class System:
    """The running parts of one store that is open for reading and, if *writable*, for writing."""

    def __init__(self, files: Files, config: StoreConfig, log: Log, driver: DriverOf | None = None) -> None:
        """Prepare to open what *files* holds; whoever holds this calls `open`, and `stop` if that is cut short."""
        self.files = files
        self.config = config
        self.clock = config.clock
        self.log = log
        self._driver_of = driver or DriverOf()
        self._mark: WriteFile | None = None
        self._finished = False
        self._failure: Exception | None = None
        self.drivers: tuple[AnyDriver, ...] = ()

    # Opening -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Recover, build the actors, start them."""
        files, config = self.files, self.config
        phases = Phases(self.clock)
        files.failed_syncs.clear()
        _settle_last_segment(files)
        phases.end("settle")
        self.found: Survey = survey(files, lambda: os.urandom(16))
        self.segment_format = _choose_format(self.found, config)
        phases.end("survey")
        opened = open_parts(files, self.found, writable=True)
        phases.end("scan")
        copies = mend(files, self.found, opened.scan, opened.events())
        phases.end("mend")
        self._build(opened)
        self._start()
        phases.end("start")
        self.report = self._report(opened, phases, copies)
        self._tidy(opened)

    def _build(self, opened: Opened) -> None:
        """Make the actors and what they share."""
        found, config, files = self.found, self.config, self.files
        catalog, scan = found.catalog, opened.scan
        state = opened.state_at_end()
        next_sequence = max(scan.next_sequence, state.next_sequence)
        self.index = Index(files, found, opened, self.clock, writable=True)
        self.index_driver: Driver[IndexCommand] = self._driver_of.make(self.index, config, self.log)
        self.reader = Reader(SegmentPool(files, catalog.meta), sealed_only=False)
        self.reader_driver: Driver[ReaderCommand] = self._driver_of.make(self.reader, config, self.log)
        self._writer_pool = SegmentPool(files, catalog.meta)
        journal = Journal(
            files,
            catalog,
            self._writer_pool,
            lambda: self.index.view,
            _random_bytes,
            segment_bytes=config.segment_bytes,
            segment_format=self.segment_format,
            sequence=next_sequence,
        )
        self._go_on(journal, scan.end)
        standing = Standing(
            lambda: self.index.view,
            segment_format=self.segment_format,
            next_sequence=next_sequence,
            last_hash=state.last_hash,
            evicted=found.evicted,
            max_heads=MAX_HEADS,
            ids=IdGenerator(_random_bytes, above=state.newest_id or None),
            read_frame=journal.read_frame,
        )
        self.writer = Writer(journal, self.index_driver, standing, config, self.clock, self.log)
        self.writer_driver: Driver[WriterCommand] = self._driver_of.make(self.writer, config, self.log)
        self.gate = self._make_gate(journal, found)
        journal.gate = self.writer.gate = self.gate
        standing.gate = self.gate
        self.writer.failed_syncs = self.gate.failed_syncs
        self.gate.on_durable = lambda: self.index.announcer.tell(MORE_DURABLE)
        self.index.cover = self.gate.cover
        self.index.driver = self.index_driver
        self.drivers = (self.index_driver, self.writer_driver, self.reader_driver)
        for each in self.drivers:
            each.connect(self.drivers)

    def _go_on(self, journal: Journal, end: int) -> None:
        """Go on in the last segment if it is ours, not sealed, and of the format that is written."""
        metas = self.found.catalog.metas()
        if not metas:
            return
        last = metas[-1]
        file = self.files.open_write(last.name)
        sealed = last.footer is not None or (
            last.version == 1 and self.found.ledger.numbers.read_footer(file, last) is not None
        )
        file.sync()
        self.files.sync_folder()
        if sealed or not last.ours or last.version != self.segment_format:
            file.close()
        else:
            journal.go_on(last, file, end)

    def _make_gate(self, journal: Journal, found: Survey) -> Gate:
        """Make the durability gate; all that was recovered is durable by now."""
        if not self.files.exists(watermark.NAME):
            self.files.write_atomic(watermark.NAME, b"")
        self._mark = self.files.open_write(watermark.NAME)
        gate = Gate(lambda: journal.written, found.catalog.store_id, self._mark, found.count, self.clock, self.log)
        gate.failed_syncs = self.files.failed_syncs
        with gate.device:
            gate.sync_device()
        return gate

    def _start(self) -> None:
        """Start the actors' threads."""
        by_name = {each.name: each for each in self.drivers}
        for name in START_ORDER:
            try:
                by_name[name].start()
            except RuntimeError as error:
                raise ActorFailedError(name, "its thread could not be started") from error

    def _tidy(self, opened: Opened) -> None:
        """Remove index files that nothing uses; left-overs of a crash."""
        for name in opened.leftovers:
            with suppress(OSError):
                self.files.remove(name)

    def _report(self, opened: Opened, phases: Phases, copies: Sequence[tuple[str, Torn]]) -> OpenReport:
        """Say how the store was opened."""
        scan = opened.scan
        path: Literal["new", "runs", "rebuild"] = "runs" if opened.adopted else "rebuild" if scan.events else "new"
        quarantined = tuple(
            Quarantined(name, torn.segment, torn.offset, len(torn.data), format2.event_hash(torn.data).hex())
            for name, torn in copies
        )
        return OpenReport(
            path=path,
            runs=opened.adopted,
            tail_events=scan.events,
            tail_bytes=scan.bytes,
            seconds=self.clock.monotonic() - phases.started,
            phases=tuple(phases.phases),
            quarantined=quarantined,
            notes=tuple(self.found.notes),
        )

    # Closing -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Drain, sync, write what the next open needs; typed errors where that fails, after everything is closed."""
        self.writer_driver.close()
        if not self._finished:  # a close that was interrupted is begun again
            try:
                self._finish()
            except OSError as error:
                self._failure = StorageError("close", self.files.directory, error.errno)
                self._failure.__cause__ = error
            except Exception as error:  # noqa: BLE001 - raised when everything has been closed
                self._failure = error
            self._finished = True
        self.stop()
        for each in self.drivers:
            each.tell_lines()
        if self._failure is not None:
            raise self._failure

    def _finish(self) -> None:
        """Make everything durable, write the tail of the index, end the active segment."""
        writer, journal = self.writer, self.writer.journal
        if writer.mark is not None:
            self.writer_driver.within_turn(lambda: None)
        self.gate.cover(journal.sequence)  # of a writer that has failed too: what it acknowledged is written
        if writer.failure is not None:
            return
        journal.finish()
        self.index_driver.close()
        self.index.write_out()

    def stop(self) -> None:
        """End the threads and let go of descriptors, as far as there are any yet; nothing is finished by this."""
        for driver in reversed(self.drivers):
            driver.close()
        for part in (getattr(self, "writer", None), getattr(self, "reader", None), self._mark):
            with suppress(OSError):
                if isinstance(part, Writer):
                    part.journal.close()
                    self._writer_pool.close()
                elif part is not None:
                    part.close()


class DriverOf:
    """Makes the drivers of one store; tests make theirs another way."""

    def make(self, actor: Actor[CommandT], config: StoreConfig, log: Log) -> Driver[CommandT]:
        """Return the driver for *actor* that *config* asks for; "stepped" has to be made by its test."""
        if config.driver == "stepped":
            raise InvalidConfigError("driver", "'stepped'", "it only beside driver=SteppedDrivers(...)")
        return Driver(
            actor,
            capacity=config.mailbox_capacity,
            assisted=config.driver == "assisted",
            clock=config.clock,
            log=log,
            restart=config.restart,
            slow_seconds=config.slow_command_seconds,
        )


def _random_bytes(count: int) -> bytes:
    """Return bytes that nobody can guess."""
    try:
        return os.urandom(count)
    except OSError as error:
        raise StorageError("read", "the system's random numbers", error.errno) from error


def _settle_last_segment(files: Files) -> None:
    """Before the last segment is believed: drop what the cache says of it, and sync what a killed process left."""
    segments = list_segments(files.list())
    if segments:
        file = files.open_write(file_name(segments[-1]))
        try:
            file.drop_cache()
            file.sync()
        finally:
            file.close()


def _choose_format(found: Survey, config: StoreConfig) -> int:
    """Return the format to write: what the store has, unless format 2 is asked for."""
    versions = [meta.version for meta in found.catalog.metas()]
    if config.segment_format == 1 and format2.VERSION in versions:
        raise InvalidConfigError("segment_format", "1 for a store that has segments of format 2", "2 or None")
    if config.segment_format is not None:
        return config.segment_format
    return versions[-1] if versions else format2.VERSION
