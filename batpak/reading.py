"""Everything that can be read from a store, whoever may write to it.

`Store` and `ReadOnlyStore` share this. A call takes one view of the index and keeps it, so it sees one bound and
never half a batch, and no call waits behind a commit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

from batpak.actors.messages import Load, Replace
from batpak.delivery.cursor import Follower
from batpak.delivery.feed import Feed
from batpak.errors import CorruptStoreError, EventNotFoundError, InvalidRequestError, StalePlaceError
from batpak.event import NO_STREAM, IndexEntry, Notification, StoredEvent, entry_of
from batpak.graph import causes, effects, walk_ancestors
from batpak.kind import EventKind
from batpak.log import DEBUG
from batpak.receipt import Anchor, Place
from batpak.region import Region
from batpak.request import check_count, check_entity, check_items, require_moment
from batpak.storage.content import FORMAT_2, FrameContent
from batpak.storage.row import HIDDEN
from batpak.storage.run import Run
from batpak.storage.run_tables import BadBlockError
from batpak.storage.view import BEFORE_ALL, View
from batpak.verify import take_anchor, verify_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batpak.actors.announcer import Announcer
    from batpak.actors.driver import Driver
    from batpak.actors.messages import IndexCommand, ReaderCommand
    from batpak.clock import Clock
    from batpak.log import Log
    from batpak.reports import Ancestry, ChainReport
    from batpak.storage.catalog import Catalog
    from batpak.storage.mapped import SegmentMaps
    from batpak.storage.row import Part, Record
    from batpak.storage.view import RowsOf

T = TypeVar("T")

EVERYTHING: Final = Region()
READ_AHEAD: Final = 256
"""How many events `read` loads at a time; the first block is smaller, for those who want one page."""
FIRST_BLOCK: Final = 16
MAX_ANCESTORS: Final = 10_000
"""How far `walk_ancestors` goes unless it is told otherwise."""
MAX_REBUILDS: Final = 8
"""How many damaged index files one call rebuilds before it gives up."""


class Reading(ABC):
    """The reads of a store."""

    _index: Driver[IndexCommand]
    _reader: Driver[ReaderCommand]
    _catalog: Catalog
    _announcer: Announcer
    _maps: SegmentMaps
    _log: Log
    _clock: Clock

    @abstractmethod
    def _view(self) -> View:
        """Return what is visible now; raises `StoreClosedError` when nothing is any more."""

    @abstractmethod
    def _durable_sequence(self) -> int:
        """Return the highest global sequence that is durable and visible; -1 for none."""

    @abstractmethod
    def _catch_up(self) -> bool:
        """Take in what others have written; whether something came."""

    @abstractmethod
    def _leave(self) -> None:
        """Do what a signal handler asked for while a turn of this thread ran."""

    # One event ---------------------------------------------------------------------------------------------------

    def get(self, event_id: UUID) -> StoredEvent:
        """Read one event; `EventNotFoundError` if there is none, `CorruptStoreError` if its bytes are damaged."""
        log = self._log
        if type(event_id) is UUID and not log.emitting and not log.passes(DEBUG):
            try:
                place = self._view().place_of(event_id.bytes, event_id.int >> 64)
            except BadBlockError:
                place = None
            if place is not None and not place[4] & HIDDEN:
                body = self._maps.body(place)
                if body is not None:
                    return StoredEvent(body, FORMAT_2)
        return self.load_records([self._find(event_id)])[0]  # the long way, which judges and mends

    def get_many(self, event_ids: Sequence[UUID]) -> list[StoredEvent]:
        """Read events in the order asked; `EventNotFoundError` names the first that is not there."""
        self._view()  # a closed store refuses, asked for nothing too
        return self.load_records([self._find(event_id) for event_id in check_items("event_ids", event_ids)])

    def latest(self, entity: str) -> IndexEntry | None:
        """Return the newest event of exactly *entity*; its ``sequence`` is what ``expected_sequence`` wants."""
        check_entity(entity)
        record = self._ask_view(lambda view: view.newest(entity))
        return None if record is None else entry_of(record)

    def place_at(self, moment: datetime) -> Place | None:
        """Return the place of the newest event at or before *moment*, for ``after=``; None before the first event.

        *moment* has a zone; times are compared in milliseconds.
        """
        require_moment(moment)
        wall_ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        record = self._ask_view(lambda view: view.newest_until(wall_ms))
        return None if record is None else self.load_records([record])[0].place

    # Many events -------------------------------------------------------------------------------------------------

    def query(
        self, region: Region, *, after: int | Place | None = None, limit: int | None = None, reverse: bool = False
    ) -> list[IndexEntry]:
        """List what the index knows of the events in *region*, in global order; no frame is read.

        *after* is exclusive, in the direction of reading: a global sequence, or a place, whose hash is compared
        (`StalePlaceError`). Events that share a global sequence (only the original made such) come together, so a
        page may be longer than *limit*. *limit* 0 gives nothing.
        """
        require("region", region, Region)
        after, limit = self._after(after), _limit(limit)
        return self._ask_view(
            lambda view: [entry_of(record) for record in view.select(region, after, limit, reverse=reverse)]
        )

    def read(
        self,
        region: Region = EVERYTHING,
        *,
        after: int | Place | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[StoredEvent]:
        """Iterate over the events in *region*, in global order; payloads are read ahead in blocks.

        Arguments as for `query`. What is appended during the iteration is not in it. A damaged frame raises
        `CorruptStoreError` when the iteration reaches its block.
        """
        return self._prepare_read(region, after, limit, reverse=reverse)()

    def by_scope(self, scope: str) -> list[IndexEntry]:
        """List the events of one scope."""
        require("scope", scope, str)
        return self.query(Region(scope=scope))

    def by_fact(self, kind: EventKind) -> list[IndexEntry]:
        """List the events of one kind."""
        require("kind", kind, EventKind)
        return self.query(Region(kind=kind))

    def stream(
        self, entity: str, *, after_sequence: int | None = None, limit: int | None = None, reverse: bool = False
    ) -> list[IndexEntry]:
        """List the events of exactly *entity*, in its own order; *after_sequence* is exclusive."""
        _check_stream(entity, after_sequence)
        limit = _limit(limit)
        return self._ask_view(
            lambda view: [entry_of(record) for record in view.stream(entity, after_sequence, limit, reverse=reverse)]
        )

    def read_stream(
        self, entity: str, *, after_sequence: int | None = None, limit: int | None = None, reverse: bool = False
    ) -> Iterator[StoredEvent]:
        """Iterate over the events of exactly *entity*, with payloads; arguments as for `stream`."""
        _check_stream(entity, after_sequence)
        limit = _limit(limit)
        if after_sequence is None:
            return self._selected_rows(self._view(), lambda view: view.rows_of_entity(entity, reverse=reverse), limit)
        return self._events(
            self.selected(self._view(), lambda view: view.stream(entity, after_sequence, limit, reverse=reverse))
        )

    def follow(self, region: Region, *, after: int | Place | None = None, durable: bool = False) -> Follower:
        """Iterate over the events in *region*, and then over those that come, without gap or duplicate between.

        *after* as for `query`: a page that was sent ``str(event.place)`` goes on behind ``Place.parse`` of it. With
        *durable* an event comes when it is durable, at the latest ``sync_every_seconds`` after it was written.
        """
        return Follower(self._feed(region, after, durable=durable))

    # The graph ---------------------------------------------------------------------------------------------------

    def walk_ancestors(self, event_id: UUID, *, limit: int | None = None) -> Ancestry:
        """Walk an entity's chain backwards from an event, which comes first; at most *limit* (default 10,000)."""
        limit = MAX_ANCESTORS if limit is None else _limit(limit)
        return self._ask_view(lambda view: walk_ancestors(self, view, self.get(event_id), limit))

    def causes(self, event_id: UUID, *, depth: int = 1, limit: int = 1000) -> list[StoredEvent]:
        """Return what caused an event, *depth* steps back, nearest first; a cause that is not here is left out."""
        check_count("depth", depth)
        check_count("limit", limit)
        return self._ask_view(lambda view: self.load_records(causes(view, self._find(event_id), depth, limit)))

    def effects(self, event_id: UUID, *, depth: int = 1, limit: int = 1000) -> list[StoredEvent]:
        """Return what an event caused, *depth* steps on, breadth first, each event once."""
        check_count("depth", depth)
        check_count("limit", limit)
        return self._ask_view(lambda view: self.load_records(effects(view, self._find(event_id), depth, limit)))

    def verify_chain(
        self,
        region: Region = EVERYTHING,
        *,
        anchor: Anchor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ChainReport:
        """Recompute every hash and link of the events in *region*, hidden ones too; the report says what is wrong.

        With *anchor* also whether the journal still begins with exactly the events that it was made of; then *region*
        has to be everything (`InvalidRequestError`). A frame whose checksum is wrong raises `CorruptStoreError`.
        *progress* is called with events done and events there are in all.
        """
        require("region", region, Region)
        if anchor is not None:
            require("anchor", anchor, Anchor)
            if region.parts:
                raise InvalidRequestError(f"region: found {region} with an anchor, expected everything")
        view = self._view()
        return verify_chain(self, self._catalog, view, region, anchor, progress)

    def anchor(self) -> Anchor:
        """Return a short digest of everything up to here, to keep where nobody who can write to the journal can.

        ``verify_chain(anchor=...)`` compares the journal with it at any later time. It speaks of what is durable
        alone: a `Store` first makes everything durable that was accepted before the call; a `ReadOnlyStore` speaks of
        what its writer is known to have made durable. It takes a few milliseconds in a journal of any length.
        """
        durable = self._durable_sequence()
        return self._ask_view(lambda view: take_anchor(self, view, durable))

    # What the parts share ----------------------------------------------------------------------------------------

    def _prepare_read(
        self, region: Region, after: int | Place | None, limit: int | None, *, reverse: bool
    ) -> Callable[[], Iterator[StoredEvent]]:
        """Check the arguments and take the view, now; what it returns looks at the place and begins to read."""
        require("region", region, Region)
        limit = _limit(limit)
        if not isinstance(after, Place):
            after = self._after(after)
        view = self._view()

        def begin() -> Iterator[StoredEvent]:
            behind = self._after(after)
            if limit is None or not self._catalog.has_format_1:
                return self._selected_rows(
                    view, lambda view: view.rows_of_region(region, behind, reverse=reverse), limit
                )
            return self._events(self.selected(view, lambda view: view.select(region, behind, limit, reverse=reverse)))

        return begin

    def _feed(self, region: Region, after: int | Place | None, *, durable: bool) -> Feed:
        """Check the arguments of `follow`; return what it delivers."""
        require("region", region, Region)
        require("durable", durable, bool)
        self._view()
        behind = self._after(after)
        return Feed(self, region, BEFORE_ALL if behind is None else behind, durable=durable)

    def _durable_view(self) -> View:
        """Return what is visible and durable."""
        return _cut(self._view(), self._durable_sequence())

    def _notifications(self, records: Sequence[Record]) -> list[Notification]:
        """Return what subscribers are told of *records*; only hashes that the index has written out cost a read."""
        bare = [record for record in records if not record.event_hash]
        if not bare:
            return [Notification(record, record.event_hash) for record in records]
        hashes = {
            record.global_sequence: content.event_hash
            for record, content in zip(bare, self.load_contents(bare), strict=True)
        }
        return [Notification(record, record.event_hash or hashes[record.global_sequence]) for record in records]

    def _find(self, event_id: UUID) -> Record:
        """Return the row of an event that a read may show."""
        if not isinstance(event_id, UUID):
            raise InvalidRequestError(f"event_id: found {type(event_id).__name__}, expected UUID")
        record = self._ask_view(lambda view: view.find_id(event_id.bytes))
        if record is None or record.bits & HIDDEN:
            raise EventNotFoundError(event_id)
        return record

    def _may_look(self) -> bool:
        """Whether frames may be taken from maps: not where each command has its line, nor from within a line."""
        log = self._log
        return not log.emitting and not log.passes(DEBUG)

    def load_records(self, records: Sequence[Record]) -> list[StoredEvent]:
        """Read the frames of *records*, checked against the index."""
        self._view()  # an iteration that began before a close or a fork ends here
        if records and self._may_look():
            places = [(record.event_id, record.segment, record.offset, record.length, 0) for record in records]
            bodies = self._maps.bodies(places)
            if bodies is not None:
                return list(map(StoredEvent, bodies, repeat(FORMAT_2), records))
        contents = self.load_contents(records)
        return [
            StoredEvent(content.body, content.codec, record) for record, content in zip(records, contents, strict=True)
        ]

    def load_contents(self, records: Sequence[Record]) -> list[FrameContent]:
        """Read frames and make sure that each is the one that the index speaks of."""
        self._view()  # an iteration that began before a close or a fork ends here
        load = Load([(record.segment, record.offset, record.length) for record in records])
        try:
            bodies = self._reader.ask(load)
        finally:
            self._leave()
        contents = []
        segment, version = -1, 0
        for record, body in zip(records, bodies, strict=True):
            if record.segment != segment:
                segment = record.segment
                version = self._catalog.meta(segment).version
            content = FrameContent(body, version)
            if not content.is_of(record.event_id):
                raise CorruptStoreError(
                    self._catalog.meta(record.segment).name,
                    record.offset,
                    "the frame of another event",
                    f"event {UUID(bytes=record.event_id)}",
                    "every other event",
                )
            contents.append(content)
        return contents

    def _load_rows(self, part: Part, rows: Sequence[int]) -> Iterator[StoredEvent]:
        """Read the frames of some rows, checked against the index; from memory, where they all are there."""
        self._view()  # an iteration that began before a close or a fork ends here
        bodies = self._maps.bodies(part.places(rows)) if self._may_look() else None
        if bodies is None:
            return iter(self.load_records(list(part.records(iter(rows)))))
        return map(StoredEvent, bodies, repeat(FORMAT_2))

    def _selected_rows(
        self, view: View, pick: Callable[[View], Iterator[RowsOf]], limit: int | None
    ) -> Iterator[StoredEvent]:
        """Iterate over the events of the rows that *pick* finds in *view*, at most *limit*."""
        return chain.from_iterable(self._blocks(view, pick, limit))

    def _blocks(
        self, view: View, pick: Callable[[View], Iterator[RowsOf]], limit: int | None
    ) -> Iterator[Iterator[StoredEvent]]:
        """Load the rows that *pick* finds in *view* block by block."""

        def load(shown: View, given: int) -> Iterator[tuple[int, Iterator[StoredEvent]]]:
            blocks = _in_blocks(pick(shown), given, limit)
            return ((len(rows), self._load_rows(part, rows)) for part, rows in blocks)

        return self._going_on(view, load)

    def _events(self, records: Iterator[Record]) -> Iterator[StoredEvent]:
        """Load *records* block by block."""
        size = FIRST_BLOCK
        while block := list(islice(records, size)):
            yield from self.load_records(block)
            size = READ_AHEAD

    def _ask_view(self, answer: Callable[[View], T]) -> T:
        """Answer from the current view; a damaged index file is rebuilt first."""
        for _ in range(MAX_REBUILDS):
            try:
                return answer(self._view())
            except BadBlockError as error:
                self._rebuild(error)
        raise damaged_again()

    def _rebuild(self, error: BadBlockError) -> None:
        """Have the index rebuild the run in which *error* found a damaged block."""
        if not isinstance(error.run, Run):
            raise CorruptStoreError("index", None, str(error), "a run that is in use") from error
        try:
            self._index.ask(Replace(error.run))
        finally:
            self._leave()

    def selected(self, view: View, select: Callable[[View], Iterator[Record]]) -> Iterator[Record]:
        """Yield what *select* finds in *view*."""
        return self._going_on(view, lambda shown, given: zip(repeat(1), islice(select(shown), given, None)))

    def _going_on(self, view: View, find: Callable[[View, int], Iterator[tuple[int, T]]]) -> Iterator[T]:
        """Yield what *find* finds in *view*, behind so many, each with how many it counts for.

        Where a file of the index turns out damaged, go on in a rebuilt view, behind what has been given.
        """
        last_sequence, given, rebuilt = view.last_sequence(), 0, False
        for _ in range(MAX_REBUILDS):
            try:
                shown = _cut(self._view(), last_sequence) if rebuilt else view
                for count, found in find(shown, given):
                    given += count
                    yield found
            except BadBlockError as error:
                self._rebuild(error)
                rebuilt = True
            else:
                return
        raise damaged_again()

    def _after(self, after: int | Place | None) -> int | None:
        """Return the global sequence that *after* means; a place is compared with what stands there now."""
        if after is None:
            return None
        if isinstance(after, Place):
            records = self._ask_view(lambda view: view.at(after.global_sequence))
            found = [event.place for event in self.load_records(records)]
            if after not in found:
                raise StalePlaceError(after, found[0] if found else None)
            return after.global_sequence
        if isinstance(after, bool) or not isinstance(after, int):
            raise InvalidRequestError(f"after: found {type(after).__name__}, expected int or Place")
        return after


def _in_blocks(picked: Iterator[RowsOf], given: int, limit: int | None) -> Iterator[tuple[Part, list[int]]]:
    """Yield rows of one part at a time, at most *limit* in all, without the first *given* ones, which count.

    Few at first, unless it is known how many are wanted.
    """
    size = FIRST_BLOCK if limit is None else READ_AHEAD
    skip = given
    for part, rows in picked:
        while block := list(islice(rows, size if limit is None else min(size, limit))):
            if limit is not None:
                limit -= len(block)
            fresh = block[skip:]
            skip -= len(block) - len(fresh)
            if fresh:
                yield part, fresh
            size = READ_AHEAD


def damaged_again() -> CorruptStoreError:
    """Return the refusal of an index that one call has rebuilt as often as it may."""
    return CorruptStoreError("index", None, "index files that are damaged again and again", "one rebuild to help")


def _cut(view: View, last_sequence: int) -> View:
    """Return *view* without the events behind *last_sequence*."""
    parts = tuple(part for part in view.parts if view.rows(part) and part.first_sequence <= last_sequence)
    if not parts:
        return View(view.parts[:1], 0)
    return View(parts, parts[-1].row_of_sequence(last_sequence, view.rows(parts[-1])))


def _check_stream(entity: str, after_sequence: int | None) -> None:
    """Refuse what is no entity, and what is no sequence of one."""
    check_entity(entity)
    if after_sequence is not None and (type(after_sequence) is not int or after_sequence < NO_STREAM):
        raise InvalidRequestError(f"after_sequence: found {after_sequence!r}, expected NO_STREAM or an int from 0")


def _limit(limit: int | None) -> int | None:
    """Check a limit."""
    return None if limit is None else check_count("limit", limit)


def require(name: str, found: object, expected: type) -> None:
    """Refuse what is of another type: None would mean everything, and a string is meant as a region often enough."""
    if not isinstance(found, expected):
        raise InvalidRequestError(f"{name}: found {type(found).__name__}, expected {expected.__name__}")
