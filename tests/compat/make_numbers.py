"""Stores what the programs here print under the real DyNet, and the real DyNet's names, for
tests/test_compat.py. About half a minute.

    python tests/compat/make_numbers.py --out tests/data/compat      with a Python that has the real
                                                                     DyNet (package dyNET38 2.2)

With --module dist_dynet.compat it runs them under this package instead and prints how the two
compare in time: --time.
"""

import argparse
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = [
    "attention", "batched_draws", "batched_tagger", "beam", "classify", "crf_tagger", "draws", "float_sizes", "graph_parser", "idioms",
    "inflection", "leftovers", "masks", "mixing", "object_arrays", "other_toolkits", "padded_batches", "parts_of_models", "populated", "reverts", "rnnlm", "saliency", "saved_layers",
    "static_network", "transition_parser", "treelstm", "vae", "xor",
]  # fmt: skip
SEED = 1


def output(python, program, *runner, scale=1):
    """(lines that a program prints, seconds of the processor)."""
    before = os.times()
    command = [python, *runner, str(HERE / f"{program}.py"), "--dynet-seed", str(SEED)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False, env={**os.environ, "SCALE": str(scale)})
    after = os.times()
    if result.returncode:
        sys.exit(f"{program}: exit status {result.returncode}\n{result.stderr[-2000:]}")
    # what the real parameter() says, in C++, on the program's own output
    notice = ("The dy.parameter(...) call is now DEPRECATED.", "There is no longer need", "Any used parameter will be added")
    lines = [line for line in result.stdout.splitlines() if not line.strip().startswith(notice)]
    return lines, after.children_user + after.children_system - before.children_user - before.children_system


def signature(thing):
    """Its parameters as [[name, has a default]...]; None where Python cannot tell."""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return None
    return [[p.name, p.default is not p.empty] for p in parameters]


def names():
    """The public names of the real module, with the signatures of functions and methods."""
    import dynet

    assert "dist_dynet" not in sys.modules, "this must be the real DyNet"
    result = {}
    for name in dir(dynet):
        if name.startswith("_"):
            continue
        thing = getattr(dynet, name)
        result[name] = {"kind": type(thing).__name__, "signature": None if isinstance(thing, type) else signature(thing)}
        if isinstance(thing, type):
            result[name]["members"] = {m: signature(getattr(thing, m)) for m in dir(thing) if not m.startswith("_")}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where the files go")
    parser.add_argument("--only", nargs="+", metavar="PROGRAM", help="with --out: of these programs; what is stored for the others stays")
    parser.add_argument("--time", metavar="PYTHON", help="compare times with this Python, which has dist_dynet")
    parser.add_argument("--scale", type=int, default=1, help="how much larger the corpora are when times are compared")
    args = parser.parse_args()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / "printed.json"
        stored = json.loads(path.read_text()) if args.only else {}
        lines = {p: output(sys.executable, p)[0] if p in (args.only or PROGRAMS) else stored[p] for p in PROGRAMS}
        path.write_text(json.dumps(lines, indent=1) + "\n")
        (args.out / "names.json").write_text(json.dumps(names(), separators=(",", ":")).replace('},"', '},\n"') + "\n")
    if args.time:
        print(f"{'program':20} {'real':>7} {'here':>7}  seconds of the processor, the best of 3, start included")
        for program in PROGRAMS:
            commands = [(sys.executable, program), (args.time, program, "-m", "dist_dynet.compat")]
            turns = [[output(*command, scale=args.scale)[1] for command in commands] for _ in range(3)]
            real, here = (min(seconds) for seconds in zip(*turns, strict=True))
            print(f"{program:20} {real:7.2f} {here:7.2f}  {real / here:5.2f} times as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
