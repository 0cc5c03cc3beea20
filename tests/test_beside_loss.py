"""Nodes on which the loss does not depend add nothing to its gradients, whatever their values.

Where nothing is batched they have no part in backward. Here each operation of the table is computed
for the loss and, in the same graph, for inputs with 0, infinity and NaN, which share its
parameters: the gradients are those of a graph that has the loss alone. Zero times infinity must not
be added. How long: about fifteen seconds.
"""

import numpy as np
import op_table
import pytest
from op_table.run import drawn, kept
from processes import output_of
from together import together

import dist_dynet as dy

INF, NAN = float("inf"), float("nan")
FACTORS = {"0": (0, 0), "inf": (INF, 1), "nan": (NAN, 1), "mixed": (INF, 0)}
"""What every other number, and the rest, of the inputs beside the loss is multiplied by."""
CHECKED_WITHIN = {"topk"}
"""Rows whose build looks at the values with NumPy, which sorts such numbers otherwise."""
ORDERS = [("beside", "loss"), ("loss", "beside"), ("beside", "loss", "beside", "loss", "beside")]


class Given:
    """The inputs of a case, those that can be as parameters."""

    def __init__(self, case, arrays):
        self.case = case
        self.parameters = dy.ParameterCollection()
        self.given = [
            kept(self.parameters, spec, a, True)
            for spec, a in zip(case.inputs, arrays, strict=True)
        ]

    def times(self, factors):
        """The inputs, tensors times these numbers."""
        result = []
        for spec, x in zip(self.case.inputs, self.given, strict=True):
            if spec.kind == "tensor":
                x = dy.inputTensor(x, batched=True) if isinstance(x, np.ndarray) else x
                x = dy.cmult(x, dy.inputTensor(np.resize(factors, spec.shape), batched=True))
            result.append(x)
        return result

    def gradients(self):
        """Those of the parameters, and which rows of tables have one."""
        given = self.parameters.parameters_list() + self.parameters.lookup_parameters_list()
        rows = [sorted(p.touched_rows()) for p in given if isinstance(p, dy.LookupParameters)]
        return [p.grad_as_array() for p in given], rows


def _of(given, row, w, order, factors, autobatching):
    """The loss, w times the value, and its gradients in a graph in which these are made."""
    dy.renew_cg(autobatching=autobatching)
    given.parameters.reset_gradients()
    losses = []
    for name in order:
        inputs = given.times((1, 1) if name == "loss" else factors)
        y = row.build(*inputs, **given.case.attributes)
        if name == "loss":
            losses.append(dy.sum_batches(dy.dot_product(y, dy.inputTensor(w, batched=True))))
    loss = dy.esum(losses) / len(losses)
    with np.errstate(all="ignore"):  # of functions in Python
        value = loss.value()
        loss.backward()
    return value, *given.gradients()


def _cases(factors):
    """Of the table, with each of these factors."""
    for family, module in op_table.FAMILIES.items():
        for row in module.ROWS:
            for case in (
                row.cases[:2]
                if row.reference is not None and row.name not in CHECKED_WITHIN
                else ()
            ):
                if any(spec.kind == "tensor" and np.prod(spec.shape) for spec in case.inputs):
                    for name, pair in factors.items():
                        yield pytest.param(row, case, pair, id=f"{family}-{row.label(case)}-{name}")


@together(("row", "case", "factors"), _cases(FACTORS))
def test_what_is_beside_the_loss_adds_nothing(row, case, factors, rng):
    arrays = drawn(row, case, rng)
    given = Given(case, arrays)
    dy.renew_cg()
    dims, batch = row.build(*given.times((1, 1)), **case.attributes).dim()
    w = rng.normal(size=(*dims, batch))
    value, gradients, rows = _of(given, row, w, ["loss"], factors, 0)
    for autobatching in (0, 1, 2):
        for order in ORDERS:
            got = _of(given, row, w, order, factors, autobatching)
            where = f"autobatching={autobatching}, {order}"
            assert got[0] == pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=True), where
            assert got[2] == rows, where
            for g, x in zip(got[1], gradients, strict=True):
                np.testing.assert_allclose(g, x, rtol=1e-4, atol=1e-4, err_msg=where)


STEEP = {"0": (0, 0), "tiny": (1e-40, 1e-40), "tiny and 0": (1e-40, 0), "edge": (None, 1)}
"""So that values are finite, and derivatives are not; None: the first number becomes 1."""


def _by_steps(given, row, builder, factors, autobatching, lists):
    """The gradients of a loss that reads the first of two steps of two sequences. By lists of the
    inputs of both, or of the first one alone, in which nothing is beside the loss."""
    dy.renew_cg(autobatching=autobatching)
    given.parameters.reset_gradients()
    losses = []
    for _ in range(2):
        xs = []
        for numbers in ((1, 1), factors) if lists else ((1, 1),):
            y = row.build(*given.times(numbers), **given.case.attributes)
            xs.append(dy.reshape(dy.mean_batches(dy.sum_elems(y)), (1,)))
        losses.append(dy.squared_norm(builder.initial_state().transduce(xs)[0]))
    with np.errstate(all="ignore"):
        dy.esum(losses).backward()
    return given.gradients()


@together(("row", "case", "factors"), _cases(STEEP))
def test_what_steps_beside_the_loss_read_adds_nothing(row, case, factors, rng):
    """Their inputs get zeros from the sequences, which derivatives must not make NaN of."""
    arrays = drawn(row, case, rng)
    if factors[0] is None:
        first = next(a.flat[0] for a in arrays if a.size)
        factors = (1 / first if first else 1, 1)
    given = Given(case, arrays)
    builder = dy.SimpleRNNBuilder(1, 1, 2, given.parameters)
    want, rows = _by_steps(given, row, builder, factors, 0, False)
    for autobatching in (0, 1, 2):
        got = _by_steps(given, row, builder, factors, autobatching, True)
        for g, x in zip(got[0], want, strict=True):
            where = f"autobatching={autobatching}"
            np.testing.assert_allclose(g, x, rtol=1e-4, atol=1e-4, err_msg=where)
        assert got[1] == rows


DRAWS = """
import numpy as np, dist_dynet as dy
traced = dy.traced(lambda x: dy.dropout(dy.square(x), 0.5))
for autobatching in (0, 1, 2):
    for noisy in (lambda x: dy.dropout(x, 0.5), traced):
        dy.renew_cg(autobatching=autobatching)
        xs = [dy.inputVector(numbers) for numbers in np.arange(1, 25).reshape(6, 4) / 24]
        ys = [noisy(x) for x in xs]
        dy.esum([dy.sum_elems(y) for y in ys[1:4]]).backward(full=True)
        for x, y in zip(xs[1:4], ys[1:4]):
            print(*(x.gradient() != 0), "is" if np.array_equal(x.gradient() != 0, y.npvalue() != 0) else "is not", y.npvalue())
"""  # noqa: E501


@pytest.mark.parametrize("rng", ["keyed", "dynet"])
def test_gradients_are_of_the_draws_of_forward(rng):
    """Where a number was dropped, and nowhere else, its gradient is 0; some members are beside the
    loss."""
    lines = output_of(DRAWS, DIST_DYNET_RNG=rng).splitlines()
    assert len(lines) == 3 * 2 * 3
    assert {"True", "False"} <= {word for line in lines for word in line.split()}
    assert not [line for line in lines if "is not" in line]


@pytest.mark.parametrize("autobatching", [0, 1, 2])
@pytest.mark.parametrize("seed", range(20))
def test_rows_beside_the_loss_add_nothing_to_their_matrix(seed, autobatching):
    """Rows that are looked up in any order, and multiplied by one matrix; equal ones, too."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(6, 4))
    beside = rng.choice(6, size=3, replace=False)
    numbers[beside, rng.integers(4, size=3)] = rng.choice([INF, -INF, NAN], size=3)
    parameters = dy.ParameterCollection()
    table = parameters.lookup_parameters_from_numpy(numbers)
    w, v = (parameters.parameters_from_numpy(rng.normal(size=(3, 4))) for _ in range(2))
    looked_up = rng.integers(6, size=9)
    early = rng.random(9) < 0.5

    def gradients(indices):
        dy.renew_cg(autobatching=autobatching)
        parameters.reset_gradients()
        before = {i: table[i] for i, e in zip(looked_up, early, strict=True) if e}
        products, rows = {}, {}
        for place in indices:
            row = before.get(looked_up[place])
            rows[place] = table[looked_up[place]] if row is None else row
            products[place] = w * rows[place] + dy.tanh(v * rows[place])
        losses = [dy.squared_norm(y) for i, y in products.items() if looked_up[i] not in beside]
        loss = dy.esum([*losses, dy.scalarInput(0)])
        loss.value()
        loss.backward()
        of_rows = [rows[i].gradient() for i in of_loss]
        every = [w.grad_as_array(), v.grad_as_array(), table.grad_as_array(), *of_rows]
        return every, sorted(table.touched_rows())

    of_loss = [place for place, i in enumerate(looked_up) if i not in beside]
    got, want = gradients(range(9)), gradients(of_loss)
    for g, x in zip(got[0], want[0], strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_allclose(g, x, rtol=1e-4, atol=1e-4)
    assert got[1] == want[1]


# ---- which rows of tables trainers change ----------------------------------------------


@pytest.mark.parametrize("autobatching", range(4))
@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda W, x: dy.tanh(x), range(30)),
        (lambda W, x: W * x, range(30)),
        (lambda W, x: W * x, [*range(15)] * 3),
    ],
)
def test_rows_of_nodes_beside_the_loss_do_not_change(autobatching, use, words):
    """They are computed with nodes of the loss; a row with a gradient of zeros would go on with its
    momentum."""
    m = dy.ParameterCollection()
    W, E = m.add_parameters((3, 3)), m.add_lookup_parameters((30, 3))
    trainer = dy.MomentumSGDTrainer(m, 0.5)
    of_loss = [w for w in set(words) if w % 3]
    for step in range(2):
        dy.renew_cg(autobatching=autobatching)
        nodes = [(w, use(W, E[w])) for w in words]
        before = E.as_array()
        loss = dy.esum([dy.sum_elems(y) for w, y in nodes if step == 0 or w in of_loss])
        dy.forward([y for _, y in nodes])
        loss.backward()
        trainer.update()
        changed = np.flatnonzero((E.as_array() != before).any(axis=1)).tolist()
        assert changed == (sorted(set(words)) if step == 0 else of_loss)


@pytest.mark.parametrize("autobatching", range(4))
def test_rows_of_sequences_beside_the_loss_do_not_change(autobatching):
    m = dy.ParameterCollection()
    E, lstm = m.add_lookup_parameters((40, 3)), dy.VanillaLSTMBuilder(1, 3, 4, m)
    trainer = dy.MomentumSGDTrainer(m, 0.5)
    for step in range(2):
        dy.renew_cg(autobatching=autobatching)
        ends = [lstm.initial_state().transduce([E[w], E[w + 20], E[w]])[-1] for w in range(20)]
        before = E.as_array()
        dy.forward(ends)
        dy.esum([dy.sum_elems(y) for w, y in enumerate(ends) if step == 0 or w % 3]).backward()
        trainer.update()
        changed = np.flatnonzero((E.as_array() != before).any(axis=1)).tolist()
        assert changed == [w for w in range(40) if step == 0 or w % 20 % 3]


def test_a_row_whose_gradient_is_zero_has_one():
    """Zeros of the loss count: momentum goes on."""
    m = dy.ParameterCollection()
    E = m.add_lookup_parameters((40, 3))
    trainer = dy.MomentumSGDTrainer(m, 0.5)
    for autobatching in range(4):
        for factor in (1, 0):
            dy.renew_cg(autobatching=autobatching)
            before = E.as_array()
            dy.esum([dy.sum_elems(dy.tanh(E[w]) * factor) for w in range(20)]).backward()
            trainer.update()
            assert (E.as_array() != before).any(axis=1).tolist() == [w < 20 for w in range(40)]
