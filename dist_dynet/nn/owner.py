"""The base of builders and blocks: a subcollection of their own, and a name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any

from .._integers import indices, real
from .._manner import class_name, no_collection
from ..expression import Expression
from ..ops import affine_transform, matmul
from ..ops._nodes import not_expression
from ..params.collection import ParameterCollection
from ..params.dims import size
from ..params.modes import switch
from ..params.parameters import AnyParameter, Parameters
from ..params.undo import all_or_nothing

if TYPE_CHECKING:
    from typing_extensions import Self

_Weight = AnyParameter | Expression
REFUSALS = AssertionError, AttributeError, TypeError, ValueError
"""What an operation raises whose inputs do not fit; a stale expression is another error."""


MORE_OF_SPEC = 9
"""The most items that a builder's spec may have beside the sizes."""


def items_of_spec(cls: type, spec: Sequence[Any], names: str, more: int = 0) -> tuple[Any, ...]:
    """The items of a spec, which has one for each of the names and up to so many more.

    Raises:
        ValueError: it has not.
    """
    try:
        items = tuple(spec)
    except TypeError:  # nothing that has items
        items = ()
    least = names.count(",") + 1
    if not least <= len(items) <= least + more:
        raise ValueError(
            f"{cls.__name__}.from_spec: takes ({names}{', ...' if more else ''}); got {spec!r:.60}."
        )
    return items


class Owner:
    """Has parameters in a subcollection, `_collection`. Constructors take `precision` as
    set_precision() does; None means that of the collection they are given."""

    _collection: ParameterCollection

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        make = vars(cls).get("__init__")
        if isinstance(make, FunctionType):
            cls.__init__ = all_or_nothing(make)  # type: ignore[method-assign]

    def _sizes(self, *given: Any) -> tuple[int, ...]:
        """Sizes as integers. 2.5 is an error rather than 2."""
        return tuple(size(n, self.whoami()) for n in given)

    def _begin_collection(
        self, model: ParameterCollection, name: str, precision: str | None
    ) -> None:
        """Makes the subcollection for its parameters.

        Raises:
            TypeError: model is not a ParameterCollection.
        """
        if not isinstance(model, ParameterCollection):
            raise TypeError(
                f"{self.whoami()}: takes the ParameterCollection that its parameters go into;"
                f" {no_collection(model)}"
            )
        self._collection = model.add_subcollection(name, precision)

    def _affine(
        self, W: _Weight, b: _Weight | None, x: Expression, rows: int, name: str = "x"
    ) -> Expression:
        """W x + b for an input of this many rows. An error is that of _check_rows()."""
        try:
            return matmul(W, x) if b is None else affine_transform([b, W, x])
        except REFUSALS:
            self._check_rows(x, rows, name)
            raise

    def _check_rows(self, x: Any, rows: int, name: str = "x") -> None:
        """Checks an input: a vector of this many rows, or a matrix of such columns. Where calls are
        frequent it is called only once an operation has failed, to say whose input that was.

        Raises:
            TypeError: it is not an expression.
            ValueError: it has another number of rows.
        """
        if not isinstance(x, Expression):
            raise not_expression(self.whoami(), x) from None
        dims = x.dim()[0]
        if dims[0] != rows:
            hint = f" Did you mean transpose({name})?" if dims[1:] == (rows,) else ""
            raise ValueError(
                f"{self.whoami()}: {name} must have {rows} rows; got dim {dims}.{hint}"
            ) from None

    def _indices(self, values: Iterable[int], n: int, what: str) -> Sequence[int]:
        """Integers from 0 to n - 1.

        Raises:
            TypeError: they are no integers.
            ValueError: one is outside.
        """
        numbers = indices(values, self.whoami())
        if numbers and not 0 <= min(numbers) <= max(numbers) < n:
            wrong = next(k for k in numbers if not 0 <= k < n)
            raise ValueError(f"{self.whoami()}: {what} run from 0 to {n - 1}; got {wrong}.")
        return numbers

    def _rate(self, rate: float, what: str) -> float:
        """A checked dropout rate. `what` is the method that takes it."""
        rate = real(rate, what)
        if not 0 <= rate <= 1:
            raise ValueError(f"{what}: the rate must lie in [0, 1]; got {rate}.")
        return rate

    def whoami(self) -> str:
        """The name of the class.

        >>> import dist_dynet as dy
        >>> dy.GRUBuilder(1, 2, 3, dy.ParameterCollection()).whoami()
        'GRUBuilder'
        """
        return class_name(self)

    def _dense(self, role: str, dim: int | tuple[int, ...], init: Any = None) -> Parameters:
        """A new parameter. `role` is its name in the formulas of the class."""
        parameter = self._collection.add_parameters(dim, init=init)
        parameter._play(role)
        return parameter

    def set_precision(self, precision: str | None) -> None:
        """Whether products with its matrices are rounded, regardless of init(): "float32" or
        "bf16"; None follows init(). As ParameterCollection.set_precision() of its parameters.

        Raises:
            ValueError: there is no such precision, or not with float64.

        >>> import dist_dynet as dy
        >>> linear = dy.Linear(2, 3, dy.ParameterCollection())
        >>> linear.set_precision("float32")
        >>> [p.precision() for p in linear.get_parameters()]
        ['float32', 'float32']
        """
        self._collection.set_precision(precision)

    def train(self, mode: bool = True) -> Self:
        """Switches its dropout, as ParameterCollection.train() of its parameters.

        >>> import dist_dynet as dy
        >>> lstm = dy.VanillaLSTMBuilder(1, 2, 3, dy.ParameterCollection())
        >>> lstm.set_dropout(0.5)
        >>> lstm.eval().training, lstm.dropout_x
        (False, 0.5)
        """
        self._collection.train(mode)
        return self

    def eval(self) -> Self:
        """As train(False): nothing is dropped."""
        return self.train(False)

    @property
    def training(self) -> bool:
        """Whether dropout is on: see train()."""
        return self._collection._trains()

    def _drops(self) -> bool:
        """As training, but without cost if no collection was ever switched."""
        return not switch.used or self._collection._trains()

    def param_collection(self) -> ParameterCollection:
        """The subcollection of its parameters.

        >>> import dist_dynet as dy
        >>> linear = dy.Linear(2, 3, dy.ParameterCollection())
        >>> linear.param_collection().name(), linear.param_collection().parameter_count()
        ('/linear/', 9)
        """
        return self._collection
