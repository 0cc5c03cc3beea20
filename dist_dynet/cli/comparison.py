"""Compares two runs of a script, one with one rank, one with several: what differs that must be the
same, and where the time goes.

This module knows the mathematics of averaging, and nothing of how the runs were made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIMITS = {"float32": 1e-3, "float64": 1e-6}
"""Relative differences of gradients and updates that rounding explains."""
_NEAR = 0.2
"""A ratio this close to N is taken for N."""

_STEPS = (
    "Make the same steps whatever the number of ranks: call update() in every step of the loop"
    " over shard(), also if a batch is empty. Neither the loop nor the arguments of shard() may"
    " depend on rank() or world_size()."
)
_DATA = (
    "Each rank must read the same examples in the same order, whatever the number of ranks:"
    " shard() divides them. Sort what comes from sets and from lists of files, and seed Python's"
    " and NumPy's random numbers."
)
_MODEL = (
    "The model and its first values must not depend on the number of ranks. Make vocabularies of"
    " all of the data, and seed what values are made from."
)
_BITS = (
    "With reproducible=True the bits must be the same: something in the loop depends on rank() or"
    " world_size(), on other ranks' examples, or on random or numpy.random."
)
_OTHERWISE = (
    "N ranks do not compute what one does. If losses are means over something else than examples,"
    " such as words, give shard() weight=len, or write update(weight). What is computed over a"
    " whole batch, such as its statistics, or from gradients before update(), such as their norm,"
    " differs where the batch is divided. Nothing in the loop may depend on rank() or"
    " world_size()."
)


@dataclass(frozen=True)
class Run:
    """A run: the number of ranks, its exit status, the record of each rank, and by trainer the
    values of the parameters: first-0, ..., last-0, ..."""

    ranks: int
    status: int
    records: dict[int, dict[str, Any]]
    values: list[dict[str, NDArray[Any]]]

    @property
    def complete(self) -> bool:
        """Whether all ranks have reached the last update, or the end of the program."""
        return len(self.records) == self.ranks and (
            self.status == 0 or all(r["ended"] == "stopped" for r in self.records.values())
        )

    @property
    def trainers(self) -> list[dict[str, Any]]:
        """The records of rank 0, one for each trainer."""
        return self.records[0]["trainers"] if self.records else []


@dataclass
class Comparison:
    """The result: findings by topic, advice on faults, and notes on what is no fault."""

    findings: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    in_values: bool = False
    """Whether a fault is in the results of training, although the inputs are the same."""
    divided: bool = True
    """Whether N ranks have divided the batches of one."""

    def add(self, topic: str, text: str, fault: str = "") -> None:
        """Adds a finding, and advice if it is a fault."""
        self.findings.append((topic, text))
        self.faults += [fault] if fault else []


def compare(one: Run, many: Run) -> Comparison:
    """What differs between two complete runs."""
    found = Comparison()
    if len(one.trainers) != len(many.trainers):
        counts = f"{len(one.trainers)} with 1 rank, {len(many.trainers)} with {many.ranks}"
        found.add("trainers", counts, _MODEL)
        return found
    for i, (a, b) in enumerate(zip(one.trainers, many.trainers, strict=True)):
        if b["local"] or b["ranks"] != many.ranks or not (a["updates"] or b["updates"]):
            found.add("updates", "none, or averages of LocalSGD or of a group: not compared")
            continue
        comparable = _compare_loops(found, a["steps"], b["steps"], many.ranks)
        if a["parameters"] != b["parameters"]:
            pairs = zip_longest(a["parameters"], b["parameters"])
            x, y = next((x, y) for x, y in pairs if x != y)
            found.add("parameters", f"differ: {x} with 1 rank, {y} with {many.ranks}", _MODEL)
            continue
        size = sum(math.prod(dims) for _, dims in a["parameters"])
        found.add("parameters", f"the same: {len(a['parameters'])} with {size:,} elements")
        _compare_values(found, a, b, one.values[i], many.values[i], many, comparable)
    return found


def _compare_loops(found: Comparison, one: list[Any], many: list[Any], ranks: int) -> bool:
    """Compares data and loops. Returns whether updates have the same examples, as far as is
    known."""
    if not any((*one, *many)):
        found.add("loops", "no shard(): whether an update has the same examples is not known")
        return False
    none: dict[str, Any] = {}
    for update, (x, y) in enumerate(zip_longest(one, many, fillvalue=none), 1):
        names = [name for name in {**x, **y} if x.get(name) != y.get(name)]
        if not names:
            continue
        of_data = x and y and {"examples", "fingerprint"} & {*names}
        if x and y and "batch_size" in names and not of_data:
            names = ["batch_size"]  # others follow from it
        a, b = (", ".join(f"{name} {s.get(name)}" for name in names[:4]) for s in (x, y))
        if names == ["batch_size"]:
            found.divided = False
            found.add("loops", f"{a} with 1 rank, {b} with {ranks}: parameters then differ")
            return False
        text = f"differ in update {update}: {a} with 1 rank, {b} with {ranks}"
        found.add(*(("data", text, _DATA) if of_data else ("loops", text, _STEPS)))
        return False
    size, examples = one[0].get("batch_size"), one[0].get("examples")
    found.add("loops", f"the same: {len(one)} updates, batches of {size} of {examples} examples")
    return True


def _compare_values(
    found: Comparison,
    a: dict[str, Any],
    b: dict[str, Any],
    x: dict[str, NDArray[Any]],
    y: dict[str, NDArray[Any]],
    many: Run,
    comparable: bool,
) -> None:
    """Compares what the updates have made of the parameters."""
    if not all(np.array_equal(x[name], y[name]) for name in x if name.startswith("first")):
        found.add("values", "differ before the first update", _MODEL)
        return
    limit, n = LIMITS[many.records[0]["dtype"]], many.ranks
    distance, worst = distance_of(x, y)
    norms = a["norms"][0], b["norms"][0]
    ratio = norms[1] / norms[0] if norms[0] and norms[1] else 1.0
    exact = a["reproducible"] and b["reproducible"]
    text = (
        f"after {len(b['norms'])} updates parameters differ by {distance:.1e} of what these changed"
        + (f', most in "{a["parameters"][worst][0]}"' if distance else "")
        + f"; the first gradients' norms are {norms[0]} and {norms[1]}"
    )
    if distance == 0 if exact else distance <= limit and abs(ratio - 1) <= limit:
        found.add("values", f"agree: {text}")
    elif not comparable:
        found.add("values", f"not comparable: {text}")
    else:
        found.in_values = True
        found.add("values", f"differ: {text}", _advice(ratio, n, b["average"], exact))


def _advice(ratio: float, n: int, average: str, exact: bool) -> str:
    if exact:
        return _BITS
    if average != "sum" and abs(ratio * n - 1) < _NEAR:
        return (
            f"With {n} ranks gradients are 1/{n} of what they should be: losses seem to be sums"
            ' over the batch. Use dy.average(...), or DistributedTrainer(..., average="sum").'
        )
    if average == "sum" and abs(ratio / n - 1) < _NEAR:
        return (
            f"With {n} ranks gradients are {n} times what they should be: losses seem to be means"
            ' over the batch. Use dy.esum(...), or DistributedTrainer(..., average="mean").'
        )
    return _OTHERWISE


def distance_of(x: dict[str, NDArray[Any]], y: dict[str, NDArray[Any]]) -> tuple[float, int]:
    """The distance between two runs' last values, relative to how far updates have moved them, and
    the parameter with the largest share of it."""
    count = sum(name.startswith("last") for name in x)
    moved = sum(_squares(x[f"last-{i}"], x.get(f"first-{i}", 0.0)) for i in range(count))
    each = [_squares(x[f"last-{i}"], y[f"last-{i}"]) for i in range(count)]
    distance = math.sqrt(sum(each) / moved) if moved else math.inf if sum(each) else 0.0
    return distance, int(np.argmax(each)) if each else 0


def _squares(p: NDArray[Any], q: Any) -> float:
    return float(np.sum(np.square(p.astype(np.float64) - q)))


# ---- where the time goes ---------------------------------------------------------------

PARTS = ("computing", "waiting", "exchange", "update")


def pace_of(run: Run) -> NDArray[np.float64] | None:
    """Median seconds of each part of an update, a row for each rank; None if none was timed.

    The rank that comes last waits for no other: the excess of the others' agreement times is
    waiting, the rest belongs to the exchange.
    """
    times = [record["trainers"][0]["times"] for _, record in sorted(run.records.items())]
    updates = min(map(len, times), default=0)
    if not updates:
        return None
    each = {
        phase: np.array([[t[phase] for t in of_rank[:updates]] for of_rank in times])
        for phase in times[0][0]
    }
    agreed = each["agreement"].min(axis=0)
    exchange = each["exchange"] + each["rows"] + agreed
    parts = [each["compute"], each["agreement"] - agreed, exchange, each["update"]]
    pace: NDArray[np.float64] = np.median(np.stack(parts, axis=-1), axis=1)
    return pace


def pace_lines(one: NDArray[np.float64], many: NDArray[np.float64], divided: bool) -> list[str]:
    """The times in ms, and how fast N ranks are. divided: they share the batch of one."""
    n, table = len(many), [*one, *many]
    names = ["1 rank", *(f"rank {i}" for i in range(n))]
    lines = [f"{'ms':<10}" + "".join(f" {name:>9}" for name in names)]
    for i, part in enumerate(PARTS):
        lines.append(f"{part:<10}" + "".join(f" {1000 * row[i]:9.3f}" for row in table))
    speed = float(one.mean(axis=0).sum() / many.mean(axis=0).sum()) * (1 if divided else n)
    return [*lines, f"{n} ranks are {speed:.2f} times as fast as 1: efficiency {speed / n:.2f}"]
