"""Prints what one element costs in elementwise functions and softmax, beside NumPy's copy, triad
and functions on as many numbers.

    python benchmarks/kernels.py                                  # 4,096 and 1,048,576 numbers:
                                                                  # about 10 seconds
    python benchmarks/kernels.py exp softmax --size 512 --rounds 20

A graph holds a number of nodes of one operation over the same inputs and is computed anew again and
again; NumPy does the same into as many outputs. Times are the best of the rounds, in ns per element
and CPU; so they hold what a node costs, which counts only below 1,000 elements.
"""

import argparse
import os
import time

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "DIST_DYNET_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402 - after the number of threads is set

import dist_dynet as dy  # noqa: E402

NODES = 16
"""Nodes in a graph and outputs of NumPy: both write to memory that was not written just before."""
SECONDS = 0.02
"""The least time of one measurement."""


def logistic(x, out):
    np.negative(x, out)
    np.exp(out, out)
    np.add(out, 1, out)
    np.reciprocal(out, out)


def softmax(x, out):
    np.subtract(x, x.max(), out)
    np.exp(out, out)
    np.divide(out, out.sum(), out)


KERNELS = {
    "copy": (None, lambda x, y, out: np.copyto(out, x)),
    "triad": (None, lambda x, y, out: (np.multiply(x, np.float32(2.5), out), np.add(out, y, out))),
    "add": (lambda x, y: x + y, lambda x, y, out: np.add(x, y, out)),
    "mult": (dy.cmult, lambda x, y, out: np.multiply(x, y, out)),
    "scale": (lambda x, y: 2.5 * x, lambda x, y, out: np.multiply(x, np.float32(2.5), out)),
    "exp": (lambda x, y: dy.exp(x), lambda x, y, out: np.exp(x, out)),
    "log": (lambda x, y: dy.log(y), lambda x, y, out: np.log(y, out)),
    "tanh": (lambda x, y: dy.tanh(x), lambda x, y, out: np.tanh(x, out)),
    "logistic": (lambda x, y: dy.logistic(x), lambda x, y, out: logistic(x, out)),
    "softmax": (lambda x, y: dy.softmax(x), lambda x, y, out: softmax(x, out)),
    "sin": (lambda x, y: dy.sin(x), lambda x, y, out: np.sin(x, out)),
    "erf": (lambda x, y: dy.erf(x), None),
    "gelu": (lambda x, y: dy.gelu(x), None),
    "gelu (tanh)": (lambda x, y: dy.gelu(x, approximate=True), None),
    "elu": (lambda x, y: dy.elu(x), None),
    "silu": (lambda x, y: dy.silu(x), None),
    "log_sigmoid": (lambda x, y: dy.log_sigmoid(x), None),
}


def best_time(run, rounds):
    """CPU seconds of one run, the best of some rounds."""
    run()
    repeats = 1
    while True:
        start = time.process_time()
        for _ in range(repeats):
            run()
        if (took := time.process_time() - start) >= SECONDS:
            break
        repeats = max(repeats * 2, int(repeats * SECONDS / max(took, 1e-6)))
    times = [took]
    for _ in range(rounds - 1):
        start = time.process_time()
        for _ in range(repeats):
            run()
        times.append(time.process_time() - start)
    return min(times) / repeats


def ours(build, x, y, rounds):
    dy.renew_cg()
    a, b = dy.inputTensor(x), dy.inputTensor(y)
    for _ in range(NODES):
        last = build(a, b)
    return best_time(lambda: last.forward(recalculate=True), rounds) / (NODES * x.size)


def numpys(function, x, y, rounds):
    outputs = [np.empty_like(x) for _ in range(NODES)]

    def run():
        for out in outputs:
            function(x, y, out)

    return best_time(run, rounds) / (NODES * x.size)


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "kernels",
        nargs="*",
        metavar="kernel",
        help=f"of {', '.join(KERNELS)}; all if none is named",
    )
    parser.add_argument(
        "--size", type=int, action="append", help="numbers in each input; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    unknown = set(args.kernels) - KERNELS.keys()
    if unknown:
        parser.error(f"no such kernel: {', '.join(sorted(unknown))}")
    rng = np.random.default_rng(1)
    for size in args.size or (4096, 1 << 20):
        x, y = (
            rng.uniform(-4, 4, size).astype(np.float32),
            rng.uniform(0.1, 4, size).astype(np.float32),
        )
        print(f"{size} numbers{'':15}dist_dynet      NumPy      ns per element")
        for name in args.kernels or KERNELS:
            build, function = KERNELS[name]
            times = [
                f(what, x, y, args.rounds) * 1e9 if what else None
                for f, what in ((ours, build), (numpys, function))
            ]
            print(
                f"{name:24}"
                + "".join(f"{t:11.3f}" if t is not None else f"{'-':>11}" for t in times)
            )


if __name__ == "__main__":
    main()
