"""The core's peak: the greatest rate of matrix products over some shapes, in GFLOP per CPU second.

In float32 NumPy's BLAS and our products give it (--peer dist_dynet), or PyTorch; in bfloat16
PyTorch's products, or ours (--peer dist_dynet --precision bf16, with DIST_DYNET_PRECISION=bf16).
"""

import argparse
import importlib
import itertools
import json
import time

import numpy as np

SHAPES = ((64, 1024, 256), (400, 10_000, 256), (64, 512, 784), (512, 512, 512), (1024, 1024, 1024))
"""Columns, rows and inner dimension: those of the tasks, and square ones."""
LEAST_SECONDS = 0.1


def rate(product, columns, rows, inner):
    """GFLOP per CPU second of calls of product(), the greatest of three."""
    product()
    best = 0.0
    for _ in range(3):
        calls, start = 0, time.process_time()
        while (seconds := time.process_time() - start) < LEAST_SECONDS:
            product()
            calls += 1
        best = max(best, 2e-9 * columns * rows * inner * calls / seconds)
    return best


def numpy_product(columns, rows, inner):
    """W x by BLAS."""
    rng = np.random.default_rng(1)
    w, x = (rng.normal(size=s).astype(np.float32) for s in ((rows, inner), (inner, columns)))
    y = np.empty((rows, columns), np.float32)
    return lambda: np.matmul(w, x, out=y)


def torch_product(torch, dtype, columns, rows, inner):
    """nn.functional.linear."""
    torch.manual_seed(1)
    w, x = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)
    return lambda: torch.nn.functional.linear(x, w)


def our_product(dy, columns, rows, inner):
    """A graph of one product with a parameter."""
    W = dy.ParameterCollection().add_parameters((rows, inner))
    x = np.random.default_rng(1).normal(size=(inner, columns)).astype(np.float32)

    def product():
        dy.renew_cg()
        (W * dy.inputTensor(x, batched=True)).forward()

    return product


def main():
    """Command line; prints a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default="dist_dynet", choices=["dist_dynet", "torch"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    args, _ = parser.parse_known_args()
    module = importlib.import_module(args.peer)
    if args.peer == "torch":
        module.set_num_threads(1)
        dtype = module.bfloat16 if args.precision == "bf16" else module.float32
        products = (torch_product(module, dtype, *shape) for shape in SHAPES)
    else:
        products = [our_product(module, *shape) for shape in SHAPES]
        if args.precision == "float32":
            products += [numpy_product(*shape) for shape in SHAPES]
    shapes = itertools.cycle(SHAPES)
    best = max(rate(product, *next(shapes)) for product in products)
    print(json.dumps({"gflops": best}), flush=True)


if __name__ == "__main__":
    main()
