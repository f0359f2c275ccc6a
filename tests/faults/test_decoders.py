"""Decoders fed anything: only the documented error, no more than 64 MiB, no more than a second."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st

from tests.faults.conftest import Table
from tests.faults.decoders import DECODERS, Decoder, check, variants
from tests.faults.fuzz import mutated
from tests.faults.scale import SEED, dice, times

EXAMPLES, MUTATED = 60, 500
LEVELS = 1023

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture(params=DECODERS, ids=[decoder.name for decoder in DECODERS])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    found: Decoder = request.param
    return found


def test_valid_bytes_are_taken(decoder: Decoder) -> None:
    assert decoder.seeds()
    taken = [seed for seed in decoder.seeds() for data in variants(decoder, seed) if taken_by(decoder, data)]
    assert taken


def taken_by(decoder: Decoder, data: bytes) -> bool:
    return check(decoder, data) == "taken"


def test_anything_is_taken_or_refused(decoder: Decoder, table: Table) -> None:
    found: Counter[str] = Counter()

    @hypothesis_seed(SEED)
    @settings(
        max_examples=times(EXAMPLES),
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(st.binary(max_size=200), packed(), st.binary(min_size=1000, max_size=4000)))
    def run(data: bytes) -> None:
        for each in variants(decoder, data):
            found[check(decoder, each)] += 1

    run()
    random = dice(f"decoder {decoder.name}")
    seeds = decoder.seeds()
    for _ in range(times(MUTATED)):
        for each in variants(decoder, mutated(random, random.choice(seeds))):
            found[check(decoder, each, measure=random.random() < 0.1)] += 1
    table.add(f"decoder: {decoder.name}", times(EXAMPLES + MUTATED), found)


def packed() -> st.SearchStrategy[bytes]:
    """Return MessagePack of anything: what a decoder gets to see when the outermost layer is right."""
    leaves = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.binary(), st.text(), st.floats())
    values = st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 2**64 - 1), inner)
    )
    return values.map(msgpack.packb)


def bombs() -> Iterator[bytes]:
    """Yield few bytes that announce many: arrays and maps in one another, each as long as anybody believes."""
    for size in (4096, 60_000):
        for opening in (b"\xdd" + struct.pack(">I", size), b"\xdc\x27\x10", b"\xdf" + struct.pack(">I", size // 2)):
            for level in (b"", b"\xa1a"):
                yield ((opening + level) * LEVELS)[:size].ljust(size, b"\xc0")
        yield b"\x81" * (size - 1) + b"\xc0"


def test_few_bytes_that_announce_many_cost_no_memory(decoder: Decoder) -> None:
    for bomb in bombs():
        for seed in decoder.seeds()[:1]:
            for data in (bomb, seed[:8] + bomb, seed[:12] + bomb, b"\x9f\xc4\x10" + bytes(16) + bomb):
                for each in variants(decoder, data):
                    check(decoder, each)


def test_a_decoder_that_wastes_memory_or_time_or_raises_anything_is_found() -> None:
    wasteful = Decoder("memory", lambda data: bytearray(100 << 20), (), list)
    with pytest.raises(AssertionError, match="MiB"):
        check(wasteful, b"")
    slow = Decoder("time", lambda data: time.sleep(1.1), (), list)
    with pytest.raises(AssertionError, match=r"1\.1 s"):
        check(slow, b"", measure=False)
    failing = Decoder("error", lambda data: data[0], (ValueError,), list)
    with pytest.raises(IndexError):
        check(failing, b"")
