"""Compares what an exchange adds up with sums by NumPy: exchanges.py ENGINE. Rank 0 prints "ok" in
the end.

In each step every rank uses other parameters, and other rows of the tables, or none at all; so that
all cases of use come, by all ranks, by some, by one, by nobody. Losses are linear, so that
gradients are known. Steps that repeat are among them, and a parameter that comes later.
"""

import sys

import numpy as np
from alike import use_engine

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._ffi import DTYPE_NAME

engine = sys.argv[1]
use_engine(engine)
rank, size = parallel.rank(), parallel.world_size()
DENSE = {"one": (1,), "row": (17,), "matrix": (40, 30), "large": (20_000,), "never": (3,)}
TABLES = {"rows": (50, 3), "whole": (6, 2, 2), "untouched": (4, 2)}
RATE, STEPS = 2.0**-4, 12
IS_DOUBLE = DTYPE_NAME == "float64"
TOLERANCE = 1e-12 if IS_DOUBLE else 1e-4


def drawn(rng, shape):
    """Small integers: sums of them are exact; in the double build thirds, which float32 does not
    have."""
    return rng.integers(-4, 5, shape) / (3 if IS_DOUBLE else 1)


def use(step, rng):
    """What one rank uses: gradients of dense parameters by name, of tables by name and row (None:
    all of it), and its weight."""
    if rng.random() < 0.2:
        return {}, {}, float(rng.choice([0, 1]))
    dense = {
        name: drawn(rng, shape)
        for name, shape in DENSE.items()
        if name != "never" and rng.random() < 0.6
    }
    if step >= 6 and rng.random() < 0.6:
        dense["late"] = drawn(rng, (5,))
    rows = [
        (int(row), drawn(rng, TABLES["rows"][1:]))
        for row in rng.integers(0, 50, rng.integers(0, 6))
    ]
    whole = [(None, drawn(rng, TABLES["whole"]))] if rng.random() < 0.3 else []
    if rng.random() < 0.5:
        whole.append((int(rng.integers(0, 6)), drawn(rng, TABLES["whole"][1:])))
    return dense, {"rows": rows, "whole": whole}, float(rng.choice([0.5, 1, 2]))


def backward(parameters, tables, dense, rows):
    terms = [dy.dot_product(parameters[name], dy.inputTensor(g)) for name, g in dense.items()]
    for name, uses in rows.items():
        for row, g in uses:
            # of the whole table, rows are the last dim
            x = tables[name].expr() if row is None else tables[name][row]
            terms.append(
                dy.dot_product(x, dy.inputTensor(np.moveaxis(g, 0, -1) if row is None else g))
            )
    if terms:
        dy.esum(terms).backward()


def check(average):
    model = dy.ParameterCollection()
    rng = np.random.default_rng(11)  # the same on all ranks, which know what the others do
    expected = {name: drawn(rng, shape) for name, shape in {**DENSE, **TABLES}.items()}
    parameters = {name: model.parameters_from_numpy(expected[name], name) for name in DENSE}
    tables = {name: model.lookup_parameters_from_numpy(expected[name], name) for name in TABLES}
    trainer = dy.SimpleSGDTrainer(model, RATE)
    trainer.set_clip_threshold(0)
    trainer = parallel.DistributedTrainer(trainer, "sum" if average == "sum" else "mean")
    seeds = [*range(STEPS), *[3] * 5, *range(STEPS, STEPS + 4)]  # one that repeats, and then others
    for step, seed in enumerate(seeds):
        if step == 6:
            expected["late"] = np.ones(5)
            parameters["late"] = model.add_parameters(5, init=1, name="late")
        of_ranks = [use(step, np.random.default_rng([seed, r])) for r in range(size)]
        weights = np.array([w for *_, w in of_ranks]) if average == "weighted" else np.ones(size)
        shares = weights if average == "sum" else weights / max(weights.sum(), 1e-9)
        for (dense, rows, _), share in zip(of_ranks, shares, strict=True):
            for name, g in dense.items():
                expected[name] = expected[name] - RATE * share * g
            for name, uses in rows.items():
                for row, g in uses:
                    expected[name][... if row is None else row] -= RATE * share * g
        dy.renew_cg()
        backward(parameters, tables, *of_ranks[rank][:2])
        trainer.update(*([float(weights[rank])] if average == "weighted" else []))
        for name, p in {**parameters, **tables}.items():
            error = np.abs(p.as_array() - expected[name]).max()
            assert error <= TOLERANCE, (
                f"{engine}, {average}, step {step}: {name} differs by {error}, see"
                " dist_dynet.parallel.exchange.engines"
            )
    parallel.assert_in_sync(model)


for average in ("mean", "weighted", "sum"):
    check(average)
if rank == 0:
    print("ok")
