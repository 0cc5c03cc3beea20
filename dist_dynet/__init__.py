"""dist_dynet: neural networks whose structure changes with every example.

    import dist_dynet as dy

Build a graph per example, loss.backward(), trainer.update(); dist_dynet.parallel turns the same
script into N MPI ranks.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import (  # _checkout first
    _checkout,  # noqa: F401
    _derived,
    _ffi,
    _hints,
    _launcher,
    _shown,
    _tracebacks,
    ops,
    schedules,
)
from ._random import reset_random_seed
from ._random_state import random_state, set_random_state
from ._tensor import Tensor
from ._tracebacks import full_tracebacks
from ._values import forward, npvalues, values
from ._version import __version__
from .batching import AutobatchStats, autobatch_stats
from .devices import *  # noqa: F403
from .devices import __all__ as _devices
from .expression import Expression
from .graph import ComputationGraph, cg, cg_checkpoint, cg_revert, cg_version, renew_cg
from .holders import *  # noqa: F403
from .holders import __all__ as _holders
from .nn import *  # noqa: F403
from .nn import __all__ as _builders
from .nn.builder import RecurrentBuilder
from .nn.owner import Owner
from .ops import *  # noqa: F403
from .params import *  # noqa: F403
from .params import __all__ as _params
from .settings import *  # noqa: F403
from .settings import __all__ as _settings
from .traced_functions import cell, traced
from .trainers import *  # noqa: F403
from .trainers import __all__ as _trainers
from .trainers.following import FollowsTrainer

if TYPE_CHECKING:
    from . import compat, parallel, training  # noqa: F401 - attributes of this package
    from .checking import GradientCheckError, check_gradient
    from .inspection import draw_graph, dump_cg, print_graphviz, print_text_graphviz
    from .io import load, load_generator, load_safetensors, save, save_safetensors
    from .nonfinite import NonFinite, NonFiniteError, find_nonfinite, trace_nonfinite
    from .profiling import Profile, ProfileRow, profile
    from .vocabulary import Vocabulary

_LATER = {
    "checking": ("GradientCheckError", "check_gradient"),
    "compat": (),
    "inspection": ("draw_graph", "dump_cg", "print_graphviz", "print_text_graphviz"),
    "io": ("load", "load_generator", "load_safetensors", "save", "save_safetensors"),
    "nonfinite": ("NonFinite", "NonFiniteError", "find_nonfinite", "trace_nonfinite"),
    "parallel": (),
    "profiling": ("Profile", "ProfileRow", "profile"),
    "training": (),
    "vocabulary": ("Vocabulary",),
}
"""Modules that most programs do not need, imported when they, or these names of theirs, are first
asked for."""

_PACKAGES = ("compat", "io", "nn", "ops", "parallel", "schedules", "trainers", "training")
"""What users may import by itself, or use as an attribute of this package."""

__all__ = [
    "AutobatchStats",
    "ComputationGraph",
    "Expression",
    "GradientCheckError",
    "NonFinite",
    "NonFiniteError",
    "Profile",
    "ProfileRow",
    "Tensor",
    "Vocabulary",
    "__version__",
    "autobatch_stats",
    "cell",
    "cg",
    "cg_checkpoint",
    "cg_revert",
    "cg_version",
    "check_gradient",
    "draw_graph",
    "dump_cg",
    "find_nonfinite",
    "forward",
    "full_tracebacks",
    "load",
    "load_generator",
    "load_safetensors",
    "npvalues",
    "print_graphviz",
    "profile",
    "print_text_graphviz",
    "random_state",
    "renew_cg",
    "reset_random_seed",
    "save",
    "save_safetensors",
    "schedules",
    "set_random_state",
    "trace_nonfinite",
    "traced",
    "values",
    *_builders,
    *_devices,
    *_holders,
    *ops.OPERATIONS,
    *_params,
    *_settings,
    *_trainers,
]

_then: list[Any] = []
"""What modules that stand for this one do when all that comes later is there: see compat."""


if not TYPE_CHECKING:  # else no name would be unknown

    def __getattr__(name: str) -> Any:
        """What is imported later: see _LATER."""
        for module, names in _LATER.items():
            if name == module or name in names:
                found = import_module(f".{module}", __name__)
                globals().update({each: getattr(found, each) for each in names})
                return globals()[name] if name in names else found
        raise AttributeError(f"module 'dist_dynet' has no attribute {name!r}{_hints.hint(name)}")

    def _without_search() -> None:
        """Imports all that comes later, and takes __getattr__ away. Each place of a program that
        says `dy.tanh` keeps where that lies, but only if the module has no __getattr__: one of
        10,000 dy.tanh(x) in a row then takes 65 ns, not 80. Hints at names are for errors that
        nobody catches then, see _tracebacks.py."""
        try:
            for module, names in _LATER.items():
                __getattr__(names[0] if names else module)
        except Exception:  # for lack of memory, say: all is as it was
            return
        globals().pop("__getattr__", None)
        for each in _then:
            each()

    # by then the searches have taken as long as the imports will, where no bytecode is kept
    _ffi.calls.set_many(1 << 23, _without_search)


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES})


_shown.attach()
for _class, _attributes in (
    (Expression, _hints.of_functions(ops.OPERATIONS) | _hints.OF_EXPRESSIONS),
    (Parameters, _hints.OF_PARAMETERS),  # noqa: F405
    (LookupParameters, _hints.OF_TABLES),  # noqa: F405
    (ParameterCollection, _hints.OF_COLLECTIONS),  # noqa: F405
    (Trainer, _hints.OF_TRAINERS),  # noqa: F405
    (Owner, _hints.OF_OWNERS),
    (schedules._Schedule, _hints.OF_SCHEDULES),
    (RecurrentBuilder, _hints.OF_RECURRENT_BUILDERS),
    (BiRNNBuilder, _hints.OF_BIRNN_BUILDERS),  # noqa: F405
):
    _hints.explain(_class, _attributes)
_hints.explain_arguments(Trainer, _hints.ARGUMENTS_OF_TRAINERS)  # noqa: F405
for _base, _last in (
    (ParameterCollection, "_weight_decay"),  # noqa: F405
    (Parameters, "_c"),  # noqa: F405
    (LookupParameters, "_c"),  # noqa: F405
    (Trainer, "_settings"),  # noqa: F405
    (FollowsTrainer, "_collection"),
    (Owner, "_collection"),
    (schedules._Schedule, "_base"),
):
    _derived.requires_init(_base, _last)
_hints.name_as_users_do(map(globals().get, __all__))
_hints.name_as_users_do(map(vars(schedules).get, schedules.__all__))
_tracebacks.install()


if (
    _launcher.is_connected()
    or {
        "DIST_DYNET_CHECK",
        "DIST_DYNET_METRICS",
        "DIST_DYNET_TIMELINE",
    }
    & os.environ.keys()
):
    # Under a launcher a failure on this rank must end the whole job; a trial and metrics follow
    # each trainer from its start.
    from . import parallel  # noqa: F401

if os.environ.get("DIST_DYNET_PROFILE", ""):
    from . import profiling

    profiling.of_whole_program(os.environ["DIST_DYNET_PROFILE"])
