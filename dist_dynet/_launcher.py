"""Which process of which job this is, according to the environment that mpirun or srun sets.

This module knows the launchers' variables. It never imports mpi4py: a serial run must not pay for
MPI.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

INSTALL = "pip install mpi4py mpich"
"""Installs all that several ranks need, wherever this package came from."""


class Launch(NamedTuple):
    """Rank `rank` of `size` processes, `local_rank` on its host."""

    rank: int
    size: int
    local_rank: int
    launcher: str


RANK_VARIABLES = {"mpich": "PMI_RANK", "openmpi": "OMPI_COMM_WORLD_RANK", "slurm": "SLURM_PROCID"}
"""The variable in which each launcher passes a process its rank."""
_MPICH, _OPENMPI, _SLURM = RANK_VARIABLES.values()
_VARIABLES = (
    ("MPICH", _MPICH, "PMI_SIZE", "MPI_LOCALRANKID"),
    ("Open MPI", _OPENMPI, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
)
"""Each launcher with its names for rank, size and local rank."""

_CLAIM = "DIST_DYNET_RANK"


def find(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """The launch of this process; None if it was started alone.

    A job of one process counts as alone: it has nobody to communicate with.

    >>> find({"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"})
    Launch(rank=1, size=4, local_rank=1, launcher='MPICH')
    >>> find({"PMI_RANK": "0", "PMI_SIZE": "1"}) is None
    True
    """
    for launcher, rank, size, local in _variables(environment):
        if rank in environment and size in environment and _is_rank(environment):
            number, count = int(environment[rank]), int(environment[size])
            return (
                Launch(number, count, int(environment.get(local, number)), launcher)
                if count > 1
                else None
            )
    return None


def _variables(environment: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    rows = list(_VARIABLES)
    # A batch script itself has SLURM_PROCID=0 without being a rank; a task that srun has started
    # also has a step number, and what an MPI needs.
    if _is_task(environment) and "PMIX_RANK" in environment:
        rows.append(("Slurm", _SLURM, "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))
    # --mpi=pmi2; MPICH's mpirun would have set it
    if _is_task(environment) and "MPI_LOCALRANKID" not in environment:
        rows.insert(0, ("Slurm", _MPICH, "PMI_SIZE", "SLURM_LOCALID"))
    return rows


def _is_task(environment: Mapping[str, str]) -> bool:
    return environment.get("SLURM_STEP_ID", "").isdigit()


def is_connected(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process, or one of its ancestors, was started by an MPI launcher."""
    return any(name in environment for name in ("PMIX_RANK", *(row[1] for row in _VARIABLES)))


def refuse_lone_task(environment: Mapping[str, str] = os.environ) -> None:
    """Raises if srun has started several tasks without MPI: each would take itself for the whole
    job. Not to be called in a rank.

    Raises:
        RuntimeError: this is one of them.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if _is_task(environment) and tasks != "1" and not is_connected(environment):
        raise RuntimeError(
            f"dist_dynet.parallel: srun must connect the tasks that it starts; got {tasks} tasks"
            " without an MPI, each of which would train alone. Say srun --mpi=pmi2 with MPICH,"
            " srun --mpi=pmix with Open MPI; srun --mpi=list shows what there is. Programs that"
            " have nothing to do with one another need a srun -n 1 each."
        )


def claim() -> None:
    """Tells the programs that this rank starts that they are not the rank. To be called in the
    rank."""
    if "PMIX_NAMESPACE" in os.environ:
        os.environ[_CLAIM] = f"{os.environ['PMIX_NAMESPACE']} {os.getpid()}"


def _is_rank(environment: Mapping[str, str]) -> bool:
    """False in a program that was started by a rank.

    Such a program inherits MPICH's variables, but not the open descriptor that they name. Of Open
    MPI and Slurm it inherits everything, including the rank's claim.
    """
    job, _, process = os.environ.get(_CLAIM, "").rpartition(" ")
    if (
        environment is os.environ
        and process
        and job == os.environ.get("PMIX_NAMESPACE")
        and process != str(os.getpid())
    ):
        return False
    descriptor = environment.get("PMI_FD", "")
    if not descriptor.isdigit() or environment is not os.environ:
        return True
    try:
        os.fstat(int(descriptor))
    except OSError:
        return False
    return True
