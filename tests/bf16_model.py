"""A model in NumPy of what is computed with products rounded to bfloat16: float64, but that the
operands of a product with a parameter are rounded, forward and backward.

Values are vectors. A gradient is summed up before it is rounded: once for each product.
"""

import numpy as np


def rounded(x):
    """The nearest bfloat16, of two the even one, as float64; NaN stays NaN."""
    x = np.asarray(x, np.float32)
    bits = np.ascontiguousarray(x).view(np.uint32)
    up = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(x), np.nan, up.reshape(x.shape)).astype(float)


class Value:
    """A number array with a gradient; what it was made of gets its part in backward()."""

    def __init__(self, array, *parts):
        self.array = np.asarray(array, float)
        self.grad = np.zeros_like(self.array)
        self.parts = parts
        """(value, function from this gradient to the gradient of that value)."""

    def __add__(self, other):
        return Value(self.array + other.array, (self, lambda d: d), (other, lambda d: d))

    def __sub__(self, other):
        return self + Value(-other.array, (other, lambda d: -d))

    def __mul__(self, other):
        return Value(
            self.array * other.array,
            (self, lambda d: d * other.array),
            (other, lambda d: d * self.array),
        )

    def __rsub__(self, one):
        return Value(one - self.array, (self, lambda d: -d))

    def part(self, begin, end):
        def back(d):
            whole = np.zeros_like(self.array)
            whole[begin:end] = d
            return whole

        return Value(self.array[begin:end], (self, back))

    def plus(self, number):
        return Value(self.array + number, (self, lambda d: d))


def product(w, x):
    """W x."""
    a, b = rounded(w.array), rounded(x.array)
    return Value(a @ b, (w, lambda d: np.outer(rounded(d), b)), (x, lambda d: a.T @ rounded(d)))


def tanh(x):
    y = np.tanh(x.array)
    return Value(y, (x, lambda d: d * (1 - y * y)))


def logistic(x):
    y = 1 / (1 + np.exp(-x.array))
    return Value(y, (x, lambda d: d * y * (1 - y)))


def below(*values):
    """One below the other."""
    ends = np.cumsum([len(v.array) for v in values])
    return Value(
        np.concatenate([v.array for v in values]),
        *((v, _slice(end - len(v.array), end)) for v, end in zip(values, ends, strict=True)),
    )


def _slice(begin, end):
    return lambda d: d[begin:end]


def backward(loss, grad):
    """Gradients of all that the loss was made of."""
    order, seen, stack = [], set(), [(loss, False)]
    while stack:
        value, done = stack.pop()
        if done:
            order.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            stack.append((value, True))
            stack.extend((part, False) for part, _ in value.parts)
    loss.grad = loss.grad + grad
    for value in reversed(order):
        for part, back in value.parts:
            part.grad = part.grad + back(value.grad)


# ---- networks: weights as the builders have them, lists of inputs -> the last state ----


def lstm(weights, xs):
    wx, wh, b = weights
    n = wh.array.shape[1]
    h = c = None
    for x in xs:
        gates = product(wx, x) + b if h is None else product(wx, x) + b + product(wh, h)
        i, o = logistic(gates.part(0, n)), logistic(gates.part(2 * n, 3 * n))
        f, g = logistic(gates.part(n, 2 * n).plus(1)), tanh(gates.part(3 * n, 4 * n))
        c = i * g if c is None else f * c + i * g
        h = o * tanh(c)
    return h


def simple(weights, xs):
    wx, wh, b = weights
    h = None
    for x in xs:
        h = tanh(product(wx, x) + b if h is None else product(wx, x) + b + product(wh, h))
    return h


def gru(weights, xs):
    wzx, wzh, bz, wrx, wrh, br, wnx, wnh, bn = weights
    h = None
    for x in xs:
        z, r, n = (product(w, x) + b for w, b in ((wzx, bz), (wrx, br), (wnx, bn)))
        if h is None:
            h = logistic(z) * tanh(n)
            continue
        z, r = logistic(z + product(wzh, h)), logistic(r + product(wrh, h))
        h = (1 - z) * h + z * tanh(n + product(wnh, r * h))
    return h


def tree(weights, xs, arity):
    """The first input at the root, above leaves of the others; arity 0: child-sum."""
    w, u, b, wf, uf, bf = weights
    n = len(bf.array)

    def node(x, children):
        gates = product(w, x) + b
        if children:
            h = below(*(h for h, _ in children))
            total = children[0][0]
            for other, _ in children[1:]:
                total = total + other
            gates = gates + product(u, h if arity else total)
        i, o = logistic(gates.part(0, n)), logistic(gates.part(n, 2 * n))
        c = i * tanh(gates.part(2 * n, 3 * n))
        if children:
            all_f, shared = product(uf, h) if arity else None, product(wf, x) + bf
            for k, (below_h, below_c) in enumerate(children):
                own = all_f.part(k * n, k * n + n) if arity else product(uf, below_h)
                c = c + logistic(shared + own) * below_c
        return o * tanh(c), c

    return node(xs[0], [node(x, []) for x in xs[1:]])[0]
