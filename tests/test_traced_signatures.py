"""Which arguments of a traced function share a trace: those that nothing tells apart."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pytest

import dist_dynet as dy


class Pair(NamedTuple):
    a: Any
    b: Any = 2


@dataclass(frozen=True)
class Options:
    a: Any
    hidden: Any = field(default=0, compare=False)


@pytest.mark.parametrize(
    "given",
    [
        (0.0, -0.0, 0, False),
        (np.float32(0.0), np.float32(-0.0), np.float64(0.0), np.float64(-0.0)),
        (0j, complex(0, -0.0), complex(-0.0, 0)),
        tuple(kind({x}) for kind in (frozenset,) for x in (1, 1.0, True)),
        tuple(Pair(x) for x in (1, 1.0, True)),
        tuple(Options((Pair(frozenset({x})),)) for x in (1, 1.0, True)),
        ((1, (2,)), (1.0, (2,)), (1, (2.0,)), [1, (2,)]),
        (Decimal("1.0"), Decimal("1.00"), Decimal(1)),
    ],
    ids=str,
)
def test_equal_arguments_that_differ_have_signatures_of_their_own(given):
    seen = []
    f = dy.traced(lambda x, k: seen.append(repr(k)) or x + 1)
    dy.renew_cg()
    x = dy.inputVector([1, 2])
    for _ in range(2):
        for k in given:
            f(x, k)
    assert seen == [repr(k) for k in given]


def test_infinities_of_both_zeros():
    f = dy.traced(lambda x, k: dy.cdiv(x, dy.constant(1, k)))
    dy.renew_cg()
    x = dy.inputVector([1])
    assert [f(x, k).value() for k in (0.0, -0.0, 0.0)] == [
        float("inf"),
        -float("inf"),
        float("inf"),
    ]
    for _ in range(3):
        f(x, float("nan"))
    assert f.traces == 3


def test_named_arguments_keep_their_order():
    f = dy.traced(lambda x, **named: dy.concatenate([x, *named.values()]))
    dy.renew_cg()
    x, y, z = (dy.inputVector([k]) for k in (1, 2, 3))
    for _ in range(2):
        assert f(x, a=y, b=z).value() == [1, 2, 3]
        assert f(x, b=z, a=y).value() == [1, 3, 2]
