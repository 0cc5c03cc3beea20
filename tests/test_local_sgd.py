"""LocalSGD: alone it is the wrapped trainer; mpi/local_sgd.py has what several ranks do. How long:
seconds, some twenty with MPI."""

import numpy as np
import pytest
from jobs import mpirun, needs_mpi

import dist_dynet as dy
from dist_dynet import parallel


def trained(wrap, rng):
    m = dy.ParameterCollection()
    W, E = m.add_parameters((4, 3), init=0.5), m.add_lookup_parameters((9, 3), init=0.25)
    trainer = wrap(dy.AdamTrainer(m))
    for i in rng.integers(0, 9, 7).tolist():
        dy.renew_cg()
        dy.squared_norm(W * E[i]).backward()
        trainer.update()
    return np.concatenate([W.as_array().ravel(), E.as_array().ravel()])


def test_one_rank_is_the_wrapped_trainer():
    ends = [
        trained(wrap, np.random.default_rng(1))
        for wrap in (
            lambda trainer: trainer,
            lambda trainer: parallel.LocalSGD(trainer, every=2),
        )
    ]
    assert np.array_equal(*ends)


def test_gradients_without_examples_are_discarded():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)
    trainer = parallel.LocalSGD(dy.MomentumSGDTrainer(m, 1))
    for n in (1, 0, 1):
        dy.renew_cg()
        w.backward()
        trainer.update(n)
    assert np.allclose(w.as_array(), -2.9) and trainer.inner.updates == 2 and trainer.updates == 3


def test_moving_averages_are_of_the_collection():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)
    trainer = parallel.LocalSGD(dy.SimpleSGDTrainer(m, 1), every=2)
    average = dy.MovingAverage(m, decay=None)
    for _ in range(4):
        w.set_gradient([1])
        if trainer.update():
            average.update()
    with average.applied():
        assert np.allclose(w.as_array(), -(2 + 4) / 2)
    follows = dy.MovingAverage(trainer)
    w.set_gradient([1])
    with pytest.raises(RuntimeError, match=r"Make it of the collection, average = MovingAver"):
        trainer.update()
    assert follows


def test_run_logs_one_rank(tmp_path):
    m = dy.ParameterCollection()
    trainer = parallel.LocalSGD(dy.SimpleSGDTrainer(m))
    run = dy.training.Run(trainer, str(tmp_path / "metrics.jsonl"))
    for _ in run.epoch(parallel.shard([1], 1)):
        run.log(loss=2)
        trainer.update()
    assert run.means() == {"loss": 2}


def test_arguments_are_checked():
    m = dy.ParameterCollection()
    w = m.add_parameters(2)
    for arguments, message in (({"every": 0}, "every must be 1 or more; got 0"),):
        with pytest.raises(ValueError, match=message):
            parallel.LocalSGD(dy.AdamTrainer(m), **arguments)
    with pytest.raises(TypeError, match="takes a trainer such as AdamTrainer"):
        parallel.LocalSGD(m)
    trainer = parallel.LocalSGD(dy.AdamTrainer(m))
    with pytest.raises(ValueError, match="the weight"):
        trainer.update(-1)
    with pytest.raises(RuntimeError, match="neither accumulation nor micro-batches"):
        trainer.update(next(iter(parallel.shard([1, 2], 2, micro_batches=2))))
    trainer.inner.set_accumulation(2)
    dy.renew_cg()
    dy.squared_norm(w).backward()
    with pytest.raises(RuntimeError, match="neither accumulation nor micro"):
        trainer.update()


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_several_ranks(ranks, tmp_path):
    status, output, _ = mpirun(ranks, "local_sgd.py", tmp_path)
    assert (status, output) == (0, "ok\n")
