"""Random training programs on several ranks: `python tests/fuzz_ranks.py --seconds N --seed S`.

The law: N ranks end where one process ends, in every loop, or the program is refused with a message
on all of them, and has changed nothing then. Nothing is wrong in silence, and nothing hangs.

A program has loops over shard() of all kinds, updates, and what a program does beside them. Where
ranks need the name of a batch and do not get it, they may refuse. It runs in one process and on
ranks (tests/mpi/drawn.py), and all that it notes after each update is compared. A program that is
wrong is made smaller, as long as it stays wrong, and printed. `--only K` is the program of that
number. Run it after changes of dist_dynet/parallel.
"""

import argparse
import pickle
import random
import re
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jobs import mpirun, run_program

TOLERANCE = 1e-9
"""|a - b| <= tolerance (1 + |b|), in double precision."""
REFUSALS = r"trainer\.update\(batch\)|all ranks must agree; |it is not known which batch"
RULES = (
    *("SimpleSGDTrainer({m}, 0.1)", "MomentumSGDTrainer({m}, 0.1)", "AdagradTrainer({m}, 0.1)"),
    *("AdamTrainer({m}, 0.1)", "RMSPropTrainer({m}, 0.1)", "AmsgradTrainer({m}, 0.1)"),
    *("AdamWTrainer({m}, 0.1, weight_decay=0.1)", "AdadeltaTrainer({m})"),
)
KNOWN = (
    # loops in which the batch is known
    *("for {b} in {s}:", "for _, {b} in enumerate({s}):", "for {b} in itertools.islice({s}, 9):"),
    *("for {b} in itertools.chain({s}):", "for {b} in (b for b in {s}):"),
    "for {b} in map(lambda b: b, {s}):",
)
UNKNOWN = ("for {b} in list({s}):", "for {b} in ahead({s}):", "for {b} in [*{s}][::-1]:")
BESIDE = (
    # what programs do between updates, on all ranks alike
    "note(parallel.evaluate(lambda x: {a}.score([x]), {a}.data[:5], cost=cost))",
    "note(max(parallel.gather({a}.score({a}.data[:2]))))",
    "for x in shard({a}.data[:6], 2): {a}.score(x)",
    "{t}.learning_rate *= 0.5",
    "{t}.set_clip_threshold(0.3)",
    "{a}.m.set_weight_decay(0.02)",
    "{a}.W.scale(0.9)",
    "{a}.E.init_row(1, [1, 2, 3])",
    "{a}.add()",
    "{a}.b.set_updated(not {a}.b.is_updated())",
    "{t}.restart()",
    "{t}.load_state({t}.state())",
)


@dataclass(frozen=True)
class Program:
    """Lines are (depth, text)."""

    seed: int
    lines: tuple
    may_refuse: bool = False
    is_exact: bool = False  # the same bits on any number of ranks

    @property
    def source(self):
        """Text of Python."""
        return "".join("    " * depth + text + "\n" for depth, text in self.lines)

    def without(self, k):
        """Without a line and what is inside of it."""
        depth, end = self.lines[k][0], k + 1
        while end < len(self.lines) and self.lines[end][0] > depth:
            end += 1
        return replace(self, lines=self.lines[:k] + self.lines[end:])


class Trained(NamedTuple):
    """A task with its trainer and its shard, by their names in the program."""

    a: str
    how: str  # losses: "mean", "tokens", "sum"
    naming: str  # what update() is given: "", "batch", "number"
    passes: int  # of an update; 0: those in no_sync()
    is_subset: bool

    @property
    def names(self):
        """For format()."""
        return {"a": self.a, "t": f"t{self.a}", "s": f"s{self.a}"}


class Writer:
    """Draws one program."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.pick, self.chance = self.rng.choice, lambda p: self.rng.random() < p
        self.lines, self.depth, self.loops = [], 0, 0
        self.may_refuse = self.is_exact = False

    def line(self, text):
        self.lines.append((self.depth, text))

    @contextmanager
    def block(self, header):
        self.line(header)
        self.depth += 1
        yield
        self.depth -= 1

    # ---- what programs are made of -----------------------------------------------------

    def task(self, a="a", micro=0):
        average = self.pick(["mean", "mean", "sum"])
        how = "sum" if average == "sum" else self.pick(["mean", "tokens"])
        naming = "" if micro else self.pick(["", "", "batch", "number"])
        passes = 1 if micro else self.pick([1, 1, 1, 2, 3, 0])
        is_subset = passes == 1 and not micro and self.chance(0.15)
        if (passes != 1 or is_subset) and naming == "number":
            naming = "batch"  # ranks must know the weights of all
        weight = ", weight=cost" if how == "tokens" and naming != "number" else ""
        self.line(f"{a} = Task({self.rng.randrange(999)}, {self.pick([1, 2, 5, 8, 11, 14])})")
        options = f", accumulate={passes}" if passes > 1 else ""
        options += ", reproducible=True" if micro else ""
        self.line(f"t{a} = dist(dy.{self.pick(RULES).format(m=f'{a}.m')}, {average!r}{options})")
        self.line(f"t{a}.set_clip_threshold({self.pick([0, 0.3, 5])})")
        extra = "".join(f", {x}" for x in ("cost=cost", "drop_last=True") if self.chance(0.3))
        extra += self.pick(["", "", ", shuffle=False", ", bucket=2"])
        extra += f", micro_batches={micro}" if micro else ""
        size = self.pick([1, 2, 3, 5, 7])
        self.line(f"s{a} = shard({a}.data, {size}, seed={self.rng.randrange(9)}{extra}{weight})")
        return Trained(a, how, naming, passes, is_subset)

    def backward(self, t, b):
        self.line(f"{t.a}.backward({b}, {t.how!r})")

    def update(self, t, b):
        count = f"tokens({b})" if t.how == "tokens" else f"len({b})"
        named = {"": "", "batch": f", {b}", "number": f", {count}"}[t.naming]
        if t.is_subset:
            self.line(f"update(t{t.a}{named}, of=([0], []))")
            self.line(f"update(t{t.a}, {b}, of=([{t.a}.b, 2], [{t.a}.E]))")
        elif t.passes == 0:
            with self.block(f"if {b}.step % 2 == 0:"), self.block(f"with t{t.a}.no_sync():"):
                self.line(f"update(t{t.a}{named})")
            with self.block("else:"):
                self.line(f"update(t{t.a}{named})")
        else:
            self.line(f"update(t{t.a}{named})")

    def beside(self, t, chance=0.3):
        if self.chance(chance):
            self.line(self.pick(BESIDE).format(**t.names))

    def loop(self, t, header=""):
        """The block of one epoch, whose batches are b1 and so on."""
        self.loops += 1
        if not header:
            header = self.pick(KNOWN)
            if self.chance(0.4):
                header = self.pick(UNKNOWN)
                self.may_refuse |= t.naming == "" or t.is_subset
        b = f"b{self.loops}"
        return b, self.block(header.format(b=b, **t.names))

    def step(self, t, b):
        self.backward(t, b)
        self.update(t, b)

    # ---- programs ----------------------------------------------------------------------

    def one(self):
        """Epochs of one task, each of another kind."""
        t = self.task()
        for _ in range(self.pick([1, 2, 3])):
            b, loop = self.loop(t)
            with loop:
                self.step(t, b)
                if t.passes == 1 and not t.is_subset:
                    self.beside(t)
            if t.passes == 1 and not t.is_subset:
                self.beside(t)

    def left(self):
        """Loops that are left, that skip batches, or whose batches are used again."""
        t = self.task()
        way = self.pick(["break", "continue", "raise", "again", "behind", "two passes"])
        self.may_refuse |= way not in ("break", "raise")
        if way == "two passes":  # a name is believed, and they are of two batches
            how = "mean" if (t.how, t.naming) == ("tokens", "number") else t.how  # no weight=
            t = t._replace(how=how, naming="", is_subset=False)
        with self.block("try:" if way == "raise" else "if True:"):
            b, loop = self.loop(t, KNOWN[0])
            with loop:
                if way in ("break", "continue"):
                    with self.block(f"if {b}.step == 1:"):
                        self.line(way)
                self.backward(t, b)
                if way == "two passes":
                    with self.block(f"if {b}.step % 2:"):
                        self.line("continue")
                if way == "raise":
                    with self.block(f"if {b}.step == 1:"):
                        self.line("raise KeyError")
                if way == "behind":
                    with self.block(f"if {b}.step + 1 < len(sa):"):
                        self.update(t, b)
                else:
                    self.update(t, b)
                if way == "again":
                    self.step(t, b)
            if way == "behind":
                with self.block("if len(sa):"):
                    self.update(t, b)
        if way == "raise":
            with self.block("except KeyError:"):
                self.line("pass")
        self.line("a.m.reset_gradients()")
        if t.passes == 1 and not t.is_subset:
            b, loop = self.loop(t)
            with loop:
                self.step(t, b)

    def two(self):
        """Two tasks: one after the other, at once, one inside the other, or in one loop."""
        a, other = self.task("a"), self.task("b")
        way = self.pick(["in turn", "zip", "nested", "one loop"])
        if way in ("zip", "nested"):
            self.may_refuse = True
        x, loop = self.loop(a, KNOWN[0] if way != "zip" else "for {b}, y in zip({s}, sb):")
        with loop:
            self.step(a, x)
            if way == "zip":
                self.step(other, "y")
            elif way == "one loop":
                how = other.how if other.how == "sum" or other.how == a.how else ""
                self.may_refuse = True  # counts otherwise
                if how and other.naming != "number" and a.naming != "number":
                    self.step(other, x)
            elif way == "nested":
                with self.block("for y in sb:"):
                    self.step(other, "y")
        if way == "in turn":
            y, loop = self.loop(other)
            with loop:
                self.step(other, y)

    def guarded(self):
        """An example makes NaN of everything, and the program catches that."""
        t = self.task()._replace(is_subset=False)
        self.line("ta.set_clip_threshold(5)")
        if self.chance(0.3):
            self.line("ta.skip_nonfinite = True")
        self.line(f"a.bad = {self.rng.randrange(9)}")
        b, loop = self.loop(t)
        with loop, self.block("try:"):
            self.step(t, b)
        self.depth += 1
        with self.block("except RuntimeError:"):
            self.line("a.m.reset_gradients()")
        self.depth -= 1

    def micro(self):
        """Micro-batches, whose sums have the same bits on any number of ranks."""
        self.is_exact = True
        t = self.task(micro=self.pick([1, 2, 3, 4]))
        self.line(f"a.dropout = {self.pick([0, 0.3])}")
        for _ in range(self.pick([1, 2])):
            b, loop = self.loop(t, self.pick(KNOWN[:2]))
            with loop:
                self.step(t, b)
            self.beside(t)


KINDS = {"one": 6, "left": 3, "two": 3, "guarded": 2, "micro": 2}


def drawn(seed, kind=""):
    """The program of this seed."""
    w = Writer(seed)
    getattr(w, kind or w.rng.choices([*KINDS], [*KINDS.values()])[0])()
    return Program(seed, tuple(w.lines), w.may_refuse, w.is_exact)


# ---- running and judging ---------------------------------------------------------------


class Job(NamedTuple):
    """layout: see mpi/as_hosts.py."""

    ranks: int
    exchange: str = "auto"
    layout: str = ""


class Finding(NamedTuple):
    """What is wrong; kind is what shrinking keeps."""

    kind: str
    program: Program
    job: Job
    text: str

    def printed(self):
        """A program that shows it."""
        header = "\n# ".join(f"# {self.kind} on {self.job}: {self.text}".splitlines())
        return f"{header}\n{self.program.source}"


def run(programs, job, folder):
    """For each program what each rank has noted, or the text of the job that it has ended."""
    results = []
    while len(results) < len(programs):
        rest, out = programs[len(results) :], folder / "out"
        for old in folder.glob("out.*"):
            old.unlink()
        (folder / "programs").write_bytes(pickle.dumps([p.source for p in rest]))
        files = ["drawn.py", folder / "programs", out]
        files = ["as_hosts.py", job.layout, *files] if job.layout else files
        options = {"DIST_DYNET_DTYPE": "float64", "DIST_DYNET_EXCHANGE": job.exchange}
        try:
            if job.ranks == 1:
                text = run_program(*files, **options).stderr
            else:
                text = mpirun(job.ranks, *files, limit=20 + 2 * len(rest), **options)[1]
        except AssertionError as error:  # it was not over
            text = str(error)
        paths = [folder / f"out.{rank}" for rank in range(job.ranks)]
        ran = [pickle.loads(path.read_bytes()) if path.exists() else [] for path in paths]
        results += zip(*ran, strict=False)
        if len(results) < len(programs):
            results.append(text)
    return results


def far(a, b):
    """How far apart two notes are; 0: to the bit."""
    if a.shape != b.shape:
        return np.inf
    with np.errstate(all="ignore"):
        off = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b) / (1 + np.abs(b)))
    return float(np.max(np.where(np.isnan(off), np.inf, off), initial=0))


def judge(program, job, every, alone):
    """What is wrong, or None.

    every: what each rank has noted, the message of a refused update, and another error; a string:
        the job has ended. alone: the same of one process.
    """

    def found(kind, text):
        return Finding(kind, program, job, text)

    if isinstance(every, str):
        return found("job has ended", every[-3000:])
    notes, refused, errors = zip(*every, strict=True)
    if any(errors):
        error = next(filter(None, errors))
        return found(f"error {error.splitlines()[-1]}", error)
    if any(refused):
        if not all(refused):
            return found("refused on some ranks", repr(refused))
        if not any(re.search(REFUSALS, text) for text in refused):
            return found("message", repr(refused))
        if not program.may_refuse or job.ranks == 1:
            return found("refused", refused[0])
    for rank, mine in enumerate(notes):
        if len(mine) != len(notes[0]) or any(map(far, mine, notes[0])):
            return found("ranks differ", f"rank {rank} and rank 0")
    want = alone[0]
    if not any(refused) and len(notes[0]) != len(want):
        return found("other", f"{len(notes[0])} notes, in one process {len(want)}")
    tolerance = 0 if program.is_exact else TOLERANCE
    ends = -1 if any(refused) else None  # the last note is that of the refused update
    for k, (mine, theirs) in enumerate(zip(notes[0][:ends], want, strict=False)):
        if far(mine, theirs) > tolerance:
            return found("other", f"note {k}: {mine}, in one process {theirs}")
    return None


def check(programs, jobs, folder):
    """Findings, and how many runs were refused."""
    found, refused = [], 0
    of_one = run(programs, Job(1), folder)
    for job in (Job(1), *jobs):
        results = of_one if job.ranks == 1 else run(programs, job, folder)
        for program, every, alone in zip(programs, results, of_one, strict=True):
            finding = judge(program, job, every, alone[0])
            if finding and finding.kind not in {f.kind for f in found if f.program is program}:
                found.append(finding)
            refused += not isinstance(every, str) and bool(every[0][1])
    return found, refused


def shrunk(finding, folder):
    """The same with fewer lines."""
    jobs = [finding.job] if finding.job.ranks > 1 else []
    k = 0
    while k < len(finding.program.lines):
        shorter = finding.program.without(k)
        try:
            compile(shorter.source, "", "exec")
            same = [f for f in check([shorter], jobs, folder)[0] if f.kind == finding.kind]
        except SyntaxError:
            same = []
        if same:
            finding, k = same[0], 0
        else:
            k += 1
    return finding


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--ranks", default="2,3")
    arguments = parser.parse_args()
    engines = [("auto", ""), ("mpi", ""), ("auto", "ab"), ("auto", "aab")]
    folder, end, done, refused = (
        Path(tempfile.mkdtemp()),
        time.monotonic() + arguments.seconds,
        0,
        0,
    )
    number = arguments.seed * 10**6 if arguments.only is None else arguments.only
    while True:
        count = 20 if arguments.only is None else 1
        programs = [drawn(number + k) for k in range(count)]
        jobs = []
        for ranks in map(int, arguments.ranks.split(",")):
            exchange, layout = engines[(done // count + ranks) % len(engines)]
            jobs.append(Job(ranks, exchange, (layout + "b" * ranks)[:ranks] if layout else ""))
        found, more = check(programs, jobs, folder)
        for k, finding in enumerate(found):
            small = finding if k else shrunk(finding, folder)
            print(f"# program {finding.program.seed}\n{small.printed()}", flush=True)
        done, refused, number = done + count, refused + more, number + count
        print(f"{done} programs, {refused} runs refused", flush=True)
        if found or arguments.only is not None or time.monotonic() > end:
            return bool(found)


if __name__ == "__main__":
    sys.exit(main())
