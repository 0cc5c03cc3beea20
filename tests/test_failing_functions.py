"""Functions in Python that raise in the midst of drawn programs, with marks that are taken back:
each call that raised is made again, and values and gradients are those of a graph without failures,
marks and questions.

How long: about ten seconds.
"""

import contextlib
import random

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet._ffi import DTYPE_NAME

RATES = (0, 0.25)
CLOSE = {"rtol": 2e-3, "atol": 2e-4} if DTYPE_NAME == "float32" else {"rtol": 1e-9, "atol": 1e-11}


class Raised(Exception):  # noqa: N818
    """By a function of the program's."""


class Model:
    """Parameters, and a function that raises now and then."""

    def __init__(self):
        m = self.m = dy.ParameterCollection()
        self.W, self.b = m.add_parameters((4, 4)), m.add_parameters(4)
        self.V, self.E = m.add_parameters((6, 4)), m.add_lookup_parameters((9, 4))
        self.gru, self.lstm = dy.GRUBuilder(2, 4, 4, m), dy.VanillaLSTMBuilder(1, 4, 4, m)
        self.both = dy.BiRNNBuilder(1, 4, 4, m, dy.VanillaLSTMBuilder)
        self.rng, self.rate = random.Random(0), 0.0
        self.f = dy.function(self._forward, self._backward, lambda dim: dim)
        self.cell = dy.traced(lambda x, y: dy.tanh(self.W * x + dy.cmult(y, self.b)))

    def _may_raise(self):
        if self.rng.random() < self.rate:
            raise Raised

    def _forward(self, x):
        self._may_raise()
        return np.tanh(x) * 1.5

    def _backward(self, xs, y, dy_):
        self._may_raise()
        return [1.5 * (1 - np.tanh(xs[0]) ** 2) * dy_]

    def forget(self):
        for p in self.members():
            p.clear_gradient()

    def members(self):
        return [*self.m.parameters_list(), *self.m.lookup_parameters_list()]


KINDS = (
    lambda s, a, b, i: dy.tanh(s.W * a + s.b),
    lambda s, a, b, i: s.f(a),
    lambda s, a, b, i: s.f(b),
    lambda s, a, b, i: a + b,
    lambda s, a, b, i: dy.cmult(a, b),
    lambda s, a, b, i: s.E[i],
    lambda s, a, b, i: s.gru.initial_state().add_input(a).add_input(b).output(),
    lambda s, a, b, i: s.lstm.initial_state().transduce([a, b, a])[i % 3],
    lambda s, a, b, i: dy.esum([a, b, s.f(b)]),
    lambda s, a, b, i: s.cell(a, b),
    lambda s, a, b, i: dy.affine_transform([s.b, s.W, a]),
    lambda s, a, b, i: s.both.transduce([a, b])[i % 2],
    lambda s, a, b, i: dy.sum_batches(dy.tanh(s.W * dy.concatenate_to_batch([a, b, a]))),
    lambda s, a, b, i: dy.sum_batches(s.W * dy.lookup_batch(s.E, [i, (i + 3) % 9])),
    lambda s, a, b, i: a * dy.pickneglogsoftmax(s.V * b, i % 6),
    lambda s, a, b, i: dy.softmax(s.W * a),
    lambda s, a, b, i: s.W * a,
    lambda s, a, b, i: s.W * b,
)


def drawn(seed):
    """Steps of a program, and the nodes that it has at the end."""
    rng, steps, kept, living, made = random.Random(seed), [], [], [*range(4)], 4
    for _ in range(rng.randrange(8, 70)):
        what = rng.random()
        if what < 0.65:
            inputs = rng.choice(living), rng.choice(living)
            steps.append(("node", made, rng.choice(KINDS), *inputs, rng.randrange(9)))
            living.append(made)
            made += 1
        elif what < 0.78:
            steps.append(("ask", rng.choice(living)))
        elif what < 0.88:
            steps.append(("mark",))
            kept.append([*living])
        elif what < 0.9:
            steps.append(("backward", rng.choice(living)))
        elif kept:
            steps.append(("revert",))
            living = kept.pop()
    return steps, living


class Runner:
    """Runs such a program."""

    def __init__(self, model, seed, autobatching, rate):
        self.model, self.rate, self.rng = model, rate, random.Random(seed + 2)
        model.rng, model.rate = random.Random(seed + 1), 0.0
        dy.renew_cg(autobatching=autobatching)
        self.nodes = {i: dy.inputVector([0.3 * i - 0.4, 0.1 * i, -0.2 * i, 0.5]) for i in range(3)}
        self.nodes[3] = model.E[1]

    def again(self, call):
        """Until it succeeds, which it does in the end; other nodes are asked in between."""
        for turn in range(60):
            self.model.rate = self.rate if turn <= 10 else 0.0
            try:
                return call()
            except Raised:
                if self.rng.random() < 0.4:
                    with contextlib.suppress(Raised):
                        self.nodes[self.rng.choice(sorted(self.nodes))].value()
        raise AssertionError("it raises for ever")

    def backward(self, loss):
        self.model.forget()
        loss.backward()

    def run(self, steps, with_questions):
        """All steps, or those alone that make nodes."""
        kept = []
        for what, *of in steps:
            if what == "node":
                number, make, a, b, i = of
                self.nodes[number] = make(self.model, self.nodes[a], self.nodes[b], i)
            elif not with_questions:
                continue
            elif what == "ask":
                self.again(self.nodes[of[0]].npvalue)
            elif what == "mark":
                self.again(dy.cg_checkpoint)
                kept.append({*self.nodes})
            elif what == "backward":
                loss = dy.sum_elems(self.nodes[of[0]])
                self.again(lambda loss=loss: self.backward(loss))
            else:
                dy.cg_revert()
                of_mark = kept.pop()
                self.nodes = {i: x for i, x in self.nodes.items() if i in of_mark}

    def found(self, living):
        """Loss, last values, gradients."""
        last = [self.nodes[i] for i in living[-10:]]
        loss = dy.sum_elems(dy.esum(last))
        value = self.again(loss.value)
        self.again(lambda: self.backward(loss))
        values = [self.again(x.npvalue) for x in last]
        return [np.array(value), *values, *(p.grad_as_array() for p in self.model.members())]


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_programs_in_which_functions_raise_give_what_others_give(first):
    dy.reset_random_seed(5)
    model = Model()
    for seed in range(first, first + 50):
        steps, living = drawn(seed)
        plain = Runner(model, seed, 0, 0)
        plain.run(steps, False)
        right = plain.found(living)
        for autobatching in range(4):
            for rate in RATES:
                runner = Runner(model, seed, autobatching, rate)
                runner.run(steps, True)
                for got, want in zip(runner.found(living), right, strict=True):
                    np.testing.assert_allclose(
                        got, want, err_msg=f"program {seed}, {autobatching}, {rate}", **CLOSE
                    )


def test_a_mark_that_a_failure_has_lowered_keeps_no_group_in_part():
    """A node before the mark is computed after it, and the mark is taken back: what was computed
    together with nodes behind that one is computed anew."""
    for autobatching in range(4):
        for raising in (), (1,), (5,), (1, 5):
            calls = []

            def forward(x, calls=calls, raising=raising):
                calls.append(0)
                if len(calls) in raising:
                    raise Raised
                return 1.5 * x

            m = dy.ParameterCollection()
            W = m.parameters_from_numpy(np.eye(4))
            f = dy.function(forward, lambda xs, y, d: [1.5 * d], lambda dim: dim)
            dy.renew_cg(autobatching=autobatching)
            x = dy.inputVector([0.57, 0.82, 0.17, -0.37])
            u, y = f(x), f(x)
            p, _ = W * y, W * x  # one product of two columns
            for call in dy.cg_checkpoint, lambda x=x, u=u: (x + u).value(), dy.cg_revert:
                try:
                    call()
                except Raised:
                    call()
            loss = dy.sum_elems(p)
            for call in loss.value, loss.backward:
                try:
                    call()
                except Raised:
                    call()
            right = np.tile(1.5 * x.npvalue(), (4, 1))
            np.testing.assert_allclose(W.grad_as_array(), right, rtol=1e-6)


def test_marks_around_one_that_a_failure_has_lowered_keep_no_more_than_it_does():
    """The mark within goes back to the start of the graph; the one around it must not bring back
    the order in which its nodes were computed before: they would count twice in backward."""

    def gradient(raises):
        m = dy.ParameterCollection()
        b, gru = m.add_parameters(4, init=1), dy.GRUBuilder(2, 4, 4, m)
        left = [raises]

        def forward(x):
            if left[0]:
                left[0] -= 1
                raise Raised
            return x

        f = dy.function(forward, lambda xs, y, d: [d], lambda dim: dim)
        dy.renew_cg(autobatching=0)
        x = dy.inputVector([1, 2, 3, 4])
        _ = gru.initial_state().add_input(x).add_input(x).output()
        y = dy.cmult(x, b)
        dy.cg_checkpoint()
        z, _ = f(y), x + x
        for call in dy.cg_checkpoint, z.npvalue:
            try:
                call()
            except Raised:
                call()
        dy.cg_revert()
        dy.cg_revert()
        dy.sum_elems(y).backward()
        return b.grad_as_array().tolist()

    assert gradient(0) == gradient(1) == [1, 2, 3, 4]
