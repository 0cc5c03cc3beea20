"""Everything that a trainer's constructor takes is compared between the ranks: constants.py.

Whatever rank 1 gives another value for is refused on all ranks; the learning rate at the first
update. Rank 0 prints "ok".
"""

import inspect
import sys
from pathlib import Path

from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

sys.path.insert(0, str(Path(__file__).parents[1]))
import table_trainers

rank, size = parallel.rank(), parallel.world_size()
RATES = ("alpha", "learning_rate")


def make(cls, name=None):
    """A trainer of this class with another value for this argument on rank 1, and its parameter."""
    m = dy.ParameterCollection()
    p, _ = m.add_parameters(2, init=0.5, name="p"), m.add_parameters(2, init=0.5, name="q")
    given = {}
    if rank == 1 and name == "no_decay":
        given = {name: [p]}
    elif rank == 1 and name is not None:
        default = inspect.signature(cls).parameters[name].default
        given = {name: 0.02 if default is None else default / 2}
    return p, cls(m, **given)


for wrapper in (parallel.DistributedTrainer, parallel.LocalSGD):
    for cls in (getattr(dy, name) for name in table_trainers.TRAINERS):
        wrapper(make(cls)[1])
        names = [*inspect.signature(cls).parameters][1:]
        for name in names:
            p, trainer = make(cls, name)
            if name in RATES and wrapper is parallel.LocalSGD:
                continue
            if name in RATES:
                together = wrapper(trainer)
                dy.renew_cg()
                dy.pick(p, 0).backward()
                with raises(RuntimeError, match="all ranks must agree; learning rate"):
                    together.update()
                continue
            with raises(RuntimeError, match=f"all ranks must agree; {cls.__name__}"):
                wrapper(trainer)

# a parameter's own precision
m = dy.ParameterCollection()
m.add_parameters((2, 2), name="W").set_precision("float32" if rank == 1 else None)
with raises(RuntimeError, match=r"shape and precision.*with precision 'float32'"):
    parallel.DistributedTrainer(dy.SimpleSGDTrainer(m))
with raises(RuntimeError, match=r"shape and precision.*with precision 'float32'"):
    parallel.assert_in_sync(m)
assert parallel.all_reduce(1) == size
if rank == 0:
    print("ok")
