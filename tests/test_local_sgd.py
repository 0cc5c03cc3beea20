"""LocalSGD: alone it is the wrapped trainer; mpi/local_sgd.py has what several ranks do. How long:
seconds, some twenty with MPI."""

import numpy as np
import pytest
from jobs import mpirun, needs_mpi

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.trainers.hooks import Hooks


def trained(wrap, rng):
    m = dy.ParameterCollection()
    W, E = m.add_parameters((4, 3), init=0.5), m.add_lookup_parameters((9, 3), init=0.25)
    trainer = wrap(dy.AdamTrainer(m))
    for i in rng.integers(0, 9, 7).tolist():
        dy.renew_cg()
        dy.squared_norm(W * E[i]).backward()
        trainer.update()
    return np.concatenate([W.as_array().ravel(), E.as_array().ravel()])


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_one_rank_is_the_wrapped_trainer(momentum):
    ends = [
        trained(wrap, np.random.default_rng(1))
        for wrap in (
            lambda trainer: trainer,
            lambda trainer: parallel.LocalSGD(trainer, every=2, momentum=momentum),
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
    assert np.allclose(w.as_array(), -2.9) and trainer.updates == 2


def test_moving_averages_follow_the_averages():
    """As with several ranks."""
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)
    trainer = parallel.LocalSGD(dy.SimpleSGDTrainer(m, 1), every=2)
    average = dy.MovingAverage(trainer, decay=None)
    for _ in range(5):
        dy.renew_cg()
        w.backward()
        trainer.update()
    trainer.average()
    trainer.average()  # of nothing
    with average.applied():
        assert np.allclose(w.as_array(), -(2 + 4 + 5) / 3)
        with pytest.raises(RuntimeError, match="swapped in"):
            trainer.update()


def test_ctrl_c_behind_an_update_leaves_the_average_to_the_next_call():
    m = dy.ParameterCollection()
    w, inner = m.add_parameters(1, init=0), dy.SimpleSGDTrainer(m, 1)
    trainer = parallel.LocalSGD(inner, every=1)

    class Interrupts:
        def update(self):
            if inner.updates == 1:
                raise KeyboardInterrupt

    Hooks(inner).follow(Interrupts())
    w.set_gradient([1])
    with pytest.raises(KeyboardInterrupt):
        trainer.update()
    assert (inner.updates, trainer.position, w.value()) == (1, 1, -1)


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
    for arguments, message in (
        ({"every": 0}, "every must be 1 or more; got 0"),
        ({"momentum": 1}, "momentum must be at least 0 and below 1; got 1"),
        ({"moments": "none"}, "moments must be local, average or reset; got 'none'"),
        ({"compression": "zip"}, "compression must be None or 'bf16'; got 'zip'"),
    ):
        with pytest.raises(ValueError, match=message):
            parallel.LocalSGD(dy.AdamTrainer(m), **arguments)
    with pytest.raises(TypeError, match="takes a trainer such as AdamTrainer"):
        parallel.LocalSGD(m)
    trainer = parallel.LocalSGD(dy.AdamTrainer(m))
    with pytest.raises(ValueError, match="the weight"):
        trainer.update(-1)
    with pytest.raises(RuntimeError, match="takes no micro-batches"):
        trainer.update(next(iter(parallel.shard([1, 2], 2, micro_batches=2))))
    trainer.inner.set_accumulation(2)
    dy.renew_cg()
    dy.squared_norm(w).backward()
    with pytest.raises(RuntimeError, match="takes no part in accumulation; got set_accumul"):
        trainer.update()


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("layout", ["ab", "aab"])
def test_several_ranks(layout, tmp_path):
    status, output, _ = mpirun(len(layout), "as_hosts.py", layout, "local_sgd.py", tmp_path)
    assert (status, output) == (0, "ok\n")


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("layout", ["aa", "ab"])
def test_ranks_that_do_unlike_things(layout):
    status, output, _ = mpirun(
        2, "as_hosts.py", layout, "local_sgd_unlike.py", DIST_DYNET_DTYPE="float64"
    )
    assert (status, output) == (0, "ok\n")


@pytest.mark.mpi
@needs_mpi
def test_rank_that_fails_is_named(tmp_path):
    status, output, _ = mpirun(2, "local_sgd.py", tmp_path, "nan")
    assert status and "rank 1" in output and "Magnitude of gradient is bad: nan" in output
