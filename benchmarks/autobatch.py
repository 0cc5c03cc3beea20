"""On-the-fly batching: programs written for one example, unbatched and batched, beside dyNET38's,
and PyTorch's batched by hand.

    export DIST_DYNET_BENCH_DYNET=~/peers/dynet/bin/python
    DIST_DYNET_BENCH_TORCH=~/peers/torch/bin/python
    python benchmarks/autobatch.py                                    # all, 3 rounds of 2 CPU
    seconds: 20 minutes
    python benchmarks/autobatch.py batch_treelstm --batch 1 --rounds 5
    python benchmarks/autobatch.py --strategies off depth agenda auto

Runs take turns as in run.py. `auto / off`: how the automatic choice compares with the same program
unbatched; `us / dyNET38`: our best beside its best of batching on and off; `us / PyTorch`: beside
PyTorch's. `memory`: peak of the process, batched / unbatched. `schedule`: ns per node of the last
graph; `batches`: how many calls computed its nodes, and how many inputs had to be copied to lie
side by side, and had not. All sides start from the same numbers: the loss before the first update
must agree, else the exit status is 1.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import run
from run import DYNET, SHOWN, TORCH, US

TASKS = {
    "batch_tagger": (32, 1),
    "batch_rnnlm": (16, 1),
    "batch_treelstm": (32, 1),
    "batch_treelstm --style=cells": (32, 1),
    "batch_treelstm --style=traced": (32, 1),
    "batch_lattice": (32, 1),
    "batch_attention": (16, 1),
    "batch_characters": (32, 1),
    "parser_bilstm": (1, 16),
    "parser_stack": (1, 16),
}
"""Tasks, with an option where there is one, and the numbers of examples in a graph."""
WITHOUT_TWIN = ("batch_lattice",)
"""Tasks that PyTorch has no program for."""


def sides(pythons, strategies):
    """The runs of a round: (name, peer, strategy)."""
    ours = [(f"{SHOWN[US]} {s}", US, s) for s in strategies]
    theirs = [
        (f"{SHOWN[DYNET]} {'on' if s == 'auto' else s}", DYNET, s)
        for s in ("off", "auto")
        if DYNET in pythons
    ]
    return ours + theirs + [(SHOWN[TORCH], TORCH, "auto") for _ in range(TORCH in pythons)]


def median(results, key="per_cpu_second"):
    return statistics.median(r[key] for r in results)


def best(by_side, peer):
    """The side of a peer that is fastest."""
    return max(
        (side for side in by_side if side[1] == peer),
        key=lambda side: median(by_side[side]),
        default=None,
    )


def unlike(by_side):
    """run.unlike() of the sides."""
    return run.unlike(
        {
            side[0]: (results[0]["first_loss"], run.PEERS[side[1]].precision)
            for side, results in by_side.items()
        }
    )


def cells(name, by_side, all_sides):
    """A line of the table."""
    line = [
        name,
        *(run.count(median(by_side[side])) if side in by_side else "-" for side in all_sides),
    ]
    named = {(side[1], side[2]): results for side, results in by_side.items()}
    off, auto = named.get((US, "off")), named.get((US, "auto"))
    line.append(run.ratio(run.speeds(auto), run.speeds(off)) if off and auto else "-")
    ours, theirs = best(by_side, US), best(by_side, DYNET)
    line.append(
        run.ratio(run.speeds(by_side[ours]), run.speeds(by_side[theirs]))
        if ours and theirs
        else "-"
    )
    theirs = best(by_side, TORCH)
    line.append(
        run.ratio(run.speeds(by_side[ours]), run.speeds(by_side[theirs]))
        if ours and theirs
        else "-"
    )
    line.append(
        f"{median(auto, 'peak_mib') / median(off, 'peak_mib'):.2f}" if off and auto else "-"
    )
    counts = auto[-1].get("autobatch") if auto else None
    if counts and counts["nodes"]:
        line.append(f"{1e9 * counts['schedule_seconds'] / counts['nodes']:.0f}")
        line.append(
            f"{counts['batches']} of {counts['nodes']}; {counts['gathers_copied']},"
            f" {counts['gathers_avoided']}"
        )
    else:
        line += ["-", "-"]
    return line


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; default: all"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds measured per run")
    parser.add_argument(
        "--batch", type=int, help="examples in a graph, in place of the usual numbers"
    )
    parser.add_argument(
        "--strategies",
        nargs="+",
        default=["off", "auto"],
        choices=["off", "depth", "agenda", "auto"],
        help="ours",
    )
    run.add_interpreters(parser)
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    args = parser.parse_args()
    unknown = set(args.names) - TASKS.keys()
    if unknown:
        parser.error(f"unknown task {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    pythons = run.interpreters(args, [US, DYNET, TORCH])
    all_sides = sides(pythons, args.strategies)
    rest = [
        "auto / off",
        "us / dyNET38",
        "us / PyTorch",
        "memory",
        "schedule",
        "batches; copied, avoided",
    ]
    rows = [["task, examples", *(side[0] for side in all_sides), *rest]]
    everything, disagree = {}, False
    for task in args.names or TASKS:
        for batch in [args.batch] if args.batch else TASKS[task]:
            program, *option = task.split()
            by_side = {
                side: [] for side in all_sides if side[1] != TORCH or program not in WITHOUT_TWIN
            }
            options = ["--batch", str(batch), *option]
            programs = {
                side: run.program_of(
                    pythons[side[1]], program, side[1], ("--strategy", side[2], *options)
                )
                for side in by_side
            }
            for _ in range(args.rounds):
                for side, result in run.take_turns(programs, args.seconds).items():
                    if isinstance(result, Exception):
                        raise result
                    by_side[side].append(result)
            unit = by_side[all_sides[0]][0]["unit"]
            rows.append(cells(f"{task} {batch}, {unit}/s", by_side, all_sides))
            everything[f"{task} {batch}"] = {side[0]: results for side, results in by_side.items()}
            print("; ".join(rows[-1]), file=sys.stderr, flush=True)
            for fault in unlike(by_side):
                disagree = True
                print(f"{task} {batch}: another first loss: {fault}", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    print(run.markdown(rows))
    return 1 if disagree else 0


if __name__ == "__main__":
    sys.exit(main())
