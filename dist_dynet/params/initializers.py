"""Initial values of parameters.

The formulas are DyNet's, computed so that the same seed gives the same bits. Draws are float32 in
both builds and fill a parameter in storage order: column-major; a lookup table row after row.
`dims` are storage dims: a table of n rows of dims d has (d..., n).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _random
from .._ffi import declines, ffi, lib
from .._file_names import file_path
from .._integers import number_argument, numbers

Values = NDArray[np.float32]
"""Flat, in storage order."""
_UNIFORM, _NORMAL, _CONSTANT = lib.DN_FIRST_UNIFORM, lib.DN_FIRST_NORMAL, lib.DN_FIRST_CONSTANT
_Draw = tuple[int, float, float]
"""One of these, and two numbers: bounds; mean and standard deviation; the constant and an unused
number."""


_AT_ONCE = 1 << 24
"""Draws in one call of C, which nothing interrupts; even, since normal numbers are drawn in
pairs."""


def _draw(call: Any, n: int, a: float, b: float) -> Values:
    out = np.empty(n, np.float32)
    with _random.lock():
        for block in np.split(out, range(_AT_ONCE, n, _AT_ONCE)):
            call(
                _random.generator(),
                block.size,
                a,
                b,
                ffi.from_buffer("float *", block) if block.size else ffi.NULL,
            )
    return out


def _uniform(n: int, low: float, high: float) -> Values:
    return _draw(lib.dn_rng_uniform, n, low, high)


def _normal(n: int, mean: float, std: float) -> Values:
    return _draw(lib.dn_rng_normal, n, mean, std)


def _size(dims: tuple[int, ...]) -> int:
    return math.prod(dims)


class PyInitializer:
    """The base of initialisers: subclasses return the values for a parameter of given dims.

    >>> import dist_dynet as dy
    >>> class Halves(dy.PyInitializer):
    ...     def values(self, dims, is_lookup):
    ...         return [0.5] * (dims[0] * dims[1])
    >>> dy.ParameterCollection().add_parameters((2, 2), init=Halves()).as_array().tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """

    def values(self, dims: tuple[int, ...], is_lookup: bool) -> Values:
        """The flat values, in storage order.

        Raises:
            AssertionError: the class has no values of its own.
        """
        raise AssertionError("PyInitializer: use one of its subclasses, such as GlorotInitializer.")


class _Drawn(PyInitializer):
    """An initialiser with a constant, or with draws from one distribution: C can do it in place."""

    def _draw(self, dims: tuple[int, ...], is_lookup: bool) -> _Draw:
        raise NotImplementedError

    def values(self, dims: tuple[int, ...], is_lookup: bool) -> Values:
        """The flat values, in storage order.

        >>> import dist_dynet as dy
        >>> dy.ConstInitializer(0.5).values((2, 2), False).tolist()
        [0.5, 0.5, 0.5, 0.5]
        """
        how, a, b = self._draw(dims, is_lookup)
        if how == _CONSTANT:
            return np.full(_size(dims), a, np.float32)
        return (_uniform if how == _UNIFORM else _normal)(_size(dims), a, b)


def in_place(init: PyInitializer, dims: tuple[int, ...], is_lookup: bool) -> _Draw | None:
    """The arguments of begin(); None: values() must be used."""
    if (
        not isinstance(init, _Drawn)
        or type(init).values is not _Drawn.values
        or _size(dims) > _AT_ONCE
        or declines("first values")
    ):
        return None
    return init._draw(dims, is_lookup)


def begin(param: Any, draw: _Draw) -> None:
    """Sets the initial values of a new parameter of C."""
    with _random.lock():
        lib.dn_param_begin(param, _random.generator(), *draw)


class GlorotInitializer(_Drawn):
    """Uniform in (-a, a), a = gain sqrt(3 nd) / sqrt(sum of dims): sqrt(6 / (rows + columns)) for a
    matrix (Glorot and Bengio 2010).

    Four dims (convolution filters): a = gain sqrt(6 / (d0 d1 (d2 + d3))). For lookup tables the
    number of rows counts as the last dim. is_lookup=True leaves out the last dim, also of
    parameters that are no tables, as in DyNet.

    >>> import dist_dynet as dy
    >>> W = dy.ParameterCollection().add_parameters((3, 4), init=dy.GlorotInitializer(gain=0.5))
    >>> bool(abs(W.as_array()).max() < 0.5 * (6 / 7) ** 0.5)
    True
    """

    def __init__(self, is_lookup: bool = False, gain: float = 1.0) -> None:
        self.is_lookup = is_lookup
        self.gain = number_argument(gain, "GlorotInitializer: gain")

    def _draw(self, dims: tuple[int, ...], is_lookup: bool) -> _Draw:
        nd = len(dims) - bool(self.is_lookup)
        if nd == 0:
            raise ValueError(
                "GlorotInitializer: is_lookup=True leaves out the last dim, in a table the number"
                f" of rows, and there must be another one; got {dims}. Leave is_lookup out."
            )
        top, below = (
            (6, dims[0] * dims[1] * (dims[2] + dims[3])) if nd == 4 else (3 * nd, sum(dims[:nd]))
        )
        gain = 1.0 if self.gain == 1 else float(np.float32(self.gain))
        bound = gain * math.sqrt(top) / math.sqrt(below) if below else 0.0
        return _UNIFORM, -bound, bound


class UniformInitializer(_Drawn):
    """Uniform in (-scale, scale).

    >>> import dist_dynet as dy
    >>> W = dy.ParameterCollection().add_parameters((3, 2), init=dy.UniformInitializer(0.1))
    >>> bool((abs(W.as_array()) < 0.1).all())
    True
    """

    def __init__(self, scale: float) -> None:
        self.scale = number_argument(scale, "UniformInitializer: scale")

    def _draw(self, dims: tuple[int, ...], is_lookup: bool) -> _Draw:
        scale = float(self.scale)
        return _UNIFORM, -scale, scale


class NormalInitializer(_Drawn):
    """Normal with this mean and this *variance* (the string init='normal' takes mean and std
    instead).

    >>> import dist_dynet as dy
    >>> W = dy.ParameterCollection().add_parameters(
    ...     (500, 200), init=dy.NormalInitializer(mean=3, var=4)
    ... )
    >>> round(float(W.as_array().std()), 1)
    2.0
    """

    def __init__(self, mean: float = 0, var: float = 1) -> None:
        mean = number_argument(mean, "NormalInitializer: mean")
        var = number_argument(var, "NormalInitializer: var")
        if not var >= 0:
            raise ValueError(f"NormalInitializer: the variance must not be negative; got {var}.")
        self.mean, self.var = mean, var

    def _draw(self, dims: tuple[int, ...], is_lookup: bool) -> _Draw:
        return _NORMAL, float(self.mean), float(np.sqrt(np.float32(self.var)))


class HeInitializer(_Drawn):
    """Normal with mean 0 and variance gain^2 2 / fan_in, for layers with rectifiers (He et al.
    2015, equation 10).

    fan_in is the number of inputs of one output: the columns of a matrix, the size of a vector, d0
    d1 d2 of a filter (height, width, channels in, channels out). The string init='he' is DyNet's
    formula instead, of variance 1 / (2 times the last dim).

    Raises:
        ValueError: for lookup tables, whose rows are not sums of inputs.

    >>> import dist_dynet as dy
    >>> W = dy.ParameterCollection().add_parameters((500, 200), init=dy.HeInitializer())
    >>> round(float(W.as_array().std()), 2)
    0.1
    """

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = number_argument(gain, "HeInitializer: gain")

    def _draw(self, dims: tuple[int, ...], is_lookup: bool) -> _Draw:
        if is_lookup:
            raise ValueError(
                "HeInitializer: not for lookup tables, whose rows are not sums of inputs. Use"
                " NormalInitializer()."
            )
        fan_in = _size(dims[:-1] if len(dims) == 4 else dims[1:] or dims)
        return _NORMAL, 0.0, float(self.gain * np.sqrt(2 / fan_in)) if fan_in else 0.0


class ConstInitializer(_Drawn):
    """All elements c.

    >>> import dist_dynet as dy
    >>> dy.ParameterCollection().add_parameters(
    ...     2, init=dy.ConstInitializer(0.5)
    ... ).as_array().tolist()
    [0.5, 0.5]
    """

    def __init__(self, c: float) -> None:
        self.c = number_argument(c, "ConstInitializer: c")

    def _draw(self, dims: tuple[int, ...], is_lookup: bool) -> _Draw:
        return _CONSTANT, float(self.c), 0.0


class IdentityInitializer(PyInitializer):
    """The identity matrix.

    Raises:
        ValueError: the parameter is not a square matrix.

    >>> import dist_dynet as dy
    >>> dy.ParameterCollection().add_parameters(
    ...     (2, 2), init=dy.IdentityInitializer()
    ... ).as_array().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def values(self, dims: tuple[int, ...], is_lookup: bool) -> Values:
        """The flat values, in storage order.

        Raises:
            ValueError: the dims are not those of a square matrix.

        >>> import dist_dynet as dy
        >>> dy.IdentityInitializer().values((2, 2), False).tolist()
        [1.0, 0.0, 0.0, 1.0]
        """
        if len(dims) != 2 or dims[0] != dims[1]:
            raise ValueError(
                f"IdentityInitializer: the parameter must be a square matrix; got {dims}."
            )
        return np.eye(dims[0], dtype=np.float32).ravel()


def _left_vectors_by_jacobi(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
    """The left singular vectors with the signs that the cyclic two-sided Jacobi method gives them
    (Kogbetliantz 1955; iterates row by row).

    Each pair (p, q), q < p, gets a rotation that makes the 2 x 2 block symmetric, and one that
    makes it diagonal. Slow for large matrices.
    """
    w = matrix.astype(np.float64)
    n = len(w)
    w /= np.abs(w).max() or 1.0
    u = np.eye(n)
    rotated = True
    while rotated:
        rotated = False
        for p in range(1, n):
            for q in range(p):
                if max(abs(w[p, q]), abs(w[q, p])) <= 1e-15 * np.abs(np.diag(w)).max():
                    continue
                rotated = True
                left, right = _block_rotations(w[np.ix_([p, q], [p, q])])
                w[[p, q]] = left @ w[[p, q]]
                u[:, [p, q]] = u[:, [p, q]] @ left.T
                w[:, [p, q]] = w[:, [p, q]] @ right
    values = np.diag(w)
    vectors: NDArray[np.float64] = (u * np.where(values < 0, -1.0, 1.0))[
        :, np.argsort(-np.abs(values), kind="stable")
    ]
    return vectors


def _block_rotations(block: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations L, R such that L block R is diagonal."""
    (a, b), (c, d) = block
    cosine, sine = (
        (1.0, 0.0)
        if c == b
        else ((a + d) / np.hypot(a + d, c - b), (c - b) / np.hypot(a + d, c - b))
    )
    if c < b:  # the sine is taken positive
        cosine, sine = -cosine, -sine
    symmetric = np.array([[cosine, sine], [-sine, cosine]])
    (x, y), (_, z) = symmetric @ block
    if y == 0:
        return symmetric, np.eye(2)
    tau = (x - z) / (2 * abs(y))
    tangent = 1 / (tau + np.hypot(tau, 1.0)) if tau > 0 else 1 / (tau - np.hypot(tau, 1.0))
    c2 = 1 / np.hypot(tangent, 1.0)
    s2 = -np.sign(tangent) * np.sign(y) * abs(tangent) * c2
    diagonal = np.array([[c2, s2], [-s2, c2]])
    return diagonal.T @ symmetric, diagonal


class SaxeInitializer(PyInitializer):
    """scale times an orthogonal matrix: U of the singular value decomposition of a matrix drawn
    uniformly from (-1, 1) (Saxe et al. 2014).

    Columns equal DyNet's up to their signs, which depend on the library that decomposes; with
    dy.init(rng="dynet") the signs are DyNet's, too.

    Raises:
        RuntimeError: the parameter is not a square matrix.

    >>> import dist_dynet as dy
    >>> W = dy.ParameterCollection().add_parameters((3, 3), init=dy.SaxeInitializer()).as_array()
    >>> (W.T @ W).round(4).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    True
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = number_argument(scale, "SaxeInitializer: scale")

    def values(self, dims: tuple[int, ...], is_lookup: bool) -> Values:
        """The flat values, in storage order.

        Raises:
            RuntimeError: the dims are not those of a square matrix.

        >>> import dist_dynet as dy
        >>> u = dy.SaxeInitializer(scale=2).values((3, 3), False).reshape(3, 3)
        >>> (u.T @ u).round(4).diagonal().tolist()
        [4.0, 4.0, 4.0]
        """
        if len(dims) != 2 or dims[0] != dims[1]:
            raise RuntimeError(
                f"SaxeInitializer: the parameter must be a square matrix; got {dims}."
            )
        drawn = _uniform(dims[0] * dims[0], -1, 1).reshape(dims, order="F")
        u = (
            _left_vectors_by_jacobi(drawn)
            if _random.dynet_order()
            else np.linalg.svd(drawn.astype(np.float64))[0]
        )
        return (self.scale * u).astype(np.float32).ravel(order="F")


class FromFileInitializer(PyInitializer):
    """Numbers separated by white space, in column-major order, from a text file.

    Raises:
        RuntimeError: the file cannot be read, or holds something other than numbers.
        ValueError: it holds more or fewer numbers.

    >>> import dist_dynet as dy, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "numbers")
    ...     _ = file.write_text("1 2 3 4")
    ...     W = dy.ParameterCollection().add_parameters((2, 2), init=dy.FromFileInitializer(file))
    >>> W.as_array().tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """

    def __init__(self, fname: str | bytes | Path) -> None:
        name = fname.decode() if isinstance(fname, bytes) else fname
        self.path = file_path(name, "FromFileInitializer")

    def values(self, dims: tuple[int, ...], is_lookup: bool) -> Values:
        """The flat values, in storage order.

        Raises:
            RuntimeError: the file cannot be read, or holds something other than numbers.
            ValueError: it holds more or fewer numbers.

        >>> import pathlib, tempfile
        >>> import dist_dynet as dy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "numbers")
        ...     _ = file.write_text("1 2 3 4")
        ...     values = dy.FromFileInitializer(file).values((2, 2), False)
        >>> values.tolist()
        [1.0, 2.0, 3.0, 4.0]
        """
        try:
            numbers = np.array(self.path.read_text(encoding="utf-8").split(), np.float32)
        except OSError as error:
            raise RuntimeError(
                f"FromFileInitializer: cannot read {self.path}: {error.strerror}."
            ) from error
        except ValueError as error:
            raise RuntimeError(f"FromFileInitializer: {self.path}: {error}.") from error
        if numbers.size != _size(dims):
            raise ValueError(
                f"FromFileInitializer: {self.path} holds {numbers.size} numbers; dims {dims} need"
                f" {_size(dims)}."
            )
        return numbers


class NumpyInitializer(PyInitializer):
    """The values of an array of the parameter's dims, or of a flat one in column-major order.

    Raises:
        ValueError: another shape, or a lookup table.

    >>> import dist_dynet as dy
    >>> dy.ParameterCollection().add_parameters(
    ...     (2, 1), init=dy.NumpyInitializer([[1], [2]])
    ... ).as_array().tolist()
    [[1.0], [2.0]]
    """

    def __init__(self, array: ArrayLike) -> None:
        self.array: NDArray[Any] = numbers(array, "NumpyInitializer")

    def values(self, dims: tuple[int, ...], is_lookup: bool) -> NDArray[Any]:
        """The flat values, in storage order.

        Raises:
            ValueError: the array has another shape, or it is a lookup table.

        >>> import dist_dynet as dy
        >>> dy.NumpyInitializer([[1, 2], [3, 4]]).values((2, 2), False).tolist()
        [1.0, 3.0, 2.0, 4.0]
        """
        if is_lookup:
            raise ValueError(
                "NumpyInitializer: not for lookup tables. Use lookup_parameters_from_numpy() or"
                " init_from_array()."
            )
        given, wanted = ([d for d in shape if d != 1] for shape in (self.array.shape, dims))
        if self.array.size != _size(dims) or (len(given) > 1 and given != wanted):
            raise ValueError(
                "NumpyInitializer: the array must have the parameter's dims; got array"
                f" {self.array.shape}, dims {dims}."
            )
        return self.array.ravel(order="F")


_GLOROT = GlorotInitializer()


def read(init: Any) -> Any:
    """An `init` argument, with arrays of other libraries converted to NumPy's, or to numbers if
    they have no dims."""
    if hasattr(init, "__array__") and not isinstance(init, np.ndarray | np.generic):
        return np.asarray(init)[()]
    return init


def make(init: Any, dims: tuple[int, ...], scale: float, mean: float, std: float) -> PyInitializer:
    """The initialiser for an `init` argument. dims: as given by the user.

    Raises:
        ValueError: it stands for none.
    """
    if init is None:
        return _GLOROT
    if isinstance(init, PyInitializer):
        return init
    if isinstance(init, str) and init == "glorot":
        return _GLOROT
    if isinstance(init, int | float | np.number):
        return ConstInitializer(float(init))
    if isinstance(init, np.ndarray):
        return NumpyInitializer(init)
    if init == "uniform":
        return UniformInitializer(scale)
    if init == "normal":
        return NormalInitializer(mean, std * std)
    if init == "identity":
        return IdentityInitializer()
    if init == "saxe":
        return SaxeInitializer(scale)
    if init == "he":
        return NormalInitializer(0, 1 / (2 * dims[-1]))
    raise ValueError(
        f"Didn't recognize initializer {init!r}. Use 'glorot', 'uniform', 'normal', 'identity',"
        " 'saxe', 'he', a number, an array or an initializer object."
    )
