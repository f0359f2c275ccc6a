from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from batpak.storage.tree import Stretch

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


def stretch(start: int, stop: int) -> Stretch:
    """Return the stretch of leaves from *start* to *stop*."""
    made = Stretch(start)
    for leaf in LEAVES[start:stop]:
        made.add(leaf)
    return made


def subtrees(start: int, stop: int) -> list[bytes]:
    """Return the roots of the largest complete subtrees that lie within the leaves from *start* to *stop*."""
    found = []
    while start < stop:
        width = 1
        while start % (width * 2) == 0 and start + width * 2 <= stop:
            width *= 2
        found.append(root_of(LEAVES[start : start + width]))
        start += width
    return found


def test_the_root_is_that_of_the_definition_at_every_size() -> None:
    tree = Stretch()
    for size, leaf in enumerate(LEAVES):
        assert tree.root() == root_of(LEAVES[:size])
        tree.add(leaf)
    assert tree.size == len(LEAVES)


def test_every_stretch_is_kept_as_its_largest_subtrees() -> None:
    for start in range(len(LEAVES)):
        for stop in range(start, len(LEAVES) + 1):
            assert stretch(start, stop).nodes == subtrees(start, stop)


def test_many_leaves_at_once_make_what_they_make_one_by_one() -> None:
    for start in range(0, len(LEAVES), 3):
        for middle in range(start, len(LEAVES) + 1):
            made = stretch(start, middle)
            made.extend(LEAVES[middle:])
            assert (made.nodes, made.end) == (subtrees(start, len(LEAVES)), len(LEAVES))


@given(st.lists(st.integers(0, 70), max_size=6).map(sorted))
def test_stretches_that_follow_one_another_make_the_tree(ends: list[int]) -> None:
    tree = Stretch()
    for start, stop in zip([0, *ends], [*ends, 70], strict=True):
        tree.join(stretch(start, stop))
    assert (tree.start, tree.size, tree.root()) == (0, 70, root_of(LEAVES))


def test_a_stretch_goes_on_from_its_state() -> None:
    for start, middle in ((0, 0), (0, 37), (5, 5), (5, 6), (5, 37)):
        made = stretch(start, middle)
        again = Stretch(made.start, made.size, made.nodes)
        for leaf in LEAVES[middle:]:
            again.add(leaf)
        assert again.nodes == subtrees(start, 70)
        assert made.nodes == subtrees(start, middle)


def test_a_copy_grows_on_its_own() -> None:
    tree = stretch(0, 1)
    copy = tree.copy()
    copy.add(LEAVES[1])
    assert (tree.size, copy.size) == (1, 2)
    assert tree.root() == root_of(LEAVES[:1])
    assert copy.root() == root_of(LEAVES[:2])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(AssertionError):
        stretch(0, 3).join(stretch(4, 5))
    with pytest.raises(AssertionError):
        stretch(1, 3).root()


def test_no_two_lists_of_leaves_share_a_root() -> None:
    lists = [LEAVES[start:stop] for start in range(6) for stop in range(start, 8)]
    lists += [[LEAVES[0], LEAVES[0]], [LEAVES[1], LEAVES[0]], [root_of(LEAVES[:2])], [b"".join(LEAVES[:2])]]
    roots = {root_of(leaves) for leaves in lists}
    assert len(roots) == len({tuple(leaves) for leaves in lists})
