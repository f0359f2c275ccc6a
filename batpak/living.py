"""The stores that are open in this process: closed when it ends, dead in a forked child."""

from __future__ import annotations

import atexit
import os
import warnings
from typing import Protocol
from weakref import WeakSet

from batpak.errors import BatpakError


class Living(Protocol):
    """What has to be ended with its process."""

    def close(self) -> None:
        """End it."""

    def forget_parent(self) -> None:
        """In a forked child: be dead, and leave what the parent holds alone."""


OPEN: WeakSet[Living] = WeakSet()
"""Every store that is open now."""


@atexit.register
def _close_all() -> None:
    """Close what the program left open: it ends with its own exit code and everything is on disk."""
    for store in list(OPEN):
        warnings.warn(f"{store!r} was not closed", ResourceWarning, source=store, stacklevel=1)
        try:
            store.close()
        except BatpakError as error:
            warnings.warn(f"{store!r} could not be closed: {error}", ResourceWarning, source=store, stacklevel=1)


def _forget_parents() -> None:
    """In a forked child: no store of the parent is ours."""
    for store in list(OPEN):
        store.forget_parent()
    OPEN.clear()


os.register_at_fork(after_in_child=_forget_parents)
