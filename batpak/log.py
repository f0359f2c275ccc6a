"""The structured log: one vocabulary, written down in docs/logging.md.

Nothing here configures structlog. Where the program has not configured it either, only warnings and worse pass.
Lines are emitted outside every turn, and payloads are never among their fields. While a thread emits a line it may
not call the store: a processor that does so gets a `ReentrantCallError`, and what a processor raises is swallowed,
because the work that the line tells of has been done.
"""

from __future__ import annotations

import logging
from threading import get_ident
from typing import Final

import structlog

DEBUG: Final = logging.DEBUG
INFO: Final = logging.INFO
WARNING: Final = logging.WARNING
ERROR: Final = logging.ERROR
_METHODS: Final = {DEBUG: "debug", INFO: "info", WARNING: "warning", ERROR: "error"}
_REFRESH_EVERY: Final = 64


class Log:
    """One store's logger; *level* is the lowest level that passes, kept so that asking costs a comparison."""

    __slots__ = ("_asked", "_configured", "_logger", "emitting", "level", "lost")

    def __init__(self) -> None:
        """Look up the level now; `passes` looks again every 64th time and when structlog gets configured."""
        self._logger = structlog.get_logger("batpak")
        self._asked = 0
        self.emitting: set[int] = set()
        self.lost = 0
        self._configured = False
        self.level = WARNING
        self.refresh()

    def refresh(self) -> None:
        """Ask structlog which level passes."""
        self._configured = structlog.is_configured()
        if not self._configured:
            self.level = WARNING
            return
        logger = self._logger.bind()
        enabled = getattr(logger, "is_enabled_for", None) or getattr(logger, "isEnabledFor", None)
        levels = (DEBUG, INFO, WARNING, ERROR)
        self.level = next((level for level in levels if enabled(level)), ERROR + 1) if callable(enabled) else DEBUG

    def passes(self, level: int) -> bool:
        """Whether a line at *level* would be seen."""
        self._asked += 1
        if not self._asked % _REFRESH_EVERY or structlog.is_configured() is not self._configured:
            self.refresh()
        return level >= self.level

    def emit(self, level: int, event: str, **fields: object) -> None:
        """Emit one line if *level* passes; never inside a turn."""
        me = get_ident()
        if level < self.level or me in self.emitting:
            return
        try:
            self.emitting.add(me)  # inside: an interrupt behind it must not leave us there for ever
            getattr(self._logger, _METHODS[level])(event, **fields)
        except Exception:  # noqa: BLE001 - a processor of the program failed; the store's work is done
            self.lost += 1
        finally:
            self.emitting.discard(me)
