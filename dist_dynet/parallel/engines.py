"""Which way gradients take: shared memory on one host, shared memory and the wire between hosts, or MPI alone."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path
from typing import Any, Literal

from ._world import World
from .exchange import Exchange, MpiExchange
from .shared import SharedExchange

Engine = Literal["auto", "mpi", "shared"]

ENGINES = ("auto", "mpi", "shared")


def choose(here: World, comm: Any, engine: str | None = None) -> Exchange:
    """The engine of this name; None: that of DIST_DYNET_EXCHANGE, by default "auto": "shared" if all ranks run on one host. Collective.

    Raises:
        ValueError: there is no engine of this name.
        RuntimeError: the ranks have chosen differently; "shared" with several hosts.
    """
    name = engine or os.environ.get("DIST_DYNET_EXCHANGE", "auto")
    if name not in ENGINES:
        raise ValueError(f"DistributedTrainer: exchange must be auto, mpi or shared; got {name!r}.")
    what = here.collective("DistributedTrainer")
    every = [pickle.loads(b) for b in here.exchange_bytes(comm, pickle.dumps((name, _host())), what)]
    names = [theirs for theirs, _ in every]
    if len(set(names)) > 1:
        raise RuntimeError(f"{here.name} {what}: exchange must be the same on all ranks; got {', '.join(names)} on ranks 0 to {here.size - 1}.")
    hosts = {host for _, host in every}
    one_host = len(hosts) == 1 and None not in hosts
    if name == "shared" and not one_host:
        raise RuntimeError(f'{here.name} {what}: exchange="shared" needs all ranks on one Linux host. Use "auto" or "mpi".')
    return SharedExchange(here, comm) if one_host and name != "mpi" else MpiExchange(here, comm)


def _host() -> tuple[str, ...] | None:
    """Equal for processes that can see one another's open files; None where /proc does not tell.

    Names alone would take two containers for one host, and the boot alone would take the namespaces of a kernel for one host.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return (socket.gethostname(), boot, *(str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "net")))
    except OSError:
        return None
