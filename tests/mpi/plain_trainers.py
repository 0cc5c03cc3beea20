"""plain_trainers.py: a loop over a shard of several ranks whose body calls the update() of a
trainer of one process trains a model of its own on each rank, also where another model has a
trainer that knows of the ranks. Rank 0 warns of that, once; so does one that moves values along
gradients by itself. Loops whose trainers know of the ranks, and those of one rank, are not warned
of. It also warns once of a norm of gradients that are not averaged yet. Rank 0 prints "ok"."""

import warnings

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._manner import manner


def warnings_of(update, w, **given):
    """The messages of an epoch."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in parallel.shard([1.0, 2.0, 3.0, 4.0], 2, **given):
            dy.renew_cg()
            w.backward()
            update()
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


m = dy.ParameterCollection()
w = m.add_parameters(1, init=0)
plain, wrapped = dy.SimpleSGDTrainer(m), dy.SimpleSGDTrainer(m)
trainer = parallel.DistributedTrainer(wrapped)
local = parallel.LocalSGD(dy.SimpleSGDTrainer(m))
assert warnings_of(trainer.update, w) == []
assert warnings_of(local.update, w) == []
local.average()
if parallel.world_size() > 1:
    from mpi4py import MPI

    assert warnings_of(plain.update, w, comm=MPI.COMM_SELF) == []
assert warnings_of(m.reset_gradients, w) == []


def descend(average=lambda g: g, **given):
    """The messages of an epoch of gradient descent without a trainer."""
    free = dy.ParameterCollection()
    v = free.add_parameters(1, init=0)

    def update():
        v.set_value(v.as_array() - 0.1 * average(v.grad_as_array()))
        free.reset_gradients()

    return warnings_of(update, v, **given)


def drop():
    """Gradients are looked at, and values written at another time."""
    free = dy.ParameterCollection()
    v = free.add_parameters(1, init=0)
    assert warnings_of(v.grad_as_array, v) == []
    v.set_value([1])
    return warnings_of(lambda: v.set_value([0]), v)


assert descend(parallel.all_reduce) == [] == drop()
if parallel.world_size() > 1:
    assert descend(comm=MPI.COMM_SELF) == []
said = descend()
assert len(said) == (parallel.is_main() and parallel.world_size() > 1), said
assert all("values are written after this rank's own gradients were read" in text for text in said)
assert descend() == []  # it was said
manner.said.clear()


def two(wrap, below=False, subset=False, inner=lambda w, v: None, **given):
    """The messages of an epoch with two models, whose trainers wrap() makes of those of one
    process."""
    root = dy.ParameterCollection()
    m, n = (root.add_subcollection(x) if below else dy.ParameterCollection() for x in "ab")
    w, v = m.add_parameters(1, init=0), n.add_parameters(1, init=0)
    first, second = wrap(dy.SimpleSGDTrainer(m), dy.SimpleSGDTrainer(n))

    def update():
        inner(w, v)
        first.update()
        dy.renew_cg()
        (w + 2 * v).backward()
        if subset:
            second.update_subset([0], [])
        else:
            second.update()
        for part in m, n:
            part.reset_gradients()

    return warnings_of(update, w, **given)


def is_warned_of(said):
    """Of rank 0, where there are several."""
    several = parallel.is_main() and parallel.world_size() > 1
    assert len(said) == several and all("a trainer of one process" in text for text in said), said
    manner.said.clear()


spread, average = parallel.DistributedTrainer, parallel.LocalSGD
for below in False, True:
    for second_of_one in (
        lambda first, second: (spread(first), second),
        lambda first, second: (average(first), second),
        lambda first, second: (first, spread(second)),
    ):
        is_warned_of(two(second_of_one, below))
    is_warned_of(two(lambda first, second: (spread(first), second), below, subset=True))
    assert two(lambda first, second: (spread(first), spread(second)), below) == []
    assert two(lambda first, second: (average(first), average(second)), below) == []
    if parallel.world_size() > 1:
        assert two(lambda *both: both, below, comm=MPI.COMM_SELF) == []


def several_steps_of_one(first, second):
    """Steps of the model that first has, whose gradients are dropped."""
    steps = dy.SimpleSGDTrainer(first.collection)

    class Before:
        """first, after a step that is taken back."""

        def update(self):
            w = first.collection.parameters_list()[0]
            kept = w.as_array()
            steps.update()
            w.set_value(kept)
            dy.renew_cg()
            w.backward()
            mine.update()

    mine = spread(first)
    return Before(), spread(second)


assert two(several_steps_of_one) == []  # values are as they were at the next update, or refused


def averages(first, second):
    """A trainer of one process whose gradients the program averages."""

    class Averaged:
        """second, with the mean of all ranks' gradients."""

        def update(self):
            (v,) = second.collection.parameters_list()
            v.set_gradient(parallel.all_reduce(v.grad_as_array(), "mean"))
            second.update()

    return spread(first), Averaged()


assert two(averages) == []
manner.said.clear()

said = warnings_of(wrapped.update, w)  # of the trainer inside, in place of the one around it
if parallel.rank() or parallel.world_size() == 1:
    assert said == []
else:
    assert len(said) == 1 and said[0].startswith(
        "shard: the examples are divided among 2 ranks, and the update() that was called is that of"
        " a trainer of one process"
    ), said
assert warnings_of(plain.update, w) == []  # it was said
for asks in (trainer.inner.gradient_norm, local.gradient_norm, parallel.barrier):
    assert warnings_of(asks, w) == []
said = warnings_of(trainer.gradient_norm, w)
assert len(said) == (parallel.is_main() and parallel.world_size() > 1), said
assert all("this rank's gradients, before they are averaged" in text for text in said)
m.reset_gradients()
if parallel.is_main():
    print("ok")
