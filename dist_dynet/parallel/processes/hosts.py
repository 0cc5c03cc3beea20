"""Identifies the host that this process runs on."""

from __future__ import annotations

import socket
from pathlib import Path


def identity() -> tuple[str, ...] | None:
    """A key that is equal for processes that can open one another's files through /proc; None where
    /proc is not available.

    The host name alone would treat two containers as one host, and the boot id alone would treat
    the namespaces of one kernel as one host.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return (
            socket.gethostname(),
            boot,
            *(str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "net")),
        )
    except OSError:
        return None
