"""``verify``, ``anchor`` and ``recover``: whether a store is what it was, and what to do if not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batpak.check import check_store, keep_prefix, opened_store, plan_recovery
from batpak.cli.forms import counted, report_form, size
from batpak.cli.screen import NO, complain, leave, progress, say, say_aside, say_json, typed_errors
from batpak.read_only import ReadOnlyStore
from batpak.receipt import Anchor
from batpak.storage.segment import file_name
from batpak.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batpak.reports import CheckReport, Cut, Damage, PrefixReport, RecoveryPlan


def verify(directory: str, token: str | None, *, as_json: bool) -> None:
    """Check a store and say what was found."""
    with typed_errors(directory), progress("checking") as tell:
        anchor = None if token is None else Anchor.parse(token)
        report = check_store(directory, anchor=anchor, progress=tell)
    if as_json:
        say_json(report_form(report))
    else:
        _say_check(directory, report)
    if report.verdict == "damaged":
        leave(NO)


def anchor(directory: str, *, as_json: bool) -> None:
    """Print an anchor of everything that is durable."""
    with typed_errors(directory):
        opened_store(directory).close()
        with ReadOnlyStore.open(directory) as store:
            made = store.anchor()
    if as_json:
        say_json({"anchor": str(made), "events": made.events})
    else:
        say(str(made))


def recover(directory: str, *, as_json: bool) -> None:
    """Open a store, so that it is mended, and close it."""
    with typed_errors(directory):
        opened_store(directory).close()
        plan = plan_recovery(directory)
        with Store.open(directory) as store:
            report = store.diagnostics().open_report
    if as_json:
        say_json(report_form(report))
        return
    for cut in report.quarantined:
        say(f"cut {counted(cut.length, 'byte')} off {file_name(cut.segment)} at byte {cut.offset}: {cut.file}")
    for segment in plan.seals:
        say(f"wrote the footer of {file_name(segment)}")
    for name in plan.removes:
        say(f"removed {name}")
    for note in report.notes:
        say(f"note: {note}")
    say(f"opened ({report.path}) and closed: {counted(report.tail_events, 'event')} read from segments")


def dry_run(directory: str, *, as_json: bool) -> None:
    """Say what an open would do."""
    with typed_errors(directory):
        plan = plan_recovery(directory)
    if as_json:
        say_json(report_form(plan))
    else:
        _say_plan(directory, plan)
    if plan.refusal is not None:
        leave(NO)


def keep(directory: str, *, accept_loss: bool, as_json: bool) -> None:
    """Keep what is provable of a damaged store, or say what that would be."""
    with typed_errors(directory), progress("reading") as tell:
        report = keep_prefix(directory, accept_loss=accept_loss, progress=tell)
    if report is None:
        complain("no event of this store is damaged: nothing to give up, nothing was done")
        leave(NO)
    if as_json:
        say_json(report_form(report))
    else:
        _say_prefix(directory, report)
    if not report.done:
        leave(NO)


def _say_check(directory: str, report: CheckReport) -> None:
    """Say what a check has found."""
    words = {"sound": "sound", "mendable": "sound, and the next open has something to do", "damaged": "DAMAGED"}
    say(f"{words[report.verdict]}: {directory}")
    say(f"  {counted(report.events, 'event')} proven, in {counted(report.segments, 'segment')} of {size(report.bytes)}")
    if report.damage is not None:
        _say_damage(report.damage)
    if report.anchored is not None:
        say("  the anchor holds" if report.anchored else "  the anchor does NOT hold")
    for step in report.mending:
        say(f"  an open will {step}")
    say_aside("  aside: ", report.quarantine)
    for note in report.notes:
        say(f"  note: {note}")
    if report.writer is not None:
        say(f"  process {report.writer} was writing meanwhile")
    if report.damage is not None and report.anchored is not False:
        _say_way_on(directory)


def _say_way_on(directory: str) -> None:
    """Say what to do about damage."""
    say("First copy the directory, and look for a backup of the file that is named. Where there")
    say("is none, this says what can be kept, and what is lost with the rest; it changes nothing:")
    say(f"  batpak recover {directory} --keep-prefix")


def _say_damage(damage: Damage) -> None:
    """Say what is damaged."""
    at = "" if damage.offset is None else f" at byte {damage.offset}"
    say(f"  first damage: {damage.file}{at}")
    say(f"    found:    {damage.found}")
    say(f"    expected: {damage.expected}")
    if damage.provable:
        say(f"    provable: {damage.provable}")


def _say_plan(directory: str, plan: RecoveryPlan) -> None:
    """Say what an open would do."""
    if plan.refusal is not None:
        say("An open would refuse, and change nothing:")
        say(f"  {plan.refusal}")
        _say_way_on(directory)
        return
    say("An open would")
    _say_cuts(plan.cuts, "cut")
    for segment in plan.seals:
        say(f"  write the footer of {file_name(segment)}")
    for name in plan.removes:
        say(f"  remove {name}")
    where = "" if not plan.runs else f"use {counted(plan.runs, 'index file')} and "
    say(f"  {where}read {counted(plan.tail_events, 'event')} ({size(plan.tail_bytes)}) from segments")
    if plan.runs:
        say("  (what the index covers is not read: batpak verify reads everything)")
    for note in plan.notes:
        say(f"  note: {note}")


def _say_prefix(directory: str, report: PrefixReport) -> None:
    """Say what is kept and what is given up."""
    _say_damage(report.damage)
    verb = "kept" if report.done else "would be kept"
    first = report.next_global_sequence
    say(f"  {verb}: {counted(report.kept_events, 'event')}" + (f", up to global sequence {first - 1}" if first else ""))
    lost = "lost" if report.done else "would be lost"
    if report.lost_at_most is not None:
        say(f"  {lost}: {counted(report.lost_at_most, 'event')}, from global sequence {first} on")
    else:
        say(f"  {lost}: at least {counted(report.lost_at_least, 'event')}, from global sequence {first} on;")
        say("    nobody can tell how many at most: the end of the journal is damaged or missing")
    for name in report.places:
        say(f"  named place {name!r} was ahead of that: a cursor of this name begins anew")
    _say_cuts(report.cuts, "cut")
    for name, target in report.moved:
        say(f"  move {name} to {target}" if not report.done else f"  moved {name} to {target}")
    if not report.done:
        say("Nothing was changed. To do it (first copy the directory):")
        say(f"  batpak recover {directory} --keep-prefix --accept-loss")


def _say_cuts(cuts: Sequence[Cut], verb: str) -> None:
    """Say what is cut."""
    for cut in cuts:
        copied = f", copied to {cut.copy}" if cut.copy is not None else ", zeros"
        say(f"  {verb} {counted(cut.length, 'byte')} off {file_name(cut.segment)} at byte {cut.offset}{copied}")
