"""For the exchanges' programs: parameters, gradients and trainers whose values are easily known,
and how tests are run."""

import os

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.parallel.processes import session


def model_of(*shapes, tables=()):
    """A collection with these parameters and tables, all of 0.5."""
    m = dy.ParameterCollection()
    dense = [m.add_parameters(shape, init=0.5) for shape in shapes]
    return (
        m,
        dense,
        [m.add_lookup_parameters(shape, init=dy.ConstInitializer(0.5)) for shape in tables],
    )


def step(*parameters, by=1.0):
    """A backward pass whose gradient of each of the parameters is `by` everywhere."""
    dy.renew_cg()
    dy.esum([dy.sum_elems(p) * by for p in parameters]).backward()


def distributed(m, average="mean", engine=None, **options):
    """A trainer that subtracts the averaged gradient, by this exchange."""
    if engine is not None:
        use_engine(engine)
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1.0), average, **options)
    trainer.set_clip_threshold(0)
    return trainer


def use_engine(name):
    """Trainers that are made from now on exchange in this way: one of DIST_DYNET_EXCHANGE; or
    "hosts", where each rank counts as alone on its host."""
    if name == "hosts":
        use_a_host_each()
    os.environ["DIST_DYNET_EXCHANGE"] = "auto" if name == "hosts" else name


def use_a_host_each():
    """From now on each rank counts as alone on its host."""
    session.world().layout = [[rank] for rank in range(parallel.world_size())]


def run(tests, names):
    """Those of these names, one after the other; rank 0 prints "ok" for each."""
    for name in names:
        tests[f"test_{name}"]()
        if name != names[-1]:
            parallel.barrier()
        if parallel.rank() == 0:
            print("ok", flush=True)
