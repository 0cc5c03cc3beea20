"""The LSTM node, and `part`, which names one output of a node with several. The builders are tested
in test_rnn.py and test_oracle.py."""

import numpy as np

import dist_dynet as dy
from dist_dynet._ffi import fail, lib
from dist_dynet.expression import expression
from dist_dynet.ops import _nodes

from .elementwise import logistic
from .row import Row, case, refuses, tensor


def node(inputs, steps, state, forget):
    return _nodes.node("lstm", inputs, (steps, state), float(forget))


def parts(owner, first, n, size):
    h = lib.dn_output_views(owner._h, first, n, size)
    if h < 0:
        fail(h, owner._h)
    return [expression(h + i) for i in range(n)]


def build(*inputs, steps, state, forget=0.0):
    """h_1 ... h_T, c_1 ... c_T below one another."""
    size = inputs[0].dim()[0][0] // 4
    return dy.concatenate(parts(node(inputs, steps, state, forget), 0, 2 * steps, size))


def reference(wx, wh, b, *rest, steps, state, forget=0.0):
    wx, wh, b = (a[..., 0] for a in (wx, wh, b))
    n = len(b) // 4
    wx, wh = wx.reshape(4 * n, -1), wh.reshape(4 * n, n)
    h, c = rest[:2] if state else (np.zeros((n, 1)), np.zeros((n, 1)))
    hs, cs = [], []
    for x in rest[2 * state :]:
        gates = wx @ x + wh @ h + b[:, None]
        i, f, o, g = gates[:n], gates[n : 2 * n] + forget, gates[2 * n : 3 * n], gates[3 * n :]
        c = logistic(f) * c + logistic(i) * np.tanh(g)
        h = logistic(o) * np.tanh(c)
        hs.append(h)
        cs.append(c)
    batch = max(a.shape[-1] for a in rest)
    return np.concatenate([np.broadcast_to(a, (n, batch)) for a in (*hs, *cs)])


def lstm(h, k, steps, batch=1, state=None, forget=1.0):
    """state: None, or the batch sizes of h_0 and c_0; batch: that of all inputs, or a list."""
    batches = [batch] * steps if isinstance(batch, int) else batch
    before = [] if state is None else [tensor(h, batch=state[0]), tensor(h, batch=state[1])]
    return case(
        tensor(4 * h, k),
        tensor(4 * h, h),
        tensor(4 * h),
        *before,
        *[tensor(k, batch=b) for b in batches],
        steps=steps,
        state=int(state is not None),
        forget=forget,
    )


def one_part(*inputs, at, **attributes):
    size = inputs[0].dim()[0][0] // 4
    return parts(node(inputs, **attributes), at, 1, size)[0]


def part_reference(*arrays, at, **attributes):
    n = arrays[0].shape[0] // 4
    return reference(*arrays, **attributes)[at * n : (at + 1) * n]


def zeros(*dims):
    return [dy.zeros(d) for d in dims]


ROWS = [
    Row(
        "lstm",
        "lstm",
        build,
        reference,
        [
            lstm(1, 1, 1),
            lstm(2, 3, 1),
            lstm(2, 3, 1, forget=0.0),
            lstm(2, 3, 1, state=(1, 1)),
            lstm(2, 3, 3),
            lstm(2, 3, 3, batch=3),
            lstm(2, 3, 3, batch=3, state=(3, 3)),
            lstm(2, 3, 2, batch=3, state=(1, 3)),
            lstm(2, 3, 2, batch=[3, 1], state=(1, 1)),
            lstm(2, 3, 2, batch=1, state=(3, 1)),
            lstm(5, 4, 2, batch=[1, 3]),
            lstm(33, 20, 4, batch=5, state=(5, 5)),
            lstm(20, 33, 1, batch=17),
            lstm(32, 32, 2),
            lstm(300, 2, 2),  # more than a block of the kernel, 256
        ],
        errors=[
            refuses(
                lambda: node(zeros((8, 3), (8, 2), 8, 4), 1, 0, 1.0),
                ValueError,
                r"^lstm: this network's inputs have dim \(3,\); got x_1 = \(4,\)",
            ),
            refuses(
                lambda: node(zeros((8, 3), (8, 3), 8, 3), 1, 0, 1.0),
                ValueError,
                r"^lstm: Wx must be \(4h, k\), Wh \(4h, h\) and b \(4h\)",
            ),
            refuses(
                lambda: node(zeros((8, 3), (8, 2), 8, 3), 2, 0, 1.0),
                ValueError,
                "^lstm: takes Wx, Wh, b and one x for each step; got 4 inputs",
            ),
            refuses(
                lambda: node(zeros((8, 3), (8, 2), 8, 5, 2, 3), 1, 1, 1.0),
                ValueError,
                r"^lstm: the state must be \(2,\); got \(5,\)",
            ),
            refuses(
                lambda: node([dy.zeros((8, 3), batch_size=2), *zeros((8, 2), 8, 3)], 1, 0, 1.0),
                ValueError,
                "^lstm: weights must not be batched; got input 0",
            ),
            refuses(lambda: node(zeros((8, 3), (8, 2)), 1, 0, 1.0), ValueError, "^lstm: takes Wx"),
            refuses(lambda: node(zeros(8), 1, 0, 1.0), ValueError, "^lstm: takes Wx"),
        ],
    ),
    Row(
        "output_view",
        "output_view",
        one_part,
        part_reference,
        [
            case(*c.inputs, **c.attributes, at=at)
            for c, at in [
                (lstm(1, 1, 1), 0),
                (lstm(2, 3, 1), 1),
                (lstm(2, 3, 3, batch=3), 1),
                (lstm(2, 3, 3, batch=3), 4),
            ]
        ],
        errors=[
            refuses(
                lambda: parts(dy.zeros(6), 3, 1, 2),
                ValueError,
                r"^output_view: lies outside its owner, \(6,\)",
            ),
            refuses(
                lambda: parts(dy.zeros(6), -1, 1, 2),
                ValueError,
                "^output_view: lies outside its owner",
            ),
            refuses(
                lambda: parts(dy.zeros(6), 0, 0, 2),
                ValueError,
                "^output_view: takes at least one output; got 0",
            ),
            refuses(
                lambda: parts(dy.zeros(6), 1 << 30, 1, 1 << 20),
                ValueError,
                "^output_view: lies outside its owner",
            ),
        ],
    ),
]
