"""Exceptions that one rank alone has in a collective operation, and catches: all ranks hear of it
and stay in step, or the rank is refused. Rank 0 prints "ok" (two ranks)."""

import threading

import numpy as np
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

rank, size = parallel.rank(), parallel.world_size()
bad = rank == 1


def broken(x):
    return threading.Lock() if bad else x


def fails(*args):
    raise KeyError("no such example")


m = dy.ParameterCollection()
m.add_parameters(2)
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m))
WAYS = {  # what fails on rank 1: its exception there, and elsewhere
    "all_reduce of no number": (
        lambda: parallel.all_reduce(None if bad else 1.0),
        TypeError,
        ValueError,
    ),
    "all_reduce by no operation": (
        lambda: parallel.all_reduce(1.0, "median" if bad else "sum"),
        ValueError,
        ValueError,
    ),
    "gather": (
        lambda: parallel.gather((lambda: 1) if bad else 1),
        (AttributeError, TypeError, parallel.data.collectives.pickle.PicklingError),
        RuntimeError,
    ),
    "evaluate: results": (lambda: parallel.evaluate(broken, range(4)), TypeError, RuntimeError),
    "evaluate: fn": (
        lambda: parallel.evaluate(fails if bad else int, range(4)),
        KeyError,
        RuntimeError,
    ),
    "evaluate: update in fn": (
        lambda: parallel.evaluate(lambda _: trainer.update(1) if bad else 0, range(4)),
        RuntimeError,
        RuntimeError,
    ),
    "evaluate: data": (
        lambda: parallel.evaluate(int, (fails() for _ in range(4)) if bad else range(4)),
        KeyError,
        RuntimeError,
    ),
    "evaluate: cost": (
        lambda: parallel.evaluate(int, range(4), cost=fails if bad else None),
        KeyError,
        RuntimeError,
    ),
}
for what, (call, here, there) in WAYS.items():
    with raises(here if bad else there) as caught:
        call()
    assert bad or "on rank 1" in str(caught.value), (what, caught.value)
    assert parallel.all_reduce(10.0) == 10 * size, what
    assert parallel.gather(rank) == [*range(size)], what

# the same on all ranks: each has its own exception
for value, kind in ((None, TypeError), ("a", TypeError)):
    with raises(kind):
        parallel.all_reduce(value)
with raises(ValueError, match="op must be one of"):
    parallel.all_reduce(1, "median")
assert parallel.all_reduce(1) == size

# integers: no sum overflows in silence
assert parallel.all_reduce(np.array([200], np.uint8), "mean").tolist() == [200.0]
assert parallel.all_reduce(np.array([200], np.uint8)).tolist() == [200 * size]
assert parallel.all_reduce(np.array([-128], np.int8), "prod").tolist() == [(-128) ** size]
assert parallel.all_reduce(2**62, "mean") == 2.0**62
assert parallel.all_reduce(2**62 if rank else -(2**62)) == 0
assert parallel.all_reduce((2**63 - 1) // size) == (2**63 - 1) // size * size
assert parallel.all_reduce(np.array([2**63 // size], np.uint64)).tolist() == [2**63]
for value, op in (
    (2**62, "sum"),
    (-(2**62) - 1, "sum"),
    (2**32, "prod"),
    (2**63, "sum"),
    (np.array([1, 2**63 - 1, 0]), "sum"),
    (np.array([[2**60]]), "prod"),
):
    with raises(OverflowError, match=rf"all_reduce {op} .* must fit into u?int64"):
        parallel.all_reduce(value, op)
    assert parallel.all_reduce(1) == size

# updates by what is no weight
w = m.parameters_list()[0]
for accumulate in (1, 2):
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1), accumulate=accumulate)
    before = w.as_array()
    for wrong in ("x", -1, float("nan"), None):
        for _ in range(accumulate):
            dy.renew_cg()
            dy.sum_elems(w).backward()
            if wrong is None:
                trainer.update(2)
                continue
            words = "the weight must be a number" if bad else "on rank 1 it is not known which"
            with raises(RuntimeError, match=words):
                trainer.update(wrong if bad else 1)
            m.reset_gradients()
    assert trainer.updates == 1 and np.allclose(w.as_array(), before - 1, atol=1e-5)
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1), average="sum")
trainer.update()
if bad:
    with raises(ValueError, match="nothing is weighted"):
        trainer.update(2)
    with raises(RuntimeError, match="this rank is out of step"):
        trainer.update()

# what only this rank knows to have left
if bad:

    def interrupted(x):
        raise KeyboardInterrupt

    with raises(KeyboardInterrupt):
        parallel.evaluate(interrupted, range(4))
    with raises(RuntimeError, match="evaluate was interrupted, so that this rank is out of"):
        parallel.all_reduce(1)
    parallel.data.collectives.world().mark_out_of_step("")  # as if it had not been
    parallel.gather(((4, 0, 0), b"", "left"))
else:
    with raises(RuntimeError, match="on rank 1 it has raised left"):
        parallel.evaluate(int, range(4))
assert parallel.all_reduce(1) == size
if rank == 0:
    print("ok")
