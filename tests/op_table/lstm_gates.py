"""The LSTM's step in three nodes: gates, cell, output."""

import numpy as np

import dist_dynet as dy

from .elementwise import logistic
from .row import Row, case, per_batch, refuses, tensor


def step(h, k, batch=1, before=1, masks=None):
    """x (k), h_(t-1), Wx, Wh, b, and masks of x and h if there is a batch size for them."""
    inputs = [
        tensor(k, batch=batch),
        tensor(h, batch=before),
        tensor(4 * h, k),
        tensor(4 * h, h),
        tensor(4 * h),
    ]
    return case(
        *inputs, *([] if masks is None else [tensor(k, batch=masks), tensor(h, batch=masks)])
    )


STEPS = [
    step(1, 1),
    step(2, 3),
    step(2, 3, batch=3),
    step(2, 3, batch=3, before=3),
    step(2, 3, before=3),
    step(33, 20, batch=5, before=5),
]
DROPPED = [
    step(1, 1, masks=1),
    step(2, 3, masks=1),
    step(2, 3, batch=3, masks=1),
    step(2, 3, batch=3, before=3, masks=3),
    step(2, 3, masks=3),
]


def activated(a):
    h = len(a) // 4
    return np.concatenate(
        [
            logistic(a[:h]),
            logistic(a[h : 2 * h] + 1),
            logistic(a[2 * h : 3 * h]),
            np.tanh(a[3 * h :]),
        ]
    )


def gates(x, h, wx, wh, b, mask_x=1.0, mask_h=1.0):
    return activated(
        wx.reshape(len(b), -1) @ (x * mask_x) + wh.reshape(len(b), -1) @ (h * mask_h) + b
    )


def joined(c):
    """The case with x in two pieces, of 1 and k - 1 numbers, if k > 1."""
    x, *rest = c.inputs
    k = x.dims[0]
    sizes = [1, k - 1] if k > 1 else [1]
    return case(*[tensor(n, batch=x.batch) for n in sizes], *rest, pieces=len(sizes))


def gates_of_pieces(*inputs, pieces):
    return gates(np.concatenate(inputs[:pieces]), *inputs[pieces:])


def made_first(*inputs):
    """Their nodes, so that the noise has the same nodes whether the inputs are parameters or
    not."""
    return [x * 1 for x in inputs]


def noisy(value, *_):
    """What holds whatever the noise."""
    h = len(value) // 4
    assert (value[: 3 * h] >= 0).all()
    assert (abs(value) <= 1).all()


def noise_std(value, *_):
    """Pre-activations are those of x = 0, h = 0: b = 0 and its noise; of the output gate and of
    g."""
    h = len(value) // 4
    o, g = value[2 * h : 3 * h], value[3 * h :]
    for a in (np.log(o / (1 - o)), np.arctanh(g)):
        assert abs(a.std() - 0.5) < 5 * 0.5 / np.sqrt(2 * h)
        assert abs(a.mean()) < 5 * 0.5 / np.sqrt(h)


def states(h, batch=1, gates_batch=1):
    return case(tensor(h, batch=batch), tensor(4 * h, batch=gates_batch))


STATES = [states(1), states(3), states(3, 3, 3), states(3, 3, 1), states(3, 1, 3), states(67)]


def cell(c, y):
    i, f, _, g = y.reshape(4, -1)
    return f * c + i * g


def output(c, y):
    return y.reshape(4, -1)[2] * np.tanh(c)


def state_errors(name):
    def call(c, y):
        return getattr(dy, name)(c, y)

    return [
        refuses(
            lambda: call(dy.zeros(3), dy.zeros(9)),
            ValueError,
            rf"^{name}: the state must be a vector \(h,\) and the gates \(4 h,\); got state ="
            r" \(3,\), gates = \(9,\)",
        ),
        refuses(
            lambda: call(dy.zeros((3, 2)), dy.zeros(24)),
            ValueError,
            f"^{name}: the state must be a vector",
        ),
        refuses(
            lambda: call(dy.zeros(1, batch_size=2), dy.zeros(4, batch_size=3)),
            ValueError,
            f"^{name}: batch sizes must be equal or 1",
        ),
        refuses(lambda: call(dy.zeros(1), 2), TypeError, f"^{name}: takes expressions; got .*int"),
    ]


ROWS = [
    Row(
        "lstm_gates",
        "vanilla_lstm_gates",
        lambda x, h, wx, wh, b: dy.vanilla_lstm_gates(x, h, wx, wh, b),
        per_batch(gates),
        STEPS,
        errors=[
            refuses(
                lambda: dy.vanilla_lstm_gates(
                    dy.zeros(2), dy.zeros(1), dy.zeros((4, 3)), dy.zeros((4, 1)), dy.zeros(4)
                ),
                ValueError,
                "^vanilla_lstm_gates: columns of W_1 must equal rows of x_1",
            ),
            refuses(
                lambda: dy.vanilla_lstm_gates(
                    dy.zeros(2), dy.zeros(1), dy.zeros((5, 2)), dy.zeros((5, 1)), dy.zeros(5)
                ),
                ValueError,
                r"^vanilla_lstm_gates: the pre-activations must be a vector of 4 h numbers; got"
                r" \(5,\)",
            ),
            refuses(
                lambda: dy.vanilla_lstm_gates(
                    dy.zeros(2), dy.zeros(1), dy.zeros((4, 2)), dy.zeros((4, 1)), dy.zeros(4), -1
                ),
                ValueError,
                "^vanilla_lstm_gates: weightnoise_std must not be negative; got -1",
            ),
        ],
    ),
    Row(
        "lstm_gates",
        "vanilla_lstm_gates_concat",
        lambda *inputs, pieces: dy.vanilla_lstm_gates_concat(inputs[:pieces], *inputs[pieces:]),
        per_batch(gates_of_pieces),
        [joined(c) for c in STEPS],
        errors=[
            refuses(
                lambda: dy.vanilla_lstm_gates_concat([], *[dy.zeros(1)] * 4),
                AssertionError,
                "List is empty",
            )
        ],
    ),
    Row(
        "lstm_gates",
        "vanilla_lstm_gates_dropout",
        lambda *inputs: dy.vanilla_lstm_gates_dropout(*inputs),
        per_batch(gates),
        DROPPED,
    ),
    Row(
        "lstm_gates",
        "vanilla_lstm_gates_dropout_concat",
        lambda *inputs, pieces: dy.vanilla_lstm_gates_dropout_concat(
            inputs[:pieces], *inputs[pieces:]
        ),
        per_batch(gates_of_pieces),
        [joined(c) for c in DROPPED],
    ),
    Row(
        "lstm_gates",
        "vanilla_lstm_gates with noise",
        lambda *inputs: dy.vanilla_lstm_gates(*made_first(*inputs), weightnoise_std=0.1),
        None,
        STEPS,
        check=noisy,
        per_element=False,
    ),
    Row(
        "lstm_gates",
        "vanilla_lstm_gates, how much noise",
        lambda x: dy.vanilla_lstm_gates(
            *made_first(x),
            dy.zeros(120),
            dy.zeros((480, 1)),
            dy.zeros((480, 120)),
            dy.zeros(480),
            0.5,
        ),
        None,
        [case(tensor(1))],
        sample=lambda rng, inputs: [np.zeros((1, 1))],
        check=noise_std,
        per_element=False,
    ),
    Row(
        "vanilla_lstm_c",
        "vanilla_lstm_c",
        lambda c, y: dy.vanilla_lstm_c(c, y),
        per_batch(cell),
        STATES,
        errors=state_errors("vanilla_lstm_c"),
    ),
    Row(
        "vanilla_lstm_h",
        "vanilla_lstm_h",
        lambda c, y: dy.vanilla_lstm_h(c, y),
        per_batch(output),
        STATES,
        errors=state_errors("vanilla_lstm_h"),
    ),
]
