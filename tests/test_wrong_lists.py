"""What is no list, no number or no device, where one is meant: an error that names the function and
says what it takes.

How long: about two seconds.
"""

import numpy as np
import pytest

import dist_dynet as dy


class World:
    """What the calls are about."""

    def __init__(self):
        self.m = dy.ParameterCollection()
        self.W, self.E = self.m.add_parameters(2), self.m.add_lookup_parameters((3, 2))
        self.trainer = dy.SimpleSGDTrainer(self.m)
        self.lstm = dy.VanillaLSTMBuilder(1, 2, 2, self.m)


CALLS = {
    "npvalues: takes a list of expressions": lambda w, x: dy.npvalues(x),
    "forward: takes a list of expressions": lambda w, x: dy.forward(x),
    "check_gradient: takes a collection, or parameters": lambda w, x: dy.check_gradient(
        lambda: dy.sum_elems(w.W), x
    ),
    "check_gradient: epsilon must be a number": lambda w, x: dy.check_gradient(
        lambda: dy.sum_elems(w.W), w.m, epsilon=[x]
    ),
    "get_device_info: there is no device": lambda w, x: dy.get_device_info(np.array([1, 2])),
    "FloatValue: takes numbers": lambda w, x: dy.FloatValue("a"),
    "FloatVectorValue: takes a list of numbers": lambda w, x: dy.FloatVectorValue(x),
    "FloatVectorValue: takes numbers": lambda w, x: dy.FloatVectorValue("a"),
    "UnsignedVectorValue: takes a list of integers": lambda w, x: dy.UnsignedVectorValue(x),
    "StackedRNNState: takes a list of states": lambda w, x: dy.StackedRNNState(x),
    "initial_state_from_raw_vectors: takes a list of lists of numbers": lambda w, x: (
        w.lstm.initial_state_from_raw_vectors(x)
    ),
    "initial_state_from_raw_vectors: takes numbers": lambda w, x: (
        w.lstm.initial_state_from_raw_vectors(["a", "b"])
    ),
    "CRF: takes forbidden pairs of tags": lambda w, x: dy.CRF(w.m, 3, [x]),
    "CRF: takes forbidden pairs of tags;": lambda w, x: dy.CRF(w.m, 3, [(0, 1, 2)]),
    "SparseLSTMBuilder: forget_bias must be a number": lambda w, x: dy.SparseLSTMBuilder(
        1, 2, 2, w.m, forget_bias=[x]
    ),
    "CRF: takes forbidden pairs": lambda w, x: dy.CRF(w.m, 3, x),
    "CRF: each tag must have a name": lambda w, x: dy.CRF(w.m, [["a"], ["b"]]),
    "one_hot: takes one size": lambda w, x: dy.one_hot((2, 3), 1),
    "hinge_dim: takes a list of indices": lambda w, x: dy.hinge_dim(w.W, np.array(1)),
    "uniform: n must be 0 or more": lambda w, x: dy.cg().uniform(-1),
    "NormalInitializer: var must be a number": lambda w, x: dy.NormalInitializer(var="a"),
    "NormalInitializer: mean must be a number": lambda w, x: dy.NormalInitializer([x]),
    "UniformInitializer: scale must be a number": lambda w, x: dy.UniformInitializer([x]),
    "GlorotInitializer: gain must be a number": lambda w, x: dy.GlorotInitializer(gain=[x]),
    "HeInitializer: gain must be a number": lambda w, x: dy.HeInitializer([x]),
    "SaxeInitializer: scale must be a number": lambda w, x: dy.SaxeInitializer([x]),
    "ConstInitializer: c must be a number": lambda w, x: dy.ConstInitializer([x]),
    "Sampler: distribution must have a positive number": lambda w, x: dy.Sampler(3, object()),
    "rows_grad_as_array: takes a list of rows": lambda w, x: w.E.rows_grad_as_array(x),
    "add_gradients: takes a list of rows": lambda w, x: w.E.add_gradients(x, np.ones((1, 2))),
    "MovingAverage: decay must be a number": lambda w, x: dy.MovingAverage(w.m, decay={}),
    "update_subset: takes a list of parameters": lambda w, x: w.trainer.update_subset(x, []),
    "shard: cost must be a function or hold a number": lambda w, x: dy.parallel.shard(
        [1, 2], 1, cost=object()
    ),
    "all_reduce: op must be one of": lambda w, x: dy.parallel.all_reduce(1, op=np.array([1, 2])),
    "all_reduce: takes numbers": lambda w, x: dy.parallel.all_reduce([[1], [2, 3]]),
    "add_lookup_parameters: everything is computed on the CPU": lambda w, x: (
        w.m.add_lookup_parameters((2, 2), device=np.array([1, 2]))
    ),
}
"""message: call(world, what is no list)"""


@pytest.mark.parametrize("message", CALLS)
def test_errors_name_the_function_and_what_it_takes(message):
    for nothing in 5, np.float32(2), object(), int:
        w = World()
        before = list(w.m.named_parameters())
        with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
            CALLS[message](w, nothing)
        assert str(caught.value).startswith(message)
        assert list(w.m.named_parameters()) == before


def test_scalar_value_of_several_numbers_draws_nothing_anew():
    x = dy.random_normal(3)
    values, state = x.value(), dy.random_state()
    with pytest.raises(ValueError, match="scalar_value"):
        x.scalar_value(recalculate=True)
    assert x.value() == values
    assert all(np.array_equal(dy.random_state()[name], a) for name, a in state.items())


def test_iterables_of_any_kind_are_taken():
    w = World()
    assert dy.FloatVectorValue(x / 2 for x in range(3)).get() == [0, 0.5, 1]
    assert w.E.rows_grad_as_array(iter([0, 1])).shape == (2, 2)
    assert len(dy.npvalues(w.E[i] for i in range(2))) == 2
    state = w.lstm.initial_state_from_raw_vectors(np.ones((2, 2)))
    assert state.h()[0].value() == [1, 1]
