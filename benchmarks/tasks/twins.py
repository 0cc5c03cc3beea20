"""What the PyTorch twins of the tasks for on-the-fly batching share: layers of given values,
sequences of unlike lengths as one batch.

Sequences are padded for nn.LSTM: its oneDNN kernels do padding and all in less time than packed
sequences take. A second direction is a layer of its own over the sequences read backwards, so that
no state comes from padding. What is not recurrent gets the items alone, one sequence after the
other.
"""

import itertools

import common
import numpy as np


def embedding(torch, values, sparse=True):
    """A table; its gradient holds the used rows alone if sparse."""
    return torch.nn.Embedding.from_pretrained(torch.from_numpy(values), freeze=False, sparse=sparse)


def linear(torch, w, b=None):
    """W x + b."""
    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=b is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(w))
        if b is not None:
            layer.bias.copy_(torch.from_numpy(b))
    return layer


def lstm(torch, values):
    """One layer of one direction, with values as common.lstm_values makes them."""
    layer = torch.nn.LSTM(values[0].shape[1], values[1].shape[1])
    common.set_torch_lstm(torch, layer, values)
    return layer


class Cell:
    """An LSTM's step, its gates in DyNet's order, so that one logistic serves three of them; 1 is
    added to the forget gate's bias."""

    def __init__(self, torch, values):
        wx, wh, b = values
        self.torch, self.hidden = torch, wh.shape[1]
        b = b.copy()
        b[self.hidden : 2 * self.hidden] += 1.0
        self.wx, self.wh, self.b = (torch.nn.Parameter(torch.from_numpy(v)) for v in (wx, wh, b))

    def parameters(self):
        """All three."""
        return [self.wx, self.wh, self.b]

    def step(self, gates, c):
        """(h, c) from what stands before the gates' activations, a row for each sequence."""
        n, torch = self.hidden, self.torch
        ifo, g = gates.split([3 * n, n], 1)
        i, f, o = torch.sigmoid(ifo).chunk(3, 1)
        c = torch.addcmul(i * torch.tanh(g), f, c)
        return o * torch.tanh(c), c


def trained(*layers):
    """What Adam updates of the layers."""
    return [p for layer in layers for p in layer.parameters() if p.requires_grad]


def flat(rows):
    """The items of all rows."""
    return [x for row in rows for x in row]


class Padded:
    """Where the items of sequences lie, given one sequence after the other, in arrays of (position,
    sequence) that are read from either end."""

    def __init__(self, torch, rows):
        lengths = np.array([len(row) for row in rows])
        self.shape = longest, count = lengths.max(), len(lengths)
        first, t = np.cumsum(lengths) - lengths, np.arange(longest)[:, None]
        real, there = t < lengths, np.arange(lengths.sum()) - np.repeat(first, lengths)
        of, left = np.repeat(np.arange(count), lengths), np.repeat(lengths, lengths)
        self.real = torch.from_numpy(real)
        self.read = [
            torch.from_numpy(np.where(real, first + at, 0).ravel()) for at in (t, lengths - 1 - t)
        ]
        self.items = [torch.from_numpy(at * count + of) for at in (there, left - 1 - there)]
        self.ends = torch.from_numpy((lengths - 1) * count + np.arange(count))

    def padded(self, x):
        """A row for each position and sequence, from a row for each item; padding holds whatever
        item."""
        return x.index_select(0, self.read[0]).view(*self.shape, -1)

    def transduce(self, layers, x):
        """The outputs of each layer over the rows of x, the second reading backwards, padding
        included."""
        return [
            layer(x.index_select(0, at).view(*self.shape, -1))[0].flatten(0, 1)
            for layer, at in zip(layers, self.read, strict=False)
        ]

    def outputs(self, torch, layers, x):
        """A row for each item."""
        return torch.cat(
            [
                h.index_select(0, at)
                for h, at in zip(self.transduce(layers, x), self.items, strict=False)
            ],
            1,
        )

    def last(self, torch, layers, x):
        """A row for each sequence: where each layer ends."""
        return torch.cat([h.index_select(0, self.ends) for h in self.transduce(layers, x)], 1)


def cross_entropy(torch, scores, labels):
    """The sum of the losses, in float32."""
    return torch.nn.functional.cross_entropy(scores.float(), torch.tensor(labels), reduction="sum")


def task(torch, args, model, embeddings, others, loss_of, batches=None):
    """step() of a twin: `loss_of(examples)` gives (units, loss); sparse embeddings and all else are
    updated.

    The examples come from a stream of batches, or else from the model's data.
    """
    update, stream = (
        common.torch_adam(torch, embeddings, others, "sparse"),
        batches or common.together(model.data(), args.batch),
    )

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            units, loss = loss_of(next(stream))
        value = loss.item()
        loss.backward()
        update()
        return units, value

    return step


# ---- tasks whose precision can be chosen, and which can be compiled -----------------------


FORMS = {"float32", "bf16", "bf16_logits", "compile"}
"""What twins with summed_loss() and batches_task() can do."""


def summed_loss(torch, args, scores):
    """loss(x, labels): the sum of the cross-entropies of the rows scores(x), a label of -100 being
    none, as --precision and --compile say."""
    rounded = args.precision != "float32"
    cross_entropy = torch.nn.functional.cross_entropy

    def loss(x, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            rows = scores(x)
        if args.precision == "bf16_logits":  # only the sum of the words' losses in float32
            return cross_entropy(rows, labels, reduction="none").float().sum()
        return cross_entropy(rows.float(), labels, reduction="sum")

    if not args.compile:
        return loss
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # rather than go on uncompiled
    return torch.compile(loss, dynamic=True)


def batches_task(args, batches, inputs_of, loss_of, update, units_of):
    """step() of a twin over the batches, again and again; `inputs_of(batch)` are the tensors that
    `loss_of` takes."""
    stream = itertools.cycle(batches)

    def step():
        batch = next(stream)
        loss = loss_of(*inputs_of(batch))
        value = loss.item()
        loss.backward()
        update()
        return units_of(batch), value

    def warm_up():
        by_shape = {tuple(x.shape for x in inputs_of(batch)): batch for batch in batches}
        for batch in by_shape.values():
            loss_of(*inputs_of(batch)).backward()
        update.clear()

    if args.compile:
        step.warm_up = warm_up
    return step
