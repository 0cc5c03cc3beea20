"""`dist-dynet check`: runs a script for a few updates with one rank and with N, and reports what
differs, where the time goes, and what scaling to expect.

Two runs if nothing differs. Otherwise further runs determine whether the cause is rounding, the
order of sets of strings, or random draws.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from . import mpi, pace
from ._messages import RefusedError, print_message
from .comparison import Comparison, compare, differ
from .options import Options, known, parse
from .run import REFUSED
from .trials import Kind, Run, hashes_are_ours, run

SAME, DIFFERS = 0, 1
"""Exit status."""
_ENDED = (130, 143, 129)
"""Status of a run that was ended by a signal to the launcher."""
_TIMED = 10
"""The least number of updates to time."""
_OTHER_HASHES = "1"
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
    if len(program) < count:
        raise RefusedError("there is no script to check. `dist-dynet check --help` has the usage.")
    if program[0][0:1] == "-" and count == 1:
        raise RefusedError(
            f"{program[0]}: is no option. `dist-dynet check --help` lists them; those of the"
            " script follow its name."
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
        self._options, self._steps = options, steps
        self._n = options.ranks
        self._script = " ".join(Path(word).name for word in options.command[1:2])

    def _run(self, kind: Kind, why: str = "") -> Run:
        ranks = "1 rank" if kind.ranks == 1 else f"{kind.ranks} ranks"
        print_message(f"check: runs {self._script} with {ranks}{why}")
        return run(self._options, kind, self._steps, max(_TIMED, self._steps))

    def run(self) -> int:
        """Does everything; returns the exit status."""
        one = self._run(Kind(1, _OTHER_HASHES))
        if one.status in _ENDED:
            return one.status
        if reason := self._failed(one):
            return self._end([reason])
        many = self._run(Kind(self._n))
        if many.status in _ENDED:
            return many.status
        if reason := self._failed(many):
            return self._end([reason])
        found = compare(one, many)
        if found.faults:
            found, one = self._explain(found, one, many)
        self._print(found, one, many)
        return self._end(found.faults)

    def _failed(self, done: Run) -> str:
        """Why a run cannot be used; empty if it can."""
        n = done.kind.ranks
        ranks = "1 rank" if n == 1 else f"{n} ranks"
        if not done.records and not done.status:
            return f"{self._script} does not use dist_dynet, or in another process only."
        if not done.complete:
            if n == 1:
                return (
                    f"{self._script} fails with 1 rank already (status {done.status}): see above."
                )
            return (
                f"{self._script} runs with 1 rank, but fails with {ranks} (status {done.status}):"
                " see above. Where ranks differ, the message names rank and difference."
            )
        plain = done.records[0]["plain"]
        if not done.trainers:
            if plain:
                name = next(iter(plain))
                return (
                    f"the {name} is not distributed: each rank would train a model of its own."
                    f" Write dy.parallel.DistributedTrainer(dy.{name}(m))."
                )
            return f"{self._script} makes no update with {ranks}."
        if not any(trainer["updates"] for trainer in done.trainers):
            return (
                f"{self._script} calls no update() of its DistributedTrainer with {ranks}. What it"
                " does to parameters by hand is not averaged over the ranks."
            )
        return ""

    def _explain(self, found: Comparison, one: Run, many: Run) -> tuple[Comparison, Run]:
        """Makes further runs to find out whether a difference is a fault of the script. Also
        returns the relevant run with one rank."""
        if found.inputs_differ and hashes_are_ours():
            again = self._run(Kind(1), ", with the string hashes of the ranks")
            if not self._failed(again):
                if not compare(again, many).inputs_differ:
                    found = compare(again, many)
                    found.notes.append(_SETS)
                one = again
        if found.inputs_differ or found.certain or not found.values_differ:
            return found, one
        drawn = self._run(replace(one.kind, stream=1), ", with other random draws in graphs")
        if self._failed(drawn) or differ(one, drawn):
            found.notes.append(_DRAWS)
            found.faults = [fault for fault in found.faults if "seem to be" in fault]
            return found, one
        if one.dtype == "float32":
            wide = [
                self._run(Kind(ranks, dtype="float64"), ", with float64") for ranks in (1, self._n)
            ]
            if not any(map(self._failed, wide)):
                exact = compare(wide[0], wide[1])
                if not exact.faults:
                    exact.notes += found.notes
                    exact.notes.append(_SETS if differ(one, wide[0]) else _ROUNDING)
                    return exact, one
        return found, one

    def _print(self, found: Comparison, one: Run, many: Run) -> None:
        lines = [(topic, [text]) for topic, text in found.findings]
        plain = {**one.records[0]["plain"], **many.records[0]["plain"]}
        if plain:
            found.notes.append(
                f"Updates of a {next(iter(plain))} that is not distributed are not compared."
            )
        first, second = pace.pace_of(one), pace.pace_of(many)
        if first is None or second is None:
            lines.append(("time", ["the script makes too few updates to time them"]))
        else:
            oversubscribed = self._n > mpi.cores()
            lines.append(("time", pace.table(first, second)))
            divided = not any(text.startswith("batches of") for _, text in found.findings)
            lines.append(("scaling", pace.expected(first, second, divided)))
            if oversubscribed:
                found.notes.append(
                    f"{self._n} ranks share {mpi.cores()} cores: the times say little."
                )
        print(f"{self._script}: {self._steps} updates with 1 rank and with {self._n}")
        for topic, texts in lines:
            for i, text in enumerate(texts):
                print(f"  {'' if i else topic:<12} {text}")
        for note in found.notes:
            print(f"  note         {note}")
        sys.stdout.flush()

    def _end(self, faults: list[str]) -> int:
        for fault in faults:
            print_message(f"check: {fault}")
        if not faults:
            print_message("check: nothing differs that must agree.")
        return DIFFERS if faults else SAME


_SETS = (
    "The result depends on the order of a set of strings. `dist-dynet run` gives all ranks one"
    " order; other launchers do not. Write sorted(set(words))."
)
_DRAWS = (
    "Graphs draw random numbers, as for dropout, which differ from rank to rank, so that the"
    " parameters of 1 rank and of several cannot be compared. Without dropout they can, and with"
    " reproducible=True."
)
_ROUNDING = (
    "With float32 the runs differ more than this, by rounding alone: compared here are runs with"
    " float64."
)
