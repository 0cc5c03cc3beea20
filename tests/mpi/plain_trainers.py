"""plain_trainers.py: a loop over a shard of several ranks whose body calls the update() of a
trainer of one process alone trains a model of its own on each rank. Rank 0 warns of that, once.
Loops whose trainers know of the ranks, and those of one rank, are not warned of. It also warns once
of a norm of gradients that are not averaged yet. Rank 0 prints "ok"."""

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
