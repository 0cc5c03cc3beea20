"""Least squares by gradient descent over shard(), and where it ends by NumPy on the whole batches:
for programs that try loops of all kinds.
"""

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

DATA = np.random.default_rng(3).normal(size=(13, 3))
SIZE, RATE = 5, 0.1


def descend(w, passes):
    """One update by the sum of the passes' gradients, each the mean over its batch."""
    gradient = sum((2 * x[:, 2:] * (x[:, 2:] * w - x[:, :2])).mean(axis=0) for x in passes)
    return w - RATE * gradient


def steps(seed=0, epoch=0):
    """The whole batches of an epoch."""
    order = np.random.default_rng((seed, epoch)).permutation(len(DATA))
    return [DATA[order[i : i + SIZE]] for i in range(0, len(DATA), SIZE)]


class Model:
    """One weight vector, its trainer and its shard."""

    def __init__(self, seed=0, size=SIZE, average="mean", **options):
        self.m = dy.ParameterCollection()
        self.w = self.m.add_parameters(2, init=0)
        self.average = average
        inner = dy.SimpleSGDTrainer(self.m, RATE)
        self.trainer = parallel.DistributedTrainer(inner, average, **options)
        self.trainer.set_clip_threshold(0)
        # the dearest example alone on its rank
        self.shard = parallel.shard(
            list(DATA), size, seed=seed, cost=lambda x: 9 if x[0] > 0.5 else 1
        )

    def loss(self, batch):
        """The mean over the batch of |w x2 - (x0, x1)|^2; with "sum", the rank's part of it."""
        losses = [dy.squared_distance(self.w * float(x[2]), dy.inputTensor(x[:2])) for x in batch]
        return dy.esum(losses) / (len(batch) if self.average == "mean" else batch.total)

    def backward(self, batch):
        """A rank without examples has nothing to add."""
        dy.renew_cg()
        if batch:
            self.loss(batch).backward()

    def step(self, batch, *named):
        """Backward and update."""
        self.backward(batch)
        return self.trainer.update(*named)


def expect(model, *updates):
    """The model is where these updates lead, on all ranks."""
    w = np.zeros(2)
    for passes in updates:
        w = descend(w, passes)
    assert np.allclose(model.w.as_array(), w, rtol=1e-12, atol=1e-12), (model.w.as_array(), w)
    parallel.assert_in_sync(model.m)


def refused(words, function):
    """With several ranks an update() says these words, or that another rank has said some, and
    changes nothing. With one process all is right."""
    try:
        function()
    except RuntimeError as error:
        assert parallel.world_size() > 1, error
        said = parallel.gather(str(error))
        assert any(words in text for text in said), said
        assert any("trainer.update(batch)" in text for text in said), said
    else:
        assert parallel.world_size() == 1, f"not refused: {words}"


EPOCH = [[x] for x in steps()]
