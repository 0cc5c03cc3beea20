"""The command line of `dist-dynet run`: options before the script, hosts, and the command made of
the script and its arguments."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ._messages import RefusedError


@dataclass(frozen=True)
class Options:
    """The parsed options. `command` is what each rank runs; `hosts` are pairs of name and number of
    ranks."""

    ranks: int  # 0: as many as the hosts have places
    hosts: tuple[tuple[str, int], ...]
    hosts_from: str
    min_ranks: int | None
    max_restarts: int
    log_dir: Path | None
    quiet: bool
    mpi: str | None
    bind: bool
    threads: int | None
    timeout: float | None
    metrics: Path | None
    metrics_every: int | None
    timeline: Path | None
    profile: Path | None
    launch_agent: str
    interface: str
    command: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    """Further environment variables for the ranks."""

    @property
    def agent(self) -> tuple[str, ...]:
        """The remote shell, to which a host and a command line are appended."""
        ssh = ("ssh", "-o", "BatchMode=yes")
        return (self.launch_agent,) if self.launch_agent else ssh


def _number(kind: type[int] | type[float], least: float, what: str) -> Callable[[str], float]:
    """A converter for argparse with our own error message."""

    def convert(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = -1
        if not least <= number < float("inf"):
            raise argparse.ArgumentTypeError(f"takes {what}; got {text!r}")
        return number

    return convert


_count = _number(int, 1, "an integer, at least 1")
_natural = _number(int, 0, "an integer, at least 0")
_seconds = _number(float, 1e-3, "a number of seconds")


def _option(name: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    return name, settings


_OPTIONS = (
    _option(
        "-n",
        dest="ranks",
        type=_count,
        metavar="N",
        help="ranks; default: one for each place of --hosts, or task of the allocation, else 1",
    ),
    _option("--hosts", metavar="A:2,B:2", help="hosts, and how many ranks each takes (default 1)"),
    _option(
        "--hostfile",
        type=Path,
        metavar="FILE",
        help="the same, a host per line: `a:2` or `a slots=2`",
    ),
    _option(
        "--hosts-from",
        default="",
        metavar="COMMAND",
        help="asked at each attempt: writes lines of a --hostfile; or a file, read anew",
    ),
    _option(
        "--min-ranks",
        type=_count,
        metavar="N",
        help="start again with fewer ranks if there are fewer hosts, but with N at least",
    ),
    _option(
        "--max-restarts",
        type=_natural,
        default=0,
        metavar="K",
        help="start a failed job again, at most K times (default 0)",
    ),
    _option(
        "--log-dir",
        type=Path,
        metavar="DIR",
        help="also write a file per attempt and rank: DIR/attempt-0/rank-3.log",
    ),
    _option(
        "--mpi",
        choices=("mpich", "openmpi", "slurm"),
        help="what starts the ranks; default: the mpirun of mpi4py's MPI",
    ),
    _option(
        "--threads",
        type=_count,
        metavar="T",
        help="threads of each rank (default 1, or what the environment says)",
    ),
    _option(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="how long a rank waits for ranks that are alive (DIST_DYNET_TIMEOUT)",
    ),
    _option(
        "--metrics",
        type=Path,
        metavar="FILE",
        help="rank 0 adds lines of JSON: times of all ranks, learning rate, loss ...",
    ),
    _option(
        "--metrics-every",
        type=_count,
        metavar="K",
        help="updates from one line, and look at who is waited for, to the next (default 100)",
    ),
    _option(
        "--timeline",
        type=Path,
        metavar="FILE",
        help="what each rank does when, in Chrome's trace format (chrome://tracing, Perfetto)",
    ),
    _option(
        "--profile",
        type=Path,
        metavar="FILE",
        help="time, calls and shapes of each operation: a table of rank 0 at the end, and a"
        " file of each rank in Chrome's trace format",
    ),
    _option(
        "--launch-agent",
        default="",
        metavar="PROGRAM",
        help="remote shell in place of ssh, called as `PROGRAM host command`",
    ),
    _option(
        "--interface",
        default="",
        metavar="NAME",
        help="network interface that the hosts use, such as eth0",
    ),
    _option(
        "--bind",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="give each rank a core of its own if there are enough (default)",
    ),
    _option(
        "--quiet", action="store_true", help="do not show what the ranks write (with --log-dir)"
    ),
    _option(
        "--as-dynet", action="store_true", help="run a program that says `import dynet`, unchanged"
    ),
)
"""What comes before the script, in the order of --help."""


def _parser() -> tuple[argparse.ArgumentParser, set[str]]:
    """The parser of the options before the script, and which of them take a value."""
    parser = argparse.ArgumentParser(
        prog="dist-dynet run",
        usage=(
            "dist-dynet run [options] script.py [arguments of the script]\n       dist-dynet run"
            " [options] -m module [arguments]"
        ),
        description="Starts a script as N ranks, on this host or on several, and looks after them.",
        epilog=(
            "Everything after the script is the script's. SIGUSR1 goes on to the ranks (a"
            " checkpoint, please). Manual: docs/launching.md"
        ),
        allow_abbrev=False,
    )
    actions = [parser.add_argument(name, **settings) for name, settings in _OPTIONS]
    return parser, {
        name for action in actions if action.nargs != 0 for name in action.option_strings
    }


def split(arguments: list[str], with_value: set[str]) -> tuple[list[str], list[str]]:
    """Separates the launcher's options from the script, or `-m module`, and its arguments.

    >>> split(["-n", "2", "--quiet", "train.py", "-n", "3"], {"-n"})
    (['-n', '2', '--quiet'], ['train.py', '-n', '3'])
    """
    i = 0
    while i < len(arguments) and arguments[i].startswith("-") and arguments[i] not in ("-m", "--"):
        i += 2 if arguments[i] in with_value else 1
    rest = arguments[i:]
    return arguments[:i], rest[1:] if rest[:1] == ["--"] else rest


def behind_the_script(arguments: list[str]) -> tuple[str, str]:
    """Options that ask for ranks but follow the script, if none precede it, and the script. What
    follows the script belongs to it.

    >>> behind_the_script(["--quiet", "train.py", "-n", "2"])
    ('-n 2', 'train.py')
    >>> behind_the_script(["-n", "1", "train.py", "-n", "2"])
    ('', 'train.py')
    """
    ours, program = split(arguments, _parser()[1])
    before, after = (
        [m[0] for m in _ASKS_FOR_RANKS.finditer("\n".join(words))] for words in (ours, program)
    )
    script = " ".join(program[: 2 if program[0] == "-m" else 1])
    return (after[0].replace("\n", " ") if after and not before else ""), script


_ASKS_FOR_RANKS = re.compile(r"^(-n[\n=]?\d+|--(hosts|hostfile|hosts-from)[\n=].+)$", re.M)


def known() -> dict[str, bool]:
    """All options, and whether each takes a value."""
    parser, with_value = _parser()
    names = (name for action in parser._actions for name in action.option_strings)
    return {name: name in with_value for name in names}


def parse(arguments: list[str]) -> Options:
    """The options of `dist-dynet run`.

    Raises:
        RefusedError: they do not fit together.
        SystemExit: a mistake in an option, or --help; argparse has printed the message.
    """
    parser, with_value = _parser()
    ours, program = split(arguments, with_value)
    given = parser.parse_args(ours)
    if not program or program == ["-m"]:
        parser.error("there is no script to run")
    if re.fullmatch(r"python[0-9.]*", Path(program[0]).name):
        parser.error(f"takes a script, which this Python runs: leave out {program[0]}")
    hosts = _hosts(given)
    places = sum(count for _, count in hosts)
    if given.ranks and hosts and given.ranks > places:
        raise RefusedError(
            f"hosts: -n must not ask for more ranks than the hosts take; got -n {given.ranks} and"
            f" {places} places. Write more: --hosts {hosts[0][0]}:{given.ranks},..."
        )
    if given.min_ranks and not (hosts or given.hosts_from):
        raise RefusedError("--min-ranks: needs --hosts, --hostfile or --hosts-from.")
    most = given.ranks or places
    if given.min_ranks and most and given.min_ranks > most:
        raise RefusedError(
            f"--min-ranks: must be at most the number of ranks; got {given.min_ranks} and {most}."
        )
    if given.quiet and not given.log_dir:
        raise RefusedError("--quiet: what the ranks write would be lost. Give --log-dir, too.")
    environment = os.environ.get
    chosen = vars(given) | {
        "ranks": most or (0 if given.hosts_from else _tasks(given.mpi)),
        "hosts": hosts,
        "launch_agent": given.launch_agent or environment("DIST_DYNET_LAUNCH_AGENT", ""),
        "interface": given.interface or environment("DIST_DYNET_INTERFACE", ""),
        "command": (sys.executable, *(_AS_DYNET if given.as_dynet else ()), *program),
    }
    return Options(
        **{field.name: chosen[field.name] for field in fields(Options) if field.name in chosen}
    )


# Without -P an uncompiled checkout in the current folder would be found before the package that is
# installed.
_AS_DYNET = (*(("-P",) if sys.version_info >= (3, 11) else ()), "-m", "dist_dynet.compat")


def _tasks(mpi: str | None) -> int:
    """The number of ranks of a Slurm allocation: as many as it was made for (`salloc -n 4`)."""
    tasks = os.environ.get("SLURM_NTASKS", "")
    inside = "SLURM_JOB_ID" in os.environ and mpi in (None, "slurm")
    return int(tasks) if inside and tasks.isdecimal() else 1


def _hosts(given: argparse.Namespace) -> tuple[tuple[str, int], ...]:
    """The hosts that are given as options rather than by a command."""
    asked = {"--hosts": given.hosts, "--hostfile": given.hostfile, "--hosts-from": given.hosts_from}
    named = [name for name, value in asked.items() if value]
    if len(named) > 1:
        raise RefusedError(f"hosts: give {named[0]} or {named[1]}, not both.")
    if given.hosts:
        return tuple(_host(part, "--hosts") for part in given.hosts.split(","))
    return read_hosts(given.hostfile, "--hostfile") if given.hostfile else ()


def read_hosts(source: str | Path, what: str) -> tuple[tuple[str, int], ...]:
    """The hosts of a file, or of a text in the same format.

    Raises:
        RefusedError: the file cannot be read, or names no host.
    """
    if isinstance(source, Path):
        what = f"{what} {source}"
        try:
            source = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RefusedError(f"{what.split()[0]}: cannot be read: {error}") from None
    lines = [line.partition("#")[0].strip() for line in source.splitlines()]
    hosts = tuple(_host(line, what) for line in lines if line)
    if not hosts:
        raise RefusedError(f"{what}: names no host. Write one per line: node0:2")
    return hosts


def _host(text: str, what: str) -> tuple[str, int]:
    """Name and number of ranks.

    >>> _host("node0:2", "--hosts"), _host("node1 slots=4", "--hostfile"), _host("node2", "--hosts")
    (('node0', 2), ('node1', 4), ('node2', 1))
    """
    match = re.fullmatch(r"\s*([\w.-]+)(?:\s*:\s*(\d+)|\s+slots\s*=\s*(\d+))?\s*", text)
    count = int(match[2] or match[3] or 1) if match else 0
    if not match or not count:
        raise RefusedError(f"{what}: a host is written as name or name:ranks; got {text!r}.")
    return match[1], count
