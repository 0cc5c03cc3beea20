"""LocalSGD where ranks do unlike things, or the program writes parameters: local_sgd_unlike.py
[TEST ...], on two ranks. Rank 0 prints "ok" in the end."""

import sys

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.parallel import LocalSGD

rank, size = parallel.rank(), parallel.world_size()


def one(init=0, learning_rate=1.0, rule=dy.SimpleSGDTrainer, **settings):
    """A model of one number, and its trainer."""
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=init)
    return w, LocalSGD(rule(m, learning_rate), **settings)


def step(trainer, w, gradient=1.0, weight=None):
    dy.renew_cg()
    (w * float(gradient)).backward()
    return trainer.update(weight)


def value(w):
    return float(w.as_array()[0])


def everywhere(w, expected):
    """Whether all ranks have this value, to rounding, and the same bits."""
    every = parallel.gather(value(w))
    assert every == [every[0]] * size and np.isclose(every[0], expected), (every, expected)


def refusal(call, *arguments):
    """The message with which all ranks refuse a call; none may go on."""
    try:
        call(*arguments)
    except (RuntimeError, ValueError) as error:
        message = str(error)
    else:
        message = ""
    every = parallel.gather(message)
    assert all(every), every
    return message


# ---- construction ----------------------------------------------------------------------


def test_momentum_must_be_alike():
    m = dy.ParameterCollection()
    m.add_parameters(1)
    message = refusal(lambda: LocalSGD(dy.SimpleSGDTrainer(m), momentum=0.5 + 0.25 * rank))
    assert "momentum=0.5" in message and "momentum=0.75" in message, message


# ---- calls -----------------------------------------------------------------------------


def test_gradients_without_examples_are_discarded():
    w, trainer = one(every=3)
    step(trainer, w, 5, weight=rank)  # rank 0 has no example
    assert not w.has_gradient() and value(w) == -5.0 * rank
    step(trainer, w, 1, weight=1)
    trainer.average()
    everywhere(w, (-1 - 2 * 6) / 3)


def test_rank_that_catches_an_error_stays_in_step():
    """Also where the average is due: it takes part, and then has the error."""
    for bad in (0, 1):
        w, trainer = one(every=2)
        log = []
        for i in range(4):
            try:
                log.append(step(trainer, w, np.nan if rank == 1 and i == bad else 1))
            except RuntimeError as error:
                assert "Magnitude of gradient is bad" in str(error)
                trainer.collection.reset_gradients()
                log.append(None)
            if i % 2:
                everywhere(w, (-5 / 3, -11 / 3)[i // 2])
        expected = [False, True, False, True]
        if rank == 1:
            expected[bad] = None
        assert log == expected and trainer.position == 0, log


def test_steps_that_are_left_out_do_not_count():
    w, trainer = one(every=2)
    trainer.skip_nonfinite = True
    for gradient in (np.nan if rank == 1 else 1, 1):
        step(trainer, w, gradient)
    everywhere(w, -5 / 3)


# ---- moments ---------------------------------------------------------------------------


def test_only_moments_are_averaged():
    w, trainer = one(rule=dy.MomentumSGDTrainer, every=1, moments="average")
    schedule = dy.schedules.Plateau(trainer)
    schedule.step(3.0)
    before = schedule.state_dict()
    schedule.load_state_dict(here := {**before, "bad": 2 * rank})
    step(trainer, w, rank + 1)
    assert schedule.state_dict() == here
    assert np.isclose(trainer.inner.state()["v:/_0"], -1.5)


TESTS = [test for name, test in globals().items() if name.startswith("test_")]

if __name__ == "__main__":
    for test in TESTS:
        if not sys.argv[1:] or test.__name__ in sys.argv[1:]:
            test()
    parallel.barrier()
    if rank == 0:
        print("ok")
