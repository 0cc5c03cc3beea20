"""The command line: `dist-dynet run` starts a script as N ranks and supervises them, `dist-dynet
check` tells whether N ranks compute the same as one, `dist-dynet info` shows what is installed.

In reading order: options (the command line), mpi (which MPI there is, and the commands of its
launchers), shm (whether it has room), run (the environment of the ranks), hosts (those of each
attempt), restarts (one attempt after the other), attempt (one job, from start to end), output (the
ranks' output). _relay.py runs beside each rank. check makes runs, and comparison finds what differs
and where the time goes. docs/launching.md is the manual.
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
       dist-dynet timeline FILE
       dist-dynet --version

`dist-dynet run --help` lists the options."""

COMMANDS = ("run", "check", "info", "timeline")
"""Each is a function in a module of its name, which takes the arguments and returns the status."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a write to a full or broken disk. Without a file name it was standard output."""


def main(arguments: list[str] | None = None) -> int:
    """The program `dist-dynet`, also `python -m dist_dynet`: returns its exit status.

    >>> main(["--version"])
    dist-dynet ...
    0
    """
    _replace_closed_streams()
    try:
        status = _run(*((sys.argv[1:] if arguments is None else arguments) or ["--help"]))
        sys.stdout.flush()  # so that a failing write raises here
        return status
    except KeyboardInterrupt:  # before or between jobs, which handle Ctrl-C themselves
        return 130
    except OSError as error:
        from ._messages import print_message, reason_of

        if error.filename is not None or error.errno not in (*_FULL, errno.EPIPE):
            print_message(f"cannot go on: {reason_of(error)}")
            return 1
        if error.errno != errno.EPIPE:  # the reader has enough, as `| head`
            print_message(f"standard output cannot be written: {error.strerror}.")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # Python would complain once more at its end
        os.close(nowhere)
        return 1


def _replace_closed_streams() -> None:
    """Opens /dev/null for those of standard input, output and error that the caller has closed
    (`>&-`): otherwise one of our pipes would get the number. A library may have done so already:
    then this process's own output goes to /dev/null."""
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
