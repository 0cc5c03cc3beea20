"""The content of the modules `dynet`, `_dynet`, `_gdynet` (1.x with a GPU), `dynet_config` and
`dynet_viz` for a program written for DyNet.

`dynet` and `_dynet` have this package's names under DyNet's, the modules that DyNet imports into
its namespace, and the names of old versions. `from dynet import *` gives only DyNet's names,
including those of old versions, so that no name of the program is overwritten. Importing `dynet`
reads the command line; `_dynet` waits for init().
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

import dist_dynet

from ..devices import ERRMSG, HAVE_CUDA
from ..io.objects import read_as_dynet
from ..nn.builder import RecurrentBuilder
from ..ops import inputs, selection
from ..settings import say
from . import _old, _settings
from ._names import NAMES

VERSION, GIT_VERSION = "2.1", "2.1-167-g79e80bfa"
"""The version that the last installable release reports."""

_EXPRESSIONS = {
    name: getattr(module, name)
    for module in (inputs, selection)
    for name in vars(module)
    if name.startswith("_") and name.endswith("Expression")
}


_OLD: dict[str, Any] = {f.__name__: f for f in _old.FUNCTIONS} | {
    cls.__name__: cls for cls in _old.CLASSES
}
_STARRED = sorted({*NAMES, *_OLD})
"""What `from dynet import *` gives."""


_LATER = ("parallel", "training")
"""They take as long to import as all else together, and programs for DyNet do not know them."""


def _names() -> dict[str, Any]:
    """The names that `dynet` and `_dynet` have in common."""
    names = {name: getattr(dist_dynet, name) for name in dist_dynet.__all__}
    # what is new here
    names |= {
        name: import_module(f"dist_dynet.{name}")
        for name in dist_dynet._PACKAGES
        if name not in _LATER
    }
    names |= _OLD
    names |= {
        name: getattr(_settings, name) for name in ("DynetParams", "init", "init_from_params")
    }
    return (
        names
        | _EXPRESSIONS
        | {"np": np, "os": os, "sys": sys, "pickle": pickle, "_RNNBuilder": RecurrentBuilder}
    )


def _find_later(module: ModuleType) -> None:
    """Lets module find the names of _LATER: when they are asked for, or when many expressions were
    made, since a __getattr__ makes all names slower to find (see dist_dynet._without_search)."""
    names = module.__dict__

    def search(name: str) -> ModuleType:
        if name in _LATER:
            names[name] = found = import_module(f"dist_dynet.{name}")
            return found
        raise AttributeError(
            f"module {module.__name__!r} has no attribute {name!r}", name=name, obj=module
        )

    def find() -> None:
        for name in _LATER:
            search(name)
        names.pop("__getattr__", None)

    if hasattr(dist_dynet, "__getattr__"):
        names["__getattr__"] = search
        dist_dynet._then.append(find)
    else:
        find()


def _fill_common(module: ModuleType) -> None:
    _old.attach_methods()
    module.__dict__.update(_names())
    _find_later(module)
    module.__file__ = dist_dynet.__file__
    read_as_dynet(True)
    module.__doc__ = f"{module.__name__}: dist_dynet under DyNet's name."
    _settings.merged.use_dynet_order()


def _fill_extension(module: ModuleType) -> None:
    _fill_common(module)
    module.__dict__["__all__"] = [name for name in _STARRED if name in module.__dict__]


def _fill_dynet(module: ModuleType) -> None:
    viz = "--dynet-viz" in sys.argv
    if viz:
        sys.argv.remove("--dynet-viz")
    _fill_common(module)
    config = import_module("dynet_config")
    module.__dict__.update(
        HAVE_CUDA=HAVE_CUDA,
        ERRMSG=ERRMSG,
        __version__=VERSION,
        __gitversion__=GIT_VERSION,
        dynet_config=config,
        _CONF=config.get(),
        print_function=import_module("__future__").print_function,
        __all__=list(_STARRED),
    )
    params = _settings.DynetParams()
    if config.get() is not None:
        params.from_config(config.get())
    params.init()


# ---- dynet_config ----------------------------------------------------------------------


class _Config:
    """The state of `dynet_config`: settings for the following import of dynet."""

    values: dict[str, Any] | None = None
    wants_gpu: bool | None = None


def _config_set(
    mem: Any = "512",
    random_seed: int = 0,
    autobatch: int = 0,
    profiling: int = 0,
    weight_decay: float = 0,
    shared_parameters: Any = 0,
    requested_gpus: int = 0,
    gpu_mask: Any = None,
) -> None:
    """Settings for `import dynet`. The environment and the command line override them."""
    _Config.values = {
        "mem": mem,
        "seed": random_seed,
        "autobatch": autobatch,
        "profiling": profiling,
        "weight_decay": weight_decay,
        "shared_params": shared_parameters,
        "requested_gpus": requested_gpus,
        "gpu_mask": gpu_mask or [],
    }


def _config_set_gpu(flag: bool = True) -> None:
    """There is only the CPU: warns once."""
    _Config.wants_gpu = flag
    if flag:
        say(
            "gpu",
            "there is only the CPU; it is used in place of the GPU that the program asks for.",
        )
    if _Config.values is None:
        _config_set()


def _config_gpu() -> bool | None:
    """The argument of set_gpu()."""
    return _Config.wants_gpu


def _config_get() -> dict[str, Any] | None:
    """The settings given to set(); None if it was not called."""
    return _Config.values


def _fill_config(module: ModuleType) -> None:
    functions = {
        "set": _config_set,
        "set_gpu": _config_set_gpu,
        "gpu": _config_gpu,
        "get": _config_get,
    }
    module.__dict__.update(functions)


_FILL: dict[str, Callable[[ModuleType], None]] = {
    "dynet": _fill_dynet,
    "_dynet": _fill_extension,
    "_gdynet": _fill_extension,
    "dynet_config": _fill_config,
    "dynet_viz": _fill_extension,
}


def fill(module: ModuleType) -> None:
    """Fills a new module of one of these names."""
    _FILL[module.__name__](module)
