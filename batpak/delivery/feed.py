"""The events of a region from a point of the journal on, in blocks, as far as they are visible."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from batpak.actors.announcer import MORE_DURABLE, interest_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batpak.actors.announcer import Interest
    from batpak.event import Notification, StoredEvent
    from batpak.reading import Reading
    from batpak.region import Region
    from batpak.storage.row import Record
    from batpak.storage.view import View

BLOCK: Final = 256
"""How many events are taken at a time."""


class Feed:
    """What lies in a region behind *looked*, the global sequence up to which this has looked.

    With *durable* it ends at the durable position. *interests* are what announces more.
    """

    __slots__ = ("_durable", "interests", "looked", "region", "store")

    def __init__(self, store: Reading, region: Region, looked: int, *, durable: bool = False) -> None:
        """Begin behind *looked*."""
        self.store = store
        self.region = region
        self.looked = looked
        self._durable = durable
        self.interests: Sequence[Interest] = (MORE_DURABLE,) if durable else (interest_in(region),)

    def records(self, limit: int) -> list[Record]:
        """Return the next rows and look past them: *limit*, or a few more that share the last one's sequence."""
        found, looked = self._look(limit)
        self.looked = looked
        return found

    def events(self, limit: int) -> list[StoredEvent]:
        """Return the next events, as `records`; a frame that cannot be read leaves this where it was."""
        found, looked = self._look(limit)
        events = self.store.load_records(found) if found else []
        self.looked = looked
        return events

    def notifications(self, limit: int) -> list[Notification]:
        """Return the facts of the next events, as `records`."""
        found, looked = self._look(limit)
        notifications = self.store._notifications(found) if found else []
        self.looked = looked
        return notifications

    def exceeds(self, capacity: int) -> bool:
        """Whether more than *capacity* events lie behind."""
        view = self._view()
        if view.last_sequence() - self.looked <= capacity:
            return False  # whatever they are: what we append has a sequence of its own
        more = islice(self.store.selected(view, lambda view: self._select(view, None)), capacity, None)
        return next(more, None) is not None

    def is_hot(self, most: int) -> bool:
        """Whether at most *most* events lie behind, all of them in memory: no disk is waited for to look at them."""
        view = self.store._view()
        tail = view.parts[-1]
        behind = view.last_sequence() - self.looked
        return behind <= most and (not behind or tail.first_sequence <= self.looked + 1)

    def _look(self, limit: int) -> tuple[list[Record], int]:
        """Return the next rows and how far that has looked."""
        view = self._view()
        last = view.last_sequence()
        if last <= self.looked:
            return [], self.looked
        found = list(self.store.selected(view, lambda view: self._select(view, limit)))
        return found, last if len(found) < limit else found[-1].global_sequence

    def _select(self, view: View, limit: int | None) -> Iterator[Record]:
        """Yield what lies behind in *view*."""
        return view.select(self.region, self.looked, limit)

    def _view(self) -> View:
        """Return what may be delivered by now."""
        return self.store._durable_view() if self._durable else self.store._view()
