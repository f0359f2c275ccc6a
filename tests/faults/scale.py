"""How much a run does, and with which dice.

`BATPAK_FAULTS` multiplies what an ordinary run does (`make soak`: 10). `BATPAK_SEED` throws other dice: a number, or
"new" for one that no run had before; it is printed with the table, so that what was found can be found again.
"""

from __future__ import annotations

import os
from random import Random, SystemRandom

TIMES = int(os.environ.get("BATPAK_FAULTS", "1"))
_ASKED = os.environ.get("BATPAK_SEED", "1")
SEED = SystemRandom().randrange(2, 1 << 32) if _ASKED == "new" else int(_ASKED)


def times(ordinary: int) -> int:
    """Return how often to do what an ordinary run does so often."""
    return ordinary * TIMES


def dice(name: str) -> Random:
    """Return the dice of one suite: the same for the same seed and name, whatever runs beside it."""
    return Random(f"{SEED} {name}")
