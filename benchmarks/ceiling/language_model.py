"""What this processor can do on the language model of tasks/rnnlm.py: the step of one sentence,
written by hand in C (language_model.c) and compiled for this processor.

    python benchmarks/ceiling/language_model.py               # 3 CPU seconds
    python benchmarks/ceiling/language_model.py --stored      # gradients stored before the update
    python benchmarks/ceiling/language_model.py --beside      # in turns with tasks/rnnlm.py,
                                                              # written word by word: their ratio

Prints one JSON line like the task programs, with the share of each part in the time. The loss is to
be compared with theirs: it is that of `tasks/rnnlm.py`, since the numbers are the same.
"""

import argparse
import ctypes
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "benchmarks" / "tasks")]

import common  # noqa: E402 - after the path is set
import numpy as np  # noqa: E402
import products  # noqa: E402
import rnnlm  # noqa: E402
import run  # noqa: E402
from turns import Program, take_turns  # noqa: E402

from dist_dynet import _ffi  # noqa: E402

PARTS = "products", "recurrent", "softmax", "optimiser", "rows"
"""In the order of the enumeration in language_model.c."""
SOURCES = (
    "benchmarks/ceiling/language_model.c",
    *(f"csrc/kernels/{name}.c" for name in products.KERNELS),
)
FLAGS = [
    "-O3",
    "-march=native",
    "-std=gnu11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-DDN_TARGET_CLONES=2",  # GCC: the kernels' forms for each instruction set
    "-shared",
    "-fPIC",
    "-pthread",
    *os.environ.get("DIST_DYNET_CFLAGS", "").split(),
]
WARM_UP = 20
"""Sentences, as many as a task program takes for the loss that it prints."""


def compiled(folder):
    """The program as a library."""
    path = str(Path(folder, "language_model.so"))
    compiler = os.environ.get("CC", "cc").split()
    sources = [str(ROOT / s) for s in SOURCES]
    subprocess.run(
        [*compiler, *FLAGS, f"-I{ROOT / 'csrc'}", "-o", path, *sources, "-lm"], check=True
    )
    return ctypes.CDLL(path)


def address(array):
    return ctypes.c_void_p(array.ctypes.data)


def blas_functions():
    """sgemm and sgemv of the library that dist_dynet uses, or no addresses."""
    for path, prefix in _ffi._blas_candidates():
        library = ctypes.CDLL(path)
        return [
            ctypes.cast(getattr(library, prefix + name), ctypes.c_void_p)
            for name in ("sgemm", "sgemv")
        ]
    return [ctypes.c_void_p(None)] * 2


def program_of(stored):
    """step(words, array) of the compiled program, and what gives the seconds of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(folder)
    program.step.restype = ctypes.c_double
    embedding, (wx, wh, _), w, _ = rnnlm.initial_values()
    values = [np.ascontiguousarray(embedding), *(np.asfortranarray(a) for a in (wx, wh, w))]
    program.begin(*blas_functions(), int(stored), *map(address, values))

    def parts():
        seconds = (ctypes.c_double * len(PARTS))()
        program.parts(seconds)
        return np.array(seconds)

    return program.step, parts


def beside(args):
    """Prints how fast the task is, as a share of this program."""
    stored = ["--stored"] * args.stored
    programs = {
        "task": run.program_of(sys.executable, "rnnlm", run.US, ("--style=add_input",)),
        "C": Program("C", (sys.executable, __file__, *stored), run.environment(run.US)),
    }
    speeds = {name: [] for name in programs}
    for _ in range(args.rounds):
        results = take_turns(programs, args.seconds)
        for name, result in results.items():
            if isinstance(result, Exception):
                raise result
            speeds[name].append(result["per_cpu_second"])
        losses = results["task"]["loss"], results["C"]["loss"]
        if abs(losses[1] - losses[0]) > 1e-6 * losses[0]:
            sys.exit("another loss: task {:.9g}, C {:.9g}".format(*losses))
    medians = {name: round(statistics.median(found)) for name, found in speeds.items()}
    print(f"words/s: task {medians['task']}, C {medians['C']}")
    print(f"task / C: {run.ratio(speeds['task'], speeds['C'])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds to measure")
    parser.add_argument(
        "--stored",
        action="store_true",
        help="the output layer's gradient is stored whole before Adam reads it, as in toolkits",
    )
    parser.add_argument("--beside", action="store_true", help="print how it compares with the task")
    parser.add_argument("--rounds", type=int, default=5, help="of turns, with --beside")
    parser.add_argument("--turns", action="store_true", help="as of the programs in tasks/")
    args = parser.parse_args()
    if args.beside:
        beside(args)
        return
    step_of, parts = program_of(args.stored)
    stream = itertools.cycle([(len(s), (ctypes.c_int * len(s))(*s)) for s in rnnlm.corpus()])

    def step():
        n, words = next(stream)
        return n, step_of(n, rnnlm.START, words)

    losses = [step() for _ in range(WARM_UP)]
    before = parts()
    result = {
        "task": "rnnlm",
        "peer": "C",
        "unit": "words",
        "loss": sum(loss for _, loss in losses) / sum(n for n, _ in losses),
        **common.measure(step, common.turns() if args.turns else [args.seconds]),
    }
    spent = parts() - before
    result["parts"] = {k: round(v / spent.sum(), 3) for k, v in zip(PARTS, spent, strict=True)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
