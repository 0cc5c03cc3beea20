"""`dist-dynet plot FILE`: draws the metrics in a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..meter import PHASES
from ..parallel.update.metrics import RESERVED
from ._messages import RefusedError, print_message

_INSTALL = "plot: needs matplotlib: pip install matplotlib"


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of the last run in the file, including its restarts. An incomplete last line is
    skipped.

    Raises:
        RefusedError: there are none.
    """
    lines = []
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and {"update", "seconds", "attempt"} <= line.keys():
                lines.append(line)
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"plot: {path} cannot be read: {error}") from None
    if not lines:
        raise RefusedError(
            f"plot: {path} has no metrics. `dist-dynet run --metrics {path.name}` writes them."
        )
    start = 0
    for i in range(1, len(lines)):
        is_new = lines[i]["run"] != lines[i - 1]["run"]
        if is_new and lines[i]["attempt"] <= lines[i - 1]["attempt"]:
            start = i
    return [line for line in lines[start:] if line["trainer"] == lines[start]["trainer"]]


def mean(seconds: Any) -> float:
    """The mean of a phase over the ranks. For many ranks the median stands in for it.

    >>> mean([1.0, 2.0]), mean({"median": 4.0})
    (1.5, 4.0)
    """
    if isinstance(seconds, dict):
        return float(seconds["median"])
    return float(sum(seconds)) / len(seconds)


def logged(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the numbers that the program has logged."""
    return sorted({name for line in lines for name in line} - {*RESERVED})


def draw(lines: Sequence[dict[str, Any]], out: Path) -> None:
    """Draws time by phase and update, waiting by rank, logged numbers, rate and gradient norm."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    named = logged(lines)
    timed = [line for line in lines if line["updates"]]
    updates = [line["update"] for line in timed]
    rows = 4 + len(named)
    figure, axes = plt.subplots(rows, 1, sharex=True, figsize=(9, 2.2 * rows))
    shown = [p for p in PHASES if any(mean(line["seconds"][p]) > 0 for line in timed)]
    times = [
        [1e3 * mean(line["seconds"][phase]) / line["updates"] for line in timed] for phase in shown
    ]
    axes[0].stackplot(updates, *times, labels=shown)
    axes[0].set_ylabel("ms an update")
    axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    waited = [line["seconds"]["agreement"] for line in timed]
    if waited and all(isinstance(of, list) and len(of) == len(waited[0]) for of in waited):
        ranks = enumerate(lines[0]["ranks"])
        curves = {f"rank {rank}": [of[k] for of in waited] for k, rank in ranks}
    else:
        curves = {"ranks": [mean(of) for of in waited]}
    for name, values in curves.items():
        share = [100 * w / line["wall"] for w, line in zip(values, timed, strict=True)]
        axes[1].plot(updates, share, label=name)
    axes[1].set_ylabel("waits, %")
    axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    for axis, name in zip(axes[2:], [*named, "learning_rate", "gradient_norm"], strict=True):
        points = [(line["update"], line[name]) for line in lines if line.get(name) is not None]
        axis.plot(*zip(*points, strict=True), "." if len(points) < 2 else "-") if points else None
        axis.set_ylabel(name)
    axes[-1].set_xlabel("updates")
    figure.savefig(out, dpi=100, bbox_inches="tight")
    plt.close(figure)


def plot(arguments: list[str]) -> int:
    """Runs `dist-dynet plot ARGUMENTS`; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="dist-dynet plot", description="Draws the metrics of the last run in a file."
    )
    parser.add_argument("file", type=Path, help="what --metrics or DIST_DYNET_METRICS had named")
    parser.add_argument("--out", type=Path, metavar="PNG", help="default: FILE with .png")
    given = parser.parse_args(arguments)
    out = given.out or given.file.with_suffix(".png")
    try:
        draw(read(given.file), out)
    except RefusedError as refusal:
        print_message(str(refusal))
        return 2
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print_message(_INSTALL)
        return 2
    except (OSError, ValueError) as error:
        print_message(f"plot: {out} cannot be written: {error}")
        return 1
    print(out)
    return 0
