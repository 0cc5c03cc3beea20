"""The model that programs of fuzz_ranks.py train, and its data."""

import contextlib

import numpy as np

import dist_dynet as dy


def tokens(batch):
    """How many there are in a batch."""
    return sum(len(rows) for _, rows, _ in batch)


def few(batch):
    """Some of its examples, whichever rank has them."""
    return [example for example in batch if example[0][0] > -0.3]


def cost(example):
    """Of shard(): the dearest examples alone on their ranks."""
    return len(example[1])


def costs(data):
    """Of each example, as an array."""
    return [cost(example) for example in data]


class Stored:
    """Examples that are read, anew, when they are asked for."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, k):
        x, rows, y = self.data[k]
        return x.copy(), list(rows), y.copy()


def dense_layer(weights, bias, x):
    """Without what is not linear."""
    return weights * x + bias


traced_layer = dy.traced(dense_layer)


class TrainedModel:
    """A model with a table, and its data."""

    def __init__(self, seed, number=0, m=None, n=11):
        rng = np.random.default_rng((seed, number))
        self.data = [
            (
                rng.normal(size=3),
                rng.integers(0, 6, rng.integers(1, 5)).tolist(),
                rng.normal(size=2),
            )
            for _ in range(n)
        ]
        self.m = m = dy.ParameterCollection() if m is None else m
        self.W, self.b = m.add_parameters((2, 3), name="W"), m.add_parameters(2, name="b")
        self.unused = m.add_parameters(40, init=1, name="unused")
        self.E = m.add_lookup_parameters((6, 3), name="E")
        for p in (self.W, self.b):
            p.set_value(rng.normal(size=p.shape()) / 2)
        self.E.init_from_array(rng.normal(size=(6, 3)) / 2)
        self.added, self.dropout = [], 0
        self.form = ""  # how a pass is computed: see FORMS of rank_writer.py
        self.bad = None  # the number of an example whose loss is NaN
        self.all_bad = True  # all of its gradients are, too, or that of b alone

    def loss(self, batch, how="mean"):
        """Of this rank's batch: the mean over examples or "tokens", or the "sum"."""
        dy.renew_cg(autobatching=self.form == "autobatched")
        losses = [
            dy.squared_distance(self.output(x, row), dy.inputTensor(y)) * self.scale(x)
            for x, rows, y in batch
            for row in rows
        ]
        if not self.all_bad:
            losses += [dy.squared_norm(self.b) * float("nan") for x, *_ in batch if self.is_bad(x)]
        total = dy.esum(losses) / self.count(batch, how)
        if self.form == "penalty" and how != "sum":
            total = total + 0.1 * (dy.squared_norm(self.W) + dy.squared_norm(self.E.expr()))
        return total

    def count(self, batch, how):
        """By how much a sum over the batch is divided."""
        return 1 if how == "sum" else tokens(batch) if how == "tokens" else len(batch)

    def scale(self, x):
        """Of the loss of an example."""
        return float("nan") if self.all_bad and self.is_bad(x) else 1.0

    def is_bad(self, x):
        """Whether it is the input of that example."""
        return self.bad is not None and x[0] == self.data[self.bad % len(self.data)][0][0]

    def output(self, x, row):
        """Of one token."""
        return self.output_of(dy.inputTensor(x), lambda table: table[row])

    def output_of(self, x, looked_up):
        """Of an input, and of rows of tables."""
        layer = traced_layer if self.form == "traced" else dense_layer
        h = layer(self.W, self.b, x + looked_up(self.E))
        for p in self.added:
            h = h + looked_up(p) if isinstance(p, dy.LookupParameters) else dy.cmult(h, p)
        h = dy.tanh(h)
        return dy.dropout(h, self.dropout) if self.dropout else h

    def backward(self, batch, how="mean", share=1.0):
        """Nothing where there are no examples; share: by how much the loss is multiplied."""
        if not batch:
            return
        if self.form == "each":
            for example in batch:
                (self.loss([example], "sum") * share / self.count(batch, how)).backward()
        elif self.form in ("static", "batched") and self.bad is None:
            getattr(self, self.form)(batch, how, share)
        else:
            (self.loss(batch, how) * share).backward()

    def static(self, batch, how, share):
        """One graph of one token, which is computed again for each, of whole tables."""
        dy.renew_cg()
        x, y, row = dy.vecInput(3), dy.vecInput(2), dy.vecInput(6)
        loss = dy.squared_distance(self.output_of(x, lambda table: table.expr() * row), y)
        loss = loss * share / self.count(batch, how)
        for inputs, rows, target in batch:
            for k in rows:
                x.set(inputs), y.set(target), row.set(np.eye(6)[k])
                loss.forward()
                loss.backward()

    def batched(self, batch, how, share):
        """All tokens as one batch."""
        dy.renew_cg()
        of = [(x, row, y) for x, rows, y in batch for row in rows]
        x, rows, y = (np.array(column).T for column in zip(*of, strict=True))
        h = self.output_of(
            dy.inputTensor(x, batched=True), lambda table: dy.lookup_batch(table, rows.tolist())
        )
        losses = dy.squared_distance(h, dy.inputTensor(y, batched=True))
        (dy.sum_batches(losses) * share / self.count(batch, how)).backward()

    def usable(self, batch):
        """Its examples but for those that raise an error."""
        good = []
        for example in batch:
            with contextlib.suppress(ValueError):
                self.W.set_value(np.zeros(5)) if self.is_bad(example[0]) else good.append(example)
        return good

    def against(self, other, batch, how="mean"):
        """As backward(), of a loss of two models, as those of GANs."""
        if not batch:
            return
        dy.renew_cg()
        losses = [
            dy.squared_distance(self.output(x, rows[0]), other.output(x, rows[-1]))
            for x, rows, _ in batch
        ]
        (dy.esum(losses) / (1 if how == "sum" else len(batch))).backward()

    def score(self, batch):
        """The loss without a gradient and without dropout."""
        dropout, self.dropout = self.dropout, 0
        value = self.loss(batch, "sum").value() if batch else 0.0
        self.dropout = dropout
        return value

    def add(self, table=False):
        """A new parameter, from now on part of the model; each rank draws values of its own."""
        number = len(self.added)
        rng = np.random.default_rng((number, 5))
        if table:
            p = self.m.add_lookup_parameters((6, 2), name=f"T{number}")
            p.init_from_array(rng.normal(size=(6, 2)))
        else:
            p = self.m.add_parameters(2, name=f"p{number}")
            p.set_value(rng.normal(size=2))
        self.added.append(p)
