"""Making runs: out of a tail, or out of neighbouring runs, in slices of work that are short enough to step in between.

A run is written aside, synced, renamed and its folder synced; until then nobody sees it, and a build that is given up
removes what it wrote. Nothing is sorted as a whole: names, ids and links come sorted from each source and are merged,
postings are filled in by one pass over the rows. Building takes about 4 bytes of memory a row, 20 an entity and a few
MiB.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from itertools import groupby
from math import log
from typing import TYPE_CHECKING, Final

from batpak.storage.body_writer import BodyWriter
from batpak.storage.files import TEMPORARY_PREFIX, write_all
from batpak.storage.run_draft import Draft
from batpak.storage.run_format import (
    FOLDER,
    HEADER_BYTES,
    Layout,
    RunMeta,
    check_byte_order,
    check_layout,
    encode_header,
    encode_meta,
    run_name,
)
from batpak.storage.run_keys import write_heads, write_ids, write_links
from batpak.storage.run_postings import write_postings
from batpak.storage.run_rows import RowNotes
from batpak.storage.run_sources import RunSource, TailSource
from batpak.storage.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from batpak.storage.files import Files, WriteFile
    from batpak.storage.run import Run
    from batpak.storage.run_sources import Source

MERGED_RUNS: Final = 8
"""How many runs of one size class are merged: a row is rewritten once for each factor of eight in size."""
SMALLEST_CLASS_ROWS: Final = 512


def build(
    files: Files, source: Tail | Sequence[Run], meta: RunMeta, *, bound: int | None = None, salt: int | None = None
) -> Generator[None, None, str]:
    """Write a run that holds *source*, in slices of about 0.2 ms between which it yields, and return its name.

    *source* is a tail, of which only *bound* rows are taken if that is given, or runs that are neighbours, in order;
    it must not be empty. When this returns the run is durable. An `OSError`, a `BadBlockError` of a source, or closing
    the generator leaves no run behind that is not whole.
    """
    check_byte_order()
    sources: list[Source]
    if isinstance(source, Tail):
        sources = [TailSource(source, source.count if bound is None else bound)]
        first, last = (source.global_sequence(row) for row in (0, sources[0].count - 1))
    else:
        sources = [RunSource(run) for run in source]
        first, last = source[0].first_sequence, source[-1].last_sequence
    name = run_name(first, last, meta.generation)
    temporary = f"{FOLDER}/{TEMPORARY_PREFIX}0-{name.removeprefix(FOLDER + '/')}"
    files.make_folder(FOLDER)
    files.sync_folder()
    files.remove(temporary)
    try:
        with closing(files.create(temporary)) as file:
            draft = Draft(BodyWriter(file, int.from_bytes(os.urandom(4), "little") if salt is None else salt), sources)
            layout = yield from _write_body(draft, meta, first, last)
            _finish(file, name, layout)
            yield
            file.sync()
        yield
        files.replace(temporary, name)
        temporary = name
        files.sync_folder(FOLDER)
    except BaseException:
        with suppress(OSError):
            files.remove(temporary)
        raise
    return name


def plan_merge(runs: Sequence[Run]) -> slice | None:
    """Return which of *runs*, all neighbours and in order, to merge next; None for none.

    A run's size class is the logarithm, to base 8, of its rows over 512. Eight runs of one class are merged, smaller
    ones between them too. Runs that a larger, newer one has left behind would wait for ever: they are merged as well.
    """
    classes = [size_class(run.count) for run in runs]
    for size in sorted(set(classes)):
        for start, stop in _stretches(classes, size):
            walled = stop < len(runs) and stop - start > 1
            if walled or classes[start:stop].count(size) >= MERGED_RUNS:
                return slice(start, stop)
    return None


def size_class(count: int) -> int:
    """Return the size class of a run of *count* rows."""
    return max(0, int(log(max(count, 1) / SMALLEST_CLASS_ROWS, MERGED_RUNS) + 1e-9))


def _stretches(classes: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Return the longest stretches without a class above *size*."""
    stretches = []
    start = 0
    for fits, stretch in groupby(classes, key=lambda each: each <= size):
        stop = start + len(list(stretch))
        if fits:
            stretches.append((start, stop))
        start = stop
    return stretches


def _write_body(draft: Draft, meta: RunMeta, first: int, last: int) -> Generator[None, None, Layout]:
    """Write every section, in slices, and return what header and meta have to say."""
    for source in draft.sources:
        yield from source.prepare()
    yield from draft.write_names()
    notes = RowNotes(draft)
    yield from notes.write()
    yield from notes.write_fences()
    yield from write_postings(draft, notes.kinds)
    yield from write_heads(draft, notes.unordered)
    yield from write_ids(draft, notes)
    yield from write_links(draft)
    writer = draft.writer
    writer.finish()
    return Layout(
        meta,
        draft.count,
        first,
        last,
        min(notes.wall_fences),
        notes.seen_bits,
        writer.salt,
        writer.length,
        writer.sections,
        bytes(writer.crcs),
    )


def _finish(file: WriteFile, name: str, layout: Layout) -> None:
    """Write meta and header."""
    check_layout(name, layout)
    meta = encode_meta(layout)
    write_all(file, meta, HEADER_BYTES + layout.body_bytes)
    write_all(file, encode_header(layout, meta), 0)
