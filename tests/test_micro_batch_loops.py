"""What a loop over micro-batches (reproducible=True) is warned of, or refused: whatever makes its
result depend on the number of ranks.

How long: five seconds.
"""

import random
import warnings

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet import _random, parallel
from dist_dynet._manner import manner
from dist_dynet.parallel.batches import micro_draws


def new_trainer(**options):
    model = dy.ParameterCollection()
    w = model.add_parameters(1, init=0)
    return w, parallel.DistributedTrainer(dy.SimpleSGDTrainer(model, 1), **options)


class Noisy:
    """Data that are drawn when they are read."""

    def __len__(self):
        return 4

    def __getitem__(self, k):
        return k + random.random()


def test_draws_that_depend_on_the_number_of_ranks_are_warned_of(monkeypatch):
    """Those of Python's and NumPy's generators within a micro-batch."""

    def of_its_own(batch):
        random.Random(f"{batch.epoch} {batch}").random()
        np.random.default_rng(batch.step).random()

    def of_others(batch):
        parallel.evaluate(lambda x: random.random(), [1, 2])

    monkeypatch.setattr(micro_draws, "_EVERY", 1)

    def said(body, data=range(4), order=iter, between=lambda: None):
        manner.said.discard("draws in micro-batches")
        w, trainer = new_trainer(reproducible=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for epoch in range(2):
                between()
                for batch in order(
                    parallel.shard(data, 2, epoch=epoch, micro_batches=2, cost=None)
                ):
                    dy.renew_cg()
                    if batch:
                        body(batch)
                        w.backward()
                    trainer.update(batch)
                    if batch.ends_step:
                        between()
        assert all(warning.filename == __file__ for warning in caught)
        return len(caught)

    def shuffled(batches):
        batches = list(batches)
        random.shuffle(steps := [batches[:2], batches[2:]])
        return [batch for step in steps for batch in step]

    assert said(lambda batch: random.random()) == 1
    assert said(lambda batch: np.random.normal(size=2)) == 1
    assert said(len, Noisy()) == 1
    assert said(len, order=list) == said(of_others) == said(of_its_own) == 0
    assert said(len, between=random.random) == said(len, order=shuffled) == 0
    manner.said.discard("draws in micro-batches")


def test_gradients_of_a_refused_step_belong_to_no_micro_batch():
    w, trainer = new_trainer(reproducible=True)
    trainer.set_clip_threshold(5)

    def epoch(factor):
        for batch in parallel.shard([1, 2], batch_size=2, micro_batches=2):
            dy.renew_cg()
            (factor * w).backward()
            trainer.update(batch)

    with pytest.raises(RuntimeError, match="Magnitude of gradient is bad"):
        epoch(float("nan"))
    w.scale_gradient(0.5)
    with pytest.raises(RuntimeError, match="belong to no micro-batch"):
        epoch(1)
    w.clear_gradient()
    epoch(1)
    assert w.as_array() == [-1] and trainer.updates == 1


def test_calls_that_do_not_fit_are_errors():
    w, trainer = new_trainer(reproducible=True)
    with pytest.raises(RuntimeError, match="each call belongs to a batch of shard"):
        trainer.update()
    with pytest.raises(RuntimeError, match="no_sync: with reproducible=True"), trainer.no_sync():
        pass
    with pytest.raises(ValueError, match="Join: with reproducible=True"):
        parallel.Join(trainer)
    for _ in parallel.shard([1, 2], batch_size=2, micro_batches=2):
        dy.renew_cg()
        w.backward()
        trainer.update()
        with pytest.raises(RuntimeError, match="called once after each batch of shard"):
            trainer.update()
        break
    assert w.as_array() == [0]
    # the step that was left is forgotten
    for _ in parallel.shard([1, 2], batch_size=2, micro_batches=2):
        dy.renew_cg()
        (2 * w).backward()
        trainer.update()
    assert w.as_array() == [-2]
    _random.use_dynet_order(True)
    try:
        for _ in parallel.shard([1], batch_size=1, micro_batches=1):
            with pytest.raises(RuntimeError, match="got DyNet's order of draws"):
                trainer.update()
    finally:
        _random.use_dynet_order(False)
    _, other = new_trainer()
    for _ in parallel.shard([1, 2], batch_size=2, micro_batches=2):
        with pytest.raises(RuntimeError, match="need DistributedTrainer"):
            other.update()
        break
