"""@traced: functions of expressions that are traced once and then make one node per call.

csrc/program.h describes what becomes of the traced nodes. This module knows signatures, and what a
function may not do while it is traced.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from . import _random
from ._ffi import accelerated, callback, calls, fail, fail_in, ffi, lib
from .expression import Expression, expression, expressions_from
from .graph import graph_of, trace
from .params.modes import switch

__all__ = ["cell", "traced"]

F = TypeVar("F", bound=Callable[..., Any])

_UNTRACED: int = lib.DN_ERROR_UNTRACED
_FIRST_PARAMETER = 1 << 62  # handles from here on, and negative ones, are no nodes
MOST_TRACES = 256
"""Of one function; with further signatures it is called untraced, as if it were not decorated."""

_ATTEMPTS = 8
"""At tracing a function beside other threads, which may draw random numbers meanwhile."""

_lock = threading.RLock()


@accelerated
def traced_call(function: int, *handles: int) -> int:
    """Returns the result of dn_traced_call() of csrc/dn_api.h."""
    return lib.dn_traced_call(function, len(handles), handles)  # type: ignore[no-any-return]


def several_threads() -> bool:
    """Whether this process has more than one."""
    # not threading.active_count(): it takes a lock that all threads need to start
    return len(calls.without_collector(sys._current_frames)) > 1


class _Variant:
    """The traces of a function for arguments of one form: C's object, which holds a program for
    each set of dims."""

    __slots__ = ("asks_modes", "c", "form", "handle", "is_pair", "kept", "outputs", "traces")

    def __init__(self) -> None:
        c = lib.dn_traced_new()
        if c == ffi.NULL:
            raise MemoryError("traced: out of memory")
        self.c = ffi.gc(c, lib.dn_traced_free)
        self.handle = lib.dn_traced_handle(self.c)
        self.outputs = 0
        """The number of outputs; 0 until it is known."""
        self.form: Any = None
        """Makes the result from the list of outputs; None if the result is a single expression."""
        self.is_pair = False
        """Whether it is a tuple of two, as in trees and recurrent networks."""
        self.kept: Any = None
        """The arguments of the first call, kept alive because the form may depend on their
        identity."""
        self.traces = 0
        self.asks_modes = False
        """Whether the function reads whether a collection is in training or evaluation."""


class TracedFunction:
    """A function that makes one node per call. Made by traced()."""

    def __init__(
        self, function: Callable[..., Any], name: str, instance: tuple[Any, ...] = ()
    ) -> None:
        functools.update_wrapper(self, function)
        self._function, self._name, self._instance = function, name, instance
        self._variants: dict[Any, _Variant] = {}
        # for arguments that are nodes, by their number; -1 is none
        self._plain: dict[int, _Variant] = {}
        self.traces = 0
        """How often the function was traced."""
        self._forgotten = 0  # of these
        switch.followers.add(self)

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """The traced function of an instance: traces belong to it, since the function may read its
        attributes."""
        if instance is None:
            return self
        try:
            known = instance.__dict__
        except AttributeError:
            raise TypeError(
                f"{self._what()}: objects of {type(instance).__name__} cannot keep traces:"
                " __slots__ leaves no __dict__."
            ) from None
        # it was accessed by super()
        shadowed = getattr(type(instance), self._name, None) is not self
        name = f"{self.__qualname__} of {self._name}" if shadowed else self._name  # type: ignore[attr-defined]
        bound = known.get(name)
        if not isinstance(bound, TracedFunction):
            bound = known[name] = TracedFunction(self._function, self._name, (instance,))
        return bound

    def __reduce__(self) -> Any:
        if self._instance:
            return getattr, (self._instance[0], self._name)
        return self.__qualname__  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"<{self._what()}, traced {self.traces} times>"

    def _modes_change(self, any_of_them: bool) -> None:
        """Forgets traces of another mode."""
        with _lock:
            gone = [f for f, v in self._variants.items() if any_of_them or v.asks_modes]
            for form in gone:
                variant = self._variants.pop(form)
                self._forgotten += variant.traces
                if self._plain.get(len(form)) is variant:
                    del self._plain[len(form)]

    def _what(self) -> str:
        return f"traced function {self._name}"

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The function's expressions for these arguments."""
        n = len(args)
        try:
            variant = self._plain[n] if not options else self._plain[-1]
            if n == 1:
                h = traced_call(variant.handle, args[0]._h)
            elif n == 2:
                h = traced_call(variant.handle, args[0]._h, args[1]._h)
            else:
                h = traced_call(variant.handle, *[a._h for a in args])
        except (KeyError, AttributeError):
            return self._general(args, options)
        if h < 0:
            return self._general(args, options)
        if variant.is_pair:
            e, f = Expression(), Expression()
            e._h, f._h = h, h + 1
            return e, f
        return _results(variant, h)

    def _general(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """For arguments of any form, including untraced ones."""
        handles: list[int] = []
        key: list[Any] = []
        for a in args:
            self._flatten(a, handles, key)
        for option in options:  # in their order, which a function with **options may see
            key.append(option)
            self._flatten(options[option], handles, key)
        if callback.tracing or not handles:  # within another trace it becomes part of that
            return self._function(*self._instance, *args, **options)
        form = tuple(key)
        try:
            variant = self._variants.get(form)
        except TypeError:
            raise TypeError(
                f"{self._what()}: arguments must be expressions, lists of them, or hashable; got"
                f" {args!r:.200}."
            ) from None
        h = traced_call(variant.handle, *handles) if variant else _UNTRACED
        if h == _UNTRACED:
            if self.traces - self._forgotten >= MOST_TRACES:
                return self._function(*self._instance, *args, **options)
            with _lock:
                variant = self._variants.get(form)
                if variant:  # another thread may have traced it meanwhile
                    h = traced_call(variant.handle, *handles)
                if not variant or h == _UNTRACED:
                    variant = variant or _Variant()
                    self._trace(variant, handles, args, options)
                    variant.kept = variant.kept or (args, options)
                    self._variants[form] = variant
                    if all(mark is Expression for mark in form):
                        self._plain[len(form)] = variant
                    h = traced_call(variant.handle, *handles)
        if h < 0:
            fail(h, *handles)
        assert variant is not None
        return _results(variant, h)

    def _flatten(self, given: Any, handles: list[int], key: list[Any]) -> None:
        """Appends the nodes in an argument to `handles`, and everything else to `key`."""
        if isinstance(given, Expression):
            # _node() raises for one made by hand
            h: int = getattr(given, "_h", 0) or given._node()
            if 0 <= h < _FIRST_PARAMETER:
                handles.append(h)
                key.append(Expression)
            else:
                key.append(("parameter", h))
        elif type(given) in (list, tuple):
            key.append((type(given), len(given)))
            for one in given:
                self._flatten(one, handles, key)
        else:
            key.append(_exact(given))

    def _trace(
        self, variant: _Variant, handles: list[int], args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        """Adds a program to C's object."""
        dims = [expression(h).dim() for h in handles]
        outer, reads = graph_of(*handles), switch.reads
        for _ in range(_ATTEMPTS if several_threads() else 1):
            try:
                if trace(outer, lambda graph: self._traced(graph, variant, dims, args, options)):
                    self.traces += 1
                    variant.traces += 1
                    variant.asks_modes |= switch.reads != reads
                    return
            finally:
                callback.tracing = ""
        raise RuntimeError(
            f"{self._what()}: the function draws random numbers in Python, once for all calls. Draw"
            " outside and pass what depends on it, or use dropout(), noise() and the like."
        )

    def _traced(
        self,
        graph: int,
        variant: _Variant,
        dims: list[Any],
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> bool:
        """Runs the function on a graph of its own. Returns False, without adding anything, if
        Python's or NumPy's generators have been drawn from."""
        callback.tracing = self._what()
        before = _random.generators_of_python()
        given = [_placeholder(graph, d, batch) for d, batch in dims]
        rest = iter(given)
        stand = [_replaced(a, rest) for a in args]
        options = {o: _replaced(given, rest) for o, given in options.items()}
        result = self._function(*self._instance, *stand, **options)
        if _random.generators_of_python() != before:
            return False
        outputs = self._outputs(variant, result)
        code = lib.dn_traced_add(
            variant.c,
            graph,
            len(given),
            [e._h for e in given],
            len(outputs),
            [e._h for e in outputs],
        )
        if code < 0:
            fail_in(graph, code)
        return True

    def _outputs(self, variant: _Variant, result: Any) -> list[Expression]:
        """The expressions that the function returned; records their form."""
        several = isinstance(result, list | tuple)
        outputs = list(result) if several else [result]
        if not outputs or not all(isinstance(e, Expression) for e in outputs):
            raise TypeError(
                f"{self._what()}: the function must return an expression, or a list or tuple of"
                f" them; got {result!r:.200}."
            )
        form = None if not several else getattr(type(result), "_make", type(result))
        if variant.outputs and (variant.outputs, variant.form) != (len(outputs), form):
            raise ValueError(
                f"{self._what()}: the function must return as many expressions for all dims of its"
                f" arguments; got {len(outputs)}, before {variant.outputs}."
            )
        variant.outputs = len(outputs)
        variant.form = form
        variant.is_pair = form is tuple and len(outputs) == 2
        return outputs


def _exact(given: Any) -> Any:
    """A hashable argument as part of the key: with its type and those of its parts, since 0.0,
    -0.0, 0 and False are equal. All NaNs are alike."""
    kind = type(given)
    if isinstance(given, float):
        return kind, float.hex(given)
    if isinstance(given, complex):
        return kind, float.hex(given.real), float.hex(given.imag)
    if kind.__name__ == "Decimal":  # which few programs import
        return kind, given, str(given)
    if isinstance(given, np.generic):
        return kind, given, given.tobytes()
    if isinstance(given, frozenset):
        return kind, given, frozenset(map(_exact, given))
    if isinstance(given, tuple):
        return kind, given, tuple(map(_exact, given))
    fields: Any = getattr(kind, "__dataclass_fields__", None)
    if fields is not None:
        held = (getattr(given, name, None) for name, field in fields.items() if field.compare)
        return kind, given, *map(_exact, held)
    return kind, given


def _placeholder(graph: int, dims: tuple[int, ...], batch: int) -> Expression:
    h = lib.dn_input(graph, len(dims), dims, batch, ffi.NULL)
    if h < 0:
        fail_in(graph, h)
    return expression(h)


def _replaced(given: Any, placeholders: Any) -> Any:
    """The argument with its nodes replaced by placeholders."""
    if isinstance(given, Expression):
        return next(placeholders) if 0 <= given._h < _FIRST_PARAMETER else given
    if type(given) in (list, tuple):
        return type(given)(_replaced(one, placeholders) for one in given)
    return given


def _results(variant: _Variant, h: int) -> Any:
    """What the function would return: its expressions have consecutive handles."""
    if variant.form is None:
        e = Expression()
        e._h = h
        return e
    return variant.form(expressions_from(h, variant.outputs))


def traced(function: F) -> F:
    """y, ... = f(x, ...): a function of expressions that is traced once and makes one node per
    call.

    The function runs once for each signature of its arguments. What it did is then repeated in C,
    for all calls of the graph at once where the graph batches. Values and gradients are those of
    the plain function. For functions that are called often and always do the same: the step of a
    recurrent network, a node of a tree, a layer. Works for methods, too.

    Args:
        function: takes expressions, lists and tuples of them, and whatever else is hashable;
            returns an expression, or a list or tuple of them. Its signature is the dims and batch
            sizes of its expressions, and the values of all else. Parameters may be arguments, but
            need not be. What it reads from outside, such as attributes of its object, is read while
            it is traced, so it must not change; but it is traced anew when a collection whose
            `training` it, or a block in it, asks for is switched by train() or eval(). Up to 256
            signatures are traced; with others the function is called as if it were not decorated.
            While other threads draw from Python's or NumPy's generators, nobody can tell who drew:
            then the function runs up to 8 times for a signature. It should have no effect but the
            expressions it makes.

    Shape: whatever the function makes.
    Gradient: as of the plain function. Random operations in it make draws of their own, the same
    with batching and without.

    Raises:
        RuntimeError: the function reads a value, uses an expression of the graph that is not among
            its arguments, or draws from Python's or NumPy's generators.
        ValueError: it uses an operation written in Python (function()), or returns other numbers of
            expressions for other dims.
        TypeError: it returns something other than expressions, or is given something that is
            neither an expression nor hashable.

    >>> import dist_dynet as dy
    >>> m = dy.ParameterCollection()
    >>> W, U = m.add_parameters((3, 3)), m.add_parameters((3, 3))
    >>> @dy.traced
    ... def step(x, h):
    ...     return dy.tanh(W * x + U * h)
    >>> _ = dy.renew_cg()
    >>> h = dy.zeros(3)
    >>> for x in ([1, 0, 0], [0, 1, 0], [0, 0, 1]):
    ...     h = step(dy.inputVector(x), h)
    >>> h.dim()
    ((3,), 1)
    """
    if not callable(function):
        raise TypeError(f"traced: takes a function; got {type(function).__name__}.")
    return TracedFunction(function, getattr(function, "__name__", type(function).__name__))  # type: ignore[return-value]


cell = traced
"""The former name of traced(), which is kept."""
