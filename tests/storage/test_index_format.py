"""The bytes of a run: what docs/index-format.md shows, and what is refused at the door."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import msgpack
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from batpak.errors import UnsupportedFormatError
from batpak.storage.row import Record
from batpak.storage.run import Run, RunError
from batpak.storage.run_format import HEADER_BYTES, Section
from batpak.testing.memory import MemoryFiles, MemoryReadFile
from tests.storage.index_model import STORE_ID, make_run, make_tail

PAGE = Path(__file__).parents[2] / "docs" / "index-format.md"
SHOWN = re.compile(r"^ *(\d+)  ((?:[0-9a-f]{2} ?)+)", re.MULTILINE)
EXAMPLE = Record(
    bytes.fromhex("0190a6c1b2c37000a1a2a3a4a5a6a7a8"),
    41,
    1_720_000_000_707,
    3,
    4096,
    182,
    "order:1",
    "shop",
    0,
    0x1001,
    1,
    0,
    0,
    None,
    bytes.fromhex("0190a6c1b2c37001b1b2b3b4b5b6b7b8"),
    bytes(range(32)),
)


def example() -> tuple[MemoryFiles, str, bytes]:
    """Return the run that the page shows: its directory, name and bytes."""
    files = MemoryFiles()
    run = make_run(files, make_tail([EXAMPLE]), salt=0x5A17)
    return files, run.name, files.read_bytes(run.name, 1 << 20)


def rewrite(files: MemoryFiles, name: str, data: bytes) -> None:
    files.write_atomic(name, data)


def with_meta(data: bytes, meta: bytes, *, version: int = 1) -> bytes:
    """Return a run with another meta and every checksum right."""
    salt, body_bytes = struct.unpack_from("<IQ", data, 24)
    body = data[HEADER_BYTES : HEADER_BYTES + body_bytes]
    head = struct.pack("<6sH16sIQII16x", b"BPRUN\0", version, STORE_ID, salt, body_bytes, len(meta), crc32c(meta, salt))
    return head + struct.pack("<I", crc32c(head)) + body + meta


def meta_of(data: bytes) -> dict[str, Any]:
    (body_bytes,) = struct.unpack_from("<Q", data, 28)
    meta: dict[str, Any] = msgpack.unpackb(data[HEADER_BYTES + body_bytes :])
    return meta


def test_the_page_shows_the_bytes_of_a_run() -> None:
    _, name, data = example()
    page = PAGE.read_text(encoding="utf-8")
    assert name in page
    assert f"{len(data):,} bytes" in page
    (body_bytes,) = struct.unpack_from("<Q", data, 28)
    shown = bytearray(HEADER_BYTES + body_bytes)
    lines = SHOWN.findall(page)
    assert len(lines) > 40
    for offset, text in lines:
        piece = bytes.fromhex(text)
        shown[int(offset) : int(offset) + len(piece)] = piece
    assert bytes(shown) == data[: HEADER_BYTES + body_bytes]


def test_the_page_names_every_section_and_key() -> None:
    page = PAGE.read_text(encoding="utf-8")
    keys = meta_of(example()[2]).keys()
    assert [name for name in (*Section, *keys) if f"`{name}`" not in page] == []


def test_opening_reads_only_header_and_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    files = MemoryFiles()
    run = make_run(files, make_tail([EXAMPLE] * 20_000))
    reads: list[int] = []
    pread = MemoryReadFile.pread

    def counted(file: MemoryReadFile, length: int, offset: int) -> bytes:
        reads.append(length)
        return pread(file, length, offset)

    monkeypatch.setattr(MemoryReadFile, "pread", counted)
    run = Run.open(files, run.name, STORE_ID)
    assert len(reads) == 2
    assert sum(reads) < 4096
    assert run.layout.body_bytes > 1_000_000
    assert not any(run.body.checked)


def test_opening_does_not_look_at_the_body() -> None:
    files, name, data = example()
    (body_bytes,) = struct.unpack_from("<Q", data, 28)
    rewrite(files, name, data[:HEADER_BYTES] + b"\xff" * body_bytes + data[HEADER_BYTES + body_bytes :])
    assert Run.open(files, name, STORE_ID).count == 1


def test_a_run_of_another_store_is_refused() -> None:
    files, name, _ = example()
    with pytest.raises(RunError, match="of store"):
        Run.open(files, name, bytes(16))


def test_a_run_of_a_newer_version_is_refused_as_such() -> None:
    files, name, data = example()
    rewrite(files, name, with_meta(data, b"whatever newer software writes", version=2))
    with pytest.raises(UnsupportedFormatError) as refused:
        Run.open(files, name, STORE_ID)
    assert (refused.value.file, refused.value.found, refused.value.supported) == (name, "version 2", "version 1")


def test_a_newer_version_in_a_damaged_header_is_damage() -> None:
    files, name, data = example()
    rewrite(files, name, data[:6] + b"\x02" + data[7:])
    with pytest.raises(RunError, match="checksum"):
        Run.open(files, name, STORE_ID)


def test_keys_that_are_not_known_are_passed_over() -> None:
    files, name, data = example()
    rewrite(files, name, with_meta(data, msgpack.packb({**meta_of(data), "later": [1]})))
    assert Run.open(files, name, STORE_ID).record(0).entity == "order:1"


def test_a_run_under_another_name_is_refused() -> None:
    files, name, data = example()
    other = name.replace("41", "42")
    rewrite(files, other, data)
    with pytest.raises(RunError, match="found the meta of"):
        Run.open(files, other, STORE_ID)


def test_a_run_that_is_not_there_is_refused() -> None:
    with pytest.raises(RunError, match="no such file"):
        Run.open(MemoryFiles(), "index/x.run", STORE_ID)


def test_what_the_maker_says_is_kept() -> None:
    files, name, _ = example()
    meta = Run.open(files, name, STORE_ID).meta
    assert (meta.store_id, meta.generation, meta.tree, meta.created_ms) == (STORE_ID, 0, b"tree", 0)
    assert meta.covers == ((1, b"identity", 0, 99, 7),)


@given(st.binary(max_size=200))
def test_any_meta_is_read_or_refused(meta: bytes) -> None:
    files, name, data = example()
    rewrite(files, name, with_meta(data, meta))
    with pytest.raises(RunError):
        Run.open(files, name, STORE_ID)


JUNK = (
    st.none() | st.integers(-1, 2**64 - 1) | st.text(max_size=3) | st.binary(max_size=3) | st.lists(st.integers(0, 9))
)


@given(st.data())
def test_a_meta_with_one_wrong_value_is_read_or_refused(data: st.DataObject) -> None:
    files, name, run_bytes = example()
    meta = meta_of(run_bytes)
    key = data.draw(st.sampled_from(sorted(meta)))
    if key == "sections" and data.draw(st.booleans()):
        meta[key][data.draw(st.sampled_from(sorted(meta[key])))] = data.draw(JUNK)
    else:
        meta[key] = data.draw(JUNK)
    rewrite(files, name, with_meta(run_bytes, msgpack.packb(meta)))
    try:
        run = Run.open(files, name, STORE_ID)
    except RunError:
        return
    assert run.count == 1
    assert run.record(0).event_id == EXAMPLE.event_id


@given(st.binary(max_size=300))
def test_any_file_is_refused(data: bytes) -> None:
    files, name, run_bytes = example()
    for content in (data, run_bytes[:64] + data, data + run_bytes[len(data) :]):
        if content != run_bytes:
            rewrite(files, name, content)
            try:
                run = Run.open(files, name, STORE_ID)
                run.record(0)
            except RunError:
                continue
            assert run.record(0).event_id == EXAMPLE.event_id
