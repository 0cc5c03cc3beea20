"""The operations, by family. Each module turns function calls and operators into nodes;
csrc/ops/<family>.c computes them.

CONTRIBUTING.md has the recipe for a new one. The build and the tests name what is missing.
"""

from typing import TYPE_CHECKING

from . import (
    arithmetic,
    choice,
    convolution,
    elementwise,
    extremes,
    gradients,
    inputs,
    linear,
    losses,
    lstm,
    masked,
    random,
    reductions,
    selection,
    shape,
)
from . import function as _function  # named apart: each has a function of its own name
from . import softmax as _softmax

if TYPE_CHECKING:  # what the loop at the end does, for type checkers
    from .arithmetic import *  # noqa: F403 - the names are those of __all__
    from .choice import *  # noqa: F403 - the names are those of __all__
    from .convolution import *  # noqa: F403 - the names are those of __all__
    from .elementwise import *  # noqa: F403 - the names are those of __all__
    from .extremes import *  # noqa: F403 - the names are those of __all__
    from .function import *  # noqa: F403 - the names are those of __all__
    from .gradients import *  # noqa: F403 - the names are those of __all__
    from .inputs import *  # noqa: F403 - the names are those of __all__
    from .linear import *  # noqa: F403 - the names are those of __all__
    from .losses import *  # noqa: F403 - the names are those of __all__
    from .lstm import *  # noqa: F403 - the names are those of __all__
    from .masked import *  # noqa: F403 - the names are those of __all__
    from .random import *  # noqa: F403 - the names are those of __all__
    from .reductions import *  # noqa: F403 - the names are those of __all__
    from .selection import *  # noqa: F403 - the names are those of __all__
    from .shape import *  # noqa: F403 - the names are those of __all__
    from .softmax import *  # noqa: F403 - the names are those of __all__

FAMILIES = (
    inputs,
    arithmetic,
    elementwise,
    linear,
    _softmax,
    masked,
    losses,
    reductions,
    extremes,
    shape,
    selection,
    convolution,
    choice,
    gradients,
    lstm,
    random,
    _function,
)

OPERATIONS = [name for family in FAMILIES for name in family.__all__]
"""The names of all functions that make nodes."""

if not TYPE_CHECKING:  # checkers understand no list of names but one that is written out
    __all__ = OPERATIONS
    for _family in FAMILIES:
        for _name in _family.__all__:
            globals()[_name] = getattr(_family, _name)


def __dir__() -> list[str]:
    return sorted(OPERATIONS)
