"""The threads of a store: actors, the commands they take, and who may wait for whom.

::

    front doors --> compactor --> writer --> index
         |
         +--> reader
         +--> cache

An arrow means "may wait for an answer of". There is no way back, so nothing can deadlock. The table below is the
drawing's source; `Driver.ask` checks it at run time, and a test shows that it has no cycle. The compactor and the
cache have their places in it before they exist.
"""

from __future__ import annotations

from typing import Final

WAITS_FOR: Final[dict[str, frozenset[str]]] = {
    "compactor": frozenset({"writer", "index"}),
    "writer": frozenset({"index"}),
    "index": frozenset(),
    "reader": frozenset(),
    "cache": frozenset(),
}
"""For each actor, whose answers its turns may wait for; a front door may wait for all of them."""
