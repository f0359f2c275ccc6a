"""The events of a region from a point of the journal on, in blocks, as far as they are visible."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from batpak.actors.announcer import MORE_DURABLE, interest_in
from batpak.event import Notification
from batpak.storage.filter import lies_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batpak.actors.announcer import Interest
    from batpak.event import StoredEvent
    from batpak.reading import Reading
    from batpak.region import Region
    from batpak.storage.row import Record
    from batpak.storage.view import View

BLOCK: Final = 256
"""How many events are taken at a time."""
NEWS: Final = 32
"""So many rows of the tail are quicker looked at one by one than looked up."""


class _Look(NamedTuple):
    """What a look has found in *view*, up to global sequence *last*: all of it, or as much as was asked for."""

    found: list[Record]
    view: View
    last: int
    whole: bool


class Feed:
    """What lies in a region behind *looked*, the global sequence up to which this has looked.

    With *durable* it ends at the durable position. *interests* are what announces more.
    """

    __slots__ = ("_durable", "_row", "_seen", "interests", "looked", "region", "store")

    def __init__(self, store: Reading, region: Region, looked: int, *, durable: bool = False) -> None:
        """Begin behind *looked*."""
        self.store = store
        self.region = region
        self.looked = looked
        self._durable = durable
        # Behind the last look that found everything: the view that it looked at, and the rows of its tail. A moment's
        # news are the rows that this tail has got since.
        self._seen: View | None = None
        self._row = 0
        self.interests: Sequence[Interest] = (MORE_DURABLE,) if durable else (interest_in(region),)

    def events(self, limit: int) -> list[StoredEvent]:
        """Return the next events and look past them: *limit*, or a few more that share the last one's sequence.

        A frame that cannot be read leaves this where it was.
        """
        look = self._look(limit)
        events = self.store.load_records(look.found) if look.found else []
        self._past(look.view, look.last, look.view if look.whole else None)
        return events

    def news(self, most: int) -> list[Notification] | None:
        """Return the facts of what has come since the last look, if that is in memory and at most *most* events.

        None means to look for it; this is the short way for those who wait.
        """
        view = self.store._view()
        found = self._rows_since(view, most)
        if found is None:
            return None
        self._past(view, max(self.looked, view.last_sequence()), view)
        return [Notification(record, record.event_hash) for record in found]

    def notifications(self, limit: int) -> list[Notification]:
        """Return the facts of the next events, as `events` does."""
        look = self._look(limit)
        notifications = self.store._notifications(look.found) if look.found else []
        self._past(look.view, look.last, look.view if look.whole else None)
        return notifications

    def go_back(self, looked: int) -> None:
        """Deliver again what lies behind *looked*."""
        self.looked = looked
        self._seen = None

    def is_current(self) -> bool:
        """Whether nothing has become visible since the last look."""
        return not self._durable and self._seen is self.store._view()

    def exceeds(self, capacity: int) -> bool:
        """Whether more than *capacity* events lie behind."""
        if self.is_current():
            return False
        view = self._view()
        if view.last_sequence() - self.looked <= capacity:
            return False  # whatever they are: what we append has a sequence of its own
        more = islice(self.store.selected(view, lambda view: self._select(view, None)), capacity, None)
        return next(more, None) is not None

    def is_hot(self, most: int, most_bytes: int | None = None) -> bool:
        """Whether at most *most* events lie behind, all of them in memory: no disk is waited for to look at them.

        With *most_bytes*, whether their frames are no longer than that together, either.
        """
        view = self.store._view()
        tail = view.parts[-1]
        behind = view.last_sequence() - self.looked
        if behind > most or (behind > 0 and tail.first_sequence > self.looked + 1):
            return False
        if most_bytes is None:
            return True
        rows = range(max(0, view.bound - behind), view.bound)
        return sum(tail.record(row).length for row in rows) <= most_bytes

    def _look(self, limit: int) -> _Look:
        """Look at the next rows; this stays where it is."""
        view = self._view()
        news = self._rows_since(view, min(limit, NEWS))
        if news is not None:
            return _Look(news, view, max(self.looked, view.last_sequence()), whole=True)
        last = view.last_sequence()
        if last <= self.looked:
            return _Look([], view, self.looked, whole=True)
        found = list(self.store.selected(view, lambda view: self._select(view, limit)))
        whole = len(found) < limit
        return _Look(found, view, last if whole else found[-1].global_sequence, whole=whole)

    def _rows_since(self, view: View, most: int) -> list[Record] | None:
        """Return what the tail has got since the last look; None where that does not tell, or is more than *most*."""
        seen = self._seen
        if seen is None or view.parts[-1] is not seen.parts[-1] or not 0 <= view.bound - self._row <= most:
            return None
        tail, looked, region = view.parts[-1], self.looked, self.region
        found = []
        for row in range(self._row, view.bound):  # no comprehension: one row is what there is most often
            record = tail.record(row)
            if record.global_sequence > looked and lies_in(record, region):
                found.append(record)
        return found

    def _past(self, view: View, last: int, seen: View | None) -> None:
        """Go on behind global sequence *last* of *view*; *seen* is the view where that was all of it."""
        self.looked = last
        self._seen = seen
        self._row = view.bound

    def _select(self, view: View, limit: int | None) -> Iterator[Record]:
        """Yield what lies behind in *view*."""
        return view.select(self.region, self.looked, limit)

    def _view(self) -> View:
        """Return what may be delivered by now."""
        return self.store._durable_view() if self._durable else self.store._view()
