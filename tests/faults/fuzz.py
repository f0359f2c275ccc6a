"""Feed every decoder for a while: ``python -m tests.faults.fuzz [SECONDS] [NAME]``, 20 seconds each by default.

Where atheris is installed (``pip install atheris``), feeding is guided by what the code of the
decoder does; without it bytes are changed at random, which is said. What is found is printed with the bytes that did
it, in hexadecimal, and the command fails. Each decoder has a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

INTERESTING = (
    *(b"\0", b"\xff", b"\x7f", b"\x80", b"\xc0", b"\x9f", b"\xc4\x10", b"\xd9", b"\xc7\x0c\xff", bytes(16)),
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\0\1\0\0", b"\xc6\0\1\0\0", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7)),
)
"""What means something where a length, a type or a number stands."""
SECONDS = 20.0
MEMORY_EVERY = 50
"""So seldom is memory measured where bytes are changed at random: measuring is slow."""


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def mutated(random: Random, seed: bytes) -> bytes:
    """Return *seed* with a few changes: bits, bytes, pieces left out, doubled, exchanged, made of other things."""
    data = bytearray(seed)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        at = random.randrange(len(data) + 1)
        length = random.choice((1, 1, 2, 4, 16, 64))
        how = random.randrange(7)
        if how == 0 and data:
            data[at % len(data)] ^= 1 << random.randrange(8)
        elif how == 1 and data:
            data[at % len(data)] = random.randrange(256)
        elif how == 2:
            del data[at : at + length]
        elif how == 3:
            data[at:at] = data[at : at + length]
        elif how == 4:
            data[at : at + length] = random.choice(INTERESTING)
        elif how == 5:
            data[at:at] = random.randbytes(length)
        else:
            del data[at:]
    return bytes(data)


def at_random(name: str, seconds: float) -> int:
    """Feed one decoder with bytes changed at random; how many times."""
    from tests.faults.decoders import DECODERS, check, variants

    decoder = next(each for each in DECODERS if each.name == name)
    random, seeds, done = Random(f"{name} {time.time_ns()}"), decoder.seeds(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(random, random.choice(seeds))
        for each in variants(decoder, data):
            try:
                check(decoder, each, measure=done % MEMORY_EVERY == 0)
            except BaseException:
                say(f"{name}: {each.hex()}")
                raise
            done += 1
    return done


def guided(name: str, seconds: float, corpus: Path) -> None:
    """Feed one decoder with what atheris makes of its seeds, which are laid into *corpus*; ends the process."""
    atheris: Any = import_module("atheris")

    with atheris.instrument_imports(include=["batpak"]):
        from tests.faults.decoders import DECODERS, check, variants

    decoder = next(each for each in DECODERS if each.name == name)
    done = 0

    def feed(data: bytes) -> None:
        nonlocal done
        for each in variants(decoder, data):
            check(decoder, each, measure=done % MEMORY_EVERY == 0)
            done += 1

    seeds = decoder.seeds()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    longest = max(map(len, seeds)) + 64
    options = [f"-max_total_time={int(seconds)}", f"-max_len={longest}", f"-artifact_prefix={corpus}/"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", str(corpus)], feed)
    atheris.Fuzz()


def fed(name: str, seconds: float) -> list[str]:
    """Feed one decoder in a process of its own; what it said, empty where nothing was found."""
    with TemporaryDirectory() as corpus:
        command = [sys.executable, "-m", "tests.faults.fuzz", str(seconds), name, corpus]
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20 * seconds + 120)
        told = (result.stdout + result.stderr).strip().splitlines()
        times = next((line.split()[-1] for line in told if "number_of_executed_units" in line or "times" in line), "?")
        say(f"{name:32} {'FAILED' if result.returncode else 'ok'}, fed {times} times")
        artifacts = [path.read_bytes().hex() for path in Path(corpus).glob("crash-*")]
    return [*told[-40:], *artifacts] if result.returncode else []


def main(arguments: list[str]) -> int:
    """Feed all decoders, one after the other; with a name and a folder, that one, here."""
    seconds = float(arguments[0]) if arguments else SECONDS
    if len(arguments) == 3 and find_spec("atheris"):  # before anything is imported: atheris instruments what is
        guided(arguments[1], seconds, Path(arguments[2]))
    if len(arguments) == 3:
        say(f"times: {at_random(arguments[1], seconds)}")
        return 0
    from tests.faults.decoders import DECODERS

    names = [decoder.name for decoder in DECODERS if not arguments[1:] or decoder.name == arguments[1]]
    how = "guided by atheris" if find_spec("atheris") else "at random: atheris is not installed"
    say(f"{len(names)} decoders, {seconds:g} seconds each, {how}")
    failures = [told for name in names if (told := fed(name, seconds))]
    for told in failures:
        say("\n".join(["", *told]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
