"""Saves and restores a rank's random generators: ours, Python's `random` and NumPy's global one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..._random_state import random_state, set_random_state


def rng_states() -> dict[str, Any]:
    """The states of the three generators of this process."""
    version, words, gauss = random.getstate()
    return {
        "dist_dynet": random_state(),
        "python": {"version": version, "words": np.array(words, np.uint32), "gauss": gauss},
        "numpy": np.random.get_state(legacy=False),
    }


def set_rng_streams(state: Mapping[str, Any]) -> None:
    """Restores states that rng_states() returned."""
    set_random_state(state["dist_dynet"])
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(state["numpy"])


def resume_rng_streams(state: Mapping[str, Any], rank: int, ranks: int) -> None:
    """Resumes from a checkpoint of `ranks` ranks: a rank that saved its states restores them, and
    an additional rank derives new ones from rank 0's, which `state` holds then."""
    if rank < ranks:
        set_rng_streams(state)
    else:
        _derive_rng_streams(state, rank)


def _derive_rng_streams(state: Mapping[str, Any], rank: int) -> None:
    """Seeds the generators of an additional rank from rank 0's states, differently for each rank.

    Draws in graphs depend on the rank anyway, so that their counters continue from rank 0's. The
    generators of Python and NumPy are seeded anew.
    """
    set_random_state(state["dist_dynet"])
    seed = hashlib.blake2b(
        state["python"]["words"].tobytes() + rank.to_bytes(8, "little"), digest_size=16
    ).digest()
    random.seed(seed)
    np.random.seed(np.frombuffer(seed, np.uint32))
