"""A Merkle tree over event hashes, in the shape of RFC 6962 with BLAKE3 (docs/format.md, section 5).

A leaf is ``BLAKE3(00 || event hash)``, an inner node ``BLAKE3(01 || left || right)``, and the left subtree of an
inner node holds the largest power of two of leaves below the whole. Only the roots of the complete subtrees are
kept, so the state is as long as the binary digits of the size and the tree can be continued from it at any time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterable


class Tree:
    """A growing tree; *size* leaves, *peaks* the roots of its complete subtrees, largest first."""

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        """Continue a tree from its state; empty by default."""
        self.size = size
        self.peaks = list(peaks)

    def add(self, event_hash: bytes) -> None:
        """Add one leaf."""
        node = blake3(b"\x00" + event_hash).digest()
        size = self.size
        while size & 1:
            node = blake3(b"\x01" + self.peaks.pop() + node).digest()
            size >>= 1
        self.peaks.append(node)
        self.size += 1

    def root(self) -> bytes:
        """Return the root; for an empty tree BLAKE3 of nothing."""
        if not self.peaks:
            return blake3(b"").digest()
        node = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            node = blake3(b"\x01" + peak + node).digest()
        return node

    def copy(self) -> Tree:
        """Return a tree that grows on its own."""
        return Tree(self.size, self.peaks)
