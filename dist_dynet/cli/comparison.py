"""Compares two runs of a script, one with one rank, one with several: what differs that must be the
same, and possible reasons.

This module knows the mathematics of averaging, and nothing of how the runs were made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .trials import Run, Values

LIMITS = {"float32": 1e-3, "float64": 1e-6}
"""Relative differences of gradients and updates that rounding explains."""
_NEAR = 0.2
"""A ratio this close to N is taken for N."""


@dataclass
class Comparison:
    """The result: findings by topic, advice on faults, and notes on what is no fault."""

    findings: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    inputs_differ: bool = False
    """Data, loops or the set of parameters."""
    values_differ: bool = False
    """The results of training, although the inputs are the same."""
    certain: bool = False
    """Gradients are N times too large or too small, which neither rounding nor chance explains."""

    def report(self, topic: str, text: str) -> None:
        """Adds a finding on a topic."""
        self.findings.append((topic, text))

    def report_inputs(self, topic: str, text: str, advice: str) -> None:
        """Adds a finding that inputs differ, and what to do about it."""
        self.report(topic, text)
        self.inputs_differ = True
        self.faults.append(advice)


def compare(one: Run, many: Run) -> Comparison:
    """What differs between two complete runs."""
    found = Comparison()
    if len(one.trainers) != len(many.trainers):
        found.report_inputs(
            "trainers",
            f"{len(one.trainers)} with 1 rank, {len(many.trainers)} with {many.kind.ranks}",
            "All ranks, whatever their number, must make the same DistributedTrainers.",
        )
        return found
    for i, (a, b) in enumerate(zip(one.trainers, many.trainers, strict=True)):
        of = f" of trainer {i + 1}" if len(one.trainers) > 1 else ""
        if not a["updates"] and not b["updates"]:
            found.report(f"updates{of}", "none")
            continue
        if b["local"]:
            found.report(f"updates{of}", "averages of LocalSGD, which one process does not make")
            continue
        comparable = _compare_loops(found, of, a, b, many.kind.ranks)
        if _compare_parameters(found, of, a, b):
            _compare_values(found, of, (a, b), (one.values[i], many.values[i]), many, comparable)
    return found


def _compare_loops(
    found: Comparison, of: str, a: dict[str, Any], b: dict[str, Any], ranks: int
) -> bool:
    """Compares data and loops. Whether updates have the same examples, as far as is known."""
    if b["ranks"] != ranks:
        found.report(f"loops{of}", f"a group of {b['ranks']} of the {ranks} ranks: not compared")
        return False
    counts = len(a["steps"]), len(b["steps"])
    if not any((*a["steps"], *b["steps"])):
        text = "no shard(): whether an update has the same examples is not known"
        if counts[0] != counts[1]:
            text += f"; {counts[0]} updates with 1 rank, {counts[1]} with {ranks}"
        found.report(f"loops{of}", text)
        return False
    for update, (x, y) in enumerate(zip(a["steps"], b["steps"], strict=False), 1):
        if x != y:
            _report_step(found, of, update, x, y, ranks)
            return False
    if counts[0] != counts[1]:
        found.report_inputs(
            f"loops{of}",
            f"{counts[0]} updates with 1 rank, {counts[1]} with {ranks}",
            "Call update() in every step of the loop over shard(), on every rank: also if its batch"
            " is empty.",
        )
        return False
    first = a["steps"][0]
    batch_size = first["settings"]["batch_size"]
    found.report(f"data{of}", f"the same: {_data(first)}")
    found.report(f"loops{of}", f"the same: {counts[0]} updates, batches of {batch_size} examples")
    return True


def _report_step(found: Comparison, of: str, update: int, x: Any, y: Any, ranks: int) -> None:
    """Reports how the first step that differs does so."""
    if not x or not y:
        found.report_inputs(
            f"loops{of}",
            f"only with {'1 rank' if x else f'{ranks} ranks'} update {update} is of a batch of"
            " shard()",
            "Make the loop over shard() whatever the number of ranks.",
        )
        return
    if _data(x) != _data(y):
        found.report_inputs(
            f"data{of}",
            f"differ: {_data(x)} with 1 rank, {_data(y)} with {ranks}",
            "Each rank must read the same examples in the same order, whatever the number of"
            " ranks: shard() divides them. Sort what comes from sets and from lists of files,"
            " and seed Python's and NumPy's random numbers.",
        )
        return
    differing = _differences(x["settings"], y["settings"])
    if list(differing) == ["batch_size"]:
        p, q = differing["batch_size"]
        found.report(
            f"loops{of}", f"batches of {p} with 1 rank, of {q} with {ranks}: parameters then differ"
        )
        return
    differing = differing or _differences(x, y)
    one, many = (", ".join(f"{name} {pair[i]}" for name, pair in differing.items()) for i in (0, 1))
    found.report_inputs(
        f"loops{of}",
        f"differ in update {update}: {one} with 1 rank, {many} with {ranks}",
        "Make the same steps whatever the number of ranks: the loop, and the arguments of"
        " shard(), must not depend on rank() or world_size().",
    )


def _data(step: dict[str, Any]) -> str:
    return f"{step['examples']} examples (fingerprint {step['fingerprint']:x})"


def _differences(x: dict[str, Any], y: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The items that differ, by name."""
    return {name: (x[name], y[name]) for name in x if x[name] != y[name]}


def _compare_parameters(found: Comparison, of: str, a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether both have the same parameters."""
    names, others = a["parameters"], b["parameters"]
    if names == others:
        count = sum(math.prod(dims) for _, dims in names)
        found.report(f"parameters{of}", f"the same: {len(names)} with {count:,} elements")
        return True
    x, y = next(
        ((x, y) for x, y in zip(names, others, strict=False) if x != y),
        (names[len(others) :] or [None], others[len(names) :] or [None]),
    )
    found.report_inputs(
        f"parameters{of}",
        f"differ: {x} with 1 rank, {y} with {b['ranks']}",
        "The model must not depend on the number of ranks. Make vocabularies of all of the data,"
        " not of a rank's part.",
    )
    return False


def _compare_values(
    found: Comparison,
    of: str,
    said: tuple[dict[str, Any], dict[str, Any]],
    values: tuple[Values, Values],
    many: Run,
    comparable: bool,
) -> None:
    """Compares what the updates have made of the parameters."""
    (a, b), (x, y) = said, values
    if not all(map(np.array_equal, x.first, y.first)):
        found.report_inputs(
            f"values{of}",
            "differ before the first update",
            "Two runs of the script do not start from the same values, so that they cannot be"
            " compared. Seed whatever they are made from.",
        )
        return
    limit, n = LIMITS[many.dtype], many.kind.ranks
    distance, worst = _distance(x, y)
    ratio = b["norms"][0] / a["norms"][0] if a["norms"] and a["norms"][0] else 1.0
    exact = a["reproducible"] and b["reproducible"]
    name = a["parameters"][worst][0] if a["parameters"] else ""
    text = (
        f"gradient norms of the first update {a['norms'][0]:.6g} and {b['norms'][0]:.6g};"
        f" after {len(b['norms'])} updates parameters differ by {distance:.1e} of what these"
        " changed"
    )
    agree = distance == 0 if exact else distance <= limit and abs(ratio - 1) <= limit
    if agree:
        found.report(f"values{of}", f"agree: {text}")
        return
    text += f', most in "{name}"' if distance else ""
    if not comparable:
        found.report(f"values{of}", f"not comparable: {text}")
        return
    found.values_differ = True
    found.certain |= any(abs(r - 1) <= limit for r in (ratio * n, ratio / n))
    found.report(f"values{of}", f"differ: {text}")
    found.faults.append(_advice(ratio, n, b["average"], exact))


def _advice(ratio: float, n: int, average: str, exact: bool) -> str:
    if exact:
        return (
            "With reproducible=True the bits must be the same: something in the loop depends on"
            " rank() or world_size(), on other ranks' examples, or on how often a rank has drawn"
            " from random or numpy.random."
        )
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
    return (
        "N ranks do not compute what one does. If losses are means over something else than"
        " examples, such as words, give shard() weight=len, or write update(weight); where examples"
        " are left out, update(len(left)). What is computed over a whole batch, such as its"
        " statistics or negatives taken from it, or from gradients before update(), such as their"
        " norm, differs where the batch is divided. Nothing in the loop may depend on rank() or"
        " world_size()."
    )


def _distance(x: Values, y: Values) -> tuple[float, int]:
    """The distance between two runs' values, relative to how far updates have moved them, and the
    parameter with the largest share of it."""
    moved = sum(_squares(p, q) for p, q in zip(x.last, x.first, strict=False))
    each = [_squares(p, q) for p, q in zip(x.last, y.last, strict=True)]
    distance = math.sqrt(sum(each) / moved) if moved else math.inf if sum(each) else 0.0
    return distance, int(np.argmax(each)) if each else 0


def _squares(p: Any, q: Any) -> float:
    return float(np.sum(np.square(p.astype(np.float64) - q)))


def differ(one: Run, other: Run) -> bool:
    """Whether two runs with one rank have results that differ by more than rounding."""
    return len(one.values) != len(other.values) or any(
        len(x.last) != len(y.last)
        or any(p.shape != q.shape for p, q in zip(x.last, y.last, strict=True))
        or _distance(x, y)[0] > LIMITS["float32"]
        for x, y in zip(one.values, other.values, strict=True)
    )
