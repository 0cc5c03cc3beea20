"""What single calls cost, beside dyNET38: operations at a few sizes, arguments in the forms in
which programs give them, states, inputs, and reads of values.

    export DIST_DYNET_BENCH_DYNET=~/peers/dynet/bin/python
    python benchmarks/calls.py [--match numpy] [--rounds 3] [--most 40]

Each line: CPU microseconds of a call by dist_dynet and by dyNET38, as medians over the rounds, in
which the two take turns, and how many times as fast dist_dynet is. The least such rows come first.
An operation has three parts: making its node, computing it, and its part of a backward pass, added
up in the last column. Without dyNET38 the times of dist_dynet alone are printed. Three minutes.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import sys
import time

import numpy as np
from run import DYNET, HERE, TOOLKITS, US, environment
from turns import Program

NODES = 8
"""Of one operation in a graph."""
SECONDS = 0.01
"""The least time of one measurement."""
UNARY = re.findall(
    r"^(?:ELEMENTWISE|DN_OP)\((\w+),", (HERE.parent / "csrc/ops/elementwise.c").read_text(), re.M
)
"""All operations on one input, element by element."""


def operations(dy):
    """{name: (function, sizes of its inputs, batch)}."""
    table = {}
    for size, batch in (((4,), 1), ((100,), 1), ((100,), 32), ((50, 40), 1), ((100_000,), 1)):
        where = f"{size}" + (f" x {batch}" if batch > 1 else "")
        ids, n = [i % size[0] for i in range(batch)], len(size)
        one = {name: getattr(dy, name) for name in UNARY if hasattr(dy, name)} | {
            "-x": lambda x: -x,
            "x * 3": lambda x: x * 3.0,
            "x + 3": lambda x: x + 3.0,
            "dropout": lambda x: dy.dropout(x, 0.5),
            "sum_elems": dy.sum_elems,
            "mean_elems": dy.mean_elems,
            "std_elems": dy.std_elems,
            "squared_norm": dy.squared_norm,
            "l2_norm": dy.l2_norm,
        }
        if n == 1:
            one |= {
                "softmax": dy.softmax,
                "log_softmax": dy.log_softmax,
                "logsumexp_dim": lambda x: dy.logsumexp_dim(x, 0),
                "pickneglogsoftmax": lambda x, ids=ids: dy.pickneglogsoftmax_batch(x, ids),
                "hinge": lambda x, ids=ids: dy.hinge_batch(x, ids),
                "pick": lambda x, ids=ids: dy.pick_batch(x, ids),
                "pick_range": lambda x, end=size[0] // 2 + 1: dy.pick_range(x, 1, end),
                "max_dim": lambda x: dy.max_dim(x, 0),
                "cumsum": lambda x: dy.cumsum(x, 0),
            }
        two = {
            "x + y": lambda x, y: x + y,
            "x - y": lambda x, y: x - y,
            "cmult": dy.cmult,
            "cdiv": dy.cdiv,
            "bmax": dy.bmax,
            "squared_distance": dy.squared_distance,
            "dot_product": dy.dot_product,
            "concatenate": lambda x, y: dy.concatenate([x, y]),
            "esum": lambda x, y: dy.esum([x, y]),
            "average": lambda x, y: dy.average([x, y]),
        }
        table |= {f"{name} {where}": (f, [size], batch) for name, f in one.items()}
        table |= {f"{name} {where}": (f, [size] * 2, batch) for name, f in two.items()}
    for size, batch in (((4, 5), 1), ((30, 40), 1), ((30, 40), 16), ((128, 500), 1)):
        where = f"{size}" + (f" x {batch}" if batch > 1 else "")
        rows, cols = size
        along = {
            f"{name} {d}": lambda x, f=f, d=d: f(x, d)
            for d in (0, 1)
            for name, f in (
                ("sum_dim", lambda x, d: dy.sum_dim(x, [d])),
                ("mean_dim", lambda x, d: dy.mean_dim(x, [d], False)),
                ("std_dim", lambda x, d: dy.std_dim(x, [d], False)),
                ("max_dim", dy.max_dim),
                ("softmax", dy.softmax),
                ("logsumexp_dim", dy.logsumexp_dim),
                ("cumsum", dy.cumsum),
            )
        }
        of_one = {
            "transpose": dy.transpose,
            "fold_rows": lambda x: dy.fold_rows(x, 2),
            "kmh_ngram": lambda x: dy.kmh_ngram(x, 2),
            "select_rows": lambda x: dy.select_rows(x, [0, 2, 3]),
            "select_cols": lambda x: dy.select_cols(x, [0, 2, 3]),
            "strided_select": lambda x: dy.strided_select(x, [2, 2], [0, 0], [3, 4]),
            "x[1]": lambda x: x[1],
            "kmax_pooling": lambda x: dy.kmax_pooling(x, 3, 1),
        }
        for name, f in {**along, **of_one}.items():
            if batch == 1 or name != "kmh_ngram":  # which dyNET38 has without batches only
                table[f"{name} {where}"] = f, [size], batch
        table |= {
            f"x + column {where}": (lambda x, y: x + y, [size, (rows,)], batch),
            f"cmult by row {where}": (dy.cmult, [size, (1, cols)], batch),
            f"W * x {where}": (lambda w, x: w * x, [size, (cols,)], batch),
            f"W * X {where}": (lambda w, x: w * x, [size, (cols, rows)], batch),
            f"affine_transform {where}": (
                lambda b, w, x: dy.affine_transform([b, w, x]),
                [(rows,), size, (cols,)],
                batch,
            ),
        }
    for batch in (1, 16):
        table[f"maxpooling2d (24, 24, 8) x {batch}"] = (
            lambda x: dy.maxpooling2d(x, [2, 2], [2, 2]),
            [(24, 24, 8)],
            batch,
        )
    return table


def calls(dy):
    """{name: (function that makes its argument in a new graph, function)}."""
    m = dy.ParameterCollection()
    table, W = m.add_lookup_parameters((1000, 32)), m.add_parameters((32, 32))
    b = m.add_parameters(32)
    lstm, rnn = dy.VanillaLSTMBuilder(1, 32, 32, m), dy.SimpleRNNBuilder(1, 32, 32, m)

    def row():
        return table[1]

    def words():
        return [table[i] for i in range(20)]

    def soft():
        y = dy.softmax(table[1])
        y.forward()
        return y

    made = {}
    index, numbers = np.int64(3), np.random.default_rng(1).random(32)
    for n in (16, 64, 256):
        listed = [i % 10 for i in range(n)]
        for form, given in (
            ("list", listed),
            ("array", np.array(listed)),
            ("NumPy's in a list", [*np.array(listed)]),
        ):
            where = f"{n}, {form}"
            made |= {
                f"lookup_batch {where}": (row, lambda x, g=given: dy.lookup_batch(table, g)),
                f"pickneglogsoftmax_batch {where}": (
                    lambda n=n: dy.inputTensor(np.ones((10, n)), batched=True),
                    lambda x, g=given: dy.pickneglogsoftmax_batch(x, g),
                ),
            }
        made[f"esum {n}"] = (
            lambda n=n: [table[i % 10] for i in range(n)],
            lambda x: dy.esum(x),
        )
    for form, i in (("3", 3), ("NumPy's 3", index)):
        made |= {
            f"E[{form}]": (row, lambda x, i=i: table[i]),
            f"pick {form}": (row, lambda x, i=i: dy.pick(x, i)),
            f"pickneglogsoftmax {form}": (row, lambda x, i=i: dy.pickneglogsoftmax(x, i)),
        }
    for form, given in (("list", numbers.tolist()), ("array", numbers)):
        made |= {
            f"inputVector, {form}": (row, lambda x, g=given: dy.inputVector(g)),
            f"inputTensor, {form}": (row, lambda x, g=given: dy.inputTensor(g)),
            f"init_row, {form}": (row, lambda x, g=given: table.init_row(3, g)),
            f"set_value, {form}": (row, lambda x, g=given: b.set_value(g)),
        }
    image = np.random.default_rng(1).random((64, 784))
    for name, builder in (("LSTM", lstm), ("RNN", rnn)):
        made |= {
            f"{name} initial_state": (row, lambda x, r=builder: r.initial_state()),
            f"{name} add_input": (
                lambda r=builder: (r.initial_state(), table[1]),
                lambda x: x[0].add_input(x[1]),
            ),
            f"{name} output": (
                lambda r=builder: r.initial_state().add_input(table[1]),
                lambda x: x.output(),
            ),
            f"{name} transduce 20": (
                lambda r=builder: (r.initial_state(), words()),
                lambda x: x[0].transduce(x[1]),
            ),
        }
    return made | {
        "inputTensor of 64 images": (row, lambda x: dy.inputTensor(image.T, batched=True)),
        "affine_transform": (row, lambda x: dy.affine_transform([b, W, x])),
        "W * x + b": (row, lambda x: W * x + b),
        "W[1]": (row, lambda x: W[1]),
        "x[1:3]": (row, lambda x: x[1:3]),
        "value": (soft, lambda y: y.value()),
        "npvalue": (soft, lambda y: y.npvalue()),
        "tensor_value().argmax()": (soft, lambda y: y.tensor_value().argmax()),
        "dim": (soft, lambda y: y.dim()),
        "as_array": (row, lambda x: W.as_array()),
        "renew_cg": (row, lambda x: dy.renew_cg()),
    }


def least(measure):
    """The least of a few runs of `measure`, which returns seconds: of each part."""
    runs, begin = [measure()], time.process_time()
    while time.process_time() - begin < SECONDS or len(runs) < 4:
        runs.append(measure())
    return [min(part) * 1e6 for part in zip(*runs, strict=True)]


def times_of_operation(dy, function, sizes, batch):
    rng, m = np.random.default_rng(2), dy.ParameterCollection()
    arrays = [rng.uniform(0.2, 0.8, (*size, batch)) for size in sizes]
    parameters = [
        m.add_parameters(a.shape[:-1], init=dy.NumpyInitializer(np.ascontiguousarray(a[..., 0])))
        for a in arrays
    ]

    def measure():
        dy.renew_cg()
        inputs = [
            p.expr(True) if batch == 1 else dy.inputTensor(a, batched=True) + p
            for a, p in zip(arrays, parameters, strict=True)
        ]
        for x in inputs:
            x.forward()
        clock = [time.process_time()]
        outputs = [function(*inputs) for _ in range(NODES)]
        clock.append(time.process_time())
        for y in outputs:
            y.forward()
        clock.append(time.process_time())
        loss = dy.esum([dy.sum_batches(dy.sum_elems(y)) for y in outputs])
        loss.forward()
        before = time.process_time()
        loss.backward()
        clock.append(clock[-1] + time.process_time() - before)
        return [(b - a) / NODES for a, b in itertools.pairwise(clock)]

    return least(measure)


def times_of_call(dy, make, function):
    def measure():
        dy.renew_cg()
        given, n = make(), 50
        begin = time.process_time()
        kept = [function(given) for _ in range(n)]
        seconds = time.process_time() - begin
        return [(seconds / n) if kept else 0.0]

    return least(measure)


def run(peer, match):
    """Prints a line of JSON: {name: microseconds of each part}, or its error in place of them."""
    dy = __import__(peer)
    chosen = [(name, times_of_call, case) for name, case in calls(dy).items()]
    chosen += [(name, times_of_operation, case) for name, case in operations(dy).items()]
    found = {}
    for name, measure, case in chosen:
        if match.lower() in name.lower():
            try:
                found[name] = measure(dy, *case)
            except Exception as error:  # dyNET38 has no such operation for a batch
                found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


def measured(interpreter, peer, match):
    """What run() prints in a process of its own."""
    command = (interpreter, __file__, "--peer", peer, "--match", match)
    return Program(f"{peer}'s calls", command, environment(peer)).run()


def parts(rounds, name):
    """The medians of a row's parts over the rounds; None: it failed, or there is none."""
    rows = [found.get(name, "") for found in rounds]
    if any(isinstance(row, str) for row in rows):
        return None
    return [statistics.median(part) for part in zip(*rows, strict=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--match", default="", help="rows whose names contain it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=40, help="rows to print; 0: all")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        run(args.peer, args.match)
        return
    dynet = os.environ.get(TOOLKITS[DYNET].variable)
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(measured(sys.executable, US, args.match))
        theirs.append(measured(dynet, DYNET, args.match) if dynet else {})
    rows = []
    for name, first in ours[0].items():
        mine = parts(ours, name)
        if mine is None:
            raise SystemExit(f"{name}: {first}")
        other = parts(theirs, name)
        ratio = sum(other) / sum(mine) if other else None
        rows.append((ratio is None, ratio or sum(mine), name, mine, other))
    print(f"{'':40} {'us of dist_dynet':>24} {'of dyNET38':>24} {'times as fast':>14}")
    for _, ratio, name, mine, other in sorted(rows)[: args.most or None]:
        columns = [" ".join(f"{part:.2f}" for part in side or ()) for side in (mine, other)]
        print(f"{name:40} {columns[0]:>24} {columns[1]:>24} " + (f"{ratio:14.2f}" if other else ""))
    compared = [ratio for alone, ratio, *_ in rows if not alone]
    if compared:
        print(
            f"{len(compared)} rows: median {statistics.median(compared):.2f},"
            f" {sum(ratio < 1 for ratio in compared)} below 1"
        )


if __name__ == "__main__":
    main()
