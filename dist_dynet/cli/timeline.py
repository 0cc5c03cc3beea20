"""`dist-dynet timeline FILE`: makes the file of the parts that a job has left, whose launcher could
not do it any more."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..parallel.processes import trace
from ._messages import print_message


def timeline(arguments: list[str]) -> int:
    """Does what `dist-dynet timeline ARGUMENTS` is to do; its exit status."""
    parser = argparse.ArgumentParser(
        prog="dist-dynet timeline",
        description="Makes the timeline of a job that was killed of the parts that it has left.",
    )
    parser.add_argument("file", type=Path, help="what --timeline or DIST_DYNET_TIMELINE had named")
    file = parser.parse_args(arguments).file.absolute()
    try:
        made = trace.merge_all(file, again=True)
    except OSError as error:
        print_message(f"timeline: cannot be written: {error}.")
        return 1
    print_message("\n".join(made) or f"timeline: there are no parts of {file}.")
    return 0 if made else 1
