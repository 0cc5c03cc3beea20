"""Ctrl-C at every place of an update of several ranks: half_done.py TRAINER... leaves parameters,
trainer and averages of one and the same update, and the rank out of step or the update done.

Rank 0 prints "ok" for each.
"""

import signal
import sys
from pathlib import Path

import numpy as np
from alike import use_a_host_each

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.parallel.processes.session import world

sys.path.append(str(Path(__file__).parents[1]))
from interrupted import interrupted_at

rank, size = parallel.rank(), parallel.world_size()
signal.signal(signal.SIGINT, signal.default_int_handler)
MEAN = (size + 1) / 2
AGAIN = 1500
"""More places than an update has: it waits for a rank that has left."""
KEPT = []
"""Trainers: the communicator of one that is gone is given back, and MPI may number a later one as
it. What an interrupted rank has sent by it would be received there."""


def distributed(m):
    return parallel.DistributedTrainer(dy.MomentumSGDTrainer(m, 1, 0))


def local(m):
    return parallel.LocalSGD(dy.SimpleSGDTrainer(m, 1), every=2)


TRAINERS = {"auto": distributed, "hosts": distributed, "local": local}


def one_round(make, place):
    """Whether a signal came in the update that follows others."""
    m = dy.ParameterCollection()
    w = m.add_parameters(3, init=0, name="w")
    trainer = make(m)
    KEPT.append(trainer)
    trainer.set_clip_threshold(0)
    is_local = make is local  # then no average follows it
    average = None if is_local else dy.MovingAverage(trainer, decay=None)
    came = []

    def come():
        came.append(1)
        signal.raise_signal(signal.SIGINT)

    def step():
        w.set_gradient([rank + 1] * 3)
        trainer.update()

    for _ in range(3):
        step()
    w.set_gradient([rank + 1] * 3)
    more = interrupted_at(place, trainer.update, come, again=AGAIN)
    if len(came) > 1:  # it was waiting for the others' part of what it has done itself
        return finish(more)
    done, here = trainer.updates, (place, rank)
    if is_local:
        averaged, inner = (trainer.updates - trainer.position) // 2, trainer.inner.updates
        assert trainer.position in (0, 1, 2) and inner in (3, 4), (here, trainer.position)
        at = -MEAN * 2 * averaged - (rank + 1) * (inner - 2 * averaged)
        assert (w.as_array() == at).all(), (here, w.as_array(), at, trainer.position)
        return finish(more)
    assert done in (3, 4), here
    assert (w.as_array() == -MEAN * done).all(), (here, w.as_array(), done)
    values = [-MEAN * k for k in range(1, done + 1)]
    state = average.state()
    assert done == state["calls"] == state["averaged"], (here, done, state)
    np.testing.assert_allclose(state["average:/w"], [np.mean(values[:done])] * 3)
    return finish(more)


def finish(more):
    """Ranks meet whatever they have left; messages that they have sent meet no later ones."""
    here, every = world(), world().mpi.COMM_WORLD
    here.wait([every.Ibarrier()], "test")
    here.comm = every.Dup()
    here.mark_out_of_step("")
    return more


for what in sys.argv[1:]:
    if what == "hosts":
        use_a_host_each()
    place = 0
    while True:
        more = one_round(TRAINERS[what], place)  # after which world().comm is another one
        if not any(world().gather(world().comm, more, "test")):
            break
        place += 1 + place // 12
    assert place > 10
    if rank == 0:
        print("ok", flush=True)
