"""Checks of classes that a program derives from those of this package. An `__init__` that does not
call the one of its base class is reported when an object is made, not at its first use.

DyNet makes what is its own before `__init__`, from the arguments of the call (Cython's
`__cinit__`). So do classes that a program for DyNet derives, if they do not do so themselves.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any

from ._manner import PACKAGE, last_frame, manner
from ._weak import WeakSet

_seen: WeakSet[type] = WeakSet()


class _Call:
    """A call of a derived class in a program for DyNet."""

    def __init__(self, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.given, self.named, self.is_made = given, named, False


_calls: dict[int, _Call] = {}
"""By the id of the object, while its `__init__` runs."""


def requires_init(cls: Any, attribute: str) -> None:
    """Lets classes derived from this one refuse objects whose base `__init__` was not called.
    `attribute` is one that it sets.

    >>> import dist_dynet as dy
    >>> class Tagger(dy.ParameterCollection):
    ...     def __init__(self):
    ...         self.W = self.add_parameters((3, 2))
    >>> Tagger()
    Traceback (most recent call last):
    TypeError: Tagger: its __init__ must call that of ParameterCollection first. ...
    """
    inherited = cls.__new__

    def new(kind: Any, *given: Any, **named: Any) -> Any:
        if kind not in _seen:  # a decorator, such as dataclass, has made its __init__ by now
            _seen.add(kind)
            above = _above(kind, cls)
            if above is not None and _is_of_program(kind.__init__):
                kind.__init__ = _checked(kind, above, attribute)
        if inherited is object.__new__:
            return inherited(kind)
        return inherited(kind, *given, **named)

    new.__signature__ = inspect.signature(cls.__init__)  # type: ignore[attr-defined]
    cls.__new__ = staticmethod(new)
    if sys.version_info < (3, 11, 5):  # inspect asks it whichever __init__ a derived class has
        cls.__signature__ = _Signature()


class _Signature:
    """What a class takes: what the nearest `__init__` does, as inspect of later Pythons says; None
    where a `__new__` of the program is nearer, or its metaclass decides: inspect asks them."""

    def __get__(self, thing: Any, kind: Any) -> inspect.Signature | None:
        if thing is not None:  # what an object that can be called takes is another question
            raise AttributeError("__signature__")
        if type(kind).__call__ is not type.__call__:
            return None
        for cls in kind.__mro__:
            if "__init__" in vars(cls):
                return inspect.signature(MethodType(cls.__init__, kind))
            if "__new__" in vars(cls):
                return None
        return None


def _is_of_program(make: Callable[..., None]) -> bool:
    """Whether it belongs neither to this package nor to the checked ones."""
    return not (_is_of_package(make) or getattr(make, "is_checked", False))


def _is_of_package(make: Callable[..., None]) -> bool:
    code = getattr(inspect.unwrap(make), "__code__", None)
    return code is not None and code.co_filename.startswith(PACKAGE)


def _above(kind: type, cls: type) -> type | None:
    """The class whose constructor an object of this class needs."""
    own = (c for c in kind.__mro__ if issubclass(c, cls) and "__init__" in vars(c))
    return next((c for c in own if _is_of_package(vars(c)["__init__"])), None)


def _checked(kind: Any, above: type, attribute: str) -> Any:
    """Its constructor, followed by a check that the object has the attribute."""
    make = kind.__init__
    if manner.dynet and not getattr(above, "_is_python_in_dynet", False):
        make = _as_in_dynet(make, above)

    @wraps(kind.__init__)
    def init(self: Any, *given: Any, **named: Any) -> None:
        try:
            make(self, *given, **named)
        except AttributeError as error:
            if _has(self, attribute) or not _comes_from_package(error):
                raise
            raise TypeError(_words(kind, above)) from error
        if not _has(self, attribute):
            raise TypeError(_words(kind, above))

    init.is_checked = True  # type: ignore[attr-defined]
    return init


def _as_in_dynet(make: Any, above: Any) -> Any:
    """The constructor `make`, before which the object is made by that of the class above, unless
    `make` calls one or their arguments differ; its super().__init__() needs no arguments."""
    names = getattr(getattr(inspect.unwrap(make), "__code__", None), "co_names", ("__init__",))
    calls = not {"__init__", "__post_init__"}.isdisjoint(names)
    if not hasattr(vars(above).get("__init__"), "takes_those_of_the_call"):
        above.__init__ = _with_those_of_the_call(above.__init__)

    def init(self: Any, *given: Any, **named: Any) -> None:
        if id(self) in _calls:  # by super() of a class derived from this one
            make(self, *given, **named)
            return
        call = _calls[id(self)] = _Call(given, named)
        try:
            if not calls and _fits(above.__init__, given, named):
                above.__init__(self, *given, **named)
                call.is_made = True
            make(self, *given, **named)
        finally:
            del _calls[id(self)]

    return init


def _with_those_of_the_call(original: Any) -> Any:
    """A constructor that uses the arguments of the object's call if it has none of its own, and
    does nothing if the object is made already."""

    @wraps(original)
    def init(self: Any, *given: Any, **named: Any) -> None:
        if call := _calls.get(id(self)):
            if call.is_made:
                return
            if not given and not named and not _fits(original, (), {}):
                given, named = call.given, call.named
        original(self, *given, **named)

    init.takes_those_of_the_call = True  # type: ignore[attr-defined]
    return init


def _fits(make: Any, given: tuple[Any, ...], named: dict[str, Any]) -> bool:
    try:
        inspect.signature(make).bind(None, *given, **named)
    except TypeError:
        return False
    return True


def _has(thing: Any, attribute: str) -> bool:
    try:  # without calling a program's own __getattr__
        object.__getattribute__(thing, attribute)
    except AttributeError:
        return False
    return True


def _comes_from_package(error: BaseException) -> bool:
    """Whether an error was raised by this package's code rather than the program's."""
    frame = last_frame(error)
    return frame is not None and frame.f_code.co_filename.startswith(PACKAGE)


def _words(kind: type, above: type) -> str:
    needed = [
        p.name
        for p in list(inspect.signature(above.__init__).parameters.values())[1:]  # type: ignore[misc]
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return (
        f"{kind.__name__}: its __init__ must call that of {above.__name__} first. Begin it with"
        f" super().__init__({', '.join(needed)})."
    )
