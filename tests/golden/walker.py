"""Golden stores as test data: their folders, the frames in their segments, and what is expected of them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batpak.storage.frame import FRAME

GOLDEN = Path(__file__).parent
STORES = sorted(path.parent for path in GOLDEN.glob("rust/**/expected.json"))
SEGMENTS = sorted(GOLDEN.glob("rust/**/*.fbat"))
DERIVED = GOLDEN / "derived" / "000001.fbat"


def name_of(path: Path) -> str:
    """Name a golden folder or file in a test's id."""
    return str(path.relative_to(GOLDEN))


@dataclass(frozen=True)
class RawFrame:
    """A frame whose checksum is right, undecoded."""

    segment: int
    offset: int
    body: bytes

    @property
    def end(self) -> int:
        return self.offset + FRAME.size + len(self.body)


def raw_frames(path: Path) -> Iterator[RawFrame]:
    """Yield the frames of one segment up to the first bytes that are none."""
    data = path.read_bytes()
    at = 8 + int.from_bytes(data[4:8], "big")
    while at + FRAME.size <= len(data):
        length, crc = FRAME.unpack_from(data, at)
        body = data[at + FRAME.size : at + FRAME.size + length]
        if not length or len(body) < length or zlib.crc32(body) != crc:
            return
        frame = RawFrame(int(path.stem), at, body)
        yield frame
        at = frame.end


def expected(store: Path) -> dict[str, Any]:
    """Return what the original says about a store."""
    facts: dict[str, Any] = json.loads((store / "expected.json").read_text(encoding="utf-8"))
    return facts


def segments(store: Path) -> list[Path]:
    """Return a store's segment files in order."""
    return sorted((store / "store").glob("*.fbat"))
