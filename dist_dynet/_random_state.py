"""The state of all random draws, to be stored with a model so that a resumed run draws the same as
an uninterrupted one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _random
from ._ffi import ffi, lib
from ._state import check_state
from .graph import cg


def random_state() -> dict[str, NDArray[Any]]:
    """All that set_random_state() needs to repeat the draws from here on, as arrays by name.

    It holds the generator of initial values, the seed, the number of graphs this thread has drawn
    for since the seed was set, the number of samples outside graphs (as softmax builders draw), and
    the number of parallel.evaluate() calls. Rank and thread are not part of it: each keeps its own
    draws.

    >>> import dist_dynet as dy
    >>> state = dy.random_state()
    >>> m = dy.ParameterCollection()
    >>> a = m.add_parameters(3).as_array()
    >>> dy.set_random_state(state)
    >>> bool((m.add_parameters(3).as_array() == a).all())
    True
    """
    state = np.empty(lib.DN_RNG_STATE_WORDS, np.uint32)
    with _random.lock():
        lib.dn_rng_get_state(_random.generator(), ffi.from_buffer("uint32_t *", state))
    counts = {
        "counter": lib.dn_graph_counter(cg().number),
        "samples": cg()._samples,
        "evaluations": _random.evaluations(),
    }
    return {
        "mt19937": state,
        "seed": np.array(_random.seed(), np.uint64),
        **{name: np.array(n, np.uint64) for name, n in counts.items()},
    }


def set_random_state(state: Mapping[str, NDArray[Any]]) -> None:
    """Continues drawing from a random_state().

    Raises:
        TypeError: it is not a dict; then nothing is changed.
        ValueError: it is not a random_state(); likewise.

    >>> import dist_dynet as dy
    >>> state = dy.random_state()
    >>> draws = []
    >>> for _ in range(2):
    ...     dy.set_random_state(state)
    ...     _ = dy.renew_cg()
    ...     draws.append(dy.random_normal(4).npvalue().tolist())
    >>> draws[0] == draws[1]
    True
    """
    check_state(state, "set_random_state")
    try:
        words = np.require(state["mt19937"], np.uint32, ["C", "ALIGNED"])
        counts = _counts(state)
        if words.shape != (lib.DN_RNG_STATE_WORDS,) or min(counts) < 0 or max(counts) >> 64:
            said = ", ".join(f"{name} = {n}" for name, n in zip(_COUNTS, counts, strict=True))
            raise ValueError(f"mt19937 = {words.shape}, {said}")
        before = random_state()
        try:
            _set(words, *counts)
        except ValueError:
            raise
        except BaseException:  # Ctrl-C
            _set(before["mt19937"], *_counts(before))
            raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"set_random_state: takes what random_state() gave; got {error!s:.200}. Nothing was"
            " changed."
        ) from error


_COUNTS = "seed", "counter", "samples", "evaluations"


def _counts(state: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
    """The counts of a random_state(). Older files have neither samples nor evaluations."""
    seed, counter = int(state["seed"]), int(state["counter"])
    return seed, counter, int(state.get("samples", 0)), int(state.get("evaluations", 0))


def _set(words: NDArray[Any], seed: int, counter: int, samples: int, evaluations: int) -> None:
    """Sets everything in a random_state().

    Raises:
        ValueError: this is no state of the generator; then nothing is changed.
    """
    graph = cg()  # made before set_seed() reseeds all graphs
    with _random.lock():
        if lib.dn_rng_set_state(_random.generator(), ffi.from_buffer("uint32_t *", words)):
            raise ValueError("mt19937 is in no possible state")
    _random.set_seed(seed, evaluations)
    lib.dn_graph_set_counter(graph.number, counter)
    graph._samples = samples
