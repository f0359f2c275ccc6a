"""The reader: loads frames from segments and checks them; it owns what it keeps open."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from batpak.actors.actor import Actor
from batpak.actors.messages import Load, ReaderCommand
from batpak.errors import ActorFailedError, StorageError
from batpak.storage.mapped import SegmentMaps

if TYPE_CHECKING:
    from batpak.storage.pool import SegmentPool


class Reader(Actor[ReaderCommand]):
    """Load checked frames; a damaged one is a `CorruptStoreError` that names segment and offset."""

    name = "reader"

    def __init__(self, pool: SegmentPool, *, sealed_only: bool) -> None:
        """Read through *pool*; *sealed_only* where somebody else may cut what is not sealed."""
        super().__init__()
        self._pool = pool
        self._sealed_only = sealed_only
        self.maps = SegmentMaps()
        """What has been read from before: whoever reads looks here first, and asks for the rest."""
        self._failed: BaseException | None = None

    def handle(self, command: ReaderCommand) -> object:
        """Run one command."""
        if self._failed is not None:
            raise ActorFailedError(self.name, type(self._failed).__name__) from self._failed
        match command:
            case Load():
                return self._load(command)
            case _:
                assert_never(command)

    def give_up(self, error: BaseException) -> None:
        """Refuse everything from now on."""
        self._failed = error
        self.maps.clear()

    def close(self) -> None:
        """Close what is open."""
        self.maps.clear()
        self._pool.close()

    def _load(self, command: Load) -> list[bytes]:
        """Return the bodies of the frames asked for."""
        try:
            bodies = self._pool.load(command.places)
            self._pool.show(self.maps, {place[0] for place in command.places}, sealed_only=self._sealed_only)
            return bodies
        except OSError as error:
            raise StorageError("read", "a segment", error.errno) from error
