"""What a loop over micro-batches (reproducible=True) is warned of, or refused: whatever makes its
result depend on the number of ranks.

How long: five seconds.
"""

import contextlib
import itertools
import random
import warnings
from pathlib import Path

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


WITHIN = {
    "reduced in micro-batches",
    "settings within a step",
    "values within a step",
    "trainers in turn",
}
"""Warnings that are given once."""


@contextlib.contextmanager
def caught_once(within):
    """What follows the name of the warnings of a block, which are given once each."""
    manner.said -= WITHIN
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield within
    manner.said -= WITHIN
    assert all(warning.filename == __file__ for warning in caught)
    within += [str(warning.message) for warning in caught]


def test_what_a_step_does_for_each_micro_batch_is_warned_of():
    """How many of them a rank has depends on the number of ranks."""

    def said(within=lambda trainer, batch: None, behind=lambda trainer, batch: None, micro=2):
        w, trainer = new_trainer(reproducible=True)
        with caught_once([]) as messages:
            for batch in parallel.shard(range(6), 3, micro_batches=micro, cost=None):
                dy.renew_cg()
                if batch:
                    w.backward()
                within(trainer, batch)
                updated = trainer.update()
                assert updated == batch.ends_step
                behind(trainer, batch)
            parallel.all_reduce(1)
            trainer.learning_rate = 0.01
        return " ".join(message.split(":")[0] for message in messages)

    def reduce(trainer, batch):
        parallel.all_reduce(len(batch))

    def gather(trainer, batch):
        parallel.gather(len(batch))

    def decay(trainer, batch):
        trainer.learning_rate *= 0.9

    def at_its_end(act):
        return lambda trainer, batch: act(trainer, batch) if batch.ends_step else None

    assert said(reduce) == said(behind=reduce) == "all_reduce"
    assert said(gather) == said(behind=gather) == "gather"
    assert said(decay) == said(behind=decay) == "update"
    assert said(at_its_end(reduce), at_its_end(reduce)) == said(behind=at_its_end(decay)) == ""
    assert said(at_its_end(gather)) == ""
    assert said(reduce, decay, micro=1) == said() == ""


def test_a_setting_that_changes_within_a_step_is_warned_of():
    """Which of its micro-batches have come by then depends on the number of ranks."""

    def set_rate(trainer):
        trainer.learning_rate = 0.5

    changes = {
        "the learning rate": set_rate,
        "the clip threshold": lambda trainer: trainer.set_clip_threshold(1),
        "the clip value": lambda trainer: trainer.set_clip_value(1),
        "the weight decay": lambda trainer: trainer.collection.set_weight_decay(0.1),
        "set_sparse_updates()": lambda trainer: trainer.set_sparse_updates(False),
        "the trainer's state": lambda trainer: trainer.restart(),
        "what is frozen": lambda trainer: trainer.collection.parameters_list()[0].set_updated(0),
    }
    for (name, change), place, micro in itertools.product(
        changes.items(), ("first", "first end", 1, 2, "last", "last end"), (1, 4)
    ):
        w, trainer = new_trainer(reproducible=True)
        with caught_once([]) as messages:
            for number, _ in enumerate(parallel.shard(range(8), 4, micro_batches=micro)):
                dy.renew_cg()
                turn = number % micro
                here = {0: "first", micro - 1: "last"}.get(turn, turn)
                if here == place and number // micro == 1:
                    change(trainer)
                w.backward()
                updated = trainer.update()
                is_end = {"last end": updated, "first end": not turn}.get(place, False)
                if is_end and number < micro:
                    change(trainer)
        is_within = micro > 1 and place in ("first end", 1, 2)
        assert len(messages) == is_within, (name, place, micro, messages)
        assert all(f"reproducible=True {name}" in message for message in messages), messages


def test_values_that_change_within_a_step_are_warned_of(tmp_path):
    """Its later micro-batches are computed with other values than the earlier ones."""
    model = dy.ParameterCollection()
    w, table = model.add_parameters(2, init=1), model.add_lookup_parameters((3, 2), init=1)
    other = dy.ParameterCollection()
    v = other.add_parameters(2, init=1)
    model.save(str(tmp_path / "model"))
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model), reproducible=True)
    steps = dy.SimpleSGDTrainer(model)
    average = dy.MovingAverage(trainer)

    def write_storage():
        w.storage()[0] = len(said)
        w.changed()

    def move():
        kept = w.as_array(), table.as_array()
        steps.update()
        w.set_value(kept[0])
        table.init_from_array(kept[1])

    def look():
        with average.applied():
            w.as_array()

    writes = {
        "set_value": lambda: w.set_value(w.as_array() + 1),
        "scale": lambda: w.scale(0.5),
        "zero": lambda: (w.set_value([3, 3]), w.zero()),
        "clip": lambda: (w.set_value([3, 3]), w.clip_inplace(0, 1 + len(said))),
        "init_row": lambda: table.init_row(1, [len(said), 2]),
        "table": lambda: table.scale(0.5),
        "storage": write_storage,
        "populate": lambda: model.populate(str(tmp_path / "model")),
        "copy_from": lambda: other.copy_from(other, 1) or v.set_value(v.as_array() + 1),
        "another model": lambda: v.scale(0.9),
        "another trainer": lambda: (w.set_gradient([1, 1]), steps.update()),
    }
    harmless = {
        "clipped": lambda: w.clip_inplace(-1000, 1000),
        "padding": lambda: table.init_row(0, [0, 0]),
        "an average": look,
        "steps that are taken back": move,
        "gradients": lambda: w.set_gradient([1, 1]),
        "read": lambda: (w.storage(), w.as_array(), model.save(str(tmp_path / "other"))),
    }
    said = []
    for name, write in (writes | harmless).items():
        for place in ("turn", "end of step", "last", "before update"):
            if name == "padding":  # it is zero from the beginning
                write()
            with caught_once([]) as messages:
                for batch in parallel.shard(range(12), 4, micro_batches=4):
                    dy.renew_cg()
                    if place == "last" and batch.ends_step:
                        write()
                    dy.sum_elems(w + table[1]).backward()
                    if place == "before update":
                        write()
                    trainer.update()
                    if place == "turn" or (place == "end of step" and batch.ends_step):
                        write()
            is_within = name in writes and place != "end of step"
            assert len(messages) == is_within, (name, place, messages)
            assert all("were written" in m and f" at {Path(__file__).name}:" in m for m in messages)
            said += messages


def test_a_write_that_is_undone_by_each_update_is_warned_of():
    """The first micro-batch of a step is computed without it, the others with it."""
    for before, others in itertools.product((True, False), repeat=2):
        model, other = dy.ParameterCollection(), dy.ParameterCollection()
        w, v = model.add_parameters(1, init=1), other.add_parameters(1, init=1)
        trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model), reproducible=True)
        beside = dy.SimpleSGDTrainer(other)
        with caught_once([]) as messages:
            for batch in parallel.shard(range(12), 4, micro_batches=4):
                dy.renew_cg()
                (w * -1).backward()
                if before:
                    w.clip_inplace(-1, 1)
                if trainer.update() and not before:
                    w.clip_inplace(-1, 1)
                if others and batch.ends_step:  # a pass of another model between two steps
                    dy.renew_cg()
                    v.backward()
                    beside.update()
                    w.scale(2)
        assert len(messages) == before, (before, others, messages)


def test_trainers_that_take_turns_within_a_step_are_warned_of():
    """The second computes its last micro-batch alone with what the first has changed."""

    def said(loop, micro=4, apart=True, uses=True):
        root = dy.ParameterCollection()
        models = [dy.ParameterCollection() if apart else root.add_subcollection() for _ in range(2)]
        pair = [m.add_parameters(1, init=1) for m in models]
        trainers = [
            parallel.DistributedTrainer(dy.SimpleSGDTrainer(m), reproducible=True) for m in models
        ]

        def backward(k, drops=True):
            dy.renew_cg()
            (pair[k] * (pair[1 - k] if uses else 1)).backward()
            if drops:
                models[1 - k].reset_gradients()

        with caught_once([]) as messages:
            loop(parallel.shard(range(8), 4, micro_batches=micro), backward, trainers)
        assert all("another trainer has made its update" in message for message in messages)
        return len(messages)

    def in_turn(batches, backward, trainers):
        for _ in batches:
            for k in range(2):
                backward(k)
                trainers[k].update()

    def together(batches, backward, trainers):
        for _ in batches:
            dy.renew_cg()
            backward(0, False)
            backward(1, False)
            trainers[0].update()
            trainers[1].update()

    def zipped(batches, backward, trainers):
        for both in zip(batches, parallel.shard(range(8), 4, micro_batches=4), strict=True):
            for k in range(2):
                backward(k)
                trainers[k].update(both[k])

    def step_by_step(batches, backward, trainers):
        step = []
        for batch in batches:
            step.append(batch)
            if batch.ends_step:
                for k in range(2):
                    for part in step:
                        backward(k)
                        trainers[k].update(part)
                step.clear()

    def one_after_the_other(batches, backward, trainers):
        for k in range(2):
            for _ in batches:
                backward(k)
                trainers[k].update()

    for apart in False, True:
        assert said(in_turn, apart=apart) == said(zipped, apart=apart) == 1
        for loop in together, step_by_step, one_after_the_other:
            assert said(loop, apart=apart) == 0
        assert said(in_turn, micro=1, apart=apart) == 0
    assert said(zipped, uses=False) == 0


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
