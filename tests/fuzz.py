"""Random programs, computed in many ways that must agree:
`python tests/fuzz.py --seconds N --seed S`.

A program (fuzz_programs.py) has operations of all rows of the op table, recurrent builders, cells,
checkpoints and reverts, set(), recalculation, frozen parameters, updates, and reads values and
gradients on the way. It is computed live, in all modes of autobatching and in immediate mode;
plainly, anew for each reading; anew in the same graph; once more without fast paths
(DIST_DYNET_FAST_PATHS=0), which must give the same bits; in several threads at a time, likewise;
and row by row beside NumPy. Numbers are float64, in every third program float32. Processes of their
own compute, so that a crash and a hang are findings, too.

What is found is made smaller, step by step, as long as it stays wrong, and printed as a program of
Python. Status 1: something was found. Draws depend on the seed alone: `--seed S --only K` is
program K of that seed. Run it with other seeds after changes to the tape, to schedules, to
backward, or to fast paths.
"""

import argparse
import os
import pickle
import random
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fuzz_programs import Deck, drawn
from fuzz_source import Mode, source

HERE = Path(__file__).parent
PLAIN = Mode(plain=True)
LIVE = [*map(Mode, range(4)), Mode(2, immediate=True), Mode(0, anew=True), Mode(2, anew=True)]
THREADS = 3
TOLERANCE = {"float64": 1e-7, "float32": 3e-3}
"""|a - b| <= tolerance (1 + the greatest |b| of the array)"""
STARTS = 120
"""Seconds that a process may take to start."""
FRESH = 2000
"""Programs after which a process is replaced: what a finding depends on must be in so many."""


class CrashError(Exception):
    """A process ended, or gave no answer in time."""


class Worker:
    """A process that runs programs."""

    def __init__(self, dtype, fast, patience):
        path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "DIST_DYNET_DTYPE": dtype,
            "DIST_DYNET_FAST_PATHS": str(int(fast)),
            "OMP_NUM_THREADS": "1",
        }
        self._patience, self.programs = patience, 0
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, HERE / "fuzz_worker.py"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=HERE,
            bufsize=0,
        )
        self._read(8, STARTS)

    def run(self, requests):
        """What each (program, mode, threads) has noted; CrashError."""
        self.programs += 1
        text = pickle.dumps(
            [(source(program, mode), threads) for program, mode, threads in requests]
        )
        try:
            self._process.stdin.write(struct.pack("q", len(text)) + text)
            return pickle.loads(
                self._read(struct.unpack("q", self._read(8, self._patience))[0], self._patience)
            )
        except BrokenPipeError:
            raise CrashError(self._final_output()) from None

    def _read(self, n, patience):
        found, end = b"", time.monotonic() + patience
        while len(found) < n:
            ready = select.select([self._process.stdout], [], [], max(0, end - time.monotonic()))[0]
            if not ready:
                self.close()
                raise CrashError(f"hangs: no answer within {patience:g} seconds")
            piece = self._process.stdout.read(n - len(found))
            if not piece:
                raise CrashError(self._final_output())
            found += piece
        return found

    def _final_output(self):
        status = self._process.wait()
        self._errors.seek(0)
        return (
            f"the process ended with status {status}:"
            f" {self._errors.read()[-1500:].decode(errors='replace')}"
        )

    def close(self):
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            stream.close()


class Workers:
    """A process for each number type, with and without fast paths."""

    def __init__(self, patience):
        self._patience, self._workers = patience, {}
        self.before = {}
        """By kind of process, the programs that it has run."""

    def run(self, kind, program, requests):
        worker = self._workers.get(kind)
        if worker is None or worker.programs >= FRESH:
            self.close(kind)
            worker = self._workers[kind] = Worker(*kind, self._patience)
            self.before[kind] = []
        self.before[kind].append((program, requests))
        try:
            return worker.run(requests)
        except CrashError:
            self.close(kind)
            raise

    def close(self, *kinds):
        for kind in kinds or list(self._workers):
            worker = self._workers.pop(kind, None)
            if worker:
                worker.close()


class Finding(NamedTuple):
    """kind: what shrinking keeps. mode, reference: what was compared; None: nothing, it is an error
    by itself."""

    kind: str
    dtype: str
    mode: Mode
    reference: Mode | None
    key: tuple
    got: object
    want: object

    def words(self):
        against = "" if self.reference is None else f", beside {self.reference}"
        return (
            f"{self.kind}: {self.dtype}, {self.mode}{against}\n{' '.join(map(str, self.key))}:"
            f" {compared(self.got, self.want)}"
        )


def difference(got, want, exact, tolerance, model=True):
    """(key, got, want) of the first difference, or None."""
    for key in sorted(got.keys() | want.keys(), key=str):
        a, b = got.get(key), want.get(key)
        if model and a is not None and key[1] == "model":
            found = unequal(*a, False, tolerance)
            if found:
                return (*key, "NumPy"), *found
        if a is None or b is None:
            return key, a, b
        if isinstance(a, tuple) or isinstance(b, tuple):
            if type(a) is not type(b) or a[0] != b[0] or (exact and a != b):
                return key, a, b
        else:
            found = unequal(a, b, exact, tolerance)
            if found and unequal(a, b, exact, tolerance, exploded(want, key)):
                return key, *found
    return None


EXPLODED = 1e6


def exploded(noted, key):
    """The size of the largest gradient of a pass, if it has exploded: what comes along one way may
    be taken away along another."""
    if not key[1].startswith("gradient"):
        return 0
    gradients = (
        a
        for k, a in noted.items()
        if k[0] == key[0] and k[1].startswith("gradient") and isinstance(a, np.ndarray)
    )
    size = max((np.abs(a[np.isfinite(a)]).max(initial=0) for a in gradients), default=0)
    return size if size > EXPLODED else 0


def unequal(a, b, exact, tolerance, size=0):
    """The arrays, if they differ; `size`: of numbers that theirs were made of."""
    if a.shape == b.shape:
        if exact and (a.tobytes() == b.tobytes() or np.array_equal(a, b, equal_nan=True)):
            return None
        finite = np.isfinite(b)
        same = (
            np.array_equal(a[~finite], b[~finite], equal_nan=True) and np.isfinite(a[finite]).all()
        )
        if (
            not exact
            and same
            and np.abs(a[finite] - b[finite]).max(initial=0)
            <= tolerance * (1 + max(size, np.abs(b[finite]).max(initial=0)))
        ):
            return None
    return a, b


def compared(got, want):
    """Both as text; of arrays the first numbers that differ."""
    if isinstance(got, np.ndarray) and isinstance(want, np.ndarray) and got.shape == want.shape:
        places = np.flatnonzero(~np.isclose(got, want, rtol=1e-9, atol=0, equal_nan=True).ravel())[
            :4
        ]
        pairs = ", ".join(f"{got.ravel()[i]!s} at {i}, not {want.ravel()[i]!s}" for i in places)
        return pairs or "other bits"
    return f"{got}, not {want}"


class Plan(NamedTuple):
    """In which ways one program is computed."""

    dtype: str
    modes: tuple
    general: Mode | None
    threads: Mode | None


def planned(draw, program, number):
    random_ = draw.random()
    modes = tuple(LIVE if random_ < 0.5 else draw.sample(LIVE, 3))
    threads = draw.choice(LIVE[:4]) if program.comparable and draw.random() < 0.15 else None
    return Plan("float32" if number % 3 == 2 else "float64", modes, draw.choice(modes), threads)


def finding(workers, program, plan):
    """What is wrong with a program, or None."""
    reference = PLAIN if program.comparable else plan.modes[0]
    modes = [reference, *(mode for mode in plan.modes if mode != reference)]
    requests = [(program, mode, 0) for mode in modes] + (
        [(program, plan.threads, 0), (program, plan.threads, THREADS)] if plan.threads else []
    )
    try:
        answers = workers.run((plan.dtype, True), program, requests)
    except CrashError as crash:
        return Finding(
            "hang" if "hangs" in str(crash) else "crash",
            plan.dtype,
            modes[-1],
            None,
            (),
            str(crash),
            "an answer",
        )
    tolerance = TOLERANCE[plan.dtype]
    for mode, got in zip(modes, answers, strict=False):
        found = difference(got, answers[0], False, tolerance)
        if found:
            return Finding("wrong", plan.dtype, mode, reference, *found)
    if plan.threads:
        for got in answers[-1]:
            found = difference(got, answers[-2], True, 0, False)
            if found:
                return Finding("threads", plan.dtype, plan.threads, plan.threads, *found)
    if plan.general in modes:
        try:
            (general,) = workers.run((plan.dtype, False), program, [(program, plan.general, 0)])
        except CrashError as crash:
            return Finding(
                "hang" if "hangs" in str(crash) else "crash",
                plan.dtype,
                plan.general,
                None,
                (),
                f"without fast paths {crash}",
                "",
            )
        found = difference(general, answers[modes.index(plan.general)], True, 0, False)
        if found:
            return Finding("general path", plan.dtype, plan.general, plan.general, *found)
    return None


# ---- shrinking -------------------------------------------------------------------------


def shrunk(still_wrong, program):
    """As few steps as possible, and as little in them: pieces are taken out as long as
    still_wrong(program)."""
    size = max(1, len(program.steps) // 2)
    while True:
        at, changed = len(program.steps), False
        while at > 0:
            at -= size
            smaller = program._replace(
                steps=program.steps[: max(at, 0)] + program.steps[at + size :]
            )
            if still_wrong(smaller):
                program, changed = smaller, True
        if size == 1 and not changed:
            break
        size = max(1, size // 2)
    for k, step in enumerate(program.steps):
        for rest in simpler(step):
            smaller = program._replace(
                steps=(
                    *program.steps[:k],
                    program.steps[k]._replace(rest=rest),
                    *program.steps[k + 1 :],
                )
            )
            if still_wrong(smaller):
                program = smaller
    return program


def simpler(step):
    """Other contents of a step, which ask for less."""
    if step.kind == "observe":
        chosen, backward, first, _ = step.rest
        yield chosen, "", first, 0
        for x in chosen:
            yield (x,), backward, first, 0
            yield (x,), "backward()" * bool(backward), first, 0
    if step.kind == "row":
        k, c, seed, links, parameters, cell = step.rest
        yield k, c, seed, links, parameters, False
        yield k, c, seed, (None,) * len(links), parameters, cell
        yield k, c, seed, links, (False,) * len(parameters), cell


HEADER = '''"""{words}"""
import sys; sys.path.insert(0, {here!r})  # run it with DIST_DYNET_DTYPE={dtype}
from fuzz_worker import *
note, gradients = Printed().note, Printed().gradients
'''


def printed(program, found):
    """A program of Python that shows it."""
    lines = [text for _, text in source(program, found.mode)]
    needed = "\n".join(lines)
    made = {line.split(" = ")[0]: line for line in lines if " = m.add_" in line}
    unused = [line for name, line in made.items() if name not in needed.replace(line, "")]
    lines = [line for line in lines if line not in unused and "model(" not in line]
    return HEADER.format(
        words=found.words().replace('"""', "'''"), here=str(HERE), dtype=found.dtype
    ) + "\n".join(lines)


# ---- the run ---------------------------------------------------------------------------


class Fuzz:
    """A run with one seed."""

    def __init__(self, seed, patience):
        self.seed, self._patience = seed, patience
        self.workers = Workers(patience)
        self.deck = Deck(random.Random(f"deck {seed}"))
        self.count, self.steps, self.rounding = 0, 0, 0
        self.kinds, self.rows = Counter(), set()

    def next(self):
        """The next program and how it is computed."""
        program = drawn(f"{self.seed} {self.count}", self.deck)
        plan = planned(random.Random(f"plan {self.seed} {self.count}"), program, self.count)
        self.count += 1
        self.steps += len(program.steps)
        self.kinds.update(s.kind for s in program.steps)
        self.rows |= {s.rest[0] for s in program.steps if s.kind == "row"}
        return program, plan

    def check(self, program, plan):
        """What is wrong, made small: (program, finding, whether a process that has just started
        shows it), or None."""
        found = finding(self.workers, program, plan)
        if found is None or (
            found.kind == "wrong" and plan.dtype == "float32" and self._is_rounding(program, plan)
        ):
            return None
        modes = plan.modes if found.reference is None else (found.mode,)
        general = (
            plan.general
            if found.reference is None
            else found.mode
            if found.kind == "general path"
            else None
        )
        only = Plan(found.dtype, modes, general, found.mode if found.kind == "threads" else None)
        if (
            not program.comparable
            and found.reference not in only.modes
            and found.reference is not None
        ):
            only = only._replace(modes=(found.reference, *only.modes))

        def still_wrong(smaller, like=found):
            alone = Workers(self._patience)
            try:
                again = finding(alone, smaller, only)
            finally:
                alone.close()
            return (
                again is not None
                and again.kind == like.kind
                and (again.got is None) == (like.got is None)
            )

        if not still_wrong(program):
            return program, found, False
        quick = Workers(self._patience)
        try:
            small = shrunk(
                lambda p: (
                    (again := finding(quick, p, only)) is not None and again.kind == found.kind
                ),
                program,
            )
        finally:
            quick.close()
        if not still_wrong(small):
            small = program
        alone = Workers(self._patience)
        try:
            return small, finding(alone, small, only) or found, True
        finally:
            alone.close()

    def _is_rounding(self, program, plan):
        """Whether it is well in double."""
        self.rounding += 1
        return finding(self.workers, program, plan._replace(dtype="float64")) is None


def seconds_used():
    """Of processors, by this process and those that it has ended."""
    return sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="K", help="program K alone")
    parser.add_argument("--findings", type=int, default=1, help="after how many to stop")
    parser.add_argument(
        "--patience", type=float, default=60, help="seconds after which a program hangs"
    )
    given = parser.parse_args()
    run, end, findings = Fuzz(given.seed, given.patience), time.monotonic() + given.seconds, 0
    try:
        while time.monotonic() < end and findings < given.findings:
            number = run.count
            program, plan = run.next()
            if given.only is not None and number != given.only:
                continue
            result = run.check(program, plan)
            if result:
                findings += 1
                small, found, alone = result
                print(
                    f"# program {number} of seed"
                    f" {given.seed}{'' if alone else ', only after those before it'},"
                    f" {len(small.steps)} of {len(program.steps)} steps",
                    printed(small, found),
                    sep="\n",
                    flush=True,
                )
            if given.only is not None:
                break
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        run.workers.close()
    print(
        f"{run.count} programs, {run.steps} steps, {len(run.rows)} of {len(run.deck.rows)} rows,"
        f" {seconds_used():.0f} processor seconds, {run.rounding} of float32 looked at again in"
        f" float64, {findings} findings"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
