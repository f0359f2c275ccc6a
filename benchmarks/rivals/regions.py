"""The regions that pages are read from: everything that one part lets through, and two that meet."""

from __future__ import annotations

from benchmarks.events import KINDS, SCOPES

PREFIX = "order"
SCOPE_PART = SCOPES[1]
KIND_PART = KINDS[2]

PARTS = ("entity prefix", "scope", "kind", "scope and kind", "prefix and kind")
"""The first three have one part."""
