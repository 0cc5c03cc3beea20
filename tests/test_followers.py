"""What follows the updates of a trainer: each of table_followers.py does what its formula says, of
whatever trainer; signals, checkpoints and damaged states have tests of their own.

How long: a second.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from table_followers import FOLLOWERS, NOT_IN_THE_TABLE, follow_all, gaps
from tables import differing, known_classes

import dist_dynet as dy
from dist_dynet.trainers.following import FollowsTrainer

PACKAGE = Path(dy.__file__).parent


def test_table_has_every_follower():
    known = {
        name: c
        for name, c in known_classes(dy, FollowsTrainer).items()
        if issubclass(c, FollowsTrainer)
    }
    rows = {*map(type, follow_all(dy.ParameterCollection()).values())}
    public = "dist_dynet/trainers/__init__.py"
    said = differing(known, rows, NOT_IN_THE_TABLE, "tests/table_followers.py", public)
    assert not said, said


def test_what_follows_a_trainer_is_part_of_its_checkpoints():
    calls = re.compile(r"\bHooks\([^()]*\)\.follow\(|\bhooks\.follow\(|_followers\.append\(")
    known = {"trainers/following", "trainers/hooks"}
    found = {
        path.relative_to(PACKAGE).with_suffix("").as_posix()
        for path in PACKAGE.rglob("*.py")
        if calls.search(path.read_text())
    }
    new = sorted(f"dist_dynet/{name}.py" for name in found - known)
    assert not new, f"{new}: derive what follows from FollowsTrainer, which checkpoints hold"
    assert found == known


WRAPPED = {
    "collection": None,
    "plain": lambda trainer: trainer,
    "distributed": dy.parallel.DistributedTrainer,
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_followers_have_the_states_of_their_formulas(wrapped):
    m = dy.ParameterCollection()
    w, values = m.add_parameters(2, init=0, name="w"), []
    trainer = dy.SimpleSGDTrainer(m, 1)
    trainer = wrapped(trainer) if wrapped else trainer
    followers = follow_all(trainer if wrapped else m)
    for k in range(4):
        w.set_gradient([k - 2, 1])
        trainer.update()
        if not wrapped:
            for follower in followers.values():
                follower.update()
        values.append(w.as_array().astype(np.float64))
        if k == 0:
            first = trainer.state()
        elif k == 1:
            trainer.load_state(
                first
            )  # of the trainer alone: no update is told twice, or not at all
        assert not (said := gaps(followers, values)), said
    m = dy.ParameterCollection()
    m.add_parameters(2, init=0, name="w")
    others = follow_all(m)
    for name, other in others.items():
        other.load_state(followers[name].state())
    assert not (said := gaps(others, values)), f"where a state was loaded: {said}"


@pytest.mark.parametrize("name", FOLLOWERS)
def test_followers_refuse_what_they_cannot_follow(name):
    make = FOLLOWERS[name].make
    with pytest.raises(TypeError, match=rf"^{name}: takes a trainer or a ParameterColl.*; got int"):
        make(3)
    local = dy.parallel.LocalSGD(dy.SimpleSGDTrainer(dy.ParameterCollection()))
    follower = make(local)
    with pytest.raises(RuntimeError, match=f"a {name} of LocalSGD would follow the updates of one"):
        local.update()
    del follower
