"""The only changes that opening makes to a journal: a torn end is cut, what is complete and was left open is sealed.

Nothing is cut before a copy of it lies in ``quarantine/``, durably. Run twice this gives the same bytes, and so it does
when it was cut short and is run again.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from batpak.storage import format2, place_file
from batpak.storage.recovery import Torn
from batpak.storage.seal import events_before, seal_by_name
from batpak.storage.seam import TEMPORARY_PREFIX
from batpak.storage.segment import file_name

if TYPE_CHECKING:
    from batpak.storage.files import Files
    from batpak.storage.recovery import Scan
    from batpak.storage.survey import Survey

FOLDER = "quarantine"


def mend(files: Files, found: Survey, scan: Scan, events: int) -> list[tuple[str, Torn]]:
    """Seal what is complete and cut what is torn; the copies' names and what is in them. There are *events* in all.

    No room for a copy is an `OSError`, and nothing was cut. A damaged frame in what is to be sealed is a
    `CorruptStoreError`, and nothing was cut either.
    """
    for name in temporaries(files):  # whoever holds the lock may
        files.remove(name)
    for meta, end in scan.unsealed:  # before anything is cut: it reads all frames again, and damage refuses
        before = events_before(meta, events, scan.next_sequence)
        found.catalog.add(seal_by_name(files, meta, end, before))
    stub = [Torn(found.stub.segment, 0, found.stub.data)] if found.stub is not None else []
    torn = [*stub, *([scan.torn] if scan.torn is not None else [])]
    copies = [(quarantine(files, each), each) for each in torn if each.data]
    for each in torn:
        _cut(files, found, each)
    return copies


def temporaries(files: Files) -> list[str]:
    """Return the files that a crash left on their way to a name."""
    return [
        f"{folder}/{name}" if folder else name
        for folder in ("", FOLDER, place_file.FOLDER)
        for name in files.list(folder)
        if name.startswith(TEMPORARY_PREFIX)
    ]


def copy_name(torn: Torn) -> str:
    """Return the name that the copy of a torn end gets."""
    digest = format2.event_hash(torn.data).hex()
    return f"{FOLDER}/{torn.segment:06}-{torn.offset:012}-{digest[:16]}.torn"


def quarantine(files: Files, torn: Torn) -> str:
    """Copy a torn end aside, durably; the same bytes get the same name."""
    name = copy_name(torn)
    files.make_folder(FOLDER)
    if not files.exists(name):
        files.write_atomic(name, torn.data)
    files.sync_folder(FOLDER)
    files.sync_folder()
    return name


def _cut(files: Files, found: Survey, torn: Torn) -> None:
    """Cut a segment at its torn end; a file that holds nothing else goes.

    What the original noted of the segment's length stays: it speaks of nothing behind the cut, and in a segment that
    it wrote nothing is ever appended, so no frame can come to lie where its snapshot would hide it.
    """
    if not torn.offset:
        files.remove(file_name(torn.segment))
        files.sync_folder()
        return
    with closing(files.open_write(file_name(torn.segment))) as file:
        file.truncate(torn.offset)
        file.sync()
    found.catalog.add(replace(found.catalog.meta(torn.segment), size=torn.offset))
