"""Random graphs over all families of operations: by each strategy, values and gradients equal the
unbatched ones, random draws exactly, in no fewer batches than the lower bound.

A program is a list of lines; each makes a node of two vectors made before, of 4 numbers and a batch
of one or more. Equal means to 1e-5 of the array's largest number; in double precision, which runs
as a process of its own, to 1e-9. Where terms cancel, what remains is as inexact as they were, so a
tenth of the tolerance, taken of the graph's largest value (or gradient), is granted to every array.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import passing_tests

import dist_dynet as dy
from dist_dynet._ffi import DTYPE_NAME

DOUBLE = DTYPE_NAME == "float64"
TOLERANCE = 1e-9 if DOUBLE else 1e-5
STRATEGIES = (1, 2, 3)
SIZE, LEAVES = 4, 4


class Model:
    """Parameters for all that a line may do."""

    def __init__(self):
        m = dy.ParameterCollection()
        self.collection = m
        self.a, self.c, self.g = (m.add_parameters(SIZE) for _ in range(3))
        self.A, self.C = m.add_parameters((SIZE, SIZE)), m.add_parameters((SIZE, SIZE))
        self.frozen = m.add_parameters((SIZE, SIZE))
        self.frozen.set_updated(False)
        self.table, self.wide = (
            m.add_lookup_parameters((6, SIZE)),
            m.add_lookup_parameters((5, 2 * SIZE)),
        )
        self.lstm, self.gru = (
            dy.VanillaLSTMBuilder(1, SIZE, SIZE, m),
            dy.GRUBuilder(1, SIZE, SIZE, m),
        )
        self.birnn = dy.BiRNNBuilder(1, SIZE, SIZE, m, dy.VanillaLSTMBuilder)
        self.tree = dy.BinaryTreeLSTMBuilder(SIZE, SIZE, m)

    def parameters(self):
        """All of them."""
        return [*self.collection.parameters_list(), *self.collection.lookup_parameters_list()]


def unbatched(x):
    """x, or the mean of its batch."""
    return x if x.dim()[1] == 1 else dy.mean_batches(x)


def sequence(m, x, y, i):
    """A sequence of 1 to 5 inputs, some of them rows."""
    return [
        (unbatched(x), unbatched(y), m.table[i % 6], m.table[(i + k) % 6])[(i + k) % 4]
        for k in range(1 + i % 5)
    ]


def as_matrix(x):
    return dy.reshape(x, (2, 2), batch_size=x.dim()[1])


def as_vector(x):
    return dy.reshape(x, (SIZE,), batch_size=x.dim()[1])


RANDOM = {
    "dropout": lambda m, x, y, i: dy.dropout(x, 0.5),
    "dropout_batch": lambda m, x, y, i: dy.dropout_batch(x, 0.4),
    "dropout_dim": lambda m, x, y, i: as_vector(dy.dropout_dim(as_matrix(x), i % 2, 0.5)),
    "noise": lambda m, x, y, i: dy.noise(x, 0.3),
    "normal": lambda m, x, y, i: dy.cmult(x, dy.random_normal(SIZE)),
}
LINES = {
    **RANDOM,
    "add": lambda m, x, y, i: x + y,
    "subtract": lambda m, x, y, i: x - y,
    "multiply": lambda m, x, y, i: dy.tanh(dy.cmult(x, y)),
    "divide": lambda m, x, y, i: dy.tanh(dy.cdiv(x, 2 + dy.square(y))),
    "scale": lambda m, x, y, i: 0.5 * x - (i % 3),
    "tanh": lambda m, x, y, i: dy.tanh(x),
    "logistic": lambda m, x, y, i: dy.logistic(x),
    "gelu": lambda m, x, y, i: dy.gelu(x),
    "elu": lambda m, x, y, i: dy.elu(x, 0.5 + i % 2),
    "rectify": lambda m, x, y, i: dy.rectify(x + 0.01),
    "gradient": lambda m, x, y, i: dy.scale_gradient(x, 0.5) + dy.nobackprop(y),
    "product": lambda m, x, y, i: (m.A, m.C, m.frozen, dy.transpose(m.A))[i % 4] * x,
    "affine": lambda m, x, y, i: dy.affine_transform([m.c, m.A, x]),
    "affine2": lambda m, x, y, i: dy.affine_transform([(m.c, x)[i % 2], m.A, x, m.C, y]),
    "matrices": lambda m, x, y, i: dy.tanh(as_vector(as_matrix(x) * as_matrix(y))),
    "dot": lambda m, x, y, i: dy.tanh(x * dy.dot_product(x, y)),
    "softmax": lambda m, x, y, i: dy.softmax(x),
    "log_softmax": lambda m, x, y, i: 0.1 * dy.log_softmax(x),
    "masked": lambda m, x, y, i: dy.masked_softmax(x, [1, 1, i % 2, 1]),
    "extremes": lambda m, x, y, i: dy.bmax(x, y) + dy.emax([x, y, m.a]),
    "logsumexp": lambda m, x, y, i: dy.logsumexp([x, y]) * 0.5,
    "sums": lambda m, x, y, i: dy.esum([x, y, m.a]) * 0.3 + dy.average([y, m.c]),
    "reduction": lambda m, x, y, i: y * dy.tanh(dy.mean_elems(x) + dy.l2_norm(1 + dy.square(y))),
    "over a dim": lambda m, x, y, i: dy.concatenate(
        [dy.mean_dim(as_matrix(x), [i % 2], False), dy.sum_dim(as_matrix(y), [0])]
    ),
    "cumsum": lambda m, x, y, i: dy.tanh(dy.cumsum(x)),
    "norm": lambda m, x, y, i: dy.layer_norm(x, m.g, m.a),
    "convolution": lambda m, x, y, i: dy.tanh(dy.circ_conv(x, y)),
    "pieces": lambda m, x, y, i: dy.concatenate(
        [dy.pick_range(x, 0, 2), dy.select_rows(y, [1, i % 4])]
    ),
    "pick": lambda m, x, y, i: x + dy.pick(y, i % 4),
    "stack": lambda m, x, y, i: dy.tanh(
        dy.concatenate_cols([x, y, m.a]) * dy.inputVector([0.5, -0.5, 1])
    ),
    "row": lambda m, x, y, i: m.table[i % 6],
    "rows": lambda m, x, y, i: (
        dy.lookup_batch(m.table, [i % 6, (i + 1) % 6]) if x.dim()[1] != 3 else x
    ),
    "other size": lambda m, x, y, i: dy.pick_range(
        dy.tanh(m.wide[i % 5] + dy.concatenate([x, y])), i % 4, i % 4 + SIZE
    ),
    "batch": lambda m, x, y, i: dy.concatenate_to_batch([unbatched(x), unbatched(y)]),
    "of the batch": lambda m, x, y, i: dy.pick_batch_elem(x, x.dim()[1] - 1) + unbatched(y),
    "lstm": lambda m, x, y, i: m.lstm.initial_state().transduce(sequence(m, x, y, i))[-1],
    "lstm state": lambda m, x, y, i: (
        m.lstm.initial_state([unbatched(x), unbatched(y)])
        .add_inputs(sequence(m, x, y, i))[-1]
        .s()[0]
    ),
    "lstm step": lambda m, x, y, i: m.lstm.initial_state().add_input(x).output(),
    "gru": lambda m, x, y, i: m.gru.initial_state().transduce(sequence(m, y, x, i))[0],
    "birnn": lambda m, x, y, i: dy.esum(m.birnn.transduce(sequence(m, x, y, i))) * 0.3,
    "tree": lambda m, x, y, i: m.tree.node(
        children=[m.tree.node(unbatched(x)), m.tree.node(unbatched(y))]
    ).output(),
    "python": lambda m, x, y, i: dy.function(np.sin, lambda xs, y, dy: [dy * np.cos(xs[0])], SIZE)(
        unbatched(x)
    ),
}
LOSSES = (
    lambda v, k: dy.pickneglogsoftmax_batch(v, [k % SIZE] * v.dim()[1]),
    lambda v, k: dy.hinge_batch(v, [k % SIZE] * v.dim()[1], 1.5),
    lambda v, k: dy.squared_norm(v),
    lambda v, k: dy.huber_distance(v, dy.inputVector([0.1, 0.2, 0.3, 0.4]), 0.7),
)


def run(m, program, strategy, parts):
    """(loss, nodes, values, gradients of parameters), the values read after `parts` pieces were
    computed one after the other."""
    for p in m.parameters():
        p.clear_gradient()
    dy.reset_random_seed(3)
    dy.renew_cg(autobatching=strategy)
    vectors = [
        m.table[0],
        m.table[1],
        dy.lookup_batch(m.table, [2, 3]),
        dy.inputVector([0.5, -1, 2, 0.1]),
    ]
    for n, (name, i, j) in enumerate(program):
        vectors.append(LINES[name](m, vectors[i % len(vectors)], vectors[j % len(vectors)], i + j))
        if parts and n % parts == parts - 1:
            vectors[-1].forward()
    losses = [dy.sum_batches(LOSSES[k % len(LOSSES)](v, k)) for k, v in enumerate(vectors)]
    loss = dy.esum([dy.tanh(0.05 * x) for x in losses])
    value = loss.value()
    loss.backward()
    return (
        value,
        vectors,
        [v.npvalue() for v in vectors],
        [p.grad_as_array() for p in m.parameters()],
    )


def largest(arrays):
    """The largest number of all, by its size."""
    return max(np.abs(a).max(initial=0) for a in arrays)


def close(a, b, of_graph, name):
    atol = TOLERANCE * max(np.abs(a).max(initial=0), of_graph / 10)
    np.testing.assert_allclose(b, a, rtol=0, atol=atol, err_msg=name)


def check(program, parts):
    m = Model()
    loss, vectors, values, of_parameters = run(m, program, 0, parts)
    gradients = [v.gradient() for v in vectors]
    largest_value, largest_gradient = (
        largest([loss, *values]),
        largest([*gradients, *of_parameters]),
    )
    assert np.isfinite([largest_value, largest_gradient]).all(), (
        "the tolerances would accept anything"
    )
    for strategy in STRATEGIES:
        batched_loss, batched_vectors, batched_values, batched_of_parameters = run(
            m, program, strategy, parts
        )
        stats = dy.autobatch_stats()
        assert 0 < stats.least_batches <= stats.batches, f"batches, strategy {strategy}"
        close(loss, batched_loss, largest_value, f"loss, strategy {strategy}")
        for k, (a, b) in enumerate(zip(values, batched_values, strict=True)):
            name, i, _ = program[k - LEAVES] if k >= LEAVES else ("leaf", k, k)
            close(a, b, largest_value, f"value of line {k - LEAVES}, {name}, strategy {strategy}")
            if name.startswith("dropout"):
                np.testing.assert_array_equal(
                    a == 0, b == 0, err_msg=f"mask of line {k - LEAVES}, strategy {strategy}"
                )
            if name in RANDOM and np.array_equal(values[i % k], batched_values[i % k]):
                np.testing.assert_array_equal(
                    a, b, err_msg=f"draws of line {k - LEAVES}, {name}, strategy {strategy}"
                )
        for k, (a, v) in enumerate(zip(gradients, batched_vectors, strict=True)):
            close(
                a,
                v.gradient(),
                largest_gradient,
                f"gradient of line {k - LEAVES}, strategy {strategy}",
            )
        for k, (a, b) in enumerate(zip(of_parameters, batched_of_parameters, strict=True)):
            close(a, b, largest_gradient, f"gradient of parameter {k}, strategy {strategy}")


lines = st.tuples(st.sampled_from(sorted(LINES)), st.integers(0, 99), st.integers(0, 99))


@settings(
    max_examples=250 if DOUBLE else 60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
@given(st.lists(lines, min_size=3, max_size=60), st.sampled_from([0, 0, 7]))
def test_random_graphs_equal_unbatched_ones(program, parts):
    check(program, parts)


@pytest.mark.parametrize("name", sorted(LINES))
def test_many_lines_of_a_kind_equal_unbatched_ones(name):
    rng = np.random.default_rng(len(name))
    check(
        [
            (name, int(i), int(j))
            for i, j in rng.integers(0, 4, (9, 2)) + 4 * rng.integers(0, 20, (9, 1))
        ],
        0,
    )
    check([(name, int(i), int(j)) for i, j in rng.integers(0, 99, (30, 2))], 0)


def test_the_comparison_sees_two_tolerances():
    a = np.array([0.5, -1])
    close(a, a * (1 + TOLERANCE / 2), 2, "half")
    for wrong, of_graph in ((a * (1 + 2 * TOLERANCE), 1), (a + 2 * TOLERANCE, 10)):
        with pytest.raises(AssertionError, match="twice"):
            close(a, wrong, of_graph, "twice")


@pytest.mark.float64
def test_the_random_graphs_run_in_double():
    assert DOUBLE


@pytest.mark.float32
def test_random_graphs_in_double():
    assert passing_tests(__file__, DIST_DYNET_DTYPE="float64")
