"""Named places: how far named cursors and workers have come, kept beside the journal and never ahead of it.

A place is saved after everything that was written before is durable: neither it, nor what its consumer wrote in
answer, can be lost behind it. Saving takes one shared fsync at most; the place itself is synced only now and then, so a
power cut may bring back an earlier place, from which events are delivered again: one of the last `PLACES_A_SYNC`.
"""

from __future__ import annotations

from contextlib import suppress
from threading import RLock
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from weakref import ref

from batpak.actors.announcer import PLACE, Interest
from batpak.errors import (
    CorruptStoreError,
    InvalidRequestError,
    PlaceConflictError,
    StorageError,
    UnsupportedFormatError,
)
from batpak.log import DEBUG, INFO
from batpak.receipt import Place
from batpak.region import Region
from batpak.reports import NamedPlace
from batpak.request import check_name
from batpak.storage import original_cursor, place_file
from batpak.storage.seam import TEMPORARY_PREFIX

if TYPE_CHECKING:
    from batpak.delivering import Delivering
    from batpak.storage.place_file import PlaceHead, PlaceSlot
    from batpak.storage.seam import WriteFile

Start: TypeAlias = "int | Place | Literal['beginning', 'end']"
"""Where a new cursor begins: behind a global sequence or a place, with the first event, or with the next one."""


PLACES_A_SYNC: Final = 64
"""A place is on disk after so many newer ones at the latest: bounds what is delivered again after a power cut."""


class HeldPlace:
    """A named place while a cursor or a worker holds it."""

    __slots__ = (
        "_book",
        "_count",
        "_crc",
        "_durable",
        "_file",
        "_leaving",
        "_newest",
        "_savers",
        "_saving",
        "_since",
        "name",
        "place",
        "region",
    )

    def __init__(self, book: PlaceBook, name: str, region: Region) -> None:
        """Stand for *name* and whoever delivers *region*; `PlaceBook.hold` is what makes it hold."""
        self._book = book
        self._file: WriteFile | None = None
        self._count = 0
        self._crc = 0
        self._durable = self._newest = place_file.FIRST_SLOT
        self._since = 0
        self._saving = RLock()
        self._savers = 0
        self._leaving = False
        self.name = check_name(name)
        self.region = region
        self.place: Place | None = None

    def open(self, file: WriteFile, head: PlaceHead, slot: PlaceSlot, *, is_new: bool) -> None:
        """Go on with what stands in *file*; of one that *is_new* it is known to be on disk."""
        self._file = file
        self._newest = self._durable = slot.number
        self._since = 0 if is_new else PLACES_A_SYNC
        self._crc = head.crc
        self._count = slot.count
        self.place = slot.place

    def save(self, place: Place) -> None:
        """Make what was written before durable, then write *place*; a failure leaves the one before.

        One that is not ahead of what stands there is passed over: somebody was cancelled while a later one was saved.
        """
        with self._saving:
            self._savers += 1
            try:
                if self.place is None or place.global_sequence > self.place.global_sequence:
                    self._save(place)
            finally:
                self._savers -= 1
                if self._leaving:
                    self.let_go()

    def _save(self, place: Place) -> None:
        """Write *place*."""
        store = self._book.store
        store._cover_everything()
        slot = place_file.encode_slot(self._crc, self._count + 1, place)
        file = self._file
        if file is None or self._leaving:
            store._view()  # what has let go may be the store itself
            raise InvalidRequestError(f"place {self.name!r}: found a holder that has let go, expected one that holds")
        try:
            if self._since >= PLACES_A_SYNC:
                file.sync_data()
                self._durable, self._since = self._newest, 0
            number = place_file.free_slot(self._durable, self._newest)
            written = file.pwrite(slot, place_file.SLOTS[number])
        except OSError as error:
            raise StorageError("write", place_file.file_name(self.name), error.errno) from error
        if written != len(slot):
            raise StorageError("write", place_file.file_name(self.name), None)
        self._count += 1
        self._newest = number
        self._since += 1
        self.place = place
        store._announcer.tell(Interest(PLACE, self.name))
        if store._log.passes(DEBUG):
            store._log.emit(DEBUG, "cursor.committed", name=self.name, global_sequence=place.global_sequence)

    def let_go(self) -> None:
        """Hold it no more; whoever is saving it lets go of it after that. Idempotent."""
        self._leaving = True
        if self._savers:  # a number that is closed under a write may be another file's by then
            return
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()
        self._book.forget(self)


class PlaceBook:
    """The named places of one store."""

    def __init__(self, store: Delivering) -> None:
        """Keep the places of *store*."""
        # Not strongly: a store that nobody refers to any more closes itself, and at once.
        self._store = ref(store)
        self._held: dict[str, HeldPlace] = {}

    @property
    def store(self) -> Delivering:
        """The store whose places these are; whoever asks holds it."""
        store = self._store()
        assert store is not None, "places are asked for by a store or a cursor of its"
        return store

    # For cursors and workers -------------------------------------------------------------------------------------

    def hold(self, held: HeldPlace, start: Start) -> None:
        """Have *held* hold its place; a new one begins at *start*, whose file is on disk when this returns.

        The caller made *held* before, and lets go of it whatever happens: an interrupt comes between any two steps.
        Raises `PlaceConflictError` where somebody holds it, or where it is of another region or another store,
        `CorruptStoreError` where its file is damaged, `StalePlaceError` where another event stands there now.
        """
        self._claim(held)
        try:
            self._open(held, start)
        except OSError as error:
            self.store._view()  # which another thread may have closed meanwhile
            raise StorageError("open", place_file.file_name(held.name), error.errno) from error

    def forget(self, held: HeldPlace) -> None:
        """Let others hold what *held* held."""
        if self._held.get(held.name) is held:
            del self._held[held.name]

    def close(self) -> None:
        """Let go of every file."""
        for held in list(self._held.values()):
            held.let_go()

    # For whoever asks --------------------------------------------------------------------------------------------

    def where(self, name: str) -> tuple[Region, Place | None]:
        """Return the region and the place of a name; `InvalidRequestError` where there is none of that name."""
        held = self._held.get(check_name(name))
        if held is not None and held._file is not None:
            return held.region, held.place
        found = self._read(place_file.file_name(name))
        if found is None:
            raise InvalidRequestError(f"name: found no place {name!r}, expected one that places() lists")
        head, slot = found
        return head.region, slot.place

    def all(self) -> list[NamedPlace]:
        """Return every named place, by name; those that cannot be read come first and say why."""
        return sorted(map(self._report, self._files()), key=lambda place: (place.name is not None, place.name or ""))

    def reset(self, name: str, place: Place | None) -> None:
        """Move a place that nobody holds."""
        region, _ = self.where(name)
        held = HeldPlace(self, name, region)
        try:
            self.hold(held, "beginning")
            self._create(name, region, place)
        finally:
            held.let_go()
        self.store._announcer.tell(Interest(PLACE, name))

    def delete(self, name: str) -> bool:
        """Remove a place that nobody holds; whether there was one."""
        held = HeldPlace(self, name, Region())
        files = self.store._files
        file = place_file.file_name(name)
        try:
            self._claim(held)
            removed = files.exists(file) and files.remove(file)
            if removed:
                files.sync_folder(place_file.FOLDER)
        except OSError as error:
            raise StorageError("remove", file, error.errno) from error
        finally:
            held.let_go()
        return removed

    # Files -------------------------------------------------------------------------------------------------------

    def _claim(self, held: HeldPlace) -> None:
        """Give the name to *held*, and to nobody else."""
        if self._held.setdefault(held.name, held) is not held:
            raise PlaceConflictError(held.name, "another cursor or worker that holds it", "none, or one that is closed")

    def _open(self, held: HeldPlace, start: Start) -> None:
        """Find the place of *held*, or make it."""
        store, name, region = self.store, held.name, held.region
        file = place_file.file_name(name)
        found = self._read(file)
        is_new = found is None
        if found is None:
            imported, place = self._import(name, region)
            self._create(name, region, place if imported else store._start_place(start))
            found = self._read(file)
            assert found is not None, "it has just been made"
        head, slot = found
        if head.store_id != store._catalog.store_id:
            raise PlaceConflictError(name, f"the place of store {head.store_id.hex()}", "one of this store")
        if head.name != name or head.region != region:
            raise PlaceConflictError(name, f"the place of {head.name!r} in {head.region}", f"one in {region}")
        if slot.place is not None:
            store._after(slot.place)
        held.open(store._files.open_write(file), head, slot, is_new=is_new)

    def _create(self, name: str, region: Region, place: Place | None) -> None:
        """Write a whole file, durably, once the journal is, and the identity that the file names."""
        files = self.store._files
        whole, _ = place_file.encode(self.store._catalog.store_id, name, region, place)
        file = place_file.file_name(name)
        try:
            self.store._keep_identity()
            files.make_folder(place_file.FOLDER)
            files.sync_folder()
            files.write_atomic(file, whole)
        except OSError as error:
            self.store._view()  # which another thread may have closed meanwhile
            raise StorageError("create", file, error.errno) from error

    def _read(self, file: str) -> tuple[PlaceHead, PlaceSlot] | None:
        """Return what stands in *file*; None where it is not there."""
        try:
            return place_file.decode(file, self.store._files.read_bytes(file, place_file.MAX_BYTES))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError("read", file, error.errno) from error

    def _files(self) -> list[str]:
        """Return the files of all places."""
        try:
            names = self.store._files.list(place_file.FOLDER)
        except OSError as error:
            raise StorageError("list", place_file.FOLDER, error.errno) from error
        return [
            f"{place_file.FOLDER}/{name}"
            for name in names
            if name.endswith(place_file.SUFFIX) and not name.startswith(TEMPORARY_PREFIX)
        ]

    def _import(self, name: str, region: Region) -> tuple[bool, Place | None]:
        """Return whether the original left a checkpoint of that name, and the place that it means."""
        # The name is compared with what is there; no path is made of it.
        wanted = name + original_cursor.SUFFIX
        if wanted not in self.store._files.list(place_file.FOLDER):
            return False, None
        file = f"{place_file.FOLDER}/{wanted}"
        checkpoint = original_cursor.decode(file, self.store._files.read_bytes(file, original_cursor.MAX_BYTES))
        if checkpoint.region_identity not in original_cursor.identities(region):
            raise PlaceConflictError(
                name, f"a checkpoint of the region {checkpoint.region_identity!r}", f"one of {region}"
            )
        last = self.store._view().last_sequence()
        if checkpoint.position is not None and checkpoint.position > last:
            raise CorruptStoreError(file, None, f"position {checkpoint.position}", f"at most {last}, the newest event")
        place = None if checkpoint.position is None else self.store._place_behind(checkpoint.position)
        self.store._log.emit(INFO, "cursor.imported", name=name, position=checkpoint.position)
        return True, place

    def _report(self, file: str) -> NamedPlace:
        """Return what is known of the place in *file*, with its lag."""
        try:
            found = self._read(file)
            if found is None:
                return NamedPlace(None, None, None, 0, 0.0, file, "the file has just been removed")
            head, slot = found
            if head.store_id != self.store._catalog.store_id:
                return NamedPlace(head.name, head.region, None, 0, 0.0, file, "the file belongs to another store")
        except (CorruptStoreError, StorageError, UnsupportedFormatError) as error:
            return NamedPlace(None, None, None, 0, 0.0, file, str(error))
        events, seconds = self.store._lag(head.region, slot.place)
        return NamedPlace(head.name, head.region, slot.place, events, seconds, file, None)
