"""What the JAX twins share: products in float32 or bfloat16, an LSTM, Adam, one compiled step for
each shape.

A sequence of words is padded to a multiple of --bucket, so that there is a shape for every few
lengths; a number of words, too. The step is compiled ahead for all of them and updates parameters
and moments in place. Of a table only the rows of the batch's words are updated, as DyNet does: the
words are numbered anew among the batch's distinct words outside of the compiled step.

lax.scan with unroll=2, 4 and 8 is no faster and takes up to three times as long to compile. A
backward loop written by hand, with the gradient of the recurrent matrix as one product after it, is
no faster in batches.
"""

import itertools

import numpy as np

FORMS = {"float32", "bf16"}
"""What the twins can do."""
ADAM = {"rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


def product(jax, precision):
    """`dot(x, w)` of rows x and a matrix w as --precision says: with "bf16" both are rounded, and
    the gradient in both products of the backward pass; sums are in float32."""
    if precision == "float32":
        return jax.numpy.dot
    bf16, float32 = jax.numpy.bfloat16, jax.numpy.float32

    def rounded(x, w, dimensions):
        return jax.lax.dot_general(
            x.astype(bf16),
            w.astype(bf16),
            (dimensions, ((), ())),
            preferred_element_type=float32,
        )

    @jax.custom_vjp
    def dot(x, w):
        return rounded(x, w, ((1,), (0,)))

    def forward(x, w):
        x, w = x.astype(bf16), w.astype(bf16)
        return dot(x, w), (x, w)

    def backward(saved, dy):
        x, w = saved
        return rounded(dy, w, ((1,), (1,))), rounded(x, dy, ((0,), (0,)))

    dot.defvjp(forward, backward)
    return dot


def lstm_values(values):
    """(Wx, Wh, b) of an LSTM for rows, its gates in DyNet's order: input, forget, output, cell; the
    1 that DyNet adds to the forget gate is in b."""
    wx, wh, b = values
    hidden = len(b) // 4
    b = b.copy()
    b[hidden : 2 * hidden] += 1.0
    return wx.T.copy(), wh.T.copy(), b


def lstm(jax, dot, parameters, x):
    """Outputs (steps, sequences, hidden) of an LSTM over x (steps, sequences, inputs): one product
    for the inputs of all steps, then a loop."""
    wx, wh, b = parameters
    hidden, nn = wh.shape[0], jax.nn
    steps, sequences, inputs = x.shape
    gates = dot(x.reshape(-1, inputs), wx).reshape(steps, sequences, 4 * hidden) + b

    def step(state, gate):
        h, c = state
        gate = gate + dot(h, wh)
        i, f, o = jax.numpy.split(nn.sigmoid(gate[:, : 3 * hidden]), 3, axis=1)
        c = f * c + i * jax.numpy.tanh(gate[:, 3 * hidden :])
        h = o * jax.numpy.tanh(c)
        return (h, c), h

    zero = jax.numpy.zeros((sequences, hidden), x.dtype)
    return jax.lax.scan(step, (zero, zero), gates)[1]


def cross_entropy(jax, scores, labels):
    """The sum of the losses of the rows; a negative label is none."""
    real = labels >= 0
    right = jax.numpy.take_along_axis(scores, jax.numpy.maximum(labels, 0)[:, None], 1)[:, 0]
    losses = jax.nn.logsumexp(scores, axis=1) - right
    return jax.numpy.sum(jax.numpy.where(real, losses, 0.0))


def padded(args, rows, pad=0):
    """(positions, sequences) of the items of rows; the positions are a multiple of --bucket."""
    steps = -(-max(map(len, rows)) // args.bucket) * args.bucket
    result = np.full((steps, len(rows)), pad, np.int32)
    for i, row in enumerate(rows):
        result[: len(row), i] = row
    return result


def distinct(words, rows):
    """(the distinct words, filled up to the number of all words with `rows`, which is no row of the
    table; the number among them of each word)."""
    used, numbers = np.unique(words, return_inverse=True)
    filled = np.full(words.size, rows, np.int32)
    filled[: len(used)] = used
    return filled, numbers.reshape(words.shape).astype(np.int32)


def adam(jnp, t, w, g, m, v):
    """(w, m, v) after an update, the t-th."""
    beta1, beta2 = ADAM["beta1"], ADAM["beta2"]
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    rate = ADAM["rate"] * jnp.sqrt(1 - beta2**t) / (1 - beta1**t)
    return w - rate * m / (jnp.sqrt(v) + ADAM["epsilon"]), m, v


def batches_task(jax, values, batches, arrays_of, loss_of, units_of, table=None):
    """step() of a twin over the batches, again and again.

    `arrays_of(batch)` is a tuple of arrays, and `loss_of(parameters, *arrays)` the loss of these
    parameters, which begin as `values`. With a table of rows, the first array says which of its
    rows are used, and `loss_of(parameters, rows, *the other arrays)` gets these rows.
    """
    jnp, tree = jax.numpy, jax.tree_util
    zeros = tree.tree_map(np.zeros_like, values)
    state = {"t": np.float32(0), "dense": (values, zeros, zeros)}
    if table is not None:
        state["table"] = tuple(np.array(x) for x in (table, 0 * table, 0 * table))
    state = tree.tree_map(lambda x: jnp.array(x, copy=True), state)

    def train(state, *arrays):
        t = state["t"] + 1
        weights, m, v = state["dense"]
        if table is None:
            loss, g = jax.value_and_grad(loss_of)(weights, *arrays)
        else:
            used, *arrays = arrays
            old = [x.at[used].get(mode="clip") for x in state["table"]]
            loss, (g, rows) = jax.value_and_grad(loss_of, (0, 1))(weights, old[0], *arrays)
        structure = tree.tree_structure(weights)
        updated = [
            adam(jnp, t, *numbers)
            for numbers in zip(*map(tree.tree_leaves, (weights, g, m, v)), strict=True)
        ]
        new = {
            "t": t,
            "dense": tuple(
                tree.tree_unflatten(structure, part) for part in zip(*updated, strict=True)
            ),
        }
        if table is not None:
            new["table"] = tuple(
                x.at[used].set(y, mode="drop", unique_indices=False)
                for x, y in zip(state["table"], adam(jnp, t, old[0], rows, *old[1:]), strict=True)
            )
        return new, loss

    compiled = {}

    def compiled_for(arrays):
        shape = tuple(x.shape for x in arrays)
        if shape not in compiled:
            traced = jax.jit(train, donate_argnums=0)
            compiled[shape] = traced.lower(state, *arrays).compile()
        return compiled[shape]

    def warm_up():
        for batch in batches:
            compiled_for(arrays_of(batch))

    stream = itertools.cycle(batches)

    def step():
        nonlocal state
        batch = next(stream)
        arrays = arrays_of(batch)
        state, loss = compiled_for(arrays)(state, *arrays)
        return units_of(batch), float(loss)

    step.warm_up = warm_up
    return step
