"""Small graphs as SVG for notebooks, without Graphviz, which draws files (inspection.py).

Each node stands in the row of its longest path from an input, near the middle of its inputs. Inputs
and parameters stand right above their first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .expression import Expression
from .graph import ComputationGraph, graph_of
from .inspection import Node, needed, node

MOST_NODES = 100
"""Larger graphs are not drawn: the notebook then shows the text of repr()."""
_CHARACTER, _HEIGHT, _GAP, _ROW = 6.6, 34, 12, 62
_COLOURS = {"parameter": "#dbe9f6", "lookup": "#dbe9f6", "lookup_batch": "#dbe9f6"}
_INPUT, _OTHER = "#e8f3e2", "#f7f7f7"


def _width(lines: Sequence[str]) -> float:
    return max(len(line) for line in lines) * _CHARACTER + 14


def _lines(n: Node) -> tuple[str, str]:
    return f"{n.op} {n.detail}"[:40].rstrip(), n.shape()


def svg(nodes: Sequence[Node]) -> str:
    """A picture of these nodes. Inputs that are not among them are left out."""
    depth: dict[int, int] = {}
    placed: set[int] = set()
    has_inputs = {n.index for n in nodes if n.inputs}
    for n in nodes:  # inputs come first
        depth[n.index] = 1 + max((depth[i] for i in n.inputs if i in depth), default=-1)
    for n in reversed(nodes):  # inputs of the graph: right above their first use
        for i in n.inputs:
            if i in depth and i not in has_inputs:
                above = depth[n.index] - 1
                depth[i] = min(depth[i], above) if i in placed else above
                placed.add(i)
    rows: list[list[Node]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for n in nodes:
        rows[depth[n.index]].append(n)
    middle: dict[int, float] = {}
    for row in rows:
        wish = {
            n.index: sum(middle[i] for i in n.inputs if i in middle) / max(len(n.inputs), 1)
            for n in row
        }
        end = 0.0
        for n in sorted(row, key=lambda n: (not n.inputs, wish[n.index], n.index)):
            width = _width(_lines(n))
            left = max(end + _GAP, wish[n.index] - width / 2)
            middle[n.index] = left + width / 2
            end = left + width
    boxes, arrows, right = [], [], 0.0
    for n in nodes:
        lines, x, y = _lines(n), middle[n.index], depth[n.index] * _ROW + _GAP
        width = _width(lines)
        right = max(right, x + width / 2 + _GAP)
        colour = _COLOURS.get(n.op, _OTHER if n.inputs else _INPUT)
        boxes.append(
            f'<rect x="{x - width / 2:.1f}" y="{y}" width="{width:.1f}" height="{_HEIGHT}" rx="5"'
            f' fill="{colour}" stroke="#666"/>'
            f'<text x="{x:.1f}" y="{y + 14}">{escape(lines[0])}</text>'
            f'<text x="{x:.1f}" y="{y + 28}" fill="#555">{escape(lines[1])}</text>'
        )
        for i in n.inputs:
            if i in depth:
                arrows.append(
                    f'<line x1="{middle[i]:.1f}" y1="{depth[i] * _ROW + _GAP + _HEIGHT}"'
                    f' x2="{x:.1f}" y2="{y}" stroke="#666" marker-end="url(#end)"/>'
                )
    height = len(rows) * _ROW + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{right:.0f}" height="{height}"'
        f' viewBox="0 0 {right:.0f} {height}" font-family="monospace" font-size="11"'
        ' text-anchor="middle"><defs><marker id="end" markerWidth="7" markerHeight="7" refX="6"'
        ' refY="3" orient="auto"><path d="M0,0 L6,3 L0,6 z" fill="#666"/></marker></defs>'
        f"{''.join(arrows)}{''.join(boxes)}</svg>"
    )


def of_graph(graph: ComputationGraph) -> str | None:
    """The picture of a whole graph; None if it is empty or too large."""
    if not 0 < len(graph) <= MOST_NODES:
        return None
    return svg([node(graph.expression(i)) for i in range(len(graph))])


def of_expression(e: Expression) -> str | None:
    """The picture of all nodes that an expression is computed from; None if there are too many, or
    it is stale."""
    try:
        graph = graph_of(e._node())
        indices = sorted(needed(e, MOST_NODES))
    except (RuntimeError, ValueError):
        return None
    if not 0 < len(indices) <= MOST_NODES:
        return None
    return svg([node(graph.expression(i)) for i in indices])
