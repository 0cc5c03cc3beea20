"""How an operation's Python function becomes a node.

Frequent operations are calls of csrc/python/makers.c, which take expressions and return one; what such a call does not know (a parameter
alone, errors, other types) comes back to an `otherwise` function here. All else is made from lists of handles, by many().
This module knows the C calls; it knows no operation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from .._ffi import DTYPE, NULL, OPS, calls, fail, fail_in, nodes
from .._integers import integer
from ..expression import NO_GRAPH, Expression, resolved
from ..graph import current_graph

F = TypeVar("F", bound=Callable[..., Any])
E = TypeVar("E", bound=Expression)

NOT_TAKEN, _quick_node = calls.NOT_TAKEN, calls.quick_node
_all_whole = calls.all_whole
_AGAIN = (NOT_TAKEN, NO_GRAPH)
_node1, _node2, _node_many, _node_parts = nodes.dn_node1, nodes.dn_node2, nodes.dn_node_many, nodes.dn_node_parts
_node1_int, _node1_real, _leaf = nodes.dn_node1_int, nodes.dn_node1_real, nodes.dn_leaf


def not_expression(what: str, *given: Any) -> TypeError:
    """The error for arguments that are not expressions."""
    lists = [g for g in given if isinstance(g, list | tuple) and not any(isinstance(item, Expression) for item in g)]
    numbers = lists or any(isinstance(g, int | float | np.ndarray | np.number) for g in given)
    hint = " Make one of numbers by scalarInput(), inputVector() or inputTensor()." if numbers else ""
    return TypeError(f"{what}: takes expressions; got {', '.join(type(g).__name__ for g in given)}.{hint}")


def has_handle(x: Any) -> bool:
    """Whether it is an expression, and was not made by hand."""
    return isinstance(x, Expression) and hasattr(x, "_h")


def make(cls: type[E], handle: int, *inputs: int, what: str = "") -> E:
    """An expression of a class for what a C call with these inputs returned; raises what a negative handle stands for, as fail() does."""
    if handle < 0:
        fail(handle, *inputs, what=what)
    e = cls()
    e._h = handle
    return e


def after_all(code: int, cls: type[E], retry: Callable[[int], int], *inputs: Expression, what: str = "") -> E:
    """What a fast call does that has not made the node: makes it, for parameters in the current graph, or raises the error.

    retry(handle of the first input) is the call.
    """
    given = [x._h for x in inputs]
    if code == NOT_TAKEN:
        code = retry(given[0])
    return make(cls, retry(resolved(given[0])) if code == NO_GRAPH else code, *given, what=what)


def unary(function: F) -> F:
    """f(x) -> a node of the op that has the function's name."""
    op, name = OPS[function.__name__], function.__name__

    def otherwise(code: int, x: Any) -> Any:
        if code == NOT_TAKEN and not has_handle(x):
            raise not_expression(name, x)
        return after_all(code, Expression, lambda h: _node1(op, h), x)

    node = calls.call("unary", op, Expression, otherwise)

    @functools.wraps(function)
    def wrapper(x: Expression) -> Expression:
        return node(x)

    return wrapper  # type: ignore[return-value]


def binary_call(op_name: str, other: Callable[[Any, Any], Any] | None = None, what: str = "") -> Callable[[Any, Any], Any]:
    """f(x, y) -> a node of the op; other(x, y) where y is not an expression. `what` is the function, if it has another name than the op."""
    op = OPS[op_name]

    def otherwise(code: int, x: Any, y: Any) -> Any:
        if code == NOT_TAKEN and not (has_handle(x) and has_handle(y)):
            if other is not None:
                return other(x, y)
            raise not_expression(what or op_name, x, y)
        return after_all(code, Expression, lambda h: _node2(op, h, y._h), x, y, what=what)

    return calls.call("binary", op, Expression, otherwise)


def binary(function: F) -> F:
    """f(x, y) -> a node of the op that has the function's name."""
    node = binary_call(function.__name__)

    @functools.wraps(function)
    def wrapper(x: Expression, y: Expression) -> Expression:
        return node(x, y)  # type: ignore[no-any-return]

    return wrapper  # type: ignore[return-value]


def listed(exprs: Iterable[Expression], what: str) -> list[Expression]:
    """A list of expressions from any iterable; the errors of DyNet for empty ones."""
    if isinstance(exprs, Expression):
        raise TypeError(f"{what}: takes a list of expressions; got one expression. Write {what}([x]).")
    try:
        result: list[Any] = list(exprs)
    except TypeError:
        raise not_expression(what, exprs) from None
    if not result:
        raise AssertionError(f"List is empty, nothing to {what}.")
    try:
        if None in result:
            raise AssertionError(f"Empty element for {what}: item {result.index(None)} is None.")
    except ValueError:  # an array in the list
        raise not_expression(what, *result) from None
    return result


def many(op: int, what: str, exprs: Iterable[Expression], ints: Sequence[int] = (), reals: Sequence[float] = ()) -> Expression:
    """A node of any number of inputs and attributes."""
    made = _quick_node(Expression, op, exprs, ints, reals)
    if not isinstance(made, int):
        return made
    inputs = exprs if type(exprs) is list and exprs else listed(exprs, what)
    try:
        handles = [e._h for e in inputs]
    except AttributeError:
        raise not_expression(what, *(e for e in listed(inputs, what) if not isinstance(e, Expression))) from None
    return make(Expression, many_node(op, handles, ints, reals) if made in _AGAIN else made, *handles, what=what)


def of_list(op_name: str, what: str) -> Callable[[Iterable[Expression]], Expression]:
    """f(expressions) -> as many() without attributes; quick for lists."""
    op = OPS[op_name]

    def otherwise(code: int, exprs: Any) -> Expression:
        return many(op, what, exprs) if code in _AGAIN else fail(code, *(e._h for e in exprs), what=what)

    return calls.call("of_list", op, Expression, otherwise)


def of_list_with_int(op_name: str, what: str) -> Callable[[Iterable[Expression], int], Expression]:
    """f(expressions, i) -> as many() with one whole number; quick for lists."""
    op = OPS[op_name]

    def otherwise(code: int, exprs: Any, i: int) -> Expression:
        return many(op, what, exprs, (i,)) if code in _AGAIN else fail(code, *(e._h for e in exprs), what=what)

    return calls.call("of_list_with_int", op, Expression, otherwise)


def many_node(op: int, handles: list[int], ints: Sequence[int] = (), reals: Sequence[float] = ()) -> int:
    """As many(), from handles to a handle, or to a negative error."""
    h: int = _node_many(op, len(handles), handles, len(ints), ints or NULL, len(reals), reals or NULL)
    return many_node(op, [resolved(handles[0]), *handles[1:]], ints, reals) if h == NO_GRAPH else h


def node_parts(op: int, parts: int, handles: list[int], ints: Sequence[int] = (), reals: Sequence[float] = ()) -> int:
    """As many_node(), for an op with several outputs: the handle of the first of its first `parts` outputs. The others' follow it."""
    h: int = _node_parts(op, len(handles), handles, len(ints), ints or NULL, len(reals), reals or NULL, parts)
    return node_parts(op, parts, [resolved(handles[0]), *handles[1:]], ints, reals) if h == NO_GRAPH else h


def one(op: int, what: str, x: Expression, ints: Sequence[int] = (), reals: Sequence[float] = ()) -> Expression:
    """A node of one input and any number of attributes."""
    made = _quick_node(Expression, op, (x,), ints, reals)
    return one_as(Expression, op, what, x, ints, reals) if isinstance(made, int) else made


def one_as(cls: type[E], op: int, what: str, x: Expression, ints: Sequence[int], reals: Sequence[float] = ()) -> E:
    """As one(), as an expression of a class."""
    made = _quick_node(cls, op, (x,), ints, reals)
    if not isinstance(made, int):
        return made
    try:
        given = x._h
    except AttributeError:
        raise not_expression(what, x) from None
    return make(cls, many_node(op, [given], ints, reals) if made in _AGAIN else made, given, what=what)


def with_int(op_name: str, what: str, cls: type[E], several: str = "") -> Callable[[Expression, int], E]:
    """f(x, i) -> a node of one input and an index; `several` as in whole()."""
    return _with_whole(op_name, what, cls, lambda i: whole(i, what, several))


def with_dim(op_name: str) -> Callable[[Expression, int], Expression]:
    """f(x, d) -> a node of one input and the number of a dim; the function has the op's name."""
    return _with_whole(op_name, op_name, Expression, lambda d: dim_number(d, op_name))


def _with_whole(op_name: str, what: str, cls: type[E], number: Callable[[Any], int]) -> Callable[[Expression, int], E]:
    op = OPS[op_name]

    def otherwise(code: int, x: Any, i: Any) -> Any:
        if code != NOT_TAKEN:
            return after_all(code, cls, lambda h: _node1_int(op, h, i), x)
        if not has_handle(x):
            raise not_expression(what, x)
        i = number(i)
        return after_all(code, cls, lambda h: _node1_int(op, h, i), x)

    return calls.call("with_int", op, cls, otherwise)


def with_reals(op_name: str, what: str) -> Callable[[Expression, float, float], Expression]:
    """f(x, a, b) -> a node of one input and two numbers."""
    op = OPS[op_name]

    def otherwise(code: int, x: Any, a: float, b: float) -> Any:
        if code != NOT_TAKEN:
            return after_all(code, Expression, lambda h: _node1_real(op, h, a, b), x, what=what)
        if not has_handle(x):
            raise not_expression(what, x)
        a, b = real(a, what), real(b, what)
        return after_all(code, Expression, lambda h: _node1_real(op, h, a, b), x, what=what)

    return calls.call("with_reals", op, Expression, otherwise)


def quickly(kind: calls.OneKind, op_name: str, long_way: Callable[..., Expression]) -> Callable[..., Expression]:
    """A call of this kind (csrc/python/makers.c); long_way takes the same arguments, does what is not done quickly, and knows the errors."""

    def otherwise(code: int, *given: Any) -> Expression:
        return long_way(*given)

    return calls.call(kind, OPS[op_name], Expression, otherwise)


def binary_with_real(op_name: str) -> Callable[[Expression, Expression, float], Expression]:
    """f(x, y, r) -> a node of two inputs and a number; the function has the op's name."""
    op = OPS[op_name]

    def otherwise(code: int, x: Any, y: Any, r: Any) -> Expression:
        return many(op, op_name, (x, y), (), (real(r, op_name),))

    return calls.call("binary_with_real", op, Expression, otherwise)


def leaf(cls: type[E], op: int, what: str, ints: Sequence[int], reals: Sequence[float]) -> E:
    """A node without inputs in the current graph, from attributes alone."""
    made = _quick_node(cls, op, None, ints, reals)
    if not isinstance(made, int):
        return made
    graph = current_graph()
    h = made if made != NOT_TAKEN else _leaf(graph, op, len(ints), ints, len(reals), reals)
    if h < 0:
        fail_in(graph, h, what)
    return make(cls, h)


def set_ints(e: Expression, ints: Sequence[int]) -> None:
    """Other whole numbers for a node that looks rows or places up; all computed values of the graph are forgotten."""
    code = nodes.dn_ints_set(e._h, len(ints), ints)
    if code < 0:
        fail(code, e._h)


def whole(value: Any, what: str, several: str = "") -> int:
    """An index of 32 bits, by the rule of integer(). `several` is the function that takes lists of them."""
    if type(value) is int and -(1 << 31) <= value < 1 << 31:  # nearly always
        return value
    try:
        n = integer(value)
    except TypeError:
        hint = f" For several: {several}()." if several and isinstance(value, Iterable) and not isinstance(value, str) else ""
        raise TypeError(f"{what}: the index must be a whole number; got {value!r:.60}.{hint}") from None
    if not -(1 << 31) <= n < 1 << 31:
        raise OverflowError(f"{what}: the index must have at most 31 bits; got {n}.")
    return n


def dim_number(d: Any, what: str) -> int:
    """The number of a dim; whether there is such a dim is for the operation to say."""
    try:
        n = integer(d)
    except TypeError:
        hint = f" Expressions go into one list: {what}([x, y])." if isinstance(d, Expression) else ""
        raise TypeError(f"{what}: a dim must be a whole number; got {d!r:.60}.{hint}") from None
    if not -(1 << 31) <= n < 1 << 31:
        raise OverflowError(f"{what}: a dim must have at most 31 bits; got {n}.")
    return n


def is_one(value: Any) -> bool:
    """Whether it stands for one index, not for several: it is no iterable, or an array without dims."""
    return not isinstance(value, Iterable) or (isinstance(value, np.ndarray) and value.ndim == 0)


def _is_flat(values: Any) -> bool:
    if isinstance(values, np.ndarray):
        return values.ndim == 1
    return isinstance(values, Iterable) and not any(isinstance(v, Iterable) and not isinstance(v, str) for v in values)


def indices(values: Iterable[int], what: str) -> list[int]:
    """Integers of 32 bits from any iterable, by the rule of integer()."""
    if _all_whole(values):  # nearly always
        return values if type(values) is list else list(values)
    if isinstance(values, np.ndarray) and values.ndim == 1:
        items: Any = values.tolist() if values.dtype.kind in "iuf" else values
    else:
        items = values
    try:
        if isinstance(values, np.ndarray) and values.ndim != 1:
            raise TypeError(f"{values.ndim} dims")
        found = [integer(v) for v in items]
    except TypeError:
        raise TypeError(f"{what}: indices must be whole numbers{'' if _is_flat(values) else ' in one flat list'}; got {values!r}.") from None
    for n in found:
        if not -(1 << 31) <= n < 1 << 31:
            raise OverflowError(f"{what}: the index must have at most 31 bits; got {n}.")
    return found


def one_or_more(values: int | Iterable[int], what: str) -> list[int]:
    """As indices(), also of one integer by itself."""
    return indices([values] if is_one(values) else values, what)  # type: ignore[list-item, arg-type]


def real(value: Any, what: str) -> float:
    """One number as a float; text, which float() would read, is refused."""
    if type(value) is float:
        return value
    if isinstance(value, str | bytes):
        raise TypeError(f"{what}: takes numbers; got {value!r:.60}.")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what}: takes numbers; {error}.") from None
    except OverflowError as error:
        raise OverflowError(f"{what}: takes numbers; {error}.") from None


def reals(values: Any, what: str) -> Any:
    """Numbers as something that C takes: a list as it is, anything else as an array of the build's type."""
    return np.ascontiguousarray(numbers(values, what), DTYPE)


def numbers(values: Any, what: str, takes: str = "takes numbers", order: Any = None) -> Any:
    """An array of the build's type, in a memory order, from arrays and nested sequences of numbers. What is one is not copied.

    NumPy itself would read None as NaN and text as a number.
    """
    if type(values) is np.ndarray and values.dtype.kind == "f":  # nearly always
        return np.asarray(values, DTYPE, order)
    if isinstance(values, Expression) or (isinstance(values, list | tuple) and any(isinstance(v, Expression) for v in values)):
        raise TypeError(f"{what}: {takes}; got expressions. To join expressions: concatenate().")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise TypeError(f"{what}: {takes}; got masked ones. Say what stands for them: array.filled(0).")
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufO" or (array.dtype.kind == "O" and any(isinstance(v, str | None) for v in array.flat)):
            raise TypeError(f"got {values!r:.60}")
        return np.asarray(array, DTYPE, order)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what}: {takes}; {str(error).rstrip('.')}.") from None
    except OverflowError as error:
        raise OverflowError(f"{what}: {takes}; {error}.") from None
