"""The hosts of each attempt: as given, or listed anew by a command, without those that failed
twice.

This module knows which host a rank runs on, and how to reach a host. How an attempt ends is decided
in attempt.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ._messages import RefusedError, print_message
from .attempt import Outcome
from .options import Options, read_hosts

MOST_FAILURES = 2
"""A host that has failed so often is left out."""
ANSWER = 10.0
"""Seconds for a host to answer when the cause of a failure is determined."""
_LISTING = 60.0
"""Seconds for the command that lists the hosts."""


class Hosts:
    """The hosts of a job that may be started several times."""

    def __init__(self, options: Options) -> None:
        self._options, self._least = options, options.min_ranks
        self._failures: Counter[str] = Counter()
        self._taken: Options | None = None

    def options(self, before: Outcome | None) -> Options:
        """The options with the hosts and the number of ranks of the next attempt. `before` is the
        outcome of the previous one.

        Raises:
            RefusedError: there are too few places.
        """
        if before is not None and self._taken is not None:
            self._learn(before, self._taken)
        listed = self._listed()
        hosts = tuple(host for host in listed if self._failures[host[0]] < MOST_FAILURES)
        least = max(self._least or self._options.ranks, 1)
        if _places(hosts) < least <= _places(listed):
            # better an attempt with hosts that have failed than none
            self._failures.clear()
            hosts = listed
        if _places(hosts) < least:
            raise RefusedError(
                f"hosts: there must be places for {_count(least)}; got {_as_text(hosts)}."
            )
        ranks = min(self._options.ranks or _places(hosts), _places(hosts))
        if not self._least:  # the number of ranks is fixed
            self._options = replace(self._options, ranks=ranks)
        taken = replace(self._options, hosts=_first(hosts, ranks), ranks=ranks)
        if self._taken is not None and taken.hosts != self._taken.hosts:
            failed = [name for name, _ in listed if self._failures[name] >= MOST_FAILURES]
            without = (
                f" without {', '.join(failed)}, failed {MOST_FAILURES} times" if failed else ""
            )
            print_message(f"goes on with {_count(ranks)} on {_as_text(taken.hosts)}{without}.")
        self._taken = taken
        return taken

    def _listed(self) -> tuple[tuple[str, int], ...]:
        source = self._options.hosts_from
        if not source:
            return self._options.hosts
        file = Path(source)
        if file.is_file() and not os.access(file, os.X_OK):
            return read_hosts(file, "--hosts-from")
        try:
            asked = subprocess.run(
                source,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                timeout=_LISTING,
                check=True,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise RefusedError(
                f"--hosts-from: does not say which hosts there are: {error}"
            ) from None
        return read_hosts(asked.stdout, f"--hosts-from {source}")

    def _learn(self, outcome: Outcome, options: Options) -> None:
        """Records which hosts have failed: those where a rank was killed, and if ranks are missing,
        those that do not answer."""
        where = [name for name, count in options.hosts for _ in range(count)]
        failed = {where[rank] for rank in outcome.killed}
        if outcome.missing:
            failed |= set(_unreachable(dict.fromkeys(where), options.agent))
        self._failures.update(failed)


def _count(ranks: int) -> str:
    return f"{ranks} rank{'' if ranks == 1 else 's'}"


def _as_text(hosts: tuple[tuple[str, int], ...]) -> str:
    """In the format of --hosts: a:2,b:1."""
    return ",".join(f"{name}:{count}" for name, count in hosts)


def _places(hosts: tuple[tuple[str, int], ...]) -> int:
    return sum(count for _, count in hosts)


def _first(hosts: tuple[tuple[str, int], ...], ranks: int) -> tuple[tuple[str, int], ...]:
    """The first places, for exactly this number of ranks."""
    taken = []
    for name, count in hosts:
        if ranks > 0:
            taken.append((name, min(count, ranks)))
        ranks -= count
    return tuple(taken)


def _unreachable(names: dict[str, None], agent: tuple[str, ...]) -> list[str]:
    """Those of these hosts that cannot be reached now."""
    here = socket.gethostname()
    mine = (here, here.partition(".")[0], "localhost")
    nothing = subprocess.DEVNULL
    asked = {
        name: subprocess.Popen(
            [*agent, name, "true"], stdin=nothing, stdout=nothing, stderr=nothing
        )
        for name in names
        if name not in mine
    }
    end = time.monotonic() + ANSWER
    unreachable = []
    for name, process in asked.items():
        try:
            if process.wait(max(0.0, end - time.monotonic())):
                unreachable.append(name)
        except subprocess.TimeoutExpired:
            unreachable.append(name)
            process.kill()
            process.wait()
    return unreachable
