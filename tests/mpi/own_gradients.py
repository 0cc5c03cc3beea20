"""own_gradients.py: on several ranks, a program that computes from a rank's own gradients what
belongs to their average is told so, once, on rank 0, whichever rank does it; programs that are
right are told nothing. Each case is a step of training; rank 0 prints "ok"."""

import warnings

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._manner import manner

m = dy.ParameterCollection()
w = m.add_parameters((1, 2), init=0.5)
table = m.add_lookup_parameters((4, 2), init=0.5)
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 0.1))


def loss(batch):
    dy.renew_cg()
    return dy.esum([dy.square(w * table[i]) for i in batch])


def step(batch):
    return 0.5 / np.linalg.norm(w.grad_as_array())


def scale(batch):
    w.scale_gradient(step(batch))


def scale_rows(batch):
    table.rows_grad_as_array([0])
    table.scale_gradient(0.5)


def set_anew(batch):
    w.set_gradient(w.grad_as_array() * 0.5)


def set_rows(batch):
    table.touched_gradients()
    table.set_gradient(table.grad_as_array())


def as_expression(batch):
    w.gradient()
    w.scale_gradient(0.5)


def sharpness(batch):
    before = w.as_array()
    w.set_value(before + 0.05 * w.grad_as_array())
    m.reset_gradients()
    loss(batch).backward()
    w.set_value(before)


def sharpness_in_memory(batch):
    moved = 0.05 * w.grad_as_array().ravel(order="F")
    w.storage()[:] += moved
    w.changed()
    m.reset_gradients()
    loss(batch).backward()
    w.storage()[:] -= moved
    w.changed()


def sharpness_of_a_row(batch):
    before = table.row_as_array(batch[0])
    table.init_row(batch[0], before + 0.05 * table.rows_grad_as_array([batch[0]])[0])
    m.reset_gradients()
    loss(batch).backward()
    table.init_row(batch[0], before)


def update_by_hand(batch):
    for _ in range(2):
        w.set_value(w.as_array() - 0.1 * w.grad_as_array())
        m.reset_gradients()
        loss(batch).backward()
    w.grad_as_array()
    parallel.broadcast_parameters(m)


def drop(batch):
    if np.linalg.norm(w.grad_as_array()) > 0:
        m.reset_gradients()


def drop_each(batch):
    if np.linalg.norm(w.grad_as_array()) > 0:
        w.clear_gradient()
        table.clear_gradient()


def on_another_rank(body):
    """One whose gradients are large, say."""

    def act(batch):
        if parallel.rank() == 1:
            body(batch)

    return act


def mean_of_examples(batch):
    w.scale_gradient(1 / len(batch))
    table.scale_gradient(1 / len(batch))


def log(batch):
    w.grad_as_array()
    table.grad_as_array()


def averaged(batch):
    g = parallel.all_reduce(w.grad_as_array() * batch.n) / batch.total
    w.set_gradient(g * min(1, 0.1 / np.linalg.norm(g)))


def gathered(batch):
    g = sum(parallel.gather(w.grad_as_array() * batch.n)) / batch.total
    w.set_gradient(g * min(1, 0.1 / np.linalg.norm(g)))


def read_where_there_is_nothing(batch):
    m.reset_gradients()
    w.set_gradient(w.grad_as_array() + 1)


def drop_of_another_model(batch):
    w.grad_as_array()
    table.clear_gradient()


def of_its_own(batch):
    w.set_gradient(np.ones((1, 2)))


def second_pass_at_the_same_values(batch):
    w.grad_as_array()
    loss(batch).backward()
    m.reset_gradients()
    loss(batch).backward()


def said_by(body, after=lambda: None):
    """What is said in two steps, the second of which says it no more."""
    manner.said.discard("own gradients")
    found = []
    for batch in parallel.shard([0, 1, 2, 3], 2, comm=None):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss(batch).backward()
            body(batch)
            trainer.update()
            after()
        assert all(warning.filename == __file__ for warning in caught)
        found += [str(warning.message) for warning in caught]
    return found


TOLD = parallel.is_main() and parallel.world_size() > 1
OTHER = "update: on another rank"
for body, what in (
    (drop, "update: gradients were dropped after they had been read"),
    (drop_each, "update: gradients were dropped after they had been read"),
    (on_another_rank(scale), OTHER),
    (on_another_rank(sharpness), OTHER),
    (on_another_rank(drop), OTHER),
    (scale, "scale_gradient: the gradients were read before"),
    (scale_rows, "scale_gradient: the gradients were read before"),
    (set_anew, "set_gradient: the gradients were read before"),
    (set_rows, "set_gradient: the gradients were read before"),
    (as_expression, "scale_gradient: the gradients were read before"),
    (sharpness, "backward: it was called at values that were written"),
    (sharpness_in_memory, "backward: it was called at values that were written"),
    (sharpness_of_a_row, "backward: it was called at values that were written"),
    (update_by_hand, "backward: it was called at values that were written"),
):
    said = said_by(body)
    assert len(said) == TOLD, (body.__name__, said)
    assert all(text.startswith(what) and "all_reduce" in text for text in said), said
for body in (
    mean_of_examples,
    log,
    averaged,
    gathered,
    read_where_there_is_nothing,
    drop_of_another_model,
    of_its_own,
    second_pass_at_the_same_values,
):
    assert said_by(body) == [], body.__name__
assert said_by(log, after=lambda: w.clip_inplace(-1, 1)) == []
trainer.inner.set_accumulation(2)  # whose passes the trainer itself scales
assert said_by(log) == []
local = dy.ParameterCollection()
v = local.add_parameters(1, init=1)
own = parallel.LocalSGD(dy.SimpleSGDTrainer(local, 0.1), every=2)
with warnings.catch_warnings():
    warnings.simplefilter("error")  # each rank trains by its own gradients there
    for _ in range(2):
        dy.renew_cg()
        (v * v).backward()
        v.scale_gradient(0.1 / np.linalg.norm(v.grad_as_array()))
        own.update()
plain = dy.ParameterCollection()
v = plain.add_parameters(1, init=1)
v.grad_as_array()
v.scale_gradient(2)  # of one process
if parallel.is_main():
    print("ok")
