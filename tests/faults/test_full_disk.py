"""A disk of 256 KiB that is really full: typed errors, everything acknowledged is read, and with room it goes on."""

from __future__ import annotations

import errno
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from batpak import BatpakError, Coordinate, EventKind, NewEvent, Region, StorageError, Store, StoreConfig
from tests.directories import load
from tests.faults import aftermath
from tests.faults.conftest import TABLE
from tests.faults.injection import Child
from tests.faults.program import Life, coordinate, number_of

PLACED = EventKind(0x1, 0x001)
MOUNT = ("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs")
BALLAST_BYTES = 96 * 1024
EVERYTHING = Region(include_system=True)
MOST = 5_000
FORMATS = (2, 1)


class Disk:
    """A file system of 256 KiB with ballast on it, which can be thrown off."""

    def __init__(self, root: Path) -> None:
        self.store = root / "store"
        self._ballast = root / "ballast"
        self._rest = root / "rest"
        self._ballast.write_bytes(bytes(BALLAST_BYTES))

    def fill(self) -> None:
        """Take what room there is left."""
        with self._rest.open("ab", buffering=0) as file:
            for piece in (4096, 1):
                try:
                    while True:
                        file.write(bytes(piece))
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017 - a file system without an end would never fail

    def free(self) -> None:
        """Make room."""
        self._ballast.unlink(missing_ok=True)
        self._rest.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def counts(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """How the cases of this module came out; one row of the table."""
    counts: Counter[str] = Counter()
    yield counts
    if counts:
        request.config.stash[TABLE].add("a really full disk of 256 KiB", sum(counts.values()), counts)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk of its own for the test; skipped where the system lets nobody mount one."""
    root = tempfile.mkdtemp(prefix="batpak-disk-")  # not where pytest tidies up: after a kill it is still mounted
    try:
        done = subprocess.run([*MOUNT, root], capture_output=True, text=True, check=False)
        refusal = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError as error:
        refusal = str(error)
    try:
        if refusal:
            pytest.skip(f"no file system can be mounted here: {refusal}")
        try:
            yield Disk(Path(root))
        finally:
            subprocess.run(["umount", root], check=True)
    finally:
        Path(root).rmdir()


def numbers(store: Store) -> list[int]:
    return [number_of(event) for event in store.read(EVERYTHING)]


def fill_by_appending(store: Store, *, batches: bool, durable: bool) -> tuple[list[int], StorageError]:
    """Append until the disk is full; what was acknowledged, and the error that ended it."""
    acknowledged: list[int] = []
    for number in range(0, MOST, 3):
        items = [NewEvent(coordinate(n), PLACED, {"n": n, "text": "x" * 400}) for n in range(number, number + 3)]
        try:
            if batches:
                store.append_batch(items, durable=durable)
                acknowledged += range(number, number + 3)
                continue
            for n, item in enumerate(items, number):
                store.append(item.coordinate, PLACED, item.payload, durable=durable)
                acknowledged.append(n)
        except StorageError as error:
            return acknowledged, error
    raise AssertionError("the disk is not full")


@pytest.mark.parametrize("segment_format", FORMATS)
@pytest.mark.parametrize("segment_bytes", [16 * 1024, 1024 * 1024])
@pytest.mark.parametrize("durable", [False, True])
def test_a_full_disk_refuses_appends_and_nothing_else(
    disk: Disk, segment_format: Literal[1, 2], segment_bytes: int, durable: bool, counts: Counter[str]
) -> None:
    config = StoreConfig(segment_format=segment_format, segment_bytes=segment_bytes)
    with Store.open(disk.store, config=config) as store:
        acknowledged, error = fill_by_appending(store, batches=durable, durable=durable)
        assert len(acknowledged) > 100
        assert error.errno in {errno.ENOSPC, None}, error
        assert error.retryable
        disk.fill()
        for _ in range(3):
            with pytest.raises(StorageError):
                store.append(coordinate(0), PLACED, {"n": MOST, "text": "x" * 9000})
            assert numbers(store) == acknowledged
        assert store.verify_chain().intact
        assert store.sync() == acknowledged[-1], "what is written needs no more room"
        assert store.diagnostics().state == "ok"
        disk.free()
        store.append(coordinate(0), PLACED, {"n": MOST, "text": "x" * 9000}, durable=True)
        acknowledged.append(MOST)
        assert numbers(store) == acknowledged
    with Store.open(disk.store, config=config) as store:
        assert numbers(store) == acknowledged
        assert store._system.report.quarantined == (), "no half frame was left behind"
        assert store.verify_chain().intact
        store.append(coordinate(0), PLACED, {"n": MOST + 1})
    counts["refused, then went on"] += 1


@pytest.mark.parametrize("segment_format", FORMATS)
def test_a_store_that_is_closed_and_opened_on_a_full_disk_is_whole_when_there_is_room(
    disk: Disk, segment_format: Literal[1, 2], counts: Counter[str]
) -> None:
    config = StoreConfig(segment_format=segment_format, segment_bytes=16 * 1024)
    store = Store.open(disk.store, config=config)
    acknowledged, _ = fill_by_appending(store, batches=False, durable=False)
    disk.fill()
    try:
        store.close()
        counts["closed on a full disk"] += 1
    except BatpakError:
        counts["typed error from the close"] += 1
    for _ in range(2):
        try:
            with Store.open(disk.store, config=config) as again:
                assert numbers(again) == acknowledged
            counts["opened on a full disk"] += 1
        except BatpakError:
            counts["typed error from the open"] += 1
    with Store.open_read_only(disk.store) as reader:
        assert [number_of(event) for event in reader.read(EVERYTHING)] == acknowledged
    disk.free()
    with Store.open(disk.store, config=config) as again:
        assert numbers(again) == acknowledged
        again.append(Coordinate("order:1", "shop"), PLACED, {"n": MOST}, durable=True)


@pytest.mark.parametrize("segment_format", FORMATS)
def test_recovery_that_has_no_room_for_the_copy_cuts_nothing(
    disk: Disk, segment_format: Literal[1, 2], counts: Counter[str]
) -> None:
    life = Life(5, segment_format, 1, leaves=True)
    facts: list[list[object]] = []
    with Child(disk.store, life, set()) as child:
        child.begin()
        child.listen(facts)
    aftermath.tear(disk.store)
    (disk.store / ".tmp-0-durable.position").unlink()  # the room it takes would be room for the copy
    before = {name: data for name, data in load(disk.store).items() if name.endswith(".fbat")}
    disk.fill()
    with pytest.raises(StorageError) as caught:
        Store.open(disk.store, config=life.config)
    assert caught.value.errno == errno.ENOSPC
    after = {name: data for name, data in load(disk.store).items() if name.endswith(".fbat")}
    assert after == before, "nothing was cut"
    disk.free()
    with Store.open(disk.store, config=life.config) as store:
        assert set(numbers(store)) == aftermath.promised(facts)
        (copy,) = store._system.report.quarantined
        assert (disk.store / copy.file).read_bytes() == aftermath.GARBAGE
    counts["no room for a torn end, nothing cut"] += 1
