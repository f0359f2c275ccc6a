"""Figures of batpak beside a hand-written SQLite events table, from the same events in the same run.

`python -m benchmarks` prints one Markdown table; `--help` lists what can be changed.
"""
