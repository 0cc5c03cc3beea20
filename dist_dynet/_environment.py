"""The DIST_DYNET_* variables of the environment, converted: read once, at import. An invalid value
is an ImportError, a misspelt name a warning.

An empty value counts as none. This module knows names and formats of values, not what they are for.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

_PREFIX = "DIST_DYNET_"
_NAMES = """
    ATTEMPT AUTOBATCH BARS BLAS CFLAGS CHECK CLONES DTYPE END EXCHANGE FAST_PATHS INTERFACE
    LAUNCH_AGENT METRICS METRICS_EVERY PRECISION PROFILE PROGRESS RANK RNG SEED SHARED_LIMIT
    SILENCE STDIN THREADS TIMELINE TIMEOUT TRACEBACKS WEIGHT_DECAY
"""
SETTINGS = _NAMES.split()
"""Names after the prefix; docs/settings.md describes each."""


def number(name: str, default: float, *, least: float | None = None) -> float:
    """A number above 0, or of at least `least`; infinity is allowed.

    >>> number("NOT_SET", 2.5)
    2.5
    """
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (value > 0 if least is None else value >= least):
        raise ImportError(
            f"{name}: takes a number {'above 0' if least is None else f'of {least:g} or more'}; got"
            f" {text!r}."
        )
    return value


def whole(name: str, default: int) -> int:
    """An integer, 1 or more.

    >>> whole("NOT_SET", 3)
    3
    """
    text = os.environ.get(name) or str(default)
    if not text.strip().isdecimal() or int(text) < 1:
        raise ImportError(f"{name}: takes an integer, 1 or more; got {text!r}.")
    return int(text)


def choice(name: str, choices: Sequence[str]) -> str:
    """One of these; the first is the default.

    >>> choice("NOT_SET", ["left", "right"])
    'left'
    """
    text = os.environ.get(name) or choices[0]
    if text not in choices:
        raise ImportError(
            f"{name}: must be {', '.join(choices[:-1])} or {choices[-1]}; got {text!r}."
        )
    return text


def warn_of_misspelt() -> None:
    """Warns of variables that look like a setting but are none."""
    for name in os.environ:
        if name.startswith(_PREFIX) and name not in map(f"{_PREFIX}{{}}".format, SETTINGS):
            from difflib import get_close_matches  # imported only if needed

            for near in get_close_matches(name[len(_PREFIX) :], SETTINGS, 1, 0.8):
                warnings.warn(
                    f"{name}: there is no such setting. Did you mean {_PREFIX}{near}?",
                    RuntimeWarning,
                    stacklevel=2,
                )
