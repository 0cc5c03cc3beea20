"""Expressions and Python's collector of cycles: it need not walk over graphs, and loses nothing by
that.

How long: under a second.
"""

import gc
import weakref

import pytest

import dist_dynet as dy


@pytest.mark.fast_paths  # expressions of Python are walked over
def test_the_collector_does_not_walk_over_nodes():
    m = dy.ParameterCollection()
    table, W = m.add_lookup_parameters((10, 4)), m.add_parameters((3, 4))
    builder = dy.VanillaLSTMBuilder(1, 4, 4, m)
    dy.renew_cg()
    x = dy.inputVector([1, 2, 3, 4])
    nodes = [
        x,
        table[3],
        W * x,
        2 * x + 1,
        -x,
        x[2],
        dy.tanh(x),
        dy.esum([x, x]),
        dy.concatenate([x, x]),
        dy.scalarInput(1),
    ]
    nodes += builder.initial_state().transduce([table[i] for i in range(5)])
    assert [i for i, node in enumerate(nodes) if gc.is_tracked(node)] == []


def test_a_class_of_the_users_own_is_collected_with_its_cycles():
    class Noted(dy.Expression):
        __slots__ = ("__weakref__", "me")

    noted = Noted()
    noted.me = noted
    gone = weakref.ref(noted)
    assert gc.is_tracked(noted)
    del noted
    gc.collect()
    assert gone() is None
