"""Prints the tables of README.md, benchmarks/README.md and docs/autobatching.md, all from one run.

    python benchmarks/document_tables.py FOLDER --measure    # about an hour with all peers
    python benchmarks/document_tables.py FOLDER              # prints the tables again

--measure runs run.py with all peers and autobatch.py, and writes what they measured to
FOLDER/run.json and FOLDER/autobatch.json. Peers that are not installed are left out. The
interpreters come from the environment, as run.py says; --rounds and --seconds are for both.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import autobatch
import run
from run import BF16, DYNET, FLOAT32, PEERS, TORCH, US

ABOUT = {
    "xor": "the tutorial's dynamic loop, a graph per example",
    "tanh_chain": "chain of 10,000 tanh of one number",
    "tagger": "BiLSTM tagger, a sentence a step, not batched",
    "tagger_add_input": "the same, word by word",
    "tagger_32": "BiLSTM tagger, batches of 32 made by hand",
    "rnnlm": "LSTM language model, 10,000 words, a sentence a step",
    "rnnlm_add_input": "the same, word by word",
    "rnnlm_16": "LSTM language model, batches of 16 made by hand",
    "rnnlm_16_add_input": "the same, word by word",
    "rnnlm_64": "LSTM language model, batches of 64 made by hand",
    "rnnlm_64_add_input": "the same, word by word",
    "mlp_64": "perceptron over batches of 64 images",
    "attention_16": "encoder-decoder with attention, batches of 16 made by hand",
}
"""The tasks of run.py, as README.md calls them."""
ABOUT_PROGRAMS = {
    "batch_tagger": "tagger",
    "batch_rnnlm": "language model",
    "batch_treelstm": "trees, op by op",
    "batch_treelstm --style=traced": "trees, with `@dy.traced`",
    "batch_treelstm --style=cells": "trees, with the builder",
    "batch_attention": "attention",
    "batch_characters": "tagger with characters",
    "parser_bilstm": "parser over a BiLSTM",
    "parser_stack": "parser with stack LSTMs",
}
"""Those of autobatch.py, by the name that comes before the number of examples."""


def about_program(name):
    """What the documents call a line of autobatch.py: its task and the number of examples."""
    program, examples = name.rsplit(" ", 1)
    return f"{ABOUT_PROGRAMS.get(program, program)} {examples}"


def named_best(by_peer, ours, precision):
    """The ratio to the fastest of the other toolkits in this precision, with its name."""
    theirs = run.best(by_peer, lambda p: p.module != US and p.precision == precision)
    return run.ratio_of(by_peer, ours, theirs, named=True)


def readme_table(results):
    """README.md: ratios of float32 and of bfloat16."""
    rows = [
        [
            "task",
            "float32: dist_dynet / dyNET38",
            "/ PyTorch",
            "/ fastest other",
            "bfloat16: dist_dynet / PyTorch",
            "/ fastest other",
        ]
    ]
    for task, by_peer in results.items():
        rows.append(
            [
                ABOUT[task],
                run.ratio_of(by_peer, US, DYNET),
                run.ratio_of(by_peer, US, TORCH),
                named_best(by_peer, US, FLOAT32),
                run.ratio_of(by_peer, "dist_dynet_bf16", "torch_bf16"),
                named_best(by_peer, "dist_dynet_bf16", BF16),
            ]
        )
    return run.markdown(rows)


def speed_tables(results):
    """benchmarks/README.md: speeds of the peers of each precision."""
    tables = []
    for precision in (FLOAT32, BF16):
        peers = [p for p in PEERS if PEERS[p].precision == precision]
        ours = next(p for p in peers if PEERS[p].module == US)
        rows = [["units per CPU second", *(run.SHOWN[p] for p in peers), "us / fastest other"]]
        for task, by_peer in results.items():
            if any(by_peer.get(p) for p in peers):
                speeds = [run.median_speed(by_peer.get(p)) for p in peers]
                rows.append([task, *speeds, named_best(by_peer, ours, precision)])
        tables.append(run.markdown(rows))
    return "\n\n".join(tables)


def program_lines(results):
    """(name, {(peer, strategy): runs}) of each line of autobatch.py."""
    strategies = {"off": "off", "auto": "auto", "on": "auto"}
    for name, by_side in results.items():
        sides = {}
        for shown, runs in by_side.items():
            peer, _, strategy = shown.partition(" ")
            peer = next(p for p in (US, DYNET, TORCH) if run.SHOWN[p] == peer)
            if strategy in strategies or peer == TORCH:
                sides[peer, strategies.get(strategy, "auto")] = runs
        yield name, sides


def ratio_of_best(sides, peer):
    """Our best beside the peer's best, of batching on and off."""
    ours, theirs = (
        max(
            (runs for (p, _), runs in sides.items() if p == side),
            key=lambda runs: statistics.median(run.speeds(runs)),
            default=None,
        )
        for side in (US, peer)
    )
    return run.ratio(run.speeds(ours), run.speeds(theirs)) if ours and theirs else "-"


def readme_programs_table(results):
    """README.md: programs written for one example."""
    rows = [["task, examples in a graph", "dist_dynet / dyNET38", "dist_dynet / PyTorch"]]
    for name, sides in program_lines(results):
        ratios = [ratio_of_best(sides, peer) for peer in (DYNET, TORCH)]
        rows.append([about_program(name), *ratios])
    return run.markdown(rows)


def autobatching_table(results):
    """docs/autobatching.md."""
    rows = [
        [
            "task, examples",
            "off",
            "automatic",
            "automatic / off",
            "dist_dynet / dyNET38, each at its best",
            "dist_dynet / PyTorch by hand",
            "scheduling, ns per node",
        ]
    ]
    for name, sides in program_lines(results):
        off, auto = sides[US, "off"], sides[US, "auto"]
        counts = auto[-1].get("autobatch") or {"nodes": 0}
        rows.append(
            [
                about_program(name),
                run.median_speed(off),
                run.median_speed(auto),
                run.ratio(run.speeds(auto), run.speeds(off)),
                ratio_of_best(sides, DYNET),
                ratio_of_best(sides, TORCH),
                f"{1e9 * counts['schedule_seconds'] / counts['nodes']:.0f}"
                if counts["nodes"]
                else "-",
            ]
        )
    return run.markdown(rows)


def measure(folder, options):
    """Runs both programs; what they write is in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    for program, more in ((run, ["--peers", "all"]), (autobatch, [])):
        name = Path(program.__file__).stem
        command = [str(here / f"{name}.py"), *more, *options]
        subprocess.run(
            [sys.executable, *command, "--json", str(folder / f"{name}.json")], check=True
        )


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    if args.measure:
        options = ["--rounds", str(args.rounds), "--seconds", str(args.seconds)]
        measure(args.folder, options)
    tasks, programs = (
        json.loads((args.folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("run", "autobatch")
    )
    for title, table in (
        ("README.md", readme_table(tasks["tasks"])),
        ("README.md, programs written for one example", readme_programs_table(programs)),
        ("benchmarks/README.md", speed_tables(tasks["tasks"])),
        (
            "benchmarks/README.md, GFLOP/s and compiling",
            run.detail_table(tasks["tasks"], tasks["peaks"]),
        ),
        ("docs/autobatching.md", autobatching_table(programs)),
    ):
        print(f"## {title}\n\n{table}\n")


if __name__ == "__main__":
    main()
