"""Members of a group that take equal rows of tables are computed once: values and gradients are
those of a graph without batching.

How long: a second.
"""

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet._ffi import DTYPE_NAME

TOLERANCE = 1e-9 if DTYPE_NAME == "float64" else 1e-4
BATCHED = [1, 2]  # by depth, by agenda
WORDS, TAGS = [3, 0, 3, 5, 3, 0, 7, 3, 5, 3, 0, 3], [0, 0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 0]


class Net:
    """Words and tags, each form of leaf, and a layer above them."""

    def __init__(self):
        self.m = m = dy.ParameterCollection()
        self.E, self.F, self.G = (m.add_lookup_parameters((n, 4)) for n in (9, 2, 9))
        self.W, self.b, self.V = (
            m.add_parameters((3, 4)),
            m.add_parameters(3),
            m.add_parameters((2, 3)),
        )
        self.tree = dy.ChildSumTreeLSTMBuilder(4, 3, m)
        rng = np.random.default_rng(2)
        for p in m.parameters_list():
            p.set_value(rng.normal(size=p.shape()))
        self.one, self.two, self.matrix, self.noisy = (
            dy.traced(f) for f in (self._one, self._two, self._matrix, self._noisy)
        )

    def _one(self, x):
        return dy.tanh(self.W * x + self.b)

    def _two(self, x, y):
        return dy.logistic(self.W * x), x, dy.cmult(x, y) + 1

    def _matrix(self, x):
        return dy.tanh(dy.reshape(x, (2, 2))), dy.sum_elems(x)

    def _noisy(self, x):
        return dy.dropout(self.W * x, 0.5)

    def words(self):
        return [self.E[w] for w in WORDS]

    def by_one(self):
        xs = self.words()
        return xs, [dy.sum_elems(self.V * self.one(x)) for x in xs]

    def by_two(self):
        xs, ys = self.words(), [self.F[t] for t in TAGS]
        outputs = [self.two(x, y) for x, y in zip(xs, ys, strict=True)]
        return xs + ys, [dy.sum_elems(self.V * h) + dy.dot_product(x, z) for h, x, z in outputs]

    def by_pairs(self):
        """Both arguments are one row: as one node, or as two."""
        xs = self.words()
        pairs = [
            (x, x if k % 4 else self.E[w]) for k, (x, w) in enumerate(zip(xs, WORDS, strict=True))
        ]
        return [x for pair in pairs for x in pair], [
            dy.squared_norm(z) for pair in pairs for z in self.two(*pair)[::2]
        ]

    def by_matrix(self):
        xs = self.words()
        return xs, [dy.sum_elems(dy.square(a)) + b for a, b in (self.matrix(x) for x in xs)]

    def by_two_cells(self):
        """Of the same rows, which are used outside of cells, too."""
        xs = self.words()
        return xs, [
            dy.sum_elems(self.V * self.one(x))
            + dy.squared_norm(self.two(x, x)[0])
            + dy.squared_norm(x)
            for x in xs
        ]

    def by_tree(self):
        xs = self.words()
        states = [self.tree.node(x) for x in xs]
        above = [
            self.tree.node(children=[states[i], states[i + 1]]) for i in range(0, len(states), 2)
        ]
        return xs, [
            dy.sum_elems(self.V * s.output()) + dy.sum_elems(s.s()[0]) for s in states + above
        ]

    def by_constants(self):
        """Some rows that are not updated, equal to others that are."""
        xs = [dy.lookup(self.E, w, update=k % 3 > 0) for k, w in enumerate(WORDS)]
        return xs[1:3], [dy.sum_elems(self.V * self.one(x)) for x in xs]

    def by_two_tables(self):
        """Rows of the same numbers in two tables."""
        xs = [(self.E, self.G)[k % 3 == 0][w] for k, w in enumerate(WORDS)]
        return xs, [dy.sum_elems(self.V * self.one(x)) for x in xs]

    def by_first_ones(self):
        """The first of equal ones are read by others, too."""
        xs = self.words()
        first = [xs[WORDS.index(w)] for w in dict.fromkeys(WORDS)]
        others = [dy.squared_norm(dy.tanh(x)) for x in first]
        return xs, [dy.sum_elems(self.V * self.one(x)) for x in xs] + others


FORMS = [
    Net.by_one,
    Net.by_two,
    Net.by_pairs,
    Net.by_matrix,
    Net.by_two_cells,
    Net.by_tree,
    Net.by_constants,
    Net.by_two_tables,
    Net.by_first_ones,
]


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def results(net, form, autobatching, full=False):
    """The losses, the gradients of rows as nodes, those of all parameters and tables."""
    for p in (*net.m.parameters_list(), *net.m.lookup_parameters_list()):
        p.clear_gradient()
    dy.renew_cg(autobatching=autobatching)
    xs, losses = form(net)
    loss = dy.esum([w * x for w, x in zip(np.linspace(-1, 2, len(losses)), losses, strict=True)])
    loss.value()
    loss.backward(full=full)
    asked = [x.gradient() for x in xs]
    return (
        [x.npvalue() for x in losses],
        asked,
        [p.grad_as_array() for p in (*net.m.parameters_list(), *net.m.lookup_parameters_list())],
    )


@pytest.mark.parametrize("autobatching", BATCHED)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_equal_rows_give_the_values_and_gradients_of_an_unbatched_graph(form, full, autobatching):
    net = Net()
    want, got = results(net, form, 0, full), results(net, form, autobatching, full)
    for w, g in zip(want, got, strict=True):
        assert len(w) == len(g)
        for a, b in zip(w, g, strict=True):
            close(b, a)


def test_gradients_accumulate_over_two_backward_steps():
    net = Net()
    once = results(net, Net.by_tree, 2)[2]
    dy.renew_cg(autobatching=2)
    _, losses = net.by_tree()
    loss = dy.esum([w * x for w, x in zip(np.linspace(-1, 2, len(losses)), losses, strict=True)])
    loss.backward()
    for p, g in zip((*net.m.parameters_list(), *net.m.lookup_parameters_list()), once, strict=True):
        close(p.grad_as_array(), 2 * g)


def test_a_row_can_be_asked_again_and_after_backward_only():
    net = Net()
    dy.renew_cg(autobatching=2)
    xs, losses = net.by_one()
    loss = dy.esum(losses)
    loss.backward()
    first = xs[0].gradient()
    close(xs[2].gradient(), first)  # the same word, the same loss
    close(xs[0].gradient(), first)
    before = net.W.grad_as_array(), net.E.grad_as_array()
    xs[0].gradient()
    close(net.W.grad_as_array(), before[0])
    close(net.E.grad_as_array(), before[1])


@pytest.mark.parametrize("form", [Net.by_one, Net.by_tree])
def test_rows_added_up_cannot_be_distinguished_after_an_update(form):
    net = Net()
    trainer = dy.SimpleSGDTrainer(net.m)
    for full in (False, True):
        dy.renew_cg(autobatching=2)
        xs, losses = form(net)
        dy.esum(losses).backward(full=full)
        kept = xs[0].gradient()
        trainer.update()
        if full:
            close(xs[0].gradient(), kept)
        else:
            with pytest.raises(RuntimeError, match="added up the gradients of equal rows"):
                xs[0].gradient()
        net.V.gradient()  # not a row


def test_scaled_tables_count_as_rows():
    net = Net()
    dy.SimpleSGDTrainer(net.m)
    net.m.set_weight_decay_lambda(0.1)
    trainer = dy.SimpleSGDTrainer(net.m)
    dy.renew_cg()
    dy.squared_norm(net.E[1]).backward()
    trainer.update()  # the table's factor is not 1 any more
    want, got = results(net, Net.by_tree, 0), results(net, Net.by_tree, 2)
    for w, g in zip(want, got, strict=True):
        for a, b in zip(w, g, strict=True):
            close(b, a)


def test_cells_that_draw_are_computed_for_each_member():
    net = Net()
    dy.renew_cg(autobatching=2)
    ys = [net.noisy(net.E[3]) for _ in range(20)]
    dy.esum([dy.sum_elems(y) for y in ys]).value()
    assert len({tuple(y.value()) for y in ys}) > 1


def test_distinct_rows_and_revert():
    net = Net()
    dy.renew_cg(autobatching=2)
    xs, losses = net.by_tree()
    want = dy.esum(losses).value()
    dy.cg_checkpoint()
    _, others = net.by_tree()
    close(dy.esum(others).value(), want)
    dy.cg_revert()
    again = dy.esum(losses + net.by_tree()[1])
    close(again.value(), 2 * want)
    again.backward()
    assert np.any(xs[0].gradient())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("autobatching", [0, *BATCHED])
def test_rows_of_a_frozen_table_have_no_gradient(autobatching, when):
    net = Net()
    if when == "before":
        net.E.set_updated(False)
    dy.renew_cg(autobatching=autobatching)
    rows = [net.E[w] for w in WORDS] + [net.F[t] for t in TAGS]
    loss = dy.esum([dy.squared_norm(net.one(x)) for x in rows])
    loss.value()
    net.E.set_updated(False)
    loss.backward()
    assert not any(x.gradient().any() for x in rows[: len(WORDS)])
    assert all(x.gradient().any() for x in rows[len(WORDS) :])
    assert not net.E.grad_as_array().any() and net.F.grad_as_array().any()


@pytest.mark.parametrize("autobatching", [0, *BATCHED])
def test_a_row_of_the_loss_has_a_gradient_be_it_zero(autobatching):
    """Also where the first of equal members, which is computed for all, is not of the loss."""
    net = Net()
    dy.renew_cg(autobatching=autobatching)
    outputs = [dy.sum_elems(net.one(net.E[word])) for word in WORDS]
    dy.esum(outputs).value()
    (0 * outputs[WORDS.index(WORDS[0], 1)]).backward()
    assert net.E.has_gradient() and not net.E.grad_as_array().any()


@pytest.mark.parametrize("autobatching", [1, 2, 3])
def test_gradients_of_equal_rows_stay_the_same_however_often_they_are_read(autobatching):
    """A matrix is transposed once many columns have come to it, which a read may bring about: what
    the next one multiplies by must still be there."""
    n, dim, rows = 24, 16, 4
    m = dy.ParameterCollection()
    E, W = m.add_lookup_parameters((rows, dim)), m.add_parameters((dim, dim))
    U = m.add_parameters((dim, dim))
    f = dy.traced(lambda x: dy.tanh(W * dy.tanh(U * x)))

    def gradients(autobatching, full):
        dy.renew_cg(autobatching=autobatching)
        xs = [E[i % rows] for i in range(n)]
        dy.esum([dy.sum_elems(dy.square(f(x))) for x in xs]).backward(full=full)
        return [x.gradient() for x in (*xs, *xs)]

    for got, right in zip(gradients(autobatching, False), gradients(0, True), strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-5)
