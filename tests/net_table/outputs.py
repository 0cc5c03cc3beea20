"""Output layers over six words."""

from pathlib import Path
from tempfile import TemporaryDirectory

import dist_dynet as dy

from .row import Net

WORDS = {w: i for i, w in enumerate("abcdef")}
CLUSTERS = "A a 1\nB b 2\nC c 3\n\nC d\nC e\nB f 1\n"
PATHS = "0\ta\n1 0\tb 1\n1 1 x\tc\n\n1 1 x\td\t3\n1 1 y\te\n1 1 x\tf\n"
"""Two branches at the root, at 1 and at 1 1; three words at 1 1 x, one at each other place."""
INPUT = 3


def of_file(builder, text):
    """Makes a builder that reads a file of words."""

    def make(m, bias):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "words"
            path.write_text(text)
            return builder(INPUT, path, WORDS, m, bias)

    return make


FACTORIES = {
    "standard": lambda m, bias: dy.StandardSoftmaxBuilder(INPUT, 6, m, bias),
    "factored": of_file(dy.ClassFactoredSoftmaxBuilder, CLUSTERS),
    "hierarchical": of_file(dy.HierarchicalSoftmaxBuilder, PATHS),
    "sampled": lambda m, bias: dy.SampledSoftmax(INPUT, 6, m, 4, "log-uniform", bias),
    "noise": lambda m, bias: dy.NoiseContrastiveEstimation(
        INPUT, 6, m, 4, [5, 4, 3, 2, 1, 1], bias
    ),
}
"""Each makes an output layer in a collection, with or without bias. The tests of
test_softmax_builders.py are for all."""


def losses(output, xs):
    (x,) = xs
    words = [[0, 2, 5, 2], [5, 3, 4, 1]]
    terms = [output.neg_log_softmax_batch(x, (w * 2)[: x.dim()[1]]) for w in words]
    if hasattr(output, "loss_batch"):
        terms += [
            output.loss_batch(x, (w * 2)[: x.dim()[1]], negatives=[1, 5, 0, 5]) for w in words
        ]
    return dy.concatenate([*terms, output.full_log_distribution(x)])


NETS = {
    name + ("" if bias else " without bias"): Net(
        lambda m, make=make, bias=bias: make(m, bias), [(INPUT,)], losses, per_element=False
    )
    for name, make in FACTORIES.items()
    for bias in (True, False)
}
