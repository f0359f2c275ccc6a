"""A sync that fails once and then "works": nothing written after it is ever called durable, at every site there is.

On real files, where the k-th fdatasync or fsync of each thread fails and is not executed; and in memory, where the k-th
sync of all fails, what it should have written is lost, and the power is cut some time after. A reopen tells the truth:
everything that was acknowledged as durable is there.
"""

from __future__ import annotations

import errno
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import pytest

from batpak import StorageError, Store, WriterFailedError
from batpak.storage import open_files
from batpak.testing.memory import MemoryFiles, _Disk
from tests.faults.conftest import Table
from tests.faults.injection import Case, Farm, Outcome, check, require_strace
from tests.faults.scale import TIMES, dice, times
from tests.faults.sites import BEGINNINGS, FORMATS, SYNCS, every
from tests.faults.witness import Witness, site

A_SITE = 2
"""How many syncs of each site fail in memory, in an ordinary run and each format."""
CHECK_SYNC = _Disk.check_sync

TOLD = re.compile(r'^(\d+) +write\(\d+<pipe:[^>]*>, "\[\\"(\w+)\\"(?:, \[(\d+))?')
STRUCK = re.compile(r"^(\d+) +.*\(INJECTED\)$")


@pytest.mark.slow
@pytest.mark.timeout(300 * TIMES)
def test_after_a_sync_that_failed_nothing_is_acknowledged_until_the_store_is_opened_again(table: Table) -> None:
    require_strace()
    cases: list[Case] = []
    with Farm() as farm:
        for each in BEGINNINGS:
            counts = farm.counted(Case("", begins=each.begins, segment_format=each.segment_format), SYNCS)
            for call, number in every(counts, SYNCS):
                cases.append(Case(call, "error=EIO", f"{number}", each.segment_format, each.begins, told=True))
        outcomes = farm.live(cases)
    counts = check(outcomes)
    for outcome in outcomes:
        assert list(acknowledged_after(outcome)) == [], f"{outcome.case}\n{outcome.log}"
    table.add("fsync fails once, then works: on real files, every call", sum(counts.values()), counts)


def acknowledged_after(outcome: Outcome) -> Iterator[str]:
    """Yield the calls that began after a sync had failed in their own thread, and were acknowledged all the same."""
    failed, begun = False, ""
    main = ""
    for line in outcome.log.splitlines():
        struck, told = STRUCK.match(line), TOLD.match(line)
        if told:
            main = told[1]
            if told[2] == "opening":
                failed = False
            elif told[2] == "try":
                begun = told[3] if failed else ""
            elif told[2] == "ack" and begun == told[3]:
                yield begun
        elif struck and struck[1] == main:
            failed = True


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a descriptor is of")
def test_a_directory_whose_name_could_not_be_synced_is_synced_by_the_next_open(tmp_path: Path) -> None:
    (tmp_path / "neighbour").touch()
    synced: list[str] = []
    sync = open_files.full_sync

    def full_sync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        if len(synced) == 1:
            raise OSError(errno.EIO, "a failure")
        sync(descriptor)

    with patch("batpak.storage.files.full_sync", full_sync):
        with pytest.raises(StorageError):
            Store.open(tmp_path / "store")
        assert synced == [str(tmp_path)]
        with Store.open(tmp_path / "store"):
            assert synced[1] == str(tmp_path), "before anything is written into it"
        synced.clear()
        with Store.open(tmp_path / "store"):
            assert str(tmp_path) not in synced, "what holds something was synced before"


# In memory ------------------------------------------------------------------------------------------------------------


class FailingDisk:
    """A directory in memory of which the sync numbered *at*, of a file or a folder, fails and loses what it had.

    With number 0 none does, and *sites* tells which are asked for where.
    """

    def __init__(self, at: int) -> None:
        self.files = MemoryFiles()
        self.sites: dict[str, list[int]] = {}
        self.site = ""
        self.count = 0
        self.life = 0
        self.failed_in = -1
        self._at = at

    def check(self, disk: Any) -> None:
        """Stand for the check before a sync."""
        self.count += 1
        if not self._at:
            self.sites.setdefault(site(), []).append(self.count)
        if self.count == self._at:
            self.site = site()
            self.failed_in = self.life
            disk.sync_error = errno.EIO
        CHECK_SYNC(disk)


class Suspicious(Witness):
    """Fails when anything is acknowledged in a life in which a sync has failed."""

    def __init__(self, disk: FailingDisk, segment_format: Literal[1, 2]) -> None:
        super().__init__(disk.files.beside, segment_format)
        self._disk = disk
        self.poisoned = False

    def work(self, *, killed: bool = False) -> None:
        self._disk.life = self.life
        super().work(killed=killed)

    def promised(self) -> list[int]:
        # What was not durable may be gone with the cache, as after a power cut; the store that wrote it still shows it.
        return self.durable if self._disk.site and self._disk.failed_in != self.life else self.written

    def append(self, store: Store, count: int, *, durable: bool) -> None:
        failed, before = self._disk.failed_in == self.life and bool(store._files.failed_syncs), len(self.written)
        super().append(store, count, durable=durable)
        if failed:
            assert len(self.written) == before, f"acknowledged after the sync in {self._disk.site} had failed"
            assert isinstance(self.errors[-1], WriterFailedError)
            assert store.diagnostics().state == "failed"
            self.poisoned = True


def lived(at: int, segment_format: Literal[1, 2]) -> tuple[FailingDisk, Suspicious]:
    """Live through a life of which the sync numbered *at* fails."""
    disk = FailingDisk(at)
    witness = Suspicious(disk, segment_format)

    def check(each: Any) -> None:
        disk.check(each)

    try:
        with patch.object(_Disk, "check_sync", check):
            witness.live()
        witness.life += 1
        witness.check(disk.files.crashed)
        witness.check(disk.files.copy)
    except BaseException as error:
        error.add_note(f"sync {at} of format {segment_format}, in {disk.site}, life {witness.life}: {witness.errors}")
        raise
    return disk, witness


@pytest.mark.slow
@pytest.mark.timeout(200 * TIMES)
def test_a_sync_that_fails_and_loses_what_it_should_have_written_loses_nothing_durable(table: Table) -> None:
    counts: Counter[str] = Counter()
    random = dice("failed syncs in memory")
    sites: set[str] = set()
    with patch("batpak.actors.index.RUN_EVENTS", 6), patch("batpak.actors.index.CLOSE_EVENTS", 1):
        for segment_format in FORMATS:
            unharmed, _ = lived(0, segment_format)
            for name, numbers in unharmed.sites.items():
                for at in random.sample(numbers, min(len(numbers), times(A_SITE))):
                    disk, witness = lived(at, segment_format)
                    assert disk.site == name
                    counts["poisoned" if witness.poisoned else "refused to open or to close"] += 1
                sites.add(name)
    assert len(sites) >= 20, sites
    table.add(f"fsync fails once, then works: in memory, {len(sites)} sites, data lost", 2 * len(sites), counts)
