"""Sequence nodes against NumPy, step by step: forms of x and of the result, lengths, masks,
directions, dropout, equal rows of a table.

How long: about ten seconds, half of them for the double build.
"""

import itertools

import numpy as np
import pytest
from gradients import directional_difference
from op_table import lstm as lstm_rows
from op_table import recurrent
from processes import passing_tests
from test_graph import close

import dist_dynet as dy
from dist_dynet._ffi import lib
from dist_dynet.ops._nodes import node

FORMS = {"list": 0, "matrix": lib.DN_SEQUENCE_MATRIX, "packed": lib.DN_SEQUENCE_PACKED}
NETWORKS = ["lstm", *recurrent.STEPS]
H, K, STEPS = 2, 3, 4
LENGTHS = [2, 4, 0, 3, 4]
BIAS = 0.5


def lstm_step(w, x, h, c):
    i, f, o, g = np.split(w[0] @ x + w[1] @ h + w[2], 4)
    c = lstm_rows.logistic(f + BIAS) * c + lstm_rows.logistic(i) * np.tanh(g)
    return lstm_rows.logistic(o) * np.tanh(c), c


def has_c(op):
    return op == "lstm" or op in recurrent.CELLS


def weight_dims(op):
    return [(4 * H, K), (4 * H, H), (4 * H,)] if op == "lstm" else recurrent.weights(op, H, K)


MASKED = {"lstm": "h", "simple_rnn": "h", "coupled_lstm": "hc", "fast_lstm": "h"}
"""What masks, one for all steps, the networks take: for h, and for c, where products see them."""
SEES = {
    "h": {"lstm": [1], "simple_rnn": [1], "coupled_lstm": [1, 5, 9], "fast_lstm": [1, 4, 7]},
    "c": {"coupled_lstm": [2, 6]},
}
"""Which of the weights multiply it."""


def reference(op, w, xs, real, start, reverse=False):
    """(h, c) at each position and at the end of one batch element; c is None for networks
    without."""
    step = lstm_step if op == "lstm" else recurrent.STEPS[op]
    w = [a.reshape(len(a), -1) for a in w]
    (h, c), shown = start, [None] * len(xs)
    for t in reversed(range(len(xs))) if reverse else range(len(xs)):
        if real[t]:
            h, c = step(w, xs[t][:, None], h, c)
        shown[t] = h, c
    return shown, (h, c)


class Case:
    """One node: its inputs as arrays, and what it must give."""

    def __init__(self, op, form, by_element, reverse, real, rng, state=True, masked=""):
        self.op, self.form, self.by_element, self.reverse, self.state = (
            op,
            form,
            by_element,
            reverse,
            state,
        )
        self.real = np.asarray(real)  # (steps, batch)
        self.steps, self.batch = self.real.shape
        self.x = rng.normal(size=(self.steps, self.batch, K))
        self.weights = [rng.normal(size=d) for d in weight_dims(op)]
        self.starts = (
            [rng.normal(size=(H, self.batch)) for _ in range(1 + has_c(op))] if state else []
        )
        self.masks = {m: rng.choice([0, 1.5], size=(H, self.batch)) for m in masked}

    @property
    def lengths(self):
        return self.real.sum(0)

    def inputs(self):
        """The arrays of x in the node's form, batch last."""
        x, real = self.x, self.real
        if self.form == "list":
            return [a.T for a in x]
        if self.form == "matrix":
            return [x.transpose(2, 0, 1)]
        return [
            np.array([x[t, b] for b in range(self.batch) for t in range(self.steps) if real[t, b]])
            .reshape(-1, K)
            .T
        ]

    def arrays(self):
        return [*self.weights, *self.starts, *self.masks.values(), *self.inputs()]

    def ints(self, as_mask):
        options = FORMS[self.form] | lib.DN_SEQUENCE_STATE * self.state
        options |= lib.DN_SEQUENCE_H_MASK * ("h" in self.masks)
        options |= lib.DN_SEQUENCE_C_MASK * ("c" in self.masks)
        options |= (
            lib.DN_SEQUENCE_REVERSED * self.reverse | lib.DN_SEQUENCE_BY_ELEMENT * self.by_element
        )
        if as_mask:
            return (
                self.steps,
                options | lib.DN_SEQUENCE_MASK,
                *self.real.astype(int).ravel().tolist(),
            )
        return (
            self.steps,
            options,
            *(self.lengths.tolist() if self.form == "packed" or not self.real.all() else []),
        )

    def node(self, arrays, as_mask=False):
        n = len(self.weights)
        inputs = [dy.inputTensor(a) for a in arrays[:n]] + [
            dy.inputTensor(a, batched=True) for a in arrays[n:]
        ]
        return node(
            self.op, inputs, self.ints(as_mask), (float(BIAS),) if self.op == "lstm" else ()
        ), inputs

    def expected(self):
        """The node's value as a flat array."""
        cs = has_c(self.op)
        runs = []
        for b in range(self.batch):
            w = list(self.weights)
            for what, mask in self.masks.items():
                for k in SEES[what][self.op]:
                    w[k] = w[k] * mask[:, b]
            start = [s[:, b : b + 1] for s in self.starts] if self.state else [np.zeros((H, 1))] * 2
            h, c = start[0], start[1] if cs else None
            runs.append(reference(self.op, w, self.x[:, b], self.real[:, b], (h, c), self.reverse))
        steps, batch = range(self.steps), range(self.batch)
        if self.by_element:
            packed = self.form == "packed"
            pieces = [
                runs[b][0][t][0] for b in batch for t in steps if self.real[t, b] or not packed
            ]
            pieces += [runs[b][1][0] for b in batch] + (
                [runs[b][1][1] for b in batch] if cs else []
            )
        else:
            pieces = [runs[b][0][t][k] for k in range(1 + cs) for t in steps for b in batch]
        return np.concatenate(pieces).ravel()


def floats(kind):
    """(steps, batch) of what is real."""
    by_length = np.arange(STEPS)[:, None] < LENGTHS
    return {
        "all": np.ones((STEPS, 3), bool),
        "one": np.ones((STEPS, 1), bool),
        "lengths": by_length,
        "holes": np.array([[0, 1, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0]], bool),
        "nothing": np.zeros((2, 2), bool),
    }[kind]


def cases(op, rng, forms=FORMS):
    for form, kind, by_element, reverse, state in itertools.product(
        forms,
        ("all", "one", "lengths", "holes", "nothing"),
        (False, True),
        (False, True),
        (False, True),
    ):
        if form == "packed" and kind in ("holes", "nothing"):
            continue
        yield (
            f"{form}, {kind}, {by_element=}, {reverse=}, {state=}",
            Case(op, form, by_element, reverse, floats(kind), rng, state),
        )


def masked_cases(op, rng):
    """With every choice of masks."""
    for masks, form, state, kind in itertools.product(
        ("h", "c", "hc"), FORMS, (False, True), ("one", "all", "lengths")
    ):
        if set(masks) <= set(MASKED.get(op, "")):
            case = Case(op, form, False, False, floats(kind), rng, state, masks)
            yield f"{form}, {kind}, {state=}, {masks=}", case


@pytest.mark.parametrize("op", NETWORKS)
def test_every_form_gives_what_steps_give(op, rng):
    for name, case in [*cases(op, rng), *masked_cases(op, rng)]:
        dy.renew_cg()
        masks = [True] if name.startswith(("list, holes", "matrix, holes")) else [False]
        if case.form != "packed" and not masks[0]:
            masks.append(True)
        for as_mask in masks:
            value = np.array(case.node(case.arrays(), as_mask)[0].vec_value())
            np.testing.assert_allclose(
                value, case.expected(), rtol=1e-5, atol=1e-5, err_msg=f"{name}, {as_mask=}"
            )


@pytest.mark.parametrize("op", NETWORKS)
def test_padding_is_not_read_and_gets_no_gradient(op, rng):
    case = Case(op, "list", False, False, floats("lengths"), rng)
    clean = case.node(case.arrays())[0].vec_value()
    case.x[~case.real] = np.nan
    node, inputs = case.node(case.arrays())
    close(node.vec_value(), clean)
    dy.sum_batches(dy.sum_elems(node)).backward(full=True)
    for t, x in enumerate(inputs[-STEPS:]):
        gradient = x.gradient()
        assert (
            np.isfinite(gradient).all()
            and not gradient[:, ~case.real[t]].any()
            and gradient[:, case.real[t]].all()
        )


@pytest.mark.float64
@pytest.mark.parametrize("op", NETWORKS)
def test_double_gradient_of_every_form(op, rng):
    for name, case in [*cases(op, rng), *masked_cases(op, rng)]:
        arrays, as_mask = case.arrays(), "holes" in name

        def value(*arrays, case=case, as_mask=as_mask):
            dy.renew_cg()
            return np.array(case.node(arrays, as_mask)[0].vec_value())

        dy.renew_cg()
        node, inputs = case.node(arrays, as_mask)
        w = rng.uniform(-1, 1, node.dim()[0] + (node.dim()[1],))
        dy.sum_batches(dy.dot_product(node, dy.inputTensor(w, batched=True))).backward(full=True)
        gradients = [e.gradient().reshape(a.shape) for e, a in zip(inputs, arrays, strict=True)]
        difference = directional_difference(value, arrays, w.ravel(order="F"), gradients, rng)
        assert difference is None, f"{name}: {difference}"


@pytest.mark.float32
def test_gradients_in_the_double_build():
    assert passing_tests("-m", "float64", __file__, DIST_DYNET_DTYPE="float64") == 5


@pytest.mark.parametrize("autobatching", [0, 1])
def test_gradients_of_rows_add_up_to_that_of_their_table(autobatching):
    words = [(1, 2, 1), (2, 2, 8), (1, 8, 2), (8, 1, 1), (1, 2, 2), (2, 8, 1)]  # few are computed
    for kind in (dy.SimpleRNNBuilder, dy.GRUBuilder, dy.VanillaLSTMBuilder):
        m = dy.ParameterCollection()
        builder, table = kind(1, 4, 3, m), m.add_lookup_parameters((9, 4), init="normal")
        for batched in (True, False):
            m.reset_gradients()
            dy.renew_cg(autobatching=autobatching)
            given = words if batched else [row[:1] for row in words]
            xs = [dy.lookup_batch(table, row) for row in given]
            outputs = builder.initial_state().transduce(xs)
            dy.sum_batches(dy.sum_elems(dy.square(dy.esum(outputs)))).backward()
            total = np.zeros((9, 4))
            for row, x in zip(given, xs, strict=True):
                for k, gradient in zip(row, x.gradient().reshape(4, -1).T, strict=True):
                    total[k] += gradient
            np.testing.assert_allclose(total, table.grad_as_array(), rtol=1e-4, atol=1e-5)
