"""The TreeLSTM's cell. The builders are tested in test_trees_attention.py and test_nets.py."""

import numpy as np

import dist_dynet as dy
from dist_dynet.ops import _nodes

from .elementwise import logistic
from .lstm import parts
from .row import Row, case, refuses, tensor


def node(*inputs, children, has_x, n_ary):
    return _nodes.node("tree_lstm", inputs, (children, has_x, n_ary))


def build(*inputs, **attributes):
    """h, then c."""
    return dy.concatenate(parts(node(*inputs, **attributes), 0, 2, inputs[2].dim()[0][0] // 3))


def reference(W, U, b, Wf, Uf, bf, *rest, children, has_x, n_ary):
    W, U, b, Wf, Uf, bf = (a[..., 0] for a in (W, U, b, Wf, Uf, bf))
    n, batch = len(bf), max(a.shape[-1] for a in rest)
    x, states = (
        rest[0] if has_x else np.zeros((W.size // (3 * n), 1)),
        [np.broadcast_to(a, (n, batch)) for a in rest[has_x:]],
    )
    gates, forget = b[:, None] + W.reshape(3 * n, -1) @ x, bf[:, None] + Wf.reshape(n, -1) @ x
    c = np.zeros((n, batch))
    if children:
        hs, cs = np.array(states[:children]), states[children:]
        s = hs.reshape(-1, batch) if n_ary else hs.sum(axis=0)
        gates = gates + U.reshape(3 * n, -1) @ s
        seen = (Uf.reshape(len(s), -1) @ s).reshape(hs.shape) if n_ary else Uf.reshape(n, n) @ hs
        c = sum(logistic(forget + seen[k]) * cs[k] for k in range(children))
    i, o, u = logistic(gates[:n]), logistic(gates[n : 2 * n]), np.tanh(gates[2 * n :])
    c = c + i * u
    return np.concatenate([o * np.tanh(c), c])


def cell(h, k, children, n_ary=0, x=True, batch=1, states=None):
    """states: the batch sizes of the children's h, then of their c; else `batch`."""
    s = (children if n_ary else 1) * h
    weights = [
        tensor(3 * h, k),
        tensor(3 * h, s),
        tensor(3 * h),
        tensor(h, k),
        tensor(s, s),
        tensor(h),
    ]
    batches = [batch] * (2 * children) if states is None else states
    given = [tensor(k, batch=batch)] if x else []
    return case(
        *weights,
        *given,
        *[tensor(h, batch=b) for b in batches],
        children=children,
        has_x=int(x),
        n_ary=n_ary,
    )


def zeros(*dims):
    return [dy.zeros(d) for d in dims]


WEIGHTS = (6, 3), (6, 2), 6, (2, 3), (2, 2), 2
LEAF = {"children": 0, "has_x": 1, "n_ary": 0}
ONE = {"children": 1, "has_x": 1, "n_ary": 0}

ROWS = [
    Row(
        "tree_lstm",
        "tree_lstm",
        build,
        reference,
        [
            cell(1, 1, 1),
            cell(2, 3, 0),
            cell(2, 3, 1),
            cell(2, 3, 3),
            cell(2, 3, 2, x=False),
            cell(2, 3, 2, n_ary=1),
            cell(2, 3, 3, n_ary=1, x=False),
            cell(2, 3, 0, batch=3),
            cell(2, 3, 2, batch=3),
            cell(2, 3, 2, n_ary=1, batch=3),
            cell(2, 3, 2, batch=3, states=[1, 3, 3, 1]),
            cell(2, 3, 2, n_ary=1, states=[1, 3, 1, 1]),
            cell(20, 33, 2, n_ary=1, batch=5),
            cell(33, 20, 4, batch=5),
        ],
        errors=[
            refuses(
                lambda: node(*zeros(*WEIGHTS, 4), **LEAF),
                ValueError,
                r"^tree_lstm: this network's inputs have dim \(3,\); got x = \(4,\)",
            ),
            refuses(
                lambda: node(*zeros(*WEIGHTS, 3, 3, 2), **ONE),
                ValueError,
                r"^tree_lstm: the children's states must be \(2,\); got \(3,\)",
            ),
            refuses(
                lambda: node(*zeros(*WEIGHTS, 3, 2), **ONE),
                ValueError,
                "^tree_lstm: takes W, U, b, Wf, Uf, bf, then x or children or both",
            ),
            refuses(
                lambda: node(*zeros(*WEIGHTS), children=0, has_x=0, n_ary=0),
                ValueError,
                "^tree_lstm: takes W",
            ),
            refuses(
                lambda: node(*zeros(*WEIGHTS, 3), children=-1, has_x=1, n_ary=0),
                ValueError,
                "^tree_lstm: takes W",
            ),
            refuses(
                lambda: node(*zeros(*WEIGHTS, 3, 2, 2, 2, 2), children=2, has_x=1, n_ary=1),
                ValueError,
                r"^tree_lstm: weights must be W \(3h, k\), U \(3h, 2 h\), b \(3h\), Wf \(h, k\), Uf"
                r" \(2 h, 2 h\), bf \(h\)",
            ),
            refuses(
                lambda: node(*zeros((6, 3), (6, 2), 6, (2, 4), (2, 2), 2, 3), **LEAF),
                ValueError,
                "^tree_lstm: weights must be",
            ),
            refuses(
                lambda: node(dy.zeros((6, 3), batch_size=2), *zeros(*WEIGHTS[1:], 3), **LEAF),
                ValueError,
                "^tree_lstm: weights must not be batched; got input 0",
            ),
        ],
    ),
]
