"""Updates in which something fails: the model, averages and other followers agree on how many there
have been.

How long: a few seconds.
"""

import numpy as np
import pytest
from processes import output_of
from test_graph import close

import dist_dynet as dy
from dist_dynet.trainers.hooks import Hooks

TRAINERS = {
    "plain": dy.CyclicalSGDTrainer,
    "distributed": lambda m: dy.parallel.DistributedTrainer(dy.CyclicalSGDTrainer(m)),
}


def averaged(trainer_of, failing=lambda calls: False):
    """Everything after some updates, in some of which a follower fails; and how many have."""
    m, calls, failures = dy.ParameterCollection(), 0, 0
    w, trainer = m.add_parameters(2, init=0), trainer_of(m)

    class Failing:
        def update(self):
            nonlocal calls
            calls += 1
            if failing(calls):
                raise MemoryError

    def follow(follower):
        Hooks(getattr(getattr(trainer, "outer", trainer), "inner", trainer)).follow(follower)

    averages = [dy.MovingAverage(trainer)]
    follow(Failing())
    averages.append(dy.MovingAverage(trainer, decay=None))
    for k in range(5):
        if k == 3:
            m.add_parameters(1, init=1)
        w.set_gradient([k, 1])
        try:
            trainer.update()
        except MemoryError:
            failures += 1
    everything = trainer.state()
    for k, average in enumerate(averages):
        everything |= {f"{k} {name}": a for name, a in average.state().items()}
    return {name: np.asarray(a).tolist() for name, a in everything.items()}, w.value(), failures


@pytest.mark.parametrize("trainer_of", TRAINERS.values(), ids=TRAINERS)
def test_followers_know_each_update_whatever_one_of_them_raises(trainer_of):
    *want, _ = averaged(trainer_of)
    *got, failures = averaged(trainer_of, lambda calls: calls in (1, 3, 7))
    assert got == want and failures == 3


@pytest.mark.parametrize("trainer_of", TRAINERS.values(), ids=TRAINERS)
def test_update_with_averages_swapped_in_changes_nothing(trainer_of):
    m = dy.ParameterCollection()
    w, trainer = m.add_parameters(1, init=0), trainer_of(m)
    average = dy.MovingAverage(trainer)
    w.set_gradient([1])
    trainer.update()
    before, value = trainer.state(), w.as_array()
    with average.applied():
        w.set_gradient([1])
        with pytest.raises(RuntimeError, match=r"swapped in\. Call swap_out"):
            trainer.update()
    assert (w.as_array() == value).all()
    assert {k: v.tolist() for k, v in trainer.state().items()} == {
        k: v.tolist() for k, v in before.items()
    }


NO_MEMORY = """
import gc
import numpy as np
import _testcapi
import dist_dynet as dy

wrapped = WRAPPED
m = dy.ParameterCollection()
w, table = m.add_parameters(3, init=0), m.add_lookup_parameters((4, 2), init=0)
trainer = wrapped(m)
average, values = dy.MovingAverage(trainer, decay=None), []
gc.disable()
gradient, place, failures = np.ones(3), 0, 0
while failures == place:
    if place % 20 == 0:
        m.add_parameters(1)
    w.set_gradient(gradient)
    done, failed = trainer.updates, False
    _testcapi.set_nomemory(place, place + 1)
    try:
        trainer.update()
    except MemoryError:
        failed = True
    finally:
        _testcapi.remove_mem_hooks()
    failures += failed
    place += 1
    now = trainer.updates
    assert now - done in (0, 1) and (failed or now > done), place
    if now > done:
        values.append(w.as_array())
    trainer.state()
    state = average.state()
    assert state["averaged"] == now == len(values), (place, now, state)
    if values:
        np.testing.assert_allclose(state["average:/_0"], np.mean(values, axis=0), rtol=1e-5)
print(place)
"""


@pytest.mark.parametrize(
    "wrapped",
    [
        "lambda m: dy.AdamTrainer(m)",
        "lambda m: dy.parallel.DistributedTrainer(dy.AdamTrainer(m))",
    ],
)
def test_no_memory_at_any_place_of_an_update_loses_no_average(wrapped):
    pytest.importorskip("_testcapi", reason="this Python has no hooks for its memory")
    assert int(output_of(NO_MEMORY.replace("WRAPPED", wrapped))) > 10


def test_error_in_the_middle_of_training_leaves_all_usable():
    m = dy.ParameterCollection()
    w, trainer = m.add_parameters(3, init=1), dy.SimpleSGDTrainer(m, 0.1)
    for i in range(5):
        dy.renew_cg()
        try:
            y = w * (2 if i != 2 else dy.zeros(5))
            dy.sum_elems(y).backward()
            trainer.update()
        except ValueError as error:
            assert i == 2 and "matmul" in str(error)
    close(w.as_array(), 1 - 4 * 0.2)
