"""Reports: what a store tells about itself, as values that can be compared, logged and sent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from uuid import UUID

    from batpak.event import StoredEvent
    from batpak.receipt import Place
    from batpak.region import Region


class AncestryEnd(StrEnum):
    """Why a walk along an entity's chain ended where it did."""

    GENESIS = "genesis"
    """The last event is the first of its entity."""

    LIMIT = "limit"
    """As many events as were asked for; there are more."""

    MISSING_PARENT = "missing_parent"
    """The last event links to one that the store does not have."""

    CYCLE = "cycle"
    """The last event links to one that the walk has been at."""


@dataclass(frozen=True, slots=True)
class Ancestry:
    """An event and those before it in its entity, newest first, and why there are no more."""

    events: tuple[StoredEvent, ...]
    end: AncestryEnd


@dataclass(frozen=True, slots=True)
class SequenceGap:
    """A place where an entity's sequences do not go up by one: *expected* is missing, *found* comes instead."""

    entity: str
    expected: int
    found: int


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What a check of hashes and links has found; the ids are of the events at fault.

    *content_mismatches* have a payload that is not what their hash says; *dangling_links* name a predecessor that is
    not there. A gap may be what a compaction of the original left. *altered_segments* are the numbers of segments whose
    events are not those that they were sealed with; only a check of the whole journal looks for them. *anchored* says
    whether the journal begins with exactly the events of the anchor it was to be compared with; None without one.
    """

    events_checked: int
    content_mismatches: tuple[UUID, ...] = ()
    dangling_links: tuple[UUID, ...] = ()
    sequence_gaps: tuple[SequenceGap, ...] = ()
    altered_segments: tuple[int, ...] = ()
    anchored: bool | None = None

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        found = self.content_mismatches or self.dangling_links or self.sequence_gaps or self.altered_segments
        return not found and self.anchored is not False


@dataclass(frozen=True, slots=True)
class Stats:
    """How much a store holds, and how far it has come; taken at one moment.

    *next_global_sequence* is what the next event will get. *visible_sequence* and *durable_sequence* are the highest
    global sequences that reads see and that an fsync has covered, -1 where there is none. *bytes_on_disk* counts
    segments.
    """

    events: int
    next_global_sequence: int
    visible_sequence: int
    durable_sequence: int
    segments: int
    bytes_on_disk: int


@dataclass(frozen=True, slots=True)
class ActorReport:
    """What one actor has done since the store was opened; *queued* is what waits for it now."""

    name: str
    queued: int
    handled: int
    busy_seconds: float
    restarts: int
    alive: bool


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A torn end that `open` cut off a segment, and the file that holds a copy of it.

    *offset* and *length* are in bytes, in the segment of that number; *digest* is the copy's BLAKE3 in hexadecimal.
    """

    file: str
    segment: int
    offset: int
    length: int
    digest: str


@dataclass(frozen=True, slots=True)
class OpenReport:
    """How a store was opened, and what that cost.

    *path* is "new" for an empty directory, "runs" where the index came from its files and only *tail_events* in
    *tail_bytes* were read from segments, and "rebuild" where everything was. *phases* are names and seconds, in order;
    *notes* say what was found and passed over.
    """

    path: Literal["new", "runs", "rebuild"]
    runs: int
    tail_events: int
    tail_bytes: int
    seconds: float
    phases: tuple[tuple[str, float], ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """All that a health check or a dashboard wants to know of a store.

    *state* is "ok"; "degraded" while everything works at a cost; "failed" when no write will be accepted until the
    store is opened again, *writer_error* saying why; "closed".
    """

    state: Literal["ok", "degraded", "failed", "closed"]
    directory: str
    stats: Stats
    open_report: OpenReport
    actors: tuple[ActorReport, ...]
    writer_error: str | None = None


@dataclass(frozen=True, slots=True)
class NamedPlace:
    """How far a named cursor or worker has come, and how far it is behind.

    *place* is that of the last event it handled, None before the first. *lag_events* counts the events of its region
    behind that, *lag_seconds* is the age of the oldest of them, 0 where there is none. *damage* says why *file* cannot
    be used; what could not be read is None then.
    """

    name: str | None
    region: Region | None
    place: Place | None
    lag_events: int
    lag_seconds: float
    file: str
    damage: str | None


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that a worker has set aside because handling it failed, and goes on failing until somebody decides.

    *error* is the name of the last error's type; *attempts* is how often handling was tried; *retrying* says that
    `retry_parked` asked for another attempt, which has not been made yet.
    """

    event_id: UUID
    global_sequence: int
    error: str
    attempts: int
    retrying: bool


@dataclass(frozen=True, slots=True)
class Damage:
    """The first bytes of a store that are not what was written, and what is *provable* before them.

    *offset* is in bytes from the start of *file*, None where the file as a whole is at fault.
    """

    file: str
    offset: int | None
    found: str
    expected: str
    provable: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check of all bytes of a store has found; nothing was changed by it.

    *verdict* is "sound"; "mendable" where all is there and the next open has something to do, which *mending* says;
    "damaged", and *damage* is the first. *events* that end with the one before *next_global_sequence* were proven.
    *rebuildable* names index files and footers that do not say what the events say: they are made again, once they are
    needed, and nothing is lost.
    *quarantine* lists what lies there. *anchored* says whether the journal begins with exactly the events of the anchor
    it was to be compared with; None without one. *writer* is the process that was writing meanwhile.
    """

    verdict: Literal["sound", "mendable", "damaged"]
    events: int
    next_global_sequence: int
    segments: int
    bytes: int
    durable_sequence: int
    damage: Damage | None = None
    mending: tuple[str, ...] = ()
    rebuildable: tuple[str, ...] = ()
    places: int = 0
    quarantine: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    anchored: bool | None = None
    writer: int | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Bytes at the end of a segment that go: *length* from *offset* on; *copy* holds them, None for zeros alone."""

    segment: int
    offset: int
    length: int
    copy: str | None


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """What an open would do to a store: nothing was done.

    *refusal* says why it would refuse, None where it would not. It cuts *cuts*, closes the segments *seals* with a
    footer, and removes *removes*. *path*, *runs*, *tail_events* and *tail_bytes* are those of its `OpenReport`.
    """

    refusal: str | None
    path: Literal["new", "runs", "rebuild"]
    runs: int
    tail_events: int
    tail_bytes: int
    cuts: tuple[Cut, ...] = ()
    seals: tuple[int, ...] = ()
    removes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PrefixReport:
    """What is kept of a store that refuses to open, and what is given up for that.

    *kept_events* end before *next_global_sequence*, which is the first that is lost. *lost_at_least* events are known
    to have been there; *lost_at_most* is None where nobody can tell. *cuts* and *moved* (file, and its name in
    ``quarantine/``) are all that changes; *places* are the named places that were ahead of what is kept. *done* is
    whether it was done or only looked at.
    """

    done: bool
    damage: Damage
    kept_events: int
    next_global_sequence: int
    lost_at_least: int
    lost_at_most: int | None
    cuts: tuple[Cut, ...]
    moved: tuple[tuple[str, str], ...]
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overview:
    """What a store looks like from outside: nothing was changed, and no frame that an index covers was read.

    *formats* are those of its segments. *holder* says who has left a note that it holds the lock, and *held* whether a
    lock of that process exists, None where nobody can tell. *notes* are those that an open would report.
    """

    directory: str
    formats: tuple[int, ...]
    stats: Stats
    index_runs: int
    indexed_events: int
    places: tuple[NamedPlace, ...] = ()
    quarantine: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    holder: str | None = None
    held: bool | None = None
