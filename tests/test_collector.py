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


@pytest.mark.fast_paths  # expressions of Python are walked over
def test_expressions_in_the_memory_of_others_are_those_that_were_made():
    x = dy.inputVector([1, 2])
    for _ in range(3):
        many = [dy.tanh(x) for _ in range(3000)]
        kinds = {type(node) for node in many}
        del many[::2]
        many += [2 * x for _ in range(1500)]
        assert kinds == {type(node) for node in many} == {dy.Expression}
        assert len({node._h for node in many}) == len({id(node) for node in many}) == 3000
        assert not any(gc.is_tracked(node) for node in many)
        del many


class Plain(dy.Expression):
    __slots__ = ()


class WithSlot(dy.Expression):
    __slots__ = ("kept",)


class WithDict(dy.Expression):
    pass


class Weak(dy.Expression):
    __slots__ = ("__weakref__",)


class Counted(dy.Expression):
    __slots__ = ()
    gone = 0

    def __del__(self):
        Counted.gone += 1


def test_objects_in_the_memory_of_others_have_nothing_of_these():
    Counted.gone = 0
    x = dy.inputVector([1, 2])
    for n in range(1, 60):
        objects = [cls() for cls in (Plain, WithSlot, WithDict, Weak, Counted) for _ in range(n)]
        objects += [dy.vecInput(2) for _ in range(n)] + [dy.tanh(x) for _ in range(n)]
        assert len({id(each) for each in objects}) == 7 * n
        for each in objects:
            assert not hasattr(each, "kept") and not getattr(each, "__dict__", {})
            if isinstance(each, WithSlot | WithDict):
                each.kept = each
        gone = [weakref.ref(each) for each in objects if isinstance(each, Weak)]
        del objects[n % 7 :: 2], each
        del objects
        assert [ref() for ref in gone] == [None] * n
        assert Counted.gone == n * (n + 1) // 2


def test_an_expression_that_goes_keeps_the_exception_that_is_under_way():
    def fail(cls):
        expressions = [cls() for cls in (cls,) * 3]
        raise KeyError(len(expressions))

    # more classes than are known at a time
    for cls in [type("Own", (dy.Expression,), {"__slots__": ()}) for _ in range(400)]:
        with pytest.raises(KeyError, match="3"):
            fail(cls)
