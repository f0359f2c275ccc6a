"""The reader: loads frames from segments and checks them; it owns what it keeps open."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from batpak.actors.actor import Actor
from batpak.actors.messages import Load, ReaderCommand
from batpak.errors import ActorFailedError, StorageError

if TYPE_CHECKING:
    from batpak.storage.pool import SegmentPool


class Reader(Actor[ReaderCommand]):
    """Load checked frames; a damaged one is a `CorruptStoreError` that names segment and offset."""

    name = "reader"

    def __init__(self, pool: SegmentPool) -> None:
        """Read through *pool*."""
        super().__init__()
        self._pool = pool
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

    def close(self) -> None:
        """Close what is open."""
        self._pool.close()

    def _load(self, command: Load) -> list[bytes]:
        """Return the bodies of the frames asked for."""
        try:
            return self._pool.load(command.places)
        except OSError as error:
            raise StorageError("read", "a segment", error.errno) from error
