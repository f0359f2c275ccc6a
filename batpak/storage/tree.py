"""A Merkle tree over event hashes, in the shape of RFC 6962 with BLAKE3 (docs/format.md, section 5).

A leaf is ``BLAKE3(00 || event hash)``, an inner node ``BLAKE3(01 || left || right)``, and the left subtree of an
inner node holds the largest power of two of leaves below the whole. A stretch of the tree's leaves is kept as the
roots of the largest complete subtrees that lie within it: as many hashes as its length has binary digits, twice at
most. Stretches that follow one another can be joined, and the one that begins at leaf 0 has a root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Stretch:
    """A growing stretch of the tree: *size* leaves from leaf *start* on, *nodes* the roots of its subtrees in order."""

    __slots__ = ("nodes", "size", "start")

    def __init__(self, start: int = 0, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        """Continue a stretch from its state; by default nothing, at the beginning of the tree."""
        self.start = start
        self.size = size
        self.nodes = list(nodes)

    @property
    def end(self) -> int:
        """The leaf behind the last one."""
        return self.start + self.size

    def add(self, event_hash: bytes) -> None:
        """Add one leaf."""
        self._push(blake3(b"\x00" + event_hash).digest(), self.start + self.size, 0)
        self.size += 1

    def extend(self, event_hashes: Sequence[bytes]) -> None:
        """Add many leaves, each complete subtree of theirs at once."""
        leaves = _digests([b"\x00" + event_hash for event_hash in event_hashes])
        done = 0
        while done < len(leaves):
            at = self.start + self.size
            level = (len(leaves) - done).bit_length() - 1
            if at:
                level = min(level, (at & -at).bit_length() - 1)
            width = 1 << level
            nodes = leaves[done : done + width]
            while len(nodes) > 1:
                pairs = zip(nodes[::2], nodes[1::2], strict=True)
                nodes = _digests([b"\x01" + left + right for left, right in pairs])
            self._push(nodes[0], at >> level, level)
            self.size += width
            done += width

    def join(self, other: Stretch) -> None:
        """Add the leaves of *other*, which begins where this one ends."""
        assert other.start == self.end, f"found a stretch from {other.start} on, expected {self.end}"
        at, end = other.start, other.end
        for node in other.nodes:
            level = (end - at).bit_length() - 1
            if at:
                level = min(level, (at & -at).bit_length() - 1)
            self._push(node, at >> level, level)
            at += 1 << level
        self.size += other.size

    def root(self) -> bytes:
        """Return the root of the tree that ends here; for no leaves BLAKE3 of nothing."""
        assert self.start == 0, f"found a stretch from leaf {self.start} on, expected the whole tree"
        if not self.nodes:
            return blake3(b"").digest()
        node = self.nodes[-1]
        for left in reversed(self.nodes[:-1]):
            node = blake3(b"\x01" + left + node).digest()
        return node

    def copy(self) -> Stretch:
        """Return a stretch that grows on its own."""
        return Stretch(self.start, self.size, self.nodes)

    def _push(self, node: bytes, at: int, level: int) -> None:
        """Put a subtree behind the others: number *at* of those with 2 ** *level* leaves."""
        nodes, start = self.nodes, self.start
        while at & 1 and (at - 1) << level >= start:
            node = blake3(b"\x01" + nodes.pop() + node).digest()
            at >>= 1
            level += 1
        nodes.append(node)


def _digests(texts: Iterable[bytes]) -> list[bytes]:
    """Return the hash of each text; one hasher that is used again takes two thirds of the time of one for each."""
    hasher = blake3()
    update, digest, reset = hasher.update, hasher.digest, hasher.reset
    digests = []
    for text in texts:
        update(text)
        digests.append(digest())
        reset()
    return digests
