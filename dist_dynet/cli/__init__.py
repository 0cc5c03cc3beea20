"""The command line: `dist-dynet run` starts a script as N ranks and looks after them,
`dist-dynet check` says whether N ranks do what one does, `dist-dynet info` what is installed.

In reading order: options (what is asked for), mpi (which MPI there is, and the commands of its
launchers), shm (whether it has room), run (the environment of the ranks), hosts (those of each
attempt), restarts (one attempt after the other), attempt (one job, from its start to its end),
output (what the ranks say); _relay.py runs beside each rank. check compares runs: trials makes
them, comparison says what differs, pace where the time goes. docs/launching.md is the manual.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module

__all__ = ["main"]

USAGE = """usage: dist-dynet run [options] script.py [arguments of the script]
       dist-dynet check [options] script.py [options] [-- arguments of the script]
       dist-dynet info [--json]
       dist-dynet plot metrics.jsonl [--out PNG]
       dist-dynet timeline FILE
       dist-dynet --version

`dist-dynet run --help` lists the options."""

COMMANDS = ("run", "check", "info", "plot", "timeline")
"""Each is a function in a module of its name, which takes the arguments and returns the status."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a write to a full or broken disk comes to. Without a file's name it is standard output."""


def main(arguments: list[str] | None = None) -> int:
    """The program `dist-dynet`, also `python -m dist_dynet`: returns its exit status.

    >>> main(["--version"])
    dist-dynet ...
    0
    """
    _replace_closed_streams()
    try:
        status = _run(*((sys.argv[1:] if arguments is None else arguments) or ["--help"]))
        sys.stdout.flush()  # what is still in its buffer may not be written either
        return status
    except KeyboardInterrupt:  # before or between the jobs, which take Ctrl-C themselves
        return 130
    except OSError as error:
        if error.filename is not None or error.errno not in (*_FULL, errno.EPIPE):
            raise
        if error.errno != errno.EPIPE:  # the reader has enough, as `| head`
            from ._messages import print_message

            print_message(f"standard output cannot be written: {error.strerror}.")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # Python would complain once more at its end
        os.close(nowhere)
        return 1


def _replace_closed_streams() -> None:
    """Where the caller has closed standard input, output or error (`>&-`), /dev/null is there: a
    pipe of ours would take the number. A library may have taken it for a file of its own: then
    what this process says goes to /dev/null all the same."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    sys.stdout = sys.stdout or os.fdopen(os.dup(descriptor), "w")
    sys.stderr = sys.stderr or os.fdopen(os.dup(descriptor), "w")
    os.close(descriptor)


def _run(command: str, *arguments: str) -> int:
    """One of the commands."""
    rest = [*arguments]
    if command in COMMANDS:
        status: int = getattr(import_module(f".{command}", __name__), command)(rest)
        return status
    if command == "--version":
        from .._version import __version__

        print(f"dist-dynet {__version__}")
        return 0
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    print(f"dist-dynet: there is no command {command!r}.\n{USAGE}", file=sys.stderr)
    return 2
