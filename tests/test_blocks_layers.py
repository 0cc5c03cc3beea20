"""Linear layers, networks of them, layer normalisation, attention with dot products: values against
NumPy, masks, dropout, refusals.

How long: a second. Gradients, batches and saving: test_nets.py.
"""

import numpy as np
import pytest
from test_graph import close

import dist_dynet as dy


def softmax(x):
    e = np.exp(x - x.max(0))
    return e / e.sum(0)


def made(block, *arguments, **keywords):
    """(block, its parameters as arrays), all off their initial values."""
    dy.renew_cg()
    built = block(*arguments, dy.ParameterCollection(), **keywords)
    rng = np.random.default_rng(4)
    for p in built.get_parameters():
        p.set_value(rng.normal(size=p.shape()))
    return built, [p.as_array() for p in built.get_parameters()]


def test_linear_is_an_affine_map(rng):
    x = rng.normal(size=(3, 5))
    layer, (W, b) = made(dy.Linear, 3, 2)
    close(layer(dy.inputTensor(x)).npvalue(), W @ x + b[:, None], 1e-5)
    close(layer(dy.inputVector(x[:, 0])).npvalue(), W @ x[:, 0] + b, 1e-5)
    layer = dy.Linear(3, 2, dy.ParameterCollection(), bias=False)
    close(layer(dy.inputTensor(x)).npvalue(), layer.get_parameters()[0].as_array() @ x, 1e-5)
    assert len(layer.get_parameters()) == 1


@pytest.mark.parametrize("activation", ["tanh", dy.tanh])
def test_mlp_is_its_layers(activation, rng):
    x = rng.normal(size=3)
    network, (W1, b1, W2, b2) = made(dy.MLP, [3, 4, 2], activation=activation)
    close(network(dy.inputVector(x)).npvalue(), W2 @ np.tanh(W1 @ x + b1) + b2, 1e-5)
    assert [p.name() for p in network.get_parameters()][:3] == [
        "/mlp/linear/_0",
        "/mlp/linear/_1",
        "/mlp/linear_1/_0",
    ]
    assert network.spec == ([3, 4, 2], "tanh", 0)


def test_mlp_drops_out_hidden_layers(rng):
    network, _ = made(dy.MLP, [3, 400, 2], dropout=0.5)
    x = dy.inputVector(rng.normal(size=3))
    dropped = [network(x).npvalue() for _ in range(2)]
    assert not np.allclose(*dropped)
    network.disable_dropout()
    close(network(x).npvalue(), network(x).npvalue())
    network.set_dropout(1)
    close(network(x).npvalue(), network.get_parameters()[3].as_array())


def test_layer_norm_normalises_each_column(rng):
    norm, (g, b) = made(dy.LayerNorm, 4)
    x = rng.normal(size=(4, 3, 2))
    z = (x - x.mean(0)) / x.std(0)
    close(
        norm(dy.inputTensor(x, batched=True)).npvalue(),
        g[:, None, None] * z + b[:, None, None],
        1e-4,
    )
    close(norm(dy.inputVector(x[:, 1, 1])).npvalue(), g * z[:, 1, 1] + b, 1e-4)
    fresh = dy.LayerNorm(4, dy.ParameterCollection())
    close([p.as_array() for p in fresh.get_parameters()], [[1] * 4, [0] * 4])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("columns", [1, 2])
def test_a_matrix_gives_a_matrix_however_few_its_columns(columns, batch, rng):
    """A sentence of one word is a matrix, too."""
    m = dy.ParameterCollection()
    layers = (
        dy.Linear(4, 4, m),
        dy.Linear(4, 4, m, bias=False),
        dy.MLP([4, 5, 4], m),
        dy.LayerNorm(4, m),
    )
    heads = dy.MultiHeadAttention(4, 2, m)
    x = rng.normal(size=(4, columns, batch))
    dy.renew_cg()
    matrix = dy.inputTensor(x, batched=True)
    for layer in (*layers, lambda x: heads(x, x)):
        assert layer(matrix).dim() == ((4, columns), batch)
    for layer in layers:
        column = layer(dy.inputTensor(x[:, 0], batched=True))
        assert column.dim() == ((4,), batch)
        close(
            layer(matrix).npvalue().reshape(x.shape)[:, 0], column.npvalue().reshape(4, batch), 1e-5
        )


@pytest.mark.parametrize("block", ["linear", "mlp", "norm"])
def test_update_false_gives_no_gradient(block):
    m = dy.ParameterCollection()
    f = {
        "linear": lambda: dy.Linear(3, 3, m),
        "mlp": lambda: dy.MLP([3, 3, 3], m, "tanh"),
        "norm": lambda: dy.LayerNorm(3, m),
    }[block]()
    dy.renew_cg()
    x = dy.inputVector([1, -2, 4])
    dy.sum_elems(dy.square(f(x, update=False))).backward()
    assert not any(p.has_gradient() for p in m.parameters_list())
    close(f(x, update=False).npvalue(), f(x).npvalue())


def test_dot_attention_is_that_of_the_paper(rng):
    block, (Wq, Wk) = made(dy.DotAttention, 3, 2, 4)
    q, K, V = rng.normal(size=(3, 6, 2)), rng.normal(size=(2, 5, 2)), rng.normal(size=(7, 5, 2))
    mask = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 1]]).T[:, None]  # (5, 1, 2)
    queries, keys, values = (dy.inputTensor(a, batched=True) for a in (q, K, V))
    found = block.attend(queries, keys, values, mask).npvalue()
    again = block.attend(queries, keys, values, mask, block.project(keys)).npvalue()
    weights = block.weights(queries, keys, mask).npvalue()
    for b in range(2):
        scores = (Wk @ K[:, :, b]).T @ (Wq @ q[:, :, b]) / 2
        p = softmax(np.where(mask[:, :, b], scores, -np.inf))
        close(weights[:, :, b], p, 1e-5)
        close(found[:, :, b], V[:, :, b] @ p, 1e-5)
    close(again, found)
    close(
        block.weights(dy.inputVector(q[:, 0, 0]), dy.inputTensor(K[:, :, 0])).npvalue().sum(),
        1,
        1e-5,
    )


def heads_of(parameters, heads, q, K, V, mask=None):
    Wq, Wk, Wv, Wo = parameters
    parts = []
    for Q, k, v in zip(
        np.split(Wq @ q, heads), np.split(Wk @ K, heads), np.split(Wv @ V, heads), strict=True
    ):
        scores = k.T @ Q / np.sqrt(len(Q))
        parts.append(v @ softmax(scores if mask is None else np.where(mask, scores, -np.inf)))
    return Wo @ np.concatenate(parts)


def test_multi_head_attention_is_that_of_the_paper(rng):
    block, parameters = made(dy.MultiHeadAttention, 6, 3, key_dim=2)
    q, K, V = rng.normal(size=(6, 4, 2)), rng.normal(size=(2, 5, 2)), rng.normal(size=(2, 5, 2))
    mask = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 1]]).T[:, None]
    queries, keys, values = (dy.inputTensor(a, batched=True) for a in (q, K, V))
    masks = {None: [None, None], "each": [mask[:, :, 0], mask[:, :, 1]], "one": [mask[:, :, 0]] * 2}
    given = {None: None, "each": mask, "one": mask[:, 0, 0]}
    for which, arrays in masks.items():
        found = block(queries, keys, values, given[which]).npvalue()
        for b in range(2):
            close(
                found[:, :, b],
                heads_of(parameters, 3, q[:, :, b], K[:, :, b], V[:, :, b], arrays[b]),
                1e-5,
            )
    expression = dy.inputTensor(mask, batched=True)
    close(
        block(queries, keys, values, expression).npvalue(),
        block(queries, keys, values, mask).npvalue(),
    )
    close(
        block(dy.inputTensor(q[:, :, 0]), keys, values, mask).npvalue()[:, :, 0],
        block(queries, keys, values, mask).npvalue()[:, :, 0],
    )
    unbatched = dy.inputTensor(K[:, :, 0])
    close(
        block(queries, unbatched).npvalue()[:, :, 1],
        heads_of(parameters, 3, q[:, :, 1], K[:, :, 0], K[:, :, 0]),
        1e-5,
    )


def test_a_causal_mask_hides_what_comes_later(rng):
    block, _ = made(dy.MultiHeadAttention, 4, 2)
    x = rng.normal(size=(4, 5))
    causal = np.triu(np.ones((5, 5)))
    words = dy.inputTensor(x)
    whole = block(words, words, mask=causal).npvalue()
    for n in (1, 3):
        first = dy.inputTensor(x[:, :n])
        close(block(first, first, mask=causal[:n, :n]).npvalue().reshape(4, n), whole[:, :n], 1e-5)


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (
            lambda m: dy.Linear(0, 2, m),
            ValueError,
            "Linear: sizes must be positive; got input_dim=0, output_dim=2",
        ),
        (lambda m: dy.Linear(2, 2, m)(None), TypeError, "Linear: takes expressions"),
        (lambda m: dy.Linear(2, 2, m)(dy.zeros(3)), ValueError, "Linear: x must have 2 rows"),
        (lambda m: dy.MLP([3], m), ValueError, "at least one layer"),
        (
            lambda m: dy.MLP([3, 0, 2], m),
            ValueError,
            r"MLP: sizes must be positive; got sizes\[0\]=3, sizes\[1\]=0",
        ),
        (lambda m: dy.MLP([3, 2], m, "tanhh"), ValueError, "MLP: activation must be an operation"),
        (
            lambda m: dy.MLP([3, 2], m, lambda x: x),
            ValueError,
            "MLP: activation must be an operation",
        ),
        (lambda m: dy.MLP([3, 2], m, 3), ValueError, "MLP: activation must be an operation"),
        (lambda m: dy.MLP([3, 2], m, "tanh", 1.5), ValueError, "rate must lie"),
        (lambda m: dy.LayerNorm(0, m), ValueError, "LayerNorm: sizes must be positive"),
        (lambda m: dy.LayerNorm(2, m)("x"), TypeError, "LayerNorm: takes expressions"),
        (
            lambda m: dy.LayerNorm(2, m)(dy.zeros((3, 2))),
            ValueError,
            "LayerNorm: x must have 2 rows",
        ),
        (lambda m: dy.DotAttention(2, 0, 2, m), ValueError, "DotAttention: sizes must be positive"),
        (
            lambda m: dy.DotAttention(2, 2, 2, m).attend(None, dy.zeros((2, 2))),
            TypeError,
            "DotAttention: takes expressions",
        ),
        (
            lambda m: dy.DotAttention(2, 2, 2, m).weights(None, dy.zeros((2, 2))),
            TypeError,
            "DotAttention: takes expressions",
        ),
        (
            lambda m: dy.DotAttention(2, 2, 2, m).project(3),
            TypeError,
            "DotAttention: takes expressions",
        ),
        (lambda m: dy.MultiHeadAttention(4, 3, m), ValueError, "dim must be a multiple of heads"),
        (
            lambda m: dy.MultiHeadAttention(4, 0, m),
            ValueError,
            "MultiHeadAttention: sizes must be positive",
        ),
        (
            lambda m: dy.MultiHeadAttention(4, 2, m)(dy.zeros(4), None),
            TypeError,
            "MultiHeadAttention: takes expressions",
        ),
        (
            lambda m: dy.MultiHeadAttention(4, 2, m)(dy.zeros(4), dy.zeros((3, 2))),
            ValueError,
            "MultiHeadAttention: keys must have 4 rows",
        ),
        (
            lambda m: dy.MultiHeadAttention(4, 2, m)(dy.zeros(4), dy.zeros((4, 2)), mask="x"),
            TypeError,
            "takes numbers",
        ),
        (
            lambda m: dy.MultiHeadAttention(4, 2, m)(
                dy.zeros(4, batch_size=2), dy.zeros((4, 2), batch_size=3)
            ),
            ValueError,
            r"got \[2, 3, 3\]",
        ),
    ],
)
def test_layers_refuse_what_they_cannot_do(use, error, message):
    with pytest.raises(error, match=message):
        use(dy.ParameterCollection())
