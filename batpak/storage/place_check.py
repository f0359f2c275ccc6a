"""Named places compared with the events that stand at their sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batpak.errors import CorruptStoreError, UnsupportedFormatError
from batpak.storage import original_cursor, place_file
from batpak.storage.seam import TEMPORARY_PREFIX

if TYPE_CHECKING:
    from batpak.storage.files import Files
    from batpak.storage.place_file import PlaceHead


@dataclass(slots=True)
class PlaceCheck:
    """The places of a store; *count* of them. Those that an event was found for are forgotten.

    What is left when all events have been taken in is *ahead* of the journal, or names another event.
    """

    count: int = 0
    unreadable: list[CorruptStoreError | UnsupportedFormatError] = field(default_factory=list)
    _heads: dict[str, PlaceHead] = field(default_factory=dict)
    _wanted: dict[int, dict[str, bytes]] = field(default_factory=dict)
    _originals: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Files) -> PlaceCheck:
        """Read the places in *files*."""
        check = cls()
        for leaf in files.list(place_file.FOLDER):
            if not leaf.startswith(TEMPORARY_PREFIX):
                try:
                    check._read(files, f"{place_file.FOLDER}/{leaf}")
                except FileNotFoundError:  # deleted just now
                    continue
                except (CorruptStoreError, UnsupportedFormatError) as error:
                    check.unreadable.append(error)
        return check

    def take(self, global_sequence: int, event_hash: bytes) -> None:
        """Take in one event."""
        wanted = self._wanted.get(global_sequence)
        if wanted:
            for file in [file for file, known in wanted.items() if known == event_hash]:
                del wanted[file]

    def left(self) -> dict[str, str]:
        """Return the files whose event was not found, and the names of their places."""
        return {file: self._heads[file].name for wanted in self._wanted.values() for file in wanted}

    def left_by_the_original(self, next_sequence: int) -> list[str]:
        """Return the files of the original that speak of an event at *next_sequence* or behind."""
        return [file for file, position in self._originals.items() if position >= next_sequence]

    def highest(self) -> int:
        """Return the highest sequence that a place of ours speaks of; -1 for none."""
        return max((sequence for sequence, wanted in self._wanted.items() if wanted), default=-1)

    def damage(self, store_id: bytes, next_sequence: int) -> CorruptStoreError | None:
        """Return what is wrong with the first place that something is wrong with."""
        provable = "the journal: reset_place or delete_place starts over"
        for error in self.unreadable:
            if isinstance(error, CorruptStoreError):
                return error
        for file, head in sorted(self._heads.items()):
            if head.store_id != store_id:
                return CorruptStoreError(
                    file, 8, f"the place {head.name!r} of another store", "one of this store", provable
                )
        for sequence, wanted in sorted(self._wanted.items()):
            for file in sorted(wanted):
                there = "no event" if sequence >= next_sequence else "another event"
                return CorruptStoreError(
                    file,
                    None,
                    f"the place {self._heads[file].name!r} at global sequence {sequence}, where {there} stands",
                    "the event that it names",
                    provable,
                )
        return None

    def _read(self, files: Files, file: str) -> None:
        """Take in one file."""
        if file.endswith(original_cursor.SUFFIX):
            position = original_cursor.decode(file, files.read_bytes(file, original_cursor.MAX_BYTES)).position
            self._originals[file] = -1 if position is None else position
        elif file.endswith(place_file.SUFFIX):
            self.count += 1
            head, slot = place_file.decode(file, files.read_bytes(file, place_file.MAX_BYTES))
            self._heads[file] = head
            if slot.place is not None:
                self._wanted.setdefault(slot.place.global_sequence, {})[file] = slot.place.event_hash
