"""Recurrent networks as one node: all steps in a list, as in lstm.py. Other forms, masks and
lengths: tests/test_sequences.py."""

import numpy as np

import dist_dynet as dy
from dist_dynet.ops import _nodes

from .elementwise import logistic
from .lstm import parts
from .row import Row, case, refuses, tensor


def simple_step(w, x, h, _c):
    wx, wh, b = w
    return np.tanh(wx @ x + wh @ h + b), None


def gru_step(w, x, h, _c):
    z, r = (logistic(wx @ x + wh @ h + b) for wx, wh, b in (w[:3], w[3:6]))
    n = np.tanh(w[6] @ x + w[7] @ (r * h) + w[8])
    return (1 - z) * h + z * n, None


def coupled_step(w, x, h, c):
    wix, wih, wic, bi, wox, woh, woc, bo, wgx, wgh, bg = w
    i = logistic(wix @ x + wih @ h + wic @ c + bi)
    c = (1 - i) * c + i * np.tanh(wgx @ x + wgh @ h + bg)
    return logistic(wox @ x + woh @ h + woc @ c + bo) * np.tanh(c), c


def fast_step(w, x, h, c):
    wix, wih, bi, wox, woh, bo, wgx, wgh, bg = w
    i = logistic(wix @ x + wih @ h + bi)
    c = (1 - i) * c + i * np.tanh(wgx @ x + wgh @ h + bg)
    return logistic(wox @ x + woh @ h + bo) * np.tanh(c), c


STEPS = {
    "simple_rnn": simple_step,
    "gru": gru_step,
    "coupled_lstm": coupled_step,
    "fast_lstm": fast_step,
}
WEIGHTS = {
    "simple_rnn": "xhb",
    "gru": "xhb" * 3,
    "coupled_lstm": "xhhbxhhbxhb",
    "fast_lstm": "xhb" * 3,
}
CELLS = ("coupled_lstm", "fast_lstm")
"""Those that have a c."""


def weights(op, h, k):
    """The dims of the weights, in order."""
    return [{"x": (h, k), "h": (h, h), "b": (h,)}[kind] for kind in WEIGHTS[op]]


def matrices(op, arrays):
    """The weights as matrices, biases as columns."""
    n = arrays[WEIGHTS[op].index("b")].shape[0]
    return [a.reshape(n, -1) for a in arrays[: len(WEIGHTS[op])]]


def row(op):
    number, has_c = len(WEIGHTS[op]), op in CELLS

    def build(*inputs, steps, state):
        size = inputs[0].dim()[0][0]
        node = _nodes.node(op, inputs, (steps, state))
        return dy.concatenate(parts(node, 0, (1 + has_c) * steps, size))

    def reference(*arrays, steps, state):
        w, rest = matrices(op, arrays), arrays[number:]
        n = len(w[0])
        h, c = np.zeros((n, 1)), np.zeros((n, 1))
        if state:
            h, c = rest[0], rest[has_c]
        hs, cs = [], []
        for x in rest[state * (1 + has_c) :]:
            h, c = STEPS[op](w, x, h, c)
            hs.append(h)
            cs.append(c)
        batch = max(a.shape[-1] for a in rest)
        return np.concatenate(
            [np.broadcast_to(a, (n, batch)) for a in (*hs, *(cs if has_c else []))]
        )

    def network(h, k, steps, batch=1, state=None):
        batches = [batch] * steps if isinstance(batch, int) else batch
        before = [] if state is None else [tensor(h, batch=b) for b in state[: 1 + has_c]]
        return case(
            *[tensor(*d) for d in weights(op, h, k)],
            *before,
            *[tensor(k, batch=b) for b in batches],
            steps=steps,
            state=int(state is not None),
        )

    def node(dims, steps=1, state=0):
        return _nodes.node(op, [dy.zeros(d) for d in dims], (steps, state))

    good = weights(op, 2, 3)
    return Row(
        op,
        op,
        build,
        reference,
        [
            network(1, 1, 1),
            network(2, 3, 1),
            network(2, 3, 1, state=(1, 1)),
            network(2, 3, 3, batch=3, state=(3, 3)),
            network(2, 3, 2, batch=3, state=(1, 3)),
            network(2, 3, 2, batch=[3, 1], state=(1, 1)),
            network(17, 20, 3, batch=2),
        ],
        errors=[
            refuses(
                lambda: node([*good, 4]),
                ValueError,
                rf"^{op}: this network's inputs have dim \(3,\); got x_1 = \(4,\)",
            ),
            refuses(
                lambda: node([good[0], (2, 3), *good[2:], 3]),
                ValueError,
                rf"^{op}: .* must be|^{op}: each gate has",
            ),
            refuses(
                lambda: node([*good, 3], steps=2),
                ValueError,
                rf"^{op}: takes .* one x for each step; got {number + 1} inputs",
            ),
            refuses(
                lambda: node([*good, *[5] * (1 + has_c), 3], state=1),
                ValueError,
                rf"^{op}: the state must be \(2,\); got \(5,\)",
            ),
            refuses(lambda: node(good[:2]), ValueError, rf"^{op}: takes W"),
        ],
    )


ROWS = [row(op) for op in STEPS]
