"""Ctrl-C at any place of a with block's entry, body and exit: what the block has switched on is off
afterwards.

How long: about five seconds.
"""

import pytest
from interrupted import interrupted_at

import dist_dynet as dy


class Model:
    """A parameter, its trainer and an average of it."""

    def __init__(self):
        self.m = dy.ParameterCollection()
        self.w = self.m.add_parameters(1, init=0)
        self.trainer = dy.parallel.DistributedTrainer(dy.SimpleSGDTrainer(self.m, 1))
        self.average = dy.MovingAverage(self.trainer, decay=None)
        self.one_pass()
        self.values = self.w.as_array().tolist()

    def one_pass(self):
        """Whether it has updated the parameter."""
        dy.renew_cg()
        self.w.expr(True).backward()
        return self.trainer.update()


def with_averages(model):
    with model.average.applied():
        model.w.as_array()


def without_exchange(model):
    with model.trainer.no_sync():
        model.w.as_array()


def without_nonfinite(model):
    with dy.trace_nonfinite():
        model.w.as_array()


def profiled(model):
    with dy.profile() as model.profile:
        model.w.as_array()


def joined(model):
    with dy.parallel.Join(model.trainer):
        model.w.as_array()


def values_are_back(model):
    assert not model.average.is_in and model.w.as_array().tolist() == model.values


def updates_at_once(model):
    assert not model.trainer.sync.silent


def infinities_pass(model):
    dy.renew_cg()
    assert dy.log(dy.scalarInput(0)).value() == -float("inf")


def no_profile(model):
    with dy.profile() as profile:
        dy.exp(dy.scalarInput(0)).value()
    assert [row.name for row in profile.rows] == ["exp"]


def outside_join(model):
    assert not model.trainer.sync.joins


CONTEXTS = {
    with_averages: values_are_back,
    without_exchange: updates_at_once,
    without_nonfinite: infinities_pass,
    profiled: no_profile,
    joined: outside_join,
}


@pytest.mark.parametrize("use", CONTEXTS, ids=lambda use: use.__name__)
@pytest.mark.usefixtures("ctrl_c_raises")
def test_with_block_that_is_interrupted_at_any_place_is_left(use):
    place, more = 0, True
    while more:
        model = Model()
        more = interrupted_at(place, lambda: use(model))  # noqa: B023 - called at once
        CONTEXTS[use](model)
        assert model.one_pass() and model.w.as_array().tolist() == [model.values[0] - 1], place
        place += 1
    assert place > 3
