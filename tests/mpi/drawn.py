"""Runs programs of fuzz_ranks.py on the ranks that there are: drawn.py PROGRAMS OUT.

PROGRAMS is a pickled list of sources, whose names are those of this module. OUT.<rank> gets what
each has noted, the message of a refused update, and another error. OUT.at names, as they begin, the
programs: the last one has ended the job.
"""

import itertools
import pickle
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

tasks, notes = [], []
dist, shard = parallel.DistributedTrainer, parallel.shard


class RefusedError(Exception):
    """An update was refused, and has left everything as it was."""


class Task:
    """A model with a table, and its data."""

    def __init__(self, seed, n):
        rng = np.random.default_rng(seed)
        rows = [rng.integers(0, 6, rng.integers(1, 5)).tolist() for _ in range(n)]
        self.data = [(rng.normal(size=3), row, rng.normal(size=2)) for row in rows]
        self.m = m = dy.ParameterCollection()
        self.W, self.b = m.add_parameters((2, 3), name="W"), m.add_parameters(2, name="b")
        self.unused = m.add_parameters(40, init=1, name="unused")
        self.E = m.add_lookup_parameters((6, 3), name="E")
        for p in (self.W, self.b):
            p.set_value(rng.normal(size=p.shape()) / 2)
        self.E.init_from_array(rng.normal(size=(6, 3)) / 2)
        self.added, self.dropout = [], 0
        self.bad = None  # the number of an example whose loss is NaN
        tasks.append(self)

    def loss(self, batch, divisor):
        """The sum over tokens, divided."""
        losses = []
        for x, rows, y in batch:
            is_bad = self.bad is not None and x is self.data[self.bad % len(self.data)][0]
            for row in rows:
                h = self.W * (dy.inputTensor(x) + self.E[row]) + self.b
                for p in self.added:
                    h = dy.cmult(h, p)
                h = dy.dropout(dy.tanh(h), self.dropout)
                error = dy.squared_distance(h, dy.inputTensor(y))
                losses.append(error * float("nan") if is_bad else error)
        return dy.esum(losses) / divisor

    def backward(self, batch, how="mean", share=1.0):
        """Of the mean over examples or "tokens", or of the "sum"; nothing without examples."""
        dy.renew_cg()
        if batch:
            divisor = {"mean": len(batch), "tokens": tokens(batch), "sum": 1}[how]
            (self.loss(batch, divisor) * share).backward()

    def score(self, batch):
        """The loss of these examples, without a gradient."""
        dy.renew_cg()
        return self.loss(batch, 1).value() if batch and not self.dropout else 0.0

    def add(self):
        """A new parameter."""
        self.added.append(self.m.add_parameters(2, init=1.1))


def cost(example):
    """Its number of tokens."""
    return len(example[1])


def tokens(batch):
    """Their number."""
    return sum(map(cost, batch))


def ahead(batches):
    """One batch ahead of whoever asks."""
    before = None
    for batch in batches:
        if before is not None:
            yield before
        before = batch
    if before is not None:
        yield before


def values():
    """All parameters of all tasks."""
    every = [(*t.m.parameters_list(), *t.m.lookup_parameters_list()) for t in tasks]
    return np.concatenate([p.as_array().ravel() for p in itertools.chain(*every)])


def note(x=None):
    """A result that must be the same on all ranks, and as in one process."""
    notes.append(values() if x is None else np.ravel(x).astype(float))


def update(trainer, *named, of=()):
    """trainer.update(), or update_subset() of these, which is refused as a whole or done."""
    before = values()
    try:
        done = (trainer.update_subset(*of, *named), True)[1] if of else trainer.update(*named)
    except RuntimeError as error:
        assert np.array_equal(before, values(), equal_nan=True), f"refused, but changed: {error}"
        if "not finite" in str(error) or "Magnitude of gradient" in str(error):
            raise
        raise RefusedError(str(error)) from error
    if done:
        note()


def run(source):
    """What it has noted, the message of a refused update, and another error."""
    tasks.clear(), notes.clear(), dy.reset_random_seed(1), dy.renew_cg()
    refused = error = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(source, "<drawn>", "exec"), {**globals()})
    except RefusedError as message:
        refused = str(message)
    except Exception:
        error = traceback.format_exc()
    if tasks and not error:
        note()
    return [*notes], refused, error


if __name__ == "__main__":
    results = []
    for number, source in enumerate(pickle.loads(Path(sys.argv[1]).read_bytes())):
        if parallel.rank() == 0:
            Path(f"{sys.argv[2]}.at").write_text(str(number))
        results.append(run(source))
        Path(f"{sys.argv[2]}.{parallel.rank()}").write_bytes(pickle.dumps(results))
        parallel.barrier()
