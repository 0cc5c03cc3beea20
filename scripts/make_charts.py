#!/usr/bin/env python3
"""Draws the charts of docs/speed.md from the figures in docs/figures, which the benchmarks wrote.

    python benchmarks/run.py tagger --json docs/figures/run-tagger.json          # new figures
    python benchmarks/autobatch.py batch_tagger --json docs/figures/autobatch-batch_tagger.json
    python benchmarks/scaling.py --json docs/figures/scaling.json
    python scripts/make_charts.py                                                # the charts

How long: two seconds. What to expect: the names of the files. Each chart has in its description
what it shows; tests/test_site.py fails when that is not what the figures say.
"""

import argparse
import json
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.figure import Figure

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
PEERS = {
    "dist_dynet": "dist_dynet",
    "dynet": "dyNET38",
    "torch": "PyTorch",
    "torch_compile": "PyTorch, compiled",
    "jax": "JAX",
}
TASKS = {
    "tagger": "tagger,\na sentence a step",
    "tagger_32": "tagger,\nbatches of 32",
    "rnnlm": "language model,\na sentence a step",
    "rnnlm_16": "language model,\nbatches of 16",
    "rnnlm_64": "language model,\nbatches of 64",
    "mlp_64": "perceptron,\nbatches of 64",
    "attention_16": "attention,\nbatches of 16",
    "tagger 32": "tagger,\n32 sentences",
    "attention 16": "attention,\n16 pairs",
    "treelstm 32": "TreeLSTM,\n32 trees",
}


def read(pattern):
    """The contents of the figures of this name, in order."""
    return [json.loads(p.read_text(encoding="utf-8")) for p in sorted(FIGURES.glob(pattern))]


def speeds():
    """{task: {peer: units per CPU second, as a multiple of dist_dynet}}, by hand-made batches."""
    found = {}
    for file in read("run-*.json"):
        for task, by_peer in file["tasks"].items():
            rates = {
                peer: median(r["per_cpu_second"] for r in results)
                for peer, results in by_peer.items()
                if peer in PEERS
            }
            found[task] = {peer: rate / rates["dist_dynet"] for peer, rate in rates.items()}
    return {task: found[task] for task in TASKS if task in found}


def batched():
    """The same of programs that are batched on the fly; of each peer its fastest way."""
    found = {}
    for file in read("autobatch-*.json"):
        for task, by_side in file.items():
            rates = {}
            for results in by_side.values():
                peer = results[0]["peer"]
                rate = median(r["per_cpu_second"] for r in results)
                rates[peer] = max(rate, rates.get(peer, 0))
            name = task.removeprefix("batch_")
            found[name] = {peer: rate / rates["dist_dynet"] for peer, rate in rates.items()}
    return found


def bars(name, by_task):
    """A group of bars for each task."""
    figure = Figure(figsize=(8, 1.1 + 0.75 * len(by_task)), layout="constrained")
    axes = figure.subplots()
    peers = [peer for peer in PEERS if any(peer in rates for rates in by_task.values())]
    height = 0.8 / len(peers)
    for k, peer in enumerate(peers):
        places = [t + k * height for t, rates in enumerate(by_task.values()) if peer in rates]
        values = [rates[peer] for rates in by_task.values() if peer in rates]
        drawn = axes.barh(places, values, height, label=PEERS[peer])
        axes.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(
        [t + 0.4 - height / 2 for t in range(len(by_task))], [TASKS.get(t, t) for t in by_task]
    )
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="units per CPU second; dist_dynet = 1; longer is faster")
    figure.legend(frameon=False, loc="outside upper center", ncols=len(peers))
    save(figure, name, by_task)


def lines(name, by_task):
    """Efficiency by number of ranks, a panel for each task."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, (task, by_link) in zip(
        figure.subplots(1, len(by_task), sharey=True, squeeze=False)[0],
        by_task.items(),
        strict=True,
    ):
        for link, by_ranks in by_link.items():
            axes.plot([int(n) for n in by_ranks], list(by_ranks.values()), "o-", ms=3, label=link)
        axes.set_xscale("log", base=2)
        axes.set_xticks([2, 16, 128, 1024], ["2", "16", "128", "1024"])
        title = TASKS[task].partition(",")[0]
        axes.set(title=title, xlabel="ranks", ylim=(0, 1.05))
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("efficiency, predicted")
    figure.axes[0].legend(frameon=False)
    save(figure, name, by_task)


def description(shown):
    """What a chart shows, as the text that it carries."""
    return json.dumps(shown, sort_keys=True)


def save(figure, name, shown):
    """Writes a chart."""
    settings = {"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(settings):
        metadata = {"Date": None, "Description": description(shown)}
        figure.savefig(FIGURES / name, metadata=metadata, facecolor="white")


def efficiencies():
    """{task: {link: {ranks: efficiency}}}, as benchmarks/scaling.py predicts it."""
    return read("scaling.json")[0]["efficiency"]


CHARTS = {
    "speed.svg": (speeds, bars),
    "autobatch.svg": (batched, bars),
    "scaling.svg": (efficiencies, lines),
}
"""File -> what gives the numbers that it shows, and what draws them."""

if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for file, (numbers, draw) in CHARTS.items():
        draw(file, numbers())
        print(FIGURES / file)
