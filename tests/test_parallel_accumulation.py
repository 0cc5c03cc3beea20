"""Accumulation and steps that are not finite, over ranks."""

import pytest
from jobs import mpirun, needs_mpi
from processes import HERE, run_python

import dist_dynet as dy
from dist_dynet import parallel


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_accumulation_over_ranks_is_one_large_batch(ranks):
    status, output, _ = mpirun(ranks, "accumulate.py")
    assert status == 0 and "ok" in output, output


def test_accumulation_in_one_process():
    result = run_python(str(HERE / "mpi" / "accumulate.py"))
    assert result.stdout == "ok\n", result.stderr


def test_weights_of_all_passes_count():
    """A batch that is empty in one pass, not in the other."""
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1.0), average="weighted")
    trainer.set_accumulation(2)
    dy.renew_cg()
    w.backward()
    trainer.update(2)
    trainer.update(0)
    assert w.as_array().tolist() == [-0.5]


def test_gradients_that_wait_are_scaled_however_often_others_were():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1), accumulate=2)
    for _ in range(40):  # the product of all factors is no number
        for number in range(2):
            dy.renew_cg()
            w.backward()
            w.scale_gradient(1e-10 if number else 1)
            trainer.update(1)  # its gradients are kept apart, since it has a weight
    assert abs(w.as_array()[0]) < 1e-8


def test_averages_and_files_take_the_wrapper(tmp_path):
    m = dy.ParameterCollection()
    w = m.add_parameters(1, name="w", init=1)
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1.0))
    average = dy.MovingAverage(trainer, decay=None)
    for _ in range(2):
        dy.renew_cg()
        w.backward()
        trainer.update()
    dy.save_safetensors(m, tmp_path / "a", trainer)
    with average.applied():
        assert w.as_array().tolist() == [-0.5]
    trainer.update()
    dy.load_safetensors(m, tmp_path / "a", trainer=trainer)
    assert trainer.updates == 2


def test_state_is_the_wrapped_trainers():
    m = dy.ParameterCollection()
    m.add_parameters(1, name="w")
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(m))
    schedule = dy.schedules.Constant(trainer, warmup=2)
    trainer.update()
    schedule.step()
    state = trainer.state()
    assert state["schedule:n"] == 1 and "m:/w" in state
    trainer.update()
    trainer.load_state(state)
    assert trainer.updates == 1
    trainer.update_subset([0], [])
    assert trainer.updates == 2
