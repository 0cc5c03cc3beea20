"""LocalSGD where ranks do unlike things, or the program writes parameters: local_sgd_unlike.py
[TEST ...], on two ranks. Rank 0 prints "ok" in the end."""

import shutil
import sys
import tempfile

import numpy as np
from raised import raises

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
    assert "with constants 0.5" in message and "with constants 0.75" in message, message


def test_excluded_from_decay_on_one_rank():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=1)
    trainer = LocalSGD(dy.AdamWTrainer(m), every=1)
    if rank == 1:
        trainer.inner.exclude_from_decay([w])
    message = refusal(step, trainer, w, 1)
    assert "all ranks must agree; AdamWTrainer" in message and "without decay" in message, message


def test_settings_inside_of_join_are_compared_of_the_ranks_that_go_on():
    w, trainer = one(every=2)

    def train(rates):
        with trainer.join():
            for batch in range(2 + 2 * rank + (rank == size - 1)):
                if batch in rates:
                    trainer.learning_rate = rates[batch]
                step(trainer, w, 1)

    train({2: 0.5, 4 + 2 * (size - 2): 0.25})  # of ranks that have ended nothing is asked
    message = refusal(train, {1: 0.5 + rank / 8})
    assert "settings of the wrapped trainer" in message, message


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


# ---- parameters that are added later ---------------------------------------------------


def test_parameters_that_are_added_later_keep_what_ranks_learn():
    """They begin with rank 0's values, and move by the mean of all."""
    w, trainer = one(every=2)
    step(trainer, w, 0)
    v = trainer.collection.add_parameters(1, init=5 + rank)
    step(trainer, v, 2 * rank + 1)
    everywhere(v, 5 - 2)
    u = trainer.collection.add_parameters(1, init=5 + rank)
    trainer.average()  # of nothing
    everywhere(u, 5)
    step(trainer, u, 2 * rank + 1)
    trainer.average()
    everywhere(u, 3)


# ---- what is compared ------------------------------------------------------------------


def test_ranks_that_train_on_different_data_are_refused():
    for differs in ({"seed": rank}, {"epoch": rank}, {"drop_last": bool(rank)}):
        w, trainer = one(every=2)
        batches = iter(parallel.shard(range(9), 2, **differs))
        next(batches)
        step(trainer, w)
        next(batches)
        message = refusal(step, trainer, w)
        assert "2 batches" in message and "data of 9 examples" in message, message
        assert (trainer.position, value(w)) == (2, -2)  # all is as it was
        batches.close()


def test_ranks_at_different_steps_are_refused():
    w, trainer = one(every=9)
    for batch in parallel.shard(range(8), 2):
        if batch.step == 2 + rank:
            break
        step(trainer, w)
    message = refusal(trainer.average)
    assert "2 batches" in message and "3 batches" in message, message


def test_settings_must_be_alike():
    for name, word in (("learning_rate", "learning rate 2"), ("every", "every=2")):
        w, trainer = one(every=9)
        setattr(trainer, name, 1 + rank)
        message = refusal(lambda t=trainer, p=w: (step(t, p), t.average()))
        assert word in message, message


def test_order_of_batches_must_be_alike():
    """Where the last is the same one."""
    w, trainer = one(every=3)
    shard = parallel.shard(range(12), 2, shuffle=False)
    batches = list(shard)
    order = (0, 1, 2) if rank else (1, 0, 2)
    for i in order[:2]:
        step(trainer, w, 1, batches[i])
    assert "all of them" in refusal(step, trainer, w, 1, batches[2])


def test_refusals_leave_all_as_it_was():
    """What is frozen on one rank alone."""
    w, trainer = one(every=9)
    trainer.collection.set_weight_decay(0.125)
    step(trainer, w, 1 - rank)
    before = value(w)
    w.set_updated(rank == 0)
    assert "/_0 frozen" in refusal(trainer.average)
    assert (value(w), trainer.position, w.has_gradient()) == (before, 1, False)
    assert trainer.collection.get_weight_decay() == 0.125 and w.is_updated() == (rank == 0)
    w.set_updated(True)
    trainer.average()
    everywhere(w, np.mean(parallel.gather(before)))


def test_gradients_that_wait_on_one_rank_are_refused_on_all():
    w, trainer = one(every=9)
    step(trainer, w)
    if rank == 1:
        dy.renew_cg()
        w.backward()
    assert "gradients wait to be applied on rank 1" in refusal(trainer.average)


def test_ranks_that_end_early_go_on_alike():
    """With the weight decay, the schedule and the rate of the rank with the most calls."""
    w, trainer = one(rule=dy.MomentumSGDTrainer, every=2)
    schedule = dy.schedules.Linear(trainer, steps=10)
    trainer.collection.set_weight_decay(0.25)
    with trainer.join():
        for _ in range(2 + 3 * rank):
            step(trainer, w)
            schedule.step()
    everywhere(w, value(w))
    assert trainer.learning_rate == 0.5 and schedule.steps_done == 5
    assert trainer.collection.get_weight_decay() == 0.25
    step(trainer, w)
    trainer.average()
    everywhere(w, value(w))


def test_trainers_that_set_their_own_rate():
    """Which depends on how many updates each rank has made."""
    w, trainer = one(rule=lambda m, rate: dy.CyclicalSGDTrainer(m, rate, 2, 2), every=4)
    for i in range(4):
        step(trainer, w, weight=float(i != 2 or rank == 0))
    everywhere(w, value(w))


def test_of_ranks_with_equally_many_calls_the_first_sets_the_rate():
    """Where it depends on how many updates each has made before."""
    w, trainer = one(rule=lambda m, rate: dy.CyclicalSGDTrainer(m, rate, 2, 2), every=2)
    for calls in (1 + rank, 2, 3 - rank):
        with trainer.join():
            for _ in range(calls):
                step(trainer, w)
        rates = parallel.gather(trainer.learning_rate)
        assert rates == [rates[0]] * size, rates
    everywhere(w, value(w))


# ---- what the program writes -----------------------------------------------------------


def test_what_the_program_writes_alike_is_no_training():
    """However far the ranks have come: before the first update, or after the last one."""
    for momentum in (0.0, 0.5):
        w, trainer = one(every=2, momentum=momentum)
        w.set_value([7.0])
        trainer.average()
        everywhere(w, 7)
        step(trainer, w)
        step(trainer, w)
        everywhere(w, 5)
        velocity = -2 * momentum
        w.scale(2)
        trainer.average()
        trainer.average()
        everywhere(w, 10)
        w.set_value([1.0])
        step(trainer, w)
        step(trainer, w)
        everywhere(w, 1 - 2 + velocity)
        velocity = (velocity - 2) * momentum
        step(trainer, w, rank + 1)
        w.set_value([3.0])
        trainer.average()
        everywhere(w, 3 + velocity)


def test_what_the_program_writes_while_it_trains_is_averaged():
    """A projection of each rank's own values, say."""
    w, trainer = one(every=2)
    step(trainer, w, rank + 1)
    w.scale(3)
    step(trainer, w)
    everywhere(w, -1.5 * 3 - 1)


def test_rows_that_the_program_writes_are_kept():
    m = dy.ParameterCollection()
    table = m.add_lookup_parameters((5, 2), init=0)
    table.init_from_array(np.zeros((5, 2)))
    trainer = LocalSGD(dy.SimpleSGDTrainer(m, 1.0), every=1, momentum=0.5)
    table.init_row(3, [7, 8])
    dy.renew_cg()
    dy.sum_elems(table[rank]).backward()
    trainer.update()
    assert table.as_array()[:, 0].tolist() == [-0.5, -0.5, 0, 7, 0]
    parallel.assert_in_sync(m)


def test_what_ranks_write_differently_is_refused():
    w, trainer = one(every=1)
    w.set_value([7.0 * rank])
    for call, expected in ((trainer.average, 7 * rank), (lambda: step(trainer, w), 7 * rank - 1)):
        message = refusal(call)
        assert 'has changed "/_0" between an average and the next update()' in message, message
        assert value(w) == expected
    parallel.broadcast_parameters(trainer.collection)
    trainer.average()
    everywhere(w, -1)


def test_changes_without_examples_are_refused_where_ranks_differ():
    w, trainer = one(every=9)
    step(trainer, w, weight=0)
    w.set_value([rank])
    assert "no update() has used an example" in refusal(trainer.average)


def test_updates_by_another_trainer_are_averaged():
    w, trainer = one(every=1)
    other = dy.SimpleSGDTrainer(trainer.collection, 1.0)
    dy.renew_cg()
    (w * (rank + 1.0)).backward()
    other.update()
    step(trainer, w)
    everywhere(w, -2.5)


def test_what_was_written_is_resumed():
    w, trainer = one(every=2, momentum=0.5)
    w.set_value([7.0])
    step(trainer, w)
    state = trainer.state()
    v, other = one(every=2, momentum=0.5)
    other.load_state(state)
    for p, t in ((w, trainer), (v, other)):
        step(t, p)
        everywhere(p, 5)
        step(t, p)
        step(t, p)
        everywhere(p, 2)


def resumed(trainer, **settings):
    """Another one that goes on from the state of this one, and this one from its own."""
    state = trainer.state()
    w, other = one(**settings)
    other.load_state(state)
    trainer.load_state(state)
    return w, other


def test_what_was_written_before_the_first_update_is_resumed_before_it():
    w, trainer = one(every=2, momentum=0.5)
    w.set_value([7.0])
    for p, t in ((w, trainer), resumed(trainer, every=2, momentum=0.5)):
        step(t, p)
        step(t, p)
        everywhere(p, 5)
        step(t, p)
        step(t, p)
        everywhere(p, 2)


def test_what_was_written_after_the_last_update_is_resumed():
    w, trainer = one(every=9, momentum=0.5)
    step(trainer, w)
    w.set_value([7.0])
    for p, t in ((w, trainer), resumed(trainer, every=9, momentum=0.5)):
        t.average()
        everywhere(p, 7)
        step(t, p)
        t.average()
        everywhere(p, 6)


def test_a_state_right_after_an_average_leaves_the_model_alone():
    """It has moments, settings and a schedule, as in one process; in the middle of a round, too."""
    w, trainer = one(every=1)
    step(trainer, w, rank + 1)
    v, other = one(init=7, every=1)
    other.load_state(trainer.state())
    everywhere(v, 7)
    step(other, v, rank + 1)
    everywhere(v, 5.5)
    u, third = one(init=3, every=2)
    step(third, u, rank + 1)
    third.load_state(other.state())
    step(third, u, rank + 1)
    everywhere(u, 0)


def test_rows_of_a_state_that_are_none_are_refused():
    w, trainer = one(every=9)
    step(trainer, w)
    w.set_value([7.0])
    state = trainer.state()
    (late,) = (name for name in state if name.startswith("late:"))
    assert state[late].tolist() == [0]
    for bad in ([1], [-1], [0.0], [[0]]):
        with raises(ValueError, match="rows kept of"):
            trainer.load_state({**state, late: np.array(bad)})
    everywhere(w, 7)


def test_checkpoints_of_an_average_hold_what_follows_it():
    """They are written in it: with the weight decay, the moments and the anchor of afterwards."""
    folder = parallel.gather(tempfile.mkdtemp() if rank == 0 else "")[0]

    def run(steps, saves=True):
        w, trainer = one(init=1, rule=dy.MomentumSGDTrainer, every=2, momentum=0.5, moments="reset")
        trainer.collection.set_weight_decay(0.25)
        if saves:
            checkpointer = parallel.Checkpointer(folder, trainer.collection, trainer.outer, every=2)
            checkpointer.add("local", trainer, per_rank=True)
            checkpointer.resume()
        while trainer.outer.updates < steps:
            step(trainer, w, rank + 1)
        return w

    expected = value(run(4, saves=False))
    run(2)
    everywhere(run(4), expected)
    if rank == 0:
        shutil.rmtree(folder)


# ---- moving averages -------------------------------------------------------------------


def test_moving_averages_follow_the_averages():
    w, trainer = one(every=2)
    average = dy.MovingAverage(trainer, decay=None)
    for _ in range(5):
        step(trainer, w, rank + 1)
    trainer.average()
    trainer.average()  # of nothing
    with average.applied():
        everywhere(w, -1.5 * (2 + 4 + 5) / 3)
        assert "swapped" in refusal(step, trainer, w)
        assert "swapped" in refusal(trainer.average)
    everywhere(w, -1.5 * 5)
    trainer.collection.reset_gradients()
    step(trainer, w)
    step(trainer, w)
    everywhere(w, -1.5 * 5 - 2)


def test_moving_averages_of_the_wrapped_trainer_are_refused():
    w, trainer = one(every=1)
    dy.MovingAverage(trainer.inner)
    for call in (lambda: step(trainer, w), lambda: LocalSGD(trainer.inner)):
        assert "MovingAverage must be of the LocalSGD" in refusal(call)
    assert value(w) == 0


TESTS = [test for name, test in globals().items() if name.startswith("test_")]

if __name__ == "__main__":
    for test in TESTS:
        if not sys.argv[1:] or test.__name__ in sys.argv[1:]:
            test()
    parallel.barrier()
    if rank == 0:
        print("ok")
