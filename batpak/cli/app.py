"""The commands and their options; what they do stands in `look`, `care` and `demo`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from batpak.cli import care, demo, look
from batpak.cli.screen import quiet_log

HELP: Final = """Look at a batpak store, follow it, check it, mend it.

Every command but "recover" works beside the store's writer and changes nothing.

Exit codes: 0 it is done, or nothing is wrong; 1 the store is damaged or would be refused, or what was asked for was not
done; 2 the command could not do its work: no store there, written by newer software, locked by another process, wrong
arguments, typer or rich missing; 130 interrupted (tail: 0, Ctrl-C is how it ends).
"""

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Directory = Annotated[str, typer.Argument(metavar="DIR", help="The directory of the store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Lines = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
Entity = Annotated[str | None, typer.Option(help="Only this entity and its namespace: order, order:42.")]
Scope = Annotated[str | None, typer.Option(help="Only this scope.")]
Kind = Annotated[str | None, typer.Option(help="Only this kind, as 16 bits: 0x1001.")]
System = Annotated[bool, typer.Option("--system", help="System events too.")]
Payloads = Annotated[
    bool, typer.Option("--payload", help="Payloads too, as JSON (bytes and times: docs/guarantees.md).")
]


@app.command(name="demo")
def demo_command(
    directory: Annotated[str, typer.Argument(metavar="[DIR]", help="Where to make it.")] = "batpak-demo",
) -> None:
    """Make a small journal to look at: a shop, a few hundred events."""
    demo.make(directory)


@app.command()
def info(directory: Directory, *, as_json: AsJson = False) -> None:
    """Say what a store holds, how far it has come, and who uses it."""
    look.info(directory, as_json=as_json)


@app.command()
def log(
    directory: Directory,
    *,
    entity: Entity = None,
    scope: Scope = None,
    kind: Kind = None,
    after: Annotated[str | None, typer.Option(help="Behind this global sequence, or the token of a place.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most so many.")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="The newest first.")] = False,
    system: System = False,
    payload: Payloads = False,
    as_json: Lines = False,
) -> None:
    """Print events, one per line: global sequence, time, coordinate, sequence in the entity, kind."""
    where = look.Where(entity, scope, kind, system=system)
    look.log(directory, where, after, limit, reverse=reverse, payload=payload, as_json=as_json)


@app.command()
def tail(
    directory: Directory,
    *,
    entity: Entity = None,
    scope: Scope = None,
    kind: Kind = None,
    after: Annotated[
        str | None, typer.Option(help="Behind this global sequence or place; by default only what comes.")
    ] = None,
    durable: Annotated[bool, typer.Option("--durable", help="Each event when it is durable, not before.")] = False,
    system: System = False,
    payload: Payloads = False,
    as_json: Lines = False,
) -> None:
    """Print events as they come, whichever process writes them. Ctrl-C ends it, with exit code 0."""
    where = look.Where(entity, scope, kind, system=system)
    look.tail(directory, where, after, durable=durable, payload=payload, as_json=as_json)


@app.command()
def verify(
    directory: Directory,
    *,
    anchor: Annotated[str | None, typer.Option(help="An anchor that was taken before; see docs/guarantees.md.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of a store; say what is damaged first, and where. Changes nothing.

    Exit code 0: sound, or all is there and the next open has something to do, which is said. 1: damaged, or not what
    the anchor was made of. 2: no store, or written by newer software.
    """
    care.verify(directory, anchor, as_json=as_json)


@app.command()
def anchor(directory: Directory, *, as_json: AsJson = False) -> None:
    """Print an anchor: a short digest of everything durable, to keep where nobody can write who writes here."""
    care.anchor(directory, as_json=as_json)


@app.command()
def recover(
    directory: Directory,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what an open would do; change nothing.")] = False,
    keep_prefix: Annotated[
        bool, typer.Option("--keep-prefix", help="Keep what is before the first damage; see docs/guarantees.md.")
    ] = False,
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Really give up the rest.")] = False,
    as_json: AsJson = False,
) -> None:
    """Open a store, which mends what can be mended without loss, and close it; say what was done.

    With --dry-run: say what that would do, and change nothing. With --keep-prefix: say what would have to be given up
    of a damaged store (exit code 1); with --accept-loss too, give it up: everything but the events before the first
    damage is put into quarantine/, nothing is deleted. Exit code 1 also where an open refuses, and where --keep-prefix
    finds nothing damaged, and so does nothing.
    """
    if keep_prefix:
        care.keep(directory, accept_loss=accept_loss and not dry_run, as_json=as_json)
    elif accept_loss:
        raise typer.BadParameter("--accept-loss is for --keep-prefix")
    elif dry_run:
        care.dry_run(directory, as_json=as_json)
    else:
        care.recover(directory, as_json=as_json)


def run() -> None:
    """Run the command line."""
    quiet_log()
    app(prog_name="batpak")
