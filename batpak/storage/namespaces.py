"""Which namespaces of a run need postings of their own, found in one pass over its sorted entities.

A namespace is what stands before a colon of an entity. Entities that begin with a namespace and its colon are
neighbours in sorted order, so a namespace is a stretch of ranks; one with a single entity is served by that entity's
postings. A stretch that begins earlier, or with the same entity and is shorter in name, encloses the later one.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from batpak.storage.filter import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Open:
    """A namespace that the last entity lies in; *prefix* is its name with the colon."""

    __slots__ = ("first", "index", "prefix")

    def __init__(self, prefix: bytes, first: int) -> None:
        self.prefix = prefix
        self.first = first
        self.index = -1


class Namespaces:
    """The namespaces of at least two entities, in the order of their names; five columns."""

    __slots__ = ("_open", "_rank", "depths", "ends", "firsts", "lengths")

    def __init__(self) -> None:
        """Start before the first entity."""
        self.firsts = array("I")
        self.ends = array("I")
        self.lengths = array("I")
        """Of the name in bytes, its colon included."""
        self.depths = array("B")
        self._open: list[_Open] = []
        self._rank = 0

    def __len__(self) -> int:
        return len(self.firsts)

    def add(self, name: bytes) -> None:
        """Take the next entity in sorted order."""
        still_open = self._open
        for depth, namespace in enumerate(still_open):
            if not name.startswith(namespace.prefix):
                self._close(depth)
                break
            if namespace.index < 0:
                self._keep(depth, namespace)
        at = name.find(b":", len(still_open[-1].prefix) if still_open else 0)
        while at >= 0 and len(still_open) < MAX_DEPTH:
            still_open.append(_Open(name[: at + 1], self._rank))
            at = name.find(b":", at + 1)
        self._rank += 1

    def add_all(self, names: Sequence[bytes], text: bytes) -> None:
        """Take the next entities in sorted order; *text* is their names one behind another."""
        deepest = self._open[-1] if self._open else None
        if (
            deepest is not None
            and deepest.index >= 0
            and names[0].startswith(deepest.prefix)
            and names[-1].startswith(deepest.prefix)  # and so do those in between
            and text.count(b":") == len(names) * deepest.prefix.count(b":")
        ):
            self._rank += len(names)
            return
        for name in names:
            self.add(name)

    def finish(self) -> None:
        """Take note that there is no further entity."""
        self._close(0)

    def _keep(self, depth: int, namespace: _Open) -> None:
        """Give a namespace its place: it has a second entity."""
        namespace.index = len(self.firsts)
        self.firsts.append(namespace.first)
        self.ends.append(0)
        self.lengths.append(len(namespace.prefix))
        self.depths.append(depth)

    def _close(self, depth: int) -> None:
        """Say of the namespaces from *depth* on where they end."""
        for namespace in self._open[depth:]:
            if namespace.index >= 0:
                self.ends[namespace.index] = self._rank
        del self._open[depth:]
