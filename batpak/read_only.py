"""`ReadOnlyStore`: every read, no lock, beside a running writer in this process or any other."""

from __future__ import annotations

import os
import warnings
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Final, Self

from batpak.actors.driver import Driver
from batpak.actors.index import Index
from batpak.actors.messages import Publish
from batpak.actors.reader import Reader
from batpak.actors.system import DriverOf
from batpak.config import MAX_WAIT_SECONDS, StoreConfig
from batpak.delivery.cursor import Follower
from batpak.errors import (
    ActorFailedError,
    CorruptStoreError,
    ForkedStoreError,
    InvalidRequestError,
    ReentrantCallError,
    StorageError,
    StoreClosedError,
)
from batpak.living import OPEN
from batpak.log import Log
from batpak.reading import Reading
from batpak.reports import Stats
from batpak.request import check_config, open_directory
from batpak.storage.opening import Opened, open_parts
from batpak.storage.pool import SegmentPool
from batpak.storage.survey import Survey, look_again, survey

if TYPE_CHECKING:
    from batpak.actors.messages import IndexCommand, ReaderCommand
    from batpak.receipt import Place
    from batpak.region import Region
    from batpak.storage.files import Files
    from batpak.storage.segment import SegmentMeta
    from batpak.storage.view import View

POLL_SECONDS: Final = 0.05
"""How often `follow` looks for more, unless it is told otherwise."""
MAX_FROZEN_TAILS: Final = 8
"""When so many thousands of events have been taken in, the runs that the writer has made since are adopted instead."""


class ReadOnlyStore(Reading):
    """One journal, open for reading; it changes nothing and needs no lock.

    It shows the prefix of the journal that was complete when it was opened or last refreshed. Use it in a ``with``
    block, or call `close`.
    """

    def __init__(self, files: Files, config: StoreConfig, driver: DriverOf | None = None) -> None:
        """Open what *files* holds; use `open` instead."""
        self._closed: type[StoreClosedError] | None = StoreClosedError  # until everything stands
        self._files = files
        self._config = config
        self._log = Log()
        self._lock = Lock()
        self._owner = 0
        self._close_asked = False
        self._ended = False
        try:
            opened = self._look()
        except OSError as error:
            raise StorageError("open", files.directory, error.errno) from error
        self._index_actor = Index(files, self._found, opened, config.clock, writable=False)
        self._announcer = self._index_actor.announcer
        self._clock = config.clock
        self._reader_actor = Reader(
            SegmentPool(files, self._index_actor.meta), sealed_only=True
        )  # not through us: its thread lives
        self._maps = self._reader_actor.maps
        drivers = driver or DriverOf()
        self._index: Driver[IndexCommand] = drivers.make(self._index_actor, config, self._log)
        self._reader: Driver[ReaderCommand] = drivers.make(self._reader_actor, config, self._log)
        try:
            for each in (self._index, self._reader):
                each.connect((self._index, self._reader))
                each.start()
            OPEN.add(self)
            self._closed = None
        except BaseException as error:
            self._stop()
            if isinstance(error, RuntimeError):
                raise ActorFailedError("reader", "a thread could not be started") from error
            raise

    @classmethod
    def open(cls, directory: str | os.PathLike[str], *, config: StoreConfig | None = None) -> Self:
        """Open the journal in *directory* beside whoever writes to it.

        Raises `InvalidDirectoryError` where there is none, `CorruptStoreError`, `UnsupportedFormatError`.
        """
        config = check_config(config)
        files = open_directory(directory, create=False)
        try:
            return cls(files, config)
        except BaseException:
            files.close()
            raise

    def refresh(self) -> int:
        """Take in what has been appended since, at the cost of what came; the highest visible global sequence.

        A batch is taken in whole or not at all. A damaged journal raises `CorruptStoreError`; what was visible
        before stays so.
        """
        me = get_ident()
        if self._owner == me:
            raise ReentrantCallError
        try:
            with self._lock:
                self._owner = me
                try:
                    self._take_in()
                finally:
                    self._owner = 0
        finally:
            self._leave()
        return self._view().last_sequence()

    def stats(self) -> Stats:
        """Return how much the store holds, as far as it has been taken in, and how far the writer has synced it."""
        view = self._view()
        metas = self._catalog.metas()
        last = view.last_sequence()
        return Stats(
            events=view.count(),
            next_global_sequence=last + 1,
            visible_sequence=last,
            durable_sequence=self._durable_sequence(),
            segments=len(metas),
            bytes_on_disk=sum(map(self._size, metas)),
        )

    def follow(
        self,
        region: Region,
        *,
        after: int | Place | None = None,
        durable: bool = False,
        poll_seconds: float = POLL_SECONDS,
    ) -> Follower:
        """Iterate over the events in *region*, and then over those that come, whichever process writes them.

        While it waits it refreshes this store every *poll_seconds*, above 0, at most a day: 0.05 keeps what a page
        shows ahead of the eye, for 100 us of work each time. Everything else as for `Store.follow`.
        """
        if type(poll_seconds) not in {int, float} or not 0 < poll_seconds <= MAX_WAIT_SECONDS:
            raise InvalidRequestError(f"poll_seconds: found {poll_seconds!r}, expected a number above 0, at most a day")
        return Follower(self._feed(region, after, durable=durable), poll_seconds=poll_seconds)

    def _durable_sequence(self) -> int:
        """Return the highest global sequence that has been taken in and that the writer has made durable."""
        durable = self._found.durable
        return -1 if durable is None else min(self._view().last_sequence(), durable.sequence - 1)

    def _catch_up(self) -> bool:
        """Take in what the writer has written or made durable; whether something came."""
        before = self._view().last_sequence(), self._durable_sequence()
        return (self.refresh(), self._durable_sequence()) != before

    def _size(self, meta: SegmentMeta) -> int:
        """Return a segment's size; nothing where the writer has withdrawn it."""
        try:
            return self._files.size(meta.name)
        except FileNotFoundError:
            return 0
        except OSError as error:
            self._view()  # another thread has closed the store meanwhile
            raise StorageError("stat", meta.name, error.errno) from error

    def close(self) -> None:
        """Let go of the files. Idempotent; every later call raises `StoreClosedError`."""
        if self._inside():
            self._close_asked = True
            return
        me = get_ident()
        with self._lock:
            self._owner = me
            try:
                if not self._ended:
                    self._stop()
            finally:
                self._owner = 0

    def _stop(self) -> None:
        """Close; what an interrupt has cut short is begun again by the next close."""
        self._closed = StoreClosedError
        self._announcer.tell_all()
        self._index.close()
        self._reader.close()
        self._reader_actor.close()
        self._index_actor.let_go()
        self._files.close()
        OPEN.discard(self)
        self._ended = True

    def forget_parent(self) -> None:
        """In a forked child: this copy is dead."""
        self._closed = ForkedStoreError
        self._ended = True
        self._lock = Lock()  # a thread that is not here may hold the other
        self._maps.clear()  # each has a descriptor of its own
        self._files.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_closed", StoreClosedError) is None:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<ReadOnlyStore {self._files.directory!r} {'open' if self._closed is None else 'closed'}>"

    def _view(self) -> View:
        """Return what has been taken in."""
        if self._closed is not None:
            raise self._closed
        return self._index_actor.view

    def _inside(self) -> bool:
        """Whether the calling thread is in a turn of one of our actors, or takes in what came."""
        me = get_ident()
        drivers = (self._index, self._reader)
        if self._owner == me or me in self._log.emitting:
            return True
        return any(each.owner == me or each.mailbox.guard_owner == me for each in drivers)

    def _leave(self) -> None:
        """Close, if a signal handler asked for it while a turn of this store ran."""
        if self._close_asked and not self._inside():
            self.close()

    def _look(self) -> Opened:
        """Open the index as it stands on disk now."""
        found = survey(self._files, lambda: bytes(16))
        opened = open_parts(self._files, found, writable=False)
        self._found: Survey = found
        self._catalog = found.catalog
        self._runs = len(opened.parts)
        self._scan = opened.scan
        return opened

    def _take_in(self) -> None:
        """Take in what has been appended since."""
        self._view()
        try:
            if len(self._index_actor.view.parts) - self._runs > MAX_FROZEN_TAILS:
                self._take_in_all()
            else:
                self._take_in_more_or_all()
        except OSError as error:
            raise StorageError("refresh", self._files.directory, error.errno) from error

    def _take_in_more_or_all(self) -> None:
        """Take in what came; look at everything again where it does not follow what was seen before.

        A writer whose disk was full may have begun a segment, withdrawn it, and begun it anew.
        """
        try:
            self._take_in_more()
        except (CorruptStoreError, FileNotFoundError):
            self._take_in_all()

    def _take_in_all(self) -> None:
        """Adopt the runs that the writer has made since, in the place of what was kept in memory."""
        opened = self._look()
        self._index.within_turn(lambda: self._index_actor.start_again(self._found, opened))

    def _take_in_more(self) -> None:
        """Scan what stands behind the last event."""
        look_again(self._files, self._found)
        scan = self._scan.behind_it()
        for group in scan.groups():
            self._index.ask(Publish(group))
        self._scan = scan  # not before: what was cut short is scanned again
