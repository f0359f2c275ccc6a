"""The table of what is expected: compared with what was counted, and written anew."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from tests.counts.counting import Counted
from tests.counts.expected import EXPECTED, Expected
from tests.counts.kernel import PREFIX
from tests.counts.meters import VERSIONED
from tests.counts.scenes import SCENES

PATH = Path(__file__).with_name("expected.py")
HERE = f"tests/counts/{PATH.name}"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TIMES = {scene.name: scene.times for scene in SCENES}
_TABLE = "EXPECTED: Expected = "


def expected(scene: str, figure: str) -> int | None:
    """Return what a figure should be with this Python; None where nobody has counted it yet."""
    found = EXPECTED.get(scene, {}).get(figure, None if figure in VERSIONED else 0)
    return found.get(VERSION) if isinstance(found, dict) else found


class Kind(Enum):
    """What a figure depends on, and who counts it."""

    PLAIN = "the same everywhere"
    VERSIONED = "of one version of Python"
    SYSTEM = "counted by strace"


def kind_of(figure: str) -> Kind:
    """Return the kind of a figure."""
    if figure.startswith(PREFIX):
        return Kind.SYSTEM
    return Kind.VERSIONED if figure in VERSIONED else Kind.PLAIN


def differences(scene: str, counted: dict[str, int], kind: Kind) -> list[str]:
    """Return a line for each figure of a scene and kind that is not what is expected."""
    names = [*counted, *(name for name in EXPECTED.get(scene, {}) if name not in counted)]
    return [
        _difference(scene, name, counted.get(name, 0), wanted)
        for name in names
        if kind_of(name) is kind and (wanted := expected(scene, name)) is not None and wanted != counted.get(name, 0)
    ]


def _difference(scene: str, figure: str, found: int, wanted: int) -> str:
    times = TIMES[scene]
    return (
        f"{scene}, {times} times: found {found:,} {figure} ({found / times:,.2f} each), "
        f"expected {wanted:,} ({wanted / times:,.2f} each); if that is meant, change {_place(scene, figure)} "
        f"or run `python -m tests.counts --write`"
    )


def _place(scene: str, figure: str) -> str:
    """Return where the figure stands in the table, or where it is to be put."""
    scene_line = 0
    for number, line in enumerate(PATH.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith(f'    "{scene}": '):
            scene_line = number
        if scene_line and line.startswith(f'        "{figure}": '):
            return f"{HERE}:{number}"
        if scene_line and line == "    },":
            break
    return f"{HERE} behind line {scene_line}"


def write(counted: Counted) -> None:
    """Put *counted* into the table; what was not counted, as for other versions of Python, stays as it is."""
    before = PATH.read_text(encoding="utf-8").partition(_TABLE)[0]
    PATH.write_text(before + _TABLE + "\n".join(_lines(_merged(counted))) + "\n", encoding="utf-8")


def _merged(counted: Counted) -> Expected:
    merged: Expected = {}
    for scene, figures in counted.items():
        before = EXPECTED.get(scene, {})
        merged[scene] = {}
        for name, figure in figures.items():
            known = before.get(name)
            versions = {**(known if isinstance(known, dict) else {}), VERSION: figure}
            merged[scene][name] = dict(sorted(versions.items())) if kind_of(name) is Kind.VERSIONED else figure
        if not any(kind_of(name) is Kind.SYSTEM for name in figures):
            merged[scene] |= {name: figure for name, figure in before.items() if kind_of(name) is Kind.SYSTEM}
    return merged


def _lines(table: Expected) -> Iterator[str]:
    """Yield the table as it stands in the file."""
    yield "{"
    for scene, figures in table.items():
        yield f'    "{scene}": {{'
        for name, figure in figures.items():
            if isinstance(figure, dict):
                versions = ", ".join(f'"{version}": {number:_}' for version, number in figure.items())
                yield f'        "{name}": {{{versions}}},'
            else:
                yield f'        "{name}": {figure:_},'
        yield "    },"
    yield "}"
