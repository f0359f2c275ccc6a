"""What a thread does once for several who wait, of whom one carries it: the one who awaits the thread.

::

    join --> has it departed, and nobody carries it? --yes--> carry it: await the thread, then wake the others
                    |
                    no
                    v
               wait: for the outcome, or for being called to carry it

Whoever began it carries it, or is called when its turn has come; so an event loop has no tasks but its user's, and
each of them carries only what it waits for itself. A carrier that is cancelled leaves what a thread has begun to that
thread, which posts the end; what no thread has begun is carried by another one who waits, or taken back where nobody
does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread

from batpak.aio.errand import Errand, no_thread

if TYPE_CHECKING:
    from typing import Self

    from anyio import CapacityLimiter

    from batpak.aio.loops import Post, Signal


class Journey:
    """One journey to a thread and back.

    *departed* says that it may begin, *landed* that no more will come of it. *waiting* are the signals of those who
    wait for it, and *left* says how many have joined and wait no longer.
    """

    __slots__ = ("_called", "_errand", "departed", "landed", "left", "waiting")

    def __init__(self) -> None:
        """Begin with nobody."""
        self._errand: Errand[None] | None = None
        self._called: Signal | None = None
        self.departed = False
        self.landed = False
        self.left = 0
        self.waiting: list[Signal] = []

    # What it is --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Do what it is for; in a thread. Errors become outcomes."""
        raise NotImplementedError

    def refuse(self, error: Exception) -> None:
        """Answer everybody with *error*; nothing was begun."""
        raise NotImplementedError

    def is_for_nobody(self) -> bool:
        """Whether all who joined are gone."""
        raise NotImplementedError

    def signals(self) -> Iterable[Signal]:
        """Return the signals of those who wait, in the order in which they are called to carry it."""
        return self.waiting

    # Who carries it ----------------------------------------------------------------------------------------------

    def depart(self) -> None:
        """Let it begin: call somebody to carry it; where nobody waits yet, whoever comes next does so uncalled."""
        self.departed = True
        self._call()

    def is_uncarried(self) -> bool:
        """Whether it may begin, and nobody carries it or is called to."""
        return self.departed and self._errand is None and self._called is None

    async def carry(self, limiter: CapacityLimiter, post: Post, land: Callable[[Self], object]) -> None:
        """Have a thread do it and wait for the end; *land* is called then, or where it is refused or taken back.

        Cancelled after a thread has begun, it is the event loop that calls *land*, which *post* reaches.
        """
        self._errand = errand = Errand(self.run, post)
        try:
            await to_thread.run_sync(errand.run, abandon_on_cancel=True, limiter=limiter)
        except BaseException as error:
            if not errand.withdraw():
                self.left += 1
                if not errand.leave(partial(land, self)):
                    land(self)
                raise
            if not isinstance(error, Exception):
                self._errand = None
                self._leave(land, was_needed=True)
                raise
            self.refuse(no_thread(error))
        land(self)

    async def wait(self, signal: Signal, signals: list[Signal], land: Callable[[Self], object]) -> None:
        """Wait for *signal*, which is kept in *signals*; *land* is called where this is cancelled and was the last."""
        signals.append(signal)
        try:
            await signal
        except BaseException:
            was_called = self._called is signal
            if was_called:
                self._called = None
            self._leave(land, was_needed=was_called)
            raise
        if self._called is signal:
            self._called = None

    def forget(self) -> None:
        """Note that it has landed, and let go of what its thread had."""
        self.landed = True
        self._errand = None

    def _leave(self, land: Callable[[Self], object], *, was_needed: bool) -> None:
        """Note that one waits no longer; what nobody waits for and no thread has begun is taken back."""
        self.left += 1
        if self.landed:
            return
        if self._errand is None and self.is_for_nobody():
            land(self)
        elif was_needed:
            self._call()

    def _call(self) -> None:
        """Call one of those who wait."""
        for signal in self.signals():
            if not signal.done():
                self._called = signal
                signal.set_result(None)
                return
