"""What docs/architecture.md says of the machine is what the code says of itself."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import get_args

import batpak
from batpak import actors
from batpak.actors import WAITS_FOR, index, mailbox, messages
from batpak.actors.messages import Command

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    name
    for name, value in vars(messages).items()
    if inspect.isclass(value) and issubclass(value, Command) and value.__name__ == name != "Command"
)


def commands_of(union: object) -> set[str]:
    """Return the names in an alias that is one command or several."""
    return {each.__name__ for each in (get_args(union) or (union,))}


def drawing(text: str) -> list[str]:
    """Return the lines of the drawing in *text*, without the margin."""
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if "front doors -->" in line)
    margin = len(lines[at]) - len(lines[at].lstrip())
    return [line[margin:] for line in lines[at : at + 4]]


def test_the_drawing_is_the_one_in_the_code() -> None:
    assert actors.__doc__ is not None
    assert drawing(PAGE) == drawing(actors.__doc__)


def test_the_drawing_shows_the_table() -> None:
    first, _, *rest = drawing(PAGE)
    chain = first.split(" --> ")[1:]
    for position, name in enumerate(chain):
        assert WAITS_FOR[name] == set(chain[position + 1 :])
    alone = [line.split("--> ")[1] for line in rest]
    assert all(not WAITS_FOR[name] for name in alone)
    assert {*chain, *alone} == set(WAITS_FOR)


def test_each_actor_has_its_commands() -> None:
    rows = [row.strip("|").split("|") for row in PAGE.splitlines() if row.startswith("| ") and row.count("|") == 5]
    taken = {row[0].strip(): set(re.findall(r"`(\w+)`", row[2])) & set(COMMANDS) for row in rows}
    assert {actor: names for actor, names in taken.items() if names} == {
        "writer": commands_of(messages.WriterCommand),
        "index": commands_of(messages.IndexCommand),
        "reader": commands_of(messages.ReaderCommand),
    }
    assert set().union(*taken.values()) == set(COMMANDS)


def test_every_file_that_is_named_is_there() -> None:
    paths = set(re.findall(r"`((?:batpak/)?(?:actors/|delivery/|storage/)?\w+\.py)`", PAGE))
    assert len(paths) >= 20
    assert [path for path in paths if not (ROOT / "batpak" / path.removeprefix("batpak/")).exists()] == []


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"up to {mailbox.MAX_TURN_COMMANDS} of them" in PAGE
    assert f"after {index.RUN_EVENTS:,} events or {index.RUN_BYTES >> 20} MiB" in PAGE


def test_every_error_that_is_named_is_public() -> None:
    assert set(re.findall(r"`(\w+Error)`", PAGE)) <= set(batpak.__all__)


def test_it_is_one_page() -> None:
    assert len(PAGE.splitlines()) < 145
