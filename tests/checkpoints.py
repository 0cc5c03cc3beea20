"""What tests of checkpoints share: a model that is trained with random draws, and how to tell
whether two runs came to the same bits."""

import re

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel


def shard(seed=3, data=range(10), **changed):
    return parallel.shard(data, **{"batch_size": 4, "seed": seed, **changed})


def equal(a, b):
    """Whether two trees are the same, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return np.array_equal(a, b) and getattr(a, "dtype", None) == getattr(b, "dtype", None)


def model_of(shape=(3, 2), extra=()):
    m = dy.ParameterCollection()
    m.add_parameters(shape, name="W")
    m.add_lookup_parameters((5, 3), name="E")
    for name in extra:
        m.add_parameters(2, name=name)
    return m


def train(m, trainer, steps=1, row=0):
    W, E = m.parameters_list()[0], m.lookup_parameters_list()[0]
    for _ in range(steps):
        dy.renew_cg()
        dy.squared_norm(dy.transpose(W) * dy.dropout(E[row], 0.3)).backward()
        trainer.update()


def values(m):
    return {name: p.as_array() for name, p in m.named_parameters().items()}


def names(folder):
    """The checkpoints in a folder, each as number:step."""
    return sorted(
        re.sub(r"checkpoint-0*(\d+)-step-(\d+).safetensors", r"\1:\2", path.name)
        for path in folder.iterdir()
    )
