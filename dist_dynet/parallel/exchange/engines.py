"""Chooses the exchange of gradients: shared memory on one host, shared memory and the network
between hosts, or MPI alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from ..._environment import choice
from ..processes.hosts import identity as _host
from ..processes.world import World
from .compression import CODES
from .exchange import MpiExchange
from .hybrid import HybridExchange
from .shared import SharedExchange
from .wire import Hosts

Engine = Literal[
    "auto",
    "hybrid",
    "mpi",
    "shared",
]

ENGINES: tuple[str, ...] = get_args(Engine)

DEFAULT = choice("DIST_DYNET_EXCHANGE", ENGINES)

Compression = Literal["bf16", "int8"]

Exchange = MpiExchange | SharedExchange | HybridExchange


def check_choice(name: str, value: Any, known: Sequence[Any]) -> None:
    """Makes sure that an argument of DistributedTrainer is one of the known values.

    Raises:
        ValueError: it is none.
    """
    if value not in known:
        names = [repr(each) if each is None or None in known else each for each in known]
        words = f"{', '.join(names[:-1])}{',' if None in known else ' or'} {names[-1]}"
        raise ValueError(f"DistributedTrainer: {name} must be {words}; got {value!r}.")


def ranks_of_host(here: World, comm: Any, what: str) -> list[int] | None:
    """The ranks on this rank's host; None if hosts cannot be told apart, or every rank is alone on
    its host. Collective; all ranks agree on whether it is None."""
    names = here.gather(comm, _host(), what)
    if None in names or len(set(names)) == len(names):
        return None
    return [rank for rank, name in enumerate(names) if name == names[here.rank]]


def choose(
    here: World,
    comm: Any,
    engine: str | None = None,
    overlap: bool = True,
    compression: Compression | None = None,
) -> Exchange:
    """The exchange of this name, one of ENGINES; None: DEFAULT. Collective.

    "auto" and "hybrid": with one host "shared", with several the exchange between hosts; "mpi" if
    hosts cannot be told apart.

    Raises:
        RuntimeError: the ranks have chosen differently; "shared" with several hosts.
    """
    name = engine or DEFAULT
    what = here.collective("DistributedTrainer")
    every = here.gather(comm, (name, overlap, compression, _host()), what)
    if any(theirs[:3] != every[0][:3] for theirs in every):
        said = "; ".join(
            f"rank {here.members[r]}: {theirs[0]}, {theirs[1]}, {theirs[2]}"
            for r, theirs in enumerate(every)
        )
        raise RuntimeError(
            f"{here.name} {what}: exchange, overlap and compression must be the same on all ranks;"
            f" got {said}."
        )
    names = [theirs[3] for theirs in every]
    if name == "mpi" or (None in names and name != "shared"):
        return MpiExchange(here, comm)
    if name not in ("auto", "hybrid", "shared"):
        raise NotImplementedError(
            "choose() in dist_dynet/parallel/exchange/engines.py has no branch for"
            f" exchange={name!r}"
        )
    if len(set(names)) == 1 and None not in names:
        return SharedExchange(here, comm)
    if name == "shared":
        raise RuntimeError(
            f'{here.name} {what}: exchange="shared" needs all ranks on one Linux host. Use "auto".'
        )
    ranks = [
        [r for r, theirs in enumerate(names) if theirs == host] for host in dict.fromkeys(names)
    ]
    host = next(h for h, members in enumerate(ranks) if here.rank in members)
    return HybridExchange(
        here,
        comm,
        Hosts(ranks, host, ranks[host].index(here.rank)),
        overlap,
        CODES[compression] if compression else None,
    )
