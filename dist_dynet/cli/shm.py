"""Whether /dev/shm has room for what MPI keeps there. Containers often give it 64 MB, and a write
where there is no room kills the process (SIGBUS, or SIGSEGV in a library that catches it).

Gradients do not lie there (dist_dynet/parallel/processes/memory.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ._messages import RefusedError

FOLDER = Path("/dev/shm")
PER_RANK, PER_RANK_WITH_UCX = 1.25e6, 8e6
"""Bytes for each rank of a host with MPICH: it takes 1.06 MB itself, its UCX 4.3 MB, and more while
messages wait."""
PLENTY = 1e9
"""Bytes that are enough for some hundred ranks of a host."""


def room() -> tuple[float, float] | None:
    """Size and free bytes of /dev/shm; what is read-only has none. None where the system has no
    such folder."""
    try:
        found = os.statvfs(FOLDER)
    except OSError:
        return None
    free = 0 if found.f_flag & os.ST_RDONLY or not os.access(FOLDER, os.W_OK) else found.f_bavail
    return found.f_blocks * found.f_frsize, free * found.f_frsize


def words() -> str:
    """What there is, for people."""
    found = room()
    return "none" if found is None else f"{_text(found[0])}, {_text(found[1])} of it free"


def hint() -> str:
    """For people whose process was killed where there may have been no room; empty where there is
    plenty."""
    found = room()
    return f" /dev/shm has {words()}." if found is not None and found[0] < PLENTY else ""


def settings_for(
    library: str, ranks: int, environment: Mapping[str, str]
) -> tuple[dict[str, str], str]:
    """Variables by which so many ranks of a host fit into its /dev/shm, and what is to be said of
    it. Open MPI does with less by itself.

    Raises:
        RefusedError: nothing helps.
    """
    found = room() or (0.0, 0.0)  # MPICH does not start without the folder
    if library != "mpich" or found[1] >= ranks * PER_RANK_WITH_UCX:
        return {}, ""
    wanted = ranks * PER_RANK_WITH_UCX
    more = f"In a container, start it with --shm-size={max(1, round(wanted / 2**30 + 0.5))}g."
    if found[1] < ranks * PER_RANK:
        raise RefusedError(
            f"/dev/shm: {ranks} ranks of MPICH need {_text(ranks * PER_RANK)} of it on their host;"
            f" got {words()}. {more}"
        )
    if "UCX_TLS" in environment:
        return {}, ""
    return {"UCX_TLS": "tcp,self"}, (
        f"/dev/shm is too small for MPICH's messages between {ranks} ranks ({_text(wanted)}; got"
        f" {words()}): sets UCX_TLS=tcp,self. Gradients are exchanged as before. {more}"
    )


def _text(size: float) -> str:
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"
