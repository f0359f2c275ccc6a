"""Damage to a directory, and what must come out of opening it: the right answer or a typed error.

What was durable is never dropped. Where less is shown than was written, that was not durable, and a writable open has a
copy of it in ``quarantine/`` and says so. What can be rebuilt is rebuilt. A read-only open changes nothing, a refused
one changes nothing either, and opening once more gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from random import Random
from typing import Literal

from blake3 import blake3

from batpak import BatpakError, CorruptStoreError, Store
from batpak.storage import watermark
from batpak.testing.memory import MemoryFiles, MemoryReadFile
from tests.directories import Content, shown
from tests.faults.images import PLACES, Image, Opened, ask_all, ask_places, laid_out, open_image, place_of, whole

Outcome = Literal["right", "shorter", "in part", "refused"]
"""All of it; all but an end that was not durable; all but what lies in a damaged frame; nothing."""

SECTOR = 512
UNCHECKED = (".batpak.lock", ".batpak.owner")


def rebuildable(name: str) -> bool:
    """Whether a file can be made again, or is a copy that nobody reads."""
    return name == watermark.NAME or name.startswith((".batpak", "index/", "quarantine/"))


def flipped_at(data: bytes, bit: int) -> bytes:
    """Return *data* with one bit changed."""
    at = bit >> 3
    return data[:at] + bytes([data[at] ^ 1 << (bit & 7)]) + data[at + 1 :]


def overwritten(data: bytes, random: Random, how: str) -> bytes:
    """Return *data* with a short run of bytes overwritten, or one sector zeroed, or two sectors exchanged."""
    size = max(1, min(len(data), len(data.rstrip(b"\0")) + 64))
    if how == "sector of zeros":
        start = random.randrange(-(-size // SECTOR)) * SECTOR
        return data[:start] + bytes(len(data[start : start + SECTOR])) + data[start + SECTOR :]
    if how == "sectors exchanged":
        sectors = [data[at : at + SECTOR] for at in range(0, len(data), SECTOR)]
        one, other = random.randrange(-(-size // SECTOR)), random.randrange(-(-size // SECTOR))
        if len(sectors[one]) == len(sectors[other]):
            sectors[one], sectors[other] = sectors[other], sectors[one]
        return b"".join(sectors)
    start = random.randrange(size)
    length = min(random.randrange(1, 65), len(data) - start)
    filling = {"zeros": bytes(length), "ones": b"\xff" * length}.get(how) or random.randbytes(length)
    return data[:start] + filling + data[start + length :]


OVERWRITING = ("zeros", "ones", "noise", "sector of zeros", "sectors exchanged")


def changed(before: Content, after: Content) -> list[str]:
    """Name the files in which two directories differ; the lock's are nobody's."""
    names = {*before, *after} - {*UNCHECKED}
    return sorted(name for name in names if before.get(name) != after.get(name))


def read_only(image: Image, held: Content) -> Outcome:
    """Open *held* read-only and ask everything; nothing may change."""
    files = laid_out(held)
    try:
        with open_image(files, writable=False) as store:
            count, refused = ask_all(store, image)
    except BatpakError:
        assert not files.journal
        return "refused"
    assert not files.journal
    return _outcome(image, count, refused)


def written_on_to(image: Image, held: Content, files: MemoryFiles | None = None) -> Outcome:
    """Open *held* for writing, ask everything, and open it once more; see the module."""
    files = files or laid_out(held)
    try:
        store = open_image(files, writable=True)
    except BatpakError:
        assert not changed(held, whole(files)), "a refused open has changed something"
        return "refused"
    damaged = any(name.endswith(".fbat") and held[name] != image.held.get(name) for name in held)
    try:
        assert isinstance(store, Store)
        count, refused = ask_all(store, image)
        if count < len(image.events):
            check_copies(store, held)
        check_places(store, image, held)
        if image.places:
            check_listed(store, image)
    finally:
        _close(store, damaged=damaged)
    after = whole(files)
    store = open_image(files, writable=True)
    try:
        assert isinstance(store, Store)
        assert store.stats().visible_sequence + 1 == count
        assert refused or shown(store) == image.events[:count]
        assert not store.diagnostics().open_report.quarantined
    finally:
        _close(store, damaged=damaged)
    assert set(changed(after, whole(files))) <= {watermark.NAME}, "two opens give the same bytes"
    if not refused:  # what lies in a damaged frame cannot be rebuilt
        check_rebuilt(image, held, after)
    return _outcome(image, count, refused)


def check_copies(store: Store, held: Content) -> None:
    """What was cut was told, and its copy holds what stood there."""
    report = store.diagnostics().open_report.quarantined
    if not report:
        written = store._system.writer.journal.written
        assert written.meta is not None, "something was cut from a segment that is sealed, and nothing is told of it"
        assert not held[written.meta.name][written.offset :].strip(b"\0"), (
            "something was cut, and nothing is told of it"
        )
    for each in report:
        data = store._files.read_bytes(each.file, 1 << 30)
        stood = held[f"{each.segment:06}.fbat"][each.offset :]
        assert data == stood.rstrip(b"\0")
        assert (len(data), blake3(data).hexdigest()) == (each.length, each.digest)


def check_places(store: Store, image: Image, held: Content) -> None:
    """A place is where it was, or refused; in a damaged file an earlier one of it may be believed."""
    for name, found in ask_places(store, image).items():
        if isinstance(found, BatpakError):
            continue
        damaged = {file for file in held if held[file] != image.held.get(file)}
        if any(place_of(image, file) == name for file in damaged):
            assert found in [None, *image.places[name]][-2:], "one of the two that stand in the file"
        else:
            assert found == image.places[name][-1]


def check_listed(store: Store, image: Image) -> None:
    """What `places` tells of a file is what stands there, or that it is damaged."""
    try:
        places = store.places()
    except BatpakError:  # they are counted in the index, which two damages may have taken
        return
    for listed in places:
        name = place_of(image, listed.file)
        assert name is not None
        if listed.damage is None:
            assert (listed.name, listed.region) == (name, PLACES[name])
            assert listed.place in [None, *image.places[name]]


def check_rebuilt(image: Image, held: Content, after: Content) -> None:
    """A damaged run is gone, and a damaged durable position is as good as new."""
    for name, data in held.items():
        if name.startswith("index/") and data != image.held.get(name, data):
            assert after.get(name) != data, f"{name} is still there"
    files = laid_out({watermark.NAME: after[watermark.NAME]})
    newest = watermark.read(files)
    assert newest is not None
    assert newest.sequence >= image.durable


def _outcome(image: Image, count: int, refused: list[str]) -> Outcome:
    if refused:
        return "in part"
    return "right" if count == len(image.events) else "shorter"


def alive(image: Image, name: str, edit: Callable[[bytes], bytes], *, writable: bool) -> Outcome:
    """Open, change a file under the open store, and ask everything."""
    files = LiveFiles.over(laid_out(image.held))
    store = open_image(files, writable=writable)
    try:
        holder = place_of(image, name)
        if holder is not None and isinstance(store, Store):
            _commit_over(store, files, name, holder, edit)
        else:
            change(files, name, edit)
        count, refused = ask_all(store, image)
    finally:
        _close(store, damaged=name.endswith(".fbat"))
    assert count == len(image.events)
    return _outcome(image, count, refused)


def change(files: MemoryFiles, name: str, edit: Callable[[bytes], bytes]) -> None:
    """Change a file under whoever has it open; its length stays, and so does what is mapped of it."""
    live = files._disk.names[name].visible
    live[:] = edit(bytes(live))


def _commit_over(store: Store, files: MemoryFiles, name: str, holder: str, edit: Callable[[bytes], bytes]) -> None:
    """Change a place while a cursor holds it, and commit; the next holder goes on there or behind, or is refused."""
    with store.cursor(PLACES[holder], name=holder) as cursor:
        before = cursor.committed
        cursor.poll_batch(1)
        change(files, name, edit)
        cursor.commit()
        committed = cursor.committed
    with suppress(BatpakError), store.cursor(PLACES[holder], name=holder) as cursor:
        assert cursor.committed in (before, committed)
    assert {place.file for place in store.places()} == set(files_of_places(files))


def files_of_places(files: MemoryFiles) -> list[str]:
    """Return the files of all named places."""
    return [f"cursors/{name}" for name in files.list("cursors")]


def _close(store: Opened, *, damaged: bool) -> None:
    """Close; a damaged segment cannot be sealed, and that may be told."""
    with suppress(CorruptStoreError) if damaged else nullcontext():
        store.close()


class LiveReadFile(MemoryReadFile):
    """A file whose map is the file."""

    def map(self) -> memoryview:
        """Return the whole file as it is, and as it will be."""
        return memoryview(self._content().visible).toreadonly()


class LiveFiles(MemoryFiles):
    """A directory in memory whose maps show what is done to the files under them, as the system's do."""

    @classmethod
    def over(cls, files: MemoryFiles) -> LiveFiles:
        """Return an opener of the same directory."""
        return cls._over(files._disk)

    def open_read(self, name: str) -> LiveReadFile:
        """Open a file that exists for reading."""
        return LiveReadFile(self._disk, self._find(name), name)
