"""Stores what PyTorch gives where one number of a small network is NaN, infinite, denormal or huge,
for tests/test_special_networks.py. Five seconds.

    python tests/oracle/make_special_networks.py --out tests/data/special_networks.json

With a Python that has torch (made with 2.13).

For each network: its inputs, and for each case, in which one number of one input (or of dy) is
another, the value and the gradient of sum(dy * value) for each input. Matrices are lists of rows;
values and gradients are flat, values by columns and gradients by rows.
"""

import argparse
import itertools
import json
from pathlib import Path
from zlib import crc32

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

NAN, INF = float("nan"), float("inf")
TYPES = {"float32": torch.float32, "float64": torch.float64}
NUMBERS = {"": [NAN, INF, -INF], "float32": [1e-40, 1e30], "float64": [1e-310, 1e250]}
"""Those that are stored once for both number types, and those of one of them."""
KEYS_THAT_COUNT = [1.0, 1.0, 0.0]
"""The mask, before a number of it is changed."""


# ---- networks: dims of the inputs, and the definition --------------------------------------------


def rows_of(gates, order):
    """Blocks of rows of equal height, in another order."""
    blocks = gates.chunk(len(order))
    return torch.cat([blocks[k] for k in order])


def lstm(Wx, Wh, b, h, c, x1, x2):
    """torch's LSTMCell twice; its gates come in the order i, f, g, o."""
    order, none = (0, 1, 3, 2), torch.zeros_like(b)
    states = []
    for x in (x1, x2):
        h, c = torch.lstm_cell(
            x[None],
            (h.reshape(1, -1), c.reshape(1, -1)),
            rows_of(Wx, order),
            rows_of(Wh, order),
            rows_of(b, order),
            none,
        )
        states.append((h[0], c[0]))
    return torch.cat([*(h for h, _ in states), *(c for _, c in states)])


def simple_rnn(Wx, Wh, b, h, x1, x2):
    hs = []
    for x in (x1, x2):
        h = torch.rnn_tanh_cell(x[None], h.reshape(1, -1), Wx, Wh, b, torch.zeros_like(b))
        hs.append(h[0])
    return torch.cat(hs)


def gru(Wzx, Wzh, bz, Wrx, Wrh, br, Wnx, Wnh, bn, h, x1, x2):
    """Cho et al. 2014. torch's GRUCell has r (W h) in the place of W (r h)."""
    hs = []
    for x in (x1, x2):
        z, r = torch.sigmoid(Wzx @ x + Wzh @ h + bz), torch.sigmoid(Wrx @ x + Wrh @ h + br)
        h = (1 - z) * h + z * torch.tanh(Wnx @ x + Wnh @ (r * h) + bn)
        hs.append(h)
    return torch.cat(hs)


def gru_of_one_unit(Wzx, Wzh, bz, Wrx, Wrh, br, Wnx, Wnh, bn, h, x1, x2):
    """torch's GRUCell, whose r (W h) is W (r h) here.

    Its gates come in the order r, z, n, and its z is 1 - z.
    """
    Wx, Wh, b = torch.cat([Wrx, -Wzx, Wnx]), torch.cat([Wrh, -Wzh, Wnh]), torch.cat([br, -bz, bn])
    hs = []
    for x in (x1, x2):
        h = torch.gru_cell(x[None], h.reshape(1, -1), Wx, Wh, b, torch.zeros_like(b))
        hs.append(h[0])
    return torch.cat(hs)


def coupled_lstm(Wix, Wih, Wic, bi, Wox, Woh, Woc, bo, Wgx, Wgh, bg, h, c, x1, x2):
    hs, cs = [], []
    for x in (x1, x2):
        i = torch.sigmoid(Wix @ x + Wih @ h + Wic @ c + bi)
        c = (1 - i) * c + i * torch.tanh(Wgx @ x + Wgh @ h + bg)
        h = torch.sigmoid(Wox @ x + Woh @ h + Woc @ c + bo) * torch.tanh(c)
        hs.append(h)
        cs.append(c)
    return torch.cat(hs + cs)


def fast_lstm(Wix, Wih, bi, Wox, Woh, bo, Wgx, Wgh, bg, h, c, x1, x2):
    hs, cs = [], []
    for x in (x1, x2):
        i = torch.sigmoid(Wix @ x + Wih @ h + bi)
        c = (1 - i) * c + i * torch.tanh(Wgx @ x + Wgh @ h + bg)
        h = torch.sigmoid(Wox @ x + Woh @ h + bo) * torch.tanh(c)
        hs.append(h)
        cs.append(c)
    return torch.cat(hs + cs)


TAGS = [1, 0, 1]


def log_partition(A, start, stop, E):
    alpha = start + E[:, 0]
    for t in range(1, E.shape[1]):
        alpha = E[:, t] + torch.logsumexp(alpha[:, None] + A, 0)
    return torch.logsumexp(alpha + stop, 0)[None]


def crf_score(A, start, stop, E):
    inner = sum(A[i, j] for i, j in itertools.pairwise(TAGS))
    return (start[TAGS[0]] + stop[TAGS[-1]] + sum(E[j, t] for t, j in enumerate(TAGS)) + inner)[
        None
    ]


def crf_loss(A, start, stop, E):
    return log_partition(A, start, stop, E) - crf_score(A, start, stop, E)


def by_columns(x):
    return x.T.reshape(-1)


def attention(q, k, v):
    return by_columns(functional.scaled_dot_product_attention(q.T[None], k.T[None], v.T[None])[0].T)


def masked_attention(q, k, v, mask):
    """A mask of one number for each key.

    scaled_dot_product_attention adds -inf to masked scores, so that NaN and inf there stay NaN.
    """
    scores = (k.T @ q * q.shape[0] ** -0.5).masked_fill(~mask.bool()[:, None], -INF)
    return by_columns(v @ torch._safe_softmax(scores, 0))


def dot_attention(Wq, Wk, q, k):
    return attention(Wq @ q, Wk @ k, k)


def multi_head_attention(Wq, Wk, Wv, Wo, q, k):
    """torch's block, of two heads and without biases."""
    y, _ = functional.multi_head_attention_forward(
        q.T[:, None],
        k.T[:, None],
        k.T[:, None],
        q.shape[0],
        2,
        torch.cat([Wq, Wk, Wv]),
        None,
        None,
        None,
        False,
        0.0,
        Wo,
        None,
        need_weights=False,
    )
    return by_columns(y[:, 0].T)


def masked_heads(Wq, Wk, Wv, Wo, q, k, mask):
    """The same with masked_attention()."""
    of_head = [
        masked_attention(*parts, mask)
        for parts in zip(*((W @ x).chunk(2) for W, x in ((Wq, q), (Wk, k), (Wv, k))), strict=True)
    ]
    return by_columns(Wo @ torch.cat([y.reshape(q.shape[1], -1).T for y in of_head]))


def masked_softmax(x, mask):
    """The softmax of torch's attention: 0 where nothing counts."""
    return torch._safe_softmax(x.masked_fill(~mask.bool(), -INF), 0)


def masked_log_softmax(x, mask):
    """What is masked is no part of the sum, and no gradient comes from it."""
    return torch.full_like(x, -INF).masked_scatter(
        mask.bool(), torch.log_softmax(x[mask.bool()], 0)
    )


def gates(names, kinds, h, k):
    """The dims of weights that are seen by x, by h, or are biases."""
    return {
        name: {"x": (h, k), "h": (h, h), "b": (h,)}[kind]
        for name, kind in zip(names.split(), kinds, strict=True)
    }


STEPS = {"x1": (2,), "x2": (2,)}
H, C = {"h": (2,)}, {"c": (2,)}
GRU = "Wzx Wzh bz Wrx Wrh br Wnx Wnh bn"
CHAIN = {"A": (2, 2), "start": (2,), "stop": (2,), "E": (2, 3)}
HEADS = {name: (4, 4) for name in ("Wq", "Wk", "Wv", "Wo")} | {"q": (4, 2), "k": (4, 3)}
ATTENTION = {"q": (2, 2), "k": (2, 3), "v": (2, 3)}
NETWORKS = {
    "lstm": (lstm, {"Wx": (8, 2), "Wh": (8, 2), "b": (8,)} | H | C | STEPS),
    "simple_rnn": (simple_rnn, gates("Wx Wh b", "xhb", 2, 2) | H | STEPS),
    "gru": (gru, gates(GRU, "xhb" * 3, 2, 2) | H | STEPS),
    "gru of one unit": (gru_of_one_unit, gates(GRU, "xhb" * 3, 1, 2) | {"h": (1,)} | STEPS),
    "coupled_lstm": (
        coupled_lstm,
        gates("Wix Wih Wic bi Wox Woh Woc bo Wgx Wgh bg", "xhhbxhhbxhb", 2, 2) | H | C | STEPS,
    ),
    "fast_lstm": (
        fast_lstm,
        gates("Wix Wih bi Wox Woh bo Wgx Wgh bg", "xhb" * 3, 2, 2) | H | C | STEPS,
    ),
    "crf log_partition": (log_partition, CHAIN),
    "crf score": (crf_score, CHAIN),
    "crf neg_log_likelihood": (crf_loss, CHAIN),
    "attention": (attention, ATTENTION),
    "attention of one key": (attention, {"q": (1, 2), "k": (1, 1), "v": (2, 1)}),
    "attention with a mask": (masked_attention, ATTENTION | {"mask": (3,)}),
    "DotAttention": (dot_attention, {"Wq": (2, 3), "Wk": (2, 2), "q": (3, 2), "k": (2, 3)}),
    "MultiHeadAttention": (multi_head_attention, HEADS),
    "MultiHeadAttention with a mask": (masked_heads, HEADS | {"mask": (3,)}),
    "masked_softmax": (masked_softmax, {"x": (3,), "mask": (3,)}),
    "masked_log_softmax": (masked_log_softmax, {"x": (3,), "mask": (3,)}),
}


# ---- cases ---------------------------------------------------------------------------------------


def run(network, inputs, dtype):
    """The value, and the gradients of all inputs but mask and dy."""
    *names, _ = inputs
    xs = {
        name: torch.tensor(inputs[name], dtype=dtype, requires_grad=name != "mask")
        for name in names
    }
    with sdpa_kernel(SDPBackend.MATH):
        value = network(**xs)
    wanted = [name for name in names if name != "mask"]
    found = torch.autograd.grad(
        value, [xs[n] for n in wanted], torch.tensor(inputs["dy"], dtype=dtype), allow_unused=True
    )
    return value.tolist(), [
        (torch.zeros_like(xs[n]) if g is None else g).reshape(-1).tolist()
        for n, g in zip(wanted, found, strict=True)
    ]


def changed(array, at, number):
    """A copy with another number at the flat index."""
    flat = torch.tensor(array, dtype=torch.float64)
    flat.view(-1)[at] = number
    return flat.tolist()


def rounded(numbers):
    """Seven digits in JSON."""
    return (
        "["
        + ",".join(
            "NaN" if x != x else json.dumps(x) if abs(x) == INF else f"{x:.7g}" for x in numbers
        )
        + "]"
    )


def drawn(name, dims, generator):
    if name == "mask":
        return KEYS_THAT_COUNT
    return (
        (torch.rand(dims, generator=generator, dtype=torch.float64) * 2 - 1)
        .mul(100)
        .round()
        .div(100)
        .tolist()
    )


def cases(network, inputs):
    """Of x and mask of masked softmaxes each number, of all other inputs the last."""
    for name, array in inputs.items():
        size = torch.tensor(array).numel()
        for at in range(size) if name in ("x", "mask") else [size - 1]:
            for dtype, numbers in NUMBERS.items():
                for number in numbers:
                    value, gradients = run(
                        network,
                        {**inputs, name: changed(array, at, number)},
                        TYPES[dtype or "float32"],
                    )
                    found = ", ".join(map(rounded, gradients))
                    yield (
                        f'{{"input": "{name}", "at": {at}, "number": {json.dumps(number)}, "dtype":'
                        f' "{dtype}", "value": {rounded(value)}, "gradients": [{found}]}}'
                    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    blocks = []
    for name, (network, dims) in NETWORKS.items():
        generator = torch.Generator().manual_seed(crc32(name.encode()))
        inputs = {n: drawn(n, d, generator) for n, d in dims.items()}
        inputs["dy"] = [1.0]
        size = len(network(**{n: torch.tensor(a) for n, a in inputs.items() if n != "dy"}))
        inputs["dy"] = drawn("dy", (size,), generator)
        blocks.append(
            f'"{name}": {{"inputs": {json.dumps(inputs)}, "cases": [\n'
            + ",\n".join(cases(network, inputs))
            + "\n]}"
        )
    args.out.write_text("{\n" + ",\n".join(blocks) + "\n}\n")


if __name__ == "__main__":
    main()
