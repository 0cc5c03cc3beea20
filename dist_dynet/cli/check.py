"""`dist-dynet check`: runs a script for a few updates with one rank and with N, and reports what
differs, and where the time goes.

Two runs if the results agree. Otherwise further runs determine whether the cause is rounding, or
random draws. dist_dynet/parallel/processes/trial.py decides what is recorded during a run, and when
it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..parallel.processes.trial import VARIABLE
from . import mpi
from ._messages import RefusedError, print_message, temporary_files
from .comparison import LIMITS, Comparison, Run, compare, distance_of, pace_lines, pace_of
from .options import Options, known, parse
from .run import REFUSED, run_here

SAME, DIFFERS = 0, 1
"""Exit status."""
_ENDED = (130, 143, 129)
"""Status of a run that was ended by a signal to the launcher."""
_TIMED = 10
"""The least number of updates to time."""
_NOT_HERE = ("--hosts", "--hostfile", "--hosts-from", "--min-ranks", "--max-restarts")

_USAGE = """dist-dynet check [options] script.py [options] [-- arguments of the script]

Makes a few updates with 1 rank and with N, and compares. What follows the script and is
no option of this command belongs to the script, too. Options, beside those of
`dist-dynet run` that are not about hosts and restarts:
  -n N       ranks of the second run (default 2)
  --steps K  updates to compare (default 5); as many, but at least 10, are timed after them
Exit status: 0 if all that must agree agrees, 1 if not or if the script fails, 2 if nothing
was started. The script is ended after its last update by SystemExit. It resumes and writes no
checkpoints meanwhile. Manual: docs/launching.md"""

_DRAWS = (
    "Graphs draw random numbers, as for dropout, which differ from rank to rank, so that the"
    " parameters of 1 rank and of several cannot be compared. Without dropout they can, and with"
    " reproducible=True."
)
_ROUNDING = "With float32 the runs differ by rounding alone: compared here are runs with float64."


def check(arguments: list[str]) -> int:
    """Runs `dist-dynet check ARGUMENTS`; returns its exit status."""
    if any(word in ("-h", "--help") for word in arguments[:1]):
        print(_USAGE)
        return 0
    try:
        options, steps = parse_check(arguments)
        return _Check(options, steps).run()
    except RefusedError as refusal:
        print_message(f"check: {refusal}")
        return REFUSED


def parse_check(arguments: list[str]) -> tuple[Options, int]:
    """The options of the runs, and the number of updates to compare.

    Raises:
        RefusedError: an option is invalid here.

    >>> options, steps = parse_check(["train.py", "-n", "3", "--steps", "2", "--epochs", "4"])
    >>> options.ranks, steps, options.command[1:]
    (3, 2, ('train.py', '--epochs', '4'))
    >>> parse_check(["train.py", "--", "-n", "3"])[0].command[1:]
    ('train.py', '-n', '3')
    """
    names = {**known(), "--steps": True}
    ours, rest = _options(arguments, names)
    count = 2 if rest[:1] == ["-m"] else 1
    program, rest = rest[:count], rest[count:]
    if len(program) < count or (program[0][:1] == "-" and count == 1):
        got = f"; got {program[0]}" if program else ""
        raise RefusedError(
            f"there is no script to check{got}. `dist-dynet check --help` has the usage."
        )
    more, rest = _options(rest, names)
    parser = argparse.ArgumentParser(prog="dist-dynet check", usage=_USAGE, allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=5)
    given, of_run = parser.parse_known_args([*ours, *more])
    refused = [word for word in of_run if word.partition("=")[0] in _NOT_HERE]
    if refused:
        raise RefusedError(f"{refused[0]}: a check runs on this host, and once.")
    if given.steps < 1:
        raise RefusedError(f"--steps: takes an integer, at least 1; got {given.steps}.")
    options = parse([*of_run, "--", *program, *(rest[1:] if rest[:1] == ["--"] else rest)])
    if not any(word.startswith("-n") for word in of_run):
        options = replace(options, ranks=max(options.ranks, 2))
    if options.ranks < 2:
        raise RefusedError("-n: takes 2 ranks or more, which are compared with 1.")
    return options, given.steps


def _options(arguments: list[str], names: dict[str, bool]) -> tuple[list[str], list[str]]:
    """Known options at the beginning, and the rest."""
    i = 0
    while i < len(arguments):
        name, equals, _ = arguments[i].partition("=")
        if name not in names and not (name[:2] == "-n" and name[2:].isdecimal()):
            break
        i += 2 if names.get(name) and not equals else 1
    return arguments[:i], arguments[i:]


class _Check:
    """Makes the runs and reports on them."""

    def __init__(self, options: Options, steps: int) -> None:
        self._options, self._steps, self._n = options, steps, options.ranks
        self._script = " ".join(Path(word).name for word in options.command[1:2])

    def run(self) -> int:
        """Does everything; returns the exit status."""
        runs = []
        for ranks in (1, self._n):
            runs.append(self._run(ranks))
            if runs[-1].status in _ENDED:
                return runs[-1].status
            if reason := self._failed(runs[-1]):
                return self._end([reason])
        one, many = runs
        found = compare(one, many)
        if found.in_values:
            found = self._explain(found, one)
        self._print(found, one, many)
        return self._end(found.faults)

    def _run(self, ranks: int, why: str = "", stream: int = 0, dtype: str = "") -> Run:
        """Runs the script. stream: that of random draws in graphs, with one rank."""
        print_message(f"check: runs {self._script} with {_ranks(ranks)}{why}")
        with temporary_files():
            temporary = tempfile.TemporaryDirectory(prefix="dist-dynet-check-")
        with temporary as name:
            folder, timed = Path(name), max(_TIMED, self._steps)
            variables = {
                VARIABLE: f"{self._steps}:{timed}:{stream}:{name}",
                "DIST_DYNET_SEED": os.environ.get("DIST_DYNET_SEED") or "1",
                **({"DIST_DYNET_DTYPE": dtype} if dtype else {}),
            }
            options = replace(
                self._options,
                ranks=ranks,
                mpi=None if ranks == 1 else self._options.mpi,
                variables=tuple(variables.items()),
            )
            status = run_here(options)
            records = {
                int(path.stem.removeprefix("rank-")): json.loads(path.read_text(encoding="utf-8"))
                for path in folder.glob("rank-*.json")
            }
            count = len(records[0]["trainers"]) if 0 in records else 0
            values = [_load(folder / f"values-{i}.npz") for i in range(count)]
        return Run(ranks, status, records, values)

    def _failed(self, done: Run) -> str:
        """Why a run cannot be used; empty if it can."""
        ranks = _ranks(done.ranks)
        if not done.records and not done.status:
            return f"{self._script} does not use dist_dynet, or in another process only."
        if not done.complete and done.ranks == 1:
            return f"{self._script} fails with 1 rank already (status {done.status}): see above."
        if not done.complete:
            return (
                f"{self._script} runs with 1 rank, but fails with {ranks} (status {done.status}):"
                " see above. Where ranks differ, the message names rank and difference."
            )
        if any(trainer["updates"] for trainer in done.trainers):
            return ""
        if done.trainers:
            return (
                f"{self._script} calls no update() of its DistributedTrainer with {ranks}. What it"
                " does to parameters by hand is not averaged over the ranks."
            )
        for name in done.records[0]["plain"]:
            return (
                f"the {name} is not distributed: each rank would train a model of its own."
                f" Write dy.parallel.DistributedTrainer(dy.{name}(m))."
            )
        return f"{self._script} makes no update with {ranks}."

    def _explain(self, found: Comparison, one: Run) -> Comparison:
        """Makes further runs to find out whether different results are a fault of the script."""
        drawn = self._run(1, ", with other random draws in graphs", stream=1)
        if self._failed(drawn) or _draws(one, drawn):
            found.notes.append(_DRAWS)
            found.faults = [fault for fault in found.faults if "seem to be" in fault]
        elif one.records[0]["dtype"] == "float32":
            why = ", with float64"
            wide = [self._run(ranks, why, dtype="float64") for ranks in (1, self._n)]
            if not any(map(self._failed, wide)):
                exact = compare(*wide)
                if not exact.faults:
                    exact.notes.append(_ROUNDING)
                    return exact
        return found

    def _print(self, found: Comparison, one: Run, many: Run) -> None:
        print(f"{self._script}: {self._steps} updates with 1 rank and with {self._n}")
        for topic, text in found.findings:
            print(f"  {topic:<12} {text}")
        first, second = pace_of(one), pace_of(many)
        lines = ["the script makes too few updates to time them"]
        if first is not None and second is not None:
            lines = pace_lines(first, second, found.divided)
        for i, line in enumerate(lines):
            print(f"  {'' if i else 'time':<12} {line}")
        if self._n > mpi.cores():
            found.notes.append(f"{self._n} ranks share {mpi.cores()} cores: the times say little.")
        for name in {**one.records[0]["plain"], **many.records[0]["plain"]}:
            found.notes.append(f"Updates of a {name} that is not distributed are not compared.")
        for note in found.notes:
            print(f"  note         {note}", flush=True)

    def _end(self, faults: list[str]) -> int:
        for fault in faults or ["nothing differs that must agree."]:
            print_message(f"check: {fault}")
        return DIFFERS if faults else SAME


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as file:
        return dict(file)


def _ranks(n: int) -> str:
    return "1 rank" if n == 1 else f"{n} ranks"


def _draws(one: Run, other: Run) -> bool:
    """Whether two runs with one rank have results that differ by more than rounding."""
    return any(
        distance_of(x, y)[0] > LIMITS["float32"]
        for x, y in zip(one.values, other.values, strict=True)
    )
