"""Where a rank's random numbers stand: ours, Python's `random`, and NumPy's global generator."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._random_state import random_state, set_random_state


def draws() -> dict[str, Any]:
    """The states of all three generators of this process."""
    version, words, gauss = random.getstate()
    return {
        "dist_dynet": random_state(),
        "python": {"version": version, "words": np.array(words, np.uint32), "gauss": gauss},
        "numpy": np.random.get_state(legacy=False),
    }


def set_rng_streams(state: Mapping[str, Any]) -> None:
    """Goes on drawing from a draws()."""
    set_random_state(state["dist_dynet"])
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(state["numpy"])


def go_on_drawing(state: Mapping[str, Any], rank: int, ranks: int) -> None:
    """Goes on drawing in a run that so many ranks have saved: from the draws() of this rank; from
    rank 0's, if it was not there."""
    if rank < ranks:
        set_rng_streams(state)
    else:
        _derive_rng_streams(state, rank)


def _derive_rng_streams(state: Mapping[str, Any], rank: int) -> None:
    """Draws for a rank that was not there when they were saved: made from rank 0's, other ones for
    each rank.

    In graphs the rank itself tells draws apart, so that counting goes on from rank 0's; the
    generators of Python and NumPy are seeded anew.
    """
    set_random_state(state["dist_dynet"])
    seed = hashlib.blake2b(
        state["python"]["words"].tobytes() + rank.to_bytes(8, "little"), digest_size=16
    ).digest()
    random.seed(seed)
    np.random.seed(np.frombuffer(seed, np.uint32))
