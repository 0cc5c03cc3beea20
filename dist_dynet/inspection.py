"""Looking at a graph: its nodes as text, as DOT for Graphviz, as pictures. This module only reads,
and knows nodes by name, dims and inputs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any, TextIO

import numpy as np

from ._ffi import OPS, fail, ffi, lib
from ._file_names import file_path
from ._kept import kept
from .expression import Expression
from .graph import ComputationGraph, cg, graph_of
from .io.files import OneProcess, atomic_write
from .params.root import name_of

__all__ = ["draw_graph", "dump_cg", "print_graphviz", "print_text_graphviz"]

NAMES = {number: name for name, number in OPS.items()}
MOST_NUMBERS = 6
"""How many indices of a node are shown."""


@dataclass(frozen=True)
class Node:
    """The properties of a node. `inputs` are indices; `detail` is the name of its parameter or
    function, and indices."""

    index: int
    op: str
    dims: tuple[int, ...]
    batch: int
    inputs: tuple[int, ...]
    detail: str

    def shape(self) -> str:
        """The dims as errors write them: (2, 3), or (2, 3) x 4 with a batch."""
        return f"{self.dims}" if self.batch == 1 else f"{self.dims} x {self.batch}"

    def formula(self, names: dict[int, str] | None = None) -> str:
        """Such as v2 = matmul(v0, v1)."""
        called = [(names or {}).get(i, f"v{i}") for i in (self.index, *self.inputs)]
        arguments = ", ".join([*called[1:], *([self.detail] if self.detail else [])])
        return f"{called[0]} = {self.op}({arguments})"


def _integers(handle: int) -> list[int]:
    out = ffi.new("int[]", MOST_NUMBERS + 1)
    n = lib.dn_node_ints(handle, MOST_NUMBERS + 1, out)
    if n < 0:
        fail(n, handle)
    return list(out[0 : min(n, MOST_NUMBERS + 1)])


def _written(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:MOST_NUMBERS]))
    return f"[{shown}, ...]" if len(numbers) > MOST_NUMBERS else f"[{shown}]"


def _detail(handle: int, op: str) -> str:
    parameter = lib.dn_node_param(handle)
    if parameter < 0:
        fail(parameter, handle)
    if op == "function":
        return str(kept(_integers(handle)[0]).name)
    if parameter:
        name = name_of(parameter)
        return name if op == "parameter" else f"{name}{_written(_integers(handle))}"
    numbers = (
        []
        if op in ("input", "fill", "reshape", "output_view", "traced") or op.startswith("random_")
        else _integers(handle)
    )
    return _written(numbers) if numbers else ""


def node(e: Expression) -> Node:
    """The properties of the node of an expression."""
    h, (dims, batch) = e._node(), e.dim()
    code = lib.dn_node_op(h)
    if code < 0:
        fail(code, h)
    inputs: list[int] = []
    while (x := lib.dn_node_input(h, len(inputs))) >= 0:
        inputs.append(lib.dn_node_index(x))
    return Node(e.index(), NAMES[code], dims, batch, tuple(inputs), _detail(h, NAMES[code]))


def nodes(graph: ComputationGraph | None = None) -> Iterator[Node]:
    """All nodes of a graph, in the order in which they were made."""
    graph = graph or cg()
    return (node(graph.expression(i)) for i in range(len(graph)))


# ---- DOT -------------------------------------------------------------------------------

_SHAPES = {
    "parameter": "box",
    "lookup": "box",
    "lookup_batch": "box",
    "input": "ellipse",
    "fill": "ellipse",
}


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def needed(e: Expression, most: int = sys.maxsize) -> set[int]:
    """The indices of all nodes that an expression is computed from; the search stops after more
    than `most`."""
    found: set[int] = set()
    graph, waiting = graph_of(e._node()), [e.index()]
    while waiting and len(found) <= most:
        i = waiting.pop()
        if i not in found:
            found.add(i)
            waiting.extend(node(graph.expression(i)).inputs)
    return found


def dot(
    e: Expression | None = None,
    *,
    graph: ComputationGraph | None = None,
    show_dims: bool = True,
    expression_names: dict[Expression, str] | None = None,
    what: str = "print_graphviz",
) -> str:
    """The graph in the DOT language; with an expression, only the nodes it is computed from. `what`
    is the function that errors name.

    Raises:
        TypeError: expr is not an expression, or expression_names no dict of names.
    """
    if not isinstance(e, Expression | None):
        raise TypeError(f"{what}: expr must be an expression; got {type(e).__name__}.")
    if not isinstance(expression_names, dict | None):
        raise TypeError(
            f"{what}: expression_names must be a dict of expressions and names; got"
            f" {type(expression_names).__name__}."
        )
    graph = graph_of(e._node()) if e is not None else graph or cg()
    only = range(len(graph)) if e is None else sorted(needed(e))
    names = {
        x.index(): str(name)
        for x, name in (expression_names or {}).items()
        if isinstance(x, Expression)
    }
    lines = ["digraph G {", "  rankdir=LR;", "  nodesep=.05;"]
    for n in (node(graph.expression(i)) for i in only):
        label = n.formula(names) + (f"\n{n.shape()}" if show_dims else "")
        lines.append(
            f"  N{n.index} [label={_quoted(label)}, shape={_SHAPES.get(n.op, 'plaintext')}];"
        )
        lines.extend(f"  N{i} -> N{n.index};" for i in n.inputs)
    return "\n".join([*lines, "}"]) + "\n"


def print_text_graphviz() -> None:
    """Prints the graph in the DOT language on stderr.

    >>> import contextlib, io
    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> y, text = dy.square(dy.scalarInput(3)), io.StringIO()
    >>> with contextlib.redirect_stderr(text):
    ...     dy.print_text_graphviz()
    >>> text.getvalue().splitlines()[-2].strip()
    'N0 -> N1;'
    """
    print(dot(), end="", file=sys.stderr)


def print_graphviz(
    compact: bool = False,
    show_dims: bool = True,
    expression_names: dict[Expression, str] | None = None,
    lookup_names: dict[Any, str] | None = None,
    collapse_birnns: bool = False,
) -> None:
    """As print_text_graphviz(), optionally with the dims of nodes and names of expressions.
    draw_graph() writes it to a file.

    compact, lookup_names and collapse_birnns are accepted for compatibility with DyNet and have no
    effect: parameters and tables are shown by name.

    Raises:
        TypeError: expression_names is not a dict.

    >>> import contextlib, io
    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> y, text = dy.square(dy.scalarInput(3)), io.StringIO()
    >>> with contextlib.redirect_stderr(text):
    ...     dy.print_graphviz(show_dims=False, expression_names={y: "loss"})
    >>> text.getvalue().splitlines()[-3].strip()
    'N1 [label="loss = square(v0)", shape=plaintext];'
    """
    print(dot(show_dims=show_dims, expression_names=expression_names), end="", file=sys.stderr)


def draw_graph(
    filename: str | PathLike[str],
    expr: Expression | None = None,
    *,
    show_dims: bool = True,
    expression_names: dict[Expression, str] | None = None,
) -> None:
    r"""Writes the current graph to a file: .dot or .gv as text in the DOT language, .svg, .png,
    .pdf as a picture drawn by Graphviz.

    Args:
        filename: its suffix tells the form.
        expr: only what this expression is computed from.
        show_dims: write the dims into each node.
        expression_names: names to write instead of v0, v1, ...

    Raises:
        ValueError: the suffix is none of these.
        RuntimeError: a picture is asked for, and Graphviz's program `dot` is not installed or
            fails.

    >>> import dist_dynet as dy, pathlib, tempfile
    >>> _ = dy.renew_cg()
    >>> y = dy.tanh(dy.inputVector([1, 2]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "graph.dot")
    ...     dy.draw_graph(path)
    ...     print(path.read_text(), end="")
    digraph G {
      rankdir=LR;
      nodesep=.05;
      N0 [label="v0 = input()\n(2,)", shape=ellipse];
      N1 [label="v1 = tanh(v0)\n(2,)", shape=plaintext];
      N0 -> N1;
    }
    """
    path = file_path(filename, "draw_graph")
    form = path.suffix.removeprefix(".")
    text = dot(expr, show_dims=show_dims, expression_names=expression_names, what="draw_graph")
    if form in ("dot", "gv"):
        _write_file(path, text.encode())
        return
    if form not in ("svg", "png", "pdf"):
        raise ValueError(
            "draw_graph: the file name must end in .dot, .gv, .svg, .png or .pdf; got"
            f" {path.name!r}."
        )
    import shutil  # here, as few programs run `dot`
    import subprocess

    program = shutil.which("dot")
    if program is None:
        raise RuntimeError(
            f"draw_graph: a .{form} file needs Graphviz's program `dot`, which is not installed."
            " Write a .dot file instead."
        )
    drawn = subprocess.run(
        [program, f"-T{form}"], input=text.encode(), capture_output=True, check=False
    )
    if drawn.returncode:
        raise RuntimeError(
            f"draw_graph: dot failed: {drawn.stderr.decode(errors='replace').strip()}"
        )
    _write_file(path, drawn.stdout)


def _write_file(path: str | PathLike[str], content: bytes) -> None:
    """Writes a file as a whole or not at all, on each rank that calls it."""
    with atomic_write(path, policy=OneProcess(), what="draw_graph") as file:
        file.write(content)


# ---- values and gradients --------------------------------------------------------------


def _matrices(array: np.ndarray[Any, Any], batch: int) -> Iterator[str]:
    """An array as text: rows of numbers, one block for each batch element and each index of the
    dims after the second."""
    blocks = (
        array.reshape((*array.shape[:2], -1), order="F")
        if array.ndim > 2
        else array.reshape((array.shape[0], -1, 1), order="F")
    )
    blocks = (
        array.reshape((array.shape[0], 1, -1), order="F")
        if batch != 1 and array.ndim == 2
        else blocks
    )
    for k in range(blocks.shape[2]):
        if k:
            yield ""
        for row in blocks[:, :, k]:
            yield " ".join(f"{x:>12.6g}" for x in row)


def _bad_places(array: np.ndarray[Any, Any]) -> str:
    bad = np.argwhere(~np.isfinite(array))
    if not len(bad):
        return "finite"
    first = tuple(int(i) for i in bad[0])
    return f"{len(bad)} of {array.size} numbers are NaN or infinite, the first at {first}"


def _numbers(title: str, read: Any, batch: int, nan_check_only: bool) -> Iterator[str]:
    try:
        array = read()
    except Exception as error:  # nothing may keep a dump from going on
        yield f"{title}: none ({error})"
        return
    if nan_check_only:
        yield f"{title}: {_bad_places(array)}"
        return
    yield f"{title}:"
    yield from _matrices(array, batch)


def _dump(
    graph: ComputationGraph, show_values: bool, show_gradients: bool, nan_check_only: bool
) -> Iterator[str]:
    for i in range(len(graph)):
        e = graph.expression(i)
        n = node(e)
        yield f"Node {i}: {n.formula()}, {n.shape()}"
        if show_values:
            yield from _numbers("Value", e.npvalue, n.batch, nan_check_only)
        if show_gradients:
            yield from _numbers("Gradient", e.gradient, n.batch, nan_check_only)


def _write(lines: Iterable[str], out: TextIO) -> None:
    for line in lines:
        out.write(line + "\n")


def dump_cg(
    filename: str | PathLike[str] = "",
    show_values: bool = True,
    show_gradients: bool = True,
    nan_check_only: bool = False,
) -> None:
    """Writes all nodes of the current graph with their values and gradients to a file, or to
    stdout.

    Values are computed if necessary; gradients are those of the last backward().

    Args:
        filename: empty for stdout.
        show_values: write values.
        show_gradients: write gradients.
        nan_check_only: instead of the numbers, write where NaN or infinity is among them.

    Raises:
        RuntimeError: the file cannot be written; the one of before, if there was one, is whole.

    >>> import dist_dynet as dy
    >>> _ = dy.renew_cg()
    >>> y = dy.log(dy.inputVector([1, 0]))
    >>> dy.dump_cg(show_gradients=False, nan_check_only=True)
    Node 0: v0 = input(), (2,)
    Value: finite
    Node 1: v1 = log(v0), (2,)
    Value: 1 of 2 numbers are NaN or infinite, the first at (1,)
    """
    _dump_graph(cg(), filename, show_values, show_gradients, nan_check_only)


def _dump_graph(
    self: ComputationGraph,
    filename: str | PathLike[str] = "",
    show_values: bool = True,
    show_gradients: bool = True,
    nan_check_only: bool = False,
) -> None:
    """As dump_cg().

    >>> import dist_dynet as dy
    >>> graph = dy.renew_cg()
    >>> y = dy.square(dy.scalarInput(3))
    >>> graph.dump(show_values=False, show_gradients=False)
    Node 0: v0 = input(), (1,)
    Node 1: v1 = square(v0), (1,)
    """
    lines = _dump(self, show_values, show_gradients, nan_check_only)
    if filename == "":
        _write(lines, sys.stdout)
        return
    with atomic_write(filename, policy=OneProcess(), what="dump_cg") as file:
        for line in lines:
            file.write(f"{line}\n".encode())


def _print_graph(self: ComputationGraph) -> None:
    """As print_text_graphviz().

    >>> import contextlib, io
    >>> import dist_dynet as dy
    >>> graph, text = dy.renew_cg(), io.StringIO()
    >>> y = dy.square(dy.scalarInput(3))
    >>> with contextlib.redirect_stderr(text):
    ...     graph.print_graphviz()
    >>> text.getvalue().splitlines()[0]
    'digraph G {'
    """
    print(dot(graph=self), end="", file=sys.stderr)


_dump_graph.__qualname__ = "ComputationGraph.dump"
_print_graph.__qualname__ = "ComputationGraph.print_graphviz"
ComputationGraph.dump = _dump_graph  # type: ignore[method-assign]
ComputationGraph.print_graphviz = _print_graph  # type: ignore[method-assign]
