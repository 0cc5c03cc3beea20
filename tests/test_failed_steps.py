"""A failed call of a recurrent network leaves nothing behind: no nodes, no masks; later draws are
those of a program without it. With the fast paths and without."""

import os

import numpy as np
import pytest
from processes import passing_tests
from test_states import BUILDERS

import dist_dynet as dy
from dist_dynet import _random

CALLS = {
    "add_input": lambda s, good, bad, matrix: s.add_input(bad),
    "add_inputs": lambda s, good, bad, matrix: s.add_inputs([good, bad]),
    "transduce": lambda s, good, bad, matrix: s.transduce([good, bad]),
    "first": lambda s, good, bad, matrix: s.transduce([bad, good]),
    "padded": lambda s, good, bad, matrix: s.transduce([good, bad, bad], lengths=[2]),
    "matrix": lambda s, good, bad, matrix: s.transduce_matrix(matrix),
    "nothing": lambda s, good, bad, matrix: s.add_inputs([good, None]),
}


GRAPHS = {
    "": {},
    "immediate": {"immediate_compute": True},
    "dynet": {"autobatching": True},  # and in DyNet's order: steps are DyNet's operations
}


def _after(of, call, start, graph):
    """What a sequence, and what follows it, give with a failed call or, None, without."""
    _random.use_dynet_order(graph == "dynet")
    dy.reset_random_seed(1)
    m = dy.ParameterCollection()
    builder = of(2, 3, 3, m)
    builder.set_dropout(0.5)
    dy.renew_cg(**GRAPHS[graph])
    good, bad, matrix = dy.inputVector([1, 2, 3]), dy.zeros(4), dy.ones((4, 2))
    s = start(builder.initial_state(), good)
    s.s()  # which makes the c of a list
    if call is not None:
        size = len(dy.cg())
        with pytest.raises((ValueError, TypeError)):
            call(s, good, bad, matrix)
        assert len(dy.cg()) == size
    outputs = [e.npvalue() for e in s.transduce([good, good])]
    return [*outputs, s.add_input(good).output().npvalue(), dy.dropout(dy.ones(30), 0.5).npvalue()]


STARTS = {
    "start": lambda s, x: s,
    "step": lambda s, x: s.add_input(x),
    "list": lambda s, x: s.add_inputs([x, x])[0],
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
@pytest.mark.parametrize("of", BUILDERS)
def test_failed_call_leaves_nothing(of, start, graph):
    try:
        want = _after(of, None, start, graph)
        for name, call in CALLS.items():
            for got, w in zip(_after(of, call, start, graph), want, strict=True):
                np.testing.assert_array_equal(got, w, err_msg=name)
    finally:
        _random.use_dynet_order(False)


STARTED_WITH = {
    "numbers": lambda builder, x, stale: builder.initial_state([1, 2]),
    "nothing": lambda builder, x, stale: builder.initial_state([]),
    "too many": lambda builder, x, stale: builder.initial_state([x] * 5),
    "stale": lambda builder, x, stale: builder.initial_state([stale] * 2),
    "raw": lambda builder, x, stale: builder.initial_state_from_raw_vectors([[1, 2, 3]] * 5),
    "text": lambda builder, x, stale: builder.initial_state_from_raw_vectors([[1, 2, 3], "a"]),
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("of", BUILDERS)
def test_failed_start_leaves_nothing(of, graph):
    def outputs(start):
        dy.reset_random_seed(1)
        builder = of(2, 3, 3, dy.ParameterCollection())
        builder.set_dropout(0.5)
        dy.renew_cg(**GRAPHS[graph])
        stale = dy.zeros(3)
        dy.renew_cg(**GRAPHS[graph])
        x = dy.inputVector([1, 2, 3])
        of_before = builder.initial_state().add_input(x)
        if start is not None:
            size = len(dy.cg())
            with pytest.raises((ValueError, TypeError, RuntimeError)):
                start(builder, x, stale)
            assert len(dy.cg()) == size
        states = of_before, *(builder.initial_state(share_masks=s) for s in (True, False))
        return [s.add_input(x).output().npvalue() for s in states]

    try:
        _random.use_dynet_order(graph == "dynet")
        want = outputs(None)
        for name, start in STARTED_WITH.items():
            for got, w in zip(outputs(start), want, strict=True):
                np.testing.assert_array_equal(got, w, err_msg=name)
    finally:
        _random.use_dynet_order(False)


def test_nodes_of_before_stay_as_they_are():
    m = dy.ParameterCollection()
    builder, w = dy.VanillaLSTMBuilder(1, 3, 3, m), m.add_parameters((3, 3), init=0.5)
    builder.set_dropout(0.5)
    dy.renew_cg()
    x = w * dy.inputVector([1, 2, 3])
    loss = dy.sum_elems(x)
    loss.backward()
    dy.cg_checkpoint()
    with pytest.raises(ValueError, match="3"):
        builder.initial_state().transduce([x, dy.zeros(4)])
    assert x.gradient().tolist() == [1, 1, 1] and loss.value() == 9
    y = builder.initial_state().transduce([x, x])[-1]
    assert y.npvalue().shape == (3,)
    dy.cg_revert()
    assert x.value() == [3, 3, 3]
    with pytest.raises(RuntimeError, match="Stale"):
        y.value()


def test_the_same_without_fast_paths():
    if os.environ.get("DIST_DYNET_FAST_PATHS") != "0":
        assert passing_tests(__file__, DIST_DYNET_FAST_PATHS="0")
