from __future__ import annotations

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from batpak.storage.tree import Tree

LEAVES = [blake3(bytes([number])).digest() for number in range(70)]


def root_of(leaves: list[bytes]) -> bytes:
    """Return the root as RFC 6962 defines it, by recursion."""
    if not leaves:
        return blake3(b"").digest()
    if len(leaves) == 1:
        return blake3(b"\0" + leaves[0]).digest()
    left = 1
    while left * 2 < len(leaves):
        left *= 2
    return blake3(b"\1" + root_of(leaves[:left]) + root_of(leaves[left:])).digest()


def test_the_root_is_that_of_the_definition_at_every_size() -> None:
    tree = Tree()
    for size, leaf in enumerate(LEAVES):
        assert tree.root() == root_of(LEAVES[:size])
        tree.add(leaf)
    assert tree.size == len(LEAVES)


@given(st.integers(0, 70), st.integers(0, 70))
def test_a_tree_goes_on_from_its_state(first: int, second: int) -> None:
    tree = Tree()
    for leaf in LEAVES[:first]:
        tree.add(leaf)
    assert len(tree.peaks) == first.bit_count()
    again = Tree(tree.size, tree.peaks)
    for leaf in LEAVES[first : first + second]:
        again.add(leaf)
    assert again.root() == root_of(LEAVES[: first + second])
    assert tree.root() == root_of(LEAVES[:first])


def test_a_copy_grows_on_its_own() -> None:
    tree = Tree()
    tree.add(LEAVES[0])
    copy = tree.copy()
    copy.add(LEAVES[1])
    assert (tree.size, copy.size) == (1, 2)
    assert tree.root() == root_of(LEAVES[:1])
    assert copy.root() == root_of(LEAVES[:2])


def test_no_two_lists_of_leaves_share_a_root() -> None:
    lists = [LEAVES[start:stop] for start in range(6) for stop in range(start, 8)]
    lists += [[LEAVES[0], LEAVES[0]], [LEAVES[1], LEAVES[0]], [root_of(LEAVES[:2])], [b"".join(LEAVES[:2])]]
    roots = {root_of(leaves) for leaves in lists}
    assert len(roots) == len({tuple(leaves) for leaves in lists})
