"""Replays the stored oracle numbers under a module and prints where it differs.

    python tests/oracle/compare.py --data tests/data --module dist_dynet [--only ops,lstm] [--tol
    1e-5] [--match tanh]

Exit status 1 if anything differs. A look-see for developers; the tests proper read the same files.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

import replay

FUNCTIONS = {
    "ops": replay.op,
    "ops_more": replay.op,
    "random": replay.random,
    "trainers": replay.trainer,
    "trainers_other": replay.trainer,
    "lstm": replay.rnn,
    "rnn": replay.rnn,
    "xor": replay.xor,
}


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--module", default="dist_dynet")
    parser.add_argument("--only", default=",".join(FUNCTIONS))
    parser.add_argument("--match", default="", help="only cases whose id contains this")
    parser.add_argument("--tol", type=float, default=1e-5, help="|a - b| <= tol (1 + |b|)")
    args = parser.parse_args()
    dy = importlib.import_module(args.module)
    bad = 0
    for name in args.only.split(","):
        cases = json.loads((args.data / "oracle" / f"{name}.json").read_text(encoding="utf-8"))
        cases = [c for c in cases if args.match in c["id"]]
        failed = 0
        for case in cases:
            try:
                expected = (
                    replay.rnn_expected(case) if FUNCTIONS[name] is replay.rnn else case["result"]
                )
                faults = replay.differences(expected, FUNCTIONS[name](dy, case), args.tol)
            except Exception as error:  # a missing op must not hide the other cases
                faults = [f"{type(error).__name__}: {error}"]
            if faults:
                failed += 1
                print(
                    f"{name} {case['id']}: {faults[0]}"
                    + (f" and {len(faults) - 1} more" if faults[1:] else "")
                )
        print(f"{name}: {len(cases) - failed} of {len(cases)} cases agree")
        bad += failed
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
