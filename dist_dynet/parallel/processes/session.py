"""Starts MPI at the first use of dist_dynet.parallel, and only under a launcher.

This is the one place that does so. With several ranks it also turns on the watching of failures,
gives each rank its own random stream, and lets rank 0 write the files.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import Any

from ... import _launcher
from ..._ffi import lib
from . import failures
from .world import World

_lock = threading.Lock()
_world: World | None = None
_key: Any = None
"""MPI attribute key under which a communicator stores its world."""


def world(comm: Any = None) -> World:
    """All ranks of this job; without a launcher, a world of one. With an mpi4py communicator: its
    ranks.

    A communicator is duplicated when it is first used, which is collective over its ranks.

    Raises:
        TypeError: not a communicator of mpi4py, or one between two groups.
        ValueError: MPI.COMM_NULL, or some of its ranks are not of this job.
    """
    whole = _whole()
    return whole if comm is None else _part(whole, comm)


def _part(whole: World, comm: Any) -> World:
    global _key
    if whole.mpi is not None and whole.mpi.Is_finalized():
        whole.refuse_collective()
    if callable(getattr(comm, "Get_size", None)) and not comm:
        raise ValueError(
            "comm must be a communicator with this rank among its ranks; got MPI.COMM_NULL. Leave"
            " out the call on ranks that belong to no group."
        )
    if not callable(getattr(comm, "Get_size", None)) or comm.Is_inter():
        raise TypeError(
            "comm must be a communicator of mpi4py such as MPI.COMM_WORLD.Split(color); got"
            f" {comm!r:.80}."
        )
    if comm.Get_size() == 1:
        return World(None)
    if whole.size == 1:
        raise RuntimeError(
            f"comm has {comm.Get_size()} ranks, but no launcher known here has started this"
            " program. Use mpirun or srun."
        )
    if _key is None:
        _key = whole.mpi.Comm.Create_keyval()
    part: World | None = comm.Get_attr(_key)
    if part is None:
        others = whole.places_in_job(comm).count(whole.mpi.UNDEFINED)
        if others:
            raise ValueError(
                f"comm must have ranks of this job only; got one of {comm.Get_size()} ranks, of"
                f" which {others} are not, as after Spawn() and Merge(). Start all ranks together:"
                f" mpirun -n {whole.size + others}."
            )
        part = whole.part(comm)
        comm.Set_attr(_key, part)
    return part


def _whole() -> World:
    global _world
    if _world is None:
        with _lock:
            if _world is None:
                _world = _start()
    return _world


def _start() -> World:
    launch = _launcher.find()
    if launch is None:
        _launcher.refuse_lone_task()
        return World(None)
    failures.install()
    started = World(launch)
    failures.guard(started)
    from ... import _random
    from . import saving, spans

    _random.set_rank(started.rank)
    saving.install(started)
    spans.begin(started)
    return started


def warn_of_separate_ranks() -> None:
    """At the end of a program that a launcher started on several ranks, rank 0 warns if each rank
    has trained a separate model, without ever communicating."""
    process = os.getpid()

    def note() -> None:
        launch = _launcher.find()
        alone = launch is not None and launch.rank == 0 and "mpi4py.MPI" not in sys.modules
        if launch and alone and os.getpid() == process and lib.dn_updates_made():
            with suppress(OSError, ValueError):  # a stderr that is closed
                sys.stderr.write(
                    f"dist_dynet: each of the {launch.size} ranks has trained a model of its own,"
                    " as the program does not use dist_dynet.parallel. Write trainer ="
                    " dy.parallel.DistributedTrainer(trainer), and loop over dy.parallel.shard().\n"
                )

    atexit.register(note)
