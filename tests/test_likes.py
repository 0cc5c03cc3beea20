"""Nodes like earlier ones: a program makes a sequence of nodes several times in one graph, each
time with a few differences of size, batch, parameter, attribute or operation, and with reverts and
values in between. Sizes, values and gradients are those of the sequences made in graphs of their
own, bit for bit where nothing is batched.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dist_dynet as dy
from dist_dynet._ffi import DTYPE_NAME

TOLERANCE = 1e-10 if DTYPE_NAME == "float64" else 1e-5
SIZES = (3, 4)

# What a line makes of two vectors, the parameters of their size and a number; a vector of as many
# elements.
LINES = {
    "affine": lambda p, x, y, k: dy.affine_transform([p.b, p.W, x]),
    "affine, other": lambda p, x, y, k: dy.affine_transform([p.b, p.V, x]),
    "affine, constant": lambda p, x, y, k: dy.affine_transform([p.b, dy.const_parameter(p.W), x]),
    "affine of two": lambda p, x, y, k: dy.affine_transform([p.b, p.W, x, p.V, y]),
    "product": lambda p, x, y, k: p.W * x,
    "product of nodes": lambda p, x, y, k: dy.tanh(p.V * 0.5) * x,
    "product with a frozen one": lambda p, x, y, k: p.frozen * x,
    "tanh": lambda p, x, y, k: dy.tanh(x),
    "logistic": lambda p, x, y, k: dy.logistic(x),
    "sum": lambda p, x, y, k: x + y,
    "sum of many": lambda p, x, y, k: dy.esum([x, y] + [x] * (k % 3)),
    "cmult": lambda p, x, y, k: dy.cmult(x, y),
    "scaled": lambda p, x, y, k: x * (0.5 + k % 3),
    "power": lambda p, x, y, k: dy.pow(dy.logistic(x), dy.scalarInput(1 + k % 2)),
    "constant": lambda p, x, y, k: dy.nobackprop(x) + y,
    "element": lambda p, x, y, k: x * dy.pick(y, k % 3),
    "part": lambda p, x, y, k: dy.concatenate(
        [dy.pick_range(x, 0, 1 + k % 2), dy.pick_range(y, 1 + k % 2, y.dim()[0][0])]
    ),
    "column": lambda p, x, y, k: dy.reshape(dy.transpose(dy.transpose(x)), x.dim()[0]),
    "softmax": lambda p, x, y, k: dy.softmax(x),
    "row": lambda p, x, y, k: p.E[k % 3] + x,
    "rows": lambda p, x, y, k: dy.lookup_batch(p.E, [k % 3] * x.dim()[1]) + x,
    "norm": lambda p, x, y, k: dy.layer_norm(x, p.b, p.c),
}


class Parameters:
    """Those of vectors of n elements."""

    def __init__(self, m, n):
        self.W, self.V, self.frozen = (m.add_parameters((n, n)) for _ in range(3))
        self.b, self.c = (m.add_parameters(n, init=dy.NormalInitializer()) for _ in range(2))
        self.E = m.add_lookup_parameters((3, n))
        self.frozen.set_updated(False)


dy.reset_random_seed(4)
M = dy.ParameterCollection()
OF = {n: Parameters(M, n) for n in SIZES}


def parameters():
    """All of them."""
    return [*M.parameters_list(), *M.lookup_parameters_list()]


def sequence(lines, n, batch, changes):
    """Its nodes; the number of those that are losses of one element stands last."""
    values = np.linspace(-1, 1, n * batch).reshape((n, batch), order="F")
    nodes = [
        dy.inputTensor(values, batched=True) if batch > 1 else dy.inputVector(values[:, 0]),
        OF[n].E[1],
    ]
    for at, line in enumerate(lines):
        name, i, j, k = changes.get(at, line)
        nodes.append(LINES[name](OF[n], nodes[i % len(nodes)], nodes[j % len(nodes)], k))
    picked = dy.pickneglogsoftmax(dy.sum_batches(nodes[-1]), len(lines) % n)
    return [*nodes, picked, dy.sum_batches(dy.sum_elems(nodes[-1])) + picked]


def begin(strategy):
    for p in parameters():
        p.clear_gradient()
    dy.renew_cg(autobatching=strategy)


def of_one(lines, copy):
    """(dims, values, gradients of parameters) of a sequence in a graph of its own."""
    begin(0)
    nodes = sequence(lines, *copy[:3])
    values = [x.npvalue() for x in nodes]
    nodes[-1].backward()
    return [x.dim() for x in nodes], values, [p.grad_as_array() for p in parameters()]


def of_all(lines, copies, strategy):
    """The same of all in one graph, the gradients of the sum of their losses."""
    begin(strategy)
    made = []
    for n, batch, changes, event in copies:
        if event == "reverted":
            dy.cg_checkpoint()
            sequence(lines[: 1 + len(lines) // 2], n, 3 - batch, {})
            dy.cg_revert()
        made.append(sequence(lines, n, batch, changes))
        if event == "computed":
            made[-1][-1].forward()
    loss = dy.esum([nodes[-1] for nodes in made])
    loss.backward()
    return (
        [[x.dim() for x in nodes] for nodes in made],
        [[x.npvalue() for x in nodes] for nodes in made],
        [p.grad_as_array() for p in parameters()],
    )


def close(a, b, largest, name):
    np.testing.assert_allclose(b, a, rtol=0, atol=TOLERANCE * max(1, largest), err_msg=name)


line = st.tuples(
    st.sampled_from(sorted(LINES)), st.integers(0, 9), st.integers(0, 9), st.integers(0, 5)
)
copy = st.tuples(
    st.sampled_from(SIZES),
    st.sampled_from([1, 1, 1, 2]),
    st.dictionaries(st.integers(0, 5), line, max_size=2),
    st.sampled_from(["", "", "", "reverted", "computed"]),
)


def check(lines, copies, strategies):
    wanted = [of_one(lines, copy) for copy in copies]
    largest = max(np.abs(v).max() for _, values, _ in wanted for v in values)
    gradients = [sum(parts) for parts in zip(*(of for _, _, of in wanted), strict=True)]
    steepest = max(np.abs(g).max() for g in gradients)
    assert np.isfinite([largest, steepest]).all(), "the tolerances would accept anything"
    for strategy in strategies:
        dims, values, of_parameters = of_all(lines, copies, strategy)
        for c, (dims_here, values_here, want) in enumerate(zip(dims, values, wanted, strict=True)):
            assert dims_here == want[0], f"copy {c}"
            for x, (a, b) in enumerate(zip(want[1], values_here, strict=True)):
                if strategy:
                    close(a, b, largest, f"strategy {strategy}, copy {c}, node {x}")
                else:
                    np.testing.assert_array_equal(b, a, err_msg=f"copy {c}, node {x}")
        for a, b in zip(gradients, of_parameters, strict=True):
            close(a, b, steepest, f"gradients, strategy {strategy}")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(line, min_size=2, max_size=8), st.lists(copy, min_size=2, max_size=7))
def test_sequences_made_again_are_those_of_graphs_of_their_own(lines, copies):
    check(lines, copies, (0, 1, 2, 3))


@pytest.mark.parametrize("name", sorted(LINES))
def test_one_line_in_place_of_another(name):
    """Sequences of this line and the same of each other line, by turns, on the same inputs."""
    for k, other in enumerate(sorted(LINES)):
        lines = [(name, 0, 1, k), ("tanh", 2, 2, 0), (name, 3, 0, k + 1)]
        changes = {0: (other, 0, 1, k), 2: (other, 3, 0, k + 2)}
        plain, changed = (4, 1, {}, ""), (4, 1, changes, "")
        copies = [plain, changed, plain, changed, (4, 2, changes, ""), (3, 1, {}, "")]
        check(lines, copies, (0, 3))


@pytest.mark.parametrize("strategy", [0, 1, 2, 3])
@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_node_with_another_index_is_like_none_of_its_copies(strategy, moment):
    """One of three nodes that are alike is given another index when so many of them were made."""
    dy.renew_cg(autobatching=strategy)
    picked, doubled = [], []
    for made in (1, 2, 3):
        picked.append(dy.pick(dy.tanh(dy.inputVector([1, 2, 3])), 0))
        if made == moment:
            picked[0].set_index(2)
        doubled.append(picked[-1] * 2)
    dy.esum(doubled).forward()
    wanted = 2 * np.tanh([3, 1, 1])
    np.testing.assert_allclose([x.value() for x in doubled], wanted, rtol=1e-6)


def test_an_error_leaves_the_next_node_as_it_is():
    """A node that is refused was looked for among earlier ones, and is not there."""
    p = OF[3]
    dy.renew_cg()
    for _ in range(3):
        x = dy.inputVector([1, 2, 3])
        h = dy.tanh(dy.affine_transform([p.b, p.W, x]))
        with pytest.raises(ValueError, match="affine_transform"):
            dy.affine_transform([p.b, p.W, dy.inputVector([1, 2])])
        y = dy.logistic(h)
        assert (h.dim(), y.dim()) == (((3,), 1), ((3,), 1))
        np.testing.assert_allclose(y.npvalue(), 1 / (1 + np.exp(-h.npvalue())), rtol=1e-5)
