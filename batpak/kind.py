"""Event kinds: 16 bits that say what an event is, 4 of category and 12 of type."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Final

from batpak.errors import InvalidKindError

MAX_CATEGORY: Final = 0xF
"""The highest category: a kind keeps it in 4 bits."""

MAX_TYPE_ID: Final = 0xFFF
"""The highest type number: a kind keeps it in 12 bits."""

MAX_KIND_VALUE: Final = 0xFFFF
"""The highest kind as a number: the formats keep it in 16 bits."""

SYSTEM_CATEGORY: Final = 0x0
EFFECT_CATEGORY: Final = 0xD

BATCH_BEGIN: Final = 0x0006
BATCH_COMMIT: Final = 0x0007
OPEN_COMPLETED: Final = 0x0008
CLOSE_COMPLETED: Final = 0x0009
DENIAL: Final = 0x000F
PARKED: Final = 0x0010
TOMBSTONE: Final = 0x0FFE

SYSTEM_KINDS: Final[frozenset[int]] = frozenset({*range(0x0001, 0x000A), PARKED})
"""The kinds, as numbers, that a read shows only with ``include_system=True``."""


@dataclass(frozen=True, slots=True, order=True, repr=False)
class EventKind:
    """What an event is: a *category* from 0x0 to 0xF and a *type_id* from 0x000 to 0xFFF.

    The categories 0x0 (system) and 0xD (effects) are reserved: such kinds can be read and compared, but every
    public write refuses them. Raises `InvalidKindError` for anything out of range.
    """

    category: int
    type_id: int
    value: int = field(init=False, compare=False)
    """The kind as one 16-bit number, the category in the highest 4."""
    is_reserved: bool = field(init=False, compare=False)
    """Whether public writes refuse the kind."""

    DATA: ClassVar[EventKind]
    """The kind for data that needs no kind of its own, 0x1000."""

    def __post_init__(self) -> None:
        """Refuse what does not fit 4 and 12 bits."""
        _check("category", self.category, MAX_CATEGORY)
        _check("type_id", self.type_id, MAX_TYPE_ID)
        object.__setattr__(self, "value", self.category << 12 | self.type_id)
        object.__setattr__(self, "is_reserved", self.category in (SYSTEM_CATEGORY, EFFECT_CATEGORY))

    @classmethod
    def from_value(cls, value: int) -> EventKind:
        """Give the kind whose 16-bit number is *value*; `InvalidKindError` outside 0 to 0xFFFF."""
        _check("value", value, MAX_KIND_VALUE)
        return _from_value(value)

    @property
    def is_system(self) -> bool:
        """Whether the kind is of category 0x0, which the store itself writes."""
        return self.category == SYSTEM_CATEGORY

    @property
    def is_effect(self) -> bool:
        """Whether the kind is of category 0xD, which is kept for control signals."""
        return self.category == EFFECT_CATEGORY

    def __str__(self) -> str:
        """Give the number as four hexadecimal digits, such as 0x1001."""
        return f"0x{self.value:04x}"

    def __repr__(self) -> str:
        """Give the constructor's call, in hexadecimal."""
        return f"EventKind(category=0x{self.category:x}, type_id=0x{self.type_id:03x})"


def _check(part: str, found: int, highest: int) -> None:
    if type(found) is int and 0 <= found <= highest:
        return
    shown = f"{found:#x}" if type(found) is int else type(found).__name__
    raise InvalidKindError(part, found=shown, expected=f"an int from 0x0 to {highest:#x}")


@lru_cache(maxsize=4096)
def _from_value(value: int) -> EventKind:
    return EventKind(value >> 12, value & MAX_TYPE_ID)


EventKind.DATA = EventKind(0x1, 0x000)
