"""Chooses the exchange of gradients: shared memory on one host, shared memory and the network
between hosts, or MPI alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from ..._environment import choice
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


def default_engine() -> str:
    """The exchange that DIST_DYNET_EXCHANGE asks for."""
    return choice("DIST_DYNET_EXCHANGE", ENGINES)


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


def ranks_of_host(here: World) -> list[int] | None:
    """The ranks on this rank's host; None if hosts cannot be told apart, or every rank is alone on
    its host. All ranks agree on whether it is None."""
    if not here.tells_hosts_apart or len(here.host_ranks) == here.size:
        return None
    return next(ranks for ranks in here.host_ranks if here.rank in ranks)


def choose(
    here: World, comm: Any, name: str, overlap: bool, compression: Compression | None, what: str
) -> Exchange:
    """The exchange of this name, one of ENGINES; the arguments are the same on all ranks.

    "auto" and "hybrid": with one host "shared", with several the exchange between hosts; "mpi" if
    hosts cannot be told apart.

    Raises:
        RuntimeError: "shared" with several hosts.
    """
    hosts, tells_apart = here.host_ranks, here.tells_hosts_apart
    if name == "mpi" or (not tells_apart and name != "shared"):
        return MpiExchange(here, comm)
    if name not in ("auto", "hybrid", "shared"):
        raise NotImplementedError(
            "choose() in dist_dynet/parallel/exchange/engines.py has no branch for"
            f" exchange={name!r}"
        )
    if len(hosts) == 1 and tells_apart:
        return SharedExchange(here, comm)
    if name == "shared":
        raise RuntimeError(
            f'{here.name} {what}: exchange="shared" needs all ranks on one Linux host. Use "auto".'
        )
    host = next(h for h, ranks in enumerate(hosts) if here.rank in ranks)
    return HybridExchange(
        here,
        comm,
        Hosts(hosts, host, hosts[host].index(here.rank)),
        overlap,
        CODES[compression] if compression else None,
    )
