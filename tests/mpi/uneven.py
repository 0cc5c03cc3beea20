"""Ranks with unlike many batches, passes without an exchange, and trainer states that differ at the
start, checked on every rank."""

import numpy as np
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

rank, size = parallel.rank(), parallel.world_size()


def new(rule=dy.SimpleSGDTrainer, average="mean", **options):
    model = dy.ParameterCollection()
    w = model.add_parameters(3, name="w", init=0)
    table = model.add_lookup_parameters((20, 3), name="table", init=0)
    trainer = parallel.DistributedTrainer(rule(model, 0.5), average=average, **options)
    trainer.set_clip_threshold(0)
    return model, w, table, trainer


def a_pass(w, table, row, scale=1.0):
    """dloss/dw = scale on every element, and the same in one row of the table."""
    dy.renew_cg()
    dy.sum_elems((w + table[row]) * scale).backward()


# Join: rank r has 2 r batches, so that rank 0 has none; update u is made by the ranks with 2 r > u.
model, w, table, trainer = new(dy.MomentumSGDTrainer)
average = dy.MovingAverage(trainer, decay=None)
schedule = dy.schedules.Linear(trainer, steps=100)
with parallel.Join(trainer):
    for batch in range(2 * rank):
        a_pass(w, table, rank)
        if batch == 2:
            trainer.set_clip_value(0.25)
            model.set_weight_decay(0.01)
        assert trainer.update()
        schedule.step()
assert trainer.updates == 2 * (size - 1) == schedule.steps_done
assert trainer.learning_rate == schedule.rate() and trainer.get_clip_value() == (
    0.25 if size > 2 else 0
)
assert len(set(parallel.gather(trainer.learning_rate))) == 1
parallel.assert_in_sync(model)
if size > 1:
    with average.applied():
        parallel.assert_in_sync(model)
trainer.update()  # settings and structure agree again

# a loop that is left between backward() and update(): what it leaves is in no later update
for kind in ("mean", "sum"):
    model, w, table, trainer = new(average=kind)
    with parallel.Join(trainer):
        for batch in range(rank + 2):
            a_pass(w, table, rank)
            if batch == rank + 1:
                break
            trainer.update()
    assert not w.has_gradient() and not table.has_gradient()
    before = w.as_array()
    trainer.update()
    assert np.array_equal(w.as_array(), before)
    parallel.assert_in_sync(model)

# gradients of weight 0 count for nothing, whatever they are: NaN times zero would be NaN
model, w, table, trainer = new()
a_pass(w, table, rank, 1.0 if rank == 0 else float("nan"))
trainer.update(1 if rank == 0 else 0)
assert np.allclose(w.as_array(), -0.5) and np.allclose(table.as_array()[0], -0.5)
assert not table.as_array()[1:].any()

# what one process does that sees all batches: g = mean over the ranks that go on
model, w, table, trainer = new()
with parallel.Join(trainer):
    for _ in range(rank + 1):
        a_pass(w, table, rank, 1.0 + rank)
        trainer.update()
expected = -0.5 * sum(np.mean([1.0 + r for r in range(u, size)]) for u in range(size))
assert np.allclose(w.as_array(), expected)
rows = [-0.5 * (1 + r) * sum(1 / (size - u) for u in range(r + 1)) for r in range(size)]
assert np.allclose(table.as_array()[:size, 0], rows) and not table.as_array()[size:].any()

# no batch anywhere; an exception passes through
model, w, table, trainer = new()
with parallel.Join(trainer):
    pass
assert trainer.updates == 0
with raises(KeyError, match="mine"), parallel.Join(trainer):
    raise KeyError("mine")

# no_sync: gradients add up
for average in ("mean", "sum"):
    model, w, table, trainer = new(average=average)
    with trainer.no_sync():
        for _ in range(2):
            a_pass(w, table, rank, 1.0 + rank)
            assert trainer.update() is False and not w.as_array().any()
    a_pass(w, table, rank, 1.0 + rank)
    assert trainer.update() is True
    scales = 1.0 + np.arange(size)
    expected = scales.mean() if average == "mean" else scales.sum()
    assert np.allclose(w.as_array(), -0.5 * 3 * expected), (average, w.as_array())

# accumulate divides by k, whatever the average
for average in ("mean", "sum"):
    model, w, table, trainer = new(average=average, accumulate=3)
    for i in range(3):
        a_pass(w, table, rank)
        assert trainer.update() is (i == 2)
    assert np.allclose(w.as_array(), -0.5 * (size if average == "sum" else 1)), (
        average,
        w.as_array(),
    )

# rank 0's trainer state is everybody's
model = dy.ParameterCollection()
w = model.add_parameters(3, name="w", init=1)
inner = dy.AdamTrainer(model)
for _ in range(2 * (rank == 0)):
    dy.renew_cg()
    dy.sum_elems(w).backward()
    inner.update()
trainer = parallel.DistributedTrainer(inner)
assert trainer.updates == 2 and trainer.state()["m:/w"].any()
dy.renew_cg()
dy.sum_elems(w).backward()
trainer.update()
parallel.assert_in_sync(model)
if size > 1:
    other = dy.AdamTrainer(model) if rank else dy.SimpleSGDTrainer(model)
    with raises(
        RuntimeError,
        match=(
            r"all ranks must agree; \w+ with average='mean', .* here, \w+ with average='mean', .*"
            r" on rank"
        ),
    ):
        parallel.DistributedTrainer(other)

# reading a table that decays multiplies the decay into it: what one rank reads must not change its
# bits
model, w, table, trainer = new(dy.AdamTrainer)
model.set_weight_decay(0.013)
table.init_from_array(np.random.default_rng(1).normal(size=(20, 3)))
for i in range(40):
    a_pass(w, table, i % 20, 1.0 + rank)
    trainer.update()
    if i % 7 == 3 + rank:
        table.as_array()
parallel.assert_in_sync(model)
