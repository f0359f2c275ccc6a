"""``info``, ``log`` and ``tail``: what a store holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from batpak.check import opened_store
from batpak.cli.forms import counted, event_form, event_line, region_parts, report_form, size
from batpak.cli.screen import CANNOT, complain, leave, say, say_aside, say_json, typed_errors
from batpak.errors import BatpakError
from batpak.kind import EventKind
from batpak.overview import look_over
from batpak.read_only import ReadOnlyStore
from batpak.receipt import Place
from batpak.region import Region

if TYPE_CHECKING:
    from batpak.event import StoredEvent
    from batpak.reports import NamedPlace, Overview


@dataclass(frozen=True, slots=True)
class Where:
    """Which events are asked for, as they were typed."""

    entity: str | None
    scope: str | None
    kind: str | None
    system: bool = False

    def region(self) -> Region:
        """Return the region; a usage error says which part is wrong."""
        try:
            kind = None if self.kind is None else EventKind.from_value(int(self.kind, 0))
            return Region(entity=self.entity, scope=self.scope, kind=kind, include_system=self.system)
        except BatpakError as error:
            raise typer.BadParameter(str(error)) from error
        except ValueError as error:
            raise typer.BadParameter(f"kind: found {self.kind!r}, expected a number such as 0x1001") from error


def info(directory: str, *, as_json: bool) -> None:
    """Print what a store looks like."""
    with typed_errors(directory):
        found = look_over(directory)
    if as_json:
        say_json(report_form(found))
        return
    stats = found.stats
    said = {
        "store": found.directory,
        "format": ", ".join(map(str, found.formats)) or "none yet",
        "events": f"{stats.events:,}",
        "segments": f"{stats.segments:,} of {size(stats.bytes_on_disk)}",
        "newest": _sequence(stats.visible_sequence),
        "durable": "all" if stats.durable_sequence == stats.visible_sequence else _sequence(stats.durable_sequence),
        "index": f"{counted(found.index_runs, 'file')} of {counted(found.indexed_events, 'event')}",
        "writer": _writer(found),
    }
    for name, text in said.items():
        say(f"{name + ':':10}{text}")
    for place in found.places:
        say(_place_line(place))
    say_aside(f"{'aside:':10}", found.quarantine)
    for note in found.notes:
        say(f"{'note:':10}{note}")


def log(
    directory: str,
    where: Where,
    after: str | None,
    limit: int | None,
    *,
    reverse: bool,
    payload: bool,
    as_json: bool,
) -> None:
    """Print events."""
    region, place = where.region(), _after(after)
    with typed_errors(directory):
        opened_store(directory).close()
        with ReadOnlyStore.open(directory) as store:
            for event in store.read(region, after=place, limit=limit, reverse=reverse):
                _show(event, payload=payload, as_json=as_json)


def tail(directory: str, where: Where, after: str | None, *, durable: bool, payload: bool, as_json: bool) -> None:
    """Print events as they come, until Ctrl-C."""
    region, place = where.region(), _after(after)
    try:
        with typed_errors(directory):
            opened_store(directory).close()
            with ReadOnlyStore.open(directory) as store:
                begin = store.stats().visible_sequence if place is None else place
                for event in store.follow(region, after=begin, durable=durable):
                    _show(event, payload=payload, as_json=as_json, at_once=True)
    except KeyboardInterrupt:
        return


def _show(event: StoredEvent, *, payload: bool, as_json: bool, at_once: bool = False) -> None:
    """Print one event."""
    if as_json:
        say_json(event_form(event, payload=payload))
    else:
        say(event_line(event, payload=payload), at_once=at_once)


def _after(text: str | None) -> int | Place | None:
    """Return where to begin, as it was typed."""
    if text is None:
        return None
    try:
        return int(text) if text.lstrip("-").isdecimal() else Place.parse(text)
    except BatpakError as error:
        complain(str(error))
        leave(CANNOT)


def _sequence(sequence: int) -> str:
    """Say up to which event."""
    return "no event" if sequence < 0 else f"up to global sequence {sequence}"


def _writer(found: Overview) -> str:
    """Say who holds the lock."""
    if found.holder is None:
        return "nobody"
    held = {True: "", False: " (it is gone: it was killed)", None: " (by its own note)"}
    return found.holder + held[found.held]


def _place_line(place: NamedPlace) -> str:
    """Say how far a named place is."""
    if place.damage is not None:
        return f"{'place:':10}{place.name or place.file}: {place.damage}"
    at = "before the first event" if place.place is None else f"at {place.place.global_sequence}"
    lag = f", {counted(place.lag_events, 'event')} and {place.lag_seconds:.0f} s behind" if place.lag_events else ""
    parts = {} if place.region is None else region_parts(place.region)
    where = ", ".join(f"{name}={part}" for name, part in parts.items())
    return f"{'place:':10}{place.name} {at}{lag}" + (f" ({where})" if where else "")
