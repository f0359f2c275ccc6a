"""The operators of subscriptions: pure steps through which each item goes, in the order in which they were added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from batpak.errors import InvalidRequestError
from batpak.request import check_count

SKIPPED: Final = object()
"""In the place of an item that goes no further."""

Step: TypeAlias = Callable[[Any], object]


class Pipeline:
    """What happens to each item; *ended* once a `take` has had its fill."""

    __slots__ = ("_steps", "_takes")

    def __init__(self, steps: tuple[Step, ...] = (), takes: tuple[Take, ...] = ()) -> None:
        """Do *steps*, of which *takes* may end it all."""
        self._steps = steps
        self._takes = takes

    @property
    def ended(self) -> bool:
        """Whether nothing more can come out."""
        for take in self._takes:  # noqa: SIM110 - asked for each item; a generator costs more than the loop
            if not take.left:
                return True
        return False

    def push(self, item: object) -> object:
        """Return what becomes of *item*, or `SKIPPED`."""
        for step in self._steps:
            item = step(item)
            if item is SKIPPED:
                break
        return item

    def filter(self, keep: Callable[[Any], object]) -> Pipeline:
        """Let through what *keep* says yes to."""
        _require_callable(keep)
        return self._with(lambda item: item if keep(item) else SKIPPED)

    def map(self, change: Callable[[Any], object]) -> Pipeline:
        """Put what *change* returns in the place of each item; None skips it."""
        _require_callable(change)
        return self._with(lambda item: _unless_none(change(item)))

    def take(self, count: int) -> Pipeline:
        """End after *count* items."""
        take = Take(check_count("count", count))
        return Pipeline((*self._steps, take), (*self._takes, take))

    def scan(self, state: object, fold: Callable[[Any, Any], object]) -> Pipeline:
        """Put each new state that *fold* makes of the last one and an item in the item's place; None keeps the last."""
        _require_callable(fold)
        return self._with(_Scan(state, fold))

    def _with(self, step: Step) -> Pipeline:
        return Pipeline((*self._steps, step), self._takes)


class Take:
    """Lets *left* more items through."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        """Begin with all of them."""
        self.left = left

    def __call__(self, item: object) -> object:
        """Count *item*."""
        self.left -= 1
        return item


class _Scan:
    """Keeps a state."""

    __slots__ = ("_fold", "_state")

    def __init__(self, state: object, fold: Callable[[Any, Any], object]) -> None:
        self._state = state
        self._fold = fold

    def __call__(self, item: object) -> object:
        state = self._fold(self._state, item)
        if state is None:
            return SKIPPED
        self._state = state
        return state


def _unless_none(item: object) -> object:
    return SKIPPED if item is None else item


def _require_callable(found: object) -> None:
    """Refuse what cannot be called, now and not at the first event."""
    if not callable(found):
        raise InvalidRequestError(f"operator: found {type(found).__name__}, expected a function")
