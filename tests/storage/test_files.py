"""One suite for the real and the in-memory directory, then what only the real one, memory or faults have."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from batpak.errors import (
    CorruptStoreError,
    InvalidDirectoryError,
    InvalidRequestError,
    StoreLockedError,
    UnsupportedPlatformError,
)
from batpak.storage import files as files_module
from batpak.storage import open_files
from batpak.storage.files import HELD_BYTES, LOCK_NAME, OWNER_NAME, Files, RealFiles, write_all
from batpak.storage.seam import write_owner
from batpak.testing.faulty import OPERATIONS, FaultyFiles
from batpak.testing.memory import MemoryFiles, Operation


class Opened(NamedTuple):
    files: Files
    beside: Callable[[], Files]  # opens the same directory again


@pytest.fixture(params=["real", "memory", "faulty"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    if request.param == "real":
        path = tmp_path / "store"
        files: Files = RealFiles.open(path, create=True)
        yield Opened(files, lambda: RealFiles.open(path, create=False))
    else:
        memory = MemoryFiles()
        files = FaultyFiles(memory) if request.param == "faulty" else memory
        yield Opened(files, memory.beside)
    files.close()


@pytest.fixture
def files(opened: Opened) -> Files:
    return opened.files


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealFiles]:
    files = RealFiles.open(tmp_path, create=True)
    yield files
    files.close()


def put(files: Files, name: str, data: bytes = b"") -> None:
    file = files.create(name)
    write_all(file, data, 0)
    file.close()


def in_child(work: Callable[[], object]) -> str:
    """Run *work* in a forked child and return the repr of what it returned or raised."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the timeout's thread is no reason not to fork here
        pid = os.fork()
    if pid == 0:
        try:
            answer = repr(work())
        except BaseException as error:
            answer = repr(error)
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return answer


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


# Names


def test_a_new_directory_is_empty(files: Files) -> None:
    assert files.list() == []
    assert files.list("index") == []


def test_list_is_sorted_and_leaves_folders_out(files: Files) -> None:
    files.make_folder("index")
    for name in ("b", "a", "index/y", "index/x"):
        put(files, name)
    assert files.list() == ["a", "b"]
    assert files.list("index") == ["x", "y"]


def test_list_of_a_file_is_refused(files: Files) -> None:
    put(files, "index")
    with pytest.raises(CorruptStoreError, match="expected a folder"):
        files.list("index")


@pytest.mark.parametrize("name", ["", ".", "..", "/etc/passwd", "../x", "a/../x", "a/b/c", "a/", "/x", "a\0b", "./x"])
def test_a_name_that_leads_elsewhere_is_refused(files: Files, name: str) -> None:
    for call in (files.exists, files.size, files.open_read, files.open_write, files.create, files.remove):
        with pytest.raises(InvalidRequestError):
            call(name)
    for source, target in ((name, "x"), ("x", name)):
        with pytest.raises(InvalidRequestError):
            files.replace(source, target)


@pytest.mark.parametrize("folder", ["..", "a/b", "/", "."])
def test_a_folder_that_leads_elsewhere_is_refused(files: Files, folder: str) -> None:
    for call in (files.list, files.make_folder, files.sync_folder):
        with pytest.raises(InvalidRequestError):
            call(folder)


def test_what_is_missing_is_missing(files: Files) -> None:
    for name in ("a", "index/a"):
        assert not files.exists(name)
        assert not files.remove(name)
        for call in (files.size, files.open_read, files.open_write):
            with pytest.raises(FileNotFoundError):
                call(name)
    for missing in (lambda: files.create("index/a"), lambda: files.sync_folder("index")):
        with pytest.raises(FileNotFoundError):
            missing()


def test_create_refuses_a_name_that_is_taken(files: Files) -> None:
    put(files, "a", b"kept")
    files.make_folder("index")
    for name in ("a", "index"):
        with pytest.raises(FileExistsError):
            files.create(name)
    assert files.read_bytes("a", 10) == b"kept"


def test_remove_says_whether_there_was_something(files: Files) -> None:
    put(files, "a")
    assert files.exists("a")
    assert files.remove("a")
    assert not files.remove("a")
    assert not files.exists("a")


def test_a_file_is_no_folder_and_a_folder_no_file(files: Files) -> None:
    put(files, "a")
    files.make_folder("index")
    files.make_folder("index")
    for call in (files.open_read, files.open_write, files.size):
        with pytest.raises(CorruptStoreError):
            call("index")
    for folder_call in (files.make_folder, files.sync_folder):
        with pytest.raises(CorruptStoreError):
            folder_call("a")
    for name_call in (files.open_read, files.create, files.remove, files.exists):
        with pytest.raises(CorruptStoreError):
            name_call("a/b")
    with pytest.raises(OSError, match=r"index"):
        files.remove("index")


def test_replace_takes_the_target_over_also_across_folders(files: Files) -> None:
    files.make_folder("index")
    put(files, "a", b"new")
    put(files, "index/b", b"old")
    reader = files.open_read("index/b")
    files.replace("a", "index/b")
    assert files.list() == []
    assert files.read_bytes("index/b", 10) == b"new"
    assert reader.pread(10, 0) == b"old"
    reader.close()
    with pytest.raises(FileNotFoundError):
        files.replace("a", "index/b")


# Content


def test_positioned_writes_and_reads(files: Files) -> None:
    file = files.create("a")
    assert file.pwrite(b"world", 6) == 5
    assert file.pwrite(b"hello", 0) == 5
    assert file.pread(100, 0) == b"hello\0world"
    assert file.pread(3, 6) == b"wor"
    assert file.pread(5, 11) == file.pread(5, 500) == file.pread(0, 0) == b""
    assert file.size() == files.size("a") == 11
    file.close()


@pytest.mark.parametrize("size", [1, 400, HELD_BYTES - 1, HELD_BYTES, HELD_BYTES + 1, 3 * HELD_BYTES])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_of_any_size_is_written_whole(files: Files, kind: type, size: int) -> None:
    data = os.urandom(size)
    file = files.create("a")
    assert file.pwrite(kind(data), 3) == size
    assert file.pread(size, 3) == data
    assert file.pread(size + 100, 4) == data[1:]
    file.close()


def test_a_negative_length_or_offset_is_refused(files: Files) -> None:
    file = files.create("a")
    for call in (lambda: file.pread(-1, 0), lambda: file.pread(1, -1), lambda: file.pwrite(b"x", -1)):
        with pytest.raises(OSError, match="Invalid argument") as caught:
            call()
        assert caught.value.errno == errno.EINVAL
    assert file.size() == 0
    file.close()


def test_an_empty_write_does_nothing(files: Files) -> None:
    file = files.create("a")
    assert file.pwrite(b"", 100) == 0
    assert file.size() == 0
    file.close()


def test_truncate_cuts_and_lengthens_with_zeros(files: Files) -> None:
    file = files.create("a")
    file.pwrite(b"abcdef", 0)
    file.truncate(2)
    file.truncate(4)
    assert file.pread(10, 0) == b"ab\0\0"
    file.close()


def test_allocate_lengthens_with_zeros_and_keeps_what_is_there(files: Files) -> None:
    file = files.create("a")
    file.pwrite(b"abc", 0)
    assert file.allocate(0, 10)
    assert file.pread(100, 0) == b"abc" + bytes(7)
    assert file.allocate(0, 5)
    assert file.size() == 10
    with pytest.raises(OSError, match="Invalid argument"):
        file.allocate(0, 0)
    file.close()


def test_a_map_shows_the_whole_file_and_outlives_it(files: Files) -> None:
    put(files, "a", b"mapped")
    put(files, "empty")
    file, empty = files.open_read("a"), files.open_read("empty")
    view, nothing = file.map(), empty.map()
    file.close()
    empty.close()
    assert (bytes(view), bytes(nothing)) == (b"mapped", b"")
    assert view.readonly
    assert nothing.readonly
    view.release()


def test_a_closed_file_is_a_bad_descriptor(files: Files) -> None:
    file = files.create("a")
    file.close()
    file.close()
    calls: list[Callable[[], object]] = [
        lambda: file.pread(1, 0), lambda: file.pread(2 * HELD_BYTES, 0), lambda: file.pwrite(b"x", 0), file.size,
        lambda: file.pwrite(bytes(2 * HELD_BYTES), 0), file.map, file.sync, file.sync_data, file.drop_cache,
        lambda: file.truncate(0), lambda: file.allocate(0, 1),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            call()
        assert caught.value.errno == errno.EBADF


def test_syncs_and_dropping_the_cache_change_nothing(files: Files) -> None:
    file = files.create("a")
    file.pwrite(b"abc", 0)
    file.sync_data()
    file.sync()
    file.drop_cache()
    files.sync_folder()
    assert file.pread(3, 0) == b"abc"
    file.close()


def test_a_file_opened_twice_shows_one_content(opened: Opened) -> None:
    put(opened.files, "a", b"abc")
    other = opened.beside()
    writer, reader = opened.files.open_write("a"), other.open_read("a")
    writer.pwrite(b"X", 1)
    assert reader.pread(3, 0) == b"aXc"
    writer.close()
    reader.close()
    other.close()


def test_read_bytes_refuses_more_than_the_limit(files: Files) -> None:
    put(files, "a", b"12345")
    assert files.read_bytes("a", 5) == b"12345"
    with pytest.raises(CorruptStoreError) as caught:
        files.read_bytes("a", 4)
    assert (caught.value.file, caught.value.found, caught.value.expected) == ("a", "5 bytes", "at most 4")


@pytest.mark.parametrize("name", ["a", "index/a"])
def test_write_atomic_replaces_and_leaves_nothing_else(files: Files, name: str) -> None:
    files.make_folder("index")
    for data in (b"first", bytes(3 * HELD_BYTES), b""):
        files.write_atomic(name, data)
        assert files.read_bytes(name, 10 * HELD_BYTES) == data
    assert [*files.list(), *files.list("index")] == ["a"]


def test_write_atomic_passes_over_what_a_crash_left(files: Files) -> None:
    put(files, ".tmp-0-a", b"left over")
    files.write_atomic("a", b"new")
    assert files.list() == [".tmp-0-a", "a"]
    assert files.read_bytes("a", 10) == b"new"


# The lock


def test_a_second_opener_is_locked_out_and_told_by_whom(opened: Opened) -> None:
    other = opened.beside()
    opened.files.lock()
    for locked_out in (opened.files, other):
        with pytest.raises(StoreLockedError) as caught:
            locked_out.lock()
        error = caught.value
        assert (error.directory, error.pid, error.host) == (opened.files.directory, os.getpid(), os.uname().nodename)
    assert opened.files.size(LOCK_NAME) == 0
    opened.files.unlock()
    assert opened.files.list() == [LOCK_NAME]
    other.lock()
    other.close()
    opened.files.lock()


def test_unlock_without_the_lock_leaves_the_holder_alone(opened: Opened) -> None:
    other = opened.beside()
    opened.files.lock()
    other.unlock()
    other.close()
    another = opened.beside()
    with pytest.raises(StoreLockedError):
        another.lock()
    another.close()


@pytest.mark.parametrize(
    "note", [b"", b"\xff", b"[" * 4000, b"[]", b'{"pid": "x", "host": 1, "since": []}', bytes(5000)]
)
def test_an_owners_note_that_makes_no_sense_is_not_believed(opened: Opened, note: bytes) -> None:
    opened.files.lock()
    opened.files.write_atomic(OWNER_NAME, note)
    other = opened.beside()
    with pytest.raises(StoreLockedError) as caught:
        other.lock()
    assert (caught.value.pid, caught.value.host, caught.value.since) == (None, None, None)
    other.close()


def test_a_dropped_opener_lets_go_of_the_lock(opened: Opened) -> None:
    dropped = opened.beside()
    dropped.lock()
    del dropped
    opened.files.lock()


def test_a_closed_directory_is_a_bad_descriptor(opened: Opened) -> None:
    put(opened.files, "a", b"abc")
    other = opened.beside()
    file = other.open_read("a")
    other.close()
    other.close()
    for call in (other.list, other.lock, other.sync_folder, lambda: other.create("b"), lambda: other.exists("a")):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()
    assert file.pread(3, 0) == b"abc"
    file.close()


def test_abandon_closes_files_as_well(opened: Opened) -> None:
    put(opened.files, "a", b"abc")
    other = opened.beside()
    file = other.open_read("a")
    other.abandon()
    for call in (other.list, file.size):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call()


# The real directory alone


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_what_is_made_is_for_its_owner_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        files = RealFiles.open(tmp_path / "parent" / "store", create=True)
        files.make_folder("index")
        put(files, "index/a")
        files.write_atomic("b", b"x")
        files.lock()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "parent").rglob("*")}
    assert modes == {"store": 0o700, "index": 0o700, "a": 0o600, "b": 0o600, LOCK_NAME: 0o600, OWNER_NAME: 0o600}
    files.close()


def test_a_link_is_never_followed(real: RealFiles, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    put(real, "a", b"kept")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "folder").symlink_to("inside")
    put(real, "inside/a", b"kept")
    assert real.list() == ["a", "folder", "link"]
    for name in ("link", "folder/a"):
        for call in (real.open_read, real.open_write, real.size):
            with pytest.raises(CorruptStoreError) as caught:
                call(name)
            assert caught.value.file in {"link", "folder"}
    for folder_call in (real.list, real.make_folder, real.sync_folder):
        with pytest.raises(CorruptStoreError, match="expected a folder"):
            folder_call("folder")
    with pytest.raises(FileExistsError):
        real.create("link")
    real.write_atomic("link", b"new")
    assert real.read_bytes("a", 10) == b"kept"


def test_a_pipe_and_a_socket_are_refused_without_waiting(real: RealFiles, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        for name in ("pipe", "sock"):
            for call in (real.open_read, real.open_write, real.size):
                with pytest.raises(CorruptStoreError, match="expected a regular file"):
                    call(name)


def test_a_lock_that_is_a_link_is_refused(real: RealFiles, tmp_path: Path) -> None:
    put(real, "a")
    (tmp_path / LOCK_NAME).symlink_to("a")
    with pytest.raises(CorruptStoreError, match="symbolic link"):
        real.lock()


@pytest.mark.parametrize("create", [False, True])
def test_a_path_that_is_no_directory_is_refused(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("file", "nowhere", "circle", "file/below", "x" * 300, "a\0b"):
        with pytest.raises(InvalidDirectoryError) as caught:
            RealFiles.open(tmp_path / name, create=create)
        assert caught.value.directory == str(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "file", "nowhere"]


def test_a_directory_that_is_missing_is_made_only_for_writing(tmp_path: Path) -> None:
    with pytest.raises(InvalidDirectoryError):
        RealFiles.open(tmp_path / "a" / "b", create=False)
    assert not (tmp_path / "a").exists()
    RealFiles.open(tmp_path / "a" / "b", create=True).close()
    RealFiles.open(tmp_path / "a" / "b", create=False).close()


def test_a_link_to_a_directory_is_opened(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    files = RealFiles.open(tmp_path / "link", create=True)
    assert files.directory == str(tmp_path)
    files.close()


def test_a_directory_that_cannot_be_written_opens_only_for_reading() -> None:
    def as_somebody_else() -> None:
        if os.geteuid() == 0:  # modes mean nothing to root
            os.seteuid(65534)
        RealFiles.open(path, create=False).close()
        RealFiles.open(path, create=True)

    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o555)
        answer = in_child(as_somebody_else)
    assert answer.startswith("InvalidDirectoryError")
    assert "read-only" in answer


def test_a_system_error_that_is_not_about_the_path_stays_one(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            RealFiles.open(tmp_path, create=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_windows_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UnsupportedPlatformError, match="flock"):
        RealFiles.open(tmp_path, create=True)


def test_the_module_can_be_imported_where_there_is_no_fcntl() -> None:
    program = (
        "import sys, ctypes, os, batpak.errors\n"
        "sys.modules.pop('batpak.storage.files', None); sys.platform = 'win32'\n"
        "sys.modules['fcntl'] = None; ctypes.PyDLL = ctypes.CDLL = None\n"
        "del os.O_NOFOLLOW, os.O_DIRECTORY, os.O_NONBLOCK\n"
        "from batpak.storage.files import RealFiles\n"
        "try: RealFiles.open('x', create=True)\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    assert run_python(program) == "UnsupportedPlatformError"


def run_python(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment(), check=True, capture_output=True, text=True).stdout.strip()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(files_module.__file__).parents[2])}


HOLD = """
import sys
from batpak.storage.files import RealFiles
files = RealFiles.open(sys.argv[1], create=True)
files.lock()
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_second_process_is_locked_out_until_the_first_ends(real: RealFiles, tmp_path: Path, end: str) -> None:
    put(real, LOCK_NAME)
    os.utime(tmp_path / LOCK_NAME, (0, 0))  # locked last in 1970
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StoreLockedError) as caught:
            real.lock()
        error = caught.value
        assert (error.directory, error.pid, error.host) == (str(tmp_path), holder.pid, os.uname().nodename)
        assert error.since is not None
        since = datetime.fromisoformat(error.since)
        assert since.utcoffset() is not None
        assert since.year > 1970
        if end == "kill":
            holder.kill()
        holder.stdin.close()
        holder.wait()
    real.lock()
    assert json.loads((tmp_path / OWNER_NAME).read_text())["pid"] == os.getpid()


def test_a_forked_child_cannot_take_or_free_its_parents_lock(real: RealFiles, tmp_path: Path) -> None:
    real.lock()
    put(real, "a", b"abc")
    file = real.open_read("a")

    def lock_again() -> None:
        RealFiles.open(tmp_path, create=False).lock()

    def unlock_and_lock() -> None:
        real.unlock()
        lock_again()

    def abandon() -> int:
        before = descriptors()
        real.abandon()
        return before - descriptors()

    assert "StoreLockedError" in in_child(unlock_and_lock)
    assert in_child(abandon) == "3"  # the directory, the lock and the file
    assert "StoreLockedError" in in_child(lock_again)
    assert file.pread(3, 0) == b"abc"
    assert (tmp_path / OWNER_NAME).exists()
    file.close()


def test_an_orphan_does_not_hold_the_lock_of_a_parent_that_closed(real: RealFiles, tmp_path: Path) -> None:
    real.lock()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:  # has a copy of the lock's descriptor as long as it lives
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    real.close()
    again = RealFiles.open(tmp_path, create=False)
    again.lock()
    os.close(reading)
    os.close(writing)
    os.waitpid(pid, 0)
    again.close()


def test_no_descriptor_is_left_after_every_way_out(real: RealFiles, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = descriptors()
    put(real, "a", b"abc")
    dropped = real.open_read("a")
    view = dropped.map()
    del dropped
    real.lock()
    real.write_atomic("b", b"x")
    for refused in (lambda: real.open_read("pipe"), lambda: real.create("a"), lambda: real.list("a")):
        with pytest.raises((CorruptStoreError, FileExistsError)):
            refused()
    other = RealFiles.open(tmp_path, create=False)
    with pytest.raises(StoreLockedError):
        other.lock()
    view.release()
    del view, other
    real.unlock()
    assert descriptors() == before


def test_a_write_that_meets_the_limit_is_short_and_then_an_error(real: RealFiles) -> None:
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    limit = 1 << 20
    file = real.create("a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        assert file.pwrite(bytes(400), limit - 100) == 100
        for size in (400, 2 * HELD_BYTES):
            with pytest.raises(OSError, match="File too large") as caught:
                file.pwrite(bytes(size), limit)
            assert caught.value.errno == errno.EFBIG
        with pytest.raises(OSError, match="File too large"):
            write_all(file, bytes(400), limit - 100)
        with pytest.raises(OSError, match="File too large") as caught:
            file.allocate(0, limit + 1)
        assert caught.value.filename == "a"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.close()


def test_an_interrupted_call_is_made_again_and_other_errors_keep_their_number(
    real: RealFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [errno.EINTR, errno.EINTR, errno.ENOSPC]

    def fail(*_: object) -> int:
        ctypes.set_errno(answers.pop(0))
        return -1

    file = real.create("a")
    for call, name in ((lambda: file.pwrite(b"x", 0), "_pwrite"), (lambda: file.pread(1, 0), "_pread")):
        answers[:] = [errno.EINTR, errno.EINTR, errno.ENOSPC]
        monkeypatch.setattr(open_files, name, fail)
        with pytest.raises(OSError, match="No space left on device") as caught:
            call()
        assert (caught.value.errno, caught.value.filename, answers) == (errno.ENOSPC, "a", [])
    file.close()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_cannot_allocate_says_no(
    real: RealFiles, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(open_files, "_fallocate", refuse)
    file = real.create("a")
    assert not file.allocate(0, 100)
    assert file.size() == 0
    file.close()


def test_reads_are_whole_although_the_system_gives_less(real: RealFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(3 * HELD_BYTES)
    put(real, "a", data)
    file, whole = real.open_read("a"), os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: whole(fd, min(length, 70_000), offset))
    assert file.pread(len(data), 0) == data
    file.close()


def test_reads_from_many_threads_do_not_meet_in_one_buffer(real: RealFiles) -> None:
    data = bytes(range(256)) * 64
    put(real, "a", data)
    file = real.open_read("a")

    def read(start: int) -> bool:
        pieces = [(at, length) for at in range(start, 8_000, 7) for length in (1, 2, 400)]
        return all(file.pread(length, at) == data[at : at + length] for at, length in pieces)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(8)))
    file.close()
    assert (bytes(1), bytes([7])) == (b"\0", b"\7")  # no shared constant was written over


def test_a_map_takes_no_copy(real: RealFiles) -> None:
    put(real, "a", b"before")
    file = real.open_write("a")
    view = file.map()
    assert isinstance(view.obj, mmap.mmap)
    file.pwrite(b"after!", 0)
    assert bytes(view) == b"after!"
    view.release()
    file.close()


# Memory alone


@pytest.fixture
def memory() -> MemoryFiles:
    return MemoryFiles()


def contents(files: Files, *folders: str) -> dict[str, bytes]:
    names = [f"{folder}/{leaf}" if folder else leaf for folder in ("", *folders) for leaf in files.list(folder)]
    return {name: files.read_bytes(name, 1 << 20) for name in names}


def test_a_crash_leaves_only_what_was_synced(memory: MemoryFiles) -> None:
    file = memory.create("a")
    file.pwrite(b"abc", 0)
    assert contents(memory.crashed()) == {}
    memory.sync_folder()
    assert contents(memory.crashed()) == {"a": b""}
    file.sync_data()
    file.pwrite(b"X", 0)
    file.pwrite(b"def", 3)
    assert contents(memory.crashed()) == {"a": b"abc"}
    file.sync()
    assert contents(memory.crashed()) == {"a": b"Xbcdef"}
    file.truncate(1)
    file.truncate(3)
    assert contents(memory.crashed()) == {"a": b"Xbcdef"}
    file.sync()
    assert contents(memory.crashed()) == {"a": b"X\0\0"}


def test_a_crash_undoes_names_that_were_not_synced(memory: MemoryFiles) -> None:
    memory.write_atomic("a", b"old")
    put(memory, "b", b"")
    memory.sync_folder()
    memory.replace("b", "a")
    put(memory, "c", b"")
    assert contents(memory.crashed()) == {"a": b"old", "b": b""}
    memory.remove("c")
    memory.sync_folder()
    assert contents(memory.crashed()) == {"a": b""}


def test_a_folder_is_durable_only_when_its_directory_is(memory: MemoryFiles) -> None:
    memory.make_folder("index")
    memory.write_atomic("index/a", b"x")
    assert contents(memory.crashed(), "index") == {}
    memory.sync_folder()
    assert contents(memory.crashed(), "index") == {"index/a": b"x"}


def test_what_was_atomic_is_old_or_new_after_a_crash_at_every_change(memory: MemoryFiles) -> None:
    memory.write_atomic("a", b"old")
    seen = set()
    for call in range(1, 9):
        for operation in ("create", "pwrite", "sync", "close", "replace", "sync_folder"):
            copy = memory.copy()
            files = FaultyFiles(copy)
            files.fail(operation, KeyboardInterrupt(), call=call)
            try:
                files.write_atomic("a", b"new")
            except KeyboardInterrupt:
                assert copy.list() == ["a"]
            for after in (copy, copy.copy(), copy.crashed()):
                seen.add(contents(after)["a"])
    assert seen == {b"old", b"new"}


def test_a_copy_and_a_crash_are_directories_of_their_own(memory: MemoryFiles) -> None:
    memory.lock()
    memory.write_atomic("a", b"old")
    for other in (memory.copy(), memory.crashed()):
        other.lock()
        assert [operation.action for operation in other.journal].count("create") >= 1
        other.write_atomic("a", b"new")
    assert memory.read_bytes("a", 10) == b"old"


def test_a_copy_still_knows_what_is_not_durable(memory: MemoryFiles) -> None:
    file = memory.create("a")
    memory.sync_folder()
    file.pwrite(b"abc", 0)
    copy = memory.copy()
    assert contents(copy) == {"a": b"abc"}
    assert contents(copy.crashed()) == {"a": b""}
    copy.open_write("a").sync()
    assert contents(copy.crashed()) == {"a": b"abc"}
    assert contents(memory.crashed()) == {"a": b""}


def test_the_journal_holds_each_change_in_order(memory: MemoryFiles) -> None:
    memory.make_folder("index")
    file = memory.create("a")
    file.pwrite(b"abc", 1)
    file.truncate(2)
    file.allocate(0, 9)
    file.sync()
    memory.note("told the caller")
    memory.replace("a", "index/b")
    memory.sync_folder("index")
    memory.remove("index/b")
    assert memory.journal == [
        Operation("make_folder", "index"),
        Operation("create", "a", inode=1),
        Operation("write", inode=1, offset=1, data=b"abc"),
        Operation("truncate", inode=1, size=2),
        Operation("allocate", inode=1, size=9),
        Operation("sync", inode=1),
        Operation("note", "told the caller"),
        Operation("replace", "a", "index/b"),
        Operation("sync_folder", "index"),
        Operation("remove", "index/b"),
    ]


def test_a_failed_sync_loses_what_the_cache_still_shows(memory: MemoryFiles) -> None:
    file = memory.create("a")
    file.pwrite(b"abc", 0)
    file.sync()
    memory.sync_folder()
    file.pwrite(b"XYZ", 3)
    memory.fail_next_sync()
    with pytest.raises(OSError, match="Input/output error"):
        file.sync_data()
    file.sync_data()
    file.pwrite(b"!", 6)
    assert contents(memory) == {"a": b"abcXYZ!"}
    file.drop_cache()
    assert contents(memory) == {"a": b"abc\0\0\0!"}
    assert contents(memory.crashed()) == {"a": b"abc\0\0\0"}


def test_a_lying_disk_keeps_nothing(memory: MemoryFiles) -> None:
    memory.write_atomic("a", b"old")
    memory.lie_about_syncs()
    file = memory.open_write("a")
    file.pwrite(b"new", 0)
    file.sync()
    memory.write_atomic("b", b"x")
    assert contents(memory) == {"a": b"new", "b": b"x"}
    assert contents(memory.crashed()) == {"a": b"old"}


def test_a_directory_that_cannot_allocate_says_no() -> None:
    file = MemoryFiles(allocates=False).create("a")
    assert not file.allocate(0, 10)
    assert file.size() == 0


# Faults alone


@pytest.fixture
def faulty() -> FaultyFiles:
    return FaultyFiles(MemoryFiles())


def test_the_kth_call_fails_once_and_calls_are_counted(faulty: FaultyFiles) -> None:
    file = faulty.create("a")
    file.pwrite(b"0", 0)
    faulty.fail("pwrite", errno.ENOSPC, call=2)
    file.pwrite(b"1", 1)
    with pytest.raises(OSError, match="No space left") as caught:
        file.pwrite(b"2", 2)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "a")
    assert file.pread(9, 0) == b"01"
    file.pwrite(b"2", 2)
    assert (faulty.calls["pwrite"], faulty.calls["create"], faulty.calls["sync"]) == (4, 1, 0)


def test_a_fault_strikes_the_names_it_is_for_until_it_is_healed(faulty: FaultyFiles) -> None:
    faulty.fail("create", errno.EACCES, name="*.fbat", repeat=True)
    faulty.create("a")
    for _ in range(2):
        with pytest.raises(PermissionError):
            faulty.create("1.fbat")
    faulty.heal()
    faulty.create("1.fbat")


def test_a_fault_may_come_after_the_work(faulty: FaultyFiles) -> None:
    put(faulty, "a", b"x")
    faulty.fail("replace", KeyboardInterrupt(), name="b", after=True)
    with pytest.raises(KeyboardInterrupt):
        faulty.replace("a", "b")
    assert faulty.list() == ["b"]


def test_write_all_goes_on_after_a_short_write_and_ends_at_none(faulty: FaultyFiles) -> None:
    file = faulty.create("a")
    faulty.shorten("pwrite", 3)
    write_all(file, b"abcdef", 0)
    assert (file.pread(9, 0), faulty.calls["pwrite"]) == (b"abcdef", 2)
    faulty.shorten("pread", 2)
    assert file.pread(9, 0) == b"ab"
    faulty.shorten("pwrite", 0)
    with pytest.raises(OSError, match="progress"):
        write_all(file, b"x", 0)


def test_an_operation_that_does_not_exist_cannot_fail(faulty: FaultyFiles) -> None:
    with pytest.raises(ValueError, match="found 'fsync'"):
        faulty.fail("fsync", errno.EIO)
    with pytest.raises(ValueError, match="expected one of pread, pwrite"):
        faulty.shorten("sync", 1)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_every_operation_can_fail(operation: str) -> None:
    faulty = FaultyFiles(MemoryFiles())
    put(faulty, "a", b"x")
    file = faulty.open_write("a")
    calls: dict[str, Callable[[], object]] = {
        "list": faulty.list, "exists": lambda: faulty.exists("a"), "size": file.size, "close": file.close,
        "open_read": lambda: faulty.open_read("a"), "open_write": lambda: faulty.open_write("a"),
        "create": lambda: faulty.create("b"), "replace": lambda: faulty.replace("a", "b"), "sync": file.sync,
        "remove": lambda: faulty.remove("a"), "make_folder": lambda: faulty.make_folder("index"), "map": file.map,
        "sync_folder": faulty.sync_folder, "lock": faulty.lock, "unlock": faulty.unlock, "abandon": faulty.abandon,
        "pread": lambda: file.pread(1, 0), "pwrite": lambda: file.pwrite(b"x", 0), "drop_cache": file.drop_cache,
        "truncate": lambda: file.truncate(0), "allocate": lambda: file.allocate(0, 1), "sync_data": file.sync_data,
    }  # fmt: skip
    faulty.fail(operation, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        calls[operation]()


def test_a_close_that_fails_has_closed(faulty: FaultyFiles) -> None:
    file = faulty.create("a")
    faulty.fail("close", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.size()


def test_an_owners_note_that_cannot_be_written_is_no_reason_to_refuse_the_lock(faulty: FaultyFiles) -> None:
    put(faulty, OWNER_NAME, b"of another")
    faulty.fail("create", errno.ENOSPC)
    write_owner(faulty, None)
    assert faulty.list() == []


@pytest.mark.parametrize("operation", ["pwrite", "sync", "close", "replace"])
def test_write_atomic_that_fails_leaves_the_old_file_alone(opened: Opened, operation: str) -> None:
    opened.files.write_atomic("a", b"old")
    other = opened.beside()
    files = FaultyFiles(other)
    files.fail(operation, errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomic("a", b"new")
    assert contents(opened.files) == {"a": b"old"}
    files.close()


def test_write_atomic_gives_up_where_too_much_is_left_over(faulty: FaultyFiles) -> None:
    faulty.fail("create", errno.EEXIST, repeat=True)
    with pytest.raises(FileExistsError, match="left over"):
        faulty.write_atomic("a", b"x")
    assert faulty.calls["create"] == 1000
