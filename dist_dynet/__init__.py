"""dist_dynet: neural networks whose structure changes with every example.

    import dist_dynet as dy

Build a graph per example, loss.backward(), trainer.update(); dist_dynet.parallel turns the same script into N MPI ranks.
"""

from __future__ import annotations

import os
from typing import Any

from . import _checkout, _habits, ops, schedules  # noqa: F401 - _checkout comes first
from ._random import reset_random_seed
from ._random_state import random_state, set_random_state
from ._version import __version__
from .batching import AutobatchStats, autobatch_stats
from .cells import cell
from .checking import GradientCheckError, check_gradient
from .expression import Expression, forward, npvalues, values
from .graph import ComputationGraph, cg, cg_checkpoint, cg_revert, cg_version, renew_cg
from .inspection import draw_graph, dump_cg, print_graphviz, print_text_graphviz
from .io import load, load_generator, load_safetensors, save, save_safetensors
from .nn import *  # noqa: F403
from .nn import __all__ as _builders
from .nonfinite import NonFinite, NonFiniteError, find_nonfinite, trace_nonfinite
from .ops import *  # noqa: F403
from .params import *  # noqa: F403
from .params import __all__ as _params
from .settings import *  # noqa: F403
from .settings import __all__ as _settings
from .tensor import Tensor
from .trainers import *  # noqa: F403
from .trainers import __all__ as _trainers

__all__ = [
    "AutobatchStats",
    "ComputationGraph",
    "Expression",
    "GradientCheckError",
    "NonFinite",
    "NonFiniteError",
    "Tensor",
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
    "load",
    "load_generator",
    "load_safetensors",
    "npvalues",
    "print_graphviz",
    "print_text_graphviz",
    "random_state",
    "renew_cg",
    "reset_random_seed",
    "save",
    "save_safetensors",
    "schedules",
    "set_random_state",
    "trace_nonfinite",
    "values",
    *_builders,
    *ops.__all__,
    *_params,
    *_settings,
    *_trainers,
]


def __getattr__(name: str) -> Any:
    """`dy.parallel`, imported when it is first asked for."""
    if name == "parallel":
        from importlib import import_module

        return import_module(".parallel", __name__)
    raise AttributeError(f"module 'dist_dynet' has no attribute {name!r}.{_habits.hint(name)}")


for _class, _attributes in (
    (Expression, _habits.OF_EXPRESSIONS),
    (Parameters, _habits.OF_PARAMETERS),  # noqa: F405
    (LookupParameters, _habits.OF_PARAMETERS),  # noqa: F405
    (ParameterCollection, _habits.OF_COLLECTIONS),  # noqa: F405
    (Trainer, _habits.OF_TRAINERS),  # noqa: F405
):
    _habits.explain(_class, _attributes)


if {"PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK"} & os.environ.keys():
    # Under a launcher: a failure on this rank must end the whole job.
    from . import parallel  # noqa: F401
