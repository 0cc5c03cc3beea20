"""Gathers the byte strings of all ranks on all ranks, by host: each crosses the network once per
other host, not once per rank.

The first rank of a host gathers the strings of its ranks; the first ranks exchange them in a number
of messages that grows with the logarithm of the number of hosts; and each passes them on to its
host. This module knows bytes and ranks, and nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..processes.world import World

_TAG = (1 << 14) + 64
"""Tags of messages to a host's first rank, between first ranks, and back."""

Message = NDArray[np.int32]
"""Byte strings, each after (rank, number of bytes), padded to four bytes."""


def exchange_bytes(here: World, comm: Any, mine: bytes, what: str) -> list[bytes]:
    """The byte strings of all ranks, on every rank. Collective."""
    hosts = here.host_ranks if here.size > 1 else []
    if len(hosts) < 2:
        return here.exchange_bytes(comm, mine, what)
    place, of = next((k, ranks) for k, ranks in enumerate(hosts) if here.rank in ranks)
    message = _written(here.rank, mine)
    if here.rank != of[0]:
        _swap(here, comm, [(message, of[0])], [], _TAG, what)
        (message,) = _swap(here, comm, [], [of[0]], _TAG + 2, what)
        return _read(message, here.size)
    known = [np.concatenate([message, *_swap(here, comm, [], of[1:], _TAG, what)])]
    firsts, count = [ranks[0] for ranks in hosts], len(hosts)
    # the strings of len(known) hosts, from this one on, are known
    while len(known) < count:
        told = known[: count - len(known)]
        to, source = (firsts[(place + sign * len(known)) % count] for sign in (-1, 1))
        sizes = np.array([len(told), *(len(one) for one in told)], np.int32)
        (came,) = _swap(
            here, comm, [(np.concatenate([sizes, *told]), to)], [source], _TAG + 1, what
        )
        ends = 1 + came[0] + np.cumsum([0, *came[1 : 1 + came[0]]])
        known += [came[start:end] for start, end in pairwise(ends.tolist())]
    message = np.concatenate(known)
    _swap(here, comm, [(message, rank) for rank in of[1:]], [], _TAG + 2, what)
    return _read(message, here.size)


def _written(rank: int, text: bytes) -> Message:
    message = np.zeros(2 + -(-len(text) // 4), np.int32)
    message[:2] = rank, len(text)
    message[2:].view(np.uint8)[: len(text)] = np.frombuffer(text, np.uint8)
    return message


def _read(message: Message, size: int) -> list[bytes]:
    every, at = [b""] * size, 0
    while at < len(message):
        rank, count = message[at : at + 2].tolist()
        every[rank] = message[at + 2 :].view(np.uint8)[:count].tobytes()
        at += 2 + -(-count // 4)
    return every


def _swap(
    here: World,
    comm: Any,
    sent: Sequence[tuple[Message, int]],
    sources: Sequence[int],
    tag: int,
    what: str,
) -> list[Message]:
    """Sends messages to ranks, and receives one from each source."""
    requests = [comm.Isend(message, rank, tag) for message, rank in sent]
    came: dict[int, Message] = {}
    status, integer = here.mpi.Status(), here.mpi.INT

    def done() -> bool:
        for rank in sources:
            coming = None if rank in came else comm.Improbe(rank, tag, status)
            if coming is not None:
                came[rank] = np.empty(status.Get_count(integer), np.int32)
                requests.append(coming.Irecv(came[rank]))
        return len(came) == len(sources) and bool(here.mpi.Request.Testall(requests))

    here.wait_until(done, what)
    return [came[rank] for rank in sources]
