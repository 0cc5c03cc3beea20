"""Trees: a binary TreeLSTM written by hand, whose nodes are cells (dy.traced), learns to evaluate
nested MAX, MIN and SUM.

One script for one process and for many:

    python examples/treelstm.py
    mpirun -n 2 python examples/treelstm.py
    echo "(0 (0 (0 MAX) (0 3)) (0 4))" | python examples/treelstm.py --predict -

Each tree is another network. The functions `leaf` and `inner` say what one node does; as cells they
are one node of the graph per call, and with autobatching all calls that can be made together are.

How long: 6 epochs take 10 s on one core. What to expect: 0.99 or more of the roots are right on dev
and test.
"""

import gzip
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also with PYTHONSAFEPATH=1
import shared

import dist_dynet as dy
from dist_dynet import parallel


def parse(line):
    """A tree from brackets: (label, word) or (label, left, right).

    Raises:
        ValueError: there is none, or more than one.
    """
    stack = [[]]
    for token in re.findall(r"[()]|[^\s()]+", line):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = tuple(stack.pop())
            if not stack or not 2 <= len(done) <= 3:
                raise ValueError("brackets")
            stack[-1].append(done)
        else:  # a label stands first, then a word may
            stack[-1].append(token if stack[-1] else int(token))
    ((tree,),) = stack
    if not isinstance(tree, tuple):
        raise ValueError("no tree")
    return tree


def read(path):
    """The trees of a gzipped file, one a line."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [parse(line) for line in file]


def size(tree):
    """The number of nodes: each is a step and a loss."""
    return 1 + sum(size(child) for child in tree[1:] if isinstance(child, tuple))


class Network:
    """A TreeLSTM (Tai, Socher and Manning 2015) with a forget gate per child, and a classifier for
    every node."""

    LABELS = 5

    def __init__(self, model, words, n):
        self.words, self.n = words, n
        self.model = model = model.add_subcollection("trees")
        init = dy.GlorotInitializer(is_lookup=True)
        self.table = model.add_lookup_parameters((len(words), n), init=init)
        matrix, bias = (
            (lambda: model.add_parameters((n, n))),
            (lambda start=0: model.add_parameters(n, init=start)),
        )
        self.of_leaf = [(bias(), matrix()) for _ in "iou"]
        self.of_inner = [(bias(), matrix(), matrix()) for _ in "iou"]
        self.forget = [(bias(1), matrix(), matrix()) for _ in "lr"]
        self.V, self.c = model.add_parameters((self.LABELS, n)), model.add_parameters(self.LABELS)

    @property
    def spec(self):
        """Plain data that from_spec() makes the same network of: for dy.save and dy.load."""
        return self.words.spec, self.n

    @classmethod
    def from_spec(cls, spec, model):
        """A network of this spec, with new parameters."""
        words, n = spec
        return cls(model, dy.Vocabulary.from_spec(words), n)

    def param_collection(self):
        """Its parameters."""
        return self.model

    @dy.traced
    def leaf(self, x):
        """The state (h, c) of a word."""
        i, o, u = (dy.affine_transform([b, W, x]) for b, W in self.of_leaf)
        c = dy.cmult(dy.logistic(i), dy.tanh(u))
        return dy.cmult(dy.logistic(o), dy.tanh(c)), c

    @dy.traced
    def inner(self, hl, cl, hr, cr):
        """The state of a node from those of its children."""
        i, o, u = (dy.affine_transform([b, L, hl, R, hr]) for b, L, R in self.of_inner)
        fl, fr = (dy.logistic(dy.affine_transform([b, L, hl, R, hr])) for b, L, R in self.forget)
        c = dy.cmult(dy.logistic(i), dy.tanh(u)) + dy.cmult(fl, cl) + dy.cmult(fr, cr)
        return dy.cmult(dy.logistic(o), dy.tanh(c)), c

    def states(self, tree, labelled):
        """The state of a tree's root; appends (h, label) of all nodes to `labelled`."""
        if isinstance(tree[1], str):
            h, c = self.leaf(self.table[self.words[tree[1]]])
        else:
            h, c = self.inner(*self.states(tree[1], labelled), *self.states(tree[2], labelled))
        labelled.append((h, tree[0]))
        return h, c

    def loss(self, batch):
        """Mean over trees of the sum over nodes of -log p(label)."""
        dy.renew_cg(autobatching=True)
        labelled = []
        for tree in batch:
            self.states(tree, labelled)
        return dy.esum(
            [
                dy.pickneglogsoftmax(dy.affine_transform([self.c, self.V, h]), label)
                for h, label in labelled
            ]
        ) / len(batch)

    def predict(self, tree):
        """The label of the root."""
        dy.renew_cg()
        h, _ = self.states(tree, [])
        return int(dy.affine_transform([self.c, self.V, h]).npvalue().argmax())

    def is_right(self, tree):
        """Whether the label of the root is found."""
        return int(self.predict(tree) == tree[0])


def predict(args):
    """The value of each line's tree, whose own labels are not looked at."""
    network = shared.load(args)
    form = "a tree, each of its nodes with a label: (0 (0 (0 MAX) (0 3)) (0 4))"
    for tree in shared.lines(args.predict, parse, form):
        print(network.predict(tree))


def main():
    """Train, print the share of roots that are right after each epoch, and on the test set."""
    parser = shared.parser(
        "TreeLSTM for nested operations, made of cells.",
        "treelstm",
        data="listops",
        epochs=6,
        batch_size=32,
        unit="trees",
    )
    parser.add_argument("--size", type=int, default=64, help="of states and embeddings")
    args = parser.parse_args()
    if args.predict:
        return predict(args)
    train, dev, test = (read(args.data / f"{part}.txt.gz") for part in ("train", "dev", "test"))
    train = train[: args.limit]
    dy.reset_random_seed(args.seed)
    model = dy.ParameterCollection()
    words = dy.Vocabulary(["MAX", "MIN", "SUM", *map(str, range(Network.LABELS))], unknown=None)
    network = Network(model, words, args.size)
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model, learning_rate=0.003))
    batches = parallel.shard(train, args.batch_size, seed=args.seed, epoch=1, cost=size)
    run, best = shared.begin(args, network, trainer, batches)
    for epoch in range(batches.epoch, args.epochs + 1):
        for batch in run.epoch(batches):
            if batch:  # a rank may be left without trees at the end of an epoch
                loss = network.loss(batch)
                run.log(loss=loss.value())
                loss.backward()
            trainer.update()
        loss, accuracy = run.means()["loss"], np.mean(parallel.evaluate(network.is_right, dev))
        best.update(accuracy)
        run.write(epoch=epoch, dev_accuracy=accuracy)
        shared.say(f"epoch {epoch}: loss {loss:.3f}, dev accuracy {accuracy:.3f}")
        if best.is_over:
            break
    best.restore()
    accuracy = np.mean(parallel.evaluate(network.is_right, test))
    run.write(test_accuracy=accuracy)
    shared.say(f"test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
