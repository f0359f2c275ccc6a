"""A store that nobody refers to any more is closed at once, whatever it has delivered: no cycle keeps it."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from batpak import Coordinate, EventKind, Region, Store

EVERYTHING = Region()


@pytest.mark.parametrize("gone", ["nothing", "cursor", "subscription", "follower", "worker"])
def test_a_store_that_is_dropped_closes_without_the_garbage_collector(gone: str, tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.append(Coordinate("order:1", "shop"), EventKind(0x1, 0x001), {})
    if gone == "cursor":
        cursor = store.cursor(EVERYTHING, name="place")
        cursor.poll()
        cursor.commit()
        del cursor
    elif gone == "subscription":
        store.subscribe(EVERYTHING).filter(bool).poll()
    elif gone == "follower":
        store.follow(EVERYTHING).poll()
    elif gone == "worker":
        with store.cursor_worker(EVERYTHING, lambda _: None, name="place") as worker:
            store.wait_for("place", 0, 10)
        del worker
    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match="was not closed"):
            del store
    finally:
        gc.enable()
    Store.open(tmp_path).close()
