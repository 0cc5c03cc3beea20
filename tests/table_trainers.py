"""The table of trainers: a row for each, with its rule in float64; and the training that both are
given.

A new trainer gets a row here. From it come the tests of test_trainers_all.py (formula, moments,
clipping, accumulation, subsets, state and checkpoints) and of several ranks (mpi/all_trainers.py).
A trainer without a row fails test_table_has_every_trainer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import dist_dynet as dy
from dist_dynet._ffi import DTYPE_NAME

TOLERANCE = 1e-5 if DTYPE_NAME == "float32" else 1e-12


class Reference:
    """A rule in float64: step(p, g, moments, t) -> p; moments is a dict of its own per
    parameter."""

    def __init__(self, rate=0.1, **constants):
        self.rate = rate
        self.__dict__.update(constants)

    def moment(self, moments, name, p):
        return moments.setdefault(name, np.zeros_like(p))


class Sgd(Reference):
    def step(self, p, g, moments, t):
        return p - self.rate * g


class Cyclical(Reference):
    def step(self, p, g, moments, t):
        rate = self.low
        if t > 1:
            it = t - 2
            cycle = np.floor(1 + it / (2 * self.size))
            x = abs(it / self.size - 2 * cycle + 1)
            rate = self.low + (self.high - self.low) * max(0, 1 - x) * self.gamma**it
        return p - rate * g


class Momentum(Reference):
    def step(self, p, g, moments, t):
        moments["v"] = self.mom * self.moment(moments, "v", p) - self.rate * g
        return p + moments["v"]


class Adagrad(Reference):
    def step(self, p, g, moments, t):
        moments["h"] = self.moment(moments, "h", p) + g**2
        return p - self.rate * g / np.sqrt(moments["h"] + self.eps)


class Adadelta(Reference):
    def step(self, p, g, moments, t):
        moments["h"] = self.rho * self.moment(moments, "h", p) + (1 - self.rho) * g**2
        step = (
            -g * np.sqrt(self.moment(moments, "d", p) + self.eps) / np.sqrt(moments["h"] + self.eps)
        )
        moments["d"] = self.rho * moments["d"] + (1 - self.rho) * step**2
        return p + step


class RmsProp(Reference):
    def step(self, p, g, moments, t):
        moments["h"] = self.rho * self.moment(moments, "h", p) + (1 - self.rho) * g**2
        return p - self.rate * g / np.sqrt(moments["h"] + self.eps)


class Adam(Reference):
    def both(self, p, g, moments):
        moments["m"] = self.b1 * self.moment(moments, "m", p) + (1 - self.b1) * g
        moments["v"] = self.b2 * self.moment(moments, "v", p) + (1 - self.b2) * g**2

    def step(self, p, g, moments, t):
        self.both(p, g, moments)
        rate = self.rate * np.sqrt(1 - self.b2**t) / (1 - self.b1**t)
        return p - rate * moments["m"] / (np.sqrt(moments["v"]) + self.eps)


class Amsgrad(Adam):
    def step(self, p, g, moments, t):
        self.both(p, g, moments)
        moments["top"] = np.maximum(self.moment(moments, "top", p), moments["v"])
        rate = self.rate * np.sqrt(1 - self.b2**t) / (1 - self.b1**t)
        return p - rate * moments["m"] / (np.sqrt(moments["top"]) + self.eps)


class AdamW(Adam):
    def step(self, p, g, moments, t):
        self.both(p, g, moments)
        m, v = moments["m"] / (1 - self.b1**t), moments["v"] / (1 - self.b2**t)
        return (1 - self.rate * self.decay) * p - self.rate * m / (np.sqrt(v) + self.eps)


class ExponentiatedGradient(Reference):
    def step(self, p, g, moments, t):
        moments["v"] = self.mom * self.moment(moments, "v", p) - self.rate * g
        q = p * np.exp(moments["v"])
        return q / q.sum()


class Row(NamedTuple):
    """A trainer and its rule."""

    make: Callable[[Any], Any]
    """Makes it for a collection."""
    rule: Reference
    """The same constants; its moments have the names that state() gives them."""
    distributions: bool = False
    """Its parameters are distributions, and have no weight decay."""


ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
TRAINERS = {
    "SimpleSGDTrainer": Row(lambda m: dy.SimpleSGDTrainer(m, 0.05), Sgd(0.05)),
    "CyclicalSGDTrainer": Row(
        lambda m: dy.CyclicalSGDTrainer(m, 0.01, 0.1, 7, 0.99),
        Cyclical(low=0.01, high=0.1, size=7, gamma=0.99),
    ),
    "MomentumSGDTrainer": Row(
        lambda m: dy.MomentumSGDTrainer(m, 0.02, 0.8), Momentum(0.02, mom=0.8)
    ),
    "AdagradTrainer": Row(lambda m: dy.AdagradTrainer(m, 0.1), Adagrad(0.1, eps=1e-20)),
    "AdadeltaTrainer": Row(lambda m: dy.AdadeltaTrainer(m, 1e-4, 0.9), Adadelta(eps=1e-4, rho=0.9)),
    "RMSPropTrainer": Row(
        lambda m: dy.RMSPropTrainer(m, 0.01, 1e-6, 0.8), RmsProp(0.01, eps=1e-6, rho=0.8)
    ),
    "AdamTrainer": Row(lambda m: dy.AdamTrainer(m, 0.01), Adam(0.01, **ADAM)),
    "AmsgradTrainer": Row(lambda m: dy.AmsgradTrainer(m, 0.01), Amsgrad(0.01, **ADAM)),
    "AdamWTrainer": Row(
        lambda m: dy.AdamWTrainer(m, 0.01, weight_decay=0.2), AdamW(0.01, **ADAM, decay=0.2)
    ),
    "EGTrainer": Row(
        lambda m: dy.EGTrainer(m, 0.05, 0.8),
        ExponentiatedGradient(0.05, mom=0.8),
        distributions=True,
    ),
}
NOT_IN_THE_TABLE = {
    "Trainer": "the base of all: cannot be made",
    "TrainerLike": "the type of all trainers, and none itself; test_types.py compares it with them",
}
STEPS = 100
SHAPES = {"W": (3, 4), "b": (5,), "F": (2, 3, 2)}
ROWS, ROW = 6, (2, 2)


def start(rng, distributions=False):
    """Values to start from: dense by name, and a table."""
    values = {name: rng.uniform(0.1, 1, shape) for name, shape in SHAPES.items()}
    table = rng.uniform(0.1, 1, (ROWS, *ROW))
    if distributions:
        values = {name: v / v.sum() for name, v in values.items()}
        table /= table.sum(axis=(1, 2), keepdims=True)
    as_stored = {name: v.astype(DTYPE_NAME).astype(np.float64) for name, v in values.items()}
    return as_stored, table.astype(DTYPE_NAME).astype(np.float64)


def collection_of(values, table):
    m = dy.ParameterCollection()
    dense = {name: m.parameters_from_numpy(v, name) for name, v in values.items()}
    return m, dense, m.lookup_parameters_from_numpy(table, "E")


def gradients_of_step(rng, t):
    """Dense gradients by name (b is not always used), and (row, gradient) of the table."""
    dense = {
        name: rng.normal(0, 0.3, shape).astype(np.float32).astype(np.float64)
        for name, shape in SHAPES.items()
    }
    if t % 3 == 2:
        del dense["b"]
    rows = [] if t % 5 == 4 else rng.integers(0, ROWS, 3).tolist()
    return dense, [(r, rng.normal(0, 0.3, ROW).astype(np.float32).astype(np.float64)) for r in rows]


def backward(parameters, table, dense, rows):
    dy.renew_cg()
    terms = [dy.dot_product(parameters[name], dy.inputTensor(g)) for name, g in dense.items()]
    terms += [dy.dot_product(table[r], dy.inputTensor(g)) for r, g in rows]
    dy.esum(terms).backward()


def reference_step(rule, values, table, moments, dense, rows, t, clip, decay, sparse, clip_value=0):
    total = np.zeros_like(table)
    for r, g in rows:
        total[r] += g
    g = {name: dense.get(name, np.zeros(shape)) for name, shape in SHAPES.items()}
    if clip_value:
        g, total = (
            {name: np.clip(x, -clip_value, clip_value) for name, x in g.items()},
            np.clip(total, -clip_value, clip_value),
        )
    norm = np.sqrt(sum((x**2).sum() for x in (*g.values(), total)))
    scale = clip / norm if clip and norm > clip else 1
    for name in values:
        values[name] = (1 - decay) * rule.step(
            values[name], scale * g[name], moments.setdefault(name, {}), t
        )
    for r in range(ROWS) if not sparse else sorted({r for r, _ in rows}):
        table[r] = rule.step(table[r], scale * total[r], moments.setdefault(r, {}), t)
    table *= 1 - decay


def close(got, expected, tol=TOLERANCE):
    return np.all(np.abs(got - expected) <= tol * (1 + np.abs(expected)))
