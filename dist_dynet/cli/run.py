"""`dist-dynet run`: from options to a job, with the environment that ranks need."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from .. import _launcher
from . import _relay, shm
from ._messages import LIMITS, RefusedError, print_message
from .attempt import Job, Outcome
from .hosts import Hosts
from .mpi import (
    THREADS,
    Launcher,
    command_for,
    environment_for,
    find_launcher,
    oversubscribed,
    ranks_on_a_host,
)
from .options import Options, behind_the_script, parse
from .output import Screen
from .restarts import run_attempts
from .timeline import timeline

REFUSED = 2
"""Exit status if nothing was started."""

_HASHES = {"PYTHONHASHSEED": "0"}
"""The same on all ranks and in all attempts, so that a set of strings has one order, even in the
run that resumes."""

_SITE = str(Path(_relay.__file__).with_name("_site"))


def run(arguments: list[str]) -> int:
    """Runs `dist-dynet run ARGUMENTS`; returns its exit status. Does not return if the script
    replaces this process."""
    try:
        options = parse(arguments)
        _check(os.environ)
        words, script = behind_the_script(arguments)
        if words and options.ranks == 1:
            print_message(
                f"run: {words} behind the script is the script's; 1 rank runs. For the launcher:"
                f" dist-dynet run {words} {script}"
            )
        if options.ranks == 1 and not _spans_hosts(options) and options.mpi is None:
            return _alone(options)
        return _together(options)
    except RefusedError as refusal:
        print_message(f"run: {refusal}")
        return REFUSED


def run_here(options: Options) -> int:
    """As run(), but always in supervised processes.

    Raises:
        RefusedError: nothing was started.
    """
    _check(os.environ)
    if options.ranks == 1 and options.mpi is None:
        return _supervised(options)
    return _together(options)


def _gather_timeline(options: Options) -> None:
    """Makes the timeline of what ranks leave after a failure; otherwise rank 0 has made it."""
    if file := {**os.environ, **_chosen(options)}.get("DIST_DYNET_TIMELINE"):
        timeline([file])


def _spans_hosts(options: Options) -> bool:
    return bool(options.hosts or options.hosts_from)


def _together(options: Options) -> int:
    """Several ranks, started by a launcher of MPI."""
    launcher = find_launcher(options.mpi, _spans_hosts(options))
    hosts = Hosts(options)
    said = [""]

    def next_job(before: Outcome | None, folder: str) -> Job:
        present = hosts.options(before) if _spans_hosts(options) else options
        job, words = _job(launcher, present, folder)
        if words and words != said[-1]:
            print_message(words)
            said.append(words)
        return job

    screen, ended = Screen(options.ranks != 1, options.quiet), partial(_gather_timeline, options)
    return run_attempts(next_job, options.max_restarts, screen, options.log_dir, ended)


def _job(launcher: Launcher, options: Options, folder: str) -> tuple[Job, str]:
    """The job and a message about it. The launcher may keep files in `folder`, which is empty."""
    asked = {**_defaults(), **os.environ, **_chosen(options)}
    bound = options.bind and not oversubscribed(launcher, options, asked)
    fitting, words = shm.settings_for(launcher.library, ranks_on_a_host(launcher, options), asked)
    needed = environment_for(launcher, bound, folder, asked)
    environment = {**needed, **fitting, **asked}
    if options.hosts and environment.get("HYDRA_LAUNCHER_EXTRA_ARGS") == "--external-launcher":
        # an option of srun, set in Slurm allocations, that ssh does not know
        del environment["HYDRA_LAUNCHER_EXTRA_ARGS"]
    # restarts add these two; Open MPI only passes named variables to other hosts
    named = {**environment, "DIST_DYNET_ATTEMPT": "", "DIST_DYNET_PROGRESS": ""}
    command = command_for(launcher, options, bound, named)
    relay = _relay_command(_launcher.RANK_VARIABLES[launcher.kind], options)
    is_here = launcher.kind != "slurm" and not options.hosts
    advice = _advice(launcher, options)
    return Job(tuple(command), relay, options.ranks, environment, advice, is_here), words


def _advice(launcher: Launcher, options: Options) -> str:
    """Advice if ranks do not start."""
    if launcher.kind == "slurm":
        return (
            f"srun says why. Where cores are too few: sbatch -n {options.ranks}, or, to share them,"
            " SLURM_OVERCOMMIT=1."
        )
    if not options.hosts:
        return LIMITS
    folder = shlex.quote(os.getcwd())  # noqa: PTH109 - a text
    there = f"cd {folder} && {sys.executable} -c 'import dist_dynet'"
    there = shlex.quote(there) if any(mark in there for mark in '$`"\\!') else f'"{there}"'
    agent = " ".join(options.agent)
    return (
        "Each host must be reached without a password or a question, and have the same paths, this"
        f" folder among them. Try for each: {agent} {options.hosts[-1][0]} {there}"
    )


def _alone(options: Options) -> int:
    """One rank without MPI: the script in this process, or in a supervised one if restarts or logs
    are requested."""
    if options.max_restarts or options.log_dir:
        return _supervised(options)
    os.execve(options.command[0], options.command, _alone_environment(options))


def _alone_environment(options: Options) -> dict[str, str]:
    return {**_HASHES, **os.environ, **_chosen(options)}


def _supervised(options: Options) -> int:
    """One rank without MPI in a process of its own."""
    environment = {"PYTHONUNBUFFERED": "1", **_alone_environment(options)}
    job = Job((), _relay_command("0", options), 1, environment)
    screen, ended = Screen(False, options.quiet), partial(_gather_timeline, options)
    return run_attempts(lambda *_: job, options.max_restarts, screen, options.log_dir, ended)


def _relay_command(rank: str, options: Options) -> tuple[str, ...]:
    return (
        sys.executable,
        "-I",
        "-S",
        _relay.__file__,
        rank,
        str(options.ranks),
        _SITE,
        *options.command,
    )


def _check(environment: Mapping[str, str]) -> None:
    """Refuses a job that could not work, or would be very slow."""
    if _launcher.find() is not None:
        raise RefusedError(
            "this is already a rank of a job. Start one dist-dynet run, not one on each rank."
        )
    for name in ("MPICH_ASYNC_PROGRESS", "MPIR_CVAR_ASYNC_PROGRESS"):
        if environment.get(name, "0").lower() not in ("", "0", "no", "false", "off"):
            raise RefusedError(
                f"{name}: its threads spin on the cores that ranks compute on (2 to 4 times"
                " slower). Unset it."
            )


def _defaults() -> dict[str, str]:
    """Defaults for unset variables: ranks are the parallelism, lines appear when they are written,
    sets of strings have one order."""
    return {**dict.fromkeys(THREADS, "1"), "PYTHONUNBUFFERED": "1", **_HASHES}


def _chosen(options: Options) -> dict[str, str]:
    """Variables set by options, which override the environment."""
    chosen = dict.fromkeys(THREADS, str(options.threads)) if options.threads else {}
    if options.timeout:
        chosen["DIST_DYNET_TIMEOUT"] = f"{options.timeout:g}"
    if options.metrics:
        chosen["DIST_DYNET_METRICS"] = str(options.metrics.absolute())
    if options.metrics_every:
        chosen["DIST_DYNET_METRICS_EVERY"] = str(options.metrics_every)
    if options.timeline:
        chosen["DIST_DYNET_TIMELINE"] = str(options.timeline.absolute())
    if options.profile:
        chosen["DIST_DYNET_PROFILE"] = str(options.profile.absolute())
    if os.isatty(2) and not options.quiet:
        chosen["DIST_DYNET_BARS"] = os.environ.get("DIST_DYNET_BARS", "1")
    return {**chosen, **dict(options.variables)}
