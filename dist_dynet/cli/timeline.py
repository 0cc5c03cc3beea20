"""`dist-dynet timeline FILE`: makes the file of the parts that a killed job has left."""

from __future__ import annotations

from pathlib import Path

from ..parallel.processes import spans
from ._messages import print_message


def timeline(arguments: list[str]) -> int:
    """Runs `dist-dynet timeline ARGUMENTS`; returns its exit status."""
    if arguments == ["--help"]:
        print("usage: dist-dynet timeline FILE, the file that --timeline has named")
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print_message(f"timeline: takes the file that --timeline has named; got {arguments}")
        return 2
    try:
        words = spans.merge_parts(Path(arguments[0]).absolute())
    except (OSError, RuntimeError) as error:
        print_message(f"timeline: {error}. Its parts are left.")
        return 1
    print_message(words)
    return 0 if words else 1
