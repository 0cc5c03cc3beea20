"""Nodes like earlier ones: a program makes a sequence of nodes several times in one graph, each
time with a few differences of size, batch, parameter, attribute or operation, and with reverts and
values in between. Sizes, values and gradients are those of the sequences made in graphs of their
own, bit for bit where nothing is batched. And graphs that follow one another, alike but for such
differences: each is as if it came after a graph that has nothing in common with it.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dist_dynet as dy
from dist_dynet._ffi import DTYPE_NAME, lib

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


def of_next(lines, copy, strategy):
    """The same of a sequence in the next graph, which may be reverted meanwhile, with a parameter
    frozen, or be left as it is half-way."""
    n, batch, changes, event = copy
    begin(strategy)
    OF[n].W.set_updated(event != "frozen")
    if event == "reverted":
        dy.cg_checkpoint()
    if event in ("reverted", "left"):
        sequence(lines[: 1 + len(lines) // 2], n, batch, {})
    if event == "reverted":
        dy.cg_revert()
    elif event == "left":
        begin(strategy)
    nodes = sequence(lines, n, batch, changes)
    nodes[-1].backward()
    try:
        return (
            [x.dim() for x in nodes],
            [x.npvalue() for x in nodes],
            [p.grad_as_array() for p in parameters()],
        )
    finally:
        OF[n].W.set_updated(True)


def of_stranger(strategy):
    """A graph that begins as no sequence does, and is longer."""
    begin(strategy)
    x = dy.scalarInput(0.5)
    for _ in range(60):
        x = dy.sin(x)
    x.forward()


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


def check_following(graphs, strategy):
    """Graphs ([(lines, copy)]) that follow one another, and each after a stranger."""
    following = [of_next(*graph, strategy) for graph in graphs]
    for c, (graph, got) in enumerate(zip(graphs, following, strict=True)):
        of_stranger(strategy)
        wanted = of_next(*graph, strategy)
        assert got[0] == wanted[0], f"graph {c}"
        for a, b in zip((*wanted[1], *wanted[2]), (*got[1], *got[2]), strict=True):
            np.testing.assert_array_equal(b, a, err_msg=f"graph {c}: {graph}")


EVENTS = ("", "reverted", "left", "frozen")


@st.composite
def following_graphs(draw):
    """Each differs from the one before in one line's operation, inputs or number, in its sizes, or
    in nothing."""
    lines, graphs = draw(st.lists(line, min_size=2, max_size=8)), []
    for _ in range(draw(st.integers(3, 8))):
        at, part = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, 5))
        if part < 4:
            other = draw(line)
            lines = [*lines]
            lines[at] = (*lines[at][:part], other[part], *lines[at][part + 1 :])
        n, batch = draw(st.sampled_from([(4, 1), (4, 1), (3, 1), (4, 2)]))
        graphs.append((lines, (n, batch, {}, draw(st.sampled_from(EVENTS)))))
    return graphs


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(following_graphs(), st.sampled_from([0, 0, 1, 2, 3]))
def test_graphs_like_the_one_before(graphs, strategy):
    check_following(graphs, strategy)


@pytest.mark.parametrize("name", sorted(LINES))
def test_one_difference_from_the_graph_before(name):
    """The same graph with each difference of one line, and back."""
    lines = [(name, 0, 0, 0), ("sum", 2, 0, 0), (name, 2, 3, 1)]
    changes = [{0: (name, 0, 1, 0)}, {0: (name, 1, 0, 0)}, {0: (name, 0, 0, 1)}]
    changes += [{1: ("sum", 0, 2, 0)}, {1: ("cmult", 2, 0, 0)}, {2: (name, 3, 2, 1)}]
    others = [(4, 1, change, "") for change in changes]
    others += [(4, 2, {}, ""), (3, 1, {}, ""), *((4, 1, {}, event) for event in EVENTS)]
    plain = (lines, (4, 1, {}, ""))
    for other in others:
        for strategy in (0, 3):
            check_following([plain, (lines, other), plain], strategy)
            check_following([(lines, other), plain, (lines, other)], strategy)


def test_sizes_other_than_in_the_graph_before():
    """Of inputs, and of a node that is like an earlier one of its own graph."""
    for n, m, first in (4, 3, 0), (3, 4, 0), (3, 4, 1), (3, 4, 0), (3, 4, 2), (4, 4, 0), (1, 4, 2):
        dy.renew_cg()
        x, y = dy.inputVector(np.arange(n)), dy.inputVector(np.arange(m))
        made = [dy.tanh(y), dy.tanh(x)]
        made.append(dy.sin(y) if first == 1 else dy.tanh((x, y, made[1])[first]))
        made += [dy.logistic(made[2]), dy.logistic(made[1])]
        sizes = [m, n, (n, m, n)[first]]
        assert [node.dim() for node in made] == [((k,), 1) for k in (*sizes, sizes[2], n)]
        np.testing.assert_allclose(made[1].npvalue(), np.tanh(np.arange(n)), rtol=1e-6)


@pytest.mark.parametrize("again", [False, True])
def test_what_is_taken_back_leaves_the_attributes_of_what_stays(again):
    """The node that is taken back is like an earlier one, or like the one of the graph before."""
    for _ in range(1 + again):
        dy.renew_cg()
        x = dy.inputVector([1, 2, 3])
        if not again:
            dy.tanh(x)
        second = dy.pick(x, 1)
        size = lib.dn_graph_size(dy.cg().number)
        dy.tanh(x)
        lib.dn_take_back(dy.cg().number, size)
        assert (dy.pick(x, 0).value(), second.value()) == (1, 2)


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
