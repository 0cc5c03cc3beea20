"""Settings of this process (random seed, autobatching, ...), and DyNet's functions for them.

Nothing needs to be initialised: importing the package is enough, and settings may be changed at any
time. At import these environment variables are read: DIST_DYNET_SEED, DIST_DYNET_RNG,
DIST_DYNET_AUTOBATCH, DIST_DYNET_WEIGHT_DECAY, DIST_DYNET_PRECISION, and by the FFI layer
DIST_DYNET_THREADS (docs/settings.md). Only DynetParams.from_args() reads sys.argv.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from . import _random
from ._deferred_signals import DeferSignals
from ._environment import warn_of_misspelt
from ._ffi import possible_threads
from ._ffi import set_threads as use_threads
from ._integers import integer, is_one
from .batching import strategy
from .expression import Expression
from .graph import set_default_autobatch
from .ops.gradients import nobackprop
from .params.decay import set_default_weight_decay
from .params.precision import check_precision, use_precision
from .params.root import use_dynet_order

__all__ = [
    "DynetParams",
    "const_parameter",
    "init",
    "init_from_params",
    "parameter",
]

_said: set[str] = set()


def say(what: str, text: str) -> None:
    """Prints a notice on stderr, once for each `what`."""
    if what not in _said:
        _said.add(what)
        print(f"dist_dynet: {text}", file=sys.stderr)


def _number(
    value: Any,
    what: str,
    takes: str,
    read: Callable[[Any], float] = float,
    below: float = math.inf,
) -> float:
    """read(value), 0 or more, of a number or its text. `takes` says in the error what is
    allowed.

    Raises:
        ValueError: it is no such number.
    """
    try:
        number = read(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if not 0 <= number < below:
        raise ValueError(f"{what}: takes {takes}; got {value!r}.")
    return number


def _integer(value: Any) -> int:
    return int(value) if isinstance(value, str) else integer(value)


def _whole(value: Any, what: str) -> int:
    return int(_number(value, what, "an integer, 0 or more", _integer))


def init(
    shared_parameters: Any = None,
    *,
    random_seed: int | None = None,
    autobatch: bool | int | None = None,
    weight_decay: float | None = None,
    mem: float | str | None = None,
    profiling: int | None = None,
    rng: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> None:
    """Changes settings of this process; those that are not given stay. It need not be called, and
    may be called several times.

    Args:
        shared_parameters: accepted for compatibility with DyNet; has no effect.
        random_seed: as reset_random_seed(); 0 keeps the present seed, which was drawn at random
            at the start of the process.
        autobatch: the default of renew_cg(autobatching=...); 0 (no batching) at
            the start.
        weight_decay: of new collections; see ParameterCollection.set_weight_decay().
        mem: accepted for compatibility with DyNet; memory is allocated as needed.
        profiling: accepted for compatibility with DyNet; has no effect.
        rng: "dynet": all that numbers depend on is as in DyNet, so that a program prints DyNet's
            losses if the seed is the same. Every draw comes from one generator in the order of
            computation, DyNet's (threads beside the first keep keyed draws); all sequences of a
            builder in one graph share their dropout masks; parameters that are not updated count in
            the clipping norm, and decay; a graph keeps the values of parameters over an update.
            "keyed": back to independent draws.
        precision: "bf16": products with parameters that are matrices are rounded to bfloat16, but
            for parameters with a precision of their own; sums, values, gradients and weights stay
            float32 (docs/precision.md). "float32": back to products that are not rounded. Graphs
            that have used a parameter already stay as they are.
        threads: how many threads share one computation, the caller's included; 1 at
            the start. Results do not depend on it.

    Raises:
        ValueError: a value is invalid; then nothing is changed.

    >>> import dist_dynet as dy
    >>> dy.init(weight_decay=0.01)
    >>> dy.ParameterCollection().get_weight_decay()
    0.01
    >>> dy.init(weight_decay=0)
    """
    params = DynetParams()
    params.set_shared_parameters(shared_parameters)
    given: dict[Callable[[Any], None], Any] = {
        params.set_random_seed: random_seed,
        params.set_autobatch: autobatch,
        params.set_weight_decay: weight_decay,
        params.set_mem: mem,
        params.set_profiling: profiling,
        params.set_rng: rng,
        params.set_precision: precision,
        params.set_threads: threads,
    }
    for setter, value in given.items():
        if value is not None:
            setter(value)
    params.init()


class _Setting(NamedTuple):
    """A row of the table of settings."""

    setter: str
    """The method of DynetParams that checks it."""
    sources: str
    """Where it may be set other than by a program: "option": --dynet-<name>; "config":
    from_config(); "variable": DIST_DYNET_<NAME>."""
    put_in_force: Callable[[Any], None] | None = None
    """None: it is accepted for compatibility with DyNet."""


_SETTINGS = {
    "rng": _Setting("set_rng", "variable", lambda rng: use_dynet_order(rng == "dynet")),
    "seed": _Setting(
        "set_random_seed",
        "variable option config",
        lambda seed: _random.reset_random_seed(seed) if seed else None,
    ),
    "autobatch": _Setting("set_autobatch", "variable option config", set_default_autobatch),
    "weight_decay": _Setting(
        "set_weight_decay", "variable option config", set_default_weight_decay
    ),
    "precision": _Setting("set_precision", "variable", use_precision),
    # the FFI layer reads its variable
    "threads": _Setting("set_threads", "", lambda threads: use_threads(threads, "set_threads")),
    "mem": _Setting("set_mem", "option config"),
    "memory": _Setting("set_mem", "option"),
    "profiling": _Setting("set_profiling", "option config"),
    "shared_params": _Setting("set_shared_parameters", "config"),
    "gpus": _Setting("set_requested_gpus", "option"),
    "requested_gpus": _Setting("set_requested_gpus", "config"),
    "gpu_mask": _Setting("set_gpu_mask", "config"),
    "devices": _Setting("_set_devices", "option"),
}
"""By name. Those that given() has are in the order in which they are applied."""

_INSTEAD = {"l2": " Its name today is --dynet-weight-decay.", "gpu-ids": " There is only the CPU."}
"""Hints for options of old versions."""


class DynetParams:
    """Settings to be applied by init(); only those that were set.

    >>> import dist_dynet as dy
    >>> settings = dy.DynetParams()
    >>> settings.set_random_seed(5)
    >>> settings.init()
    >>> dy.ParameterCollection().add_parameters((2, 2)).as_array().round(4).tolist()
    [[-0.681, 0.9081], [-1.0896, 0.8116]]
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def given(self) -> dict[str, Any]:
        """The settings that were set, by name: rng, seed, autobatch, weight_decay,
        precision, threads.

        >>> import dist_dynet as dy
        >>> settings = dy.DynetParams()
        >>> settings.set_random_seed(5)
        >>> settings.set_weight_decay(0.01)
        >>> settings.given()
        {'seed': 5, 'weight_decay': 0.01}
        """
        return dict(self._values)

    def put(self, settings: Mapping[str, Any]) -> None:
        """Takes the result of given().

        Raises:
            TypeError: it is no dict.
            ValueError: a name is unknown, or a value is invalid; then nothing is changed.
        """
        if not isinstance(settings, Mapping):
            raise TypeError(f"put: takes what given() gave; got {type(settings).__name__}.")
        names = [name for name, row in _SETTINGS.items() if row.put_in_force]
        unknown = [name for name in settings if name not in names]
        if unknown:
            raise ValueError(f"put: takes the names {', '.join(names)}; got {unknown[0]!r:.60}.")
        before = self.given()
        try:
            for name, value in settings.items():
                getattr(self, _SETTINGS[name].setter)(value)
        except BaseException:
            self._values = before
            raise

    def from_args(self, shared_parameters: Any = None) -> None:
        """Takes the --dynet-* options of sys.argv, which is not changed: --dynet-seed N,
        --dynet-autobatch 0/1/2/3, --dynet-weight-decay X.

        --dynet-mem and --dynet-profiling are accepted and ignored. `-` and `_` are equivalent, and
        so are `--dynet-seed 1` and `--dynet-seed=1`.

        Raises:
            ValueError: an option has no value, or an invalid one.
            RuntimeError: an option asks for a GPU.

        >>> import sys
        >>> import dist_dynet as dy
        >>> settings, arguments = dy.DynetParams(), sys.argv
        >>> sys.argv = ["train.py", "--dynet-seed", "5", "--dynet-autobatch=1"]
        >>> settings.from_args()
        >>> sys.argv = arguments
        >>> settings.given()
        {'seed': 5, 'autobatch': 1}
        """
        self.set_shared_parameters(shared_parameters)
        arguments, setters = sys.argv[1:], self._setters("option")
        for i, argument in enumerate(arguments):
            option, given, value = argument.partition("=")
            if not option.replace("_", "-").startswith("--dynet-"):
                continue
            name = option.replace("_", "-").removeprefix("--dynet-")
            if name in ("gpu", "viz"):
                if name == "gpu":
                    raise RuntimeError(f"{option}: there is only the CPU.")
                continue
            setter = setters.get(name.replace("-", "_"))
            if setter is None:
                say(
                    option,
                    f"the option {option} is not known and has no effect.{_INSTEAD.get(name, '')}",
                )
                continue
            if not given and i + 1 == len(arguments):
                raise ValueError(f"{option}: needs a value.")
            setter(value if given else arguments[i + 1], option)

    def _setters(self, source: str) -> dict[str, Any]:
        return {
            name: getattr(self, row.setter)
            for name, row in _SETTINGS.items()
            if source in row.sources.split()
        }

    def from_config(self, conf: Any) -> None:
        """Takes the attributes of an object, or the items of a dict, that exist.

        Their names: mem, seed, autobatch, profiling, weight_decay, shared_params, requested_gpus,
        gpu_mask.
        """
        for name, setter in self._setters("config").items():
            value = conf.get(name) if isinstance(conf, Mapping) else getattr(conf, name, None)
            if value is not None:
                setter(value)

    def init(self) -> None:
        """Applies the settings. May be called several times."""
        with DeferSignals():  # all of them or none
            for name, row in _SETTINGS.items():
                if row.put_in_force and name in self._values:
                    row.put_in_force(self._values[name])

    def set_mem(self, mem: float | str, what: str = "set_mem") -> None:
        """Accepted and ignored: memory is allocated as needed.

        Raises:
            ValueError: it is neither a number of MB nor text with four, of DyNet's four pools.
        """
        sizes = mem.split(",") if isinstance(mem, str) else [mem]
        if len(sizes) not in (1, 4):
            raise ValueError(f"{what}: takes one number of MB, or four; got {mem!r}.")
        for size in sizes:
            _number(size, what, "numbers of MB, 0 or more")

    def set_random_seed(self, random_seed: int, what: str = "set_random_seed") -> None:
        """Sets the seed; 0 keeps the present one."""
        self._values["seed"] = _whole(random_seed, what)

    def set_rng(self, rng: str, what: str = "set_rng") -> None:
        """Sets the order of random draws: "keyed" or "dynet", see init().

        Raises:
            ValueError: it is neither.
        """
        if not isinstance(rng, str) or rng not in ("keyed", "dynet"):
            raise ValueError(f"{what}: takes 'keyed' or 'dynet'; got {rng!r:.60}.")
        self._values["rng"] = rng

    def set_threads(self, threads: int, what: str = "set_threads") -> None:
        """How many threads share one computation, 1 or more: see init().

        Raises:
            ValueError: it is not an integer from 1 to the maximum.
        """
        self._values["threads"] = possible_threads(_whole(threads, what), what)

    def set_autobatch(self, autobatch: bool | int, what: str = "set_autobatch") -> None:
        """The default of renew_cg(autobatching=...), in the same terms."""
        self._values["autobatch"] = strategy(autobatch, what)

    def set_profiling(self, profiling: int, what: str = "set_profiling") -> None:
        """Accepted and ignored."""
        _whole(profiling, what)

    def set_weight_decay(self, weight_decay: float, what: str = "set_weight_decay") -> None:
        """The weight decay of new collections."""
        self._values["weight_decay"] = _number(weight_decay, what, "a number in [0, 1)", below=1)

    def set_precision(self, precision: str, what: str = "set_precision") -> None:
        """Whether products are rounded: "float32" or "bf16", see init()."""
        check_precision("" if precision is None else precision, what)
        self._values["precision"] = precision

    def set_shared_parameters(self, shared_parameters: Any) -> None:
        """Accepted and ignored."""

    def set_requested_gpus(self, requested_gpus: int, what: str = "set_requested_gpus") -> None:
        """Only 0: there is only the CPU.

        Raises:
            RuntimeError: it is more.
        """
        if _whole(requested_gpus, what):
            raise RuntimeError(f"{what}: there is only the CPU; got {requested_gpus!r}.")

    def set_gpu_mask(self, gpu_mask: Iterable[int]) -> None:
        """Only zeros: there is only the CPU.

        Raises:
            RuntimeError: one is not zero.
            TypeError: it is no list.
            ValueError: one is neither 0 nor 1.
        """
        if is_one(gpu_mask):
            raise TypeError(f"set_gpu_mask: takes a list of zeros; got {gpu_mask!r:.60}.")
        for item in gpu_mask:
            if _number(item, "set_gpu_mask", "0 or 1", _integer, below=2):
                raise RuntimeError("set_gpu_mask: there is only the CPU.")

    def set_cpu_mode(self) -> None:
        """Has no effect: there is only the CPU."""

    def _set_devices(self, devices: str, what: str) -> None:
        if any(d.strip() not in ("", "CPU") for d in devices.split(",")):
            raise RuntimeError(f"{what}: there is only the CPU; got {devices!r}.")


def init_from_params(params: DynetParams) -> None:
    """As params.init().

    Raises:
        TypeError: they are not DynetParams.
    """
    if not isinstance(params, DynetParams):
        raise TypeError(f"init_from_params: takes DynetParams; got {type(params).__name__}.")
    params.init()


# ---- parameters as expressions ---------------------------------------------------------


def parameter(*args: Any) -> Any:
    """Returns its argument, or a tuple of several: parameters are expressions already. Deprecated,
    as in DyNet; warns once.

    >>> import dist_dynet as dy
    >>> W = dy.ParameterCollection().add_parameters((2, 2))
    >>> dy.parameter(W) is W
    True
    """
    if "parameter" not in _said:  # it is called at each use of a parameter
        say(
            "parameter",
            "parameter(...) is deprecated: parameters are expressions by themselves. Leave it out.",
        )
    return args[0] if len(args) == 1 else args


def const_parameter(*args: Expression) -> Expression | list[Expression]:
    """The parameters as constants, which receive no gradient: nobackprop() of each; a list if there
    are several.

    >>> import dist_dynet as dy
    >>> W = dy.ParameterCollection().add_parameters(2, init=1)
    >>> dy.sum_elems(dy.const_parameter(W)).backward()
    >>> W.has_gradient()
    False
    """
    return nobackprop(args[0]) if len(args) == 1 else [nobackprop(p) for p in args]


# ---- the environment -------------------------------------------------------------------


def from_environment() -> DynetParams:
    """The settings of the DIST_DYNET_* variables.

    Raises:
        ImportError: one has an invalid value.
    """
    params = DynetParams()
    for setting, setter in params._setters("variable").items():
        name = f"DIST_DYNET_{setting.upper()}"
        if value := os.environ.get(name, ""):
            try:
                setter(value, name)
            except ValueError as error:
                raise ImportError(str(error)) from None
    return params


from_environment().init()
warn_of_misspelt()
