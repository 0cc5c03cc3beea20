"""Makes the stored oracle numbers: what the real DyNet computes for fixed inputs.

    python -m venv VENV && VENV/bin/pip install dyNET38 numpy      # the real DyNet: package dyNET38
                                                                   # 2.2 (Python 3.11)
    VENV/bin/python tests/oracle/make_numbers.py --out tests/data

writes tests/data/oracle/{ops,ops_more,random,trainers,trainers_other,lstm,rnn,xor}.json and
tests/data/dynet_files/*. The stored files were made with dyNET38 2.2 (which calls itself 2.1),
Python 3.11, NumPy 2.4. Takes about 5 s. Running it again gives the same bytes. `--only ops,lstm`
makes only these; `--check` also compares every gradient of the ops with central differences, to
find what the wheel gets wrong.

Any module with DyNet's API can be named by `--module`; the stored numbers are those of `dynet`.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

import cases_ops
import cases_small
import dynet_files
import replay


def dump(path, cases):
    """One case per line, so that a change shows as the lines of the cases it touches."""
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{path}: {len(cases)} cases, {path.stat().st_size / 1024:.0f} KiB")


def with_results(dy, function, cases):
    """The cases with what the oracle computes; names the case that fails."""
    for case in cases:
        try:
            case["result"] = function(dy, case)
        except Exception as error:
            raise RuntimeError(f"case {case['id']}: {error}") from error
    return cases


def make_ops(dy, cases, check):
    """Adds weights and results; the weights of the objective follow from the size of the value."""
    for case in cases:
        case["w"] = None
    with_results(dy, replay.op, cases)
    for case in cases:
        rng = cases_small.rng_of("w " + case["id"])
        case["w"] = cases_small.uniform(rng, len(case["result"]["v"]))
    with_results(dy, replay.op, cases)
    if check:
        for case in cases:
            for text in gradient_faults(dy, case):
                print(f"suspicious: {text}")
    return cases


def gradient_faults(dy, case, step=4e-3, tol=4e-3):
    """Texts for stored gradients that central differences contradict."""

    def objective():
        _keep, _xs, out = replay.op_output(dy, case)
        return sum(a * w for a, w in zip(out.vec_value(), case["w"], strict=True))

    faults = []
    for i, (spec, grad) in enumerate(zip(case["inputs"], case["result"]["grads"], strict=True)):
        if grad is None or case.get("fake_gradient"):
            continue
        for j, g in enumerate(grad):
            x = spec["v"][j]
            spec["v"][j] = x + step
            up = objective()
            spec["v"][j] = x - step
            down = objective()
            spec["v"][j] = x
            numeric = (up - down) / (2 * step)
            if abs(numeric - g) > tol * (1 + abs(g)):
                faults.append(
                    f"{case['id']}: input {i} element {j}: gradient {g}, differences {numeric:.6g}"
                )
    return faults


def shapes_of(dy):
    """A function from an rnn case to its parameters' shapes."""
    return lambda case: [list(p.shape()) for p in replay.rnn_builder(dy, case)[2]]


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder tests/data")
    parser.add_argument("--module", default="dynet")
    parser.add_argument("--only", default="ops,random,trainers,lstm,xor,files")
    parser.add_argument(
        "--check", action="store_true", help="compare gradients with central differences"
    )
    args = parser.parse_args()
    only = set(args.only.split(","))
    dy = importlib.import_module(args.module)
    oracle = args.out / "oracle"
    oracle.mkdir(parents=True, exist_ok=True)
    if "random" in only:
        dump(oracle / "random.json", with_results(dy, replay.random, cases_small.random_cases()))
    if "trainers" in only:
        for name, cases in zip(
            ("trainers", "trainers_other"), cases_small.trainer_cases(), strict=True
        ):
            dump(oracle / f"{name}.json", with_results(dy, replay.trainer, cases))
    if "lstm" in only:
        for name, cases in zip(("lstm", "rnn"), cases_small.rnn_cases(shapes_of(dy)), strict=True):
            dump(oracle / f"{name}.json", with_results(dy, replay.rnn, cases))
    if "files" in only:
        folder = args.out / "dynet_files"
        folder.mkdir(parents=True, exist_ok=True)
        contents = dynet_files.write(dy, folder)
        (folder / "contents.json").write_text(
            json.dumps(contents, indent=1) + "\n", encoding="utf-8"
        )
        print(f"{folder}: {len(contents)} files")
    if "ops" in only:
        for name, cases in zip(("ops", "ops_more"), cases_ops.cases(), strict=True):
            dump(oracle / f"{name}.json", make_ops(dy, cases, args.check))
    if "xor" in only:
        dump(oracle / "xor.json", with_results(dy, replay.xor, cases_small.xor_cases()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
