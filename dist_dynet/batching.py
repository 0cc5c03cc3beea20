"""On-the-fly batching: its strategies by number, and its statistics of this thread's graph. Below
graph.py, so it knows no expression."""

from __future__ import annotations

from typing import Any, NamedTuple

from ._ffi import calls, fail_in, ffi, lib
from ._integers import integer

__all__ = ["AutobatchStats", "autobatch_stats"]

AUTO: int = lib.DN_AUTOBATCH_AUTO


def strategy(value: Any, what: str) -> int:
    """The number of a strategy given as True (the automatic choice), False, 0 to 3, or the text of
    one of these.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, str):
        text = value.strip().lower()
        number = int(text) if text.isdecimal() and len(text) < 10 else text
        value = {"true": True, "false": False}.get(text, number)
    if value is True:
        return AUTO
    try:
        number = integer(value)
    except TypeError:
        number = -1
    if not 0 <= number <= AUTO:
        raise ValueError(
            f"{what}: takes 0 (off), 1 (by depth), 2 (by agenda), 3 (automatic choice), True or"
            f" False; got {value!r:.60}."
        )
    return number


class AutobatchStats(NamedTuple):
    """What autobatch_stats() returns."""

    nodes: int
    """nodes computed since the graph began"""
    batches: int
    """calls that computed them: each group of similar nodes, and each node by itself, is one"""
    gathers_copied: int
    """inputs of groups that had to be copied to be adjacent in memory"""
    gathers_avoided: int
    """inputs of groups that were adjacent already, or had been copied for another group"""
    schedule_seconds: float
    """time spent finding groups"""
    execution_seconds: float
    """time spent computing values, without backward"""
    least_batches: int
    """a lower bound on `batches` for any order, computed when it is requested"""


def autobatch_stats() -> AutobatchStats:
    """What on-the-fly batching has done in the current graph of this thread; zeros if it is off.

    >>> import dist_dynet as dy
    >>> W = dy.ParameterCollection().add_parameters((3, 3))
    >>> _ = dy.renew_cg(autobatching=2)
    >>> ys = [dy.tanh(W * dy.inputVector([i, 1, 2])) for i in range(5)]
    >>> dy.forward(ys)
    >>> stats = dy.autobatch_stats()
    >>> stats.nodes, stats.batches  # W, five inputs; one product and one tanh for all
    (16, 8)
    """
    graph = calls.current()
    counts = ffi.new("dn_autobatch_counts *")
    if graph >= 0:
        lib.dn_graph_autobatch_counts(graph, counts)
    least = lib.dn_graph_least_batches(graph) if graph >= 0 else 0
    if least < 0:
        fail_in(graph, least)
    return AutobatchStats(
        counts.nodes,
        counts.batches,
        counts.copied,
        counts.avoided,
        counts.schedule,
        counts.execution,
        least,
    )
