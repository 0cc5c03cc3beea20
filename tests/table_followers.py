"""The table of followers: a row for each class that follows the updates of a trainer and has a
state, with its formula.

A new one gets a row here. From it come the tests of test_followers.py (formula, wrapped trainers,
refusals), of damaged states, of checkpoints, of signals at any place of an update, and of several
ranks (mpi/all_trainers.py). One without a row fails test_table_has_every_follower.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import dist_dynet as dy


class Row(NamedTuple):
    """A follower and its formula."""

    make: Callable[[Any], Any]
    """Makes it for a trainer or a collection."""
    formula: Callable[[list[Any]], dict[str, Any]]
    """Entries of its state() by all values that the parameter /w, the only one, has had after
    updates, the earliest first."""


def average(values):
    """With decay 0.5, from 0."""
    return {"average:/w": sum(w * 0.5**k for k, w in enumerate(values[::-1], 1))}


FOLLOWERS = {
    "MovingAverage": Row(lambda of: dy.MovingAverage(of, 0.5), average),
}
NOT_IN_THE_TABLE = {"FollowsTrainer": "the base of all: cannot be made"}


def follow_all(of):
    """{name: one of each}."""
    return {name: row.make(of) for name, row in FOLLOWERS.items()}


def gaps(followers, values):
    """Whose state is not that of its formula: a text with the file of each; or None."""
    said = []
    for name, follower in followers.items():
        state, expected = follower.state(), FOLLOWERS[name].formula(values)
        wrong = [
            key
            for key, x in expected.items()
            if not (key in state and np.allclose(state[key], x, rtol=1e-5, atol=1e-6))
        ]
        file = f"{type(follower).__module__.replace('.', '/')}.py"
        said += [f"{file}: after {len(values)} updates {key} of {name} is wrong" for key in wrong]
    return "\n".join(said) or None
