"""What the launcher says itself, and how it refuses."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LIMITS = "See the limits of processes and open files: ulimit -a, and pids.max of the control group."
SHORTAGES = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of the system when it starts a process and lacks something."""


class RefusedError(Exception):
    """Something is asked for that cannot be done; the text says what and what to do."""


def reason_of(error: OSError) -> str:
    """What the system says, about which file, and where to look.

    >>> reason_of(OSError(errno.EMFILE, "Too many open files"))
    'Too many open files. See the limits of processes and open files: ulimit -a, ...'
    """
    name = f": {error.filename}" if error.filename is not None else ""
    more = f" {LIMITS}" if error.errno in SHORTAGES else ""
    return f"{error.strerror or error}{name}.{more}"


@contextmanager
def temporary_files() -> Iterator[None]:
    """Stands around what makes temporary files.

    Raises:
        RefusedError: the system does not let it.
    """
    try:
        yield
    except OSError as error:
        raise RefusedError(
            "TMPDIR: there must be a folder for temporary files that can be written to; got:"
            f" {reason_of(error)} Let TMPDIR name one."
        ) from None


def print_message(text: str) -> None:
    """Writes to stderr, under the launcher's name."""
    with suppress(OSError):
        sys.stderr.write("".join(f"dist-dynet: {line}\n" for line in text.splitlines()))
        sys.stderr.flush()
