"""Programs of the sizes that people use, drawn: layers of 20 to 700, batches of 1 to 300,
vocabularies of thousands. At such sizes products go to BLAS or to kernels of panels, work is cut
into pieces for threads, and large gradients are computed in blocks: none of which the programs of
fuzz_programs.py, whose vectors have 2 or 3 numbers, ever meet.

`python usual_programs.py SEEDS FILE` computes programs 0 ... SEEDS - 1 and writes what they give to
a file, for a test in another build.
"""

import pickle
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from net_table.recurrent import FACTORIES

import dist_dynet as dy


class Program:
    """Draws a network by `seed`: run() computes it."""

    def __init__(self, seed, kind=None):
        self.rng = np.random.default_rng([seed, 77])
        self.model = dy.ParameterCollection()
        self.kind = kind or list(KINDS)[seed % len(KINDS)]

    def size(self, least=20, most=400):
        return int(self.rng.integers(least, most))

    def parameter(self, *sizes):
        values = self.rng.normal(size=sizes) / np.sqrt(sizes[-1])
        return self.model.parameters_from_numpy(values)

    def table(self, rows, size):
        return self.model.lookup_parameters_from_numpy(self.rng.normal(size=(rows, size)))

    def words(self, n, of):
        return [int(i) for i in self.rng.integers(0, of, n)]

    def batch(self, size, n):
        return dy.inputTensor(self.rng.normal(size=(size, n)), batched=True)

    def builder(self, make, *sizes):
        """With values of its own, which do not depend on how many numbers were drawn before."""
        builder = make(*sizes, self.model)
        for p in builder.param_collection().parameters_list():
            p.set_value(self.rng.normal(size=p.shape()) / np.sqrt(sizes[-1]))
        return builder

    def run(self, mode):
        """{name: array}: the loss, and the gradients of all parameters. mode: what renew_cg()
        takes."""
        dy.renew_cg(**mode)
        loss = KINDS[self.kind](self)
        value = loss.value()
        loss.backward()
        tables = self.model.lookup_parameters_list()
        named = {p.name(): p for p in (*self.model.parameters_list(), *tables)}
        return {"loss": np.array(value), **{k: p.grad_as_array().copy() for k, p in named.items()}}


# ---- kinds: each makes a loss of one number ------------------------------------------------


def perceptron(p):
    inputs, hidden, classes, n = p.size(), p.size(), p.size(2, 200), p.size(1, 300)
    W, b = p.parameter(hidden, inputs), p.parameter(hidden)
    V, c = p.parameter(classes, hidden), p.parameter(classes)
    f = [dy.rectify, dy.tanh, dy.logistic, dy.gelu][p.size(0, 4)]
    h = f(dy.affine_transform([b, W, p.batch(inputs, n)]))
    scores = dy.affine_transform([c, V, h])
    return dy.mean_batches(dy.pickneglogsoftmax_batch(scores, p.words(n, classes)))


def sentences_by_steps(p):
    embedding, hidden, vocabulary = p.size(), p.size(20, 200), p.size(50, 3000)
    make = FACTORIES[sorted(FACTORIES)[p.size(0, len(FACTORIES))]]
    network = p.builder(make, p.size(1, 3), embedding, hidden)
    E = p.table(vocabulary, embedding)
    W, b = p.parameter(vocabulary, hidden), p.parameter(vocabulary)
    losses = []
    for _ in range(p.size(1, 8)):
        state, words = network.initial_state(), p.words(p.size(2, 9), vocabulary)
        for word, following in pairwise(words):
            state = state.add_input(E[word])
            scores = dy.affine_transform([b, W, state.output()])
            losses.append(dy.pickneglogsoftmax(scores, following))
    return dy.esum(losses)


def tagger(p):
    embedding, hidden, tags, vocabulary = p.size(), p.size(20, 100), p.size(3, 60), 500
    ways = [p.builder(dy.VanillaLSTMBuilder, 1, embedding, hidden) for _ in range(2)]
    E, W = p.table(vocabulary, embedding), p.parameter(tags, 2 * hidden)
    losses = []
    for _ in range(p.size(1, 10)):
        xs = [E[i] for i in p.words(p.size(1, 12), vocabulary)]
        there = ways[0].initial_state().transduce(xs)
        back = ways[1].initial_state().transduce(xs[::-1])[::-1]
        hs = [dy.concatenate(list(pair)) for pair in zip(there, back, strict=True)]
        losses += [
            dy.pickneglogsoftmax(W * h, i) for h, i in zip(hs, p.words(len(hs), tags), strict=True)
        ]
    return dy.esum(losses)


def attention(p):
    inputs, memory, hidden, n = p.size(), p.size(), p.size(10, 200), p.size(2, 60)
    Q, K, V = p.parameter(hidden, inputs), p.parameter(hidden, memory), p.parameter(hidden, memory)
    x = dy.inputTensor(p.rng.normal(size=(inputs, n)))
    y = dy.inputTensor(p.rng.normal(size=(memory, p.size(2, 60))))
    scores = dy.transpose(Q * x) * (K * y) * (1 / np.sqrt(hidden))
    return dy.sum_elems(dy.square(V * y * dy.transpose(dy.softmax(scores, d=1))))


def chain_of_matrices(p):
    a, b, c, d = p.size(2, 700), p.size(2, 700), p.size(2, 500), p.size(2, 300)
    product = dy.transpose(p.parameter(a, b)) * (p.parameter(a, c) * p.parameter(c, d))
    return dy.sum_elems(dy.tanh(product)) * (1 / (b * d))


def normalised(p):
    size, n = p.size(), p.size(1, 500)
    x = p.batch(size, n)
    y = dy.layer_norm(p.parameter(size, size) * x, p.parameter(size), p.parameter(size))
    y = dy.cmult(y, dy.exp(-dy.square(y))) + dy.logsumexp([y, x])
    return dy.mean_batches(dy.squared_norm(y))


def many_small_products(p):
    inputs, size, n = p.size(), p.size(), p.size(1, 200)
    W, b = p.parameter(size, inputs), p.parameter(size)
    xs = [dy.inputVector(p.rng.normal(size=inputs)) for _ in range(n)]
    return dy.average([dy.squared_norm(dy.tanh(W * x + b)) for x in xs])


def convolution(p):
    channels, filters, size, n = p.size(1, 6), p.size(1, 20), p.size(8, 40), p.size(1, 8)
    F, b = p.parameter(3, 3, channels, filters), p.parameter(filters)
    x = dy.inputTensor(p.rng.normal(size=(size, size, channels, n)), batched=True)
    y = dy.rectify(dy.conv2d_bias(x, F, b, [1, p.size(1, 3)], is_valid=bool(p.size(0, 2))))
    return dy.mean_batches(dy.squared_norm(y)) * (1 / size**2)


def trees(p):
    embedding, hidden = p.size(), p.size(20, 200)
    network = p.builder(dy.BinaryTreeLSTMBuilder, embedding, hidden)
    E, W = p.table(300, embedding), p.parameter(5, hidden)
    losses = []
    for _ in range(p.size(1, 8)):
        level = [network.node(E[i]) for i in p.words(p.size(1, 10), 300)]
        while len(level) > 1:
            at = p.size(0, len(level) - 1)
            level[at : at + 2] = [network.node(None, level[at : at + 2])]
        losses.append(dy.pickneglogsoftmax(W * level[0].output(), p.size(0, 5)))
    return dy.esum(losses)


def large_vocabulary(p):
    hidden, vocabulary, n = p.size(30, 120), p.size(6000, 20000), p.size(64, 200)
    W, b = p.parameter(vocabulary, hidden), p.parameter(vocabulary)
    h = dy.tanh(p.parameter(hidden, hidden) * p.batch(hidden, n))
    scores = dy.affine_transform([b, W, h])
    return dy.mean_batches(dy.pickneglogsoftmax_batch(scores, p.words(n, vocabulary)))


KINDS = {
    f.__name__: f
    for f in (
        perceptron,
        sentences_by_steps,
        tagger,
        attention,
        chain_of_matrices,
        normalised,
        many_small_products,
        convolution,
        trees,
        large_vocabulary,
    )
}


if __name__ == "__main__":
    found = [Program(seed).run({}) for seed in range(int(sys.argv[1]))]
    Path(sys.argv[2]).write_bytes(pickle.dumps(found))
