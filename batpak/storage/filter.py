"""How a part of the index answers a region: walk the shortest posting, test the rest of the region on each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from batpak.region import is_within
from batpak.storage.postings import AllRows
from batpak.storage.row import CATEGORY_SHIFT, HIDDEN, SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batpak.region import Region
    from batpak.storage.postings import Posting
    from batpak.storage.row import Record

MAX_DEPTH: Final = 8
"""How many leading namespaces of an entity have postings: an entity of nothing but colons must not cost thousands."""

_MAX_KIND: Final = 0xFFFF
_MAX_SEQUENCE: Final = 0xFFFFFFFF


class Terms(Protocol):
    """What a part offers for a region; None for a posting means that no row can match."""

    @property
    def seen_bits(self) -> int:
        """Every bit that any row has, at least."""

    def entity_posting(self, prefix: str) -> Posting | None:
        """Return the rows within *prefix*; more than those where its depth is beyond `MAX_DEPTH`."""

    def scope_posting(self, scope: str) -> Posting | None:
        """Return the rows of that scope."""

    def kind_posting(self, kind: int) -> Posting | None:
        """Return the rows of that kind."""

    def category_posting(self, category: int) -> Posting | None:
        """Return the rows of that category."""

    def correlation_posting(self, correlation_id: bytes) -> Posting | None:
        """Return the rows of that correlation."""

    def entity_test(self, prefix: str) -> Callable[[int], bool]:
        """Return whether an entity's number is that of one within *prefix*."""

    def scope_number(self, scope: str) -> int:
        """Return the number of a scope that has a posting."""

    def correlation(self, row: int) -> bytes:
        """Return the correlation of a row, its own id where it has no other."""

    def facts(self, row: int) -> tuple[int, ...]:
        """Return entity, scope, sequence, kind and bits of a row."""


def match(terms: Terms, region: Region, start: int, stop: int, *, reverse: bool) -> Iterator[int]:
    """Yield the rows in [start, stop) that match every part of *region* and are not hidden."""
    postings = _postings(terms, region)
    if postings is None or start >= stop:
        return iter(())
    walked, posting = min(postings.items(), key=lambda item: item[1].size(start, stop))
    rows = posting.rows(start, stop, reverse=reverse)
    test = _test(terms, region, walked)
    return rows if test is None else filter(test, rows)


def lies_in(record: Record, region: Region) -> bool:
    """Whether a read of *region* shows the event of *record*; the same as `match` finds, for one event."""
    bits, kind = record.bits, record.kind
    return (
        not bits & HIDDEN
        and (region.include_system or not bits & SYSTEM)
        and (region.entity is None or is_within(region.entity, record.entity))
        and (region.scope is None or record.scope == region.scope)
        and (region.kind is None or kind == region.kind.value)
        and (region.category is None or kind >> CATEGORY_SHIFT == region.category)
        and (region.sequences is None or region.sequences[0] <= record.sequence <= region.sequences[1])
        and (region.correlation_id is None or (record.correlation_id or record.event_id) == region.correlation_id.bytes)
    )


def visible(terms: Terms, rows: Iterator[int]) -> Iterator[int]:
    """Yield the *rows* that are not hidden."""
    if not terms.seen_bits & HIDDEN:
        return rows
    return (row for row in rows if not terms.facts(row)[-1] & HIDDEN)


def within(prefix: str) -> Callable[[str], bool]:
    """Return whether an entity is *prefix* or lies in its namespace."""
    namespace = prefix + ":"
    return lambda entity: entity == prefix or entity.startswith(namespace)


def posted_prefix(prefix: str) -> tuple[str, bool]:
    """Return the namespace whose posting serves *prefix*, and whether it holds nothing else."""
    if prefix.count(":") < MAX_DEPTH:
        return prefix, True
    return ":".join(prefix.split(":", MAX_DEPTH)[:MAX_DEPTH]), False


def _postings(terms: Terms, region: Region) -> dict[str, Posting] | None:
    """Return the postings of the region's parts by name, or None if one says that nothing matches."""
    found: dict[str, Posting | None] = {}
    if region.entity is not None:
        prefix, exact = posted_prefix(region.entity)
        found["entity" if exact else "namespace"] = terms.entity_posting(prefix)
    if region.scope is not None:
        found["scope"] = terms.scope_posting(region.scope)
    if region.kind is not None:
        found["kind"] = terms.kind_posting(region.kind.value)
    if region.category is not None:
        found["category"] = terms.category_posting(region.category)
    if region.correlation_id is not None:
        found["correlation"] = terms.correlation_posting(region.correlation_id.bytes)
    postings = {name: posting for name, posting in found.items() if posting is not None}
    if len(postings) < len(found):
        return None
    return postings or {"all": AllRows()}


@dataclass(slots=True)
class _Wanted:
    """What is left to test on a row, in numbers of the part."""

    unwanted_bits: int
    entity: Callable[[int], bool] | None
    scope: int | None
    first_kind: int
    last_kind: int
    first_sequence: int
    last_sequence: int
    correlation: bytes | None


def _wanted(terms: Terms, region: Region, walked: str) -> _Wanted:
    """Return what walking the posting named *walked* leaves to test."""
    first_kind, last_kind = 0, _MAX_KIND
    if region.category is not None and walked != "category":
        first_kind = region.category << CATEGORY_SHIFT
        last_kind = first_kind | (1 << CATEGORY_SHIFT) - 1
    if region.kind is not None and walked != "kind":
        first_kind, last_kind = max(first_kind, region.kind.value), min(last_kind, region.kind.value)
    first_sequence, last_sequence = region.sequences or (0, _MAX_SEQUENCE)
    unwanted = HIDDEN if region.include_system else HIDDEN | SYSTEM
    return _Wanted(
        unwanted & terms.seen_bits,
        terms.entity_test(region.entity) if region.entity is not None and walked != "entity" else None,
        terms.scope_number(region.scope) if region.scope is not None and walked != "scope" else None,
        first_kind,
        last_kind,
        first_sequence,
        last_sequence,
        region.correlation_id.bytes if region.correlation_id is not None and walked != "correlation" else None,
    )


def _test(terms: Terms, region: Region, walked: str) -> Callable[[int], bool] | None:
    """Return the test of what the posting named *walked* does not answer; None where nothing is left."""
    wanted = _wanted(terms, region, walked)
    every_kind = (wanted.first_kind, wanted.last_kind) == (0, _MAX_KIND)
    facts, unwanted, is_wanted = terms.facts, wanted.unwanted_bits, wanted.entity
    if (
        every_kind
        and is_wanted is None
        and wanted.scope is None
        and region.sequences is None
        and wanted.correlation is None
    ):
        return (lambda row: not facts(row)[-1] & unwanted) if unwanted else None
    first_kind, last_kind = wanted.first_kind, wanted.last_kind
    first_sequence, last_sequence = wanted.first_sequence, wanted.last_sequence
    scope_number, correlation_id, correlation = wanted.scope, wanted.correlation, terms.correlation

    def test(row: int) -> bool:
        entity, scope, sequence, kind, bits = facts(row)
        return (
            not bits & unwanted
            and first_kind <= kind <= last_kind
            and (scope_number is None or scope == scope_number)
            and first_sequence <= sequence <= last_sequence
            and (is_wanted is None or is_wanted(entity))
            and (correlation_id is None or correlation(row) == correlation_id)
        )

    return test
