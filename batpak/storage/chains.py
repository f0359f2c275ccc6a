"""Whether chains go on behind bytes that were passed over.

The original never cuts a torn end, so it may stand in a segment that is not the last. If an event was lost with it,
the next one of its chain links to something that is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batpak.storage.format2 import GENESIS

if TYPE_CHECKING:
    from batpak.storage.frame import Frame


class Chains:
    """The newest hash of each chain; *torn* names the segment whose torn end was passed over last."""

    __slots__ = ("_begun", "_by_entity", "_by_lane", "torn")

    def __init__(self, *, begun: bool) -> None:
        """Start with no chain known; *begun* says that there were events before."""
        self._begun = begun
        self._by_lane: dict[tuple[str, int], bytes] = {}
        self._by_entity: dict[str, bytes] = {}
        self.torn: str | None = None

    def follows(self, frame: Frame) -> bool:
        """Take the next event; whether its predecessor is known, which is asked behind a torn end only.

        Releases before 0.9 chained an entity across lanes, and began anew behind a cancelled fence (hazard H22).
        """
        lane = (frame.entity, frame.lane)
        known = self._by_lane.get(lane), self._by_entity.get(frame.entity)
        self._by_lane[lane] = self._by_entity[frame.entity] = frame.event_hash
        if self.torn is None or frame.prev_hash in known:
            return True
        if frame.prev_hash == GENESIS:
            return not frame.sequence
        return self._begun and known == (None, None)
