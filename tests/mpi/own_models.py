"""own_models.py: evaluate() of a model that is not the same on all of its ranks mixes results of
several ones. Rank 0 warns of it once for each reason: trainers of groups where comm= is missing,
LocalSGD between two averages, and trainers of one process that have come to unlike values. Where
all have one model nothing is said. Errors that come of a missing comm= name it. Four ranks; rank 0
prints "ok"."""

import gc
import warnings

from mpi4py import MPI
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._manner import manner

rank = parallel.rank()
pair = MPI.COMM_WORLD.Split(rank % 2)
DATA = [1.0, 2.0, 3.0, 4.0, 5.0]


class Model:
    """Trained by the trainer that wrap() makes."""

    def __init__(self, wrap, start=0.0):
        self.m = dy.ParameterCollection()
        self.w = self.m.add_parameters(1, init=start)
        self.trainer = wrap(dy.SimpleSGDTrainer(self.m, 0.1))

    def score(self, x):
        """Of an example."""
        dy.renew_cg()
        return (self.w * x).value()

    def step(self):
        """One call of update()."""
        dy.renew_cg()
        (self.w * (1.0 + rank)).backward()
        self.trainer.update()


def scores(model, data=DATA, **comm):
    """Evaluates it."""
    return parallel.evaluate(model.score, data, cost=None, **comm)


def said_of(model, **comm):
    """The one warning of evaluating it, on this rank; "" for none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores(model, **comm)
    assert all(warning.filename == __file__ for warning in caught)
    assert len(caught) <= 1
    return "".join(str(warning.message) for warning in caught)


def is_said(words, model):
    """By rank 0, once."""
    text = said_of(model)
    assert words in text if rank == 0 else not text, text
    assert said_of(model) == ""
    manner.said.clear()


GROUPS = "the trainers of this program are over fewer ranks"
UNLIKE = DATA[: 2 + rank % 2]


def of_groups(kind, comm):
    """Trainers of this kind over such groups."""
    mine = Model(lambda t: kind(t, comm=comm), start=rank % 2)
    assert said_of(mine, comm=comm) == ""
    is_said(GROUPS, mine)
    with raises(ValueError, match=f"the data must be the same.*{GROUPS}.*comm="):
        scores(mine, UNLIKE)
    with raises(RuntimeError, match=f"score must be the same.*{GROUPS}.*comm="):
        dy.training.Best(mine.m).update(rank % 2)
    with raises(RuntimeError, match=f"differ.*{GROUPS}.*comm="):
        parallel.assert_in_sync(mine.m)
    beside_another(mine)
    gc.collect()
    plain = Model(lambda t: t)
    if rank % 2 == 0:  # some ranks have none, as a master has none
        mine = None
    is_said(GROUPS, plain)
    mine = None
    assert said_of(plain) == ""


def beside_another(mine):
    """One that is over all ranks; nothing is known of which is scored."""
    both = Model(parallel.DistributedTrainer)
    assert said_of(both) == said_of(mine) == ""
    with raises(ValueError, match="the data must be the same") as caught:
        scores(both, UNLIKE)
    assert GROUPS not in str(caught.value)


for comm in (pair, MPI.COMM_SELF):
    for kind in (parallel.DistributedTrainer, parallel.LocalSGD):
        of_groups(kind, comm)

AVERAGE = "Call average() of the LocalSGD before"
local = Model(lambda t: parallel.LocalSGD(t, every=3))
ema = dy.MovingAverage(local.trainer)
assert said_of(local) == ""
for _ in range(3):
    local.step()
assert said_of(local) == ""  # it has averaged
local.step()
is_said(AVERAGE, local)
with ema.applied():
    assert said_of(local) == ""
local.trainer.average()
assert said_of(local) == ""

# trainers of one process, whose models are alike as long as ranks do the same
del local, ema
gc.collect()
plain = Model(lambda t: t)
assert said_of(plain) == ""
for start in 0, rank:
    plain.w.set_value([start])
    assert said_of(plain) == ""  # it is not trained
searched = Model(lambda t: t)
for _ in range(2):
    dy.renew_cg()
    (searched.w * 1.0).backward()
    searched.trainer.update()
    assert said_of(searched) == ""
searched.step()
is_said("rainers of one process", searched)
both = Model(parallel.DistributedTrainer)
assert said_of(both) == ""
del both, searched
assert said_of(plain) == ""


def outlived():
    """A trainer whose wrapper is gone, on one rank."""
    m = dy.ParameterCollection()
    m.add_parameters(1, init=0)
    inner = dy.SimpleSGDTrainer(m)
    over = parallel.DistributedTrainer(inner)
    over.update()
    return (m, inner) if rank == 0 else None


kept = outlived()
gc.collect()
assert said_of(plain) == ""
local = Model(lambda t: parallel.LocalSGD(t, every=3))
alone = Model(lambda t: parallel.LocalSGD(t, every=3, comm=MPI.COMM_SELF))
alone.step()
assert said_of(local) == ""
if rank == 0:
    print("ok")
