"""Coordinates: the address of a stream of events, and the rules its text follows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from batpak.errors import InvalidCoordinateError

MAX_COORDINATE_BYTES: Final = 1024
"""The longest entity and the longest scope, in bytes of UTF-8; the files' original format has the same limit."""

# Printable ASCII without "/", "|" and "="; what this matches is legal unless it holds two dots in a row.
_plain = re.compile(rf"[ -.0-<>-{{}}~]{{1,{MAX_COORDINATE_BYTES}}}").fullmatch

# In the order in which they are looked for; the first one found is the one reported.
_FORBIDDEN: Final = (
    (re.compile(r"\x00"), "no NUL"),
    (re.compile(r"[\x01-\x1f\x7f]"), "no control character"),
    (re.compile(r"/|\.\."), 'neither "/" nor ".."'),
    (re.compile(r"[|=]"), 'neither "|" nor "="'),
    (re.compile(r"[\ud800-\udfff]"), "no lone surrogate"),
)


@dataclass(frozen=True, slots=True, order=True)
class Coordinate:
    """The address of an event: the *entity* whose history it belongs to, and a *scope*, which is an exact label.

    Both are text of 1 to 1024 bytes in UTF-8 without control characters, ``/``, ``..``, ``|``, ``=`` and lone
    surrogates. A ``:`` in an entity separates namespaces: a region of ``order`` holds ``order:42`` as well.
    Raises `InvalidCoordinateError`, which names the first rule that is broken.
    """

    entity: str
    scope: str

    def __post_init__(self) -> None:
        """Refuse text that breaks a rule."""
        entity, scope = self.entity, self.scope
        plain = type(entity) is type(scope) is str and _plain(entity) and _plain(scope)
        if plain and ".." not in entity and ".." not in scope:
            return
        for check in (_check_filled, _check_length, _check_characters):
            check("entity", entity)
            check("scope", scope)
        object.__setattr__(self, "entity", str.__str__(entity))
        object.__setattr__(self, "scope", str.__str__(scope))

    def __str__(self) -> str:
        """Give ``entity@scope``."""
        return f"{self.entity}@{self.scope}"

    def __reduce__(self) -> tuple[type[Coordinate], tuple[str, str]]:
        """Pickle as a call of the constructor, so that unpickling checks the text again."""
        return Coordinate, (self.entity, self.scope)


def check_text(part: str, text: str) -> str:
    """Give *text* as a plain `str` if it may be an entity or a scope; else raise, naming *part*."""
    _check_filled(part, text)
    _check_length(part, text)
    _check_characters(part, text)
    return str.__str__(text)


def _check_filled(part: str, text: str) -> None:
    if not isinstance(text, str):
        raise InvalidCoordinateError(part, found=f"a {type(text).__name__}", expected="a str")
    if not text:
        raise InvalidCoordinateError(part, found="no text", expected="at least one character")


def _check_length(part: str, text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_COORDINATE_BYTES:
        expected = f"at most {MAX_COORDINATE_BYTES}"
        raise InvalidCoordinateError(part, found=f"{size} bytes of UTF-8", expected=expected)


def _check_characters(part: str, text: str) -> None:
    for pattern, expected in _FORBIDDEN:
        match = pattern.search(text)
        if match is not None:
            codes = " ".join(f"U+{ord(character):04X}" for character in match.group())
            raise InvalidCoordinateError(part, found=f"{codes} at character {match.start()}", expected=expected)
