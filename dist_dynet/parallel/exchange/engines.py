"""Chooses the exchange of gradients: shared memory on one host, shared memory and the network
between hosts, or MPI alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from ..._environment import choice
from ..processes.world import World
from .buckets import Hosts
from .exchange import Exchange, MpiExchange
from .hosts import HybridExchange
from .reference import ReferenceExchange
from .shared import SharedExchange

Engine = Literal[
    "auto",
    "mpi",
    "reference",
]

ENGINES: tuple[str, ...] = get_args(Engine)


def default_engine() -> str:
    """The exchange that DIST_DYNET_EXCHANGE asks for."""
    return choice("DIST_DYNET_EXCHANGE", ENGINES)


default_engine()  # a wrong name is an ImportError


Compression = Literal["bf16"]


def check_choice(name: str, value: Any, known: Sequence[Any]) -> None:
    """Makes sure that an argument of DistributedTrainer is one of the known values.

    Raises:
        ValueError: it is none.
    """
    if value not in known:
        names = [repr(each) if each is None or None in known else each for each in known]
        words = f"{', '.join(names[:-1])} or {names[-1]}"
        raise ValueError(f"DistributedTrainer: {name} must be {words}; got {value!r}.")


def ranks_of_host(here: World) -> list[int] | None:
    """The ranks on this rank's host; None if hosts cannot be told apart, or every rank is alone on
    its host. All ranks agree on whether it is None."""
    if not here.tells_hosts_apart or len(here.host_ranks) == here.size:
        return None
    return next(ranks for ranks in here.host_ranks if here.rank in ranks)


def choose(
    here: World, comm: Any, name: str, overlap: bool, compression: Compression | None
) -> Exchange:
    """The exchange of this name, one of ENGINES; the arguments are the same on all ranks.

    "auto": with one host shared memory, with several the exchange between hosts; MPI alone if hosts
    cannot be told apart.
    """
    hosts = here.host_ranks
    if name == "reference":
        return ReferenceExchange(here, comm)
    if name == "mpi" or not here.tells_hosts_apart:
        return MpiExchange(here, comm)
    assert name == "auto", f"dist_dynet/parallel/exchange/engines.py: choose() lacks {name}"
    if len(hosts) == 1:
        return SharedExchange(here, comm)
    host = next(h for h, ranks in enumerate(hosts) if here.rank in ranks)
    place = Hosts(hosts, host, hosts[host].index(here.rank))
    return HybridExchange(here, comm, place, overlap, compression)
