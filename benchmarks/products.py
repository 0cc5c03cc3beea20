"""Prints GFLOP/s of matrix products rounded to bfloat16, in each way that this processor has,
beside products in float32 (ours, and NumPy's BLAS) and PyTorch's in bfloat16.

    python benchmarks/products.py               # all shapes: about a minute
    python benchmarks/products.py 1024x16x256 --rounds 20

A shape is m x n x k: y = W x with W m x k and n columns of x; dx = W' dy; dW = dy x'. W is packed
beforehand, as it is once per update; x and dy are float32 and rounded within the product, but for
PyTorch, whose operands and results are bfloat16 already. All take turns, on one core; times are
CPU seconds, the best of the rounds. The kernels are compiled by themselves, with the options of
build_ffi.py. PyTorch: DIST_DYNET_BENCH_TORCH, a Python that has it (README.md).
"""

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402 - after the number of threads is set

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ["1024x16x256", "1024x64x256", "10000x400x256", "512x64x784", "1024x1x256", "10000x1x256"]
PRODUCTS = ["W x", "W' dy", "dy x'"]
KERNELS = "matrix", "parallel", "reduce", "strided"
"""The files of csrc/kernels that products in float32 need."""
SECONDS = 0.02
"""The least time of one measurement."""

TORCH = """
import sys, time, torch
torch.set_num_threads(1)
for line in sys.stdin:
    m, n, k, seconds = (float(word) for word in line.split())
    m, n, k = int(m), int(n), int(k)
    a, w, d = (torch.randn(*s).bfloat16() for s in ((n, k), (m, k), (n, m)))
    for run in (lambda: a @ w.T, lambda: d @ w, lambda: d.T @ a):
        run()
        repeats, start = 0, time.process_time()
        while (took := time.process_time() - start) < seconds:
            run()
            repeats += 1
        print(2e-9 * m * n * k * repeats / took, flush=True)
"""


def compiled(folder):
    """The kernels as a library."""
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    import build_ffi

    library = Path(folder) / "kernels.so"
    flags = [f for f in build_ffi.FLAGS if f != "-fvisibility=hidden"]
    kernels = ROOT / "csrc" / "kernels"
    sources = [
        *map(str, kernels.glob("bf16*.c")),
        *(f"{kernels}/{n}.c" for n in KERNELS),
    ]
    command = [*build_ffi.compiler(), *flags, *build_ffi.clone_flags(), "-shared", "-fPIC"]
    subprocess.run([*command, *sources, "-o", str(library), "-lm", "-lpthread"], check=True)
    lib = ctypes.CDLL(str(library))
    lib.dn__bf16_packed.restype = ctypes.c_size_t
    lib.dn__set_blas(None, None, None)
    return lib


def aligned(size):
    """`size` bfloat16 numbers from a multiple of 64 bytes on."""
    block = np.zeros(size + 32, np.uint16)
    start = -block.ctypes.data % 64 // 2
    return block[start : start + size]


def call(function, *arguments):
    """What calls a kernel with matrices, each of which is a pointer and the distance of columns;
    the last is the result, before which stands beta."""
    values = []
    for a in arguments:
        if isinstance(a, np.ndarray) and a.ndim == 2:
            values += [ctypes.c_void_p(a.ctypes.data), a.strides[1] // 4]
        elif isinstance(a, np.ndarray):
            values.append(ctypes.c_void_p(a.ctypes.data))
        else:
            values.append(a)
    beta = ctypes.c_float(0)
    values = [*values[:-2], beta, *values[-2:]]
    return lambda arrays=arguments: function(*values)  # which live as long as the call


def rate(run, products):
    """GFLOP/s of one measurement."""
    repeats, start = 0, time.process_time()
    while (took := time.process_time() - start) < SECONDS:
        run()
        repeats += 1
    return 2e-9 * products * repeats / took


def contenders(lib, m, n, k):
    """{name: three functions, one for each product}."""
    rng = np.random.default_rng(1)
    w, x, dy = (np.asfortranarray(rng.normal(size=s), np.float32) for s in ((m, k), (k, n), (m, n)))
    y, dx, dw = (np.zeros(s, np.float32, order="F") for s in ((m, n), (k, n), (m, k)))
    found = {}
    for way in ("amx", "avx512", "plain"):
        if not lib.dn__bf16_choose(way.encode()):
            continue
        packs = [aligned(lib.dn__bf16_packed(*s)) for s in ((m, k), (k, m))]
        call_pack = ctypes.c_void_p(w.ctypes.data), m
        lib.dn__bf16_pack(m, k, *call_pack, ctypes.c_void_p(packs[0].ctypes.data))
        lib.dn__bf16_pack_transposed(m, k, *call_pack, ctypes.c_void_p(packs[1].ctypes.data))
        found[f"bf16, {way}"] = (
            call(lib.dn__bf16_mm, m, k, n, packs[0], x, y),
            call(lib.dn__bf16_mm, k, m, n, packs[1], dy, dx),
            call(lib.dn__bf16_mm_dw, m, k, n, dy, x, dw),
            lambda way=way: lib.dn__bf16_choose(way.encode()),
        )
    found["float32"] = (
        call(lib.dn__mm, m, k, n, w, x, y),
        call(lib.dn__mm_dx, m, k, n, w, dy, dx),
        call(lib.dn__mm_dw, m, k, n, dy, x, dw),
        lambda: None,
    )
    found["NumPy, float32"] = (
        lambda: np.matmul(x.T, w.T, y.T),
        lambda: np.matmul(dy.T, w, dx.T),
        lambda: np.matmul(x, dy.T, dw.T),
        lambda: None,
    )
    return found


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", default=SHAPES, metavar="MxNxK")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch = None
    if python := os.environ.get("DIST_DYNET_BENCH_TORCH"):
        torch = subprocess.Popen(
            [python, "-c", TORCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    with tempfile.TemporaryDirectory() as folder:
        lib = compiled(folder)
        print("GFLOP/s" + " " * 25 + "".join(f"{p:>9}" for p in PRODUCTS))
        for shape in args.shapes:
            m, n, k = (int(size) for size in shape.split("x"))
            sides = contenders(lib, m, n, k)
            best = {name: [0.0] * 3 for name in [*sides, *(["PyTorch, bf16"] if torch else [])]}
            for _ in range(args.rounds):
                for name, (*runs, prepare) in sides.items():
                    prepare()
                    rates = [rate(run, m * n * k) for run in runs]
                    best[name] = [max(pair) for pair in zip(best[name], rates, strict=True)]
                if torch:
                    torch.stdin.write(f"{m} {n} {k} {SECONDS}\n")
                    torch.stdin.flush()
                    rates = [float(torch.stdout.readline()) for _ in PRODUCTS]
                    best["PyTorch, bf16"] = [
                        max(pair) for pair in zip(best["PyTorch, bf16"], rates, strict=True)
                    ]
            for name, rates in best.items():
                print(f"{shape:15}{name:17}" + "".join(f"{r:9.1f}" for r in rates))
    if torch:
        torch.stdin.close()
        torch.wait()


if __name__ == "__main__":
    main()
