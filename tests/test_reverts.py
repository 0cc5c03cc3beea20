"""Checkpoint, revert, set() and recalculation: in processes of their own, so that a call that never
returns is a failure."""

import pytest
from processes import output_of, run_python

BEGIN = """
import dist_dynet as dy
m = dy.ParameterCollection()
V, W = m.add_parameters((3, 2)), m.add_parameters((3, 2))
"""


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_values_after_reverts_are_those_of_a_new_graph(mode, request):
    seed = request.config.getoption("--seed")
    result = run_python("reverts.py", str(seed), "150", str(mode), timeout=60)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == ["done"]


@pytest.mark.parametrize("again", ["b.value(recalculate=True)", "xs[0].set([1, 2]); b.value()"])
def test_gathers_of_an_earlier_evaluation_are_not_linked_to(again):
    code = f"""{BEGIN}
dy.renew_cg()
xs = [dy.inputVector([i, 1.0]) for i in range(3)]
a, b = dy.esum([V * x for x in xs]), dy.esum([W * x for x in xs[:2]])
a.value()
{again}
print(b.value() == dy.esum([W * dy.inputVector(x.value()) for x in xs[:2]]).value())
"""
    assert output_of(code, timeout=60).split() == ["True"]


@pytest.mark.parametrize("mode", [1, 2])
def test_gathers_that_a_revert_dropped_are_not_linked_to(mode):
    code = f"""
import dist_dynet as dy
m = dy.ParameterCollection()
A, B, C, D = (m.add_parameters(d) for d in ((3, 6), (3, 4), (4, 6), (6, 4)))
E = {{n: m.add_lookup_parameters((7, n)) for n in (3, 4, 6)}}
def program(graph):
    p, q, r = E[3][0], E[4][6], E[6][0]
    x = dy.tanh((B * C) * r)
    pool = [p, dy.tanh(A * r), x, dy.silu(x), x * 0.7, dy.cmult(dy.tanh(p), p), dy.sqrt(dy.square(p) + 0.5), dy.tanh((A * D) * q)]
    pool += [dy.emax([x, p]), q, r]
    total = lambda nodes: dy.esum([dy.sum_elems(e) for e in nodes])
    if graph:
        dy.cg_checkpoint()
        total(pool).value()
        dy.cg_revert()
    return total([*pool, dy.emax([pool[1], pool[4]])]).value()
dy.renew_cg(autobatching={mode})
value = program(1)
dy.renew_cg()
print(abs(value - program(0)) < 1e-4)
"""  # noqa: E501
    assert output_of(code, timeout=60).split() == ["True"]
