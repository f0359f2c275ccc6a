"""``python -m batpak.cli``: the command, where its script is not on the path."""

from batpak.cli import main

main()
