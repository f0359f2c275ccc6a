"""The segments of one store, by id: what their headers and footers say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batpak.storage import format1

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batpak.storage.segment import SegmentMeta


class Catalog:
    """All segments; changed by the writer, looked at by everybody, so it is replaced and never edited."""

    __slots__ = ("_metas", "has_format_1", "store_id")

    def __init__(self, store_id: bytes, metas: Iterable[SegmentMeta]) -> None:
        """List *metas* of the store *store_id*."""
        self.store_id = store_id
        self._metas = {meta.segment: meta for meta in metas}
        self.has_format_1 = any(meta.version == format1.VERSION for meta in self._metas.values())
        """Whether any event may share its global sequence with another."""

    def meta(self, segment: int) -> SegmentMeta:
        """Return one segment."""
        return self._metas[segment]

    def metas(self) -> list[SegmentMeta]:
        """Return all segments, ascending."""
        metas = self._metas
        return [metas[segment] for segment in sorted(metas)]

    def next_segment(self) -> int:
        """Return the id of the segment after the last."""
        return max(self._metas, default=0) + 1

    def add(self, meta: SegmentMeta) -> None:
        """List *meta*, in the place of what was known of its segment."""
        self._metas = self._metas | {meta.segment: meta}
        self.has_format_1 = self.has_format_1 or meta.version == format1.VERSION
