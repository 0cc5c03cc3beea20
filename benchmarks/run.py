"""Runs benchmark tasks for dist_dynet and its peers, in turn, and prints tables of speeds and
ratios, of GFLOP/s, and of what compiling takes.

    python benchmarks/run.py                                  # all tasks, dist_dynet alone, 3
                                                              # rounds of 3 CPU seconds: 3 minutes
    python benchmarks/run.py tagger rnnlm --rounds 5 --seconds 4
    python benchmarks/run.py rnnlm_16 --peers all
    python benchmarks/run.py setup --dir VENVS                # makes the peers' venvs VENVS/dynet,
                                                              # VENVS/torch and VENVS/jax

The peers' interpreters come from --dynet-python, --torch-python and --jax-python, or from the
environment variables DIST_DYNET_BENCH_DYNET, DIST_DYNET_BENCH_TORCH and DIST_DYNET_BENCH_JAX. Peers
that are not installed are left out, with a note. In every round each peer is a process of its own
with one thread, and these take turns of a quarter of a second, so that a machine whose speed
changes slows all alike. All peers start from the same numbers: if the loss before the first update
is another one, the exit status is 1.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from turns import NoTwinError, Program, take_turns

HERE = Path(__file__).resolve().parent
US, DYNET, TORCH, JAX = "dist_dynet", "dynet", "torch", "jax"
FLOAT32, BF16 = "float32", "bf16"


class Toolkit(NamedTuple):
    """What is installed in one venv: the module, and the packages for `setup`."""

    module: str
    packages: tuple

    @property
    def variable(self):
        """Of the environment, with the path of the interpreter."""
        return f"DIST_DYNET_BENCH_{self.module.upper()}"


TOOLKITS = {
    t.module: t
    for t in (
        Toolkit(DYNET, ("dyNET38", "numpy")),
        Toolkit(TORCH, ("torch", "numpy")),
        Toolkit(JAX, ("jax", "numpy")),
    )
}
"""All but our own, which runs with --python."""


class Peer(NamedTuple):
    """A way to run the tasks: a column of the table."""

    name: str
    shown: str
    module: str
    """Its toolkit's, which must be there."""
    about: str
    """Its form, for the documentation."""
    precision: str = FLOAT32
    options: tuple = ()
    """To the task program."""
    environment: tuple = ()
    """Pairs of names and values."""
    quick: bool = False
    """Whether it runs if --peers does not say."""
    check: str = ""
    """A statement on the module m that fails if the module cannot run so."""


INDUCTOR = (("TORCHINDUCTOR_COMPILE_THREADS", "1"),)
"""In the process, so that its CPU seconds count."""
XLA = (("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false --xla_cpu_prefer_vector_width=512"),)
PEERS = {
    p.name: p
    for p in (
        Peer(US, "dist_dynet", US, "float32", quick=True),
        Peer(
            "dist_dynet_bf16",
            "dist_dynet bf16",
            US,
            "products in bfloat16; sums, losses and weights in float32",
            BF16,
            environment=(("DIST_DYNET_PRECISION", BF16),),
            quick=True,
            check="m.init(precision='bf16')",
        ),
        Peer(
            DYNET,
            "dyNET38",
            DYNET,
            "float32; batches padded, losses of the padding masked",
            quick=True,
        ),
        Peer(
            TORCH,
            "PyTorch",
            TORCH,
            "float32; `nn.LSTM` (oneDNN) on padded batches, fused Adam, SparseAdam for tables",
            quick=True,
        ),
        Peer(
            "torch_compile",
            "PyTorch compile",
            TORCH,
            "as `torch`; network and loss by `torch.compile(dynamic=True)`",
            options=("--compile",),
            environment=INDUCTOR,
        ),
        Peer(
            "torch_bf16",
            "PyTorch bf16",
            TORCH,
            "as `torch` under `autocast`; scores and losses in float32",
            BF16,
            ("--precision=bf16",),
            quick=True,
        ),
        Peer(
            "torch_bf16_logits",
            "PyTorch bf16 logits",
            TORCH,
            "as `torch` under `autocast`; scores and losses of words in bfloat16, too",
            BF16,
            ("--precision=bf16_logits",),
        ),
        Peer(
            "torch_compile_bf16",
            "PyTorch compile bf16",
            TORCH,
            "as `torch_bf16_logits`; network and loss by `torch.compile(dynamic=True)`",
            BF16,
            ("--compile", "--precision=bf16_logits"),
            INDUCTOR,
        ),
        Peer(
            JAX,
            "JAX",
            JAX,
            "float32; one step compiled for each of a few lengths, parameters updated in place,"
            " used rows of tables alone, vectors of 512 bits",
            environment=XLA,
        ),
        Peer(
            "jax_bf16",
            "JAX bf16",
            JAX,
            "as `jax`; products in bfloat16, sums and losses in float32",
            BF16,
            ("--precision=bf16",),
            XLA,
        ),
    )
}
SHOWN = {p.name: p.shown for p in PEERS.values()}


TOLERANCE = 1e-4
"""Relative, of the loss before the first update among peers of float32."""


class Task(NamedTuple):
    """A line of the table."""

    program: str
    options: tuple = ()
    tolerance: float = TOLERANCE


PADDED_READING = 1e-2
"""dyNET38 and PyTorch read a shorter sentence's padding first in their backward direction."""
TASKS = {
    "xor": Task("xor"),
    # dyNET38's tanh is less exact
    "tanh_chain": Task("tanh_chain", tolerance=1e-3),
    "tagger": Task("tagger"),
    "tagger_add_input": Task("tagger", ("--style=add_input",)),
    "tagger_32": Task("tagger", ("--batch=32",), PADDED_READING),
    "rnnlm": Task("rnnlm"),
    "rnnlm_add_input": Task("rnnlm", ("--style=add_input",)),
    "rnnlm_16": Task("rnnlm", ("--batch=16",)),
    "rnnlm_16_add_input": Task("rnnlm", ("--batch=16", "--style=add_input")),
    "rnnlm_64": Task("rnnlm", ("--batch=64",)),
    "rnnlm_64_add_input": Task("rnnlm", ("--batch=64", "--style=add_input")),
    "mlp_64": Task("mlp", ("--batch=64",)),
    "attention_16": Task("attention", ("--batch=16",)),
}
ROUNDING = {FLOAT32: 0.0, BF16: 2.0**-8}
"""What the precision adds to a task's tolerance: one rounding of a bfloat16 number."""
SAFE_PATH = "PYTHONSAFEPATH"
"""Under it the task programs would not find what lies beside them."""
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


def environment(peer):
    """The children's environment: one thread, sets of words in one order, and this tree's
    dist_dynet, where it is compiled there, before an installed one."""
    tree = [str(HERE.parent)] if any((HERE.parent / "dist_dynet").glob("_core_*.so")) else []
    path = os.pathsep.join([*tree, *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {k: v for k, v in os.environ.items() if k not in ("DIST_DYNET_PRECISION", SAFE_PATH)}
    fixed = {**ONE_THREAD, "PYTHONHASHSEED": "0", "PYTHONPATH": path}
    return {**own, **fixed, **dict(PEERS[peer].environment)}


def add_interpreters(parser):
    """The options that name the toolkits' interpreters."""
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="the interpreter that has dist_dynet's dependencies",
    )
    for toolkit in TOOLKITS.values():
        parser.add_argument(f"--{toolkit.module}-python", default=os.environ.get(toolkit.variable))


def interpreters(args, peers):
    """{peer: interpreter} of those of the peers that can be run; a note for each other one."""
    pythons = {}
    for peer in peers:
        module = PEERS[peer].module
        python = args.python if module == US else getattr(args, f"{module}_python")
        fault = fault_of(python, peer)
        if fault:
            print(f"left out: {SHOWN[peer]} ({fault})", file=sys.stderr)
        else:
            pythons[peer] = python
    return pythons


def fault_of(python, peer):
    """Why the interpreter `python` cannot run the peer; empty if it can."""
    if not python:
        return "no interpreter given"
    module, check = PEERS[peer].module, PEERS[peer].check
    check = f"import {module} as m; assert m.__file__, 'an empty folder'; {check}"
    try:
        done = subprocess.run(
            [python, "-c", check], env=environment(peer), capture_output=True, text=True
        )
    except OSError as error:
        return str(error)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def program_of(python, program, peer, options=()):
    """A program in tasks/ for the peer, to be run."""
    return Program(
        f"{program} of {SHOWN[peer]}",
        (
            *(python, str(HERE / "tasks" / f"{program}.py"), "--peer", PEERS[peer].module),
            *PEERS[peer].options,
            *options,
        ),
        environment(peer),
    )


def run_tasks(tasks, pythons, rounds, seconds, extra):
    """({task: {peer: [result per round]}}, failed runs); the peers take turns within each round.

    A peer that fails is left out of the task; so is one that has no program for it.
    """
    results, failures = {}, 0
    for name in tasks:
        task = TASKS[name]
        results[name] = {peer: [] for peer in pythons}
        for i in range(rounds):
            options = (*task.options, *extra)
            programs = {
                peer: program_of(pythons[peer], task.program, peer, options)
                for peer in results[name]
            }
            for peer, result in take_turns(programs, seconds).items():
                if isinstance(result, Exception):
                    print(f"left out: {result}", file=sys.stderr)
                    failures += not isinstance(result, NoTwinError)
                    del results[name][peer]
                    continue
                results[name][peer].append(result)
                print(
                    f"  {name} round {i + 1}/{rounds} {SHOWN[peer]}:"
                    f" {count(result['per_cpu_second'])} {result['unit']}/s",
                    file=sys.stderr,
                )
    return {name: by_peer for name, by_peer in results.items() if by_peer}, failures


def peaks(pythons):
    """{precision: GFLOP per CPU second}: the greatest rate of products seen on this core, by
    whoever can be asked."""
    rates = {FLOAT32: [], BF16: []}
    for peer in (US, "dist_dynet_bf16", "torch_bf16"):
        if peer in pythons:
            precision = PEERS[peer].precision
            result = program_of(pythons[peer], "peak", peer, ("--precision", precision)).run()
            rates[precision].append(result["gflops"])
    return {precision: max(found) for precision, found in rates.items() if found}


def unlike(losses, tolerance=TOLERANCE):
    """Messages on those whose loss before the first update is not that of the first one in float32;
    {name: (loss, precision)}."""
    first = min(losses, key=lambda name: losses[name][1] != FLOAT32)
    right, _ = losses[first]
    return [
        f"{name} {loss:.7g}, {first} {right:.7g}"
        for name, (loss, precision) in losses.items()
        if not abs(loss - right) <= (tolerance + ROUNDING[precision]) * abs(right)
    ]


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


def median_speed(results):
    """As text; "-" without results."""
    return count(statistics.median(speeds(results))) if results else "-"


def best(by_peer, fits):
    """The fastest of the peers that fit; None if none does."""
    return max(
        (p for p, results in by_peer.items() if results and fits(PEERS[p])),
        key=lambda p: statistics.median(speeds(by_peer[p])),
        default=None,
    )


def ratio_of(by_peer, ours, theirs, named=False):
    """ratio() of two peers, followed by the name of the second if wanted; "-" if one is missing."""
    if not (by_peer.get(ours) and by_peer.get(theirs)):
        return "-"
    text = ratio(speeds(by_peer[ours]), speeds(by_peer[theirs]))
    return f"{text} {SHOWN[theirs]}" if named else text


def speed_table(results, peers):
    """Markdown: a column per peer, and ratios."""
    head = ["task, unit", *(SHOWN[p] for p in peers), "us / dyNET38", "us / best float32"]
    head.append("best of us / best of them")
    rows = [head]
    for task, by_peer in results.items():
        cells = [f"{task}, {next(iter(by_peer.values()))[0]['unit']}/s"]
        cells += [median_speed(by_peer.get(p)) for p in peers]
        cells.append(ratio_of(by_peer, US, DYNET))
        float32 = best(by_peer, lambda p: p.module != US and p.precision == FLOAT32)
        cells.append(ratio_of(by_peer, US, float32, named=True))
        ours, theirs = (
            best(by_peer, lambda p, us=us: (p.module == US) == us) for us in (True, False)
        )
        cells.append(ratio_of(by_peer, ours, theirs, named=True))
        rows.append(cells)
    return markdown(rows)


def gflops(results):
    """Of the matrix products, per CPU second; None where the task has none."""
    rate = statistics.median(speeds(results)) * results[0].get("operations", 0) / 1e9
    return rate or None


def detail_table(results, peak):
    """Markdown: a line per task and peer."""
    rows = [["task", "peer", "GFLOP/s", "of the peak", "compiling, CPU s (s)", "loss", "peak MiB"]]
    for task, by_peer in results.items():
        for peer, runs in by_peer.items():
            rate, roof = gflops(runs), peak.get(PEERS[peer].precision)
            compiling = "-"
            if "compile_seconds" in runs[0]:
                compiling = (
                    f"{statistics.median(r['compile_seconds'] for r in runs):.1f}"
                    f" ({statistics.median(r['compile_wall_seconds'] for r in runs):.1f})"
                )
            rows.append(
                [
                    task,
                    SHOWN[peer],
                    f"{rate:.3g}" if rate else "-",
                    f"{100 * rate / roof:.0f} %" if rate and roof else "-",
                    compiling,
                    f"{runs[0]['loss']:.5g}",
                    f"{max(r['peak_mib'] for r in runs):.0f}",
                ]
            )
    return markdown(rows)


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
    """Makes a venv per toolkit with pip."""
    for toolkit in TOOLKITS.values():
        venv = folder / toolkit.module
        subprocess.run([python, "-m", "venv", str(venv)], check=True)
        binaries = venv / ("Scripts" if os.name == "nt" else "bin")
        subprocess.run(
            [str(binaries / "python"), "-m", "pip", "install", *toolkit.packages], check=True
        )
        print(f"export {toolkit.variable}={binaries.resolve() / 'python'}")


def measure(tasks, pythons, rounds, seconds, extra=()):
    """({"peaks": ..., "tasks": ...}, what went wrong); see peaks() and run_tasks()."""
    peak = peaks(pythons)
    results, failures = run_tasks(tasks, pythons, rounds, seconds, extra)
    faults = ["a run failed"] * failures
    for name, by_peer in results.items():
        losses = {
            SHOWN[peer]: (runs[0]["first_loss"], PEERS[peer].precision)
            for peer, runs in by_peer.items()
        }
        faults += [
            f"{name}: another first loss: {fault}"
            for fault in unlike(losses, TASKS[name].tolerance)
        ]
    return {"peaks": peak, "tasks": results}, faults


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
    quick = [p.name for p in PEERS.values() if p.quick]
    parser.add_argument(
        "--peers",
        nargs="+",
        default=quick,
        choices=[*PEERS, "all"],
        metavar="PEER",
        help=f"of {', '.join(PEERS)}; or: all (default: {' '.join(quick)})",
    )
    add_interpreters(parser)
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    parser.add_argument("--dir", type=Path, help="setup: where the venvs go")
    # the rest goes to the task programs, e.g. --embedding=dense
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
    peers = list(PEERS) if "all" in args.peers else [p for p in PEERS if p in args.peers]
    pythons = interpreters(args, peers)
    if not pythons:
        parser.error("no peer can be run")
    results, faults = measure(args.names or TASKS, pythons, args.rounds, args.seconds, extra)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for fault in faults:
        print(fault, file=sys.stderr)
    roofs = "; ".join(f"{p} {rate:.0f}" for p, rate in results["peaks"].items())
    print(speed_table(results["tasks"], list(pythons)))
    print(f"\nPeak of matrix products, GFLOP per CPU second: {roofs or '-'}\n")
    print(detail_table(results["tasks"], results["peaks"]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
