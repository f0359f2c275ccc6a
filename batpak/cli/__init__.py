"""The command ``batpak``: look at a store, follow it, check it, mend it. Needs ``pip install "batpak[cli]"``."""

from __future__ import annotations

import sys
from typing import Final

NEEDED: Final = ("typer", "rich", "click")
CANNOT: Final = 2
"""The exit code of a command that could not do its work at all."""


def main() -> None:
    """Run the command; without its packages say in one line what to install, and exit with 2."""
    try:
        from batpak.cli.app import run  # noqa: PLC0415 - what is missing is told in one line
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        sys.stderr.write('batpak: found no typer and rich, expected both: pip install "batpak[cli]"\n')
        raise SystemExit(CANNOT) from None
    run()
