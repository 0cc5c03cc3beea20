"""Runs drawn training programs: loops.py MODE FIRST COUNT OUT [RANKS].

MODE is
    plain     in one process, with the trainers of one process: what all else is compared with.
              RANKS: how many a Join is among;
    run       on the ranks that there are;
    begin     the same, killed at a drawn step, with checkpoints in OUT.runs;
    resume    goes on from these.
Rank 0 writes the parameters that each program ends with into OUT; the words of a refusal stand
beside them.
"""

import contextlib
import itertools
import pickle
import random
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

TRAINERS = (
    dy.SimpleSGDTrainer,
    dy.MomentumSGDTrainer,
    dy.AdagradTrainer,
    dy.AdamTrainer,
    dy.RMSPropTrainer,
)
SIMPLE = ("plain", "enumerate", "islice", "generator", "next", "inner", "break", "exception")
"""Loops in which update() knows the batch."""
AMBIGUOUS = ("list", "prefetch", "zip", "zip both first", "in step", "prepared")
"""Loops in which it has to be told."""
RESUMABLE = (
    "plain",
    "enumerate",
    "islice",
    "generator",
    "inner",
    "list",
    "prefetch",
    "zip",
    "zip both first",
)


@dataclass
class Spec:
    """One program."""

    seed: int
    loop: str
    average: str
    naming: str  # what update() is given: "", "batch", "number"
    # how tokens are said where losses are means over tokens: "shard", "batch", "number"; "": losses
    # are means over examples
    weighs: str
    accumulate: int
    changed: int  # accumulation from the second epoch on
    silent: int  # every so many steps are made in no_sync(); 0: none
    subset: bool
    micro_batches: int
    join: bool
    examples: int
    batch: int
    epochs: int
    trainer: int
    clip: float
    decay: float
    shared_root: bool
    kill: int

    @property
    def is_refused(self):
        """Whether update() must refuse the program with several ranks."""
        return self.loop in AMBIGUOUS and not self.naming and self.average != "sum"


def draw(seed, resumable=False):
    """A program."""
    rng = random.Random(seed)
    average = rng.choice(["mean", "mean", "weighted", "sum"])
    weighs = (
        rng.choice(["shard", "batch", "number"])
        if average == "weighted"
        else rng.choice(["", "", "shard"])
        if average == "mean"
        else ""
    )
    naming = (
        "number"
        if weighs == "number"
        else rng.choice(["", "batch", "number" if average != "sum" else "batch"])
    )
    loop = rng.choice(RESUMABLE if resumable else (*SIMPLE, *SIMPLE, *AMBIGUOUS))
    if (
        resumable
        and loop not in SIMPLE
        and naming != "batch"
        and not (average == "sum" and loop.startswith("zip"))
    ):
        naming, weighs = "batch", weighs if weighs != "number" else "batch"
    if weighs == "batch" and naming == "number":
        naming = "batch"
    kind = rng.choice(["accumulate", "silent", "subset", "micro", "join", "", ""])
    is_simple = loop in SIMPLE
    k = rng.choice([2, 3]) if kind == "accumulate" else 1
    micro = (
        rng.choice([2, 3, 4])
        if kind == "micro"
        and loop in ("plain", "enumerate", "generator", "islice")
        and weighs != "number"
        else 0
    )
    return Spec(
        seed=seed,
        loop=loop,
        average=average,
        naming="" if micro else naming,
        weighs=weighs,
        accumulate=k,
        changed=rng.choice([k, 1, 2]) if kind == "accumulate" else k,
        silent=rng.choice([2, 3]) if kind == "silent" and not resumable else 0,
        subset=kind == "subset" and is_simple and not resumable,
        micro_batches=micro,
        join=kind == "join" and is_simple and not resumable and weighs in ("", "number"),
        examples=rng.randint(5, 19),
        batch=rng.randint(1, 7),
        epochs=rng.choice([1, 2, 2, 3]),
        trainer=rng.randrange(len(TRAINERS)),
        clip=rng.choice([0, 0.3, 5]),
        decay=rng.choice([0, 0, 0.01]),
        shared_root=rng.random() < 0.5,
        kill=rng.randint(1, 6),
    )


class KilledError(Exception):
    """The program ends here."""


class Plain:
    """A trainer of one process, called as a DistributedTrainer is."""

    def __init__(self, inner):
        self.inner, self.silent = inner, False
        self.set_accumulation = inner.set_accumulation

    def update(self, weight=None):
        """As the wrapped trainer."""
        if not self.silent:
            self.inner.update()

    def update_subset(self, dense, tables, weight=None):
        """As the wrapped trainer."""
        self.inner.update_subset(dense, tables)

    @contextlib.contextmanager
    def no_sync(self):
        """Gradients add up."""
        self.silent = True
        yield
        self.silent = False


class Task:
    """A model, its data, and its trainer."""

    def __init__(self, spec, m, number, plain):
        self.spec, self.plain = spec, plain
        rng = np.random.default_rng((spec.seed, number))
        n = spec.examples + 3 * number * (spec.loop == "in step")
        self.data = [
            (
                rng.normal(size=3),
                rng.integers(0, 6, rng.integers(1, 5)).tolist(),
                rng.normal(size=2),
            )
            for _ in range(n)
        ]
        self.m = m
        self.W, self.b = m.add_parameters((2, 3)), m.add_parameters(2)
        self.unused = m.add_parameters(40)
        self.E = m.add_lookup_parameters((6, 3))
        for p in (self.W, self.b, self.E):
            (p.set_value if p is not self.E else p.init_from_array)(rng.normal(size=p.shape()) / 2)
        self.unused.set_value(np.ones(40))
        inner = TRAINERS[(spec.trainer + number) % len(TRAINERS)](m, 0.1)
        inner.set_clip_threshold(spec.clip)
        m.set_weight_decay(spec.decay)
        if plain:
            inner.set_accumulation(spec.accumulate)
            self.trainer = Plain(inner)
        else:
            self.trainer = parallel.DistributedTrainer(
                inner,
                spec.average,
                accumulate=spec.accumulate,
                reproducible=bool(spec.micro_batches),
            )
        self.shard = parallel.shard(
            self.data,
            spec.batch,
            seed=spec.seed + number,
            cost=lambda x: len(x[1]),
            weight=(lambda x: len(x[1])) if spec.weighs == "shard" else None,
            micro_batches=None if plain else spec.micro_batches or None,
        )

    def loss(self, batch, mean=True):
        """Of a rank's batch as `average` wants it."""
        dy.renew_cg()
        losses, tokens = [], 0
        for x, rows, y in batch:
            target = dy.inputTensor(y)
            losses += [
                dy.squared_distance(
                    dy.tanh(self.W * (dy.inputTensor(x) + self.E[row]) + self.b), target
                )
                for row in rows
            ]
            tokens += len(rows)
        total = dy.esum(losses)
        if self.spec.average == "sum" or not mean:
            return total
        return total / (tokens if self.spec.weighs else len(batch))

    def backward(self, batch):
        """Nothing where the batch is empty."""
        if self.spec.weighs == "batch" and hasattr(batch, "n"):
            batch.n = sum(len(rows) for _, rows, _ in batch)
        if batch:
            self.loss(batch).backward()

    def update(self, batch):
        """As the program has it."""
        named = {"": (), "batch": (batch,), "number": (self.number(batch),)}[self.spec.naming]
        if self.spec.subset:
            self.trainer.update_subset([0], [], *named)
            self.trainer.update_subset([1], [0], *named)
        else:
            self.trainer.update(*named)

    def number(self, batch):
        """n_r."""
        return sum(len(rows) for _, rows, _ in batch) if self.spec.weighs else len(batch)

    def step(self, batch, number):
        """One pass with its update."""
        silent = self.spec.silent and number % self.spec.silent == 0
        with self.trainer.no_sync() if silent else contextlib.nullcontext():
            self.backward(batch)
            self.update(batch)


def ahead(batches):
    """One batch ahead of whoever asks."""
    last = None
    for batch in batches:
        if last is not None:
            yield last
        last = batch
    if last is not None:
        yield last


class Program:
    """One program, from the start or from a checkpoint."""

    def __init__(self, spec, mode, folder, ranks):
        self.spec, self.mode, self.ranks, self.steps = spec, mode, ranks, 0
        plain = mode == "plain"
        dy.reset_random_seed(spec.seed + 1)
        root = dy.ParameterCollection()
        two = spec.loop.startswith("zip") or spec.loop == "in step"
        second = root.add_subcollection("second") if spec.shared_root else dy.ParameterCollection()
        first = root.add_subcollection("first") if two and spec.shared_root else root
        self.tasks = [Task(spec, first, 0, plain)] + ([Task(spec, second, 1, plain)] if two else [])
        self.checkpointer = None
        if mode in ("begin", "resume"):
            a = self.tasks[0]
            self.saves = spec.loop in ("list", "prefetch")
            self.checkpointer = parallel.Checkpointer(
                folder / str(spec.seed),
                first,
                a.trainer,
                a.shard,
                every=None if self.saves else 1,
                keep=2,
            )
            for task in self.tasks[1:]:
                self.checkpointer.add("m", task.m)
                self.checkpointer.add("trainer", task.trainer)
                self.checkpointer.add("shard", task.shard)
            resumed = self.checkpointer.resume()
            assert resumed or mode == "begin" or self.saves

    def end_of_body(self):
        """A body has ended; the program may be killed here."""
        self.steps += 1
        if self.checkpointer is not None and self.saves:
            self.checkpointer.save()
        if self.mode == "begin" and self.steps == self.spec.kill:
            raise KilledError

    def run(self):
        """All epochs."""
        spec, a = self.spec, self.tasks[0]
        if spec.join:
            self.run_join()
        for epoch in () if spec.join else range(a.shard.epoch, spec.epochs):
            if epoch >= 1 and spec.changed != spec.accumulate:
                for task in self.tasks:
                    if task.trainer.inner.accumulation != spec.changed:
                        task.trainer.set_accumulation(spec.changed)
            getattr(self, "run_" + spec.loop.replace(" ", "_"))()

    def simple(self, batches):
        """The body of most loops."""
        for number, batch in enumerate(batches):
            self.tasks[0].step(batch, number)
            self.end_of_body()

    def run_plain(self):
        for batch in self.tasks[0].shard:
            self.tasks[0].step(batch, self.tasks[0].shard.position)
            self.end_of_body()

    def run_enumerate(self):
        self.simple(self.tasks[0].shard)

    def run_islice(self):
        self.simple(itertools.islice(self.tasks[0].shard, 1000))

    def run_generator(self):
        self.simple(batch for batch in self.tasks[0].shard)

    def run_next(self):
        steps = iter(self.tasks[0].shard)
        for number in range(len(self.tasks[0].shard)):
            self.tasks[0].step(next(steps), number)
        assert next(steps, None) is None

    def run_inner(self):
        """Other data are scored between backward and update()."""
        a = self.tasks[0]
        for number, batch in enumerate(a.shard):
            a.backward(batch)
            for others in parallel.shard(a.data[:4], 3):
                if others:
                    a.loss(others).value()
            with (
                a.trainer.no_sync()
                if self.spec.silent and number % self.spec.silent == 0
                else contextlib.nullcontext()
            ):
                a.update(batch)
            self.end_of_body()

    def run_break(self):
        a = self.tasks[0]
        for number, batch in enumerate(a.shard):
            a.step(batch, number)
            if number == 1:
                break
        self.simple(a.shard)

    def run_exception(self):
        """A loop that ends by an exception, after a backward pass whose gradients are thrown
        away."""
        a = self.tasks[0]
        try:
            for number, batch in enumerate(a.shard):
                a.backward(batch)
                if number == 2:
                    raise KeyError
                a.update(batch)
        except KeyError:
            a.m.reset_gradients()
        self.simple(a.shard)

    def run_list(self):
        self.simple(list(self.tasks[0].shard))

    def run_prefetch(self):
        self.simple(ahead(self.tasks[0].shard))

    def run_prepared(self):
        """What is trained on is no batch of shard() any more; n has to be said by a number."""
        prepared = [[(2 * x, rows, y) for x, rows, y in batch] for batch in self.tasks[0].shard]
        self.simple(prepared)

    def run_zip(self):
        for number, batches in enumerate(zip(*(task.shard for task in self.tasks), strict=True)):
            for task, batch in zip(self.tasks, batches, strict=True):
                task.step(batch, number)
            self.end_of_body()

    def run_zip_both_first(self):
        for batches in zip(*(task.shard for task in self.tasks), strict=True):
            for task, batch in zip(self.tasks, batches, strict=True):
                task.backward(batch)
            for task, batch in zip(self.tasks, batches, strict=True):
                task.update(batch)
            self.end_of_body()

    def run_in_step(self):
        """A list of one task's batches goes along with a loop over another's."""
        first = list(self.tasks[0].shard)
        for number, batch in enumerate(self.tasks[1].shard):
            self.tasks[0].step(first[number % len(first)], number)
            self.tasks[1].step(batch, number)

    def run_join(self):
        """Each rank has batches of its own, of which there are unlike many."""
        a, spec = self.tasks[0], self.spec
        rng = random.Random(spec.seed)
        counts = [rng.randint(0, 4) for _ in range(8)][: self.ranks]
        batches = [
            [[rng.choice(a.data) for _ in range(rng.randint(1, 3))] for _ in range(8)]
            for _ in range(8)
        ]
        if self.mode != "plain":
            with parallel.Join(a.trainer):
                for batch in batches[parallel.rank()][: counts[parallel.rank()]]:
                    a.backward(batch)
                    a.trainer.update(
                        *([a.number(batch)] if spec.weighs or spec.naming == "number" else [])
                    )
            return
        weighted = bool(spec.weighs or spec.naming == "number")
        passes = max(counts)
        for number in range(passes):
            there = [batches[rank][number] for rank in range(self.ranks) if number < counts[rank]]
            left = passes - number // spec.accumulate * spec.accumulate
            if number % spec.accumulate == 0 and left < spec.accumulate and spec.average != "sum":
                a.trainer.set_accumulation(left)  # what the end cuts short
            dy.renew_cg()
            weights = [a.number(batch) if weighted else 1 for batch in there]
            total = sum(weights) if spec.average != "sum" else 1
            graphs = []
            for batch, weight in zip(there, weights, strict=True):
                graphs.append((batch, weight / total if spec.average != "sum" else 1.0))
            for batch, share in graphs:
                (a.loss(batch) * share).backward()
            a.trainer.update()


def join_with_sums_is_odd(spec):
    """With sums the end of a Join cuts accumulations of each rank where they are: which passes go
    together has no counterpart."""
    return spec.join and spec.average == "sum" and spec.accumulate > 1


def run(spec, mode, folder, ranks):
    """The parameters at the end, and the words of a refusal."""
    program = Program(spec, mode, folder, ranks)
    words = ""
    try:
        if mode != "plain" or not spec.is_refused or ranks == 1:
            program.run()
    except KilledError:
        pass
    except RuntimeError as error:
        if mode == "plain" or "batch of shard" not in str(error):
            raise
        words = str(error)
    values = [
        p.as_array().ravel()
        for task in program.tasks
        for p in (task.W, task.b, task.E, task.unused)
    ]
    return np.concatenate(values), words


def main():
    """See the module."""
    mode, first, count, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    ranks = int(sys.argv[5]) if len(sys.argv) > 5 else parallel.world_size()
    results = {}
    for seed in range(first, first + count):
        spec = draw(seed, resumable=mode in ("begin", "resume") or "resumable" in out.name)
        if join_with_sums_is_odd(spec):
            spec.accumulate = spec.changed = 1
        if spec.loop == "prepared" and spec.naming == "batch":
            spec.naming = ""
        try:
            results[seed] = run(spec, mode, Path(f"{out}.runs"), ranks)
        except Exception as error:
            words = ", ".join(
                f"{field.name}={getattr(spec, field.name)!r}" for field in fields(spec)
            )
            raise AssertionError(f"seed {seed}: {words}") from error
    if parallel.is_main():
        out.write_bytes(pickle.dumps(results))


if __name__ == "__main__":
    main()
