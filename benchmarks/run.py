"""Runs benchmark tasks for dist_dynet and its peers, in turn, and prints a table of speeds and
ratios.

    python benchmarks/run.py                                  # all tasks, 3 rounds of 3 CPU
                                                              # seconds: about 2 minutes
    python benchmarks/run.py tagger rnnlm --rounds 5 --seconds 4
    python benchmarks/run.py setup --dir VENVS                # makes the peers' venvs VENVS/dynet
                                                              # and VENVS/torch

The peers' interpreters come from --dynet-python and --torch-python, or from the environment
variables DIST_DYNET_BENCH_DYNET and DIST_DYNET_BENCH_TORCH. Peers that are not installed are left
out, with a note. Every round runs every peer once, each in a process of its own with one thread, so
that a busy machine slows all alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TASKS = {
    "xor": [],
    "tanh_chain": [],
    "tagger": [],
    "tagger_32": ["--batch=32"],
    "rnnlm": [],
    "rnnlm_16": ["--batch=16"],
    "rnnlm_64": ["--batch=64"],
    "mlp_64": ["--batch=64"],
    "attention_16": ["--batch=16"],
}
"""Each with its options; the program is what stands before the underscore of a number."""
US, DYNET, TORCH = "dist_dynet", "dynet", "torch"
SHOWN = {US: "dist_dynet", DYNET: "dyNET38", TORCH: "PyTorch"}
PACKAGES = {DYNET: ["dyNET38", "numpy"], TORCH: ["torch", "numpy"]}
ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "DIST_DYNET_THREADS",
    )
}


def environment():
    """The children's environment: one thread, and this tree's dist_dynet, where it is compiled
    there, before an installed one."""
    tree = [str(HERE.parent)] if any((HERE.parent / "dist_dynet").glob("_core_*.so")) else []
    path = os.pathsep.join([*tree, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": path}


def fault_of(python, module):
    """Why `module` cannot be imported by the interpreter `python`; empty if it can."""
    if not python:
        return "no interpreter given"
    check = f"import {module} as m; assert m.__file__, 'an empty folder'"
    try:
        done = subprocess.run(
            [python, "-c", check], env=environment(), capture_output=True, text=True
        )
    except OSError as error:
        return str(error)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def run_once(python, task, peer, seconds, extra):
    """The task program's JSON line."""
    program = task.rstrip("0123456789").rstrip("_")
    command = [
        python,
        str(HERE / "tasks" / f"{program}.py"),
        "--peer",
        peer,
        "--seconds",
        str(seconds),
        *TASKS.get(task, ()),
        *extra,
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{task} of {peer} ended with status {done.returncode}:\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_tasks(tasks, pythons, rounds, seconds, extra):
    """({task: {peer: [result per round]}}, failed runs); the peers take turns within each round.

    A peer that fails is left out of the task.
    """
    results, failures = {}, 0
    for task in tasks:
        results[task] = {peer: [] for peer in pythons}
        for i in range(rounds):
            for peer in list(results[task]):
                try:
                    result = run_once(pythons[peer], task, peer, seconds, extra)
                except RuntimeError as error:
                    print(f"left out: {error}", file=sys.stderr)
                    failures += 1
                    del results[task][peer]
                    continue
                results[task][peer].append(result)
                print(
                    f"  {task} round {i + 1}/{rounds} {SHOWN[peer]}:"
                    f" {count(result['per_cpu_second'])} {result['unit']}/s",
                    file=sys.stderr,
                )
    return {task: by_peer for task, by_peer in results.items() if by_peer}, failures


# ---- the table -------------------------------------------------------------------------


def count(x):
    """A rate in four digits."""
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if x >= limit:
            return f"{x / (1e6 if unit == 'M' else 1e3):.4g} {unit}"
    return f"{x:.4g}"


def speeds(results):
    """Units per CPU second, one per round."""
    return [r["per_cpu_second"] for r in results]


def ratio(ours, others):
    """Median of the rounds' ratios with the span, as text; each round is compared within itself."""
    ratios = [a / b for a, b in zip(ours, others, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def row(task, by_peer):
    """A line of the table: speeds (median), ratios, loss and peak memory per peer."""
    peers = [p for p in (US, DYNET, TORCH) if by_peer.get(p)]
    cells = [f"{task}, {by_peer[peers[0]][0]['unit']}/s"]
    cells += [
        count(statistics.median(speeds(by_peer[p]))) if p in peers else "-"
        for p in (US, DYNET, TORCH)
    ]
    cells.append(
        ratio(speeds(by_peer[US]), speeds(by_peer[DYNET])) if {US, DYNET} <= set(peers) else "-"
    )
    others = [p for p in peers if p != US]
    if US in peers and others:
        best = max(others, key=lambda p: statistics.median(speeds(by_peer[p])))
        cells.append(f"{ratio(speeds(by_peer[US]), speeds(by_peer[best]))} {SHOWN[best]}")
    else:
        cells.append("-")
    cells.append(
        " / ".join(
            f"{by_peer[p][0]['loss']:.5g}" if p in peers else "-" for p in (US, DYNET, TORCH)
        )
    )
    cells.append(
        " / ".join(
            f"{max(r['peak_mib'] for r in by_peer[p]):.0f}" if p in peers else "-"
            for p in (US, DYNET, TORCH)
        )
    )
    return cells


def table(results):
    """Markdown."""
    head = [
        "task, unit",
        *SHOWN.values(),
        "us / dyNET38",
        "us / best",
        "loss (us / dyNET38 / PyTorch)",
        "peak MiB",
    ]
    return markdown([head, *(row(task, by_peer) for task, by_peer in results.items())])


def markdown(rows):
    """A table of text, the first row being the head."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


# ---- verbs -----------------------------------------------------------------------------


def setup(folder, python):
    """Makes a venv per peer with pip."""
    for peer, packages in PACKAGES.items():
        venv = folder / peer
        subprocess.run([python, "-m", "venv", str(venv)], check=True)
        binaries = venv / ("Scripts" if os.name == "nt" else "bin")
        subprocess.run([str(binaries / "python"), "-m", "pip", "install", *packages], check=True)
        print(f"export DIST_DYNET_BENCH_{peer.upper()}={binaries.resolve() / 'python'}")


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)} (default: all); or: setup"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="CPU seconds measured per peer and round"
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="the interpreter that has dist_dynet's dependencies",
    )
    parser.add_argument("--dynet-python", default=os.environ.get("DIST_DYNET_BENCH_DYNET"))
    parser.add_argument("--torch-python", default=os.environ.get("DIST_DYNET_BENCH_TORCH"))
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    parser.add_argument("--dir", type=Path, help="setup: where the venvs go")
    # the rest goes to the task programs, e.g. --style=add_input
    args, extra = parser.parse_known_args()
    if args.names == ["setup"]:
        if not args.dir:
            parser.error("setup needs --dir")
        setup(args.dir, args.python)
        return 0
    unknown = set(args.names) - set(TASKS)
    if unknown:
        parser.error(f"unknown task {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    if extra and len(args.names) != 1:
        parser.error(f"{' '.join(extra)}: name one task, whose option this is")
    pythons = {}
    for peer, python in ((US, args.python), (DYNET, args.dynet_python), (TORCH, args.torch_python)):
        fault = fault_of(python, peer)
        if fault:
            print(f"left out: {SHOWN[peer]} ({fault})", file=sys.stderr)
        else:
            pythons[peer] = python
    if not pythons:
        parser.error("no peer can be run")
    results, failures = run_tasks(args.names or TASKS, pythons, args.rounds, args.seconds, extra)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
